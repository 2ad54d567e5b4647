"""Who may do what: the SDK's ways to prove itself, what is refused, and tokens that end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.credentials import AccessToken, AzureNamedKeyCredential, AzureSasCredential
from azure.servicebus import ServiceBusMessage
from azure.servicebus._pyamqp import cbs
from azure.servicebus._pyamqp.aio import _cbs_async
from azure.servicebus._pyamqp.utils import generate_sas_token
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import ServiceBusAuthenticationError, ServiceBusAuthorizationError

from tests.servicebus.bus import KEY, KEY_NAME, ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.limits import Limits
from tests.servicebus.links import Link
from tests.servicebus.sdk import BREAKING, closing, connect, received, texts

pytestmark = [pytest.mark.spec("T2"), *BREAKING]

PATIENT = Limits(idle_timeout=1e6, idle_link=1e6, bare_connection=1e6)


class Cloud:
    """Gives tokens as `azure-identity` does, for an hour of the server's clock."""

    def __init__(self, clock: ManualClock, token: str = "good") -> None:
        self.asked = 0
        self._clock = clock
        self._token = token

    async def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        self.asked += 1
        return AccessToken(self._token, int(self._clock.now()) + 3_600)

    async def close(self) -> None:
        """The SDK's client does not call it."""


@asynccontextmanager
async def client_with(
    bus: ServiceBus, credential: Any, retries: int = 0
) -> AsyncIterator[ServiceBusClient]:
    """A client that proves itself with this."""
    client = ServiceBusClient(
        f"127.0.0.1:{bus.port}",
        credential,
        use_tls=False,
        retry_total=retries,
        retry_backoff_factor=0.05,
    )
    async with closing(client):
        yield client


def signed(bus: ServiceBus, path: str, seconds: float = 600) -> AzureSasCredential:
    """A signature for a path of the namespace; "" is all of it."""
    end = int(bus.clock.now() + seconds)
    return AzureSasCredential(
        generate_sas_token(f"sb://127.0.0.1:{bus.port}/{path}", KEY_NAME, KEY, end)
    )


def links(bus: ServiceBus, path: str) -> list[Link]:
    """Those of an entity, on every connection."""
    return [
        link
        for connection in bus.connections
        for channel in connection.channels.values()
        for link in channel.links.values()
        if link.path == path
    ]


async def refused(client: ServiceBusClient, queue: str = "orders") -> None:
    with pytest.raises(ServiceBusAuthenticationError):
        await client.get_queue_sender(queue).send_messages(ServiceBusMessage("x"))


async def test_a_named_key_and_signatures_are_accepted(bus: ServiceBus) -> None:
    """A key, a signature for the namespace, and one for the entity let the client send."""
    queue = bus.queue("orders")
    credentials = (
        AzureNamedKeyCredential(KEY_NAME, KEY),
        signed(bus, ""),
        signed(bus, "orders"),
    )
    for credential in credentials:
        async with client_with(bus, credential) as client:
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
    assert queue.counts().active == 3


async def test_a_wrong_key_or_name_is_refused(bus: ServiceBus) -> None:
    """The SDK raises its error for authentication, and nothing is sent."""
    queue = bus.queue("orders")
    text = bus.connection_string.replace(f"SharedAccessKey={KEY}", "SharedAccessKey=another key")
    client = ServiceBusClient.from_connection_string(text, retry_total=0)
    async with closing(client):
        await refused(client)
    for name, key in ((KEY_NAME, "another key"), ("Nobody", KEY)):
        async with client_with(bus, AzureNamedKeyCredential(name, key)) as client:
            await refused(client)
    assert queue.counts().active == 0


async def test_a_signature_is_for_what_it_names(bus: ServiceBus) -> None:
    """One for a queue opens that queue and its dead letters, and no other."""
    bus.queue("orders")
    bus.queue("other")
    async with client_with(bus, signed(bus, "orders")) as client:
        receiver = client.get_queue_receiver("orders", sub_queue="deadletter")
        assert await receiver.peek_messages(1) == []
        await refused(client, "other")


async def test_a_signature_that_has_ended_is_refused(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """It was signed until a time of the machine's; from then on the server's clock counts."""
    still_bus.queue("orders")
    async with client_with(still_bus, signed(still_bus, "orders", -5)) as client:
        await refused(client)


async def test_a_clock_that_has_jumped_shuts_nobody_out() -> None:
    """After a day in one step a client still gets in, with what it signs by the machine's time."""
    clock = ManualClock()
    async with ServiceBus(clock=clock) as bus:
        queue = bus.queue("orders", ttl=86_400, dead_letter_on_expiry=True)
        async with connect(bus) as client:
            async with client.get_queue_sender("orders") as sender:
                await sender.send_messages(ServiceBusMessage("x"))
            clock.advance(86_401)
            assert queue.counts().dead_lettered == 1
            dead = client.get_queue_receiver("orders", sub_queue="deadletter")
            async with dead:
                (got,) = await dead.receive_messages(1)
                await dead.complete_message(got)
            assert queue.counts().dead_lettered == 0


async def test_tokens_of_the_cloud_are_judged_by_the_test(clock: ManualClock) -> None:
    """`jwt` is asked; without it any token that is not empty is good."""
    async with ServiceBus(clock=clock, jwt=lambda token: token == "good") as bus:
        queue = bus.queue("orders")
        async with client_with(bus, Cloud(clock)) as client:
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
        async with client_with(bus, Cloud(clock, "bad")) as client:
            await refused(client)
        assert queue.counts().active == 1


async def test_links_end_with_their_token(clock: ManualClock) -> None:
    """At the end of a token the link is detached; the SDK then attaches with a new one."""
    async with ServiceBus(clock=clock, limits=PATIENT) as bus:
        queue = bus.queue("orders", lock_seconds=10_000)
        cloud = Cloud(clock)
        async with client_with(bus, cloud, retries=3) as client:
            sender, receiver = (
                client.get_queue_sender("orders"),
                client.get_queue_receiver("orders"),
            )
            await sender.send_messages([ServiceBusMessage(t) for t in "ab"])
            assert texts(await received(receiver, 1)) == ["a"]
            first = set(bus.connections)
            assert (cloud.asked, len(first)) == (2, 2)
            clock.advance(3_599)
            assert [link for link in links(bus, "orders") if link.closing] == []
            clock.advance(1.1)
            assert all(link.closing for link in links(bus, "orders"))
            await sender.send_messages(ServiceBusMessage("c"))
            assert cloud.asked == 3
            with pytest.raises(ServiceBusAuthorizationError, match="expired"):
                await received(receiver, 1)
            assert texts(await received(receiver, 2)) == ["b", "c"]
            assert cloud.asked == 4
            assert not first & bus.connections
            assert queue.counts().locked == 3


async def test_the_sdk_puts_a_new_token_before_the_old_one_ends(
    clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tenth of its life is left: it is renewed on the same connection, and nothing breaks."""

    def now() -> datetime:
        return datetime.fromtimestamp(clock.now(), UTC)

    for module in (cbs, _cbs_async):
        monkeypatch.setattr(module, "utc_now", now, raising=False)
    async with ServiceBus(clock=clock, limits=PATIENT) as bus:
        queue = bus.queue("orders")
        cloud = Cloud(clock)
        async with client_with(bus, cloud) as client:
            sender = client.get_queue_sender("orders")
            await sender.send_messages(ServiceBusMessage("a"))
            (connection,) = bus.connections
            assert cloud.asked == 1
            clock.advance(timedelta(minutes=56).total_seconds())
            await sender.send_messages(ServiceBusMessage("b"))
            assert cloud.asked == 2
            clock.advance(timedelta(minutes=30).total_seconds())
            await sender.send_messages(ServiceBusMessage("c"))
            assert bus.connections == {connection}
        assert queue.counts().active == 3


async def test_each_policy_of_the_namespace_has_its_key() -> None:
    """The first is in the connection string; a client may use any."""
    async with ServiceBus(keys={"one": "key one", "two": "key two"}) as bus:
        queue = bus.queue("orders")
        assert "SharedAccessKeyName=one;SharedAccessKey=key one;" in bus.connection_string
        async with connect(bus) as client:
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
        async with client_with(bus, AzureNamedKeyCredential("two", "key two")) as client:
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
        async with client_with(bus, AzureNamedKeyCredential("two", "key one")) as client:
            await refused(client)
        assert queue.counts().active == 2
