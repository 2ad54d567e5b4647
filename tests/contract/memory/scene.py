"""A client at a bad line, and how its calls fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SeededClock
from pipeline.config import parse
from pipeline.errors import QueueError
from pipeline.message import Message
from pipeline.providers.memory import MemoryBroker
from tests.contract.memory.line import Line

ORDERED = {"fifo": True, "sessions": "native"}
GROUPS = {"fifo": True, "sessions": "groups"}


@dataclass
class Scene:
    """A client, its line, and another client whose line is good."""

    client: QueueClient
    line: Line
    other: QueueClient

    async def send(self, *bodies: bytes) -> None:
        """Put messages of one session there, over the good line."""
        await self.other.send_many("q", [Message(body, session="s") for body in bodies])

    async def bodies(self) -> list[bytes]:
        """What is in the queue, in order, whatever its state."""
        return [one.body for one in await self.other.peek("q", 10_000)]


@asynccontextmanager
async def scene(**settings: Any) -> AsyncIterator[Scene]:
    """Open it; a lock lasts 60 s unless the settings say otherwise."""
    config = parse(
        {
            "name": "failures",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"q": {"connection": "main", "visibility": 60.0, **settings}},
        }
    )
    clock = SeededClock(now)
    broker = MemoryBroker(config.queues, clock)
    line = Line(broker)
    client = QueueClient(config, brokers={"main": line}, clock=clock)
    async with client, QueueClient(config, brokers={"main": broker}, clock=clock) as other:
        yield Scene(client, line, other)


def now() -> float:
    return asyncio.get_running_loop().time()


async def failure(call: Awaitable[object]) -> tuple[QueueError, float]:
    """What a call raises, and after how many seconds."""
    start = now()
    with pytest.raises(QueueError) as caught:
        await call
    return caught.value, now() - start


Make = Callable[[Scene], Awaitable[Callable[[], Awaitable[object]]]]


def settling(ending: str) -> Make:
    async def make(at: Scene) -> Callable[[], Awaitable[object]]:
        await at.send(b"x")
        [delivery] = await at.client.receive("q", wait=1)
        if ending == "dead_letter":
            return lambda: at.client.dead_letter(delivery, "rejected")
        return lambda: getattr(at.client, ending)(delivery)  # type: ignore[no-any-return]

    return make
