"""Bytes on their way: in their order, each piece not before its time.

It owns latency and pauses. A timer that is late must not let the next piece past: what waits here
leaves first, whatever the clock says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from tests.servicebus.entities.clock import Clock


class Late:
    """One direction of a connection.

    Args:
        clock: the server's.
        take: gets each piece when its time has come.
    """

    def __init__(self, clock: Clock, take: Callable[[bytes], None]) -> None:
        self._clock = clock
        self._take = take
        self._due = 0.0  # nothing leaves before that
        self._waiting: deque[bytes] = deque()

    def put(self, data: bytes, latency: float) -> None:
        """Hand it on after so many seconds, and after all that was put before."""
        now = self._clock.now()
        self._due = max(now + latency, self._due)
        if self._due <= now and not self._waiting:
            self._take(data)
        else:
            self._waiting.append(data)
            self._clock.at(self._due, self._next)

    def pause(self, seconds: float) -> None:
        """What is put next goes that much later."""
        self._due += seconds

    def afterwards(self, call: Callable[[], None]) -> None:
        """Call when everything has been handed on."""
        if self._due <= self._clock.now() and not self._waiting:
            call()
        else:
            self._clock.at(self._due, call)

    def _next(self) -> None:
        self._take(self._waiting.popleft())
