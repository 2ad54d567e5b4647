"""The command line: one file a command, each with `add(subparsers)` and `run(arguments) -> int`."""

COMMANDS = ("run", "check", "send", "status", "drain", "state", "keys")
"""The commands, in the order the help shows them: `pipeline.cli.<name>` for each."""
