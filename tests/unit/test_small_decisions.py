"""Clock, credit, slots and counters."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import clock
from pipeline.credit import Credit
from pipeline.slots import SLOTS, SlotTable, slot_of
from pipeline.telemetry.counters import Histogram, add_up

# --- clock ----------------------------------------------------------------------------------------


@pytest.mark.spec("T1")
def test_the_machines_clock_gives_time_chance_and_ids() -> None:
    """Time goes on, chance is in [0, 1), ids are 32 hexadecimal digits and differ."""
    system = clock.SystemClock()
    assert 1_600_000_000 < system.now() <= system.now()
    assert all(0 <= system.random() < 1 for _ in range(100))
    ids = {system.new_id() for _ in range(100)} | {clock.new_id() for _ in range(100)}
    assert len(ids) == 200
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert clock.monotonic() <= clock.monotonic()


@pytest.mark.spec("T1", "T6")
@given(seed=st.integers(0, 1000))
def test_a_seeded_clock_repeats_itself(seed: int) -> None:
    """Equal seeds give equal chance and ids; time is what the test says it is."""
    one, two = (clock.SeededClock(lambda: 5.0, seed, start=100.0) for _ in range(2))
    assert one.now() == 105.0
    assert [one.random(), one.new_id()] == [two.random(), two.new_id()]
    assert re.fullmatch("[0-9a-f]{32}", one.new_id())


async def test_a_seeded_clock_follows_the_loop() -> None:
    """An hour of the loop is an hour of the calendar."""
    seeded = clock.SeededClock(asyncio.get_running_loop().time)
    before = seeded.now()
    await asyncio.sleep(3600)
    assert seeded.now() == pytest.approx(before + 3600)


# --- credit ---------------------------------------------------------------------------------------


@pytest.mark.spec("F5")
@given(
    messages=st.integers(1, 100),
    size=st.integers(1, 1000),
    steps=st.lists(st.tuples(st.integers(1, 50), st.integers(0, 500)), max_size=20),
)
def test_room_is_what_is_not_held(messages: int, size: int, steps: list[tuple[int, int]]) -> None:
    """Room never goes below nothing, though one receive may overdraw, and all comes back."""
    credit = Credit(messages, size)
    held = [0, 0]
    for count, taken in steps:
        credit.take(count, taken)
        held[0] += count
        held[1] += taken
        assert credit.room == (max(0, messages - held[0]), max(0, size - held[1]))
        if 0 in credit.room:
            assert not credit.worth_receiving(10)
    for count, taken in steps:
        credit.give(count, taken)
    assert credit.room == (messages, size)
    assert credit.worth_receiving(10)


@pytest.mark.spec("F5")
def test_a_receive_waits_for_room_that_is_worth_a_call() -> None:
    """With much in hand: a whole batch, or a quarter of the credit, of messages and of bytes."""
    credit = Credit(100, 1000)
    credit.take(80, 100)
    assert not credit.worth_receiving(4096)
    credit.give(5, 0)
    assert credit.worth_receiving(4096)
    credit.take(15, 0)
    assert credit.worth_receiving(10)
    credit.take(0, 651)
    assert not credit.worth_receiving(10)
    assert Credit(2, 10, held_messages=1).worth_receiving(10)


# --- slots ----------------------------------------------------------------------------------------


@pytest.mark.spec("F3")
def test_a_session_has_one_slot_in_every_process() -> None:
    """Not Python's hash, which differs from process to process."""
    code = "from pipeline.slots import slot_of; print(slot_of('N14228'), slot_of('ü'))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert told.split() == [str(slot_of("N14228")), str(slot_of("ü"))]


@pytest.mark.spec("F1", "F3")
@given(handlers=st.integers(1, SLOTS), routers=st.integers(1, 8), session=st.text(max_size=20))
def test_every_session_has_one_handler_and_its_router(
    handlers: int, routers: int, session: str
) -> None:
    """The router is the handler's; every slot has an owner and the shares are even."""
    table = SlotTable.spread(handlers, routers, version=3)
    owner = table.handler_of(session)
    assert table.version == 3
    assert table.router_of(session) == table.routers[owner]
    assert table.handlers[slot_of(session)] == owner
    shares = [table.handlers.count(one) for one in range(handlers)]
    assert sum(shares) == SLOTS
    assert max(shares) - min(shares) <= 1


# --- counters -------------------------------------------------------------------------------------


@pytest.mark.spec("O1")
@given(st.lists(st.floats(0.00001, 10_000), min_size=1), st.floats(0.01, 1))
def test_quantiles_are_within_nine_percent(values: list[float], share: float) -> None:
    """The duration that a share of all does not exceed, within a bucket."""
    times = Histogram()
    times.add(values)
    rank = next(n for n in range(1, len(values) + 1) if n >= share * len(values))
    assert times.quantile(share) == pytest.approx(sorted(values)[rank - 1], rel=0.09)


@pytest.mark.spec("O1")
def test_durations_out_of_range_are_counted_at_the_ends() -> None:
    """Clocks of two machines may give less than nothing; a year is the last bucket."""
    times = Histogram()
    times.add([-1.0, 0.0, 1e-12, 3e7])
    assert times.total == 4
    assert times.quantile(0.5) < 0.00001
    assert 10_000 < times.quantile(1) < 20_000
    assert Histogram().quantile(0.5) == 0


@pytest.mark.spec("O1")
@given(st.lists(st.floats(0, 100)), st.lists(st.floats(0, 100)))
def test_merged_histograms_are_one(left: list[float], right: list[float]) -> None:
    """Several actors' durations add up, also after a trip as plain counts."""
    one, two, both = Histogram(), Histogram(), Histogram()
    one.add(left)
    two.add(right)
    both.add(left + right)
    one.merge(Histogram(two.counts))
    assert (one.counts, one.total) == (both.counts, both.total)


@pytest.mark.spec("O1")
def test_counters_add_up_by_name() -> None:
    """A name that one of them lacks counts as nothing there."""
    assert add_up([{"a": 1}, {}, {"a": 2, "b": 3}]) == {"a": 3, "b": 3}
    assert add_up([]) == {}
