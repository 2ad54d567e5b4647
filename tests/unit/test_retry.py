"""Whether a call is tried again, after how long, and what the loop around it does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clock import SeededClock
from pipeline.errors import (
    CircuitOpen,
    Closed,
    ConnectionFailed,
    MessageNotFound,
    QueueError,
    SessionLocked,
    Throttled,
    Timeout,
    ValidationError,
)
from pipeline.retry import Jitter, RetryPolicy, retrying, retrying_each


def now() -> float:
    return asyncio.get_running_loop().time()


CLOCK = SeededClock(now)


# --- the decision ---------------------------------------------------------------------------------


@pytest.mark.spec("R1")
def test_the_defaults_are_the_specifications() -> None:
    """3 attempts, 1 s doubling to 30 s, full jitter."""
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.initial, policy.maximum) == (3, 1.0, 30.0)
    assert (policy.factor, policy.jitter) == (2.0, "full")


@pytest.mark.spec("R1", "H5")
@pytest.mark.parametrize(
    ("jitter", "chance", "delays"),
    [
        ("full", 0.0, [0, 0, 0, 0, 0, 0]),
        ("full", 0.5, [0.5, 1, 2, 4, 5, 5]),
        ("half", 0.0, [0.5, 1, 2, 4, 5, 5]),
        ("half", 0.5, [0.75, 1.5, 3, 6, 7.5, 7.5]),
    ],
)
def test_delays_grow_to_the_maximum(jitter: Jitter, chance: float, delays: list[float]) -> None:
    """Full jitter begins at nothing, half jitter at half."""
    policy = RetryPolicy(10, 1.0, 10.0, 2.0, jitter)
    assert [policy.delay(attempt, chance) for attempt in range(1, 7)] == delays


@given(
    attempt=st.integers(1, 10**6),
    chance=st.floats(0, 1, exclude_max=True),
    initial=st.floats(0.001, 100),
    maximum=st.floats(0, 1000),
    factor=st.floats(1, 100),
    jitter=st.sampled_from(["full", "half"]),
)
@pytest.mark.spec("R1", "H5")
def test_no_delay_is_beyond_the_maximum(
    attempt: int, chance: float, initial: float, maximum: float, factor: float, jitter: Jitter
) -> None:
    """However late the attempt; half jitter never falls below half of the whole."""
    policy = RetryPolicy(3, initial, maximum, factor, jitter)
    delay = policy.delay(attempt, chance)
    assert 0 <= delay <= maximum
    if jitter == "half":
        assert delay >= min(initial, maximum) / 2


@pytest.mark.spec("R1")
@pytest.mark.parametrize(
    ("field", "value"),
    [("max_attempts", 0), ("initial", -1), ("maximum", -0.1), ("factor", 0.5), ("jitter", "none")],
)
def test_a_policy_out_of_range_is_refused(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(ValidationError, match=f"RetryPolicy.{field} must be .*{value!r}"):
        RetryPolicy(**{field: value})  # type: ignore[arg-type]


@pytest.mark.spec("R1")
@pytest.mark.parametrize(
    ("error", "attempt", "pause"),
    [
        (ConnectionFailed("x"), 1, 0.5),
        (ConnectionFailed("x"), 2, 1.0),
        (ConnectionFailed("x"), 3, None),
        (Throttled("x", retry_after=7.0), 1, 7.0),
        (Throttled("x", retry_after=0.1), 1, 0.5),
        (Throttled("x", retry_after=30.0), 1, 30.0),
        (Throttled("x", retry_after=30.1), 1, None),
        (MessageNotFound("x"), 1, None),
        (CircuitOpen("x"), 1, None),
        (SessionLocked("x"), 1, None),
        (ValueError("x"), 1, None),
    ],
    ids=str,
)
def test_what_is_tried_again_and_when(error: Exception, attempt: int, pause: float | None) -> None:
    """Transient errors, as often as allowed, not before the provider wants it."""
    assert RetryPolicy().pause(attempt, error, 0.5) == pause


# --- one call -------------------------------------------------------------------------------------


class Flaky:
    """Fails with each of these, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> str:
        self.times.append(now())
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


@pytest.mark.spec("R1", "O3")
async def test_a_transient_failure_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """With a pause between, and a warning each time."""
    call = Flaky(Timeout("slow"), Throttled("wait", retry_after=5.0))
    with caplog.at_level(logging.WARNING, "pipeline.retry"):
        assert await retrying(call, RetryPolicy(), CLOCK, operation="send") == "answer"
    first, second, third = call.times
    assert 0 < second - first <= 1
    assert third - second == 5.0
    assert [record.errors for record in caplog.records] == [["Timeout"], ["Throttled"]]
    assert "attempt 2 follows in" in caplog.records[0].getMessage()


@pytest.mark.spec("R1")
async def test_the_last_error_is_raised_and_says_how_often_it_was_tried() -> None:
    """The error itself, with a note."""
    errors = [Timeout("1"), Timeout("2"), ConnectionFailed("3")]
    with pytest.raises(ConnectionFailed) as caught:
        await retrying(Flaky(*errors), RetryPolicy(), CLOCK, operation="send")
    assert caught.value is errors[2]
    assert caught.value.__notes__ == ["send was tried 3 times"]


@pytest.mark.spec("R1")
@pytest.mark.parametrize("error", [MessageNotFound("gone"), Closed("closed")])
async def test_a_lasting_failure_is_raised_at_once(error: QueueError) -> None:
    """Without a pause, and without a note: once is what everybody expects."""
    call = Flaky(error)
    with pytest.raises(type(error)) as caught:
        await retrying(call, RetryPolicy(), CLOCK, operation="complete")
    assert len(call.times) == 1
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.spec("R1")
async def test_a_failure_that_is_not_ours_passes() -> None:
    """An exception outside the tree is a bug, and is not tried again."""
    call = Flaky(KeyError("bug"))
    with pytest.raises(KeyError):
        await retrying(call, RetryPolicy(), CLOCK, operation="complete")
    assert len(call.times) == 1


@pytest.mark.spec("R1", "P2")
async def test_cancelled_in_a_pause_it_stops_there() -> None:
    """No further attempt is made."""
    call = Flaky(Throttled("wait", retry_after=20.0))
    task = asyncio.create_task(retrying(call, RetryPolicy(), CLOCK, operation="send"))
    await asyncio.sleep(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert now() == 10
    assert len(call.times) == 1


# --- a call about many ----------------------------------------------------------------------------


class Many:
    """Answers each call with the next of these: failures, or an error to raise."""

    def __init__(self, *answers: dict[int, QueueError] | QueueError) -> None:
        self.answers = list(answers)
        self.asked: list[list[int]] = []

    async def __call__(self, places: Sequence[int]) -> dict[int, QueueError]:
        self.asked.append(list(places))
        answer = self.answers.pop(0) if self.answers else {}
        if isinstance(answer, QueueError):
            raise answer
        return answer


async def each(call: Many, count: int) -> dict[int, QueueError]:
    return await retrying_each(call, count, RetryPolicy(), CLOCK, operation="complete")


@pytest.mark.spec("R1", "P3")
async def test_only_what_failed_transiently_is_tried_again_in_order() -> None:
    """The rest keeps its result."""
    gone = MessageNotFound("gone")
    call = Many({4: Timeout("4"), 1: gone, 2: Timeout("2")}, {4: Timeout("4")})
    assert await each(call, 5) == {1: gone}
    assert call.asked == [[0, 1, 2, 3, 4], [2, 4], [4]]
    assert not hasattr(gone, "__notes__")


@pytest.mark.spec("R1", "P3")
async def test_what_stays_failed_says_how_often_it_was_tried() -> None:
    """Each error once, also where one stands for many."""
    shared, gone = Timeout("both"), MessageNotFound("gone")
    call = Many({0: shared, 1: shared}, {0: shared, 1: shared}, {0: shared, 1: shared})
    assert await each(call, 2) == {0: shared, 1: shared}
    assert shared.__notes__ == ["complete was tried 3 times"]
    assert await each(Many({0: Timeout("1")}, {0: gone}), 1) == {0: gone}
    assert gone.__notes__ == ["complete was tried 2 times"]


@pytest.mark.spec("R1", "P3")
async def test_the_longest_pause_that_is_asked_for_counts() -> None:
    """One call follows for all that failed."""
    call = Many({0: Throttled("a", retry_after=3.0), 1: Throttled("b", retry_after=9.0)})
    assert await each(call, 2) == {}
    assert now() == 9.0


@pytest.mark.spec("R1", "P3")
async def test_a_call_that_fails_whole_is_a_failure_of_all() -> None:
    """A transient error is tried again and then each one's result; another is raised."""
    cut = ConnectionFailed("cut")
    assert await each(Many(cut), 2) == {}
    assert await each(Many(cut, cut, cut), 2) == {0: cut, 1: cut}
    with pytest.raises(Closed):
        await each(Many(Closed("closed")), 2)


@pytest.mark.spec("R1")
async def test_of_nothing_nothing_is_called() -> None:
    """An empty list costs no call."""
    call = Many()
    assert await each(call, 0) == {}
    assert call.asked == []
