"""Receiving: the methods of a client that bring messages, and sessions."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.client.core import Core, checked_count, checked_wait, loop_time
from pipeline.client.leases import Possession
from pipeline.client.session import ClientSession
from pipeline.errors import Unsupported
from pipeline.message import Delivery
from pipeline.names import SessionId
from pipeline.providers.port import Capabilities, Received, SessionSupport, Want


class Receiving:
    """Receive messages, read them without locking them, and hold sessions.

    Example:
        >>> from pipeline import Message, QueueClient
        >>> client = QueueClient.from_dict(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main"}},
        ...     }
        ... )
        >>> async with client:
        ...     sent = await client.send("orders", Message(b"two shoes", id="order-1"))
        ...     print(await client.peek("orders"))
        ...     [delivery] = await client.receive("orders", wait=5)
        ...     failures = await client.complete(delivery)
        ...     print(await client.receive("orders", wait=0))
        [Delivery(id=MessageId('order-1'), session=None, sequence=1)]
        []
    """

    _core: Core

    async def receive(
        self,
        queue: str,
        max_messages: int = 1,
        wait: float | None = None,
        *,
        dead_letters: bool = False,
    ) -> list[Delivery]:
        """Receive messages, waiting for the first; the moment there is one it returns.

        With sessions, messages of one session come in order, and it is free again when all that
        came of it are settled (see the class). Up to 8 tasks receive from a queue at once; further
        ones wait for a turn, and get an empty list if none comes within their wait.

        Args:
            queue: a queue of the configuration.
            max_messages: at most so many; a provider may bring fewer (SQS: 10 a call).
            wait: seconds to wait for the first one; `timeouts.receive` (30 s) unless given. 0 asks
                once. A failing connection takes longer, by the pauses between the attempts.
            dead_letters: whether to receive from the queue's dead-letter queue. Settling there:
                `complete` deletes the message for good. No order is promised there.

        Returns:
            The deliveries; an empty list when nothing came. Their `lock.locked_until` says by when
            to settle or renew them.
        """
        checked_count("max_messages", max_messages)
        wait = checked_wait(wait, self._core.timeouts.receive)
        self._core.check()
        name, _ = self._core.connections.provider(queue)
        end = loop_time() + wait
        lanes = self._core.lanes(name, dead_letters=dead_letters)

        async with self._core.waits.until_closed(), lanes.lend(wait) as lane:
            if lane is None:
                return []

            async def call() -> Received:
                want = _want(lane.capabilities, max_messages, max(0.0, end - loop_time()))
                return await lane.receiver.receive(want)

            received = await self._core.call("receive", call)
            # Old is only what is sent anew, and nobody sends anything into a dead-letter queue.
            return await self._core.take_in(lane, received, fresh=not dead_letters)

    async def receive_deferred(self, queue: str, sequences: Sequence[int]) -> list[Delivery]:
        """Receive messages that were set aside with `defer`.

        Those of a session need `ClientSession.receive_deferred` (NATIVE).

        Args:
            queue: a queue of the configuration.
            sequences: their sequences.

        Raises:
            MessageNotFound: one of them is not set aside here; none is received.
            Unsupported: the provider can't (SQS).
        """
        self._core.check()
        name, _ = self._core.connections.provider(queue)
        lane = await self._core.lanes(name).beside()

        async def call() -> Received:
            return await lane.receiver.receive_deferred(sequences)

        async with self._core.waits.until_closed():
            received = await self._core.call("receive_deferred", call)
            return await self._core.take_in(lane, received)

    async def peek(
        self, queue: str, count: int = 1, *, after: int = 0, dead_letters: bool = False
    ) -> list[Delivery]:
        """Read messages without locking them; they have no receipt and can't be settled.

        Args:
            queue: a queue of the configuration.
            count: at most so many.
            after: only messages with a sequence above this one: the last one's, to go on.
            dead_letters: whether to read the queue's dead-letter queue.

        Raises:
            Unsupported: the provider can't (SQS).
        """
        checked_count("count", count)
        self._core.check()
        name, _ = self._core.connections.provider(queue)
        lanes = self._core.lanes(name, dead_letters=dead_letters)
        lane = await lanes.beside()
        peeked = await self._core.call("peek", lambda: lane.receiver.peek(count, after))
        batch = await self._core.bodies.open(peeked, fresh=not dead_letters, peeked=name)
        return [Delivery(batch, row, name) for row in range(len(batch))]

    async def accept_session(
        self, queue: str, session: str | None = None, wait: float | None = None
    ) -> ClientSession:
        """Hold one session: `async with await client.accept_session(...) as held`.

        Args:
            queue: a queue of the configuration.
            session: which one, even if it has no messages yet; None: the next free one that has.
            wait: seconds to wait for it; `timeouts.receive` (30 s) unless given.

        Raises:
            SessionLocked: somebody else held that session for longer than the wait.
            SessionNotFound: no session with messages came free within the wait.
            Unsupported: the provider locks no sessions (SQS: messages of one group are kept in
                order by `receive`; a queue without sessions).
        """
        named = None if session is None else SessionId(session)
        wait = checked_wait(wait, self._core.timeouts.receive)
        self._core.check()
        name, provider = self._core.connections.provider(queue)
        able = provider.capabilities(name)
        if able.sessions is not SessionSupport.NATIVE:
            hint = f"queue {name} has no sessions to lock; use receive"
            raise Unsupported("accept_session", able.provider, hint)
        end = loop_time() + wait

        async with self._core.waits.until_closed():
            lane = await self._core.lane(name)
            try:
                holding = await self._core.call(
                    "accept_session",
                    lambda: lane.receiver.accept(named, max(0.0, end - loop_time())),
                )
            except BaseException:
                # Not awaited: it waits for what the accept may still bring, to give it back.
                self._core.later(lane.receiver.close())
                raise
        possession = Possession(holding, kept=True, deadline=holding.deadline)
        lane.hold(possession)
        return ClientSession(self._core, lane, possession)


def _want(able: Capabilities, most: int, wait: float) -> Want:
    native = able.sessions is SessionSupport.NATIVE
    return Want(
        messages=most, wait=wait, new_sessions=min(most, able.held_sessions) if native else 0
    )
