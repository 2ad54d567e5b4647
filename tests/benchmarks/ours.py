"""Our side of the benchmarks: a filled queue, the whole runtime, and what it cost by actor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.runtime import Runtime
from actors.topology import Topology
from pipeline import Context, Message, MessageBatch, handler
from pipeline.config import parse
from tests.benchmarks.cost import cpu_seconds

ROOT = Path(__file__).parents[2]
_LOOK = 0.05
_SHORTEST = 2e-6
"""Seconds of a message that nobody has reached yet."""


def touch(body: bytes) -> int:
    """What every handler does with a body."""
    return len(body)


@handler
def on_message(body: bytes, context: Context) -> None:
    """One message, sync."""
    touch(body)


@handler
async def on_message_async(body: bytes, context: Context) -> None:
    """One message, async."""
    touch(body)


@handler(batch=True)
def on_batch(rows: MessageBatch) -> None:
    """A batch, sync."""
    for body in rows.column("body").to_pylist():
        touch(body)


@handler(batch=True)
async def on_batch_async(rows: MessageBatch) -> None:
    """A batch, async."""
    for body in rows.column("body").to_pylist():
        touch(body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is measured; the defaults are the headline's.

    Args:
        count: how many messages.
        size: bytes of each body.
        sessions: over how many sessions they are spread.
        hot: the share of the messages that belong to one session, 0 to 1.
        ordered: whether the queue keeps sessions in order.
        rows: the batch limit in rows; None leaves the default.
        function: which handler.
        keys: a file of encryption keys; "": bodies are plain.
        pool: how many crypto actors open them; 0: the receiver does.
        distinct: whether each message has a body of its own, as sealed ones do: equal ones that are
            sent together are one object in the broker.
    """

    count: int = 500_000
    size: int = 1_000
    sessions: int = 1_000
    hot: float = 0.0
    ordered: bool = True
    rows: int | None = None
    function: str = "on_message"
    keys: str = ""
    pool: int = 0
    distinct: bool = False

    def session(self, number: int) -> str:
        """The session of a message."""
        if self.hot and number % 100 < self.hot * 100:
            return "session-hot"
        return f"session-{number % self.sessions}"

    def messages(self) -> Iterator[list[Message]]:
        """All of them, as many at once as one send takes."""
        same = b"x" * self.size
        for begin in range(0, self.count, 4_096):
            yield [
                Message(
                    b"%0*d" % (self.size, number) if self.distinct else same,
                    session=self.session(number) if self.ordered else None,
                )
                for number in range(begin, min(self.count, begin + 4_096))
            ]

    def config(self) -> dict[str, Any]:
        """The run's configuration: what is not said here is as by default."""
        pipeline: dict[str, Any] = {
            "queue": "events",
            "handler": f"tests.benchmarks.ours:{self.function}",
            "handlers": 2,
        }
        if self.rows is not None:
            pipeline["batch"] = {"rows": self.rows}
        return {
            "name": "bench",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"events": {"connection": "main", "fifo": self.ordered}},
            "pipelines": {"events": pipeline},
            # The engine by itself; what a file costs is state.py's.
            "state": {"store": "memory"},
            "crypto": self._crypto() if self.keys else {},
        }

    def _crypto(self) -> dict[str, Any]:
        return {
            "enabled": True,
            "actors": self.pool,
            "keys": {"provider": "file", "path": self.keys},
            "plaintext": "reject",
        }


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a case.

    Args:
        rate: messages a second, first receive to last settled, as the broker sees it.
        rows: rows of a handler's run, on average.
        cpu: actor to microseconds of CPU time a message.
    """

    rate: float
    rows: float
    cpu: dict[str, float]


class Filled(Runtime):
    """A runtime whose queue is full before its pipelines start."""

    async def timed(self, case: Case) -> Result:
        """Fill the queue, run it empty, and measure from the first receive to the last settled."""
        self.connect()
        topology = Topology(self.config, self._path)
        await self._start_queues(topology)
        sending = asyncio.ensure_future(self._fill([]))
        for messages in case.messages():  # made while those before them are on their way
            await sending
            sending = asyncio.ensure_future(self._fill(messages))
            await asyncio.sleep(0)
        await sending
        starting = asyncio.ensure_future(self._start_pipelines(topology))
        while not (await self.totals()).received:
            await asyncio.sleep(_LOOK)
        began = time.perf_counter()
        already = (await self.totals()).completed
        await starting
        before = await self.cost()
        at_start = (await self.totals()).completed
        while (left := case.count - (await self.totals()).completed) > 0:
            # Seldom while much is left, for each look is calls of actors.
            await asyncio.sleep(max(_LOOK, left * _SHORTEST))
        seconds = time.perf_counter() - began
        after = await self.cost()
        routers = (await self.refresh()).pipelines["events"].routers
        measured = max(1, case.count - at_start)
        return Result(
            (case.count - already) / seconds,
            routers["run_rows"] / max(1, routers["runs"]),
            {name: (after[name] - before[name]) * 1e6 / measured for name in after},
        )

    async def _fill(self, messages: list[Message]) -> None:
        for sent in await self.client.send_many("events", messages):
            if isinstance(sent, Exception):
                raise sent

    async def cost(self) -> dict[str, float]:
        """Seconds of CPU time that each actor's process has used, by kind of actor."""
        brokers = [broker._actor for broker in self._brokers.values()]
        kinds = {"broker": brokers, **self._actors["events"].actors}
        if self._shared is not None and self._shared.pool:
            kinds["crypto"] = [place.actor for place in self._shared.pool]
        return {name: await cpu_seconds(members) for name, members in kinds.items()}


async def ours(case: Case) -> Result:
    """Run a case."""
    runtime = Filled(parse(case.config()), path=[str(ROOT)])
    try:
        return await runtime.timed(case)
    finally:
        await runtime.close()
