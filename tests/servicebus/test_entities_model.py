"""Queues under any sequence of requests, compared with a queue that is a list.

Nothing is lost, nothing is delivered twice while it is locked, messages of a queue or of a session
come in the order of their numbers, no consumer waits while there is something for it, counts add
up, and a message whose attempts are used up is among the dead letters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.naive import LOCK_SECONDS, MAX_DELIVERIES, Naive
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.rig import START, Receiver, give
from tests.servicebus.entities.session import Waiting
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored

T = TypeVar("T")
NAMES = st.sampled_from(["a", "b", "c"])
DELAYS = st.sampled_from([None, None, None, None, None, 1.0, 7.0, 25.0])
NUMBERS = st.integers(0, 1000)
WAYS = st.sampled_from(
    ["complete", "complete", "abandon", "abandon", "release", "defer", "dead_letter", "renew"]
)


class Either(RuleBasedStateMachine):
    """What both kinds of queue are asked."""

    by_session = False

    def make(self) -> None:
        self.clock = ManualClock(START)
        settings = Settings(
            lock_seconds=LOCK_SECONDS,
            sessions=self.by_session,
            max_delivery_count=MAX_DELIVERIES,
            dead_letter_on_expiry=True,
        )
        # That a waiting receiver keeps its session is tested alone: a list has no receivers.
        guesses = Assumptions(pending_receive_keeps_session=False)
        self.queue = Queue("q", settings, self.clock, guesses)
        self.naive = Naive(by_session=self.by_session)
        self.sent = 0
        self.consumers: list[Receiver] = []
        self.tokens: list[tuple[bytes, str]] = []

    def now(self) -> float:
        now = self.clock.now()
        self.naive.pass_time(now)
        return now

    def consumer(self, session: str | None, locks: bool) -> Receiver:
        def delivered(message: Stored) -> None:
            self.naive.delivered(message, made, self.now())
            if message.token is not None:
                self.tokens.append((message.token, message.session_id or ""))

        made = Receiver(session, locks=locks, then=delivered)
        self.consumers.append(made)
        return made

    @rule(
        batch=st.lists(st.tuples(NAMES, DELAYS, DELAYS), min_size=1, max_size=8),
        scheduling=st.booleans(),
    )
    def send(self, batch: list[tuple[str, float | None, float | None]], scheduling: bool) -> None:
        now = self.now()
        made = []
        for session, ttl, delay in batch:
            self.sent += 1
            when = None if delay is None else now + delay
            body = f"{session}{self.sent}"
            made.append(Stored(bare=body.encode(), session_id=session, ttl=ttl, scheduled_for=when))
            if scheduling:
                self.naive.send(body, session, ttl, when, now)
        if scheduling:
            last = self.naive.last
            assert self.queue.schedule(made) == list(range(last - len(made) + 1, last + 1))
            return
        for message in made:
            self.naive.send(
                message.bare.decode(),
                message.session_id or "",
                message.ttl,
                message.scheduled_for,
                now,
            )
        self.queue.send(made)

    @rule(which=NUMBERS)
    def cancel(self, which: int) -> None:
        self.now()
        number = which % (self.naive.last + 1)
        there = self.naive.cancel(number)
        self.tried(lambda: self.queue.cancel_scheduled([number]), there, errors.MESSAGE_NOT_FOUND)

    @precondition(lambda self: self.consumers)
    @rule(which=NUMBERS, credit=st.integers(1, 8))
    def ask(self, which: int, credit: int) -> None:
        give(self.queue, choose(self.consumers, which), credit)

    @precondition(lambda self: self.tokens)
    @rule(steps=st.lists(st.tuples(NUMBERS, WAYS), min_size=1, max_size=5))
    def settle(self, steps: list[tuple[int, str]]) -> None:
        for which, how in steps:
            now = self.now()
            locked = [
                (note.token, note.session) for note in self.naive.where("locked") if note.token
            ]
            # Now and then one that has been settled or lost.
            old = which % 7 == 0 or not locked
            self.settle_one(*choose(self.tokens if old else locked, which), how, now)

    def settle_one(self, token: bytes, session: str, how: str, now: float) -> None:
        call = getattr(self.queue, how)
        if how == "renew" and self.by_session:
            self.tried(lambda: call(token), False, errors.NOT_ALLOWED)
            return
        there = self.naive.settle(token, how, now)
        lost = errors.LOCK_LOST
        if self.by_session and session not in self.naive.held:
            lost = errors.SESSION_LOST
        if how == "renew":
            self.tried(lambda: call(token), there, lost)
        else:
            self.tried(lambda: call(token, session=session), there, lost)

    @rule(which=NUMBERS)
    def receive_deferred(self, which: int) -> None:
        now = self.now()
        deferred = self.naive.where("deferred")
        if not deferred:
            return
        wanted = choose(deferred, which)
        if self.by_session and wanted.session not in self.naive.held:
            return
        note = self.naive.receive_deferred(wanted.number, wanted.session, now)

        def receive() -> None:
            got = self.queue.receive_deferred([wanted.number], locks=True, session=wanted.session)
            assert note is not None
            assert [message.bare.decode() for message in got] == [note.body]
            assert got[0].locked_until == note.until
            note.token = got[0].token
            assert note.token is not None
            self.tokens.append((note.token, note.session))

        self.tried(receive, note is not None, errors.MESSAGE_NOT_FOUND)

    @rule(seconds=st.sampled_from([0.5, 0.5, 1.0, 1.0, 1.0, 3.0, LOCK_SECONDS, 40.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: self.sent % 5 == 4)
    @rule()
    def end_locks(self) -> None:
        """The queue's fault API: locks end before their time. Rarely, or nothing stays locked."""
        now = self.now()
        locked = self.naive.where("locked")
        if self.by_session:
            for session in list(self.naive.held):
                self.naive.close(session, now, failed=True)
            self.queue.expire_session_locks()
            return
        for note in locked:
            self.naive._back(note, now, failed=True)
        assert self.queue.expire_locks() == len(locked)

    def holders(self) -> list[Receiver]:
        """The consumers, without those that have lost their sessions."""
        for consumer in [each for each in self.consumers if each.errors]:
            assert [error.condition for error in consumer.errors] == [errors.SESSION_LOST]
            self.consumers.remove(consumer)
        return self.consumers

    def tried(self, call: Callable[[], object], works: bool, condition: str) -> None:
        found = None
        try:
            call()
        except Refused as error:
            found = error.condition
        assert found == (None if works else condition)

    @invariant()
    def all_is_where_it_should_be(self) -> None:
        self.now()
        naive, counts = self.naive, self.queue.counts()
        dead = self.queue.dead_letters
        assert dead is not None
        shown = self.queue.peek(0, 10_000)
        assert [_row(message) for message in shown] == naive.rows(
            "active", "locked", "deferred", "scheduled"
        )
        assert [_row(message) for message in dead.peek(0, 10_000)] == naive.rows("dead")
        for place in ("active", "locked", "deferred", "scheduled"):
            assert getattr(counts, place) == len(naive.where(place))
        assert counts.dead_lettered == len(naive.where("dead"))
        assert len(naive.notes) == self.sent
        assert self.queue._store.bytes == sum(
            message.size for message in shown if message.state != "scheduled"
        )

    @invariant()
    def nobody_waits_in_vain(self) -> None:
        waiting = [consumer for consumer in self.holders() if consumer.credit > 0]
        active = self.naive.where("active")
        if self.by_session:
            names = {consumer.session for consumer in waiting}
            assert not any(note.session in names for note in active)
        else:
            assert not (waiting and active)


def choose(among: list[T], which: int) -> T:
    return among[which % len(among)]


def _row(message: Stored) -> tuple[str, int, int]:
    return message.bare.decode(), message.sequence, message.delivery_count


class WithoutSessions(Either):
    """Consumers come and go."""

    @initialize()
    def one_receives(self) -> None:
        self.make()
        self.attach(locks=True)

    @precondition(lambda self: len(self.consumers) < 3)
    @rule(locks=st.sampled_from([True, True, True, False]))
    def attach(self, locks: bool) -> None:
        made = self.consumer(None, locks)
        self.queue.attach(made)
        give(self.queue, made, 4)

    @precondition(lambda self: self.consumers)
    @rule(which=NUMBERS)
    def detach(self, which: int) -> None:
        self.queue.detach(self.consumers.pop(which % len(self.consumers)))


class WithSessions(Either):
    """Sessions are asked for by name or as they come, held, renewed, closed and lost."""

    by_session = True

    @initialize()
    def one_session_is_held(self) -> None:
        self.make()
        self.asking: list[Waiting] = []
        self.answers = 0
        self.accept("a")

    def granted(self, name: str, until: float) -> None:
        self.naive.hold(name, self.now())
        assert until == self.naive.held[name]
        made = self.consumer(name, locks=True)
        self.queue.hold(name, made)
        give(self.queue, made, 4)

    def granted_next(self, name: str, until: float) -> None:
        self.now()
        assert name in self.naive.free_sessions()
        self.answers += 1
        self.granted(name, until)

    def timed_out(self, error: Refused) -> None:
        self.answers += 1
        assert error.condition == errors.TIMEOUT

    @rule(name=NAMES)
    def accept(self, name: str) -> None:
        self.now()
        refused: list[str] = []
        held = name in self.naive.held
        self.queue.accept(
            name, self.granted, lambda error: refused.append(error.condition), timeout=5
        )
        assert refused == ([errors.SESSION_HELD] if held else [])

    @rule()
    def accept_next(self) -> None:
        self.now()
        self.asking.append(self.queue.accept(None, self.granted_next, self.timed_out, timeout=20))

    @precondition(lambda self: self.consumers)
    @rule(which=NUMBERS)
    def close(self, which: int) -> None:
        consumer = self.consumers.pop(which % len(self.consumers))
        assert consumer.session is not None
        now = self.now()
        if not consumer.errors:
            self.naive.close(consumer.session, now)
        self.queue.close_session(consumer.session, consumer)

    @rule(name=NAMES)
    def renew(self, name: str) -> None:
        now = self.now()
        held = name in self.naive.held
        if held:
            self.naive.held[name] = now + LOCK_SECONDS
        self.tried(lambda: self.queue.renew_session(name), held, errors.SESSION_LOST)

    @invariant()
    def sessions_have_one_holder(self) -> None:
        self.now()
        assert sorted(each.session or "" for each in self.holders()) == sorted(self.naive.held)

    @invariant()
    def nobody_asks_in_vain(self) -> None:
        waits = len(self.asking) - self.answers
        assert waits >= 0
        assert not (waits and self.naive.free_sessions())
        stored = {note.session for note in self.naive.where("active", "locked", "deferred")}
        assert self.queue.list_sessions(None, 0, 99) == sorted(stored)


TestWithoutSessions = WithoutSessions.TestCase
TestWithSessions = WithSessions.TestCase
