"""The record of what was applied, and how the store in memory stays small.

The contract that all stores keep is tests/contract/state's.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.message import Message, to_row
from pipeline.state.memory import MemoryStore
from pipeline.state.port import RECENT, Applied, Change, Pending, SessionRecord

# --- the record -----------------------------------------------------------------------------------


@pytest.mark.spec("F4")
@given(confirmed=st.integers(0, 300), more=st.integers(0, 300))
def test_the_record_keeps_the_unconfirmed_and_64_confirmed(confirmed: int, more: int) -> None:
    """Whatever isn't confirmed, and of what is the last 64; nothing else, so it stays small."""
    applied = Applied()
    total = confirmed + more
    for sequence in range(total):
        applied.extend([(sequence, f"m{sequence}")], min(sequence, confirmed))
    kept = [sequence for sequence in range(total) if (sequence, f"m{sequence}") in applied]
    below = min(confirmed, total - 1)
    assert set(range(max(0, below - RECENT), total)) <= set(kept)
    assert len(applied) == len(kept) <= RECENT + total - max(0, below)


@pytest.mark.spec("F4")
def test_only_the_same_sequence_and_id_were_applied() -> None:
    """A lower sequence alone proves nothing: a queue made anew starts at 1 again."""
    applied = Applied()
    applied.extend([(5, "a")], 0)
    assert (5, "a") in applied
    assert (5, "b") not in applied
    assert (3, "a") not in applied
    assert (9, "a") not in applied
    record = SessionRecord(applied={"here": applied})
    assert record.has("here", (5, "a"))
    assert not record.has("here", (6, "a"))
    assert not record.has("there", (5, "a"))


@pytest.mark.spec("F4")
def test_a_change_knows_whether_it_changes_anything() -> None:
    """Any of its parts makes it one to commit."""
    assert Change("k", 0, "q").empty
    pending = Pending(1, "out", to_row(Message(b"")))
    for part in (
        {"applied": [(1, "a")]},
        {"writes_state": True},
        {"outbox": [pending]},
        {"sent": 1},
        {"writes_failure": True},
    ):
        assert not Change("k", 0, "q", **part).empty  # type: ignore[arg-type]


# --- the store ------------------------------------------------------------------------------------


async def record_of(store: MemoryStore, key: str) -> SessionRecord:
    (record,) = await store.load([key])
    return record


@pytest.mark.spec("F5", "F4")
async def test_sessions_seen_once_do_not_fill_the_memory() -> None:
    """Of records without a state the least recently used go; those with one all stay."""
    store = MemoryStore(most_records=3)
    for number in range(10):
        await store.commit(
            [
                Change(f"bare{number}", 0, "q", [(1, "m")]),
                Change(f"full{number}", 0, "q", state=b"{}", writes_state=True),
            ]
        )
        if number:
            version = (await record_of(store, "bare0")).version
            await store.commit([Change("bare0", version, "q", [(number + 1, "m")])])
    known = [n for n in range(10) if (await record_of(store, f"bare{n}")).version]
    assert known == [0, 8, 9]
    assert all([(await record_of(store, f"full{n}")).version for n in range(10)])


@pytest.mark.spec("F4")
async def test_a_record_keeps_its_history_when_its_state_ends_or_begins() -> None:
    """It moves between the two kinds without losing version or record."""
    store = MemoryStore(most_records=1)
    await store.commit([Change("k", 0, "q", [(1, "m1")])])
    await store.commit([Change("k", 1, "q", [(2, "m2")], state=b"1", writes_state=True)])
    await store.commit([Change("x", 0, "q", [(1, "m1")]), Change("y", 0, "q", [(1, "m1")])])
    record = await record_of(store, "k")
    assert record.version == 2
    assert record.has("q", (1, "m1"))
    await store.commit([Change("k", 2, "q", state=None, writes_state=True)])
    record = await record_of(store, "k")
    assert record.version == 3
    assert record.has("q", (2, "m2"))
