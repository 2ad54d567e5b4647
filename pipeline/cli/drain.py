"""`queue-runtime drain FILE`: ask an active run to stop, and wait until it has."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from pipeline.cli.cluster import add_address, attach
from pipeline.cli.common import DONE, add_config, say
from pipeline.config import RuntimeConfig, load

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "drain",
        help="stop an active run: running messages finish, the rest is given back",
        description="Ask an active run to stop as SIGTERM does, and wait until it is gone.",
    )
    add_config(parser)
    parser.add_argument("--no-wait", action="store_true", help="ask, and don't wait")
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    asyncio.run(_drain(config, arguments.address, wait=not arguments.no_wait))
    say(f"{config.name} {'was asked to drain' if arguments.no_wait else 'has drained'}")
    return DONE


async def _drain(config: RuntimeConfig, address: str | None, *, wait: bool) -> None:
    async with attach(config, address) as attached:
        await attached.drain(wait=wait)
