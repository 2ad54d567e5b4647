"""`queue-runtime drain FILE`: ask a run to finish what it has begun and end."""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from pipeline.cli import addresses, cluster
from pipeline.cli.common import DONE, add_config, say
from pipeline.cli.status import add_address
from pipeline.config import load

if TYPE_CHECKING:
    from actors.attach import Attached
    from pipeline.cli.common import Subparsers

_LOOK = 0.2


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "drain",
        help="end a run when it has finished what it began",
        description="Ask a run to drain, and wait until it has ended.",
    )
    add_config(parser)
    add_address(parser)
    parser.add_argument("--no-wait", action="store_true", help="do not wait until it has ended")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    where = addresses.find(config.name, arguments.address)
    asyncio.run(_drain(cluster.attached(config, where), config.name, wait=not arguments.no_wait))
    say(f"{config.name} {'was asked to drain' if arguments.no_wait else 'has drained'}")
    return DONE


async def _drain(run: Attached, name: str, *, wait: bool) -> None:
    async with run:
        figures = await run.figures()
        while "pid" not in figures:  # it is still starting
            await asyncio.sleep(_LOOK)
            figures = await run.figures()
        own = figures["own_cluster"]
        await run.drain(wait=wait and not own)
    # A run that started its own Ray, on this machine, takes it with it, and with that every process
    # that is still joined: so this one has left first.
    while wait and own and _there(name, figures["pid"]):  # noqa: ASYNC110 - another process
        await asyncio.sleep(_LOOK)


def _there(name: str, pid: int) -> bool:
    """Whether a run goes on. Its process may be there for longer, until its parent asks for it."""
    found = addresses.announced(name)
    return found is not None and found.pid == pid
