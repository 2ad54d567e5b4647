"""A command that is run with our server in place of Azure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "tests.servicebus.with_server"]
SENDS = """
import asyncio, os
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

async def main():
    given = os.environ["AZURE_SERVICEBUS_CONNECTION_STRING"]
    async with ServiceBusClient.from_connection_string(given) as client:
        async with client.get_queue_sender("orders") as sender:
            await sender.send_messages(ServiceBusMessage(b"1", session_id="s"))
        async with client.get_queue_receiver("orders", session_id="s") as receiver:
            [message] = await receiver.receive_messages(1)
            print(bytes(next(message.body)).decode())
    raise SystemExit(7)

asyncio.run(main())
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.spec("T2")
def test_a_command_finds_the_server_and_its_queue() -> None:
    """By the variable that configs/azure.yaml names; the exit code is the command's."""
    ended = run("orders,session", sys.executable, "-c", SENDS)
    assert (ended.returncode, ended.stdout) == (7, "1\n"), ended.stderr


@pytest.mark.spec("T2")
def test_a_server_that_does_not_start_says_why() -> None:
    ended = run("orders,sesion", sys.executable, "-c", "raise SystemExit(7)")
    assert ended.returncode == 1
    assert "sesion" in ended.stderr
    assert "did not start" in ended.stderr
