"""A queue as its callers meet it: those who wait for a message or a session, and the timer.

Whatever changes a queue goes through `Served.do`, so that time has been caught up with before, and
those who wait are served after.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from pipeline.clock import Clock
from pipeline.errors import QueueError
from pipeline.providers.memory.lane import Lane
from pipeline.providers.memory.queue import BrokerQueue

T = TypeVar("T")


class Moment(NamedTuple):
    """One moment: `now` is the loop's time, `wall` the calendar's."""

    now: float
    wall: float


Attempt: TypeAlias = Callable[[Moment], T]
"""What to do with a queue at a moment."""


class _Waiter(Generic[T]):
    """A pending receive or accept.

    Args:
        lane: whose.
        poll: the caller's number for it.
        attempt: what it waits for; None: not yet.
    """

    __slots__ = ("attempt", "future", "lane", "poll")

    def __init__(self, lane: Lane, poll: int, attempt: Attempt[T | None]) -> None:
        self.lane = lane
        self.poll = poll
        self.attempt = attempt
        self.future: asyncio.Future[T | None] = asyncio.get_running_loop().create_future()

    def end(self, error: QueueError | None = None) -> None:
        """The wait is over."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)

    def brought(self) -> T | None:
        """What it was served, if it was."""
        future = self.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return None
        return future.result()


class Served:
    """One queue and its dead letters, with those who wait at either.

    Args:
        queue: the messages.
        clock: the calendar's time.
    """

    def __init__(self, queue: BrokerQueue, clock: Clock) -> None:
        self.queue = queue
        self._clock = clock
        # The longest waiting first: fair, for everyone who is served waits again behind the others.
        self._waiters: dict[_Waiter[Any], None] = {}
        self._rings_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def do(self, attempt: Attempt[T]) -> T:
        """Do something with the queue now."""
        at = Moment(asyncio.get_running_loop().time(), self._clock.now())
        self._catch_up(at)
        result = attempt(at)
        self._serve(at)
        return result

    async def first(
        self,
        lane: Lane,
        poll: int,
        wait: float,
        attempt: Attempt[T | None],
        undo: Callable[[T], Attempt[object]],
    ) -> T | None:
        """What an attempt brings, at once or as soon as it brings something within the wait.

        Args:
            lane: whose attempt.
            poll: the caller's number for it.
            wait: seconds; 0 tries once.
            attempt: None: nothing yet.
            undo: takes back what was brought to a caller who was cancelled before he saw it.
        """
        if poll in lane.ended:
            return None
        found = self.do(attempt)
        if found is not None or wait <= 0:
            return found
        waiter: _Waiter[T] = _Waiter(lane, poll, attempt)
        self._waiters[waiter] = None
        timer = asyncio.get_running_loop().call_later(wait, waiter.end)
        try:
            return await waiter.future
        except asyncio.CancelledError:
            late = waiter.brought()
            if late is not None:
                self.do(undo(late))
            raise
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def end_poll(self, lane: Lane, poll: int) -> None:
        """End one wait, or note that it is over before it began: calls may overtake one another."""
        for waiter in self._waiters:
            if waiter.lane is lane and waiter.poll == poll:
                waiter.end()
                return
        lane.ended.add([poll])

    def end_all(self, lane: Lane, error: QueueError) -> None:
        """End all waits of a lane."""
        for waiter in self._waiters:
            if waiter.lane is lane:
                waiter.end(error)

    def _catch_up(self, at: Moment) -> None:
        if at.now >= self.queue.next_at:
            self.queue.catch_up(at.now, at.wall)
            self._serve(at)

    def _serve(self, at: Moment) -> None:
        for waiter in self._waiters:
            if not waiter.future.done():
                found = waiter.attempt(at)
                if found is not None:
                    waiter.future.set_result(found)
        when = self.queue.next_at
        if when < self._rings_at:
            if self._timer is not None:
                self._timer.cancel()
            self._rings_at = when
            self._timer = asyncio.get_running_loop().call_at(when, self._ring)

    def _ring(self) -> None:
        when, self._rings_at, self._timer = self._rings_at, math.inf, None
        # The loop may ring a clock's tick early; then it is time all the same.
        at = Moment(max(when, asyncio.get_running_loop().time()), self._clock.now())
        self._catch_up(at)
        self._serve(at)
