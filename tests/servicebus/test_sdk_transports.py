"""The SDK over each transport: plain TCP, TLS that it checks, WebSockets with and without TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.servicebus import ServiceBusMessage, TransportType
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusError

from tests.servicebus.bus import KEY, KEY_NAME, ServiceBus
from tests.servicebus.certificates import Certificates, make
from tests.servicebus.entities.queue import Counts
from tests.servicebus.sdk import BREAKING, closing, received, texts, until

pytestmark = [pytest.mark.spec("T2"), *BREAKING]

NAMESPACE = "a-name-like-in-production.servicebus.windows.net"


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make(tmp_path)


@asynccontextmanager
async def over(
    transport: TransportType, port: int, *, retries: int = 0, **options: Any
) -> AsyncIterator[ServiceBusClient]:
    """A client that takes the given port for the namespace's."""
    namespace = NAMESPACE if options.get("use_tls", True) else f"127.0.0.1:{port}"
    client = ServiceBusClient(
        namespace,
        AzureNamedKeyCredential(KEY_NAME, KEY),
        custom_endpoint_address=f"sb://127.0.0.1:{port}",
        transport_type=transport,
        retry_total=retries,
        retry_backoff_factor=0.05,
        **options,
    )
    async with closing(client):
        yield client


async def exercised(bus: ServiceBus, client: ServiceBusClient) -> None:
    """Small and large messages there and back, each settled, and a request."""
    queue = bus.queue("orders")
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    large = bytes(range(256)) * 900
    await sender.send_messages([ServiceBusMessage(t) for t in "abc"])
    await sender.send_messages(ServiceBusMessage(large))
    got = await received(receiver, 4)
    assert texts(got[:3]) == ["a", "b", "c"]
    assert b"".join(got[3].body) == large
    assert len(await receiver.peek_messages(10, sequence_number=1)) == 4
    for message in got:
        await receiver.complete_message(message)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_plain_tcp(bus: ServiceBus, client: ServiceBusClient) -> None:
    """With the emulator's flag the SDK speaks plain AMQP to the port of its connection string."""
    await exercised(bus, client)


async def test_tls_with_a_private_ca(bus: ServiceBus, certificates: Certificates) -> None:
    """A namespace's name as in production, a certificate that the SDK checks against our CA."""
    port = await bus.listen(0, certificates.context())
    trusting = over(TransportType.Amqp, port, connection_verify=str(certificates.ca))
    async with trusting as client:
        await exercised(bus, client)


async def test_a_certificate_of_an_unknown_ca_is_not_accepted(
    bus: ServiceBus, certificates: Certificates
) -> None:
    """Without our CA the SDK refuses: TLS is real."""
    bus.queue("orders")
    port = await bus.listen(0, certificates.context())
    async with over(TransportType.Amqp, port) as client:
        with pytest.raises(ServiceBusError, match="CERTIFICATE_VERIFY_FAILED"):
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))


# The SDK's way to say "without TLS" to aiohttp.
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")
async def test_websockets(bus: ServiceBus) -> None:
    """AMQP inside WebSockets, without TLS."""
    port = await bus.listen_websocket()
    async with over(TransportType.AmqpOverWebsocket, port, use_tls=False) as client:
        await exercised(bus, client)


async def test_websockets_over_tls(bus: ServiceBus, certificates: Certificates) -> None:
    """AMQP inside WebSockets inside TLS, whose certificate the SDK checks."""
    port = await bus.listen_websocket(0, certificates.context())
    trusting = over(TransportType.AmqpOverWebsocket, port, connection_verify=str(certificates.ca))
    async with trusting as client:
        await exercised(bus, client)


@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")
async def test_a_websocket_that_is_dropped_is_opened_anew(bus: ServiceBus) -> None:
    """The SDK goes on over a new one; nothing is lost."""
    queue = bus.queue("orders")
    port = await bus.listen_websocket()
    websocket = TransportType.AmqpOverWebsocket
    async with over(websocket, port, use_tls=False, retries=3) as client:
        sender = client.get_queue_sender("orders")
        await sender.send_messages(ServiceBusMessage("a"))
        assert bus.drop() == 1
        await until(lambda: not bus.connections)
        await sender.send_messages(ServiceBusMessage("b"))
        assert texts(await received(client.get_queue_receiver("orders"), 2)) == ["a", "b"]
    assert queue.counts().locked == 2
