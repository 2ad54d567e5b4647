"""The record of what was applied, and the store in memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StateConflict
from pipeline.message import Message, to_row
from pipeline.state.memory import MemoryStore
from pipeline.state.port import RECENT, Applied, Change, Failure, Pending, SessionRecord

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


@pytest.mark.spec("F4")
async def test_a_commit_changes_all_of_a_record_at_once() -> None:
    """State, outbox, record and failure; what isn't written stays."""
    store = MemoryStore()
    await store.start()
    one, two = (Pending(n, "out", to_row(Message(b"%d" % n))) for n in (1, 2))
    failure = Failure(2, "m2", 1, 0.0)
    change = Change("k", 0, "q", [(1, "m1")], 0, b"1", True, [one, two], 0, failure, True)
    assert await store.commit([change]) == [None]
    record = await record_of(store, "k")
    assert (record.version, record.state, record.outbox) == (1, b"1", [one, two])
    assert record.failure == failure
    assert record.has("q", (1, "m1"))
    assert await store.commit([Change("k", 1, "", sent=1)]) == [None]
    assert await store.commit([Change("k", 2, "q", [(2, "m2")], writes_failure=True)]) == [None]
    record = await record_of(store, "k")
    assert (record.version, record.state, record.outbox) == (3, b"1", [two])
    assert record.failure is None
    assert record.has("q", (1, "m1"))
    assert record.has("q", (2, "m2"))
    await store.close()


@pytest.mark.spec("F4", "F3")
async def test_a_handler_that_lost_the_session_can_not_write() -> None:
    """A commit of another version than the record's is refused whole; its neighbours are not."""
    store = MemoryStore()
    await store.commit([Change("k", 0, "q", state=b"1", writes_state=True)])
    refused, fine = await store.commit(
        [
            Change("k", 0, "q", [(1, "m")], state=b"2", writes_state=True),
            Change("other", 0, "q", [(1, "m")]),
        ]
    )
    assert isinstance(refused, StateConflict)
    assert fine is None
    record = await record_of(store, "k")
    assert (record.version, record.state) == (1, b"1")
    assert not record.has("q", (1, "m"))


@pytest.mark.spec("F4")
async def test_states_tells_every_session_that_has_one() -> None:
    """A session whose state ended, or that never had one, isn't among them."""
    store = MemoryStore()
    await store.commit(
        [
            Change("a", 0, "q", state=b"1", writes_state=True),
            Change("b", 0, "q", [(1, "m")]),
            Change("c", 0, "q", state=b"3", writes_state=True),
            Change("d", 0, "q", [], writes_failure=True, failure=Failure(1, "m", 1, 0.0)),
        ]
    )
    await store.commit([Change("c", 1, "q", state=None, writes_state=True)])
    assert {key: state async for key, state in store.states()} == {"a": b"1"}
    record = await record_of(store, "c")
    assert (record.version, record.state) == (2, None)


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
