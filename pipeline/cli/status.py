"""`queue-runtime status FILE`: the figures of an active run."""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import TYPE_CHECKING, Any

from pipeline.cli.cluster import add_address, attach
from pipeline.cli.common import DONE, FAILED, add_config, say
from pipeline.config import RuntimeConfig, load

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "status",
        help="show what an active run does",
        description="Show the last figures of an active run. Exit code 0 when it is ready, else 1.",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="write them as one JSON line")
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    figures = asyncio.run(_figures(config, arguments.address))
    if arguments.json:
        say(json.dumps(figures))
    else:
        _tell(figures)
    return DONE if figures.get("ready") else FAILED


async def _figures(config: RuntimeConfig, address: str | None) -> dict[str, Any]:
    async with attach(config, address) as attached:
        return await attached.figures()


def _tell(figures: dict[str, Any]) -> None:
    ready = "ready" if figures.get("ready") else f"not ready {figures.get('reason', '')}".strip()
    say(f"{figures['name']}: {ready}")
    for name, pipeline in figures.get("pipelines", {}).items():
        receivers = pipeline["receivers"]
        say(
            f"  {name}: completed {receivers.get('completed', 0):,}, "
            f"in flight {receivers.get('in_hand', 0):,}, backlog {pipeline['backlog']}, "
            f"dead-lettered {receivers.get('dead_lettered', 0):,}, "
            f"p50 {pipeline['p50_ms']} ms, p99 {pipeline['p99_ms']} ms"
        )
