"""Jobs on one cluster whose queue outlives them: a driver that dies, and one that takes over."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.faults import journal
from tests.faults.flights import Part, config, differences
from tests.ports import free_port
from tests.rays import own_head

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COUNT = 60_000

HOLDER = """
import asyncio, json, sys
from actors.runtime import Runtime
from pipeline.config import parse
from tests.faults.flights import Part

async def main():
    async with Runtime(parse(json.loads(sys.argv[1]))) as runtime:
        print("ready", flush=True)
        await Part(int(sys.argv[2])).feed(runtime.client)
        while (depth := await runtime.client.depth("flights")).available or depth.in_hand:
            await asyncio.sleep(0.2)
        counters = await runtime._brokers["main"].counters("flights")
        print(json.dumps([counters.sent, counters.completed, counters.dead_lettered]), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
"""A run without pipelines: it has the queue, feeds it, and tells when all is settled."""


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    inherited |= {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_AUTH_MODE": "disabled"}
    return inherited | {"PYTHONPATH": str(ROOT)} | more


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """A cluster that no driver of ours owns."""
    port = free_port()
    own = (f"--port={port}", "--include-dashboard=false", "--num-cpus=6")
    with own_head(environment(), port, *own, "--object-store-memory=300000000"):
        yield environment(RAY_ADDRESS=f"127.0.0.1:{port}")


class Job:
    """A process whose output can be waited for."""

    def __init__(self, command: list[str], directory: Path, name: str, env: dict[str, str]) -> None:
        self.path = directory / f"{name}.txt"
        with self.path.open("w") as out:
            self.process = subprocess.Popen(
                command, cwd=directory, env=env, stdout=out, stderr=subprocess.STDOUT, text=True
            )

    @property
    def text(self) -> str:
        return self.path.read_text()

    def wait_for(self, text: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.text:
            assert self.process.poll() is None, self.text[-3000:]
            assert time.monotonic() < deadline, self.text[-3000:]
            time.sleep(0.1)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Stage:
    """A queue held by one run, and the jobs that read it with one state store.

    Args:
        directory: everything is there.
        env: how the cluster is found.
    """

    def __init__(self, directory: Path, env: dict[str, str], name: str) -> None:
        self.directory = directory
        self.env = env
        self.handler = journal.write_module(directory)
        self.holder_name = f"{name}-holder"
        self.jobs: list[Job] = []
        held = config(directory, self.holder_name, self.handler)
        del held["pipelines"]
        self.holder = Job(
            [sys.executable, "-c", HOLDER, json.dumps(held), str(COUNT)], directory, "holder", env
        )

    def job(self, name: str) -> Job:
        """Start a job that reads the queue."""
        settings = config(self.directory, name, self.handler)
        settings["connections"]["main"]["run"] = self.holder_name
        path = self.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        command = [str(BIN / "queue-runtime"), "run", path.name]
        job = Job(command, self.directory, f"{name}-{len(self.jobs)}", self.env)
        self.jobs.append(job)
        return job

    def handled(self, least: int) -> None:
        """Wait until so many messages were handled."""
        deadline = time.monotonic() + 90
        while journal.read(self.directory).messages < least:
            assert time.monotonic() < deadline, [job.text[-2000:] for job in self.jobs]
            time.sleep(0.3)

    def verify(self) -> journal.Handled:
        """All settled, in order, and each state as the messages make it."""
        self.holder.wait_for("]", 120)
        counts: list[int] = json.loads(self.holder.text.strip().splitlines()[-1])
        assert counts == [COUNT, COUNT, 0]
        seen = journal.read(self.directory)
        assert (seen.messages, seen.late) == (COUNT, [])
        exported = self.directory / "states.parquet"
        command = [str(BIN / "queue-runtime"), "state", "export", f"{self._any()}", str(exported)]
        subprocess.run(command, cwd=self.directory, env=self.env, check=True, timeout=60)
        assert differences(Part(COUNT), _states(exported)) == []
        return seen

    def _any(self) -> str:
        return next(path.name for path in self.directory.glob("*.yaml"))


def _states(exported: Path) -> dict[str, Any]:
    from pyarrow import parquet
    from pydantic import TypeAdapter

    from pipeline.examples.flights import Tally

    read = TypeAdapter(Tally)
    table = parquet.read_table(exported, columns=["session", "state"])
    rows = zip(table["session"].to_pylist(), table["state"].to_pylist(), strict=True)
    return {session: read.validate_json(state) for session, state in rows}


@contextmanager
def stage(directory: Path, env: dict[str, str], name: str) -> Iterator[Stage]:
    """A stage, and the end of all its processes."""
    made = Stage(directory, env, name)
    try:
        made.holder.wait_for("ready")
        yield made
    finally:
        for job in (*made.jobs, made.holder):
            job.end()


@pytest.mark.spec("F2", "F3", "F4", "F7", "T3")
@pytest.mark.timeout(300)
def test_a_driver_that_dies_is_followed_by_another(cluster: dict[str, str], tmp_path: Path) -> None:
    """SIGKILL: its actors die with it; the next start takes up where store and queue are."""
    with stage(tmp_path, cluster, "died") as at:
        first = at.job("reader")
        at.handled(5_000)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        second = at.job("reader")
        seen = at.verify()
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(60) == 0, second.text[-3000:]
    assert seen.handlings >= COUNT


@pytest.mark.spec("F11", "F3", "F4", "F6")
@pytest.mark.timeout(300)
def test_two_jobs_share_a_queue_while_one_takes_over(
    cluster: dict[str, str], tmp_path: Path
) -> None:
    """A rolling deploy: one starts and the other drains, with one store."""
    with stage(tmp_path, cluster, "roll") as at:
        old = at.job("blue")
        at.handled(3_000)
        new = at.job("green")
        new.wait_for("started 1 pipelines")
        at.handled(20_000)
        old.process.send_signal(signal.SIGTERM)
        assert old.process.wait(60) == 0, old.text[-3000:]
        at.verify()
        new.process.send_signal(signal.SIGTERM)
        assert new.process.wait(60) == 0, new.text[-3000:]
    for job in (old, new):
        found = re.search(r"^completed +([\d,]+)$", job.text, re.MULTILINE)
        assert found, job.text[-3000:]
        assert int(found[1].replace(",", "")) > 0, "both had a part in it"
