"""Every message of one queue, wherever it is: waiting, scheduled, delayed, set aside or in hand.

It owns what happens to a message by itself: its time comes, it expires, it was delivered too often.
Who has it in hand, and under which lock, is `BrokerQueue`'s. `now` is the loop's time, `wall` the
calendar's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from pipeline.batch import MessageBatch
from pipeline.errors import MessageNotFound
from pipeline.message import Row
from pipeline.outcomes import Reason
from pipeline.providers.memory.admission import Room
from pipeline.providers.memory.calls import Counters
from pipeline.providers.memory.columns import batch_of
from pipeline.providers.memory.orders import Order
from pipeline.providers.memory.settings import Rules
from pipeline.providers.memory.stored import AGAIN, ASIDE, EXTRA, PLAIN, Stored, by_sequence
from pipeline.providers.memory.timeline import Timeline
from pipeline.providers.port import DeadLetter, Depth

_TIME_TO_LIVE, _NOT_BEFORE = 3, 4
"""Where these stand in `Stored.rest`."""
_SET_ANEW = 0.01
"""Seconds by which two readings of the same clocks never differ."""


class Store:
    """The messages of a queue, or its dead letters.

    Args:
        rules: what the queue was told.
        order: the messages that wait.
        room: what the queue and its dead letters hold together.
        dead: the dead letters; None: these are they.
    """

    def __init__(self, rules: Rules, order: Order, room: Room, dead: Store | None) -> None:
        self.counters = Counters()
        self._rules = rules
        self._order = order
        self._room = room
        self._dead = dead or self
        self._stored: dict[int, Stored] = {}  # all of them, by ascending sequence
        self._scheduled: dict[int, Stored] = {}  # their time to be enqueued has not come
        self._delayed: dict[int, Stored] = {}  # given back with a delay
        self._deferred: dict[int, Stored] = {}
        self._calendar = 0.0
        self._due = Timeline()
        self._expiry = Timeline()

    @property
    def next_at(self) -> float:
        """When the next thing happens by itself."""
        return min(self._due.first, self._expiry.first)

    # Coming in.

    def take_in(self, rows: Sequence[Row], sizes: Sequence[int], now: float, wall: float) -> range:
        """Take messages in, and give them these sequences."""
        room = self._room
        sequences = range(room.sequence + 1, room.sequence + 1 + len(rows))
        room.sequence += len(rows)
        room.messages += len(rows)
        room.bytes += sum(sizes)
        records = [
            Stored(sequence, row, size, wall)
            for sequence, row, size in zip(sequences, rows, sizes, strict=True)
        ]
        self._stored.update(zip(sequences, records, strict=True))
        self.counters.sent += len(rows)
        special = [record for record in records if record.rest is not PLAIN]
        for record in special:
            record.marks = EXTRA
            not_before = record.rest[_NOT_BEFORE] or 0.0
            if not_before > wall:
                self._scheduled[record.sequence] = record
                self._wait_until(not_before - self._ahead(now, wall), record.sequence)
        if special and self._scheduled:
            records = [record for record in records if record.sequence not in self._scheduled]
        self._enqueue(records, now)
        return sequences

    def _ahead(self, now: float, wall: float) -> float:
        """How far the calendar is ahead of the loop's time, the same for all until it is set anew.

        The two are read one after the other: from reading to reading the difference is never quite
        the same, and messages for one and the same time would come in any order.
        """
        if abs(wall - now - self._calendar) > _SET_ANEW:
            self._calendar = wall - now
        return self._calendar

    def _enqueue(self, records: Sequence[Stored], now: float) -> None:
        lives = self._rules.time_to_live
        mortal = records
        if lives == math.inf:
            mortal = [record for record in records if record.rest[_TIME_TO_LIVE]]
        for record in mortal:
            record.expires = now + min(lives, record.rest[_TIME_TO_LIVE] or math.inf)
            self._expiry.add(record.expires, record.sequence, self._stored)
        self._order.add(records)

    def _wait_until(self, when: float, sequence: int) -> None:
        self._due.add(when, sequence, self._scheduled, self._delayed)

    def cancel(self, sequence: int) -> None:
        """Take back a scheduled message."""
        record = self._scheduled.pop(sequence, None)
        if record is None:
            raise MessageNotFound(
                f"no message {sequence} is scheduled on queue {self._rules.name}: "
                "its time has come, or it was cancelled before"
            )
        self.forget([record])

    # Deferred ones.

    def deferred(self, sequences: Sequence[int]) -> list[Stored]:
        """Messages that were set aside, in order; all of them or `MessageNotFound`."""
        found: list[Stored] = []
        for sequence in set(sequences):
            record = self._deferred.get(sequence)
            if record is None:
                raise MessageNotFound(
                    f"no message {sequence} is deferred on queue {self._rules.name}"
                )
            found.append(record)
        return sorted(found, key=by_sequence)

    def fetch(self, records: Iterable[Stored]) -> None:
        """Deferred messages go into a hand."""
        for record in records:
            del self._deferred[record.sequence]

    # Again, or never.

    def again(self, records: Iterable[Stored], now: float, *, by: int, delay: float = 0.0) -> None:
        """These left a hand to be delivered again, unless they may not.

        Args:
            records: the messages.
            now: the time.
            by: how much their delivery count grows.
            delay: seconds until then.
        """
        waiting: list[Stored] = []
        for record in records:
            record.locked_until = 0.0
            record.marks |= AGAIN
            record.count += by
            if record.count > self._rules.max_deliveries:
                self.bury(record, DeadLetter(Reason.MAX_DELIVERIES))
            elif record.expires <= now:
                self._expire(record)
            elif record.marks & ASIDE:
                self._deferred[record.sequence] = record
            elif delay > 0:
                self._delayed[record.sequence] = record
                self._order.keep_back(record)
                self._wait_until(now + delay, record.sequence)
            else:
                waiting.append(record)
        if waiting:
            self._order.put_back(waiting)

    def forget(self, records: Sequence[Stored]) -> None:
        """These are gone."""
        stored = self._stored
        for record in records:
            del stored[record.sequence]
        self._room.messages -= len(records)
        self._room.bytes -= sum([record.size for record in records])

    def bury(self, record: Stored, why: DeadLetter) -> None:
        """This one becomes a dead letter; its room goes with it, so that it always fits."""
        del self._stored[record.sequence]
        self.counters.dead_lettered += 1
        self._dead.take_dead(record, why)

    def take_dead(self, record: Stored, why: DeadLetter) -> None:
        """A message of the queue comes in as a dead letter, under a sequence of its own."""
        sequence = self._room.next_sequence()
        buried = Stored(sequence, record.row, record.size, record.enqueued_at)
        buried.marks = record.marks & EXTRA
        buried.why = why
        self._stored[sequence] = buried
        self._order.add([buried])

    def _expire(self, record: Stored) -> None:
        self.counters.expired += 1
        if self._rules.drop_expired:
            self.counters.dropped += 1
            self.forget([record])
        else:
            self.bury(record, DeadLetter(Reason.EXPIRED))

    # Time.

    def catch_up(self, now: float, wall: float) -> None:
        """Enqueue what is due, end what expired."""
        for sequence in self._due.due(now):
            self._come_due(sequence, now, wall)
        for sequence in self._expiry.due(now):
            self._come_to_an_end(sequence)

    def _come_due(self, sequence: int, now: float, wall: float) -> None:
        if sequence in self._delayed:
            record = self._delayed.pop(sequence)
            self._order.put_back([record])
            self._order.go_on(record)
        elif sequence in self._scheduled:
            # As if sent now: behind all that is there, so that no session goes backwards.
            record = self._scheduled.pop(sequence)
            del self._stored[sequence]
            record.sequence = self._room.next_sequence()
            record.enqueued_at = wall
            self._stored[record.sequence] = record
            self._enqueue([record], now)

    def _come_to_an_end(self, sequence: int) -> None:
        record = self._stored.get(sequence)
        if record is None or record.locked_until:
            return  # one in hand is judged when it is given back
        aside = self._deferred.pop(sequence, None)
        later = self._delayed.pop(sequence, None)
        self._expire(record)
        if later is not None:
            self._order.go_on(record)
        elif aside is None:
            self._order.drop(record)

    # Looking.

    def peek(self, count: int, after: int) -> MessageBatch:
        """Up to `count` messages above a sequence, whatever their state."""
        above = (record for sequence, record in self._stored.items() if sequence > after)
        records = list(islice(above, max(0, count)))
        zeros = [0] * len(records)
        return batch_of(records, zeros, zeros, AGAIN | EXTRA)

    def depth(self, in_hand: int, wall: float) -> Depth:
        """How much there is."""
        later = len(self._scheduled) + len(self._delayed)
        aside = len(self._deferred)
        available = len(self._stored) - in_hand - later - aside
        oldest = None
        if available:
            oldest = max(0.0, wall - next(filter(self._waits, self._stored.values())).enqueued_at)
        return Depth(available, in_hand, later, aside, self._dead.total, oldest)

    @property
    def total(self) -> int:
        """How many messages, wherever they are."""
        return len(self._stored)

    def _waits(self, record: Stored) -> bool:
        return not (
            record.locked_until
            or record.sequence in self._scheduled
            or record.sequence in self._delayed
            or record.sequence in self._deferred
        )
