"""`queue-runtime state`: what it shows of a file, what it deletes, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.cli import addresses
from pipeline.message import Message, to_row
from pipeline.state import export
from pipeline.state.port import Change, Failure, Pending
from pipeline.state.sqlite import SqliteStore

NOW = 2_000_000_000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's time is fixed."""
    monkeypatch.setattr("pipeline.clock.SystemClock.now", lambda _: NOW)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(f"""
name: shop
connections: {{main: {{provider: memory}}}}
queues: {{q: {{connection: main, fifo: true}}}}
pipelines:
  orders: {{queue: q, handler: "app:on_order"}}
  returns: {{queue: q, handler: "app:on_return"}}
state: {{path: {tmp_path}/shop.sqlite}}
""")
    return path


def keep(path: Path, pipeline: str, changes: Sequence[Change], at: float = NOW - 90.0) -> None:
    """Commit as a run did some time ago."""

    async def commit() -> None:
        store = SqliteStore(path.with_suffix(".sqlite"), pipeline, lambda: at)
        await store.start()
        assert await store.commit(changes) == [None] * len(changes)
        await store.close()

    asyncio.run(commit())


@pytest.fixture
def kept(config: Path) -> Path:
    """A configuration with some sessions."""
    failure = Failure(7, "m7", 2, NOW - 100.0, NOW - 50.0, 3)
    pending = Pending(6, "out", to_row(Message(b"x")))
    orders = [
        Change("ann", 0, "src", [(5, "m5"), (6, "m6")], 0, '{"name":"é"}'.encode(), True),
        Change("bob", 0, "src", [(9, "m9")], 0, b"1", True, [pending], 0, failure, True),
        Change("bare", 0, "src", [(1, "m1")]),
        Change("gone", 0, "src", state=b"2", writes_state=True, expires_at=NOW - 1.0),
    ]
    orders[0].schema, orders[0].expires_at = 2, NOW + 3600.0
    keep(config, "orders", orders)
    keep(
        config, "returns", [Change("ann", 0, "s", state=b"[]", writes_state=True)], NOW - 3 * 86400
    )
    return config


@pytest.mark.spec("F4")
def test_list_is_a_table(command: Callable[..., Any], kept: Path) -> None:
    """Sessions with a state, a failure or messages to send, of one pipeline or of all."""
    ended = command("state", "list", kept)
    assert (ended.code, ended.err) == (0, "")
    found = [re.split(r" {2,}", line) for line in ended.out.splitlines()]
    assert found == [
        ["pipeline", "session", "version", "bytes", "age", "attempts"],
        ["orders", "ann", "1", "13", "2 min"],
        ["orders", "bob", "1", "1", "2 min", "2"],
        ["returns", "ann", "1", "2", "3 d"],
    ]
    ended = command("state", "list", kept, "--pipeline", "returns")
    assert len(ended.out.splitlines()) == 2
    keep(kept, "returns", [Change("new", 0, "s", state=b"1", writes_state=True)], NOW - 3.2)
    assert command("state", "list", kept, "--prefix", "new").out.rstrip().endswith("3 s")
    ended = command("state", "list", kept, "--prefix", "zoe")
    assert (ended.code, ended.out, ended.err) == (0, "", "queue-runtime: no session has a state\n")


@pytest.mark.spec("F4")
def test_list_is_json_for_programs(command: Callable[..., Any], kept: Path) -> None:
    """A line a session, as many as asked for."""
    ended = command("state", "list", kept, "--json", "--limit", "1")
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {
            "pipeline": "orders",
            "session": "ann",
            "version": 1,
            "bytes": 13,
            "updated_at": "2033-05-18T03:31:50+00:00",
            "expires_at": "2033-05-18T04:33:20+00:00",
            "attempts": 0,
        }
    ]
    ended = command("state", "list", kept, "--json", "--prefix", "b")
    assert [json.loads(line)["attempts"] for line in ended.out.splitlines()] == [2]


@pytest.mark.spec("F4")
def test_show_is_all_of_a_session(command: Callable[..., Any], kept: Path) -> None:
    """Its state, its failure, what it has to send and how far it is."""
    ended = command("state", "show", kept, "orders", "ann")
    assert ended.code == 0
    assert '"name": "é"' in ended.out
    shown = json.loads(ended.out)
    assert shown["state"] == {"name": "é"}
    assert (shown["version"], shown["schema_version"]) == (1, 2)
    assert (shown["failure"], shown["unsent"], shown["applied"]) == (None, 0, {"src": 6})
    shown = json.loads(command("state", "show", kept, "orders", "bob").out)
    assert shown["unsent"] == 1
    assert shown["failure"] == {
        "sequence": 7,
        "id": "m7",
        "attempts": 2,
        "first_at": "2033-05-18T03:31:40+00:00",
        "retry_at": "2033-05-18T03:32:30+00:00",
        "holding": 3,
        "verdict": None,
        "deaths": 0,
    }
    shown = json.loads(command("state", "show", kept, "orders", "gone").out)
    assert (shown["state"], shown["expires_at"]) == (None, None)
    ended = command("state", "show", kept, "orders", "zoe")
    assert (ended.code, ended.out) == (1, "")
    assert "nothing is kept for session 'zoe'" in ended.err


@pytest.mark.spec("F4")
def test_export_is_a_parquet_file(
    command: Callable[..., Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row a state, in groups; the file is replaced when it is complete."""
    monkeypatch.setattr(export, "_ROWS", 2)
    out = kept.with_name("states.parquet")
    out.write_text("old")
    ended = command("state", "export", kept, out)
    assert (ended.code, ended.out) == (0, f"wrote 3 states to {out}\n")
    table = pq.read_table(out)
    assert pq.ParquetFile(out).num_row_groups == 2
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert [row[:5] for row in rows] == [
        ("orders", "ann", '{"name":"é"}', 1, 2),
        ("orders", "bob", "1", 1, 1),
        ("returns", "ann", "[]", 1, 1),
    ]
    assert [row[5].timestamp() for row in rows] == [NOW - 90, NOW - 90, NOW - 3 * 86400]
    assert [row[6] and row[6].timestamp() for row in rows] == [NOW + 3600, None, None]
    ended = command("state", "export", kept, out, "--pipeline", "returns")
    assert ended.out.startswith("wrote 1 states")
    assert sorted(one.name for one in kept.parent.glob("*parquet*")) == ["states.parquet"]
    ended = command("state", "export", kept, kept.parent / "none" / "x.parquet")
    assert ended.code == 2
    assert "can't be written" in ended.err


@pytest.mark.spec("F4")
def test_an_export_that_fails_leaves_the_old_file(
    command: Callable[..., Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing of the new one."""
    out = kept.with_name("states.parquet")
    out.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.StateWriter, "add", full)
    ended = command("state", "export", kept, out)
    assert (ended.code, ended.out) == (2, "")
    assert "No space left on device" in ended.err
    assert [one.name for one in kept.parent.glob("*parquet*")] == ["states.parquet"]
    assert out.read_text() == "old"


@pytest.mark.spec("F4", "P10")
def test_an_export_replaces_nothing_but_a_file(
    command: Callable[..., Any], kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a directory, not what a program reads from, which as root could be /dev/null."""
    monkeypatch.chdir(kept.parent)
    pipe = kept.with_name("pipe")
    os.mkfifo(pipe)
    for out in (pipe, kept.parent, ".", "/", ""):
        ended = command("state", "export", kept, out)
        assert (ended.code, ended.out) == (2, "")
        assert "is no file that can be replaced: name another one" in ended.err
    assert pipe.is_fifo()


@pytest.mark.spec("F4", "T3")
def test_an_export_to_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    """Wherever in the file the disk was full: at its first bytes, or while it is closed."""
    full = """
import resource, sys
from pathlib import Path
from pipeline.state.export import StateWriter
from pipeline.state.port import SessionRecord

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    with StateWriter(Path(sys.argv[1])) as writer:
        writer.add("p", "s", SessionRecord(1, b"{}"), 1.7e9)
except OSError:
    raise SystemExit(5)
"""
    for limit in (2, 500):
        command = [sys.executable, "-c", full, str(tmp_path / "x.parquet"), str(limit)]
        assert subprocess.run(command, check=False).returncode == 5
        assert list(tmp_path.iterdir()) == []


@pytest.mark.spec("F4")
def test_reset_deletes_what_it_is_told_to(command: Callable[..., Any], kept: Path) -> None:
    """Once it was confirmed; without, it says how much that would be."""
    one = ("state", "reset", kept, "--pipeline", "orders", "--session", "ann", "zoe")
    ended = command(*one)
    assert (ended.code, ended.out) == (2, "")
    assert "would delete what is kept for 1 sessions of orders: add --yes" in ended.err
    ended = command("state", "reset", kept, "--all")
    assert "5 sessions of orders, returns" in ended.err
    ended = command(*one, "--yes")
    assert (ended.code, ended.out) == (0, "deleted what was kept for 1 sessions of orders\n")
    assert command("state", "show", kept, "orders", "ann").code == 1
    assert command("state", "show", kept, "returns", "ann").code == 0
    assert command("state", "reset", kept, "--all", "--yes").out.startswith(
        "deleted what was kept for 4"
    )
    assert command("state", "list", kept).out == ""


@pytest.mark.spec("F4")
def test_reset_waits_for_no_run(
    command: Callable[..., Any], kept: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run has states in hand: it is to be drained first."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    addresses.write("shop", addresses.Address("127.0.0.1:1", None, os.getpid()))
    ended = command("state", "reset", kept, "--all", "--yes")
    assert (ended.code, ended.out) == (2, "")
    assert f"a run of 'shop' is active on this machine (process {os.getpid()})" in ended.err
    assert command("state", "list", kept).out


@pytest.mark.spec("F4", "P10")
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "--limit", "0"), "must be a whole number, 1 or more; got '0'"),
        (("list", "--limit", "x"), "got 'x'"),
        (("list", "--pipeline", "ordrs"), "no pipeline 'ordrs'; there are: orders, returns"),
        (("show", "ordrs", "ann"), "no pipeline 'ordrs'"),
        (("show", "orders"), "SESSION"),
        (("reset", "--yes"), "one of the arguments --session --all is required"),
        (("reset", "--all", "--session", "a"), "not allowed with"),
        (("forget",), "invalid choice"),
    ],
)
def test_wrong_usage_is_told(
    command: Callable[..., Any], kept: Path, arguments: tuple[str, ...], told: str
) -> None:
    """One clear line, exit code 2."""
    action, *more = arguments
    ended = command("state", action, kept, *more)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


@pytest.mark.spec("F4")
@pytest.mark.parametrize(
    "more", [("list",), ("show", "orders", "ann"), ("export", "x"), ("reset", "--all", "--yes")]
)
def test_memory_keeps_nothing(
    command: Callable[..., Any], config: Path, more: tuple[str, ...]
) -> None:
    """Each action says so, and what to configure; a file that isn't there yet is no error."""
    action, *rest = more
    arguments = ["state", action, config, *rest]
    ended = command(*arguments)
    assert (ended.code, ended.out) == (0, "")
    assert "nothing has been kept yet: there is no" in ended.err
    text = config.read_text()
    config.write_text(text[: text.index("state:")] + "state: {store: memory}")
    ended = command(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "state.store is memory: nothing is kept outside a run" in ended.err
    assert "set state: {store: sqlite}" in ended.err


@pytest.mark.spec("F4", "P10")
def test_a_file_of_something_else_is_told(command: Callable[..., Any], config: Path) -> None:
    """As at the start of a run."""
    config.with_suffix(".sqlite").write_text("no database" * 100)
    ended = command("state", "list", config)
    assert (ended.code, ended.out) == (2, "")
    assert "is not a SQLite file, or a damaged one" in ended.err
