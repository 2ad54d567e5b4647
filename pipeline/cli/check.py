"""`queue-runtime check FILE`: is the configuration right, and what does it come to?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pipeline.cli.common import DONE, add_config, open_checked, say
from pipeline.config import resolved

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "check",
        help="check a configuration and show what it comes to",
        description="Check a configuration and everything it names, and write it out with every "
        "key's value; what looks like a secret is masked. It connects to nothing and needs no Ray.",
    )
    add_config(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    checked = open_checked(arguments.config)
    say(resolved(checked.config))
    return DONE
