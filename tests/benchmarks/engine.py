"""The engine against one call a message and against the bare pipeline (DESIGN section 5).

All three run the same handler function on the same bodies, with two handler actors, in processes
tuned alike, in turn, three rounds; the ratios are of medians inside one run. Order, credit, ledger,
turns and the record of what was applied are on in all of ours.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import ray

from actors.process import tune
from pipeline import MessageBatch
from pipeline.slots import SlotTable
from tests.benchmarks.cost import cpu_seconds
from tests.benchmarks.ours import Case, on_message, ours

ROUNDS = 3
NAIVE = 2_000
NAIVE_IN_FLIGHT = 256
BARE_ROWS = 2_048
BARE = 488 * BARE_ROWS
BARE_IN_FLIGHT = 8
HEADLINE = Case(count=1_000_000)
COUNT = 50_000
"""Messages of a case that varies one thing."""
VARIED = {
    **{f"rows {rows}": Case(count=COUNT, rows=rows) for rows in (64, 512, 2_048)},
    "body 100 B": Case(count=COUNT, size=100),
    "body 16 KB": Case(count=COUNT // 4, size=16_000),
    "body 256 KB": Case(count=COUNT // 50, size=256_000),
    "1 session": Case(count=COUNT, sessions=1),
    "100,000 sessions": Case(count=COUNT, sessions=100_000),
    "one hot session": Case(count=COUNT, hot=0.5),
    "unordered": Case(count=COUNT, ordered=False),
    "async": Case(count=COUNT, function="on_message_async"),
    "batch": Case(count=COUNT, function="on_batch"),
    "batch async": Case(count=COUNT, function="on_batch_async"),
}
"""What each case varies of the headline: 1 KB, 1,000 sessions, ordered, a message at a time."""


@ray.remote(num_cpus=0.1)
class NaiveHandler:
    def handle(self, session: str, body: bytes) -> int:
        on_message.function(body, None)
        return 1


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
        body = b"x" * HEADLINE.size
        began = time.perf_counter()
        pending: set[asyncio.Future[Any]] = set()
        for number in range(count):
            call = router.route.remote(HEADLINE.session(number), body)
            pending.add(asyncio.ensure_future(asyncio.wrap_future(call.future())))
            if len(pending) >= NAIVE_IN_FLIGHT:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(pending)
        return count / (time.perf_counter() - began)


@ray.remote(num_cpus=0.1)
class BareHandler:
    def handle(self, batch: MessageBatch) -> list[int]:
        outcomes = []
        handle = on_message.function
        for body in batch.column("body").to_pylist():
            handle(body, None)
            outcomes.append(1)
        return outcomes


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
        body = b"x" * HEADLINE.size
        began = time.perf_counter()
        pending: set[asyncio.Future[Any]] = set()
        for start in range(0, count, BARE_ROWS):
            numbers = range(start, start + BARE_ROWS)
            now = time.time()
            batch = MessageBatch.from_columns(
                BARE_ROWS,
                {
                    "id": [f"message-{number}" for number in numbers],
                    "session": [HEADLINE.session(number) for number in numbers],
                    "sequence": numbers,
                    "enqueued_at": [now] * BARE_ROWS,
                    "body": [body] * BARE_ROWS,
                },
            )
            call = router.route.remote(batch)
            pending.add(asyncio.ensure_future(asyncio.wrap_future(call.future())))
            if len(pending) >= BARE_IN_FLIGHT:
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(pending)
        return count / (time.perf_counter() - began)


async def three_hops(
    receiver: Any, router: Any, handler_class: Any, count: int
) -> tuple[float, float]:
    """Messages a second through fresh actors of three classes, and CPU microseconds a message."""
    handlers = [handler_class.remote() for _ in range(2)]
    way = router.remote(handlers)
    source = receiver.remote()
    actors = [source, way, *handlers]
    for actor in actors:
        await actor.__ray_call__.remote(lambda _: tune())
    await source.run.remote(way, count // 20)
    before = await cpu_seconds(actors)
    rate: float = await source.run.remote(way, count)
    spent = await cpu_seconds(actors) - before
    for actor in actors:
        ray.kill(actor)
    return rate, spent * 1e6 / count


async def measure() -> dict[str, Any]:
    """All three in turn, three rounds."""
    naive, bare, mine = [], [], []
    for _ in range(ROUNDS):
        naive.append(await three_hops(NaiveReceiver, NaiveRouter, NaiveHandler, NAIVE))
        bare.append(await three_hops(BareReceiver, BareRouter, BareHandler, BARE))
        mine.append(await ours(HEADLINE))
    middle = statistics.median
    rate = middle(result.rate for result in mine)
    naive_rate = middle(rate for rate, _ in naive)
    bare_rate = middle(rate for rate, _ in bare)
    by_actor = {name: round(middle(result.cpu[name] for result in mine), 1) for name in mine[0].cpu}
    return {
        "bench": "engine",
        "ratio_naive": round(rate / naive_rate, 1),
        "ratio_bare": round(rate / bare_rate, 3),
        "messages_per_second": round(rate),
        "naive_per_second": round(naive_rate),
        "bare_per_second": round(bare_rate),
        "batch_rows": round(middle(result.rows for result in mine)),
        "cpu_us_per_message": round(middle(sum(result.cpu.values()) for result in mine), 1),
        "bare_cpu_us_per_message": round(middle(cpu for _, cpu in bare), 1),
        "cpu_us_by_actor": by_actor,
    }


async def cases() -> AsyncIterator[dict[str, Any]]:
    """One thing varied at a time, once each; `per_first` compares with the first, the headline's.

    They are too short to be compared with the headline's own figure: a run's beginning is in them.
    """
    base = 0.0
    for name, case in {"rows 8192": replace(HEADLINE, count=COUNT), **VARIED}.items():
        result = await ours(case)
        base = base or result.rate
        yield {
            "bench": "engine_case",
            "case": name,
            "messages_per_second": round(result.rate),
            "per_first": round(result.rate / base, 2),
            "mb_per_second": round(result.rate * case.size / 1e6, 1),
            "batch_rows": round(result.rows),
            "cpu_us_per_message": round(sum(result.cpu.values()), 1),
        }
