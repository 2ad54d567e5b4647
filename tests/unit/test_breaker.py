"""The breaker's decision: a model beside it, and what each kind of error says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline.breaker import (
    Breaker,
    BreakerPolicy,
    Breakers,
    Direction,
    State,
    Tally,
    Told,
    Verdict,
    View,
    verdict_of,
    verdict_of_each,
)
from pipeline.errors import (
    AuthenticationFailed,
    CircuitOpen,
    Closed,
    ConnectionFailed,
    MessageLockLost,
    MessageTooLarge,
    PermissionDenied,
    ProviderError,
    QueueNotFound,
    SessionNotFound,
    Throttled,
    Timeout,
    Unsupported,
)

FIVE = BreakerPolicy(failures=5, open=30.0, successes=3, probe=70.0)


def opened(policy: BreakerPolicy = FIVE, now: float = 0.0) -> Breaker:
    breaker = Breaker(policy)
    assert breaker.report(now, breaker.generation, Tally(before=policy.failures))
    return breaker


@pytest.mark.spec("R2", "P10")
@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (None, Verdict.SUCCESS),
        (ConnectionFailed("refused"), Verdict.FAILURE),
        (Timeout("no answer"), Verdict.FAILURE),
        (ProviderError("sqs", "InternalError", "again", transient=True), Verdict.FAILURE),
        (ProviderError("sqs", "Malformed", "never"), Verdict.SUCCESS),
        (Throttled("slow down"), Verdict.SLOW),
        (QueueNotFound("q"), Verdict.SUCCESS),
        (MessageLockLost("late"), Verdict.SUCCESS),
        (SessionNotFound("none"), Verdict.SUCCESS),
        (AuthenticationFailed("bad"), Verdict.SUCCESS),
        (PermissionDenied("no"), Verdict.SUCCESS),
        (MessageTooLarge(2, 1), Verdict.SUCCESS),
        (Closed("closed"), Verdict.NOTHING),
        (CircuitOpen("open"), Verdict.NOTHING),
        (Unsupported("defer", "sqs"), Verdict.NOTHING),
        (KeyError("a defect"), Verdict.NOTHING),
    ],
)
def test_what_an_error_says_of_the_connection(error: Any, verdict: Verdict) -> None:
    """No answer or the service's own error is a failure; an answer about the request is none."""
    assert verdict_of(error) is verdict


@pytest.mark.spec("R2")
def test_a_call_about_many_messages_is_one_call() -> None:
    """It failed when nothing of it was answered; one message that was throttled slows."""
    lost, gone = Timeout("no answer"), MessageLockLost("late")
    assert verdict_of_each([], 3) is Verdict.SUCCESS
    assert verdict_of_each([lost, lost], 3) is Verdict.SUCCESS
    assert verdict_of_each([lost, gone], 2) is Verdict.SUCCESS
    assert verdict_of_each([lost, lost], 2) is Verdict.FAILURE
    assert verdict_of_each([lost, Closed("closed")], 2) is Verdict.FAILURE
    assert verdict_of_each([Closed("closed")], 1) is Verdict.NOTHING
    assert verdict_of_each([lost, Throttled("slow down")], 9) is Verdict.SLOW


@pytest.mark.spec("R2")
def test_directions_are_counted_apart() -> None:
    """Dead sends open the breaker of sends, whatever receives do."""
    breakers = Breakers(FIVE)
    for _ in range(5):
        breakers.hear(0.0, Told(Direction.RECEIVE, 0, Tally(0, success=True)))
        breakers.hear(0.0, Told(Direction.SEND, 0, Tally(1)))
    states = {one: view.state for one, view in breakers.views(0.0).items()}
    assert states == {
        Direction.RECEIVE: State.CLOSED,
        Direction.SEND: State.OPEN,
        Direction.SETTLE: State.CLOSED,
    }


@pytest.mark.spec("R2")
def test_a_late_report_of_an_earlier_closed_time_changes_nothing() -> None:
    """It began before the breaker opened, and ends when it is closed again."""
    breaker = opened()
    for now in (30.0, 31.0, 32.0):
        ticket = breaker.take(now)
        assert ticket is not None
        breaker.done(now, ticket, Verdict.SUCCESS)
    assert (breaker.state, breaker.generation) == (State.CLOSED, 3)
    assert not breaker.report(33.0, 0, Tally(before=5))
    assert breaker.view(33.0) == View(State.CLOSED, 3)


@pytest.mark.spec("R2")
def test_settling_is_tried_at_a_pace_while_open() -> None:
    """One at a time, a tenth of the open time apart; how they end changes no state."""
    breakers = Breakers(FIVE)
    settle = breakers[Direction.SETTLE]
    breakers.hear(0.0, Told(Direction.SETTLE, 0, Tally(5)))
    assert settle.take(2.9) is None
    first = settle.take(3.0)
    assert first is not None
    assert settle.take(7.0) is None, "one at a time"
    assert settle.done(7.0, first, Verdict.SUCCESS)
    second = settle.take(7.0)
    assert second is not None
    assert settle.done(7.1, second, Verdict.FAILURE)
    assert settle.state is State.OPEN
    assert settle.view(7.1).due == pytest.approx(22.9), "no longer open for it"
    third = settle.take(30.0)
    assert third is not None
    assert settle.state is State.HALF_OPEN


@pytest.mark.spec("R2")
def test_a_throttled_call_makes_everybody_wait() -> None:
    """As long as it asks; else a second, doubled while the next one meets it too."""
    breaker = Breaker(FIVE)
    assert breaker.slow(0.0, None)
    assert not breaker.slow(0.5, None), "those that met it at the same time"
    assert breaker.view(0.5).pause == 0.5
    assert breaker.slow(1.5, None)
    assert breaker.view(1.5).pause == 2.0
    assert breaker.slow(60.0, None)
    assert breaker.view(60.0).pause == 1.0, "long ago"
    assert breaker.slow(60.0, 7.0)
    assert not breaker.slow(61.0, 2.0)
    assert breaker.view(61.0).pause == 6.0
    assert (breaker.state, breaker.generation) == (State.CLOSED, 0)


@pytest.mark.spec("R2")
def test_a_throttled_probe_is_neither_success_nor_failure() -> None:
    """The next probe follows after the pause."""
    breakers = Breakers(FIVE)
    breakers.hear(0.0, Told(Direction.SEND, 0, Tally(5)))
    ticket = breakers[Direction.SEND].take(30.0)
    told = Told(Direction.SEND, 0, None, ticket, Verdict.SLOW, 4.0)
    assert breakers.hear(31.0, told)
    assert breakers[Direction.SEND].state is State.HALF_OPEN
    assert breakers[Direction.SEND].take(34.9) is None
    assert breakers[Direction.SEND].take(35.0) is not None


@pytest.mark.spec("R2")
def test_a_tally_opens_like_the_calls_it_stands_for() -> None:
    """What comes after the row that opens is not looked at."""
    tally = Tally()
    for failed in (True, True, False, True, False, True):
        tally = tally.add(failed=failed, limit=5)
    assert tally == Tally(2, success=True, after=1)
    for _ in range(4):
        tally = tally.add(failed=True, limit=5)
    assert tally.add(failed=False, limit=5) == tally
    breaker = Breaker(FIVE)
    assert breaker.report(0.0, 0, tally)
    assert breaker.state is State.OPEN


@pytest.mark.spec("R2")
def test_an_adopted_state_is_of_a_later_generation() -> None:
    """A new actor goes on from what its users know; what it knows later itself is not undone."""
    old = opened(now=100.0)
    new = Breaker(FIVE)
    assert new.adopt(5.0, old.view(110.0))
    assert (new.state, new.generation) == (State.OPEN, 2)
    assert new.view(5.0).age == 10.0
    assert new.take(24.9) is None
    assert new.take(25.0) is not None
    assert not new.adopt(26.0, View(generation=2))
    breakers = Breakers(FIVE)
    assert breakers.adopt(0.0, {Direction.SEND: old.view(110.0)})
    assert not breakers.adopt(0.0, {Direction.SEND: View()})
    breakers.mirror(0.0, {Direction.SEND: View(generation=9)})
    assert breakers[Direction.SEND].generation == 9


class Model(RuleBasedStateMachine):
    """What R2 says, in other words, beside the breaker."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(FIVE)
        self.now = 0.0
        self.state = State.CLOSED
        self.row = 0
        self.good = 0
        self.opened_at = 0.0
        self.calls: list[tuple[int, int]] = []
        self.change = 0  # how often the state has changed
        self.probes: list[tuple[Any, int]] = []
        self.live: Any = None
        self.live_since = 0.0

    def become(self, state: State) -> None:
        self.state = state
        self.change += 1
        self.live = None
        self.row = self.good = 0

    @rule(seconds=st.sampled_from([0.5, 5.0, 29.0, 30.0, 69.0, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.state is State.CLOSED)
    @rule()
    def begin(self) -> None:
        self.calls.append((self.breaker.generation, self.change))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), failed=st.booleans())
    def end(self, data: st.DataObject, failed: bool) -> None:
        generation, change = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        before = self.breaker.view(self.now)
        changed = self.breaker.report(
            self.now, generation, Tally().add(failed=failed, limit=FIVE.failures)
        )
        if change != self.change:
            assert not changed
            assert self.breaker.view(self.now) == before, "a late report changed something"
        elif failed:
            self.row += 1
            if self.row == 5:
                self.become(State.OPEN)
                self.opened_at = self.now
        else:
            self.row = 0

    @rule(failures=st.integers(1, 5))
    def fail_often(self, failures: int) -> None:
        for _ in range(failures):
            if self.state is State.CLOSED:
                self.begin()
                generation, _ = self.calls.pop()
                self.breaker.report(self.now, generation, Tally(before=1))
                self.row += 1
                if self.row == 5:
                    self.become(State.OPEN)
                    self.opened_at = self.now

    @rule()
    def come_round(self) -> None:
        """Open, and closed again: the calls that began before are late from here on."""
        if self.state is State.CLOSED:
            self.begin()
            self.fail_often(5)
        for _ in range(3):
            self.wait(100.0)
            self.take()
            self.finish(len(self.probes) - 1, Verdict.SUCCESS)

    @rule()
    def take(self) -> None:
        ticket = self.breaker.take(self.now)
        due = self.state is State.HALF_OPEN or (
            self.state is State.OPEN and self.now >= self.opened_at + 30.0
        )
        taken = self.live is not None and self.now < self.live_since + 70.0
        assert (ticket is not None) == (due and not taken), "a second probe, or none"
        if ticket is None:
            return
        if self.state is State.OPEN:
            self.become(State.HALF_OPEN)
        self.live, self.live_since = ticket, self.now
        self.probes.append((ticket, self.change))

    @precondition(lambda self: self.probes)
    @rule(data=st.data(), verdict=st.sampled_from(Verdict))
    def done(self, data: st.DataObject, verdict: Verdict) -> None:
        self.finish(data.draw(st.integers(0, len(self.probes) - 1)), verdict)

    def finish(self, which: int, verdict: Verdict) -> None:
        ticket, _ = self.probes.pop(which)
        before = self.breaker.view(self.now)
        changed = self.breaker.done(self.now, ticket, verdict)
        if ticket != self.live:
            assert not changed
            assert self.breaker.view(self.now) == before, "a late probe changed something"
            return
        self.live = None
        if verdict is Verdict.FAILURE:
            self.become(State.OPEN)
            self.opened_at = self.now
        elif verdict is Verdict.SUCCESS:
            self.good += 1
            if self.good == 3:
                self.become(State.CLOSED)

    @invariant()
    def as_the_model(self) -> None:
        assert self.breaker.state is self.state
        assert self.breaker.generation == self.change
        view = self.breaker.view(self.now)
        if self.state is State.CLOSED:
            assert (view.failures, view.counting) == (self.row, self.row > 0)


TestModel = Model.TestCase
TestModel.pytestmark = [pytest.mark.spec("R2")]


def test_a_verdict_of_nothing_gives_the_probe_back() -> None:
    """A probe that made no call is given to the next at once."""
    breaker = opened()
    ticket = breaker.take(30.0)
    assert ticket is not None
    assert breaker.take(30.0) is None
    assert breaker.done(31.0, ticket, Verdict.NOTHING)
    assert breaker.take(31.0) is not None
