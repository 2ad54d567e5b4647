"""The one place that asks the machine for wall-clock time, randomness and new ids.

Durations and deadlines are the running loop's (`loop.time()`), so that a virtual loop moves them.
What cannot come from the loop, the calendar's time and chance, is passed as a `Clock`, so that a
test or a simulation gives its own.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Clock(Protocol):
    """Calendar time, chance and ids, as an argument."""

    def now(self) -> float:
        """Seconds since 1970, as other machines would see them."""

    def random(self) -> float:
        """A number in [0, 1) for jitter; never for secrets."""

    def new_id(self) -> str:
        """32 hexadecimal digits that no other call gives."""


class SystemClock:
    """The machine's own time and chance."""

    def __init__(self) -> None:
        self._random = random.Random()  # noqa: S311 - jitter, never secrets

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def random(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """32 hexadecimal digits from the operating system's generator."""
        return os.urandom(16).hex()


monotonic = time.monotonic
"""Seconds that only grow, for code that runs on a thread without a loop."""


def new_id() -> str:
    """32 hexadecimal digits that no other call gives: a message's id when its sender gave none."""
    return os.urandom(16).hex()


@dataclass(slots=True)
class SeededClock:
    """A clock for tests: time follows a function, chance and ids follow a seed.

    Args:
        time: gives the seconds to add to `start`; a VirtualLoop's `time` as a rule.
        seed: what chance and ids are made from.
        start: the calendar's time, in seconds since 1970, when `time` says 0.
    """

    time: Callable[[], float]
    seed: int = 0
    start: float = 1_700_000_000.0
    _random: random.Random = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311 - repeatable on purpose

    def now(self) -> float:
        """Seconds since 1970, as far as the test's time has come."""
        return self.start + self.time()

    def random(self) -> float:
        """The seed's next number in [0, 1)."""
        return self._random.random()

    def new_id(self) -> str:
        """The seed's next 32 hexadecimal digits."""
        return f"{self._random.getrandbits(128):032x}"
