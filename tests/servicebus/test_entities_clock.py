"""Clocks, deadlines and lanes: the parts below the queues."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.entities.clock import ManualClock, SystemClock
from tests.servicebus.entities.deadlines import Deadlines
from tests.servicebus.entities.lanes import Lane
from tests.servicebus.entities.rig import messages
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored


def test_timers_run_in_order_each_at_its_time() -> None:
    """Whatever the order they were made in; those of one time in the order of making."""
    clock = ManualClock(100.0)
    ran: list[tuple[str, float]] = []
    for when, name in ((105.0, "c"), (101.0, "a"), (101.0, "b"), (99.0, "past")):
        clock.at(when, lambda name=name: ran.append((name, clock.now())))
    clock.advance(4)
    assert ran == [("past", 100.0), ("a", 101.0), ("b", 101.0)]
    assert clock.now() == 104.0
    clock.advance(1)
    assert ran[3:] == [("c", 105.0)]


def test_a_timer_made_by_a_timer_runs_in_the_same_advance() -> None:
    """If its time is inside."""
    clock = ManualClock(0.0)
    ran: list[float] = []

    def again() -> None:
        ran.append(clock.now())
        clock.at(clock.now() + 2, again)

    clock.at(1.0, again)
    clock.advance(6)
    assert ran == [1.0, 3.0, 5.0]


def test_a_cancelled_timer_does_not_run_and_does_not_stay() -> None:
    """However many are made and cancelled, the heap stays small."""
    clock = ManualClock(0.0)
    ran: list[int] = []
    kept = clock.at(5.0, lambda: ran.append(1))
    for _ in range(10_000):
        clock.at(10.0, lambda: ran.append(2)).cancel()
    assert len(clock._heap) < 200
    clock.advance(20)
    assert ran == [1]
    kept.cancel()
    kept.cancel()


class Loop:
    """An event loop's timers, by hand."""

    def __init__(self) -> None:
        self.armed: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay: float, call: Callable[[], None]) -> Loop.Handle:
        entry = (delay, call)
        self.armed.append(entry)
        return Loop.Handle(self, entry)

    class Handle:
        def __init__(self, loop: Loop, entry: tuple[float, Callable[[], None]]) -> None:
            self.loop, self.entry = loop, entry

        def cancel(self) -> None:
            self.loop.armed.remove(self.entry)


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    made = Loop()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: made)
    return made


def test_the_system_clock_arms_one_call_for_the_earliest(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier one takes its place; after it ran, the next is armed."""
    clock = SystemClock()
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    ran: list[str] = []
    clock.at(now + 10, lambda: ran.append("late"))
    clock.at(now + 20, lambda: ran.append("later"))
    assert [delay for delay, _ in loop.armed] == [10]
    clock.at(now + 5, lambda: ran.append("early"))
    assert [delay for delay, _ in loop.armed] == [5]
    now += 5
    loop.armed.pop()[1]()
    assert ran == ["early"]
    assert [delay for delay, _ in loop.armed] == [5]
    now += 30
    loop.armed.pop()[1]()
    assert ran == ["early", "late", "later"]
    assert loop.armed == []
    clock.at(now - 1, lambda: ran.append("past"))
    assert [delay for delay, _ in loop.armed] == [0.0]
    clock.close()
    assert loop.armed == []


def test_the_system_clock_goes_on_after_a_timer_that_raises(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the loop's to report, the other timers still run."""
    clock = SystemClock()
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)
    ran: list[str] = []

    def fail() -> None:
        raise RuntimeError("mine")

    clock.at(now, fail)
    clock.at(now, lambda: ran.append("other"))
    with pytest.raises(RuntimeError, match="mine"):
        loop.armed.pop()[1]()
    loop.armed.pop()[1]()
    assert ran == ["other"]


def test_deadlines_use_one_timer_and_stay_small() -> None:
    """Keys whose business is over are forgotten while others come."""
    clock = ManualClock(0.0)
    known: dict[int, None] = {}
    came: list[int] = []
    deadlines = Deadlines(clock, known, came.extend)
    for key in range(100_000):
        known[key] = None
        deadlines.add(60.0 + key / 1000, key)
        if key >= 50:
            del known[key - 50]
    assert len(deadlines) < 400
    assert len(clock._heap) == 1
    clock.advance(1000)
    assert set(known) <= set(came)
    assert len(came) < 400
    assert came == sorted(came)
    assert clock._next() is None


def test_deadlines_come_in_order_with_an_earlier_one_added_later() -> None:
    """And one that is added again while it is due comes again."""
    clock = ManualClock(0.0)
    known = dict.fromkeys("abc")
    came: list[tuple[str, float]] = []

    def due(keys: list[str]) -> None:
        came.extend((key, clock.now()) for key in keys)
        if keys == ["b"]:
            deadlines.add(clock.now() + 10, "b")

    deadlines = Deadlines(clock, known, due)
    deadlines.add(20.0, "a")
    deadlines.add(5.0, "b")
    deadlines.add(20.0, "c")
    clock.advance(15)
    known.pop("b")
    clock.advance(15)
    assert came == [("b", 5.0), ("b", 15.0), ("a", 20.0), ("c", 20.0)]


STEPS = st.sampled_from(["put", "put late", "take", "back", "drop"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 30))))
def test_a_lane_is_a_sorted_list(steps: list[tuple[str, int]]) -> None:
    """Whatever is put, taken, put back or taken out of its middle."""
    lane = Lane()
    # Numbers rise by two; one that comes late, as of a dead letter, is an odd one in between.
    fresh, late = iter(range(2, 10_000, 2)), iter(range(1, 10_000, 2))
    waiting: dict[int, Stored] = {}
    taken: list[Stored] = []

    def put(message: Stored) -> None:
        waiting[message.sequence] = message
        lane.put(message)

    for step, number in steps:
        if step.startswith("put"):
            put(Stored(bare=b"x", sequence=next(late if step == "put late" else fresh)))
        elif step == "take":
            message = lane.take()
            assert message is (waiting.pop(min(waiting)) if waiting else None)
            taken += [message] if message is not None else []
        elif step == "back" and taken:
            put(taken.pop(number % len(taken)))
        elif step == "drop" and waiting:
            lane.discard(waiting.pop(sorted(waiting)[number % len(waiting)]))
        assert len(lane) == len(waiting)
        assert lane.first() is (waiting[min(waiting)] if waiting else None)


def test_a_lane_forgets_gaps() -> None:
    """Behind one message that nobody takes, others may come and expire for ever."""
    lane = Lane()
    for number in range(1, 20_000):
        message = messages("x")[0]
        message.sequence = number
        lane.put(message)
        if number > 1:
            lane.discard(message)
    assert len(lane) == 1
    assert len(lane._fresh) < 200


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"lock_seconds": 0}, "lock_seconds"),
        ({"max_delivery_count": 0}, "max_delivery_count"),
        ({"max_delivery_count": 1.5}, "max_delivery_count"),
        ({"ttl": -1.0}, "ttl"),
        ({"duplicate_window": 0.0}, "duplicate_window"),
        ({"max_message_bytes": 0}, "max_message_bytes"),
        ({"max_bytes": 0}, "max_bytes"),
        ({"lock_seconds": float("nan")}, "lock_seconds"),
    ],
)
def test_settings_name_the_bad_field(changes: dict[str, float], field: str) -> None:
    """And its value."""
    with pytest.raises(ValueError, match=f"{field} is "):
        Settings(**changes)
