"""The whole flow in one thread: the real broker and the real cores, joined without Ray.

`pipeline.testing.run`, the property tests and the simulation use it, on a `VirtualLoop`.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import Batch, Credit
from pipeline.handlers.api import Handler
from pipeline.message import Message, to_row
from pipeline.names import QueueName
from pipeline.outcomes import Part
from pipeline.providers.memory import MemoryBroker, MemoryProvider
from pipeline.providers.memory.settings import QueueSettings
from pipeline.providers.port import Receiver, Sent
from pipeline.retry import RetryPolicy
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, RunCalls
from pipeline.stages.handler import HandlerCore, HandlerSettings
from pipeline.stages.opening import Opens
from pipeline.stages.outbox import SendMany
from pipeline.stages.receiver import ReceiverCore, ReceiverSettings
from pipeline.stages.router import RouterCore, RouterSettings
from pipeline.stages.workers import InlineHands
from pipeline.state.memory import MemoryStore

if TYPE_CHECKING:
    from pipeline.crypto.nonces import NonceBook

_IDLE = 10.0
"""Seconds of the loop that cancelled messages have to end."""


class Wire:
    """A call between two cores as Ray would carry it: serialised.

    Args:
        core: who is called.
    """

    def __init__(self, core: RunCalls) -> None:
        self._core = core

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Carry the rows over as one buffer."""
        buffers: list[pickle.PickleBuffer] = []
        wire = pickle.dumps(batch, 5, buffer_callback=buffers.append)
        copy: MessageBatch = pickle.loads(wire, buffers=buffers)  # noqa: S301 - our own bytes
        return await self._core.run(header, copy)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """Ask for more outcomes."""
        return await self._core.more(caller, epoch, number, part)


@dataclass(kw_only=True)
class FlowSettings:
    """How large a flow is.

    Args:
        queue: the queue's settings.
        receivers: how many.
        routers: how many.
        handlers: how many.
        messages: a receiver's credit in messages.
        bytes: a receiver's credit in bytes.
        batch_rows: the most rows of a batch.
        wait: seconds one receive waits.
        sessions: how many sessions a receiver holds.
        hold: seconds a session is held for a retry before it is given back.
        retry: attempts and delays of the handler.
        exceptions: kind of exception, its subclasses too, to "retry" or "reject".
        timeout: seconds a call of an async handler may take.
        concurrency: sessions an async handler runs at once.
        store_of: makes the store of a handler, by number.
        wire: what carries the calls from core to core.
        source: what stands between a receiver and the provider, faults for example.
        opener: opens sealed bodies; None: they go on as they came.
        key_wait: seconds that a sealed message waits for its key.
        nonces_of: makes a handler's memory of nonces; None: it has none.
    """

    queue: QueueSettings
    receivers: int = 1
    routers: int = 1
    handlers: int = 1
    messages: int = Credit().messages
    bytes: int = Credit().bytes
    batch_rows: int = Batch().rows
    wait: float = 20.0
    sessions: int | None = None
    hold: float = 60.0
    retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(5, 1.0, 300.0, 2.0, jitter="half")
    )
    exceptions: dict[type[BaseException], str] = field(default_factory=dict)
    timeout: float = 300.0
    concurrency: int = 64
    store_of: Callable[[int], MemoryStore] | None = None
    wire: Callable[[RunCalls], RunCalls] = Wire
    source: Callable[[Receiver], Receiver] = lambda receiver: receiver
    opener: Opens | None = None
    key_wait: float = 900.0
    nonces_of: Callable[[], NonceBook] | None = None


class Flow:
    """Broker, receivers, routers and handlers of one queue, joined on the running loop.

    Args:
        handler: the user's handler.
        settings: how large.
        clock: calendar time and chance.
        name: the queue's name.
        outgoing: checks what the handler sends.
        send: sends what the handler sends.
    """

    def __init__(
        self,
        handler: Handler,
        settings: FlowSettings,
        clock: Clock,
        *,
        name: str = "queue",
        outgoing: Any = None,
        send: SendMany | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.name = name
        self._handler = handler
        self._outgoing = outgoing
        self._send = send
        self.broker = MemoryBroker({name: settings.queue}, clock)
        self.provider = MemoryProvider(self.broker, {name: settings.queue})
        self.errors: list[BaseException] = []
        self.handlers: list[HandlerCore] = []
        self.routers: list[RouterCore] = []
        self.receivers: list[ReceiverCore] = []

    async def start(self) -> None:
        """Make and start the cores."""
        settings = self._settings
        await self.provider.start()
        can = self.provider.capabilities(self.name)
        ordered = settings.queue.fifo and can.sessions != "unsupported"
        table = SlotTable.spread(settings.handlers, settings.routers)
        loop = asyncio.get_running_loop()
        for number in range(settings.handlers):
            self.handlers.append(
                HandlerCore(
                    HandlerSettings(
                        queue=QueueName(self.name),
                        ordered=ordered,
                        retry=settings.retry,
                        exceptions=settings.exceptions,
                        timeout=settings.timeout,
                        concurrency=settings.concurrency,
                        batch_rows=settings.batch_rows,
                        nonces=None if settings.nonces_of is None else settings.nonces_of(),
                    ),
                    self._handler,
                    self._store(number),
                    InlineHands(),
                    self._clock,
                    loop.time,
                    self._outgoing,
                    self._send,
                    self.errors.append,
                )
            )
            await self.handlers[-1].start()
        for number in range(settings.routers):
            self.routers.append(
                RouterCore(
                    RouterSettings(
                        name=f"router-{number}",
                        epoch=1,
                        batch_rows=settings.batch_rows,
                        batch_bytes=settings.bytes,
                        by_id=settings.nonces_of is not None,
                    ),
                    {
                        at: settings.wire(core)
                        for at, core in enumerate(self.handlers)
                        if table.routers[at] == number
                    },
                    table,
                    self.errors.append,
                )
            )
        for router in self.routers:
            router.greet()
        for number in range(settings.receivers):
            self.receivers.append(await self._receiver(number, ordered, table))
        for receiver in self.receivers:
            await receiver.start()

    def _store(self, number: int) -> MemoryStore:
        make = self._settings.store_of
        return MemoryStore(now=self._clock.now) if make is None else make(number)

    async def _receiver(self, number: int, ordered: bool, table: SlotTable) -> ReceiverCore:
        settings = self._settings
        return ReceiverCore(
            ReceiverSettings(
                name=f"receiver-{number}",
                epoch=1,
                ordered=ordered,
                messages=settings.messages,
                bytes=settings.bytes,
                batch_rows=settings.batch_rows,
                batch_bytes=settings.bytes,
                wait=settings.wait,
                hold=settings.hold,
                sessions=settings.sessions,
                key_wait=settings.key_wait,
                by_id=settings.nonces_of is not None,
            ),
            settings.source(await self.provider.receiver(self.name, partition=number)),
            self.provider.capabilities(self.name),
            await self.provider.source(self.name),
            [settings.wire(router) for router in self.routers],
            table,
            self._clock,
            self.errors.append,
            settings.opener,
        )

    async def send(self, messages: Sequence[Message]) -> None:
        """Put messages into the queue.

        Raises:
            QueueError: one was refused.
        """
        sent = await self.broker.send(self.name, [to_row(message) for message in messages])
        for error in sent.failures.values():
            raise error

    async def settled(self) -> None:
        """Wait until the queue is empty: nothing available, scheduled or in hand."""
        while True:
            depth = await self.provider.depth(self.name)
            self.check()
            if not (depth.available or depth.in_hand or depth.scheduled):
                return
            await asyncio.sleep(0.5)

    def check(self) -> None:
        """Raise what a core could not go on after."""
        for error in self.errors:
            raise error

    async def states(self) -> dict[str, bytes]:
        """Every session's state as JSON."""
        found: dict[str, bytes] = {}
        for handler in self.handlers:
            found |= await handler.states()
        return found

    async def close(self) -> int:
        """End as a drain does; returns how many rows are left to lock expiry."""
        for receiver in self.receivers:
            await receiver.stop_receiving()
        for router in self.routers:
            await router.drain()
        for handler in self.handlers:
            await handler.drain()
        for handler in self.handlers:
            await handler.stop_running()
        await asyncio.wait([asyncio.ensure_future(self._idle())], timeout=_IDLE)
        left = 0
        for receiver in self.receivers:
            left += await receiver.close()
        for router in self.routers:
            await router.close()
        for handler in self.handlers:
            await handler.close()
        await self.provider.close()
        return left

    async def _idle(self) -> None:
        for handler in self.handlers:
            await handler.idle()
        for receiver in self.receivers:
            await receiver.nothing_runs()
        for receiver in self.receivers:
            await receiver.idle()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


__all__ = ["Flow", "FlowSettings", "Sent", "Wire"]
