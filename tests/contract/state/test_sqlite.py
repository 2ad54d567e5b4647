"""The store in an SQLite file keeps the contract; its own: processes, bounds, tools."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import parse
from pipeline.errors import Closed, ConfigurationError
from pipeline.state import file
from pipeline.state.file import StateFile
from pipeline.state.open import forget
from pipeline.state.port import Change
from pipeline.state.sqlite import Bounds, Kept, SqliteStore
from tests.contract.state.suite import (
    START,
    Calendar,
    StateStoreContract,
    pending,
    record_of,
    state,
)


class TestSqliteStore(StateStoreContract):
    """`SqliteStore`."""

    def create(self, place: Path, calendar: Calendar) -> SqliteStore:
        return SqliteStore(place / "kept" / "x.sqlite", "p", calendar.now)


@pytest.fixture
def calendar() -> Calendar:
    return Calendar()


@pytest.fixture
async def make(tmp_path: Path, calendar: Calendar) -> Any:
    """Makes stores of one file, started; they are closed at the end."""
    made: list[SqliteStore] = []

    async def start(pipeline: str = "p", bounds: Bounds | None = None) -> SqliteStore:
        path = tmp_path / "x.sqlite"
        store = SqliteStore(path, pipeline, calendar.now, bounds or Bounds())
        made.append(store)
        await store.start()
        return store

    yield start
    for store in made:
        await store.close()


async def all_of(store: SqliteStore) -> dict[str, Kept]:
    """All records of a store."""
    return {key: kept async for key, kept in store.records()}


async def all_in(path: Path) -> dict[str, Kept]:
    """All records of a file."""
    store = SqliteStore(path, "p", Calendar().now)
    await store.start()
    try:
        return await all_of(store)
    finally:
        await store.close()


# --- the file -------------------------------------------------------------------------------------


def modes_of(directory: Path) -> dict[str, int]:
    """The files in a directory with their modes, and under its own name the directory's."""
    found = [directory, *directory.iterdir()]
    return {one.name: stat.S_IMODE(one.stat().st_mode) for one in found}


@pytest.mark.spec("F4")
async def test_the_file_is_its_user_s_alone(tmp_path: Path, calendar: Calendar) -> None:
    """States may be private: neither it nor what SQLite puts beside it can be read by others."""
    directory = tmp_path / "new"
    store = SqliteStore(directory / "x.sqlite", "p", calendar.now)
    await store.start()
    await store.commit([state("k", 0, b"1")])
    files = dict.fromkeys(["x.sqlite", "x.sqlite-wal", "x.sqlite-shm"], 0o600)
    assert modes_of(directory) == files | {"new": 0o700}
    await store.close()


@pytest.mark.spec("F4")
async def test_pipelines_share_a_file_and_no_record(make: Callable[..., Any]) -> None:
    """One key in two pipelines is two sessions."""
    one, two = await make("one"), await make("two")
    assert await one.commit([state("k", 0, b"1")]) == [None]
    assert await two.commit([state("k", 0, b"2")]) == [None]
    assert (await record_of(one, "k", 5)).state == b"1"
    assert await one.delete() == 1
    assert (await record_of(two, "k", 5)).state == b"2"


async def test_a_store_that_is_not_open_says_so(tmp_path: Path, calendar: Calendar) -> None:
    """Before its start and after its close."""
    store = SqliteStore(tmp_path / "x.sqlite", "p", calendar.now)
    with pytest.raises(Closed, match="is not open"):
        await store.load(["k"], [1])
    with pytest.raises(Closed, match="is not open"):
        await store.delete()


WRITER = """
import asyncio, sys, time
from pathlib import Path
from pipeline.state.open import forget
from pipeline.state.port import Change
from pipeline.state.sqlite import SqliteStore

async def main():
    store = SqliteStore(Path(sys.argv[1]), "p", time.time)
    await store.start()
    keys = [f"s{n}" for n in range(600)]
    for turn in range(100_000):
        text = b'{"turn":%d,"pad":"%s"}' % (turn, b"x" * 500)
        records = await store.load(keys)
        answers = await store.commit([
            Change(key, record.version, "q", [(turn, "m")], state=text, writes_state=True)
            for key, record in zip(keys, records)
        ])
        assert answers == [None] * len(keys)
        print(turn, flush=True)

asyncio.run(main())
"""


@pytest.mark.spec("F4", "F7", "T3")
def test_a_killed_process_leaves_whole_commits(tmp_path: Path) -> None:
    """Whatever it was doing: each session is at the last commit that returned, or the one after."""
    path = tmp_path / "x.sqlite"
    told = -1
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        while told < 15:
            told = int(writer.stdout.readline())
        writer.kill()
        told = max([told, *map(int, writer.stdout.read().split())])
    found = asyncio.run(all_in(path))
    turns = {kept.record.version - 1 for kept in found.values()}
    assert len(found) == 600
    assert turns in ({told}, {told + 1})
    (turn,) = turns
    for kept in found.values():
        assert (kept.record.state or b"").startswith(b'{"turn":%d,' % turn)
        assert kept.record.has("q", (turn, "m"))
        assert not kept.record.has("q", (turn + 1, "m"))


# --- what can't be opened -------------------------------------------------------------------------


def refused(path: Path) -> str:
    """What starting a store there is refused with; the file is not changed by it."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(ConfigurationError) as caught:
        asyncio.run(SqliteStore(path, "p", Calendar().now).start())
    assert before is None or path.read_bytes() == before
    return str(caught.value)


@pytest.mark.spec("F4", "P10")
def test_what_is_not_ours_is_left_as_it_is(tmp_path: Path) -> None:
    """A text, another program's database, a newer format, a damaged file."""
    path = tmp_path / "x.sqlite"
    path.write_text("my notes, and no database at all: " * 40)
    assert "is not a SQLite file, or a damaged one" in refused(path)
    path.unlink()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.commit()
    foreign.close()
    assert f"{path} is a SQLite file of another program" in refused(path)
    path.unlink()
    StateFile(path).close()
    newer = sqlite3.connect(path)
    newer.execute("PRAGMA user_version = 9")
    newer.commit()
    newer.close()
    assert "has format 9, and this version of queue-runtime reads format 1" in refused(path)


@pytest.mark.spec("F4", "P10")
def test_a_path_that_can_not_be_is_named(tmp_path: Path) -> None:
    """A file where a directory is needed, a directory where the file should be."""
    (tmp_path / "file").write_text("")
    told = refused(tmp_path / "file" / "x.sqlite")
    assert f"state.path: {tmp_path / 'file' / 'x.sqlite'} can't be opened" in told
    assert "name a path that can be written" in told
    (tmp_path / "directory.sqlite").mkdir()
    assert "can't be opened" in refused(tmp_path / "directory.sqlite")


@pytest.mark.spec("F4", "P10")
def test_an_old_sqlite_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lacks what the statements need."""
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 26, 0))
    monkeypatch.setattr(sqlite3, "sqlite_version", "3.26.0")
    assert "this Python has SQLite 3.26.0; sqlite needs 3.33.0" in refused(tmp_path / "x")


@pytest.mark.spec("F4", "F11")
def test_several_may_make_the_file_at_once(tmp_path: Path) -> None:
    """Only one of them makes the tables; all find them."""
    path = tmp_path / "x.sqlite"
    code = (
        "import sys; from pathlib import Path; from pipeline.state.file import StateFile; "
        "sys.stdin.readline(); StateFile(Path(sys.argv[1])).close()"
    )
    openers = [
        subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE)
        for _ in range(4)
    ]
    for opener in openers:
        assert opener.stdin is not None
        opener.stdin.write(b"go\n")
        opener.stdin.close()
    assert [opener.wait() for opener in openers] == [0] * 4


# --- bounds ---------------------------------------------------------------------------------------


@pytest.mark.spec("F4", "F5")
async def test_the_cache_is_bounded(make: Callable[..., Any]) -> None:
    """What was dropped is read again, to load it and to change it."""
    store = await make(bounds=Bounds(cached=3))
    keys = [f"s{number}" for number in range(10)]
    assert await store.commit([state(key, 0, b"1") for key in keys]) == [None] * 10
    assert len(store._cached) == 3
    assert await store.commit([state(key, 1, b"2") for key in keys]) == [None] * 10
    records = await store.load(keys, [1] * 10)
    assert [(record.version, record.state) for record in records] == [(2, b"2")] * 10
    assert len(store._cached) == 3


@pytest.mark.spec("F4", "F5")
async def test_old_memories_of_what_was_applied_are_purged(
    make: Callable[..., Any], calendar: Calendar
) -> None:
    """A day after their last commit; states, messages to send and failures stay."""
    store = await make()
    await store.commit(
        [
            *(Change(f"bare{number}", 0, "q", [(1, "m")]) for number in range(5_000)),
            state("state", 0, b"1"),
            state("ended", 0, b"1"),
            state("expires", 0, b"1", expires_at=START + 10.0),
            Change("outbox", 0, "q", [(1, "m")], outbox=[pending(1)]),
        ]
    )
    await store.commit([state("ended", 1, None)])
    calendar.time += 86_390.0
    await store.commit([Change("bare0", 1, "q", [(2, "n")])])
    assert len(await all_of(store)) == 5_004
    # The memory of what was applied to `expires` is as old as the others, its state is gone.
    for _ in range(4):
        calendar.time += 61.0
        await store.commit(
            [Change("other", (await record_of(store, "other")).version, "q", [(1, "m")])]
        )
    left = list(await all_of(store))
    assert left == ["bare0", "other", "outbox", "state"]


@pytest.mark.spec("F4", "F5")
async def test_the_number_of_memories_is_bounded(
    make: Callable[..., Any], calendar: Calendar
) -> None:
    """Of ids of unordered messages, one record each, the oldest go."""
    store = await make(bounds=Bounds(records=1_000))
    for number in range(30):
        calendar.time += 0.01
        await store.commit([Change(f"{number}-{at}", 0, "q", [(1, "m")]) for at in range(1_000)])
    for version in range(20):
        calendar.time += 0.01
        await store.commit([Change("again", version, "q", [(1, "m")])])
    left = await all_of(store)
    assert len(left) < 11_100
    assert "29-999" in left
    assert "0-0" not in left


# --- tools ----------------------------------------------------------------------------------------


async def test_records_are_paged_found_and_deleted(
    make: Callable[..., Any], calendar: Calendar
) -> None:
    """In the order of the keys, however many there are."""
    store = await make()
    keys = [f"a{number:04}" for number in range(1_234)] + ["b%", "b_1", "bx"]
    await store.commit([state(key, 0, b"12", expires_at=START + 9.0) for key in keys])
    assert list(await all_of(store)) == keys
    assert [key async for key, _ in store.records("b_")] == ["b_1"]
    assert [key async for key, _ in store.records(limit=600)] == keys[:600]
    assert [key async for key, _ in store.records(limit=0)] == []
    calendar.time += 10.0
    kept = await store.find("b%")
    assert kept is not None
    assert (kept.record.state, kept.size, kept.updated_at) == (b"12", 2, START)
    assert await store.find("b") is None
    assert await store.find("c") is None
    assert await store.delete(["bx", "b_1", "none"]) == 2
    assert await record_of(store, "bx") != kept.record
    assert (await record_of(store, "bx")).version == 0
    assert await store.delete() == 1_235
    assert await all_of(store) == {}


@pytest.mark.spec("F4")
async def test_a_fresh_run_forgets_what_its_pipelines_kept(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    """And nothing of pipelines that it has not."""
    for pipeline in ("p", "elsewhere"):
        await (await make(pipeline)).commit([state("k", 0, b"1")])
    config = parse(
        {
            "name": "shop",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"q": {"connection": "main"}},
            "pipelines": {name: {"queue": "q", "handler": "app:handle"} for name in ("p", "new")},
            "state": {"path": str(tmp_path / "x.sqlite"), "fresh": True},
        }
    )
    await forget(config, SystemClock())
    assert await all_of(await make("p")) == {}
    assert list(await all_of(await make("elsewhere"))) == ["k"]


@pytest.mark.spec("F4", "F11")
def test_one_that_is_late_waits_until_the_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process is at it: its work is waited for, and found."""
    path = tmp_path / "x.sqlite"
    path.touch()
    first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN")
    first.execute("SELECT * FROM sqlite_schema").fetchall()  # now nobody can change the mode
    monkeypatch.setattr(file, "_BUSY", 0.05)
    monkeypatch.setattr(file, "_TRIES", 2)
    assert "can't be opened (database is locked)" in refused(path)

    def made(_: float) -> None:
        first.close()
        StateFile(path).close()

    monkeypatch.setattr("time.sleep", made)
    assert asyncio.run(all_in(path)) == {}
