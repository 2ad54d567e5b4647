"""The two clocks of the endpoint, and one that tests move by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]

monotonic: Clock = time.monotonic
"""Seconds that only grow: what visibility, delays and windows are measured by."""
calendar: Clock = time.time
"""Seconds since 1970: what time stamps and signatures say."""


class MovableClock:
    """A clock that stands still until it is moved; the endpoint is told to `look_again` then.

    Args:
        now: seconds that it begins with.
    """

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds
