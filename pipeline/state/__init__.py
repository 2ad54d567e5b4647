"""Where a handler's state is kept, and the record of what was applied."""
