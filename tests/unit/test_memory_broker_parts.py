"""The small structures the memory broker stands on."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.providers.memory.lane import Recent
from pipeline.providers.memory.stored import GONE, Line, Stored
from pipeline.providers.memory.timeline import Timeline


def record(sequence: int) -> Stored:
    """A message of one byte."""
    return Stored(sequence, (str(sequence), None, b"x"), 1, 0.0)


def walk(line: Line) -> list[int]:
    """The sequences that a line would give, from its links."""
    found = []
    at = line.head
    while at is not None:
        if not at.marks & GONE:
            found.append(at.sequence)
        at = at.next
    return found


@pytest.mark.spec("P11")
@given(st.data())
def test_a_line_is_a_sorted_list(data: st.DataObject) -> None:
    """Whatever is appended, taken, put back and dropped in whatever order."""
    line = Line()
    waiting: dict[int, Stored] = {}
    taken: list[Stored] = []
    for sequence in range(1, 40):
        step = data.draw(st.sampled_from(["append", "append", "take", "put_back", "drop"]))
        if step == "append":
            waiting[sequence] = record(sequence)
            line.append(waiting[sequence])
        elif step == "take":
            room, budget = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 5))
            found: list[Stored] = []
            count, left = line.take(room, budget, found)
            assert count == len(found)
            expected = sorted(waiting)[: min(room, budget)]
            assert [one.sequence for one in found] == expected
            assert left == budget - len(found)
            assert all(one.next is None for one in found)
            taken += [waiting.pop(one.sequence) for one in found]
        elif step == "put_back" and taken:
            back = data.draw(st.lists(st.sampled_from(taken), unique=True, min_size=1))
            taken = [one for one in taken if one not in back]
            waiting.update({one.sequence: one for one in back})
            line.put_back(list(back))
        elif step == "drop" and waiting:
            line.drop(waiting.pop(data.draw(st.sampled_from(sorted(waiting)))))
        assert walk(line) == sorted(waiting)
        assert line.live == len(waiting)
        assert (line.head is None) == (line.tail is None) == (not waiting)


@pytest.mark.spec("P11")
def test_messages_put_first_are_before_all_others() -> None:
    """In ascending sequence among themselves; into an empty line as well."""
    line = Line()
    line.put_first([record(3), record(1)])
    line.append(record(9))
    line.put_first([record(7), record(5)])
    assert walk(line) == [5, 7, 1, 3, 9]


@pytest.mark.spec("P11", "F5")
def test_a_line_forgets_messages_that_ended_behind_its_head() -> None:
    """A head that is never taken does not keep a million expired ones in memory."""
    line = Line()
    line.append(record(0))
    last = record(1)
    for sequence in range(1, 1_000):
        last = record(sequence)
        line.append(last)
        line.drop(last)
        assert line.gone <= 66
    assert last.body == b""
    assert walk(line) == [0]


@pytest.mark.spec("P11")
@given(st.lists(st.tuples(st.floats(0, 100), st.booleans()), max_size=50), st.floats(0, 100))
def test_a_timeline_gives_what_is_due(moments: list[tuple[float, bool]], now: float) -> None:
    """Earliest first, and says when the next one is."""
    timeline = Timeline()
    for sequence, (when, _) in enumerate(moments):
        timeline.add(when, sequence, range(100))
    due = timeline.due(now)
    assert sorted(due) == [at for at, (when, _) in enumerate(moments) if when <= now]
    assert [moments[at][0] for at in due] == sorted(moments[at][0] for at in due)
    assert timeline.first == min([when for when, _ in moments if when > now], default=math.inf)


@pytest.mark.spec("P11", "F5")
def test_a_timeline_forgets_what_no_longer_counts() -> None:
    """Ten thousand messages that were handled before their time leave nothing that grows."""
    timeline = Timeline()
    alive: dict[int, Any] = {0: None}
    timeline.add(99_999.0, 0, alive)
    for sequence in range(1, 10_000):
        timeline.add(float(sequence), sequence, alive)
        assert len(timeline._heap) <= 1_001
    assert timeline.due(math.inf)[-1] == 0


@pytest.mark.spec("P11", "F5")
def test_recent_numbers_are_bounded() -> None:
    """The last five thousand are always known, never more than ten thousand."""
    recent = Recent()
    for start in range(0, 50_000, 7):
        recent.add(range(start, start + 7))
        assert len(recent._seen) <= 10_000
    assert 50_000 in recent
    assert 50_000 - 4_999 in recent
    assert 1 not in recent
