"""Trying a provider's call again: whether, after how long, and the loop that does it (SPEC R1).

It owns the decision and the waiting. It does not know what a call does: a caller whose repeat is
not harmless (a send without duplicate detection makes a second message) decides to use it anyway,
because at least once is the promise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

from pipeline.clock import Clock
from pipeline.errors import CircuitOpen, QueueError, SessionLocked, ValidationError

T = TypeVar("T")
Jitter: TypeAlias = Literal["full", "half"]

_log = logging.getLogger(__name__)

# Transient, yet not ours to repeat: an open breaker must fail fast, or every caller would sit in a
# delay while it is open, and an accept has done its waiting for the session already.
_LEFT_TO_THE_CALLER = (CircuitOpen, SessionLocked)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often to try, and how long to wait between.

    Args:
        max_attempts: calls in all, the first included.
        initial: seconds before the second attempt, before jitter.
        maximum: no delay is longer than so many seconds, and no provider is waited for longer.
        factor: by how much each delay is longer than the one before.
        jitter: `full` draws from 0 to 100 % of the delay, so that callers that failed together
            don't come back together; `half` draws from 50 to 100 %, where a minimum pause matters.

    Raises:
        ValidationError: a number is out of its range; the message names it.

    Example:
        >>> RetryPolicy(initial=1.0, factor=2.0, jitter="half").delay(3, chance=0.5)
        3.0
    """

    max_attempts: int = 3
    initial: float = 1.0
    maximum: float = 30.0
    factor: float = 2.0
    jitter: Jitter = "full"

    def __post_init__(self) -> None:
        for name, lowest in (("max_attempts", 1), ("initial", 0), ("maximum", 0), ("factor", 1)):
            value = getattr(self, name)
            if not value >= lowest:
                raise ValidationError(f"RetryPolicy.{name}", f"must be at least {lowest}", value)
        if self.jitter not in ("full", "half"):
            raise ValidationError("RetryPolicy.jitter", "must be 'full' or 'half'", self.jitter)

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds to wait after an attempt that failed.

        Args:
            attempt: which one failed; 1 is the first.
            chance: a number in [0, 1), from `Clock.random`.
        """
        try:
            whole = min(self.initial * self.factor ** (attempt - 1), self.maximum)
        except OverflowError:
            whole = self.maximum
        return whole * chance if self.jitter == "full" else whole * (0.5 + 0.5 * chance)

    def pause(self, attempt: int, error: BaseException, chance: float) -> float | None:
        """Seconds until the next attempt, or None when there is to be none.

        None for an error that is not transient, after the last attempt, for an open breaker and a
        locked session, and when the provider asks for more patience than `maximum`: then the
        caller, who reads `retry_after`, can plan better than a sleeping call.

        Args:
            attempt: which one failed; 1 is the first.
            error: what it failed with.
            chance: a number in [0, 1), from `Clock.random`.
        """
        if not isinstance(error, QueueError) or not error.transient:
            return None
        if attempt >= self.max_attempts or isinstance(error, _LEFT_TO_THE_CALLER):
            return None
        asked = error.retry_after or 0.0
        return None if asked > self.maximum else max(self.delay(attempt, chance), asked)


async def retrying(
    call: Callable[[], Awaitable[T]], policy: RetryPolicy, clock: Clock, *, operation: str
) -> T:
    """Make a call, and make it again while it fails with a transient error.

    Cancelled, it stops where it is: in the call or in the wait before the next one.

    Args:
        call: makes the call anew each time.
        policy: how often, how long between.
        clock: gives the chance for the jitter.
        operation: what the call is, for the log and the note on the error.

    Raises:
        QueueError: the last attempt's error; a note on it tells how many attempts there were.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> async def answer() -> int:
        ...     return 42
        >>> await retrying(answer, RetryPolicy(), SystemClock(), operation="ask")
        42
    """
    attempt = 1
    while True:
        try:
            return await call()
        except QueueError as error:
            pause = policy.pause(attempt, error, clock.random())
            if pause is None:
                _note(error, operation, attempt)
                raise
            _warn(operation, attempt, pause, [error])
        await asyncio.sleep(pause)
        attempt += 1


async def retrying_each(
    call: Callable[[Sequence[int]], Awaitable[Mapping[int, QueueError]]],
    count: int,
    policy: RetryPolicy,
    clock: Clock,
    *,
    operation: str,
) -> dict[int, QueueError]:
    """Make a call about many things, and make it again for those that failed transiently.

    What is tried again keeps its order, so where the call lets nothing pass an earlier failure of
    its session, the repeat doesn't either.

    Args:
        call: gets positions, in ascending order, and answers with the failures by position. A
            transient error that it raises is a failure of all of them.
        count: how many things there are; the first call gets positions 0 to count - 1.
        policy: how often, how long between; the longest pause that one of the failures asks for
            counts for all.
        clock: gives the chance for the jitter.
        operation: what the call is, for the log and the notes on the errors.

    Returns:
        The failures that are left, by position; a note on each tells how many attempts there were.

    Raises:
        QueueError: the call as a whole can't be made (closed, unsupported, wrong loop).

    Example:
        >>> from pipeline.clock import SystemClock
        >>> async def complete(positions: Sequence[int]) -> dict[int, QueueError]:
        ...     return {1: QueueError("gone")}
        >>> await retrying_each(complete, 2, RetryPolicy(), SystemClock(), operation="complete")
        {1: QueueError('gone')}
    """
    left: dict[int, QueueError] = {}
    pending: Sequence[int] = range(count)
    attempt = 1
    while pending:
        failures = await _failures(call, pending)
        chance = clock.random()
        pauses = {at: policy.pause(attempt, error, chance) for at, error in failures.items()}
        again = {at: pause for at, pause in sorted(pauses.items()) if pause is not None}
        final = {at: error for at, error in failures.items() if at not in again}
        _note_all(final.values(), operation, attempt)
        left |= final
        if again:
            pause = max(again.values())
            _warn(operation, attempt, pause, [failures[at] for at in again])
            await asyncio.sleep(pause)
        pending = list(again)
        attempt += 1
    return left


async def _failures(
    call: Callable[[Sequence[int]], Awaitable[Mapping[int, QueueError]]], pending: Sequence[int]
) -> Mapping[int, QueueError]:
    try:
        return await call(pending)
    except QueueError as error:
        if not error.transient:
            raise
        return dict.fromkeys(pending, error)


def _note_all(errors: Iterable[QueueError], operation: str, attempt: int) -> None:
    # One error may stand for many messages: it gets one note.
    for error in {id(error): error for error in errors}.values():
        _note(error, operation, attempt)


def _note(error: QueueError, operation: str, attempt: int) -> None:
    if attempt > 1 or error.transient:
        error.add_note(f"{operation} was tried {attempt} time{'s' if attempt > 1 else ''}")


def _warn(operation: str, attempt: int, pause: float, errors: Sequence[QueueError]) -> None:
    kinds = sorted({type(error).__name__ for error in errors})
    _log.warning(
        "%s failed (%s, %d of them): attempt %d follows in %.3f s",
        operation,
        ", ".join(kinds),
        len(errors),
        attempt + 1,
        pause,
        extra={"operation": operation, "attempt": attempt, "errors": kinds},
    )
