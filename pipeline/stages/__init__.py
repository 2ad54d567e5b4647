"""The core of each actor: plain classes that take their callers, time and chance as arguments."""
