"""`queue-runtime run` as a process of its own, with the Ray it starts: signals and commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
name: shop
connections: {main: {provider: memory}}
queues: {orders: {connection: main, fifo: true}}
pipelines: {orders: {queue: orders, handler: "shop:on_order"}}
"""

HANDLER = """
from pipeline import handler

@handler(state=dict)
def on_order(order: str, state: dict) -> None:
    print("handled", order)
    state["last"] = order
"""


class Shop:
    """A shop in a directory of its own, and the processes started there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "shop.yaml").write_text(CONFIG)
        (directory / "shop.py").write_text(HANDLER)
        # Ours alone, so that no other run is found; short, because Ray puts sockets there.
        self.environment = {
            # Not those of the cluster that other tests run in this process.
            **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(directory),
            "RAY_TMPDIR": str(directory),
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def command(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start("-m", "pipeline", *arguments)
        out, err = process.communicate(timeout=90)
        return process.returncode, out, err

    def run(self, *more: str) -> subprocess.Popen[str]:
        """A run that has started its actors."""
        process = self.start("-m", "pipeline", "run", "shop.yaml", "--json", *more)
        assert process.stderr is not None
        for line in process.stderr:
            if "started 1 pipelines" in line:
                return process
        pytest.fail("the run ended before it had started")


@pytest.fixture
def shop() -> Iterator[Shop]:
    import shutil
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="qr-", dir="/tmp"))
    made = Shop(directory)
    try:
        yield made
    finally:
        for process in made.started:
            if process.poll() is None:
                process.kill()
            process.communicate()
        shutil.rmtree(directory, ignore_errors=True)


def result(out: str) -> dict[str, Any]:
    last: dict[str, Any] = json.loads(out.splitlines()[-1])
    return last


@pytest.mark.spec("F6", "F9")
def test_commands_reach_a_run_that_sigterm_then_drains(shop: Shop) -> None:
    """In a Ray that the run started: sent to, looked at, drained within seconds, exit code 0."""
    process = shop.run()
    (shop.directory / "orders.ndjson").write_text('{"customer": "ann", "amount": 3}\n')
    code, out, err = shop.command(
        *("send", "shop.yaml", "orders", "--file", "orders.ndjson", "--session-key", "customer")
    )
    assert (code, out, err) == (0, "sent 1 messages to orders\n", "")
    for _ in range(10):
        if "1 completed" in shop.command("status", "shop.yaml")[1]:
            break
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in err
    assert (result(out)["completed"], result(out)["sessions"]) == (1, 1)
    assert "handled" in err
    assert "handled" not in out  # standard output carries the results alone
    assert shop.command("status", "shop.yaml")[0] == 2


@pytest.mark.spec("F6")
def test_control_c_drains_too_and_drain_waits_for_the_end(shop: Shop) -> None:
    """A terminal sends SIGINT to the whole process group: Ray's processes must outlive it."""
    process = shop.run()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, result(out)["received"]) == (0, 0)
    assert "Traceback" not in err

    process = shop.run()
    code, out, err = shop.command("drain", "shop.yaml")
    assert (code, out, err) == (0, "shop has drained\n", "")
    process.communicate(timeout=5)
    assert process.returncode == 0


@pytest.mark.spec("F6")
def test_a_signal_while_ray_starts_ends_it_cleanly(shop: Shop) -> None:
    """Nothing was begun, so nothing is to drain."""
    process = shop.start("-m", "pipeline", "run", "shop.yaml")
    while not (shop.directory / "ray").exists():  # the test's time-out ends a wait in vain
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "stopped before anything was started" in err
    assert "Traceback" not in err
