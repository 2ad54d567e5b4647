"""Secrets of a connection are nowhere but in the processes that use them (SPEC P8)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.rays import own_head
from tests.sqs.servers import own

BIN = Path(sys.executable).parent
KEY, SECRET, TOKEN = "AKIAPLANTED00KEY", "planted+secret/9f2c", "planted-token-77ab"
PASSWORD, CONTROL = "planted-password-31", "planted-control-55"

HANDLER = """
from pipeline import handler


@handler(state=list)
def on_order(body: str, state: list) -> None:
    state.append(body)


class Feed:
    async def feed(self, client):
        from pipeline import Message

        print(repr(client), client)
        for number in range(20):
            await client.send("orders", Message(str(number).encode(), session=f"s{number % 3}"))
"""

CONFIG = """
name: secrets
connections:
  main:
    provider: aws_sqs
    region: us-east-1
    endpoint: {endpoint}
    access_key_id: env:QR_KEY
    secret_access_key: file:{file}
    session_token: env:QR_TOKEN
    proxy: env:QR_PROXY
    client: {client}
queues:
  orders: {{connection: main, name: orders.fifo, fifo: true}}
  lost: {{connection: main, name: lost.fifo, fifo: true}}
pipelines: {{orders: {{queue: orders, handler: "beside:on_order"}}}}
job: beside:Feed
state: {{store: memory}}
log: {{level: trace, format: json}}
"""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, str], Path, str]]:
    """A cluster whose processes find the secrets, its session folder, and an endpoint."""
    dashboard = free_port()
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    with own("orders.fifo", "orders-dlq.fifo") as endpoint:
        address = endpoint.removeprefix("http://")
        environment = inherited | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(tmp_path_factory.mktemp("home")),
            "RAY_AUTH_MODE": "disabled",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "QR_KEY": KEY,
            "QR_TOKEN": TOKEN,
            "QR_PROXY": f"http://user:{PASSWORD}@{address}",
        }
        options = (f"--port={free_port()}", f"--dashboard-port={dashboard}", "--num-cpus=4")
        with own_head(environment, dashboard, *options) as folder:
            yield environment, folder, endpoint


def call(environment: dict[str, str], directory: Path, *command: str) -> str:
    """What a command says, on both streams."""
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=150,
        check=False,
    )
    return done.stdout


def found(text: bytes) -> set[str]:
    """Which of the planted secrets it holds, as such or as JSON or an address would write them."""
    secrets = (KEY, SECRET, TOKEN, PASSWORD, CONTROL)
    return {secret for secret in secrets if secret.encode() in text}


def in_folder(folder: Path) -> set[str]:
    """Which of them are in any file of the session."""
    seen: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            seen |= found(path.read_bytes())
    return seen


@pytest.mark.spec("P8", "P9", "O3")
@pytest.mark.parametrize("client", ["lean", "sdk"])
def test_no_secret_is_in_logs_errors_or_rays_metadata(
    scene: tuple[dict[str, str], Path, str], client: str, tmp_path: Path
) -> None:
    """A run that works and one that fails, searched; what is put into runtime_env is found."""
    environment, folder, endpoint = scene
    (tmp_path / "beside.py").write_text(HANDLER)
    secret = tmp_path / "secret"
    secret.write_text(SECRET + "\n")
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(endpoint=endpoint, file=secret, client=client))
    (tmp_path / "work").mkdir()
    for name in ("beside.py", "config.yaml"):
        (tmp_path / "work" / name).write_bytes((tmp_path / name).read_bytes())
    runtime = json.dumps({"env_vars": {"CONTROL": CONTROL, "RAY_JOB_STOP_WAIT_TIME_S": "60"}})
    submit = ("ray", "job", "submit", f"--runtime-env-json={runtime}", "--working-dir", "work")
    entry = ("--", "python", "-m", "pipeline", "run", "config.yaml", "--until-empty", "--json")
    for _ in range(10):  # the dashboard's port listens a little before it answers
        said = call(environment, tmp_path, *submit, *entry)
        if "Request failed" not in said:
            break
        time.sleep(2)
    assert '"completed": 20' in said, said[-3000:]
    told = [
        said,
        call(environment, tmp_path, "queue-runtime", "check", "config.yaml"),
        call(environment, tmp_path, "ray", "list", "actors", "--detail", "--limit", "1000"),
    ]
    assert "ReceiverActor" in told[-1], told[-1]
    config.write_text(config.read_text().replace("orders.fifo", "lost.fifo"))
    told.append(call(environment, tmp_path, "queue-runtime", "run", "config.yaml", "--until-empty"))
    assert "lost.fifo" in told[-1], told[-1]
    assert found("\n".join(told).encode()) <= {CONTROL}
    assert in_folder(folder) == {CONTROL}, "the control shows that the search finds what is there"
