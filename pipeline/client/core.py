"""What the parts of a client share: its life, its connections, its ledger, and how it calls."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from pipeline.client.connections import Connections
from pipeline.client.lanes import Lane, Lanes
from pipeline.client.leases import Leases
from pipeline.client.opening import ClientBodies
from pipeline.clock import Clock
from pipeline.config import Timeouts
from pipeline.errors import Closed, QueueError, ValidationError
from pipeline.message import Delivery
from pipeline.names import QueueName
from pipeline.providers.port import Failures, Received, Sender, SessionSupport
from pipeline.retry import RetryPolicy, retrying, retrying_each

T = TypeVar("T")

_log = logging.getLogger(__name__)

_CLOSED = "the client was closed: make a new one"


@dataclass(slots=True, eq=False)
class Waits:
    """Waits that the closing of a client, or of a session, ends.

    Args:
        owner: what is closed, for the error.
    """

    owner: str
    _open: dict[asyncio.Timeout, asyncio.Future[None]] = field(default_factory=dict)

    @asynccontextmanager
    async def until_closed(self) -> AsyncIterator[None]:
        """End what runs inside, as if cancelled, when the owner is closed; then raise `Closed`."""
        try:
            async with asyncio.timeout(None) as scope:
                left = self._open[scope] = asyncio.get_running_loop().create_future()
                try:
                    yield
                finally:
                    del self._open[scope]
                    left.set_result(None)
        except TimeoutError:
            raise Closed(f"the {self.owner} was closed while this call waited") from None

    async def end(self) -> None:
        """End them all, and return when each has left what it was in the middle of."""
        for scope in self._open:
            if not scope.expired():
                scope.reschedule(loop_time())
        if self._open:
            await asyncio.wait(list(self._open.values()))


@dataclass(slots=True, eq=False)
class Core:
    """The inside of one client.

    Args:
        connections: its providers.
        policy: how often and when a call is tried again.
        clock: the calendar, and the chance for the jitter.
        timeouts: the configuration's.
        bodies: seals and opens them; None: they go as they are.
    """

    connections: Connections
    policy: RetryPolicy
    clock: Clock
    timeouts: Timeouts
    bodies: ClientBodies
    leases: Leases[Lane] = field(default_factory=lambda: Leases(loop_time))
    waits: Waits = field(default_factory=lambda: Waits("client"))
    _lanes: dict[tuple[QueueName, bool], Lanes] = field(default_factory=dict)
    _loop: asyncio.AbstractEventLoop | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _started: bool = False
    _closed: bool = False
    _tidying: set[asyncio.Task[None]] = field(default_factory=set)

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connect, once."""
        self._here()
        async with self._turn:
            await self._connect()

    async def _connect(self) -> None:
        if self._closed:
            raise Closed(_CLOSED)
        if self._started:
            return
        # At once, so that a start from another loop is refused while this one is under way.
        self._loop = asyncio.get_running_loop()
        try:
            await self.bodies.start()
            await self.call("connect", self.connections.start)
            self._started = True
        finally:
            if not self._started:
                self._loop = None

    async def close(self) -> None:
        """End what waits, let what was cut short be finished, disconnect; once."""
        self._here()
        self._closed = True
        await self.waits.end()
        async with self._turn:
            await self._disconnect()

    async def _disconnect(self) -> None:
        if not self._started:
            await self.bodies.close()  # a start that failed may have left keys
            return
        while self._tidying:
            await asyncio.wait(self._tidying)
        await self.connections.close()
        await self.bodies.close()
        self.leases.clear()
        self._lanes.clear()
        self._started = False

    def check(self) -> None:
        """Every call begins here: it is refused where it can't work."""
        if self._closed:
            raise Closed(_CLOSED)
        self._here()
        if not self._started:
            raise ValidationError("QueueClient", "must be started: use `async with`, or `start()`")

    def _here(self) -> None:
        """Refuse another thread or loop than the one that started the client."""
        if self._loop not in (None, _running()):
            raise ValidationError(
                "QueueClient",
                "belongs to the event loop that started it: make a client of its own for this "
                "thread or loop, or hand the call over with asyncio.run_coroutine_threadsafe",
                "a call from another loop",
            )

    # --- calls ------------------------------------------------------------------------------------

    async def call(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make a provider's call, again while it fails transiently."""
        return await retrying(call, self.policy, self.clock, operation=operation)

    async def each(
        self, operation: str, count: int, call: Callable[[Sequence[int]], Awaitable[Failures]]
    ) -> dict[int, QueueError]:
        """Make a provider's call about many things, again for those that failed transiently."""
        return await retrying_each(call, count, self.policy, self.clock, operation=operation)

    async def sender(self, queue: str) -> Sender:
        """The sender of a queue."""
        return await self.call("connect", lambda: self.connections.sender(queue))

    async def lane(self, queue: str, *, dead_letters: bool = False) -> Lane:
        """A lane of its own, for whoever holds a session."""
        return await self.call(
            "connect", lambda: self.connections.lane(queue, dead_letters=dead_letters)
        )

    async def take_in(
        self, lane: Lane, received: Received, *, fresh: bool = True
    ) -> list[Delivery]:
        """Take in hand what a receive brought, its bodies opened.

        What came is given back when that is cut short.
        """
        try:
            batch = await self.bodies.open(received.batch, fresh=fresh)
        except BaseException:
            self.later(give_back(lane, received))
            raise
        return lane.take_in(self.leases, replace(received, batch=batch))

    def lanes(self, queue: QueueName, *, dead_letters: bool = False) -> Lanes:
        """The lanes of a queue, or of its dead letters."""

        async def make() -> Lane:
            return await self.lane(queue, dead_letters=dead_letters)

        return self._lanes.setdefault((queue, dead_letters), Lanes(make))

    async def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what a cancelled caller must not leave half done; closing waits for it."""
        task = self._tracked(work)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)  # nobody else is told any more
            raise

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it beside the caller; closing waits for it."""
        self._tracked(work).add_done_callback(_report)

    def _tracked(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)
        return task


async def give_back(lane: Lane, received: Received) -> None:
    """Give back what nobody has taken in hand."""
    receiver, able = lane.receiver, lane.capabilities
    failures: Failures = {}
    if received.opened:
        failures = await receiver.release_sessions([one.number for one in received.opened])
    elif able.single_release or able.sessions is not SessionSupport.NATIVE:
        failures = await receiver.release(received.receipts)
    for error in failures.values():
        _log.warning("a message that was received in vain is left to lock expiry: %s", error)


def _report(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.error("a client could not finish what a call left: %s", error, exc_info=error)


def loop_time() -> float:
    """The time of the loop that runs."""
    return asyncio.get_running_loop().time()


def checked_count(name: str, count: int) -> int:
    """A number of messages to ask for, 1 or more.

    Raises:
        ValidationError: it is anything else.
    """
    if not isinstance(count, int) or count < 1:
        raise ValidationError(name, "must be 1 or more", count)
    return count


def checked_wait(wait: float | None, default: float) -> float:
    """Seconds to wait, the default where none are given.

    Raises:
        ValidationError: they are negative, or for ever.
    """
    if wait is None:
        return default
    if not 0 <= wait < float("inf"):
        raise ValidationError("wait", "must be 0 or more seconds, and not for ever", wait)
    return wait


def _running() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
