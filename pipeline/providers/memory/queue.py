"""One queue of the broker, or its dead letters: who has what in hand, and how that ends.

Every decision, synchronous and without I/O. `now` is the loop's time, `wall` the calendar's; both
come as arguments. Waiting callers and timers are `waiting`'s, which asks `next_at` when to call
`catch_up`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import cast

from pipeline.batch import MessageBatch
from pipeline.errors import (
    MessageLockLost,
    MessageNotFound,
    QueueError,
    SessionLockLost,
    SessionNotFound,
    Unsupported,
    ValidationError,
)
from pipeline.message import Row
from pipeline.providers.memory.admission import Admission, Room
from pipeline.providers.memory.calls import BrokerHolding, BrokerReceived, BrokerSent
from pipeline.providers.memory.columns import batch_of
from pipeline.providers.memory.lane import Lane
from pipeline.providers.memory.orders import Groups, Numbers, Order, Picked, Unordered
from pipeline.providers.memory.sessions import Session, Sessions
from pipeline.providers.memory.settings import Rules, dead_letter_rules
from pipeline.providers.memory.store import Store
from pipeline.providers.memory.stored import AGAIN, ASIDE, Stored
from pipeline.providers.port import DeadLetter, Depth, Failures, Want


@dataclass(frozen=True, slots=True)
class Taken:
    """What one receive took, before it is made a batch.

    Args:
        picked: the messages.
        tokens: one a message: its receipt.
        locked_until: one a message, seconds since 1970.
        marks: their marks, or-ed.
    """

    picked: Picked
    tokens: range
    locked_until: list[float]
    marks: int


class BrokerQueue:
    """One queue, or the dead letters of one.

    Args:
        rules: what it was told.
        numbers: the broker's counters.
        of: the queue whose dead letters these are.
    """

    def __init__(self, rules: Rules, numbers: Numbers, of: BrokerQueue | None = None) -> None:
        self.rules = rules
        self.room: Room = Room() if of is None else of.room
        self.native = Sessions(numbers, rules.lock) if rules.dialect == "native" else None
        self.dead: BrokerQueue | None = None
        if of is None:
            self.dead = BrokerQueue(dead_letter_rules(rules), numbers, self)
        self._numbers = numbers
        self._order: Order = self.native or (
            Groups(numbers) if rules.dialect == "groups" else Unordered(numbers)
        )
        self._admission = Admission(rules, self.room)
        dead: Store | None = None if self.dead is None else self.dead.store
        self.store: Store = Store(rules, self._order, self.room, dead)
        self._lanes: dict[int, Lane] = {}
        self._locks_at = math.inf  # no lock ends before

    @property
    def next_at(self) -> float:
        """Nothing happens by itself before this time, in the queue or its dead letters."""
        when = min(self._locks_at, self.store.next_at)
        return when if self.dead is None else min(when, self.dead.next_at)

    def send(self, rows: Sequence[Row], now: float, wall: float) -> BrokerSent:
        """Take messages in; after a refusal the later ones of its session fail with it."""
        admitted = self._admission.admit(rows, now)
        taken = self.store.take_in(admitted.rows, admitted.sizes, now, wall)
        if len(taken) == len(rows):
            return BrokerSent(taken)
        self.store.counters.duplicates += len(admitted.duplicates)
        sequences = [0] * len(rows)
        for position, sequence in zip(admitted.positions, taken, strict=True):
            sequences[position] = sequence
        return BrokerSent(sequences, admitted.duplicates, admitted.failures)

    # Going out.

    def join(self, lane: Lane) -> None:
        """A lane receives from here."""
        self._lanes[lane.number] = lane

    def take(self, lane: Lane, want: Want, now: float, wall: float) -> Taken | None:
        """Lock what one receive may have; None when there is nothing."""
        picked = self._order.pick(lane, want, now)
        return self._lock(lane, picked, now, wall) if picked.records else None

    def take_deferred(self, lane: Lane, sequences: Sequence[int], now: float, wall: float) -> Taken:
        """Lock messages that were set aside, all of them or none."""
        records = self.store.deferred(sequences)
        if self.native:
            homes = [self.native.home_of(record, lane) for record in records]
            for record, home in zip(records, homes, strict=True):
                record.home = home
        self.store.fetch(records)
        return self._lock(lane, self._order.hold(records), now, wall)

    def _lock(self, lane: Lane, picked: Picked, now: float, wall: float) -> Taken:
        records = picked.records
        ends = now + self.rules.lock
        self._locks_at = min(self._locks_at, ends)
        deadline = math.inf if self.native else ends  # a session's message has no lock of its own
        marks = 0
        for record in records:
            record.locked_until = deadline
            marks |= record.marks
        numbers = self._numbers
        tokens = range(numbers.token, numbers.token + len(records))
        numbers.token = tokens.stop
        lane.hand.update(zip(tokens, records, strict=True))
        self.store.counters.received += len(records)
        if marks & AGAIN:
            self.store.counters.redelivered += sum([record.marks & AGAIN for record in records])
        if self.native:
            locked_until = [deadline - now + wall for deadline in picked.deadlines]
        else:
            locked_until = [wall + self.rules.lock] * len(records)
        return Taken(picked, tokens, locked_until, marks)

    def received(self, taken: Taken | None) -> BrokerReceived:
        """What was taken, as it goes to the receiver."""
        seconds = math.inf if self.native else self.rules.lock
        if taken is None:
            waits = self.native is not None and self.native.first_free() is not None
            return BrokerReceived(MessageBatch.empty(), (), seconds, (), waits)
        picked = taken.picked
        return BrokerReceived(
            batch_of(picked.records, picked.holdings, taken.locked_until, taken.marks),
            taken.tokens,
            seconds,
            picked.opened,
            picked.others_wait,
        )

    def give_back(self, lane: Lane, taken: Taken, now: float) -> None:
        """What was taken reached nobody: it comes again, and the sessions are free again."""
        tokens = [token for token in taken.tokens if token in lane.hand]
        self.release(lane, tokens, now)
        if taken.picked.opened:
            self.release_sessions(lane, [holding.number for holding in taken.picked.opened], now)

    # Settling.

    def complete(self, lane: Lane, receipts: Sequence[int]) -> Failures:
        """They are done with."""
        records, failures = self._pull(lane, receipts)
        self.store.forget(records)
        self._order.settle(records)
        self.store.counters.completed += len(records)
        return failures

    def abandon(self, lane: Lane, receipts: Sequence[int], delay: float, now: float) -> Failures:
        """They failed: again, counted, and where the dialect can, later."""
        if delay > 0 and not self.rules.can_delay:
            raise Unsupported(
                "abandon with a delay", f"memory queue {self.rules.name}", "hold the message"
            )
        records, failures = self._pull(lane, receipts)
        self.store.again(records, now, by=1, delay=delay)
        self._order.settle(records)
        self.store.counters.abandoned += len(records)
        return failures

    def release(
        self, lane: Lane, receipts: Sequence[int], now: float, delay: float = 0.0
    ) -> Failures:
        """Nobody handled them: again; with a delay later, and with them their groups."""
        if delay > 0 and self.rules.dialect != "groups":
            where = f"memory queue {self.rules.name}"
            raise Unsupported("release with a delay", where, "only `sessions: groups` can")
        records, failures = self._pull(lane, receipts)
        self.store.again(records, now, by=self.rules.unhandled, delay=delay)
        self._order.settle(records)
        self.store.counters.released += len(records)
        return failures

    def dead_letter(
        self, lane: Lane, receipts: Sequence[int], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""
        if len(reasons) != len(receipts):
            rule = f"must be one for each of the {len(receipts)} receipts"
            raise ValidationError("reasons", rule, len(reasons))
        if self.dead is None:
            raise Unsupported("dead_letter", f"memory queue {self.rules.name}", "complete it")
        records, failures = self._pull(lane, receipts)
        given = [why for position, why in enumerate(reasons) if position not in failures]
        for record, why in zip(records, given, strict=True):
            self.store.bury(record, why)
        self._order.settle(records)
        return failures

    def defer(self, lane: Lane, receipts: Sequence[int], now: float) -> Failures:
        """Set them aside; given back after `take_deferred`, they are aside again."""
        if self.dead is None:  # `receive_deferred` asks the queue, not its dead letters
            hint = "complete it, or keep it and renew it"
            raise Unsupported("defer", f"the dead letters of {self.rules.name}", hint)
        records, failures = self._pull(lane, receipts)
        for record in records:
            record.marks |= ASIDE
        self.store.again(records, now, by=self.rules.unhandled)
        self._order.settle(records)
        return failures

    def renew(self, lane: Lane, receipts: Sequence[int], now: float) -> Failures:
        """Prolong message locks."""
        if self.native:
            raise Unsupported(
                "renew", f"memory queue {self.rules.name}", "renew the session: renew_sessions"
            )
        hand = lane.hand
        failures: Failures = {}
        for position, token in enumerate(receipts):
            record = hand.pop(token, None)
            if record is None:
                failures[position] = self._ended(lane, token)
            else:
                record.locked_until = now + self.rules.lock
                hand[token] = record
        return failures

    def _pull(self, lane: Lane, receipts: Sequence[int]) -> tuple[list[Stored], Failures]:
        """Take messages out of a hand: those that were in it."""
        pop = lane.hand.pop
        found = [pop(token, None) for token in receipts]
        if all(found):
            return cast("list[Stored]", found), {}
        records = [record for record in found if record is not None]
        failures = {
            position: self._ended(lane, receipts[position])
            for position, record in enumerate(found)
            if record is None
        }
        return records, failures

    def _ended(self, lane: Lane, token: int) -> QueueError:
        if token in lane.lost:
            return MessageLockLost(
                f"the lock of a message of queue {self.rules.name} ended: it comes again"
            )
        return MessageNotFound(
            f"no message of queue {self.rules.name} is in hand under this receipt: "
            "it was settled before, or another receiver has it"
        )

    # Sessions and lanes.

    def accept(self, lane: Lane, session: str | None, now: float) -> BrokerHolding | None:
        """Lock a named session, or the next free one with messages; None: not now."""
        native = self.sessions("accept")
        found = native.first_free() if session is None else native.find(session)
        if found is None or found.lane is not None:
            return None
        self._locks_at = min(self._locks_at, now + self.rules.lock)
        return native.open(found, lane, now)

    def renew_sessions(self, lane: Lane, holdings: Sequence[int], now: float) -> Failures:
        """Prolong session locks."""
        native = self.sessions("renew_sessions")
        failures: Failures = {}
        for position, holding in enumerate(holdings):
            session = lane.sessions.get(holding)
            if session is None:
                failures[position] = _not_held(lane, holding)
            else:
                native.renew(session, lane, now)
        return failures

    def release_sessions(self, lane: Lane, holdings: Sequence[int], now: float) -> Failures:
        """End holdings: what is in their hands comes again, unhandled."""
        native = self.sessions("release_sessions")
        failures: Failures = {}
        for position, holding in enumerate(holdings):
            session = lane.sessions.get(holding)
            if session is None:
                failures[position] = _not_held(lane, holding)
            else:
                hand = native.let_go(session, lane)
                self.store.counters.released += len(hand)
                self.store.again(hand.values(), now, by=self.rules.unhandled)
                native.offer(session)
        return failures

    def held(self, lane: Lane, holding: int, operation: str) -> Session:
        """A session that the lane holds."""
        self.sessions(operation)
        session = lane.sessions.get(holding)
        if session is None:
            raise _not_held(lane, holding)
        return session

    def sessions(self, operation: str) -> Sessions:
        """The sessions, where the dialect has any."""
        if self.native is None:
            where = f"memory queue {self.rules.name}"
            raise Unsupported(operation, where, "only `sessions: native` locks sessions")
        return self.native

    def close(self, lane: Lane, now: float) -> None:
        """Give back all that a lane has."""
        if lane.sessions:
            self.release_sessions(lane, list(lane.sessions), now)
        self.release(lane, list(lane.hand), now)
        del self._lanes[lane.number]

    # Time.

    def catch_up(self, now: float, wall: float) -> None:
        """Do what time has brought: locks that ended, messages that are due or expired."""
        if self.dead is not None:
            self.dead.catch_up(now, wall)
        if now >= self._locks_at:
            for lane in self._lanes.values():
                if self.native is None:
                    self._end_locks(lane, now)
                else:
                    self._end_session_locks(self.native, lane, now)
            self._locks_at = min(map(_first_lock, self._lanes.values()), default=math.inf)
        self.store.catch_up(now, wall)

    def _end_session_locks(self, native: Sessions, lane: Lane, now: float) -> None:
        late = takewhile(lambda session: session.deadline <= now, lane.sessions.values())
        for session in list(late):
            lane.lost_sessions.add([session.holding])
            hand = native.let_go(session, lane)
            lane.lost.add(hand)
            self._lose(list(hand.values()), now)
            native.offer(session)

    def _end_locks(self, lane: Lane, now: float) -> None:
        late = takewhile(lambda item: item[1].locked_until <= now, lane.hand.items())
        tokens = [token for token, _ in late]
        if tokens:
            records, _ = self._pull(lane, tokens)
            lane.lost.add(tokens)
            self._lose(records, now)
            self._order.settle(records)

    def _lose(self, records: Sequence[Stored], now: float) -> None:
        self.store.counters.lock_lost += len(records)
        self.store.again(records, now, by=1)

    def depth(self, wall: float) -> Depth:
        """How much there is."""
        return self.store.depth(sum([len(lane.hand) for lane in self._lanes.values()]), wall)


def _first_lock(lane: Lane) -> float:
    """When the first of a lane's locks ends."""
    session = next(iter(lane.sessions.values()), None)
    if session is not None:
        return session.deadline
    record = next(iter(lane.hand.values()), None)
    return math.inf if record is None else record.locked_until


def _not_held(lane: Lane, holding: int) -> QueueError:
    if holding in lane.lost_sessions:
        return SessionLockLost(f"the lock of holding {holding} ended: its messages come again")
    return SessionNotFound(f"holding {holding} is not one that this receiver holds")
