"""Many instants, one timer.

Messages come and go far more often than their deadlines pass, so nothing is taken out when a key's
business ends: stale keys are skipped when they come due, and thrown out together once they are most
of what there is. Refused: a timer per message, which costs more than the message.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from tests.servicebus.entities.clock import Clock, Timer

Key = TypeVar("Key")


class Known(Protocol):
    """The keys whose deadlines still matter: the dict of whoever owns them."""

    def __len__(self) -> int: ...

    def __contains__(self, key: object, /) -> bool: ...


class Deadlines(Generic[Key]):
    """Keys by their deadlines.

    Args:
        clock: arms the timer.
        known: which keys still matter. A key that is not in it may be forgotten.
        due: called with the keys whose time has come, in order, stale ones among them. It may add
            some again.
    """

    __slots__ = ("_armed", "_clock", "_due", "_heap", "_known", "_timer")

    def __init__(self, clock: Clock, known: Known, due: Callable[[list[Key]], None]) -> None:
        self._clock = clock
        self._known = known
        self._due = due
        self._heap: list[tuple[float, Key]] = []
        self._timer: Timer | None = None
        self._armed = 0.0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, when: float, key: Key) -> None:
        """Remember it. Pairs of a time and a key must be comparable: keys are of one type."""
        heap = self._heap
        heapq.heappush(heap, (when, key))
        if self._timer is None or when < self._armed:
            self._arm(when)
        if len(heap) > 256 and len(heap) > 3 * len(self._known):
            self._tidy()

    def _tidy(self) -> None:
        known = self._known
        self._heap = [entry for entry in self._heap if entry[1] in known]
        heapq.heapify(self._heap)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed = when
        self._timer = self._clock.at(when, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._clock.now()
        heap = self._heap
        keys = []
        while heap and heap[0][0] <= now:
            keys.append(heapq.heappop(heap)[1])
        if keys:
            self._due(keys)
        # What `due` added may have armed it, or put another list in the heap's place.
        heap = self._heap
        known = self._known
        while heap and heap[0][1] not in known:
            heapq.heappop(heap)
        if heap and (self._timer is None or heap[0][0] < self._armed):
            self._arm(heap[0][0])
