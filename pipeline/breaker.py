"""The circuit breaker of one direction of a connection: when calls may be made (SPEC R2).

It owns the decision: what a call's end means, when the breaker opens, who may probe, when it
closes. It makes no call, reads no clock (`now` is any clock that only grows, in seconds) and tells
nobody: `pipeline.providers.gate` asks it before calls, `pipeline.stages.connection` shares one
among the processes of a cluster.

Every change of state has a new generation. What a call reports carries the generation in which it
began, and a probe's its number: a late report of an earlier generation, or of a probe that was
given to somebody else meanwhile, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum

from pipeline.errors import (
    CircuitOpen,
    Closed,
    ConfigurationError,
    ConnectionFailed,
    ProviderError,
    QueueError,
    Throttled,
    Timeout,
    Unsupported,
    ValidationError,
)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
"""Seconds of the pause after a `Throttled` that names none: doubled while the next one meets it."""


class Direction(StrEnum):
    """What a call does; each is counted alone, so that healthy receives don't hide dead sends."""

    RECEIVE = "receive"
    SEND = "send"
    SETTLE = "settle"


class State(StrEnum):
    """Whether calls may be made: freely, not at all, or one at a time as probes."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Verdict(Enum):
    """What the end of a call says about the connection; NOTHING: no call was made."""

    SUCCESS = "success"
    FAILURE = "failure"
    SLOW = "slow"
    NOTHING = "nothing"


_NO_CALL = (CircuitOpen, Closed, ConfigurationError, Unsupported, ValidationError)


def verdict_of(error: BaseException | None) -> Verdict:
    """What a call says that ended with this error, or with none.

    An answer about our request (not found, lock lost, denied, too large) says that the service is
    there. What is not one of our errors, a cancellation among them, says nothing.

    Example:
        >>> verdict_of(None), verdict_of(Timeout("no answer"))
        (<Verdict.SUCCESS: 'success'>, <Verdict.FAILURE: 'failure'>)
    """
    if error is None:
        return Verdict.SUCCESS
    if not isinstance(error, QueueError) or isinstance(error, _NO_CALL):
        return Verdict.NOTHING
    if isinstance(error, Throttled):
        return Verdict.SLOW
    if isinstance(error, (ConnectionFailed, Timeout)):
        return Verdict.FAILURE
    failed = isinstance(error, ProviderError) and error.transient
    return Verdict.FAILURE if failed else Verdict.SUCCESS


def verdict_of_each(errors: Iterable[QueueError], count: int) -> Verdict:
    """What one call about many messages says: it failed when nothing of it was answered.

    Args:
        errors: those of the messages that failed.
        count: how many messages there were.

    Example:
        >>> verdict_of_each([Timeout("no answer")], 2)
        <Verdict.SUCCESS: 'success'>
    """
    verdicts = [verdict_of(error) for error in errors]
    if Verdict.SLOW in verdicts:
        return Verdict.SLOW
    if len(verdicts) < count or not verdicts or Verdict.SUCCESS in verdicts:
        return Verdict.SUCCESS
    return Verdict.FAILURE if Verdict.FAILURE in verdicts else Verdict.NOTHING


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens and closes.

    Args:
        failures: so many calls in a row that failed open it.
        open: seconds until it is probed, counted from when it opened.
        successes: so many probes in a row that succeeded close it.
        probe: seconds after which a probe that was not reported (its process died) is given to
            somebody else: longer than any call.
        pace: seconds between two tries while it is open, for calls that are never refused; None:
            there are none.
    """

    failures: int = 5
    open: float = 30.0
    successes: int = 3
    probe: float = 70.0
    pace: float | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A breaker as others may see it; durations, because clocks of two machines differ.

    Args:
        state: its state.
        generation: grows with each change of state.
        counting: whether a success would change something: failures were counted.
        failures: the last calls that failed, in a row.
        age: seconds since it was closed last; 0 while it is.
        wait: seconds until there is a probe to be had, as far as is known; 0 while it is closed.
        due: seconds until it is half-open; 0 in any other state than open.
        pause: seconds that the provider asked us to wait.
    """

    state: State = State.CLOSED
    generation: int = 0
    counting: bool = False
    failures: int = 0
    age: float = 0.0
    wait: float = 0.0
    due: float = 0.0
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Tally:
    """How calls of one generation ended, in their order, as far as it matters.

    Args:
        before: failures in a row before the first success.
        success: whether there was one.
        after: failures in a row after the last success.
    """

    before: int = 0
    success: bool = False
    after: int = 0

    def add(self, *, failed: bool, limit: int) -> Tally:
        """The tally with one more call; nothing follows a row of `limit`, which opens."""
        if max(self.before, self.after) >= limit:
            return self
        if not failed:
            return Tally(self.before, success=True)
        if self.success:
            return Tally(self.before, True, self.after + 1)
        return Tally(self.before + 1)


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to make one call as a probe.

    Args:
        generation: of the breaker when it was given.
        number: which one.
    """

    generation: int
    number: int


class Breaker:
    """The breaker of one direction.

    Args:
        policy: when it opens and closes.

    Example:
        >>> breaker = Breaker(BreakerPolicy(failures=2, open=30.0))
        >>> breaker.report(7.0, breaker.generation, Tally(before=2))
        True
        >>> breaker.take(36.9), breaker.take(37.0)
        (None, Ticket(generation=2, number=1))
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self.state = State.CLOSED
        self.generation = 0
        self._failures = 0
        self._successes = 0
        self._left = 0.0  # when it was closed last
        self._due = 0.0
        self._ticket: Ticket | None = None
        self._numbers = 0
        self._given = float("-inf")
        self._pause_until = float("-inf")
        self._pause = 0.0

    def view(self, now: float) -> View:
        """How it is."""
        closed = self.state is State.CLOSED
        return View(
            self.state,
            self.generation,
            bool(self._failures),
            self._failures,
            0.0 if closed else now - self._left,
            0.0 if closed else self._wait(now),
            max(self._due - now, 0.0) if self.state is State.OPEN else 0.0,
            max(self._pause_until - now, 0.0),
        )

    def report(self, now: float, generation: int, tally: Tally) -> bool:
        """Calls ended that began while it was closed; says whether anything has changed."""
        if self.state is not State.CLOSED or generation != self.generation:
            return False
        before = self._failures
        self._failures += tally.before
        if tally.success and self._failures < self._policy.failures:
            self._failures = tally.after
        if self._failures >= self._policy.failures:
            self._left = now
            self._open(now)
            return True
        return bool(before) != bool(self._failures)

    def take(self, now: float) -> Ticket | None:
        """Ask for the probe: the right to make one call, or None; see `View.wait` for when."""
        if self.state is State.CLOSED or self._wait(now) > 0:
            return None
        if self.state is State.OPEN and now >= self._due:
            self._become(State.HALF_OPEN)
            self._successes = 0
        self._numbers += 1
        self._given = now
        self._ticket = Ticket(self.generation, self._numbers)
        return self._ticket

    def done(self, now: float, ticket: Ticket, verdict: Verdict) -> bool:
        """A probe ended; says whether anything has changed.

        A try while it is open, at the pace of what is never refused, says nothing for the state.
        """
        if ticket != self._ticket:
            return False
        self._ticket = None
        if ticket.generation != self.generation or self.state is not State.HALF_OPEN:
            return True
        if verdict is Verdict.FAILURE:
            self._open(now)
        elif verdict is Verdict.SUCCESS:
            self._successes += 1
            if self._successes >= self._policy.successes:
                self._become(State.CLOSED)
                self._failures = 0
        return True

    def slow(self, now: float, retry_after: float | None) -> bool:
        """The provider asked for patience; says whether the pause is longer than it was."""
        if retry_after is None:
            if now < self._pause_until:
                return False  # the others that met it at the same time
            again = now < self._pause_until + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE) if again else _FIRST_PAUSE
            retry_after = self._pause
        until = now + retry_after
        longer = until > self._pause_until
        self._pause_until = max(until, self._pause_until)
        return longer

    def adopt(self, now: float, view: View) -> bool:
        """Go on from what somebody knows of a later generation; says whether it was later.

        The generation is one more: what began elsewhere in this one is late.
        """
        if view.generation <= self.generation:
            return False
        self.mirror(now, view)
        self.generation += 1
        return True

    def mirror(self, now: float, view: View) -> None:
        """Be as another one is."""
        self.state = view.state
        self.generation = view.generation
        self._failures = view.failures
        self._successes = 0
        self._left = now - view.age
        self._due = now + view.due
        self._ticket = None
        self._given = now
        self._pause_until = now + view.pause

    def _wait(self, now: float) -> float:
        if self._ticket is not None and now < self._given + self._policy.probe:
            return self._given + self._policy.probe - now
        wait = self._pause_until - now
        if self.state is State.OPEN:
            due = self._due
            if self._policy.pace is not None:
                due = min(due, self._given + self._policy.pace)
            wait = max(wait, due - now)
        return max(wait, 0.0)

    def _open(self, now: float) -> None:
        self._due = now + self._policy.open
        self._given = now
        self._become(State.OPEN)

    def _become(self, state: State) -> None:
        self.state = state
        self.generation += 1
        self._ticket = None


@dataclass(frozen=True, slots=True)
class Told:
    """What somebody tells of the calls made: a tally, a probe's end, or the wish for patience.

    Args:
        direction: of the calls.
        generation: of the tally.
        tally: how calls ended that were made freely.
        ticket: of the probe that ended.
        verdict: what the probe's end says.
        retry_after: SLOW: seconds that the provider asked us to wait, if it said.
    """

    direction: Direction
    generation: int = 0
    tally: Tally | None = None
    ticket: Ticket | None = None
    verdict: Verdict = Verdict.NOTHING
    retry_after: float | None = None


class Breakers:
    """The three breakers of one connection.

    Args:
        policy: when they open and close; what settles and renews is never refused, and so has a
            pace: a tenth of the time that the others wait.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        paced = replace(policy, pace=policy.open / 10)
        self._all = {
            direction: Breaker(paced if direction is Direction.SETTLE else policy)
            for direction in Direction
        }

    def __getitem__(self, direction: Direction) -> Breaker:
        return self._all[direction]

    def views(self, now: float) -> dict[Direction, View]:
        """How they are."""
        return {direction: breaker.view(now) for direction, breaker in self._all.items()}

    def hear(self, now: float, told: Told) -> bool:
        """Take in what somebody tells; says whether anything has changed."""
        breaker = self._all[told.direction]
        changed = told.verdict is Verdict.SLOW and breaker.slow(now, told.retry_after)
        if told.ticket is not None:
            changed |= breaker.done(now, told.ticket, told.verdict)
        if told.tally is not None:
            changed |= breaker.report(now, told.generation, told.tally)
        return changed

    def adopt(self, now: float, views: Mapping[Direction, View]) -> bool:
        """Go on from what somebody knows of later generations; says whether anything was later."""
        later = [self._all[one].adopt(now, view) for one, view in views.items()]
        return any(later)

    def mirror(self, now: float, views: Mapping[Direction, View]) -> None:
        """Be as others are."""
        for direction, view in views.items():
            self._all[direction].mirror(now, view)
