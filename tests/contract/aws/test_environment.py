"""What the environment says of connections holds for both clients alike."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from pipeline import Message, QueueClient, errors
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


@pytest.mark.spec("P8", "P10")
@CLIENTS
async def test_no_credentials_and_no_region_say_what_to_do(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where neither the connection nor what AWS's own tools read has any."""
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    config = {
        "name": "environment",
        "connections": {"main": {"provider": "aws_sqs", "client": client}},
        "queues": {"orders": {"connection": "main"}},
    }
    with pytest.raises(errors.ConfigurationError, match="set region in the connection"):
        await QueueClient(parse(config)).start()
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with pytest.raises(errors.AuthenticationFailed, match="give access_key_id and secret_access_k"):
        async with QueueClient(parse(config)) as sender:
            await sender.send("orders", Message(b"1"))


@pytest.mark.spec("P8", "P10", "R1")
@CLIENTS
async def test_credentials_that_can_not_be_had_for_a_moment_are_asked_for_again(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By every call, as when the service that hands them out is busy; at last it is told of."""
    given = {"Version": 1, "AccessKeyId": KEY, "SecretAccessKey": SECRET}
    (tmp_path / "given").write_text(json.dumps(given))
    source = tmp_path / "source"
    source.write_text(
        f"test -e {tmp_path}/asked && exec cat {tmp_path}/given; touch {tmp_path}/asked; exit 1"
    )
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {source}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    async with Endpoint(signatures=Signatures(KEYS)) as endpoint:
        endpoint.create("orders")
        named = connection(endpoint.url, client=client, access_key_id=None, secret_access_key=None)
        config = parse(
            {
                "name": "environment",
                "connections": {"main": named},
                "queues": {"orders": {"connection": "main"}},
                "retry": {"initial": 0.001},
            }
        )
        async with QueueClient(config) as sender:
            await sender.send("orders", Message(b"1"))
        assert endpoint.depth("orders") == (1, 0, 0)
        source.write_text("echo not today >&2; exit 1")
        with pytest.raises(
            errors.ConnectionFailed, match=r"not today.*: look at where the profile"
        ):
            await QueueClient(config).start()


@pytest.mark.spec("P8", "P9", "P10")
@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("proxy", "u:PASSWORD@@junk", "proxy: what env:QR_TEST_ODD names must be an address"),
        ("proxy", "ftp://h:1", "proxy: what env:QR_TEST_ODD names must be an address"),
        ("proxy", "http://h:port", "proxy: what env:QR_TEST_ODD names must be an address"),
        ("access_key_id", "AK\nPASSWORD", "access_key_id: what env:QR_TEST_ODD names has a line"),
    ],
)
async def test_a_reference_to_what_cannot_be_used_is_told_by_its_key(
    key: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At start, and without the secret."""
    monkeypatch.setenv("QR_TEST_ODD", value)
    config = {
        "name": "environment",
        "connections": {"main": connection("http://127.0.0.1:9", **{key: "env:QR_TEST_ODD"})},
        "queues": {"orders": {"connection": "main"}},
    }
    with pytest.raises(errors.ConfigurationError, match=told) as caught:
        await QueueClient(parse(config)).start()
    assert "PASSWORD" not in str(caught.value)


@pytest.mark.spec("P6", "P10")
async def test_a_server_that_says_nothing_is_named() -> None:
    """As one that speaks no TLS to somebody who does."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = {
        "name": "environment",
        "connections": {"main": connection(f"https://127.0.0.1:{port}")},
        "queues": {"orders": {"connection": "main"}},
        "retry": {"max_attempts": 1},
        "timeouts": {"connect": 0.5, "send": 0.5},
    }
    with pytest.raises(
        (errors.Timeout, errors.ConnectionFailed), match=f"https://127.0.0.1:{port}"
    ):
        await QueueClient(parse(config)).start()
    server.close()
    await server.wait_closed()
