"""A disk that is full, read-only, locked or damaged: a clear error, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.errors import ProviderError, QueueError
from pipeline.state import file
from pipeline.state.port import Change
from pipeline.state.sqlite import _LOOK, SqliteStore
from tests.contract.state.suite import Calendar, record_of, state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.sqlite"


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
async def store(path: Path, calendar: Calendar) -> AsyncIterator[SqliteStore]:
    """A store with one committed session."""
    store = SqliteStore(path, "p", calendar.now)
    await store.start()
    assert await store.commit([state("k", 0, b"1", applied=[(1, "m1")])]) == [None]
    yield store
    await store.close()


async def say(store: SqliteStore, statement: str) -> None:
    """Run a statement on the store's own connection."""
    opened = store._opened()
    await store._run(opened._connection.execute, statement)


def is_transient(answer: QueueError | None, code: str, advice: str) -> bool:
    """Whether it is an error of the store that may pass, and says what to do."""
    return (
        isinstance(answer, ProviderError)
        and answer.transient
        and answer.provider == "sqlite"
        and answer.code.startswith(code)
        and advice in str(answer)
    )


@pytest.mark.spec("F4", "T3", "P10")
async def test_a_full_disk_loses_nothing(store: SqliteStore) -> None:
    """No change of the commit was made, the same call works once there is room."""
    await say(store, "PRAGMA max_page_count = 1")  # SQLite makes it what the file has now
    changes = [
        state("k", 1, b"2", applied=[(2, "m2")]),
        *(state(f"s{number}", 0, b"x" * 5_000) for number in range(20)),
    ]
    answers = await store.commit(changes)
    assert len(answers) == len(changes)
    assert all(is_transient(one, "SQLITE_FULL", "its disk is full: make room") for one in answers)
    for holding in (1, 2):
        record = await record_of(store, "k", holding)
        assert (record.version, record.state) == (1, b"1")
        assert record.has("q", (1, "m1"))
        assert not record.has("q", (2, "m2"))
    assert (await record_of(store, "s0")).version == 0
    await say(store, "PRAGMA max_page_count = 1000000")
    assert await store.commit(changes) == [None] * len(changes)
    assert (await record_of(store, "k", 3)).has("q", (2, "m2"))


@pytest.mark.spec("F4", "T3", "P10")
async def test_a_file_that_can_not_be_written_is_still_read(store: SqliteStore) -> None:
    """Writes say what to do; they work again when it can be written."""
    await say(store, "PRAGMA query_only = ON")
    (answer,) = await store.commit([state("k", 1, b"2")])
    assert is_transient(answer, "SQLITE_READONLY", "make its disk, directory and file writable")
    assert (await record_of(store, "k", 2)).state == b"1"
    with pytest.raises(ProviderError, match="READONLY"):
        await store.delete(["k"])
    await say(store, "PRAGMA query_only = OFF")
    assert await store.commit([state("k", 1, b"2")]) == [None]


@pytest.mark.spec("F4", "T3", "F11")
async def test_a_file_that_another_process_keeps_locked(
    store: SqliteStore, path: Path, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, then told; reading goes on all the while."""
    monkeypatch.setattr(file, "_BUSY", 0.1)
    other = SqliteStore(path, "p", calendar.now)
    await other.start()
    locked = sqlite3.connect(path, isolation_level=None)
    locked.execute("BEGIN IMMEDIATE")
    (answer,) = await other.commit([state("k", 1, b"2")])
    assert is_transient(answer, "SQLITE_BUSY", "another process has kept it locked")
    assert (await record_of(other, "k", 9)).state == b"1"
    locked.execute("ROLLBACK")
    locked.close()
    assert await other.commit([state("k", 1, b"2")]) == [None]
    await other.close()


@pytest.mark.spec("F4", "T3", "P10")
async def test_a_damaged_file_is_no_error_that_passes(store: SqliteStore) -> None:
    """Waiting would not help: it says so."""
    await say(store, "DROP TABLE record")
    with pytest.raises(ProviderError, match="no such table: record: it may be damaged") as caught:
        await store.load(["k"], [5])
    assert not caught.value.transient
    (answer,) = await store.commit([state("new", 0, b"1")])
    assert isinstance(answer, ProviderError)
    assert not answer.transient


@pytest.mark.spec("F4", "F5")
async def test_a_commit_holds_though_nothing_can_be_purged(
    store: SqliteStore, calendar: Calendar, caplog: pytest.LogCaptureFixture
) -> None:
    """What is too much goes at a later look; it is told."""
    await say(
        store,
        "CREATE TEMP TRIGGER no BEFORE DELETE ON main.record BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    assert await store.commit([Change("bare", 0, "q", [(1, "m")])]) == [None]
    calendar.time += 90_000.0 + _LOOK
    assert await store.commit([state("k", 1, b"2")]) == [None]
    assert "nothing was purged" in caplog.text
    assert (await record_of(store, "k", 3)).version == 2


LIMITED = """
import asyncio, json, resource, sys
from pathlib import Path
from pipeline.state.port import Change
from pipeline.state.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), "p", lambda: 1.7e9)
    await store.start()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, most))
    version, answer = 0, None
    while answer is None:
        change = Change("k", version, "q", [(version, "m")], 0, b"x" * 20_000, True)
        (answer,) = await store.commit([change])
        version += answer is None
    told = [version, answer.transient, str(answer)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    (answer,) = await store.commit([change])
    print(json.dumps([*told, answer and str(answer)]))
    await store.close()

asyncio.run(main())
"""


@pytest.mark.spec("F4", "T3", "P10")
def test_a_file_that_may_not_grow(path: Path) -> None:
    """The operating system refuses to write: as for a full disk; with room it goes on."""
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    version, transient, told, after = json.loads(ran.stdout)
    assert version > 1
    assert transient
    assert "see to its space" in told or "make room" in told
    assert after is None

    async def read() -> None:
        store = SqliteStore(path, "p", Calendar().now)
        await store.start()
        record = await record_of(store, "k")
        assert record.version == version + 1
        assert all(record.has("q", (at, "m")) for at in range(version + 1))
        await store.close()

    asyncio.run(read())


@pytest.mark.spec("F4", "T3")
async def test_a_cancelled_commit_leaves_no_half_known_record(store: SqliteStore) -> None:
    """Whether it was written is not known: the next load looks."""
    await record_of(store, "k", 1)
    commit = asyncio.ensure_future(store.commit([state("k", 1, b"2")]))
    await asyncio.sleep(0)
    commit.cancel()
    await asyncio.wait([commit])
    record = await record_of(store, "k", 1)
    assert (record.version, record.state) in ((1, b"1"), (2, b"2"))
    assert await store.commit([state("k", record.version, b"3")]) == [None]
