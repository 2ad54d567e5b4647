"""`make bench-azure`: our receiver at Service Bus beside bare loops of the SDK, and the pipeline.

The receiver alone (`one_receiver`), at our own server (`bus`), which is a process of its own, with
and without a round trip that takes time, with and without sessions. Beside it, in the same process
and in turn, what the SDK's user writes: receive a hundred, and complete them one after another, or
all at once. Three rounds, medians. Then how many short sessions a second two receivers get through,
and the whole pipeline on Ray.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeAlias

from azure.servicebus import NEXT_AVAILABLE_SESSION
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import OperationTimeoutError

from actors.process import tune
from actors.runtime import Runtime
from pipeline.config import RuntimeConfig, parse
from tests.benchmarks.alone import run, show
from tests.benchmarks.bus import Bus, served
from tests.benchmarks.one_receiver import Span, receiving, timed
from tests.benchmarks.ours import ROOT

HELD, MANY = 8, 64
"""Sessions that one receiver holds: what a queue has unless told otherwise, and more of them."""
LIST = 100
LEVEL = 16_000
"""Messages that the queue always has."""
SPAN, ROUNDS = Span(), 3
ROUND_TRIPS = (0.0, 0.005)
SESSIONS, EACH, RECEIVERS, LIMIT = 2_000, 5, 2, 60.0
BARE_LIMIT = 20.0
PIPELINE = 20_000

_Found: TypeAlias = tuple[float, float]


@contextlib.contextmanager
def _noted(bus: Bus) -> Any:
    """The connection string in a file, for a configuration to name."""
    with tempfile.TemporaryDirectory(prefix="qr-") as directory:
        path = Path(directory) / "connection"
        path.write_text(bus.connection_string)
        yield str(path)


def config(connection: str, queue: str, sessions: int, held: int = HELD) -> RuntimeConfig:
    """A pipeline at one queue."""
    return parse(
        {
            "name": "bench-azure",
            "connections": {
                "main": {
                    "provider": "azure_service_bus",
                    "connection_string": f"file:{connection}",
                }
            },
            "queues": {
                "events": {
                    "connection": "main",
                    "name": queue,
                    "fifo": sessions > 0,
                    "held_sessions": held,
                    "max_delivery_count": 100,
                }
            },
            "pipelines": {
                "events": {"queue": "events", "handler": "tests.benchmarks.ours:on_message"}
            },
            "state": {"store": "memory"},
        }
    )


# --- one receiver at a queue that is never empty --------------------------------------------------


async def ours(bus: Bus, sessions: int, span: Span) -> _Found:
    """Our receiver."""
    queue = await bus.new_queue(sessions)
    await bus.tell("keep", queue, LEVEL)
    with _noted(bus) as connection:
        async with receiving(config(connection, queue, sessions)) as core:
            found = await timed(lambda: core.counts["completed"], span)
            await bus.tell("keep", queue, 0)
    return found


class Bare:
    """What the SDK does by itself.

    Args:
        gathered: complete what came all at once; else one after another.
    """

    def __init__(self, *, gathered: bool) -> None:
        self._gathered = gathered
        self.done = 0
        self.over = False

    async def loop(self, receiver: ServiceBusReceiver) -> None:
        """Receive and complete; it ends between two calls, which the SDK can't bear to lose."""
        while not self.over:
            messages = await receiver.receive_messages(LIST, max_wait_time=1.0)
            if self._gathered:
                await asyncio.gather(*[self._complete(receiver, each) for each in messages])
            else:
                for each in messages:
                    await self._complete(receiver, each)

    async def _complete(self, receiver: ServiceBusReceiver, message: Any) -> None:
        await receiver.complete_message(message)
        self.done += 1


async def bare(bus: Bus, sessions: int, span: Span, *, gathered: bool) -> _Found:
    """One receiver; with sessions one for each of them, as many as we hold."""
    queue = await bus.new_queue(sessions)
    await bus.tell("keep", queue, LEVEL)
    work = Bare(gathered=gathered)
    options = {"session_id": NEXT_AVAILABLE_SESSION} if sessions else {}
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        contextlib.AsyncExitStack() as stack,
    ):
        receivers = [client.get_queue_receiver(queue, **options) for _ in range(sessions or 1)]
        await asyncio.gather(*map(stack.enter_async_context, receivers))
        loops = [asyncio.ensure_future(work.loop(each)) for each in receivers]
        try:
            return await timed(lambda: work.done, span)
        finally:
            work.over = True
            await asyncio.gather(*loops)
            await bus.tell("keep", queue, 0)


async def receiver(
    bus: Bus, span: Span = SPAN, rounds: int = ROUNDS
) -> AsyncIterator[dict[str, Any]]:
    """All three in turn, at each round trip, without sessions and with."""
    for round_trip in ROUND_TRIPS:
        await bus.tell("delay", round_trip / 2)
        for sessions in (0, HELD):
            found: dict[str, list[_Found]] = {"one_by_one": [], "gathered": [], "ours": []}
            for _ in range(rounds):
                found["one_by_one"].append(await bare(bus, sessions, span, gathered=False))
                found["gathered"].append(await bare(bus, sessions, span, gathered=True))
                found["ours"].append(await ours(bus, sessions, span))
            yield {
                "bench": "azure_receiver",
                "sessions": sessions,
                "round_trip_ms": round_trip * 1e3,
                **_medians(found),
            }
    await bus.tell("delay", 0.0)


def _medians(found: dict[str, list[_Found]]) -> dict[str, Any]:
    """Of each: messages a second and CPU; and ours divided by the others, round by round."""
    figures: dict[str, Any] = {}
    for name, rounds in found.items():
        if name != "ours":
            pairs = zip(found["ours"], rounds, strict=True)
            ratio = statistics.median(one[0] / max(other[0], 1e-9) for one, other in pairs)
            figures[f"ratio_{name}"] = round(ratio, 2)
    for name, rounds in found.items():
        rate, cpu = map(statistics.median, zip(*rounds, strict=True))
        figures[f"{name}_per_second"] = round(rate)
        figures[f"{name}_cpu_us_per_message"] = round(cpu, 1)
    return figures


# --- many short sessions --------------------------------------------------------------------------


async def short_sessions(bus: Bus, held: int, count: int = SESSIONS) -> dict[str, Any]:
    """A few messages in each: what counts is how soon the next session is there.

    Args:
        bus: the server.
        held: sessions of one receiver.
        count: sessions in all.
    """
    queue = await bus.new_queue(count)
    await bus.tell("add", queue, count * EACH)
    with _noted(bus) as connection:
        settings = config(connection, queue, count, held)
        began, cpu = time.perf_counter(), time.process_time()
        async with contextlib.AsyncExitStack() as stack:
            cores = [
                await stack.enter_async_context(receiving(settings, number))
                for number in range(RECEIVERS)
            ]
            done = 0
            while done < count * EACH and time.perf_counter() - began < LIMIT:
                await asyncio.sleep(0.05)
                done = sum(core.counts["completed"] for core in cores)
            seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    ended = done / EACH
    loops = RECEIVERS * held
    rate, bare_cpu = await bare_sessions(bus, loops, min(BARE_LIMIT, seconds), count)
    return {
        "bench": "azure_sessions",
        "sessions": round(ended),
        "of": count,
        "receivers": RECEIVERS,
        "held_by_each": held,
        "ratio_bare": round(ended / seconds / max(rate, 1e-9), 2),
        "sessions_per_second": round(ended / seconds, 1),
        "bare_per_second": round(rate, 1),
        "cpu_ms_per_session": round(cpu * 1e3 / max(1.0, ended), 2),
        "bare_cpu_ms_per_session": round(bare_cpu * 1e3, 2),
    }


async def bare_sessions(bus: Bus, loops: int, limit: float, count: int) -> _Found:
    """Sessions a second and CPU seconds for each: as many loops of the SDK as we hold sessions."""
    queue = await bus.new_queue(count)
    await bus.tell("add", queue, count * EACH)
    began, cpu, done = time.perf_counter(), time.process_time(), 0

    async def loop() -> None:
        nonlocal done
        while time.perf_counter() - began < limit:
            accepting = client.get_queue_receiver(
                queue, session_id=NEXT_AVAILABLE_SESSION, max_wait_time=1.0
            )
            try:
                async with accepting as receiver:
                    for each in await receiver.receive_messages(EACH):
                        await receiver.complete_message(each)
            except OperationTimeoutError:
                return
            done += 1

    async with ServiceBusClient.from_connection_string(
        bus.connection_string, retry_total=0
    ) as client:
        await asyncio.gather(*[loop() for _ in range(loops)])
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return done / seconds, cpu / max(1, done)


# --- the pipeline ---------------------------------------------------------------------------------


async def pipeline(bus: Bus, count: int = PIPELINE) -> AsyncIterator[dict[str, Any]]:
    """The whole runtime at a queue that was filled before: from its first message to its last."""
    for sessions in (0, HELD):
        queue = await bus.new_queue(sessions)
        with _noted(bus) as connection:
            settings = config(connection, queue, sessions)
            async with Runtime(settings, path=[str(ROOT)]) as runtime:
                began = time.perf_counter()
                await bus.tell("add", queue, count)
                while (await runtime.totals()).completed < count:
                    await runtime.next_look()
                seconds = time.perf_counter() - began
        yield {
            "bench": "azure_pipeline",
            "sessions": sessions,
            "messages": count,
            "messages_per_second": round(count / seconds),
        }


async def alone() -> AsyncIterator[dict[str, Any]]:
    """What needs no Ray."""
    async with served() as bus:
        async for result in receiver(bus):
            yield result
        for held in (HELD, MANY):
            yield await short_sessions(bus, held)


async def on_ray() -> AsyncIterator[dict[str, Any]]:
    """The rest."""
    async with served() as bus:
        async for result in pipeline(bus):
            yield result


if __name__ == "__main__":
    tune()  # as in an actor's process
    asyncio.run(show(alone()))
    run(on_ray())
