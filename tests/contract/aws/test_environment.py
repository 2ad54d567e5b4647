"""What the environment says of connections holds for both clients alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import Message, QueueClient
from pipeline.config import parse
from tests.contract.aws.bench import connection
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import KEY, KEYS, SECRET
from tests.sqs.signing import Signatures

CLIENTS = pytest.mark.parametrize("client", ["lean", "sdk"])


@pytest.fixture(autouse=True)
def _keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QR_TEST_KEY", KEY)
    monkeypatch.setenv("QR_TEST_SECRET", SECRET)


async def send_one(address: str, client: str) -> None:
    """Send a message to the queue."""
    config = parse(
        {
            "name": "environment",
            "connections": {"main": connection(address, client=client)},
            "queues": {"orders": {"connection": "main"}},
        }
    )
    async with QueueClient(config) as sender:
        await sender.send("orders", Message(b"1"))


@pytest.mark.spec("P8")
@CLIENTS
async def test_a_password_in_netrc_takes_no_signatures_place(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A `default` entry there is for other tools: every call is signed."""
    (tmp_path / "netrc").write_text("default login somebody password something\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with Endpoint(signatures=Signatures(KEYS)) as endpoint:
        endpoint.create("orders")
        await send_one(endpoint.url, client)
        assert endpoint.depth("orders") == (1, 0, 0)


@pytest.mark.spec("P8")
@CLIENTS
async def test_the_proxy_of_the_environment_is_used(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the connection names none."""
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Endpoint() as endpoint:
        endpoint.create("orders")
        monkeypatch.setenv("http_proxy", endpoint.url)
        await send_one("http://sqs.nowhere.invalid", client)
        assert endpoint.depth("orders") == (1, 0, 0)
