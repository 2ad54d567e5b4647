"""What `run` is made of, without Ray: refusals, progress, summary, signals, the address file."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import addresses, run
from pipeline.cli.addresses import Address
from pipeline.cli.progress import LiveStream, Moment, Progress
from pipeline.cli.signals import Signals, Stopped
from pipeline.cli.summary import Summary
from pipeline.config import parse
from pipeline.errors import ConfigurationError

ROOT = Path.cwd()
QUICKSTART = ROOT / "configs/quickstart.yaml"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2


@pytest.fixture(autouse=True)
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No run on this machine is found, and none is disturbed."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.spec("P16")
@pytest.mark.parametrize("name", ["run", "status", "drain"])
def test_without_ray_a_command_says_what_to_install(
    command: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] in ("ray", "actors")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "ray", None)
    ended = command(name, QUICKSTART, *([] if name == "run" else ["--address", "192.0.2.1:1"]))
    assert (ended.code, ended.out) == (2, "")
    assert "pip install 'queue-runtime[cluster]'" in ended.err
    assert ended.err.count("\n") == 1


def test_another_missing_module_is_not_called_ray(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [one for one in sys.modules if one.partition(".")[0] == "actors"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "actors", None)
    assert "unexpected ModuleNotFoundError" in command("run", QUICKSTART).err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "pipelines: there is none to run"),
        ("pipelines: {p: {queue: q, handler: 'nowhere:h'}}", "there is no module 'nowhere'"),
        (
            "pipelines: {p: {queue: q, handler: 'pipeline.examples.flights:on_flight'}}\n"
            "job: beside:Broken",
            "job: beside:Broken() failed: ValueError: no luck",
        ),
        (
            "pipelines: {p: {queue: q, handler: 'pipeline.examples.flights:on_flight'}}\n"
            "job: beside:Refuses",
            "not today",
        ),
    ],
)
def test_what_is_wrong_is_told_before_ray_starts(
    command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.cli.cluster.runtime", None)
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    (tmp_path / "beside.py").write_text(
        "from pipeline.errors import ConfigurationError\n"
        "class Broken:\n"
        "    def __init__(self): raise ValueError('no luck')\n"
        "    async def feed(self, client): ...\n"
        "class Refuses(Broken):\n"
        "    def __init__(self): raise ConfigurationError('not today')\n"
    )
    Path("c.yaml").write_text(
        "name: c\nconnections: {m: {provider: memory}}\nqueues: {q: {connection: m, fifo: true}}\n"
        + text
    )
    ended = command("run", "c.yaml")
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert ended.err.count("\n") == 1


# --- progress -------------------------------------------------------------------------------------


def test_plain_lines_come_every_two_seconds_and_rarely_when_nothing_changes() -> None:
    stream = io.StringIO()
    progress = Progress("shop", stream)
    for step in range(1, 151):
        at = step * 0.2
        progress.show(Moment(at, min(step, 30) * 100, 5, 1, 2))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "shop 2 s: 1,000 done, 500/s, backlog 5, in flight 1, failures 2"
    assert [line.split()[1] for line in lines] == ["2", "4", "6", "16", "26"]


def test_an_unknown_backlog_is_a_question_mark_and_one_moment_has_no_rate() -> None:
    stream = io.StringIO()
    Progress("shop", stream).show(Moment(2.0, 9, None, 0, 0))
    assert stream.getvalue() == "shop 2 s: 9 done, 0/s, backlog ?, in flight 0, failures 0\n"


def test_a_terminal_has_one_live_line_below_everything_else() -> None:
    terminal = Terminal()
    live = LiveStream(terminal)
    progress = Progress("shop", live, live)  # type: ignore[arg-type]
    progress.show(Moment(0.2, 1, 5, 1, 0))
    assert live.write("a log line") == 10
    progress.show(Moment(0.4, 2, 5, 1, 0))  # would run into the line that has not ended
    live.write("\n")
    live.write("")
    live.flush()
    progress.show(Moment(0.6, 3, 5, 1, 0))
    live.end()
    shown = terminal.getvalue().split("\r\x1b[K")
    assert shown[0].startswith("shop 0 s: 1 done")
    assert shown[1].startswith("a log line\nshop 1 s: 3 done")
    assert shown[2] == ""
    assert (live.isatty(), live.fileno()) == (True, 2)


def test_the_live_line_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    terminal = Terminal()
    LiveStream(terminal).draw("0123456789abc")
    assert terminal.getvalue() == "012345678"


def test_the_screen_is_live_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with run._screen("shop") as progress:
        assert isinstance(sys.stderr, LiveStream)
        progress.show(Moment(1.0, 1, 1, 1, 0))
    assert sys.stderr is terminal
    assert terminal.getvalue().startswith("shop 1 s")


# --- the summary ----------------------------------------------------------------------------------


def summary(**more: Any) -> Summary:
    figures: dict[str, Any] = {
        "received": 1_234,
        "completed": 1_200,
        "dead_lettered": 3,
        "redelivered": 31,
        "sessions": 7,
        "seconds": 2.0,
        "p50": 0.0123,
        "p99": 1.5,
    }
    return Summary(**(figures | more))


def test_without_a_check_nothing_is_said_of_order_and_truth() -> None:
    shown = json.loads(summary().line())
    assert list(shown) == [
        *("received", "completed", "dead_lettered", "redelivered", "sessions"),
        *("seconds", "messages_per_second", "p50_ms", "p99_ms"),
    ]
    assert (shown["messages_per_second"], shown["p50_ms"]) == (600.0, 12.3)
    assert not summary().refuted
    assert summary(seconds=0.0).figures()["messages_per_second"] == 0.0


def test_a_check_joins_the_summary_and_never_changes_our_counters() -> None:
    checked = {
        "verified": False,
        "sessions": 5,
        "out_of_order": 1,
        "received": 0,
        "report": ["busiest"],
        "differences": ["N1", "N2"],
        "note": "look",
    }
    result = summary(checked=checked)
    assert result.refuted
    shown = json.loads(result.line())
    assert (shown["sessions"], shown["received"], shown["out_of_order"]) == (5, 1_234, 1)
    assert list(shown)[-2:] == ["differences", "note"]
    table = result.table().splitlines()
    assert table[:2] == ["busiest", ""]
    assert ["verified", "NO"] in [line.split() for line in table]
    assert "N1, N2" in table[-2]


# --- signals --------------------------------------------------------------------------------------


@pytest.mark.spec("F6")
def test_a_signal_before_the_loop_raises_and_the_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped), Signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def _raise(number: int, frame: Any) -> None:
    raise SystemExit(number)


class _Swallows:
    """Loses what is raised in it, as the interpreter does in some of its callbacks."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.spec("F6")
@pytest.mark.parametrize("way", ["raised", "lost"])
def test_a_signal_while_somebody_else_has_it_is_not_lost(
    way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Ray has while it starts; what it raises may meet a callback that swallows it."""

    def start() -> None:
        signal.signal(signal.SIGTERM, _raise)
        if way == "raised":
            signal.raise_signal(signal.SIGTERM)
        _Swallows()

    with Signals() as signals:
        ours = signal.getsignal(signal.SIGTERM)
        hook = sys.unraisablehook
        with pytest.raises(Stopped), signals.lent():
            start()
        assert signal.getsignal(signal.SIGTERM) == ours
        assert sys.unraisablehook is hook
        assert signals._came, "the next one is the second, which ends at once"
        with signals.lent():
            pass
    assert capsys.readouterr().err == ""


def test_a_signal_on_the_loop_asks_to_stop() -> None:
    async def wait(signals: Signals) -> None:
        signals.tell(asyncio.get_running_loop())
        signal.raise_signal(signal.SIGINT)
        async with asyncio.timeout(5):
            await signals.stop.wait()

    with Signals() as signals:
        asyncio.run(wait(signals))


@pytest.mark.spec("F6")
def test_the_second_signal_ends_the_process_even_when_it_hangs() -> None:
    code = (
        "import asyncio, signal\n"
        "from pipeline.cli.signals import Signals\n"
        "async def hang(signals):\n"
        "    signals.tell(asyncio.get_running_loop())\n"
        "    signals.last = lambda: print('last', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('not reached')\n"
        "with Signals() as signals: asyncio.run(hang(signals))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (3, b"last\n")
    assert b"stopped at once" in ended.stderr


def test_a_signal_while_the_configuration_is_read_ends_cleanly(
    command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "open_checked", lambda path: signal.raise_signal(signal.SIGTERM))
    ended = command("run", QUICKSTART)
    assert (ended.code, ended.err) == (0, "queue-runtime: stopped before anything was started\n")


# --- where a run is -------------------------------------------------------------------------------


def test_an_announced_run_is_found_by_its_user_alone(tmp_path: Path) -> None:
    mine = Address("127.0.0.1:1", "disabled", os.getpid())
    addresses.write("shop", mine)
    (directory,) = tmp_path.iterdir()
    assert directory.stat().st_mode & 0o777 == 0o700
    assert addresses.find("shop", None) == mine
    addresses.remove("shop")
    assert list(directory.iterdir()) == []
    addresses.remove("shop")
    with pytest.raises(ConfigurationError, match="no run of 'shop' is active"):
        addresses.find("shop", None)


def test_what_is_given_comes_before_the_environment_and_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses.write("shop", Address("file:1", None, os.getpid()))
    monkeypatch.setenv("RAY_ADDRESS", "environment:1")
    assert addresses.find("shop", "given:1") == Address("given:1")
    assert addresses.find("shop", None) == Address("environment:1")


def test_a_run_that_was_killed_or_a_broken_file_is_no_run() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    addresses.write("shop", Address("127.0.0.1:1", None, gone.pid))
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="no run of 'shop' is active"):
            addresses.find("shop", None)
        addresses._file("shop").write_text("{")
    addresses.remove("shop")
    assert addresses._file("shop").exists()


def test_another_users_process_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert addresses.alive(1)


def test_a_directory_that_others_can_open_is_refused() -> None:
    addresses._directory().mkdir(mode=0o755)
    for call in (
        lambda: addresses.write("shop", Address("a:1")),
        lambda: addresses.find("shop", None),
    ):
        with pytest.raises(ConfigurationError, match="only its user can open"):
            call()


# --- warnings -------------------------------------------------------------------------------------


@pytest.mark.spec("P4", "F6")
def test_what_works_less_well_than_asked_for_is_warned_of(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = parse(
        "name: shop\nconnections: {m: {provider: memory}}\n"
        "queues: {q: {connection: m, fifo: true, sessions: none,"
        " on_unsupported_sessions: unordered}}"
    )
    monkeypatch.setattr(run._log, "propagate", True)
    for name in ("queue_runtime",):
        monkeypatch.setattr(run.logging.getLogger(name), "propagate", True)
    monkeypatch.setenv("RAY_JOB_ID", "1")
    for wait, warned in ((None, True), ("soon", True), ("10", True), ("60", False)):
        caplog.clear()
        monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S", raising=False)
        if wait is not None:
            monkeypatch.setenv("RAY_JOB_STOP_WAIT_TIME_S", wait)
        run._warn(config)
        assert "queue q was asked to keep order" in caplog.text
        assert ("RAY_JOB_STOP_WAIT_TIME_S" in caplog.text) is warned
    monkeypatch.delenv("RAY_JOB_ID")
    monkeypatch.delenv("RAY_JOB_STOP_WAIT_TIME_S")
    caplog.clear()
    run._warn(config)
    assert "RAY_JOB" not in caplog.text
