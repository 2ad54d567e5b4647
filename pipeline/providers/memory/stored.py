"""A message as the broker keeps it, and the line in which it waits for its turn."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import Any

from pipeline.message import Row
from pipeline.providers.port import DeadLetter

AGAIN = 1
"""Mark: it was delivered before."""
EXTRA = 2
"""Mark: it has more than id, session and body."""
GONE = 4
"""Mark: it expired in its line, which passes over it."""
ASIDE = 8
"""Mark: it was deferred; given back, it stays aside."""
PLAIN = (None,) * 8
"""What follows id, session and body in most rows."""

by_sequence = attrgetter("sequence")


class Stored:
    """One message: its row as sent, and what the broker knows of it.

    The row is taken apart: each object less that a message consists of is one less to be fetched
    from memory when it is delivered and when it ends.

    Args:
        sequence: the queue's number for it.
        row: the message, as `pipeline.message.to_row` made it.
        size: bytes of body and attributes.
        enqueued_at: seconds since 1970.
    """

    __slots__ = (
        "body",
        "count",
        "enqueued_at",
        "expires",
        "home",
        "id",
        "locked_until",
        "marks",
        "next",
        "rest",
        "sequence",
        "session",
        "size",
        "why",
    )

    def __init__(
        self,
        sequence: int,
        row: Row,
        size: int,
        enqueued_at: float,
    ) -> None:
        self.sequence = sequence
        self.id: str = row[0]
        self.session: Any = row[1]  # str; None only where messages have no order
        self.body: bytes = row[2]
        rest = row[3:]
        self.rest: Row = PLAIN if rest == PLAIN else rest
        self.size = size
        self.enqueued_at = enqueued_at
        self.expires = math.inf  # loop.time()
        self.marks = 0
        self.why: DeadLetter | None = None  # a dead letter's
        self.count = 1  # the delivery count that its next delivery will show
        self.locked_until = 0.0  # loop.time(); 0: nobody has it in hand
        self.next: Stored | None = None
        self.home: Any = None  # the group or session whose line it waits in

    @property
    def row(self) -> Row:
        """The message as it was sent."""
        return (self.id, self.session, self.body, *self.rest)


class Line:
    """Messages that wait, in ascending sequence; linked through the messages themselves.

    A deque a session would take 600 bytes for each of a million sessions with one message.
    """

    __slots__ = ("gone", "head", "live", "tail")

    def __init__(self) -> None:
        self.head: Stored | None = None
        self.tail: Stored | None = None
        self.live = 0
        self.gone = 0

    def append(self, record: Stored) -> None:
        """Put a message at the end."""
        if self.tail is None:
            self.head = record
        else:
            self.tail.next = record
        self.tail = record
        self.live += 1

    def take(self, room: int, budget: int, taken: list[Stored]) -> tuple[int, int]:
        """Take up to `room` messages from the front, until `budget` bytes are reached.

        Args:
            room: how many.
            budget: how many bytes.
            taken: they are put at the end of it.

        Returns:
            How many they are, and the bytes left of the budget.
        """
        before = len(taken)
        record = self.head
        while record is not None and room > 0 and budget > 0:
            follow = record.next
            record.next = None  # or a message in hand would keep all behind it in memory
            if record.marks & GONE:
                self.gone -= 1
            else:
                taken.append(record)
                budget -= record.size
                room -= 1
            record = follow
        self.head = record
        count = len(taken) - before
        self._shrink(count)
        return count, budget

    def put_back(self, records: list[Stored]) -> None:
        """Put messages where their sequence belongs: in front, as a rule."""
        records.sort(key=by_sequence)
        previous: Stored | None = None
        current = self.head
        for record in records:
            while current is not None and current.sequence < record.sequence:
                previous, current = current, current.next
            record.next = current
            if previous is None:
                self.head = record
            else:
                previous.next = record
            previous = record
        if current is None:
            self.tail = previous
        self.live += len(records)

    def put_first(self, records: list[Stored]) -> None:
        """Put messages in front of all others, in ascending sequence among themselves."""
        records.sort(key=by_sequence, reverse=True)
        for record in records:
            record.next = self.head
            self.head = record
            if self.tail is None:
                self.tail = record
        self.live += len(records)

    def drop(self, record: Stored) -> None:
        """A message in this line ends here: pass over it, and forget its contents."""
        record.marks |= GONE
        record.body, record.rest = b"", PLAIN
        self.gone += 1
        self._shrink(1)
        if self.gone > self.live + 64:
            self._compact()

    def _shrink(self, by: int) -> None:
        self.live -= by
        if not self.live:
            self.head = self.tail = None
            self.gone = 0

    def _compact(self) -> None:
        record, self.head, self.tail, self.live, self.gone = self.head, None, None, 0, 0
        while record is not None:
            follow = record.next
            record.next = None
            if not record.marks & GONE:
                self.append(record)
            record = follow
