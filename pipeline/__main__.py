"""`queue-runtime`, the same as `python -m pipeline`: reads the command line and runs one command.

The commands raise; here an error becomes one message and an exit code: 1 when it failed, 2 when the
command or the configuration is wrong, 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.cli import COMMANDS
from pipeline.cli.common import FAILED, INTERRUPTED, complain, exit_code
from pipeline.config.secrets import masked
from pipeline.errors import ConfigurationError, QueueError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments after the program's name; None takes those of the process.

    Returns:
        The exit code. Nothing is raised but what ends the process at once.

    Example:
        >>> main(["check", "no-such-file.yaml"])
        2
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a letter stops no command
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser().parse_args(argv)
    except SystemExit as ended:  # argparse has said what is wrong, or shown the help
        return ended.code if isinstance(ended.code, int) else FAILED
    # A handler's module lies beside the configuration as a rule; `python -m` looks there too.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    debug = arguments.debug or os.environ.get("QR_DEBUG") == "1"
    try:
        code: int = import_module(f"pipeline.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Who reads our output has gone (`… | head`): that is its decision, and no error to report.
        # The interpreter flushes once more at the end, into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001 - the last place that can make a message of it
        return _failed(error, debug=debug)
    return code


def _failed(error: Exception, *, debug: bool) -> int:
    if debug:
        sys.stderr.write(masked("".join(traceback.format_exception(error))))
    if isinstance(error, QueueError):
        # A configuration's errors were masked where they were made, by key; doing it again by the
        # look of the text would take the word after `…password:` for a password.
        told = str(error)
        complain(f"error: {told if isinstance(error, ConfigurationError) else masked(told)}")
        return exit_code(error)
    told = masked(f"{type(error).__name__}: {error}")
    complain(f"error: unexpected {told} (with --debug the traceback shows)")
    return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="queue-runtime",
        description="Messages from a queue through Ray actors, in order, with state.",
    )
    parser.add_argument("--version", action="version", version=f"queue-runtime {_version()}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        import_module(f"pipeline.cli.{command}").add(subparsers)
    for subparser in subparsers.choices.values():  # so that it may stand behind the command, too
        subparser.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
    return parser


def _version() -> str:
    try:
        return version("queue-runtime")
    except PackageNotFoundError:  # the working directory of a Ray job: shipped, not installed
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
