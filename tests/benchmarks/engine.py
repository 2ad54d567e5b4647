"""The engine against one call a message and against the bare pipeline (DESIGN section 5).

All three run the same sync handler function on the same bodies, with two handler actors, in turn,
three rounds; the ratios are of medians inside one run.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import ray

from actors.runtime import Runtime
from actors.topology import Topology
from pipeline import Context, Message, MessageBatch, handler
from pipeline.config import parse
from pipeline.slots import SlotTable

ROUNDS = 3
SESSIONS = 1_000
NAIVE = 2_000
BARE = 200_000
OURS = 200_000
ROWS = 2_048
IN_FLIGHT = 8
BODY = b"x" * 1_000


def touch(body: bytes) -> int:
    """What every handler does with a body."""
    return len(body)


@handler
def on_message(body: bytes, context: Context) -> None:
    """The same, as ours calls it."""
    touch(body)


@ray.remote(num_cpus=0.1)
class NaiveHandler:
    def handle(self, session: str, body: bytes) -> int:
        return touch(body)


@ray.remote(num_cpus=0.1)
class NaiveRouter:
    def __init__(self, handlers: list[Any]) -> None:
        self._handlers = handlers
        self._table = SlotTable.spread(len(handlers), 1)

    async def route(self, session: str, body: bytes) -> int:
        owner = self._handlers[self._table.handler_of(session)]
        done: int = await owner.handle.remote(session, body)
        return done


@ray.remote(num_cpus=0.1)
class NaiveReceiver:
    async def run(self, router: Any, count: int) -> float:
        began = time.perf_counter()
        pending: set[asyncio.Future[Any]] = set()
        for number in range(count):
            call = router.route.remote(f"session-{number % SESSIONS}", BODY)
            pending.add(asyncio.ensure_future(asyncio.wrap_future(call.future())))
            if len(pending) >= 256:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(pending)
        return count / (time.perf_counter() - began)


@ray.remote(num_cpus=0.1)
class BareHandler:
    def handle(self, batch: MessageBatch) -> list[int]:
        return [touch(body) for body in batch.column("body").to_pylist()]


@ray.remote(num_cpus=0.1)
class BareRouter:
    def __init__(self, handlers: list[Any]) -> None:
        self._handlers = handlers
        self._table = SlotTable.spread(len(handlers), 1)

    async def route(self, batch: MessageBatch) -> list[int]:
        names, codes = batch.distinct("session")
        owners = [self._table.handler_of(name) for name in names]
        parts = batch.split([owners[code] for code in codes])
        answers = await asyncio.gather(
            *(self._handlers[owner].handle.remote(rows) for owner, (_, rows) in parts.items())
        )
        outcomes = [0] * len(batch)
        for (places, _), answer in zip(parts.values(), answers, strict=True):
            for place, outcome in zip(places, answer, strict=True):
                outcomes[place] = outcome
        return outcomes


@ray.remote(num_cpus=0.1)
class BareReceiver:
    async def run(self, router: Any, count: int) -> float:
        bodies = [BODY] * ROWS
        sessions = [f"session-{number % SESSIONS}" for number in range(ROWS)]
        ids = [f"message-{number}" for number in range(ROWS)]
        began = time.perf_counter()
        pending: set[asyncio.Future[Any]] = set()
        for _ in range(count // ROWS):
            batch = MessageBatch.from_columns(
                ROWS, {"id": ids, "session": sessions, "body": bodies}
            )
            call = router.route.remote(batch)
            pending.add(asyncio.ensure_future(asyncio.wrap_future(call.future())))
            if len(pending) >= IN_FLIGHT:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(pending)
        return (count // ROWS) * ROWS / (time.perf_counter() - began)


async def three_hops(receiver: Any, router: Any, handler_class: Any, count: int) -> float:
    """Messages a second through fresh actors of three classes."""
    handlers = [handler_class.remote() for _ in range(2)]
    way = router.remote(handlers)
    source = receiver.remote()
    await source.run.remote(way, count // 20)
    rate: float = await source.run.remote(way, count)
    for actor in (source, way, *handlers):
        ray.kill(actor)
    return rate


class Filled(Runtime):
    """A runtime whose queue is full before its pipelines start."""

    async def timed(self, count: int) -> float:
        """Fill the queue, run, and tell the seconds from the first receive to the last settled.

        Both are seen at the broker, by asking it every 5 ms.
        """
        self.connect()
        topology = Topology(self.config, self._path, int(time.time() * 1000))
        await self._start_queues(topology)
        for begin in range(0, count, 4_096):
            await self.client.send_many(
                "events",
                [
                    Message(BODY, session=f"session-{number % SESSIONS}")
                    for number in range(begin, min(count, begin + 4_096))
                ],
            )
        starting = asyncio.ensure_future(self._start_pipelines(topology))
        began = 0.0
        while (totals := await self.totals()).completed < count:
            if not began and totals.received:
                began = time.perf_counter()
            await asyncio.sleep(0.005)
        ended = time.perf_counter()
        await starting
        return ended - began


async def ours(count: int) -> tuple[float, float]:
    """Messages a second from first receive to last settled at the broker, and rows a run."""
    config = parse(
        {
            "name": "bench",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"events": {"connection": "main", "fifo": True}},
            "pipelines": {
                "events": {
                    "queue": "events",
                    "handler": "tests.benchmarks.engine:on_message",
                    "handlers": 2,
                }
            },
        }
    )
    runtime = Filled(config, path=[str(Path(__file__).parents[2])])
    try:
        seconds = await runtime.timed(count)
        look = await runtime.refresh()
        figures = look.pipelines["events"]
        rows = figures.routers["run_rows"] / max(1, figures.routers["runs"])
        return count / seconds, rows
    finally:
        await runtime.close()


async def measure() -> dict[str, Any]:
    """All three in turn."""
    naive, bare, mine, rows = [], [], [], []
    for _ in range(ROUNDS):
        naive.append(await three_hops(NaiveReceiver, NaiveRouter, NaiveHandler, NAIVE))
        bare.append(await three_hops(BareReceiver, BareRouter, BareHandler, BARE))
        rate, batch = await ours(OURS)
        mine.append(rate)
        rows.append(batch)
    middle = statistics.median
    return {
        "bench": "engine",
        "ratio_naive": round(middle(mine) / middle(naive), 1),
        "ratio_bare": round(middle(mine) / middle(bare), 3),
        "messages_per_second": round(middle(mine)),
        "naive_per_second": round(middle(naive)),
        "bare_per_second": round(middle(bare)),
        "batch_rows": round(middle(rows)),
    }
