"""Whether the resident size of every process stays flat, over many messages and many sessions.

The driver feeds a queue whose backlog stays bounded while the whole runtime works it off, and
samples each process's resident size meanwhile. The first third of the run is warm-up; the medians
of the second and of the last third are compared: `ratio` near 1 is flat.

Two runs: many messages in 1,000 sessions, and as many sessions as messages, each used once. The
handler keeps no state. With a state the store keeps what the handler said, one state a session, by
design: that growth is the user's data. Without one a handler still remembers what was applied, of
its last 100,000 sessions (`MemoryStore`), so its size is flat only once it has seen so many.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import psutil

from actors.runtime import Runtime
from pipeline import Context, Message, handler
from pipeline.config import parse
from tests.benchmarks.ours import ROOT

MESSAGES = 10_000_000
SESSIONS = 1_000
USED_ONCE = 1_000_000
SHORT = 200_000
"""Messages of a run that shows a leak but not yet a flat line."""
BACKLOG = 50_000
"""Messages that are sent and not yet settled, at most."""
AT_ONCE = 4_096
BODY = b"x" * 100
EVERY = 0.25
"""Seconds between two samples."""
_LOOK = 0.02
CONFIG: dict[str, Any] = {
    "name": "memory",
    "connections": {"main": {"provider": "memory"}},
    "queues": {"events": {"connection": "main", "fifo": True}},
    "pipelines": {
        "events": {
            "queue": "events",
            "handler": "tests.benchmarks.memory:on_message",
            "handlers": 2,
        }
    },
    "state": {"store": "memory"},
}


@handler
def on_message(body: bytes, context: Context) -> None:
    """As little as a handler can do."""
    len(body)


@dataclass(slots=True)
class Samples:
    """Resident sizes of some processes, over time.

    Args:
        processes: by name.
    """

    processes: dict[str, psutil.Process]
    sizes: dict[str, list[int]] = field(default_factory=dict)

    async def take(self) -> None:
        """Sample until cancelled."""
        while True:
            for name, process in self.processes.items():
                self.sizes.setdefault(name, []).append(process.memory_info().rss)
            await asyncio.sleep(EVERY)

    def thirds(self) -> dict[str, dict[str, float]]:
        """Medians of the second and the last third, in MB (10^6 bytes), and their ratio."""
        found = {}
        for name, sizes in self.sizes.items():
            third = max(1, len(sizes) // 3)
            second = statistics.median(sizes[-2 * third : -third])
            last = statistics.median(sizes[-third:])
            found[name] = {
                "second_third_mb": round(second / 1e6, 1),
                "last_third_mb": round(last / 1e6, 1),
                "ratio": round(last / second, 3),
            }
        return found


class Fed(Runtime):
    """A runtime that is fed by its own driver, with a bounded backlog."""

    async def fed(self, messages: int, sessions: int) -> dict[str, Any]:
        """Send and handle them all, and tell how large the processes were."""
        samples = Samples(await self._processes())
        sampling = asyncio.ensure_future(samples.take())
        began = time.perf_counter()
        sending = await self._feed(messages, sessions)
        while (totals := await self.totals()).completed < messages:
            await asyncio.sleep(_LOOK)
        seconds = time.perf_counter() - began
        sampling.cancel()
        if totals.redelivered or totals.dead_lettered:
            raise RuntimeError(f"the run was no clean one: {totals}")
        processes = samples.thirds()
        return {
            "bench": "memory" if sessions < messages else "memory_sessions",
            "messages": messages,
            "sessions": sessions,
            "samples": len(samples.sizes["driver"]),
            "messages_per_second": round(messages / seconds),
            "sending_share": round(sending / seconds, 2),
            "processes": processes,
            "worst_ratio": max(process["ratio"] for process in processes.values()),
        }

    async def _feed(self, messages: int, sessions: int) -> float:
        """Send within the backlog; returns the seconds that sending took, waiting left out."""
        sending = 0.0
        for begin in range(0, messages, AT_ONCE):
            end = min(messages, begin + AT_ONCE)
            while end - (await self.totals()).completed > BACKLOG:
                await asyncio.sleep(_LOOK)
            started = time.perf_counter()
            await self.client.send_many(
                "events",
                [
                    Message(BODY, session=f"session-{number % sessions}")
                    for number in range(begin, end)
                ],
            )
            sending += time.perf_counter() - started
        return sending

    async def _processes(self) -> dict[str, psutil.Process]:
        actors = self._actors["events"].actors
        kinds: dict[str, Any] = {
            "broker": [broker._actor for broker in self._brokers.values()],
            "receiver": actors["receiver"],
            "router": actors["router"],
            "handler": actors["handlers"],
            "status": [self._status],
        }
        found = {"driver": psutil.Process()}
        for kind, members in kinds.items():
            for at, actor in enumerate(members):
                name = kind if len(members) == 1 else f"{kind}-{at}"
                pid = await actor.__ray_call__.remote(lambda _: os.getpid())
                found[name] = psutil.Process(pid)
        return found


async def measure(messages: int = MESSAGES, sessions: int = SESSIONS) -> dict[str, Any]:
    """On the Ray that runs: feed so many messages, spread over so many sessions."""
    async with Fed(parse(CONFIG), path=[str(ROOT)]) as runtime:
        return await runtime.fed(messages, sessions)


async def both(messages: int, used_once: int) -> AsyncIterator[dict[str, Any]]:
    """Both runs, of the sizes given; 0 leaves one out."""
    if messages:
        yield await measure(messages)
    if used_once:
        yield await measure(used_once, used_once)


def main() -> None:
    """Run by itself."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory")
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--sessions", type=int, default=USED_ONCE)
    arguments = parser.parse_args()
    alone.run(both(arguments.messages, arguments.sessions))


if __name__ == "__main__":
    from tests.benchmarks import alone

    main()
