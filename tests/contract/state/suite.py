"""The contract that every state store keeps (pipeline/state/port.py).

A store's test module subclasses `StateStoreContract` and gives `create`; what it declares that it
lacks is skipped by name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import StateConflict
from pipeline.message import Message, to_row
from pipeline.state.port import RECENT, SOURCES, Change, Failure, Pending, SessionRecord, StateStore

START = 1_700_000_000.0


class Calendar:
    """A time that the test sets."""

    def __init__(self) -> None:
        self.time = START

    def now(self) -> float:
        return self.time


def pending(sequence: int, queue: str = "out") -> Pending:
    """A message that waits to be sent, with a body that is no text."""
    message = Message(b"\xff\x00%d" % sequence, session="s", attributes={"a": "é\n"})
    return Pending(sequence, queue, to_row(message))


def state(key: str, version: int, text: bytes | None, **more: object) -> Change:
    """A change of a state alone."""
    return Change(key, version, "q", state=text, writes_state=True, **more)  # type: ignore[arg-type]


async def record_of(store: StateStore, key: str, holding: int | None = None) -> SessionRecord:
    """One record, as it reads now."""
    (record,) = await store.load([key], None if holding is None else [holding])
    return record


class StateStoreContract:
    """What `MemoryStore` and `SqliteStore` have in common, and where they differ."""

    durable = True
    """Whether another store of the same place finds what was committed."""

    def create(self, place: Path, calendar: Calendar) -> StateStore:
        """A store that isn't started."""
        raise NotImplementedError

    @pytest.fixture
    def calendar(self) -> Calendar:
        return Calendar()

    @pytest.fixture
    async def store(self, tmp_path: Path, calendar: Calendar) -> AsyncIterator[StateStore]:
        store = self.create(tmp_path, calendar)
        await store.start()
        yield store
        await store.close()

    @pytest.fixture
    async def other(
        self, tmp_path: Path, calendar: Calendar, store: StateStore
    ) -> AsyncIterator[StateStore]:
        """A second store of the same place."""
        if not self.durable:
            pytest.skip("this store ends with its object")
        other = self.create(tmp_path, calendar)
        await other.start()
        yield other
        await other.close()

    # ---------------------------------------------------------------- commit and load

    @pytest.mark.spec("F4")
    async def test_a_key_that_is_not_known_has_an_empty_record(self, store: StateStore) -> None:
        """Version 0, nothing applied."""
        assert await store.load(["a", "b"], [1, 1]) == [SessionRecord(), SessionRecord()]
        assert await store.load([], []) == []
        assert await store.commit([]) == []

    @pytest.mark.spec("F4")
    async def test_a_commit_changes_all_of_a_record_at_once(self, store: StateStore) -> None:
        """State, outbox, record and failure; what isn't written stays."""
        one, two = pending(1), pending(2, "other")
        failure = Failure(2, "m2", 3, START, START + 1.5, 7, ("rejected", "{é}"))
        change = Change("k", 0, "q", [(1, "m1")], 0, b"1", True, [one, two], 0, failure, True)
        assert await store.commit([change]) == [None]
        record = await record_of(store, "k", 1)
        assert (record.version, record.state, record.outbox) == (1, b"1", [one, two])
        assert record.failure == failure
        assert record.has("q", (1, "m1"))
        assert await store.commit([Change("k", 1, "", sent=1)]) == [None]
        assert await store.commit([Change("k", 2, "q", [(2, "m2")], writes_failure=True)]) == [None]
        record = await record_of(store, "k", 1)
        assert (record.version, record.state, record.outbox) == (3, b"1", [two])
        assert record.failure is None
        assert record.has("q", (1, "m1"))
        assert record.has("q", (2, "m2"))
        assert not record.has("elsewhere", (2, "m2"))

    @pytest.mark.spec("F4")
    async def test_what_waits_to_be_sent_keeps_its_order(self, store: StateStore) -> None:
        """New ones join at the end, confirmed ones leave from the front."""
        await store.commit([Change("k", 0, "q", [(1, "m")], outbox=[pending(1), pending(2)])])
        await store.commit([Change("k", 1, "q", [(2, "n")], outbox=[pending(3)], sent=1)])
        record = await record_of(store, "k")
        assert [one.sequence for one in record.outbox] == [2, 3]
        assert [one.row[2] for one in record.outbox] == [b"\xff\x002", b"\xff\x003"]

    @pytest.mark.spec("F4", "F3")
    async def test_a_handler_that_lost_the_session_can_not_write(self, store: StateStore) -> None:
        """A commit of another version is refused whole; its neighbours are not."""
        await store.commit([state("k", 0, b"1")])
        changes = [
            Change("k", 0, "q", [(1, "m")], state=b"2", writes_state=True),
            Change("other", 0, "q", [(1, "m")]),
            state("unknown", 4, b"2"),
        ]
        refused, fine, unknown = await store.commit(changes)
        assert isinstance(refused, StateConflict)
        assert fine is None
        assert isinstance(unknown, StateConflict)
        record = await record_of(store, "k")
        assert (record.version, record.state) == (1, b"1")
        assert not record.has("q", (1, "m"))
        assert (await record_of(store, "unknown")).version == 0
        assert (await record_of(store, "other")).has("q", (1, "m"))
        assert await store.commit([state("k", 1, b"3")]) == [None]

    @pytest.mark.spec("F4")
    async def test_a_commit_takes_thousands_of_sessions(self, store: StateStore) -> None:
        """More than one statement holds, some of them refused."""
        keys = [f"s{number}" for number in range(1_000)]
        assert await store.commit([state(key, 0, b"1") for key in keys]) == [None] * len(keys)
        versions = [number % 10 and 1 for number in range(len(keys))]
        changes = [state(key, version, b"2") for key, version in zip(keys, versions, strict=True)]
        answers = await store.commit(changes)
        assert [answer is None for answer in answers] == [version == 1 for version in versions]
        states = [record.state for record in await store.load(keys, [2] * len(keys))]
        assert states == [b"2" if version else b"1" for version in versions]

    @pytest.mark.spec("F4")
    async def test_the_record_keeps_the_unconfirmed_and_64_confirmed(
        self, store: StateStore
    ) -> None:
        """For each source by itself."""
        for number in range(30):
            applied = [(5 * number + at, f"m{5 * number + at}") for at in range(5)]
            change = Change("k", 2 * number, "q", applied, max(0, 5 * number - 10))
            assert await store.commit([change]) == [None]
            change = Change("k", 2 * number + 1, "p", [(number, "m")], 0)
            assert await store.commit([change]) == [None]
        record = await record_of(store, "k", 9)
        kept = [at for at in range(150) if record.has("q", (at, f"m{at}"))]
        assert kept == list(range(135 - RECENT, 150))
        assert [at for at in range(150) if record.has("p", (at, "m"))] == list(range(30))
        assert record.applied["q"].top == 149

    @pytest.mark.spec("F4", "F5")
    async def test_the_record_keeps_the_last_sources(self, store: StateStore) -> None:
        """A queue that is made anew at each start leaves nothing behind for ever."""
        for number in range(3 * SOURCES):
            await store.commit([Change("k", 2 * number, f"q{number}", [(1, "m")])])
            await store.commit([Change("k", 2 * number + 1, "steady", [(number, "m")])])
        record = await record_of(store, "k", 1)
        newest = [f"q{number}" for number in range(2 * SOURCES + 1, 3 * SOURCES)]
        assert sorted(record.applied) == sorted([*newest, "steady"])
        assert record.has("steady", (0, "m"))

    @pytest.mark.spec("F4")
    @pytest.mark.parametrize("key", ["é", "with 'quotes\" and \\", "%_*", "\U0001f6eb", " "])
    async def test_keys_and_ids_may_be_any_text(self, store: StateStore, key: str) -> None:
        """They are values, never part of a statement."""
        text = ('{"a":"' + "é\\n" + '"}').encode()
        change = Change(key, 0, key, [(1, key)], state=text, writes_state=True)
        assert await store.commit([change]) == [None]
        record = await record_of(store, key, 5)
        assert record.state == text
        assert record.has(key, (1, key))
        assert [one async for one in store.states()] == [(key, text)]

    # ---------------------------------------------------------------- states

    @pytest.mark.spec("F4")
    async def test_states_tells_every_session_that_has_one(self, store: StateStore) -> None:
        """A session whose state ended, or that never had one, isn't among them."""
        await store.commit(
            [
                state("a", 0, b"1"),
                Change("b", 0, "q", [(1, "m")]),
                state("c", 0, b"3"),
                Change("d", 0, "q", [], writes_failure=True, failure=Failure(1, "m", 1, 0.0)),
            ]
        )
        await store.commit([state("c", 1, None)])
        assert {key: text async for key, text in store.states()} == {"a": b"1"}

    @pytest.mark.spec("F4")
    async def test_an_ended_state_leaves_the_record_of_what_was_applied(
        self, store: StateStore
    ) -> None:
        """`end_session` deletes the state; the message that did it comes again as a repeat."""
        await store.commit([Change("k", 0, "q", [(1, "m1")], state=b"1", writes_state=True)])
        await store.commit([Change("k", 1, "q", [(2, "m2")], state=None, writes_state=True)])
        record = await record_of(store, "k", 3)
        assert (record.version, record.state) == (2, None)
        assert record.has("q", (1, "m1"))
        assert record.has("q", (2, "m2"))

    @pytest.mark.spec("F4")
    async def test_a_state_expires(self, store: StateStore, calendar: Calendar) -> None:
        """Then it reads as none, whoever had read it; what was applied and the version stay."""
        change = state("k", 0, b"1", applied=[(1, "m")], expires_at=START + 60.0)
        await store.commit([change, state("stays", 0, b"2")])
        calendar.time = START + 59.0
        assert (await record_of(store, "k", 1)).state == b"1"
        calendar.time = START + 60.0
        for holding in (1, 2):
            record = await record_of(store, "k", holding)
            assert (record.version, record.state, record.expires_at) == (1, None, None)
            assert record.has("q", (1, "m"))
        assert {key: text async for key, text in store.states()} == {"stays": b"2"}
        assert await store.commit([Change("k", 1, "q", [(2, "n")])]) == [None]
        calendar.time = START
        assert (await record_of(store, "k", 3)).state is None, "it is gone for good"

    @pytest.mark.spec("F4")
    async def test_each_commit_may_move_the_end_of_a_state(
        self, store: StateStore, calendar: Calendar
    ) -> None:
        """One that says nothing about it leaves it; a new state without an end has none."""
        await store.commit([state("k", 0, b"1", expires_at=START + 10.0)])
        await store.commit([Change("k", 1, "q", [(1, "m")], expires_at=START + 20.0)])
        await store.commit([Change("k", 2, "q", [(2, "n")])])
        calendar.time = START + 19.0
        record = await record_of(store, "k", 1)
        assert (record.state, record.expires_at) == (b"1", START + 20.0)
        await store.commit([state("k", 3, b"2")])
        calendar.time = START + 1e9
        assert (await record_of(store, "k", 2)).state == b"2"

    @pytest.mark.spec("F4")
    async def test_a_state_keeps_the_version_of_its_type(self, store: StateStore) -> None:
        """Until the state is written anew."""
        await store.commit([state("k", 0, b"1", schema=3)])
        await store.commit([Change("k", 1, "q", [(1, "m")])])
        assert (await record_of(store, "k", 1)).schema == 3
        await store.commit([state("k", 2, b"2", schema=4)])
        assert (await record_of(store, "k", 2)).schema == 4

    # ---------------------------------------------------------------- life

    async def test_starting_and_closing_twice_does_no_harm(
        self, store: StateStore, tmp_path: Path, calendar: Calendar
    ) -> None:
        """Both are idempotent."""
        await store.start()
        await store.commit([state("k", 0, b"1")])
        await store.start()
        assert (await record_of(store, "k")).state == b"1"
        await store.close()
        await store.close()
        await self.create(tmp_path, calendar).close()

    # ---------------------------------------------------------------- several stores of one place

    @pytest.mark.spec("F4", "F11")
    async def test_another_store_finds_what_was_committed(
        self, store: StateStore, other: StateStore
    ) -> None:
        """All of it, the moment the commit has returned."""
        failure = Failure(2, "m2", 1, START + 0.123456, START + 1.5, 7)
        change = Change(
            *("k", 0, "q", [(1, "m1"), (2, "é")], 1, b'{"a":1}', True, [pending(1)], 0, failure),
            writes_failure=True,
            schema=2,
            expires_at=START + 3.25,
        )
        assert await store.commit([change]) == [None]
        mine, others = await record_of(store, "k"), await record_of(other, "k")
        for record in (mine, others):
            assert record.has("q", (1, "m1"))
            assert record.has("q", (2, "é"))
            assert record.applied["q"].top == 2
            record.applied = {}
        assert mine == others

    @pytest.mark.spec("F4", "F11", "F3")
    async def test_a_record_read_in_another_holding_is_read_anew(
        self, store: StateStore, other: StateStore
    ) -> None:
        """Another process had the session in between; within one holding, nobody can have."""
        await store.commit([state("k", 0, b"1")])
        assert (await record_of(store, "k", 1)).state == b"1"
        await other.load(["k"], [2])
        assert await other.commit([state("k", 1, b"2")]) == [None]
        assert (await record_of(store, "k", 3)).state == b"2"
        assert await store.commit([state("k", 2, b"3")]) == [None]

    @pytest.mark.spec("F4", "F11", "F3")
    async def test_of_two_that_hold_a_session_one_is_refused(
        self, store: StateStore, other: StateStore
    ) -> None:
        """The one that lost it can't write, and reads the truth from then on."""
        await store.commit([state("k", 0, b"1"), state("own", 0, b"1")])
        for one in (store, other):
            await one.load(["k"], [1])
        assert await other.commit([state("k", 1, b"2")]) == [None]
        refused, fine = await store.commit([state("k", 1, b"3"), state("own", 1, b"3")])
        assert isinstance(refused, StateConflict)
        assert fine is None
        assert (await record_of(store, "k", 1)).state == b"2"
        assert await store.commit([state("k", 2, b"4")]) == [None]
