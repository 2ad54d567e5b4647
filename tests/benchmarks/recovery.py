"""What the death of a process costs: the longest pause between two messages handled.

One actor of each kind, and a steady load: whoever dies, everything stands still until another one
has its place. SIGKILL by pid; each kind in turn, so many rounds, medians.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.runtime import Runtime
from pipeline import Message, QueueClient, handler
from pipeline.config import parse
from tests.benchmarks.alone import run

ROOT = Path(__file__).parents[2]
ROUNDS = 3
RATE = 200
SETTLE = 3.0
"""Seconds of load before a process is killed."""
WATCHED = 12.0
"""Seconds after it in which the pause is looked for."""


@handler(state=dict)
def on_message(body: bytes, state: dict[str, int]) -> None:
    """Append the time to a file that survives the process."""
    with Path(body.decode()).open("a") as file:
        file.write(f"{time.monotonic()}\n")
    state["count"] = state.get("count", 0) + 1


async def _load(client: QueueClient, times: Path) -> None:
    number = 0
    while True:
        number += 1
        await client.send("events", Message(str(times).encode(), session=f"s{number % 50}"))
        await asyncio.sleep(1 / RATE)


async def _once(kind: str, directory: Path) -> float:
    times = directory / "times"
    times.touch()
    config = parse(
        {
            "name": "recovery",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"events": {"connection": "main", "fifo": True}},
            "pipelines": {
                "events": {"queue": "events", "handler": "tests.benchmarks.recovery:on_message"}
            },
            "state": {"store": "sqlite", "path": str(directory / "state.sqlite")},
        }
    )
    async with Runtime(config, path=[str(ROOT)]) as runtime:
        load = asyncio.ensure_future(_load(runtime.client, times))
        await asyncio.sleep(SETTLE)
        killed = time.monotonic()
        os.kill(runtime.processes[f"{kind}:events:0"].pid, signal.SIGKILL)
        await asyncio.sleep(WATCHED)
        load.cancel()
        await runtime.until_empty()
    handled = sorted(map(float, times.read_text().split()))
    pauses = [
        after - before
        for before, after in pairwise(handled)
        if killed - 0.5 < after and before < killed + WATCHED
    ]
    return max(pauses)


async def measure() -> AsyncIterator[dict[str, Any]]:
    """Each kind in turn."""
    seconds: dict[str, list[float]] = {"handler": [], "router": [], "receiver": []}
    for _ in range(ROUNDS):
        for kind, found in seconds.items():
            with tempfile.TemporaryDirectory() as directory:
                found.append(await _once(kind, Path(directory)))
    yield {"bench": "recovery"} | {
        f"{kind}_seconds": round(statistics.median(found), 2) for kind, found in seconds.items()
    }


if __name__ == "__main__":
    run(measure())
