"""A session that a client holds: its messages, its state, its lock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from pipeline.client.core import Core, Waits, checked_count, checked_wait, loop_time
from pipeline.client.lanes import Lane, Turns
from pipeline.client.leases import Possession
from pipeline.client.settling import Settling
from pipeline.errors import Closed, SessionLockLost
from pipeline.message import Delivery
from pipeline.names import SessionId
from pipeline.providers.port import Received, Want

T = TypeVar("T")


class ClientSession(Settling):
    """One session, held by `QueueClient.accept_session` until it is given back or its lock ends.

    Nobody else receives its messages meanwhile. Leaving `async with` gives it back, and what was
    received and not settled comes again, in order. Settling is as with the client (`Settling`).
    The lock is not renewed by itself: call `renew` before `locked_until`.

    Provider differences: Azure and memory queues with `sessions: native` only. Azure gives a
    session's messages back only together, so `release` of one takes effect with the session's.

    Every method but `release` raises `SessionLockLost` when the lock ended (what was not settled
    comes again: accept the session anew), and `Closed` after the session was given back.

    Example:
        >>> from pipeline import Message, QueueClient
        >>> client = QueueClient.from_dict(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main", "fifo": True}},
        ...     }
        ... )
        >>> async with client:
        ...     sent = await client.send("orders", Message(b"two shoes", session="customer-7"))
        ...     async with await client.accept_session("orders", "customer-7") as session:
        ...         for delivery in await session.receive(max_messages=10):
        ...             await session.set_state(delivery.body)
        ...             failures = await session.complete(delivery)
        ...         print(session.session, await session.state())
        customer-7 b'two shoes'
    """

    def __init__(
        self,
        core: Core,
        lane: Lane,
        possession: Possession,
    ) -> None:
        super().__init__(core)
        self._waits = Waits("session")
        self._lane = lane
        self._possession = possession
        self._turns = Turns(1)
        self._given_back = False
        self.queue = lane.queue
        self.session = SessionId.trusted(possession.holding.session)

    @property
    def fence(self) -> int:
        """A number that grows for a session with each holding, whoever holds it."""
        return self._possession.holding.number

    @property
    def locked_until(self) -> datetime:
        """When the lock ends unless it is renewed; in the past once it was lost."""
        left = self._possession.deadline - loop_time()
        now = self._core.clock.now()
        return datetime.fromtimestamp(max(now + left, 0.0), UTC)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.release()

    async def receive(self, max_messages: int = 1, wait: float | None = None) -> list[Delivery]:
        """Receive the session's next messages, in order.

        Args:
            max_messages: at most so many; a provider may bring fewer.
            wait: seconds to wait for the first one; `timeouts.receive` (30 s) unless given. An
                empty list is the answer when none came.
        """
        checked_count("max_messages", max_messages)
        wait = checked_wait(wait, self._core.timeouts.receive)
        self._check()
        end = loop_time() + wait

        async def call() -> Received:
            left = max(0.0, end - loop_time())
            want = Want(messages=max_messages, wait=left, held={self.fence: max_messages})
            return await self._lane.receiver.receive(want)

        # The port takes one receive a lane, and the order of two at once would mean nothing.
        async with (
            self._core.waits.until_closed(),
            self._waits.until_closed(),
            self._turns.turn(wait) as mine,
        ):
            return await self._take_in(await self._try("receive", call)) if mine else []

    async def receive_deferred(self, sequences: Sequence[int]) -> list[Delivery]:
        """Receive messages of the session that were set aside with `defer`.

        Args:
            sequences: their sequences.

        Raises:
            MessageNotFound: one of them is not set aside here; none is received.
        """

        async def call() -> Received:
            return await self._lane.receiver.receive_deferred(sequences)

        return await self._take_in(await self._try("receive_deferred", call))

    async def state(self) -> bytes | None:
        """Read the bytes kept with the session at the provider; they outlive the holding.

        Returns:
            The bytes; None when there are none.
        """
        return await self._try("state", lambda: self._lane.receiver.session_state(self.fence))

    async def set_state(self, state: bytes | None) -> None:
        """Keep bytes with the session at the provider.

        Args:
            state: the bytes; None forgets them.
        """
        receiver = self._lane.receiver
        await self._try("set_state", lambda: receiver.set_session_state(self.fence, state))

    async def renew(self) -> datetime:
        """Prolong the session's lock by the queue's lock duration from now.

        Returns:
            When it ends now.
        """
        self._check()
        failures = await self._settler.renew_sessions(self._lane, [self._possession])
        if failures:
            raise failures[0]
        return self.locked_until

    async def release(self) -> None:
        """Give the session back: what was received and not settled comes again. Repeats do nothing.

        To give one message back, use `QueueClient.release`.

        Raises:
            QueueError: a transient failure that stayed: the session's lock runs out by itself.
        """
        try:
            self._check_held()
        except Closed:
            return
        self._given_back = True
        await self._core.finish(self._end())

    async def _end(self) -> None:
        await self._waits.end()
        async with self._turns.turn():  # the receive that was ended has come home
            lost = self._core.leases.lost_session(self._possession)
            self._core.leases.give_back(self._possession)
            failures = {} if lost else await self._settler.give_back(self._lane, [self.fence])
            await self._lane.receiver.close()
        if failures and not isinstance(failures[0], SessionLockLost):
            raise failures[0]

    async def _take_in(self, received: Received) -> list[Delivery]:
        return await self._core.take_in(self._lane, received)

    def _check_held(self) -> None:
        self._core.check()
        if self._given_back:
            raise Closed("the session was given back: accept it anew")

    def _check(self) -> None:
        self._check_held()
        if self._core.leases.lost_session(self._possession):
            raise SessionLockLost(
                f"the lock on session {self.session!r} ended: what was not settled comes again; "
                "accept it anew, and renew in time"
            )

    async def _try(self, operation: str, call: Callable[[], Awaitable[T]]) -> T:
        self._check()
        try:
            return await self._core.call(operation, call)
        except SessionLockLost:
            self._core.leases.lose_session(self._possession)
            raise
