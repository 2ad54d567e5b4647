"""What tests of sessions stand on: a queue at a server of ours, receiving lanes, and who sends."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage

from pipeline.clock import SystemClock
from pipeline.config import AzureConnection, AzureQueue
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.azure.sessions import AzureSessionReceiver
from pipeline.providers.configured import Limits
from pipeline.providers.guard import Guard
from pipeline.providers.port import Received, Want
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.queue import Queue

SOON = 3.0
"""Seconds within which comes what is there."""


@dataclass
class Lane:
    """A receiver, and which sessions its caller knows of."""

    receiver: AzureSessionReceiver
    held: dict[int, str] = field(default_factory=dict)

    async def receive(
        self, most: int = 100, new: int = 1, wait: float = SOON, **want: Any
    ) -> Received:
        """As the runtime does: of all held sessions, and new ones."""
        want.setdefault("held", dict.fromkeys(self.held, most))
        got = await self.receiver.receive(Want(messages=most, new_sessions=new, wait=wait, **want))
        self.held |= {one.number: one.session for one in got.opened}
        return got

    async def several(self, count: int, **options: Any) -> tuple[list[bytes], list[Any]]:
        """So many messages, and their receipts, in as many receives as it takes."""
        bodies: list[bytes] = []
        receipts: list[Any] = []
        async with asyncio.timeout(30):
            while len(bodies) < count:
                got = await self.receive(**options)
                bodies += got.batch.values("body")
                receipts += got.receipts
        return bodies, receipts

    def number(self, session: str) -> int:
        """The newest holding of a session."""
        return max(number for number, name in self.held.items() if name == session)


@dataclass
class Scene:
    """A queue, and who is at it."""

    bus: ServiceBus
    queue: Queue
    sdk: Sdk
    settings: AzureQueue
    out: Line
    counts: Counter[str] = field(default_factory=Counter)
    lanes: list[Lane] = field(default_factory=list)

    async def send(self, session: str, *bodies: Any) -> None:
        """Send some bodies in one session."""
        messages = [ServiceBusMessage(str(body), session_id=session) for body in bodies]
        await self.out.do("send", lambda sender: sender.send_messages(messages), 10.0)

    def lane(self) -> Lane:
        """Another receiver."""
        guard = Guard("the receiver", 10.0)
        guard.bind()
        made = AzureSessionReceiver(
            "q", self.settings, self.sdk, SystemClock(), guard, self.counts, lambda _: None
        )
        self.lanes.append(Lane(made))
        return self.lanes[-1]

    def counted(self) -> tuple[int, int]:
        """How many messages are active, and how many of them locked."""
        counts = self.queue.counts()
        return counts.active, counts.locked


@asynccontextmanager
async def scene(
    monkeypatch: pytest.MonkeyPatch,
    lock: float = 30.0,
    send: float = 10.0,
    connect: float = 30.0,
    told: float | None = None,
    **settings: Any,
) -> AsyncIterator[Scene]:
    """A queue with sessions; at the end nothing may be in anybody's hand.

    Args:
        monkeypatch: sets the variable with the connection string.
        lock: seconds that it locks.
        send: time-out of a call.
        connect: time-out of a connection.
        told: seconds that the configuration says it locks; None: what it does.
        settings: others of the queue.
    """
    async with ServiceBus(strict=True) as bus:
        queue = bus.queue("q", sessions=True, lock_seconds=lock, **settings)
        monkeypatch.setenv("QR_TEST_BUS", bus.connection_string)
        connection = AzureConnection(connection_string="env:QR_TEST_BUS")  # type: ignore[arg-type]
        sdk = Sdk("main", connection, Limits(connect, send, 30.0))
        await sdk.start()
        keys = AzureQueue(connection="main", name="q", fifo=True, lock=told or lock)
        made = Scene(bus, queue, sdk, keys, sdk.sender(keys))
        try:
            yield made
        finally:
            await asyncio.gather(*(lane.receiver.close() for lane in made.lanes))
            await made.out.close()
            await sdk.close()
        gc.collect()  # what was left open is told here, not in another test
        assert not queue.counts().locked, "a closed receiver left messages in hand"
        broken = [str(note) for note in bus.violations.noted if note.rule.value[0] != 13]
        assert broken == [], broken


def bodies(received: Received) -> list[bytes]:
    """What came, in order."""
    return list(received.batch.values("body"))


def texts(numbers: Sequence[Any]) -> list[bytes]:
    """Bodies as they were sent."""
    return [str(number).encode() for number in numbers]
