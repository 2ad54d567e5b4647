"""Moments at which something happens to a message of a queue."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container

_FEW = 1_000


class Timeline:
    """A heap of (moment, sequence). What became of the message meanwhile is the caller's to see."""

    __slots__ = ("_full", "_heap", "first")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._full = _FEW
        self.first = math.inf  # the earliest moment

    def add(self, when: float, sequence: int, *alive: Container[int]) -> None:
        """Note a moment; now and then forget those that no longer count.

        Args:
            when: `loop.time()`.
            sequence: the message.
            alive: sequences whose moments still count, in one or several collections.
        """
        heap = self._heap
        if len(heap) >= self._full:
            heap[:] = [entry for entry in heap if any(entry[1] in some for some in alive)]
            heapq.heapify(heap)
            self._full = max(_FEW, 2 * len(heap))
        heapq.heappush(heap, (when, sequence))
        self.first = heap[0][0]

    def due(self, now: float) -> list[int]:
        """Take out the sequences whose moment has come, earliest first."""
        found: list[int] = []
        heap = self._heap
        while heap and heap[0][0] <= now:
            found.append(heapq.heappop(heap)[1])
        self.first = heap[0][0] if heap else math.inf
        return found
