"""The ways to a namespace: TLS with a private authority, WebSockets, tokens of an identity."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken

from pipeline.config import AzureConnection
from pipeline.errors import AuthenticationFailed, ConnectionFailed
from pipeline.providers.azure import sdk
from pipeline.providers.port import Sent
from tests.contract.azure.bench import broken_rules
from tests.contract.azure.scene import bodies, bring, messages, provided
from tests.servicebus import certificates
from tests.servicebus.bus import ServiceBus

NAMESPACE = "orders.servicebus.windows.net"


class Identity:
    """What a managed identity is to the SDK."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.closed = False

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.asked += scopes
        return AccessToken("a token", int(time.time()) + 3_600)  # noqa: TID251 - the SDK's clock

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def identity(monkeypatch: pytest.MonkeyPatch) -> Identity:
    made = Identity()
    monkeypatch.setattr(sdk, "_found_credential", lambda client_id: made)
    return made


@pytest.mark.spec("P8", "P9", "P12")
@pytest.mark.parametrize("transport", ["amqp", "websocket"])
async def test_a_namespace_behind_an_endpoint_with_a_private_authority(
    transport: str, tmp_path: Path, identity: Identity
) -> None:
    """The namespace has its own name, the endpoint another; the certificate is checked."""
    made = certificates.make(tmp_path)
    async with ServiceBus(strict=True, jwt=lambda token: token == "a token") as bus:
        bus.queue("q")
        if transport == "amqp":
            port = await bus.listen(tls=made.context())
        else:
            port = await bus.listen_websocket(tls=made.context())
        connection = AzureConnection(
            namespace=NAMESPACE,
            endpoint=f"sb://127.0.0.1:{port}",
            transport=transport,  # type: ignore[arg-type]
            ca_bundle=str(made.ca),
        )
        async with provided(bus, {"q": {}}, connection=connection) as provider:
            assert await provider.source("q") == f"azure_service_bus:{NAMESPACE}/q"
            assert await (await provider.sender("q")).send(messages(b"1")) == [Sent()]
            receiver = await provider.receiver("q")
            received = await bring(receiver)
            assert bodies(received) == [b"1"]
            assert await receiver.complete(received.receipts) == {}
        assert set(identity.asked) == {"https://servicebus.azure.net//.default"}
        assert identity.closed
        assert broken_rules(bus) == []
        unknown = connection.model_copy(update={"ca_bundle": None})
        async with provided(bus, {"q": {}}, connection=unknown) as provider:
            with pytest.raises(ConnectionFailed):
                await provider.sender("q")


@pytest.mark.spec("P8", "P10", "P12")
async def test_a_token_that_is_refused(identity: Identity, tmp_path: Path) -> None:
    made = certificates.make(tmp_path)
    async with ServiceBus(jwt=lambda token: False) as bus:
        bus.queue("q")
        port = await bus.listen(tls=made.context())
        connection = AzureConnection(
            namespace=NAMESPACE, endpoint=f"sb://127.0.0.1:{port}", ca_bundle=str(made.ca)
        )
        async with provided(bus, {"q": {}}, connection=connection) as provider:
            with pytest.raises(AuthenticationFailed):
                await provider.sender("q")


@pytest.mark.spec("P8", "P10")
async def test_an_identity_that_gives_no_token(
    identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told as what it is, not as a lost connection."""
    from azure.core.exceptions import ClientAuthenticationError

    async def refuse(*scopes: str, **options: Any) -> AccessToken:
        raise ClientAuthenticationError("no identity here")

    monkeypatch.setattr(identity, "get_token", refuse)
    made = certificates.make(tmp_path)
    async with ServiceBus() as bus:
        port = await bus.listen(tls=made.context())
        connection = AzureConnection(
            namespace=NAMESPACE, endpoint=f"sb://127.0.0.1:{port}", ca_bundle=str(made.ca)
        )
        async with provided(bus, {"q": {}}, connection=connection) as provider:
            with pytest.raises(AuthenticationFailed, match="no identity here"):
                await provider.sender("q")
