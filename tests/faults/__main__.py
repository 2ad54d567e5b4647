"""The soak: flights after flights, killed at random moments, for as long as one has patience."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from actors.runtime import Runtime
from tests.faults.flights import Ending, flying
from tests.faults.killing import MOMENTS, kill
from tests.rays import own_ray

_COUNT = 200_000
_STOPPED = 0.15
"""The share of processes that are stopped (SIGSTOP) instead of killed."""


def main() -> int:
    """Run it; exit code 1 when a round came out wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="for how long")
    parser.add_argument("--seed", type=int, default=0, help="of the choices")
    arguments = parser.parse_args()
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    chance = random.Random(arguments.seed)
    end = time.monotonic() + arguments.seconds
    number = 0
    while time.monotonic() < end:
        ending, struck = _round(chance, number)
        number += 1
        told = {
            "round": number,
            "seed": arguments.seed,
            "sent": ending.sent,
            "handlings": ending.handled.handlings,
            "replaced": ending.replaced,
            "struck": dict(struck),
            "wrong": ending.wrong[:10],
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        if ending.wrong:
            return 1
    return 0


def _round(chance: random.Random, number: int) -> tuple[Ending, Counter[str]]:
    memory, level = 300_000_000, logging.ERROR
    with (
        tempfile.TemporaryDirectory() as directory,
        own_ray(object_store_memory=memory, logging_level=level),
    ):
        return asyncio.run(_fly(chance, number, Path(directory)))


async def _fly(chance: random.Random, number: int, directory: Path) -> tuple[Ending, Counter[str]]:
    struck: Counter[str] = Counter()
    async with flying(directory, f"soak-{number}", _COUNT) as (runtime, endings):
        striking = asyncio.ensure_future(_strike(chance, runtime, directory / "note", struck))
        while (await runtime._brokers["main"].counters("flights")).sent < _COUNT:
            if striking.done():
                striking.result()
            await asyncio.sleep(0.2)
        striking.cancel()
        with contextlib.suppress(asyncio.CancelledError, TimeoutError):
            await striking
    return endings[0], struck


async def _strike(
    chance: random.Random, runtime: Runtime, note: Path, struck: Counter[str]
) -> None:
    while True:
        await asyncio.sleep(chance.random() * 2)
        kind = chance.choice(list(MOMENTS))
        number = chance.randrange(2)
        if chance.random() < _STOPPED:
            await _stop(runtime, f"{kind}:flights:{number}")
            struck[f"{kind} stopped"] += 1
            continue
        moment = chance.choice(list(MOMENTS[kind]))
        place = {
            "handler": runtime._actors["flights"].handlers,
            "router": runtime._actors["flights"].routers,
            "receiver": runtime._actors["flights"].receivers,
        }[kind][number]
        if place.process is None:
            continue
        await kill(runtime, kind, number, moment, note)
        struck[f"{kind}: {moment}"] += 1


async def _stop(runtime: Runtime, name: str) -> None:
    before = runtime.processes.get(name)
    if before is None:
        return
    os.kill(before.pid, signal.SIGSTOP)
    while (now := runtime.processes.get(name)) is None or now.pid == before.pid:
        await runtime.next_look()


if __name__ == "__main__":
    sys.exit(main())
