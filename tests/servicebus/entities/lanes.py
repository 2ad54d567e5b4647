"""Messages in the order of their sequence numbers: to be delivered, or to be looked at."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterator

from tests.servicebus.entities.stored import Stored


class Lane:
    """A line of messages: that of a queue, or of one session.

    New messages come with rising numbers and wait in a deque. What is put back, or comes with an
    older number, waits in a heap beside it: the next message is the lesser of the two heads. One
    that is taken out of the middle stays in its place as a gap, known by its `lane`, until it is
    reached or gaps are most of what there is.
    """

    __slots__ = ("_fresh", "_gaps", "_older")

    def __init__(self) -> None:
        self._fresh: deque[Stored] = deque()
        self._older: list[tuple[int, Stored]] = []
        self._gaps = 0

    def __len__(self) -> int:
        return len(self._fresh) + len(self._older) - self._gaps

    def put(self, message: Stored) -> None:
        """In its place."""
        message.lane = self
        fresh = self._fresh
        if not fresh or message.sequence > fresh[-1].sequence:
            # An empty deque takes any: what comes later with a lesser number goes into the heap.
            fresh.append(message)
        else:
            heapq.heappush(self._older, (message.sequence, message))

    def take(self) -> Stored | None:
        """The first one, which is no longer here; None when there is none."""
        if self._gaps:
            self._skip()
        fresh, older = self._fresh, self._older
        if older and (not fresh or older[0][0] < fresh[0].sequence):
            message = heapq.heappop(older)[1]
        elif fresh:
            message = fresh.popleft()
        else:
            return None
        message.lane = None
        return message

    def first(self) -> Stored | None:
        """The first one, which stays."""
        if self._gaps:
            self._skip()
        fresh, older = self._fresh, self._older
        if older and (not fresh or older[0][0] < fresh[0].sequence):
            return older[0][1]
        return fresh[0] if fresh else None

    def discard(self, message: Stored) -> None:
        """Take it out wherever it is. It must be here, and must not come back."""
        message.lane = None
        self._gaps += 1
        if self._gaps > 64 and 2 * self._gaps > len(self._fresh) + len(self._older):
            self._fresh = deque(each for each in self._fresh if each.lane is self)
            self._older = [entry for entry in self._older if entry[1].lane is self]
            heapq.heapify(self._older)
            self._gaps = 0

    def _skip(self) -> None:
        """Throw out the gaps at the heads."""
        fresh, older = self._fresh, self._older
        while fresh and fresh[0].lane is not self:
            fresh.popleft()
            self._gaps -= 1
        while older and older[0][1].lane is not self:
            heapq.heappop(older)
            self._gaps -= 1


def in_order(stores: list[dict[int, Stored]], start: int) -> Iterator[Stored]:
    """All of them with numbers from `start` on. The dicts must not change meanwhile.

    Their keys are nearly in order, which sorting makes use of. Refused: an index by number, which
    every message would pay for so that peeking, which is rare, costs less.
    """
    by_number = {number: each for store in stores for number, each in store.items()}
    for number in sorted(number for number in by_number if number >= start):
        yield by_number[number]
