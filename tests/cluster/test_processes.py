"""The commands as processes: signals, a cluster they are submitted to, and one of two nodes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.rays import own_head

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent

HANDLER = """
import time

from pipeline import handler


@handler(state=dict)
def on_event(body: str, state: dict) -> None:
    if float(body):
        print(f"a message of {body} s has been running", flush=True)
    time.sleep(float(body))
    state[body] = state.get(body, 0) + 1


class Feed:
    async def feed(self, client):
        from pipeline import Message

        for body in (b"8", b"0", b"0"):
            await client.send("events", Message(body, session="s"))
"""

CONFIG = """
name: {name}
connections: {{main: {{provider: memory}}}}
queues: {{events: {{connection: main, fifo: true, sessionless: spread}}}}
pipelines: {{events: {{queue: events, handler: "beside:on_event"}}}}
"""


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    inherited.pop("PYTHONPATH", None)
    return inherited | {"PATH": f"{BIN}:{os.environ['PATH']}"} | more


def wait_for(process: subprocess.Popen[str], text: str, path: Path, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in path.read_text():
        assert process.poll() is None, path.read_text()
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.1)


@pytest.mark.spec("F6", "F9", "P16")
def test_a_run_is_sent_to_and_drains_at_sigterm(tmp_path: Path) -> None:
    """A handler beside the configuration, events from another process, and a clean end."""
    (tmp_path / "beside.py").write_text(HANDLER)
    (tmp_path / "config.yaml").write_text(CONFIG.format(name=f"term-{os.getpid()}"))
    (tmp_path / "events.ndjson").write_text("0\n" * 50)
    log = tmp_path / "err.txt"
    out = tmp_path / "out.txt"
    command = [str(BIN / "queue-runtime")]
    with log.open("w") as err, out.open("w") as results:
        run = subprocess.Popen(
            [*command, "run", "config.yaml", "--json"],
            cwd=tmp_path,
            env=environment(),
            stdout=results,
            stderr=err,
            text=True,
        )
        try:
            wait_for(run, "started 1 pipelines", log)
            sent = subprocess.run(
                [*command, "send", "config.yaml", "events", "--file", "events.ndjson"],
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert (sent.returncode, sent.stdout) == (0, "sent 50 messages to events\n"), (
                sent.stderr
            )
            wait_for(run, "50 done", log)
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 0, log.read_text()
        finally:
            if run.poll() is None:
                run.kill()
                run.wait()
    summary = json.loads(out.read_text().strip().splitlines()[-1])
    assert (summary["completed"], summary["dead_lettered"]) == (50, 0)
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A cluster with token authentication, as the README starts it, on ports of its own."""
    home = tmp_path_factory.mktemp("home")
    dashboard = free_port()
    env = environment(
        HOME=str(home),
        RAY_AUTH_MODE="token",
        RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{dashboard}",
    )
    subprocess.run(
        [str(BIN / "ray"), "get-auth-token", "--generate"],
        env=env,
        check=True,
        capture_output=True,
        timeout=60,
    )
    own = (f"--port={free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=4")
    with own_head(env, dashboard, *own, "--object-store-memory=150000000"):
        yield env


def submit_command() -> str:
    """The command as the README says it."""
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    found = re.search(r"^(?:\$ )?(ray job submit .*)$", text, re.MULTILINE)
    assert found, "the README has no `ray job submit` line"
    return found.group(1)


@pytest.mark.spec("F9", "F6")
def test_the_main_job_is_submitted_as_the_readme_says(head: dict[str, str]) -> None:
    """The README's command on a cluster with a token ends with the same JSON line."""
    # The dashboard's port listens a little before it answers.
    for _ in range(10):
        done = subprocess.run(
            submit_command(),
            shell=True,
            cwd=ROOT,
            env=head,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        if done.returncode == 0:
            break
        if "Request failed" not in done.stderr:
            break
        time.sleep(2)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    summary: dict[str, Any] = json.loads(lines[-1])
    assert summary["verified"] is True
    assert (summary["received"], summary["completed"]) == (336_776, 336_776)
    assert "RAY_JOB_STOP_WAIT_TIME_S" not in done.stdout + done.stderr


def submit(head: dict[str, str], directory: Path, *options: str) -> str:
    """Submit a job that goes on until it is stopped; returns its id."""
    command = [str(BIN / "ray"), "job", "submit", "--no-wait", *options, "--working-dir", "."]
    done = subprocess.run(
        [*command, "--", sys.executable, "-m", "pipeline", "run", "config.yaml", "--json"],
        cwd=directory,
        env=head,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r"raysubmit_\w+", done.stdout)
    assert found, done.stdout
    return found.group()


def job_log(head: dict[str, str], job: str, text: str, directory: Path) -> str:
    """The job's log, once it has this text."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            [str(BIN / "ray"), "job", "logs", job],
            env=head,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if text in done.stdout:
            return done.stdout
        assert time.monotonic() < deadline, done.stdout[-3000:] + done.stderr[-1000:]
        time.sleep(0.5)


@pytest.mark.spec("F6", "F9")
@pytest.mark.timeout(300)
def test_a_stopped_job_drains(head: dict[str, str], tmp_path: Path) -> None:
    """`ray job stop` gives a drain its time where the environment says so; else the run warned."""
    (tmp_path / "beside.py").write_text(HANDLER)
    (tmp_path / "config.yaml").write_text(
        CONFIG.format(name=f"stop-{os.getpid()}")
        + 'job: "beside:Feed"\nstate: {store: memory}\ndrain: {running: 20}\n'
    )
    shipped = ("--runtime-env", str(ROOT / "configs" / "runtime-env.yaml"))
    for options in (shipped, ()):
        job = submit(head, tmp_path, *options)
        job_log(head, job, "has been running", tmp_path)
        stop = [str(BIN / "ray"), "job", "stop", job]
        subprocess.run(stop, env=head, capture_output=True, timeout=90, check=True)
        log = job_log(head, job, "draining" if options else "started 1 pipelines", tmp_path)
        assert ("RAY_JOB_STOP_WAIT_TIME_S" in log) == (not options)
        if options:
            # The running message took longer than the three seconds that Ray gives by itself.
            log = job_log(head, job, '{"received"', tmp_path)
            [summary] = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
            assert (summary["completed"], summary["dead_lettered"]) == (1, 0)


NODES = """
import asyncio, json, sys
from ray.cluster_utils import Cluster
import ray
from actors.runtime import Runtime
from pipeline.config import parse
from pipeline.errors import ConfigurationError
from tests.cluster.work import messages

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
config = parse({
    "name": "nodes",
    "connections": {"main": {"provider": "memory"}},
    "queues": {"first": {"connection": "main", "fifo": True}},
    "pipelines": {"one": {"queue": "first", "handler": "tests.cluster.work:in_order",
                          "handlers": 2, "receivers": 2}},
    "ray": {"handler_cpus": 0.7},
})

async def main():
    try:
        await Runtime(parse(config.model_dump() | {"state": {"store": "sqlite"}})).start()
    except ConfigurationError as error:
        print(error)
    async with Runtime(config, path=[sys.argv[1]]) as runtime:
        await runtime.client.send_many("first", messages(20, 30))
        await runtime.until_empty()
        states = (await runtime.states())["one"]
    print(json.dumps(sorted({(seen.count, seen.out_of_order) for seen in states.values()})))
    print(len(states))

asyncio.run(main())
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.spec("F9", "F3", "F4")
def test_a_pipeline_spans_two_nodes() -> None:
    """Two handlers that fit on no single node keep every session in order.

    Their state can't be in one machine's file: asked for, that is refused.
    """
    with tempfile.TemporaryDirectory(prefix="qr-", dir="/tmp") as short:
        done = subprocess.run(
            [sys.executable, "-c", NODES, str(ROOT)],
            cwd=ROOT,
            env=environment(RAY_AUTH_MODE="disabled", RAY_TMPDIR=short, PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    refused, *ended = done.stdout.strip().splitlines()[-3:]
    assert "sqlite is a file of one machine, and this cluster has 2: choose memory" in refused
    assert ended == ["[[30, 0]]", "20"]
