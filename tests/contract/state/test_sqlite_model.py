"""The store in a file does what the one in memory does, whatever comes in whatever order."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change, Failure
from pipeline.state.sqlite import Bounds, SqliteStore
from tests.contract.state.suite import START, Calendar, pending

KEYS = ("a", "b", "c", "d")


class BothStores(RuleBasedStateMachine):
    """Two SQLite stores on one file, of which any may be asked, beside one in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.place = Path(tempfile.mkdtemp())
        self.calendar = Calendar()
        self.model = MemoryStore(now=self.calendar.now)
        self.stores = [self.opened(), self.opened()]
        self.sequence = 0
        self.holding = 0

    def opened(self) -> SqliteStore:
        bounds = Bounds(cached=3)
        store = SqliteStore(self.place / "x.sqlite", "p", self.calendar.now, bounds)
        self.run(store.start())
        return store

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def change(self, key: str, stale: bool, given: dict[str, Any]) -> Change:
        (record,) = self.run(self.model.load([key]))
        self.sequence += 1
        change = Change(key, record.version + stale, given["source"])
        if given["applied"]:
            count = given["applied"]
            change.applied = [(self.sequence + at, f"m{self.sequence + at}") for at in range(count)]
            change.settled_below = max(0, self.sequence - given["behind"])
            self.sequence += count
        if given["writes_state"]:
            change.writes_state, change.state = True, given["state"]
            change.schema = given["schema"]
        if given["ttl"] and (change.state or (not change.writes_state and record.state)):
            change.expires_at = self.calendar.time + given["ttl"]
        change.outbox = [pending(self.sequence) for _ in range(given["outbox"])]
        change.sent = min(given["sent"], len(record.outbox))
        if given["failure"] is not None:
            change.writes_failure = True
            verdict = ("rejected", "x") if given["failure"] > 2 else None
            change.failure = (
                Failure(self.sequence, "m", given["failure"], START, START, 1, verdict)
                if given["failure"]
                else None
            )
        return change

    @rule(
        which=st.integers(0, 1),
        keys=st.lists(st.sampled_from(KEYS), unique=True, min_size=1),
        stale=st.sampled_from([0, 0, 0, 1]),
        given=st.fixed_dictionaries(
            {
                "source": st.sampled_from(["q", "é"]),
                "applied": st.integers(0, 40),
                "behind": st.integers(0, 50),
                "writes_state": st.booleans(),
                "state": st.sampled_from([None, b"1", b'{"a":"\xc3\xa9"}']),
                "schema": st.integers(1, 3),
                "ttl": st.sampled_from([0, 5, 50]),
                "outbox": st.integers(0, 2),
                "sent": st.integers(0, 2),
                "failure": st.sampled_from([None, 0, 1, 3]),
            }
        ),
    )
    def commit(self, which: int, keys: list[str], stale: int, given: dict[str, Any]) -> None:
        """The first key's change may be made from another version than the record's."""
        changes = [self.change(key, bool(stale and not at), given) for at, key in enumerate(keys)]
        answers = self.run(self.stores[which].commit(changes))
        expected = self.run(self.model.commit(changes))
        assert list(map(type, answers)) == list(map(type, expected))

    @rule(seconds=st.sampled_from([1, 10, 100]))
    def wait(self, seconds: int) -> None:
        """States expire."""
        self.calendar.time += seconds

    @rule(which=st.integers(0, 1))
    def reopen(self, which: int) -> None:
        """As another process does."""
        self.run(self.stores[which].close())
        self.stores[which] = self.opened()

    @invariant()
    def both_read_the_same(self) -> None:
        """All of every record, in a holding of its own."""
        self.holding += 1
        store = self.stores[self.holding % 2]
        found = self.run(store.load(KEYS, [self.holding] * len(KEYS)))
        expected = self.run(self.model.load(KEYS))
        for one, other in zip(found, expected, strict=True):
            assert one.version == other.version
            assert (one.state, one.outbox, one.failure) == (
                other.state,
                other.outbox,
                other.failure,
            )
            if one.state is not None:
                assert (one.schema, one.expires_at) == (other.schema, other.expires_at)
            assert {
                source: (applied.top, list(applied._recent))
                for source, applied in one.applied.items()
            } == {
                source: (applied.top, list(applied._recent))
                for source, applied in other.applied.items()
            }

    def teardown(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.loop.close()
        shutil.rmtree(self.place)


TestBothStores = pytest.mark.spec("F4", "F11")(BothStores.TestCase)
TestBothStores.settings = settings(max_examples=40, stateful_step_count=25)
