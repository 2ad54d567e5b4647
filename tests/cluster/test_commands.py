"""The commands on a real Ray, in this process: the run finds the cluster that is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.__main__ import main

ROOT = Path(__file__).parents[2]

CONFIG = """
name: {name}
connections: {{main: {{provider: memory}}}}
queues: {{first: {{connection: main, fifo: true, sessionless: spread}}}}
pipelines: {{one: {{queue: first, handler: "tests.cluster.work:in_order"}}}}
{more}
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", sys.path[:])

    def one(name: str, more: str = "") -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text(CONFIG.format(name=name, more=more))
        return str(path)

    return one


def last_json(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    captured = capsys.readouterr()
    summary: dict[str, Any] = json.loads(captured.out.strip().splitlines()[-1])
    return summary, captured.err


@pytest.mark.spec("F9", "O3")
def test_run_feeds_checks_and_sums_up(
    ray_cluster: None, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """`run --until-empty --json` ends with one JSON line that the job's check has joined."""
    config = write("feeds", "job: tests.cluster.work:Feeds")
    assert main(["run", config, "--until-empty", "--json"]) == 0
    summary, err = last_json(capsys)
    assert summary["verified"] is True
    assert (summary["received"] >= 300, summary["completed"]) == (True, 300)
    assert summary["sessions"] == 3
    assert summary["p99_ms"] >= summary["p50_ms"] > 0
    assert "Traceback" not in err


@pytest.mark.spec("F9")
def test_a_feed_that_fails_ends_the_run_with_1(
    ray_cluster: None, write: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is told, the run is drained."""
    config = write("feed-fails", "job: tests.cluster.work:FeedFails")
    assert main(["run", config, "--until-empty", "--json"]) == 1
    assert "the source is gone" in capsys.readouterr().err


@pytest.mark.spec("P16")
def test_send_without_a_run_says_so(
    ray_cluster: None,
    write: Callable[..., str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A memory queue lives in a running job: without one, exit code 2 and what to do."""
    events = tmp_path / "events.ndjson"
    events.write_text("{}\n")
    assert main(["send", write("nobody"), "first", "--file", str(events)]) == 2
    assert "no run of 'nobody' is active" in capsys.readouterr().err


@pytest.mark.spec("M3", "F4")
@pytest.mark.parametrize("tamper", ["drop_one", "send_one_twice", "swap_two", "alter_a_distance"])
def test_a_tampered_feed_is_not_verified(
    ray_cluster: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tamper: str,
) -> None:
    """Whatever is done to one aircraft's messages, the check names it and the exit code is 1."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setenv("QR_TEST_TAMPER", tamper)
    config = tmp_path / "flights.yaml"
    config.write_text(
        f"name: flights-{tamper.replace('_', '-')}\n"
        "connections: {main: {provider: memory}}\n"
        "queues: {flights: {connection: main, fifo: true, sessionless: spread}}\n"
        "pipelines:\n"
        '  flights: {queue: flights, handler: "pipeline.examples.flights:on_flight"}\n'
        "job: tests.cluster.tampered:Job\n"
    )
    assert main(["run", str(config), "--until-empty", "--json"]) == 1
    summary, _ = last_json(capsys)
    assert summary["verified"] is False
    assert summary["differences"] == ["N14542"]
    assert summary["out_of_order"] == (1 if tamper == "swap_two" else 0)
