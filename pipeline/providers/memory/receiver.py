"""One receiving lane of a memory queue."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.batch import MessageBatch
from pipeline.errors import Closed, QueueError, SessionLocked, SessionNotFound, Timeout
from pipeline.providers.guard import Guard
from pipeline.providers.memory.calls import BrokerCalls, BrokerHolding, BrokerReceived
from pipeline.providers.port import (
    DeadLetter,
    Failures,
    Holding,
    Receipt,
    Received,
    Renewed,
    Want,
)

T = TypeVar("T")
logger = logging.getLogger(__name__)

MAX_RECEIVE = 16_384
"""The most messages that one receive brings."""


class MemoryReceiver:
    """Receives from one queue and settles what it received (see `port.Receiver`).

    Args:
        broker: the broker, or a proxy of it.
        queue: the queue's name.
        lane: what `open_lane` gave.
        margin: seconds past its wait after which a receive that has no answer is `Timeout`.
        guard: says whether a call can be made.
        forget: tells the provider that this receiver was closed.
    """

    def __init__(
        self,
        broker: BrokerCalls,
        queue: str,
        lane: int,
        margin: float,
        guard: Guard,
        forget: Callable[[MemoryReceiver], None],
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._lane = lane
        self._margin = margin
        self._guard = guard
        self._forget = forget
        self._polls = 0
        self._receiving: int | None = None
        self._received = 0
        self._background: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None

    # Polls: the calls that wait.

    async def receive(self, want: Want) -> Received:
        """Bring messages, waiting for the first one; the moment there is one it returns."""
        loop = self._guard.check()
        want = replace(want, messages=min(want.messages, MAX_RECEIVE))

        def call(poll: int) -> Coroutine[Any, Any, BrokerReceived]:
            self._receiving = poll
            return self._broker.receive(self._lane, want, poll, self._received)

        try:
            got = await self._poll(call, want.wait, self._give_back)
            self._received = self._receiving or 0
        finally:
            self._receiving = None
        return _received(got, loop.time())

    async def end_wait(self) -> None:
        """Let a pending receive return now with what it has."""
        self._guard.check()
        if self._receiving is not None:
            await self._guard.bounded(self._broker.end_poll(self._lane, self._receiving))

    async def accept(self, session: str | None, wait: float) -> Holding:
        """Lock one session, a named one (which may be empty), or the next free one."""
        loop = self._guard.check()
        got = await self._poll(
            lambda poll: self._broker.accept(self._lane, session, wait, poll),
            wait,
            self._give_session_back,
        )
        return _holding(got, loop.time())

    async def _poll(
        self,
        call: Callable[[int], Coroutine[Any, Any, T]],
        wait: float,
        give_back: Callable[[T], Awaitable[None]],
    ) -> T:
        """The answer of a call that waits; cancelled, or without an answer, it ends by itself."""
        self._polls += 1
        poll = self._polls
        task = asyncio.get_running_loop().create_task(call(poll))
        limit = wait + self._margin
        try:
            done, _ = await asyncio.wait({task}, timeout=limit)
        except asyncio.CancelledError:
            self._leave(task, poll, give_back)
            raise
        if not done:
            self._leave(task, poll, give_back)
            raise Timeout(f"receiver of queue {self._queue}: no answer within {limit} s")
        answer = await task
        self._guard.check()  # closed meanwhile: the lane's end gave back what it brought
        return answer

    def _leave(
        self, task: asyncio.Task[T], poll: int, give_back: Callable[[T], Awaitable[None]]
    ) -> None:
        ending = task.get_loop().create_task(self._end_poll(task, poll, give_back))
        self._background.add(ending)
        ending.add_done_callback(self._background.discard)

    async def _end_poll(
        self, task: asyncio.Task[T], poll: int, give_back: Callable[[T], Awaitable[None]]
    ) -> None:
        try:
            async with asyncio.timeout(self._margin):
                with contextlib.suppress(QueueError):  # then it ends with its wait
                    await self._broker.end_poll(self._lane, poll)
                await give_back(await task)
        except (Closed, SessionLocked, SessionNotFound):
            pass  # it brought nothing, or the lane's end has given it back
        except (QueueError, TimeoutError) as error:
            logger.warning(
                "queue %s: a cancelled receive could not be ended, its messages come again when "
                "their locks end: %s",
                self._queue,
                error,
            )

    async def _give_back(self, got: BrokerReceived) -> None:
        if got.receipts:
            await self._broker.release(self._lane, got.receipts)
        if got.opened:
            numbers = [holding.number for holding in got.opened]
            await self._broker.release_sessions(self._lane, numbers)

    async def _give_session_back(self, got: BrokerHolding) -> None:
        await self._broker.release_sessions(self._lane, [got.number])

    # Settling.

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled: delete them."""
        self._guard.check()
        return await self._guard.bounded(self._broker.complete(self._lane, receipts))

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Handling failed: deliver them again, not before `delay` seconds; the count grows."""
        self._guard.check()
        return await self._guard.bounded(self._broker.abandon(self._lane, receipts, delay))

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: deliver them again, in front; with a delay their groups wait."""
        self._guard.check()
        return await self._guard.bounded(self._broker.release(self._lane, receipts, delay))

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead-letter queue."""
        self._guard.check()
        return await self._guard.bounded(self._broker.dead_letter(self._lane, receipts, reasons))

    async def defer(self, receipts: Sequence[Receipt]) -> Failures:
        """Set them aside until `receive_deferred` asks for their sequences."""
        self._guard.check()
        return await self._guard.bounded(self._broker.defer(self._lane, receipts))

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:
        """Bring messages that were set aside, locked; all of them or `MessageNotFound`."""
        loop = self._guard.check()
        call = self._broker.receive_deferred(self._lane, sequences)
        return _received(await self._guard.bounded(call), loop.time())

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks by the queue's lock duration from now."""
        now = self._guard.check().time()
        renewed = await self._guard.bounded(self._broker.renew(self._lane, receipts))
        return Renewed(now + renewed.seconds, renewed.failures)

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Read up to `count` messages with a sequence above `after` without locking, in order."""
        self._guard.check()
        return await self._guard.bounded(self._broker.peek(self._lane, count, after))

    # Sessions.

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:
        """Give sessions back; their unsettled messages come again, counts unchanged."""
        self._guard.check()
        return await self._guard.bounded(self._broker.release_sessions(self._lane, holdings))

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:
        """Prolong session locks by the queue's lock duration from now."""
        now = self._guard.check().time()
        renewed = await self._guard.bounded(self._broker.renew_sessions(self._lane, holdings))
        return Renewed(now + renewed.seconds, renewed.failures)

    async def session_state(self, holding: int) -> bytes | None:
        """The bytes kept with a held session; `SessionLockLost` if it isn't held."""
        self._guard.check()
        return await self._guard.bounded(self._broker.session_state(self._lane, holding))

    async def set_session_state(self, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session, or forget them."""
        self._guard.check()
        await self._guard.bounded(self._broker.set_session_state(self._lane, holding, state))

    async def close(self) -> None:
        """Give back what is in hand; a pending receive or accept raises `Closed`."""
        self._guard.close()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            await self._guard.bounded(self._broker.close_lane(self._lane))
        except QueueError as error:
            logger.warning(
                "queue %s: the lane could not be closed, its messages come again when their locks "
                "end: %s",
                self._queue,
                error,
            )
        if self._background:
            await asyncio.wait(set(self._background))
        self._forget(self)


def _holding(got: BrokerHolding, now: float) -> Holding:
    return Holding(got.number, got.session, now + got.seconds)


def _received(got: BrokerReceived, now: float) -> Received:
    opened = tuple(_holding(holding, now) for holding in got.opened)
    return Received(got.batch, got.receipts, now + got.seconds, opened, got.others_wait)
