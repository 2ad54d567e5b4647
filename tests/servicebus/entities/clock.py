"""Time: what it is, and one heap of timers. Nothing else in `entities` reads a clock.

`SystemClock` is driven by the event loop, `ManualClock` by its test.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count

from tests.servicebus.entities.numbers import finite


class Timer:
    """A call to come. Cancelling it twice, or after it ran, does nothing."""

    __slots__ = ("_clock", "call", "when")

    def __init__(self, clock: Clock, when: float, call: Callable[[], None]) -> None:
        self._clock = clock
        self.when = when
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Make it not run."""
        if self.call is not None:
            self.call = None
            self._clock.forget()


class Clock(ABC):
    """Seconds since the epoch, UTC, and timers in the order of their times, then of making."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._cancelled = 0

    @abstractmethod
    def now(self) -> float:
        """The time."""

    def lead(self) -> float:
        """Seconds that it is ahead of the machine's time, by which clients sign their tokens."""
        return self.now() - _wall()

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call at that time, or as soon as possible when it has passed; never from inside `at`."""
        timer = Timer(self, when, call)
        heapq.heappush(self._heap, (when, next(self._numbers), timer))
        return timer

    def forget(self) -> None:
        """One more timer is cancelled: once they are most of the heap, they are thrown out."""
        self._cancelled += 1
        if self._cancelled > 64 and 2 * self._cancelled > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def _next(self) -> float | None:
        """The time of the next timer that is not cancelled."""
        heap = self._heap
        while heap and heap[0][2].call is None:
            heapq.heappop(heap)
            self._cancelled = max(0, self._cancelled - 1)
        return heap[0][0] if heap else None

    def _run_next(self) -> None:
        """Run what `_next` has found."""
        timer = heapq.heappop(self._heap)[2]
        call, timer.call = timer.call, None
        assert call is not None
        call()


def _wall() -> float:
    return time.time()  # noqa: TID251  this is who owns it here


class ManualClock(Clock):
    """Stands still until it is told to go on.

    Args:
        start: seconds since the epoch; the machine's time unless given, because clients compare
            the ends of locks with that.
    """

    def __init__(self, start: float | None = None) -> None:
        super().__init__()
        self._now = _wall() if start is None else start

    def now(self) -> float:
        """The time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Go on, running each timer that comes due at its own time.

        Raises:
            ValueError: there is no going back, and no end of time.
        """
        if not finite(seconds) or seconds < 0:
            raise ValueError(f"seconds is {seconds!r}: it must be a finite number, 0 or more")
        until = self._now + seconds
        while (when := self._next()) is not None and when <= until:
            self._now = max(self._now, when)
            self._run_next()
        self._now = until


class SystemClock(Clock):
    """The machine's time. `at` needs a running loop, of which it arms one call for the earliest.

    Wall time is read once and carried on by the monotonic clock, so that a step of the machine's
    clock neither ends locks nor prolongs them.
    """

    def __init__(self) -> None:
        super().__init__()
        self._offset = _wall() - time.monotonic()  # noqa: TID251
        self._handle: asyncio.TimerHandle | None = None
        self._armed = 0.0

    def now(self) -> float:
        """The time."""
        return self._offset + time.monotonic()  # noqa: TID251

    def at(self, when: float, call: Callable[[], None]) -> Timer:
        """Call at that time, or on the loop's next turn when it has passed."""
        timer = super().at(when, call)
        self._arm()
        return timer

    def close(self) -> None:
        """Leave the loop alone. The timers stay: who made them still counts on them."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def resume(self) -> None:
        """Go on after `close`: what has come due meanwhile runs on the loop's next turn."""
        self._arm()

    def _arm(self) -> None:
        when = self._next()
        if when is None or (self._handle is not None and self._armed <= when):
            return
        if self._handle is not None:
            self._handle.cancel()
        self._armed = when
        loop = asyncio.get_running_loop()
        self._handle = loop.call_later(max(0.0, when - self.now()), self._fire)

    def _fire(self) -> None:
        self._handle = None
        # Read once: timers that are armed meanwhile for this very moment get the loop's next turn.
        now = self.now()
        try:
            while (when := self._next()) is not None and when <= now:
                self._run_next()
        finally:
            self._arm()
