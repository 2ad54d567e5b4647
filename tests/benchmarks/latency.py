"""How long a message takes from send to settled at a steady rate, and where the time goes.

Every figure is exact, by message and its sequence; all processes are on one machine and so read one
clock. The driver notes the time just before it calls `send`, the broker stamps `enqueued_at`, the
handler notes when it runs; the receiver's provider (`pipeline.providers.port.Receiver`) is tapped,
in the receiver's process, to note when a receive has brought the message, and when the completing
call begins and is answered. The broker is tapped to note when it has deleted the message: then it
is settled. `p50_ms` and `p99_ms` are from `send` to there, `p50_told_ms` until the receiver knows.
`where` has the median of each stretch between two neighbours:

    send         `send` called -> enqueued at the broker: a call of an actor
    to_receiver  -> the receiver has it: the answer to its waiting poll
    to_handler   -> the handler runs: through the router, onto the handler's thread
    to_outcome   -> the receiver completes it: record committed, back through the router, and the
                    completing call before it answered (a receiver has one under way at a time)
    settle       -> the broker has deleted it: half a call of an actor
    told         -> the receiver knows: the other half

Medians of stretches don't add up to the median of the whole, but nearly. Messages keep to their
times whether or not earlier ones were answered: a slow answer doesn't thin out what follows it.
`cpu_share` is the driver's and all actors' CPU time by the seconds that passed and the cores there
are: where it is high, or another load is on the machine, the time is spent waiting for a core.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

from actors.runtime import Runtime
from pipeline import Context, Message, handler
from pipeline.config import parse
from tests.benchmarks.cost import cpu_seconds
from tests.benchmarks.ours import ROOT

RATES = {100: 0.01, 1_000: 0.01}
"""Messages a second, and the seconds between two ticks at which they are sent."""
WARM_UP = 1.0
SECONDS = 6.0
SESSIONS = 100
BODY = b"x" * 100
STAGES = ("send", "to_receiver", "to_handler", "to_outcome", "settle", "told")
CONFIG: dict[str, Any] = {
    "name": "latency",
    "connections": {"main": {"provider": "memory"}},
    "queues": {"events": {"connection": "main", "fifo": True}},
    "pipelines": {"events": {"queue": "events", "handler": "tests.benchmarks.latency:on_message"}},
    "state": {"store": "memory"},
}

_handled: dict[int, float] = {}
"""In the handler's process: sequence to when the handler ran."""


@handler
def on_message(body: bytes, context: Context) -> None:
    """Note the time."""
    _handled[context.delivery.sequence] = time.time()


def handled(_: Any) -> dict[int, float]:
    """Called in the handler's process: what it noted."""
    return _handled


def tap_broker(actor: Any) -> None:
    """Called in the broker's process: note when messages are deleted, by their receipts."""
    complete, actor.deleted = actor._broker.complete, {}

    async def noting(lane: int, receipts: Any) -> Any:
        failures = await complete(lane, receipts)
        actor.deleted.update(dict.fromkeys(receipts, time.time()))
        return failures

    actor._broker.complete = noting


def deleted(actor: Any) -> dict[int, float]:
    """Called in the broker's process: what it noted."""
    found: dict[int, float] = actor.deleted
    return found


def tap(actor: Any) -> None:
    """Called in the receiver's process: note when messages come in and when they are settled."""
    source = actor._core._source
    receive, complete = source.receive, source.complete
    actor.enqueued, actor.received, actor.ended, actor.told, actor.tokens = {}, {}, {}, {}, {}
    sequence_of = {}

    async def noting_receive(want: Any) -> Any:
        got = await receive(want)
        if len(got.batch):
            now = time.time()
            sequences = got.batch.values("sequence")
            sequence_of.update(zip(got.receipts, sequences, strict=True))
            actor.tokens.update(zip(sequences, got.receipts, strict=True))
            actor.enqueued.update(zip(sequences, got.batch.values("enqueued_at"), strict=True))
            actor.received.update(dict.fromkeys(sequences, now))
        return got

    async def noting_complete(receipts: Any) -> Any:
        # Not noted: what the receive brought that was pending when the tap was put in.
        sequences = [sequence_of.pop(receipt) for receipt in receipts if receipt in sequence_of]
        actor.ended.update(dict.fromkeys(sequences, time.time()))
        failures = await complete(receipts)
        actor.told.update(dict.fromkeys(sequences, time.time()))
        return failures

    source.receive, source.complete = noting_receive, noting_complete


def tapped(actor: Any) -> list[dict[int, float]]:
    """Called in the receiver's process: what it noted, in the order in which it happens."""
    return [actor.enqueued, actor.received, actor.ended, actor.told, actor.tokens]


class Timed(Runtime):
    """A runtime that sends at a steady rate and times every message."""

    async def timed(self, rate: int) -> dict[str, Any]:
        """Send, wait until all is settled, and tell how long it took."""
        actors = self._actors["events"].actors
        [receiver], [works] = actors["receiver"], actors["handlers"]
        [broker] = [broker._actor for broker in self._brokers.values()]
        await broker.__ray_call__.remote(tap_broker)
        await receiver.__ray_call__.remote(tap)
        before, began = await self._cpu(), time.perf_counter()
        sent = await self._send(rate)
        spent, passed = await self._cpu() - before, time.perf_counter() - began
        while (await self.totals()).completed < len(sent):
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.2)  # the broker counts a message before the receiver hears of it
        enqueued, received, ended, told, tokens = await receiver.__ray_call__.remote(tapped)
        by_token = await broker.__ray_call__.remote(deleted)
        settled = {sequence: by_token[token] for sequence, token in tokens.items()}
        ran = await works.__ray_call__.remote(handled)
        counted = sorted(sent)[int(rate * WARM_UP) :]
        moments = [
            [times[number] for times in (sent, enqueued, received, ran, ended, settled, told)]
            for number in counted
        ]
        whole = statistics.quantiles((times[-2] - times[0] for times in moments), n=100)
        stretches = zip(*([b - a for a, b in pairwise(times)] for times in moments), strict=True)
        return {
            "bench": "latency",
            "rate": rate,
            "messages": len(moments),
            "p50_ms": _ms(whole[49]),
            "p99_ms": _ms(whole[98]),
            "p50_told_ms": _ms(statistics.median(times[-1] - times[0] for times in moments)),
            "cpu_share": round(spent / passed / (os.cpu_count() or 1), 2),
            "where": {
                stage: _ms(statistics.median(stretch))
                for stage, stretch in zip(STAGES, stretches, strict=True)
            },
        }

    async def _cpu(self) -> float:
        members = [broker._actor for broker in self._brokers.values()]
        for actors in self._actors["events"].actors.values():
            members += actors
        return time.process_time() + await cpu_seconds(members)

    async def _send(self, rate: int) -> dict[int, float]:
        """One call a message, at even ticks; sequence to when `send` was called."""
        sent: dict[int, float] = {}

        async def send(number: int) -> None:
            message = Message(BODY, session=f"session-{number % SESSIONS}")
            now = time.time()
            answer = await self.client.send("events", message)
            sent[answer.sequence or 0] = now

        tick = RATES[rate]
        each = round(rate * tick)
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as sending:
            for at in range(round((WARM_UP + SECONDS) / tick)):
                await asyncio.sleep(max(0.0, began + at * tick - loop.time()))
                for number in range(at * each, (at + 1) * each):
                    sending.create_task(send(number))
        return sent


def _ms(seconds: float) -> float:
    return round(seconds * 1_000, 2)


async def each_rate() -> AsyncIterator[dict[str, Any]]:
    """One result a rate, each on a runtime of its own."""
    for rate in RATES:
        async with Timed(parse(CONFIG), path=[str(ROOT)]) as runtime:
            yield await runtime.timed(rate)


if __name__ == "__main__":
    # Imported under its own name: what is sent to actors has to be found there under that name.
    from tests.benchmarks import alone, latency

    alone.run(latency.each_rate())
