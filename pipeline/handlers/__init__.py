"""What a user writes, and one run of it."""
