"""`queue-runtime status FILE`: how a run is doing."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.cli import addresses, cluster
from pipeline.cli.common import DONE, FAILED, add_config, say
from pipeline.config import load

if TYPE_CHECKING:
    from actors.attach import Attached
    from pipeline.cli.common import Subparsers


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "status",
        help="show how a run is doing",
        description="Show the figures of a run that is active on this machine or at --address. "
        "Exit code 0 when it is ready, 1 when it is not.",
    )
    add_config(parser)
    add_address(parser)
    parser.add_argument("--json", action="store_true", help="write it as one JSON line")


def add_address(parser: argparse.ArgumentParser) -> None:
    """Give a command its way to a run."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the Ray cluster of the run; unset: RAY_ADDRESS, else the one on this machine",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    where = addresses.find(config.name, arguments.address)
    figures = asyncio.run(_figures(cluster.attached(config, where)))
    say(json.dumps(figures) if arguments.json else _text(figures))
    return DONE if figures.get("ready") else FAILED


async def _figures(run: Attached) -> dict[str, Any]:
    async with run:
        return await run.figures()


def _text(figures: dict[str, Any]) -> str:
    word = "ready" if figures.get("ready") else "not ready"
    reason = figures.get("reason")
    lines = [f"{figures['name']}: {word}{f': {reason}' if reason else ''}"]
    for name, breakers in figures.get("connections", {}).items():
        lines += [
            f"  connection {name}: {direction}: the circuit breaker is "
            f"{breaker['state'].replace('_', '-')} since {_moment(breaker['since'])}"
            for direction, breaker in breakers.items()
            if breaker["since"] is not None
        ]
    for name, pipeline in figures.get("pipelines", {}).items():
        receivers, handlers = pipeline["receivers"], pipeline["handlers"]
        backlog = pipeline["backlog"]
        expired = receivers.get("expired", 0)
        lines.append(
            f"  {name}: {receivers.get('completed', 0):,} completed, "
            f"{receivers.get('dead_lettered', 0):,} dead-lettered, "
            f"{f'{expired:,} expired, ' if expired else ''}"
            f"{handlers.get('failed', 0):,} failures, "
            f"{_bodies(receivers)}"
            f"backlog {'?' if backlog is None else f'{backlog:,}'}, "
            f"in flight {receivers.get('in_hand', 0):,}, "
            f"actors replaced {pipeline['replaced']:,}, "
            f"median {pipeline['p50_ms']:,} ms, 99 % within {pipeline['p99_ms']:,} ms"
        )
    return "\n".join(lines)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _bodies(receivers: Mapping[str, int]) -> str:
    """How bodies came, where cryptography is on."""
    if "sealed" not in receivers:
        return ""
    return (
        f"{receivers['sealed']:,} sealed, {receivers['plain']:,} plain, "
        f"{receivers['refused']:,} refused, "
    )
