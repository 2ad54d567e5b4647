"""The message services: one port, and a package for each that implements it."""
