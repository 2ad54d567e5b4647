"""The settler: tells the provider how rows ended, in batches, until each one is confirmed or lost.

It owns the calls that settle. It does not own the rows: it names them by their numbers, and tells
the receiver through `Ended` how the provider answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from enum import Enum
from typing import Protocol

from pipeline.clock import Clock
from pipeline.errors import (
    Closed,
    MessageLockLost,
    MessageNotFound,
    QueueError,
    SessionLockLost,
)
from pipeline.providers.port import DeadLetter, Failures, Receipt, Receiver
from pipeline.retry import RetryPolicy

_log = logging.getLogger("queue_runtime.settle")


class How(Enum):
    """How a delivery ended at the provider (SPEC F2)."""

    COMPLETED = "completed"
    DEAD_LETTERED = "dead_lettered"
    ABANDONED = "abandoned"
    RELEASED = "released"
    LOST = "lost"


class Books(Protocol):
    """The receiver as its settler sees it."""

    def receipts(self, rows: Sequence[int]) -> list[Receipt]:
        """The rows' receipts, in their order."""

    def held(self, row: int) -> bool:
        """Whether the row's lock is still ours as far as we know."""

    def ended(self, rows: Sequence[int], how: How) -> None:
        """The provider confirmed, or the lock is gone: the rows have come to their end."""

    def stay(self, rows: Sequence[int]) -> None:
        """They could not be dead-lettered, and nobody waits any longer: they are given back."""


class Settler:
    """Settles rows; one for each receiver.

    Args:
        source: where the rows came from.
        books: the receiver.
        policy: how long to wait between attempts; how many is not limited while the lock is held.
        clock: chance for the jitter.
        fatal: told of a defect after which rows may never end.
    """

    def __init__(
        self,
        source: Receiver,
        books: Books,
        policy: RetryPolicy,
        clock: Clock,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._source = source
        self._books = books
        self._policy = policy
        self._clock = clock
        self._fatal = fatal
        self._completed: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._completing: asyncio.Task[None] | None = None
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """From now on what can't be dead-lettered is given back, after one attempt at least."""
        self._draining.set()

    def complete(self, rows: Sequence[int]) -> None:
        """Complete rows; what gathers while a call is under way goes with the next."""
        self._completed.extend(rows)
        if self._completed and self._completing is None:
            self._completing = self._spawn(self._complete_all())

    def dead_letter(self, rows: Sequence[int], why: Sequence[DeadLetter]) -> None:
        """Dead-letter rows, trying until it is confirmed."""
        reasons = dict(zip(rows, why, strict=True))

        def call(some: Sequence[int]) -> Awaitable[Failures]:
            return self._source.dead_letter(
                self._books.receipts(some), [reasons[row] for row in some]
            )

        self._spawn(self._settle(rows, call, How.DEAD_LETTERED))

    def abandon(self, row: int, delay: float) -> None:
        """Abandon a row: the provider waits the delay."""
        self._spawn(
            self._settle(
                [row],
                lambda some: self._source.abandon(self._books.receipts(some), delay),
                How.ABANDONED,
            )
        )

    def release(self, rows: Sequence[int]) -> None:
        """Give rows back unhandled."""
        self._spawn(
            self._settle(
                rows, lambda some: self._source.release(self._books.receipts(some)), How.RELEASED
            )
        )

    def postpone(self, rows: Sequence[int], due: float) -> None:
        """Give a group's rows back, unhandled: it comes again when it is time for the first one.

        Args:
            rows: of one group, in order.
            due: that time, by the loop's clock.
        """
        self._spawn(self._postpone(rows, due))

    async def _postpone(self, rows: Sequence[int], due: float) -> None:
        """The later ones go first: the lock of the first one keeps the group closed meanwhile."""
        if rows[1:]:
            await self._settle(
                rows[1:],
                lambda some: self._source.release(self._books.receipts(some)),
                How.RELEASED,
            )

        def call(some: Sequence[int]) -> Awaitable[Failures]:
            left = max(due - asyncio.get_running_loop().time(), 0.0)
            return self._source.release(self._books.receipts(some), left)

        await self._settle(rows[:1], call, How.RELEASED)

    def release_session(self, holding: int, rows: Sequence[int]) -> None:
        """Give a whole session back, and with it the rows of it."""

        async def call(some: Sequence[int]) -> Failures:
            failures = await self._source.release_sessions([holding])
            return dict.fromkeys(range(len(some)), failures[0]) if failures else {}

        self._spawn(self._settle(rows, call, How.RELEASED))

    async def close(self) -> None:
        """Wait for the settlements under way."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _spawn(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a settlement ended with a defect of the runtime", exc_info=error)
            self._fatal(error)

    async def _complete_all(self) -> None:
        try:
            while self._completed:
                rows, self._completed = self._completed, []
                left = await self._once(rows, self._call_complete, How.COMPLETED)
                if left:
                    self._spawn(self._settle(left, self._call_complete, How.COMPLETED, attempt=2))
        finally:
            self._completing = None

    def _call_complete(self, rows: Sequence[int]) -> Awaitable[Failures]:
        return self._source.complete(self._books.receipts(rows))

    async def _settle(
        self,
        rows: Sequence[int],
        call: Callable[[Sequence[int]], Awaitable[Failures]],
        how: How,
        attempt: int = 1,
    ) -> None:
        left = list(rows)
        while True:
            if attempt > 1:
                await self._pause(attempt - 1, how)
            lost = [row for row in left if not self._books.held(row)]
            self._books.ended(lost, How.LOST)
            left = [row for row in left if self._books.held(row)]
            if attempt > 1 and how is How.DEAD_LETTERED and self._draining.is_set():
                self._books.stay(left)
                return
            left = await self._once(left, call, how, again=attempt > 1)
            if not left:
                return
            attempt += 1

    async def _pause(self, failed: int, how: How) -> None:
        """Wait for the next attempt; a drain ends the wait for a dead-letter queue."""
        delay = self._policy.delay(failed, self._clock.random())
        if how is not How.DEAD_LETTERED:
            await asyncio.sleep(delay)
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._draining.wait(), delay)

    async def _once(
        self,
        rows: list[int],
        call: Callable[[Sequence[int]], Awaitable[Failures]],
        how: How,
        *,
        again: bool = False,
    ) -> list[int]:
        """One call; returns the rows to try again."""
        if not rows and how is not How.RELEASED:
            return []
        try:
            failures = await call(rows)
        except QueueError as error:
            failures = dict.fromkeys(range(len(rows)), error)
        if again:  # the call before may have done it, and its answer was lost
            failures = {at: e for at, e in failures.items() if not isinstance(e, MessageNotFound)}
        if not failures:
            self._books.ended(rows, how)
            return []
        retried: list[int] = []
        lost: list[int] = []
        for place, failure in failures.items():
            # A row that can't be dead-lettered stays where it is: its session waits (SPEC H4).
            retry = failure.transient or (how is How.DEAD_LETTERED and not _gone(failure))
            (retried if retry else lost).append(rows[place])
        _log.warning(
            "settling %d rows as %s failed (%d are tried again): %s",
            len(failures),
            how.value,
            len(retried),
            next(iter(failures.values())),
        )
        self._books.ended([row for at, row in enumerate(rows) if at not in failures], how)
        self._books.ended(lost, How.LOST)
        return retried


def _gone(error: QueueError) -> bool:
    """Whether the lock or the message is gone, so that no other try can help."""
    return isinstance(error, (MessageLockLost, MessageNotFound, SessionLockLost, Closed))
