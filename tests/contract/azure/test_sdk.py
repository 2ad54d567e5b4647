"""The SDK as we use it: its private fast paths, and what stands behind each when it is gone."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import AzureConnection, AzureQueue
from pipeline.errors import ConfigurationError, ConnectionFailed, MessageNotFound, Unsupported
from pipeline.providers.azure import AzureProvider, peeks, sdk
from pipeline.providers.azure.sdk import Sdk, Ways
from pipeline.providers.configured import Limits
from pipeline.providers.port import DeadLetter, Depth, Sent, Want
from tests.contract.azure.bench import broken_rules
from tests.contract.azure.scene import CONNECTION, STRING, bodies, bring, messages, provided
from tests.servicebus.bus import ServiceBus

LIMITS = Limits(5.0, 5.0, 5.0)


@pytest.mark.spec("P3", "P12")
async def test_this_version_of_the_sdk_has_all_the_private_ways() -> None:
    """When an upgrade takes one away this fails; what stands behind it works, and slower."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        receiver = await provider.receiver("q")
        found = dataclasses.asdict(Ways.of(receiver._other.handler))
        assert found == dict.fromkeys(found, True)
        assert peeks.Requests.has(provider._sdk.client)
        sender = await provider.sender("q")
        assert sender._line.handler._max_message_size_on_link == 262_144


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """An SDK that lacks some of them."""
    every = Ways.of

    def fewer(receiver: Any) -> Ways:
        return dataclasses.replace(every(receiver), **dict.fromkeys(names, False))

    monkeypatch.setattr(Ways, "of", staticmethod(fewer))


@pytest.mark.spec("P3", "P12", "P14")
async def test_without_them_everything_works_by_the_public_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message after another; a message that is given back counts then, as is declared."""
    without(monkeypatch, "settle_many", "renew_many", "release", "gap", "drain")
    async with (
        ServiceBus(strict=True) as bus,
        provided(bus, {"q": {}}, limits=LIMITS) as provider,
    ):
        queue = bus.queue("q")
        sender = await provider.sender("q")
        await sender.send(messages(b"1", b"2", b"3", b"4", b"5"))
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        assert bodies(received) == [b"1", b"2", b"3", b"4", b"5"]
        one, two, three, four, five = received.receipts
        assert (await receiver.renew(received.receipts)).failures == {}
        assert await receiver.complete([one]) == {}
        assert await receiver.abandon([two]) == {}
        assert await receiver.dead_letter([three], [DeadLetter("rejected", "why")]) == {}
        assert await receiver.defer([four]) == {}
        assert await receiver.release([five]) == {}
        failures = await receiver.complete([one])
        assert isinstance(failures[0], MessageNotFound)
        counts = queue.counts()
        assert (counts.deferred, counts.dead_lettered) == (1, 1)
        again = await bring(receiver)
        assert list(again.batch.values("delivery_count")) == [2, 2]
        [dead] = (await bring(await provider.receiver("q", dead_letters=True))).batch
        assert (dead.dead_letter_reason, dead.dead_letter_description) == ("rejected", "why")
        assert broken_rules(bus) == []


@pytest.mark.spec("P12", "P14")
async def test_one_that_fails_by_the_public_ways_fails_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without(monkeypatch, "settle_many", "renew_many")
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        await (await provider.sender("q")).send(messages(b"1", b"2"))
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        bus.faults.refuse("update-disposition", "com.microsoft:server-busy")
        bus.faults.refuse("complete", "com.microsoft:server-busy")
        failures = await receiver.complete(received.receipts)
        assert list(failures) == [0]
        assert failures[0].transient


@pytest.mark.spec("P13")
@pytest.mark.parametrize("lacking", [(), ("settle_many", "renew_many")], ids=["many", "each"])
async def test_a_renewed_lock_lasts_as_long_as_the_entity_has_it(
    lacking: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is configured, and however it is renewed."""
    without(monkeypatch, *lacking)
    async with ServiceBus() as bus, provided(bus, {"q": {"lock": 60.0}}) as provider:
        bus.queue("q", lock_seconds=8.0)
        await (await provider.sender("q")).send(messages(b"1", b"2"))
        receiver = await provider.receiver("q")
        receipts = (await bring(receiver)).receipts
        renewed = await receiver.renew(receipts)
        left = renewed.deadline - asyncio.get_running_loop().time()
        assert (renewed.failures, 4.0 < left <= 8.0) == ({}, True)
        assert {one.deadline for one in receipts} == {renewed.deadline}


@pytest.mark.spec("P2")
@pytest.mark.parametrize("sessions", [False, True])
async def test_peeking_without_the_private_handler(
    sessions: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A queue without sessions is peeked at all the same; of one with sessions nothing is known."""
    monkeypatch.setattr(peeks.Requests, "has", staticmethod(lambda client: False))
    async with ServiceBus() as bus, provided(bus, {"q": {"fifo": sessions}}) as provider:
        bus.queue("q", sessions=sessions)
        await (await provider.sender("q")).send(messages(b"1", session="s"))
        depth = await provider.depth("q")
        assert (depth.oldest_age is None) == sessions
        receiver = await provider.receiver("q")
        if sessions:
            with pytest.raises(Unsupported, match="peek"):
                await receiver.peek(1)
        else:
            assert list((await receiver.peek(1)).values("body")) == [b"1"]


@pytest.mark.spec("P2", "P10")
@pytest.mark.parametrize("sessions", [False, True])
async def test_the_age_of_the_oldest_message(sessions: bool) -> None:
    """Of one that is there to be received; unknown where there is none, or on a topic."""
    keys = {"q": {"fifo": sessions}, "t": {"name": None, "topic": "t"}}
    async with ServiceBus() as bus, provided(bus, keys) as provider:
        queue = bus.queue("q", sessions=sessions)
        bus.topic("t", ["s"])
        assert (await provider.depth("q")).oldest_age is None
        await (await provider.sender("q")).send(messages(b"1", session="s"))
        depth = await provider.depth("q")
        assert depth.oldest_age is not None
        assert 0 <= depth.oldest_age < 60
        assert (depth.available, depth.in_hand) == (None, None)
        assert queue.counts().active == 1
        assert (await provider.depth("t")).oldest_age is None
        assert depth.scheduled is None
        bus.faults.refuse("peek-message", "com.microsoft:server-busy")
        with pytest.raises(Exception, match="server-busy") as caught:
            await provider.depth("q")
        assert type(caught.value).__name__ == "Throttled"


@pytest.mark.spec("F9", "P2")
@pytest.mark.parametrize("sessions", [False, True])
async def test_scheduled_messages_are_told_of(sessions: bool) -> None:
    """As many as are seen: a run `--until-empty` waits for them."""
    async with ServiceBus() as bus, provided(bus, {"q": {"fifo": sessions}}) as provider:
        bus.queue("q", sessions=sessions)
        later = datetime.now(UTC) + timedelta(seconds=60)
        sender = await provider.sender("q")
        await sender.send(messages(b"1", b"2", session="s", not_before=later))
        assert await provider.depth("q") == Depth(scheduled=2)


# --- topics ---------------------------------------------------------------------------------------


@pytest.mark.spec("P2", "P16")
@pytest.mark.parametrize("sessions", [False, True])
async def test_a_topic_is_sent_to_and_its_subscription_received_from(sessions: bool) -> None:
    """With and without sessions, its dead-letter queue too."""
    keys: dict[str, dict[str, Any]] = {
        "events": {"name": None, "topic": "events"},
        "audit": {
            "name": None,
            "topic": "events",
            "subscription": "audit",
            "fifo": sessions,
        },
    }
    async with ServiceBus(strict=True) as bus, provided(bus, keys) as provider:
        bus.topic("events", ["audit", "billing"], sessions=sessions)
        sender = await provider.sender("events")
        assert await sender.send(messages(b"1", session="s")) == [Sent()]
        receiver = await provider.receiver("audit")
        received = await receiver.receive(Want(messages=5, wait=5.0, new_sessions=1))
        assert bodies(received) == [b"1"]
        assert await receiver.dead_letter(received.receipts, [DeadLetter("rejected")]) == {}
        dead = await provider.receiver("audit", dead_letters=True)
        found = await bring(dead)
        assert bodies(found) == [b"1"]
        with pytest.raises(Unsupported, match="dead_letter"):
            await dead.dead_letter(found.receipts, [DeadLetter("rejected")])
        assert await dead.complete(found.receipts) == {}
        assert (await provider.source("audit")).endswith("/events/subscriptions/audit")
        with pytest.raises(ConfigurationError, match=r"queues\.events\.subscription: missing"):
            await provider.receiver("events")
        assert broken_rules(bus) == []


# --- the keys of a connection ---------------------------------------------------------------------


@pytest.mark.spec("P8", "P10")
async def test_what_is_no_connection_string_is_told_without_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given in ("nonsense", "Endpoint=sb://x/;SharedAccessKeyName=n", "a=b\nc"):
        monkeypatch.setenv(STRING, given)
        with pytest.raises(ConfigurationError, match=r"connections\.main\.connection_string") as e:
            await Sdk("main", CONNECTION, LIMITS).start()
        assert given not in str(e.value)


@pytest.mark.spec("P8", "P10")
@pytest.mark.parametrize("port", ["99999", "0", "abc"])
async def test_a_port_that_there_is_not_is_told_at_the_start(
    port: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey=k"
    monkeypatch.setenv(STRING, given)
    rule = r"connections\.main\.connection_string: the Endpoint .* the port from 1 to 65535"
    with pytest.raises(ConfigurationError, match=rule):
        await Sdk("main", CONNECTION, LIMITS).start()


@pytest.mark.spec("P8", "P10")
async def test_a_connection_string_of_one_entity(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is good where every queue of its connection is that one; names have no case."""
    queues = {
        "orders": {},
        "audit": {"name": None, "topic": "ORDERS", "subscription": "s"},
        "again": {"name": "Orders"},
    }
    async with ServiceBus() as bus:
        bus.queue("orders")
        text = f"{bus.connection_string};entitypath=Orders"
        monkeypatch.setattr(type(bus), "connection_string", text)
        async with provided(bus, queues) as provider:
            assert await (await provider.sender("again")).send(messages(b"1")) == [Sent()]
            assert bodies(await bring(await provider.receiver("orders"))) == [b"1"]
        rule = r"connections\.main\.connection_string: .* Orders alone \(EntityPath\), and "
        with pytest.raises(ConfigurationError, match=rule + r"queues\.other is carts"):
            async with provided(bus, {**queues, "other": {"name": "carts"}}):
                pass


@pytest.mark.spec("P9")
@pytest.mark.parametrize("host", ["127.0.0.1", "bus.example"])
async def test_a_connection_in_clear_to_another_machine_is_warned_of(
    host: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The emulator's flag turns TLS off: fine on this machine."""
    text = f"Endpoint=sb://{host}:1;SharedAccessKeyName=n;SharedAccessKey=k;"
    monkeypatch.setenv(STRING, text + "UseDevelopmentEmulator=true")
    made = Sdk("main", CONNECTION, LIMITS)
    with caplog.at_level(logging.WARNING):
        await made.start()
    assert ("readable for everybody" in caplog.text) == (host != "127.0.0.1")
    assert "SharedAccessKey=k" not in caplog.text
    await made.close()


@pytest.mark.spec("P8")
async def test_a_namespace_s_credentials_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As every Azure tool does, with the identity that is named; they are closed at the end."""
    from azure.identity.aio import DefaultAzureCredential

    connection = AzureConnection(
        namespace="orders.servicebus.windows.net", client_id="0" * 8 + "-0000-0000-0000-" + "0" * 12
    )
    made = Sdk("main", connection, LIMITS)
    await made.start()
    assert isinstance(made._credential, DefaultAzureCredential)
    assert made.namespace == "orders.servicebus.windows.net"
    await made.close()


@pytest.mark.spec("P9")
@pytest.mark.parametrize(
    ("proxy", "expected"),
    [
        (
            "http://proxy.example:3128",
            {"proxy_hostname": "http://proxy.example", "proxy_port": 3128},
        ),
        (
            "env:QR_PROXY",
            {
                "proxy_hostname": "https://proxy.example",
                "proxy_port": 443,
                "username": "me@x",
                "password": "p w",
            },
        ),
    ],
)
def test_a_proxy_is_given_to_the_sdk(
    proxy: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its password, if it has one, by a reference."""
    monkeypatch.setenv("QR_PROXY", "https://me%40x:p%20w@proxy.example")
    connection = CONNECTION.model_copy(update={"transport": "websocket", "proxy": proxy})
    assert Sdk("main", connection, LIMITS)._options()["http_proxy"] == expected


@pytest.mark.spec("P9", "P10")
def test_keys_that_name_nothing_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QR_PROXY", "ftp://me:secret@x")
    for key, value in (("proxy", "env:QR_PROXY"), ("ca_bundle", "/no/such.pem")):
        connection = CONNECTION.model_copy(update={key: value})
        with pytest.raises(ConfigurationError, match=rf"connections\.main\.{key}") as caught:
            Sdk("main", connection, LIMITS)._options()
        assert "secret" not in str(caught.value)


@pytest.mark.spec("P9", "P10")
def test_a_bundle_that_can_t_be_read_is_told_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By its key and name, whether it may not be read or holds no certificate."""
    bundle = tmp_path / "ca.pem"
    bundle.write_text("no certificate")
    made = Sdk("main", CONNECTION.model_copy(update={"ca_bundle": str(bundle)}), LIMITS)
    with pytest.raises(ConfigurationError, match=rf"connections\.main\.ca_bundle: {bundle}"):
        made._options()

    def refuse(context: ssl.SSLContext, path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", refuse)
    with pytest.raises(ConfigurationError, match=rf"main\.ca_bundle: {bundle} .* denied"):
        made._options()


# --- its logs -------------------------------------------------------------------------------------


@pytest.mark.spec("O3")
async def test_what_the_sdk_logs_of_our_calls_is_told_at_our_debug(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The error itself is raised. What else the program does with the SDK is logged as ever."""
    theirs = logging.getLogger("azure.servicebus._pyamqp.aio._client_async")
    caplog.set_level(logging.DEBUG, "queue_runtime.servicebus")

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = f"Endpoint=sb://127.0.0.1:{port};SharedAccessKeyName=n;SharedAccessKey=k;"
    monkeypatch.setenv(STRING, text + "UseDevelopmentEmulator=true")
    wrong = Sdk("main", CONNECTION, LIMITS)
    await wrong.start()
    line = wrong.receiver(AzureQueue(connection="main", name="q"))
    with pytest.raises(ConnectionFailed):
        await line.open()
    theirs.error("of somebody else")
    theirs.warning("of somebody else")
    await line.close()
    await wrong.close()
    server.close()
    loud = [one for one in caplog.records if one.levelno >= logging.WARNING]
    assert [one.getMessage() for one in loud] == ["of somebody else"] * 2
    ours = [one for one in caplog.records if one.name == "queue_runtime.servicebus"]
    assert any(one.getMessage().startswith("azure.servicebus.") for one in ours)


@pytest.mark.spec("P1", "P2")
async def test_starting_twice_and_failing_to() -> None:
    """A start that failed can be made again; closing what never started is nothing."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        await provider.start()
        assert provider.figures() == {"links_in_use": 0}
    await sdk.Sdk("main", CONNECTION, LIMITS).close()
    lacking = AzureProvider("main", CONNECTION, {}, LIMITS, SystemClock())
    with pytest.raises(ConfigurationError, match="the environment has no"):
        await lacking.start()
    await lacking.close()


@pytest.mark.spec("P14", "P16")
async def test_the_queue_must_not_dead_letter_before_our_attempts_are_over() -> None:
    """It counts failures as we do."""
    keys = {"q": {"max_delivery_count": 4}}
    async with ServiceBus() as bus, provided(bus, keys, attempts={"q": 5}) as provider:
        bus.queue("q")
        with pytest.raises(ConfigurationError, match=r"queues\.q\.max_delivery_count.* 4 .* 5 "):
            await provider.receiver("q")
        await provider.receiver("q", dead_letters=True)
