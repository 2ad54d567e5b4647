"""What goes wrong at Service Bus, provoked over the wire, and what the port's caller is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    MessageLockLost,
    MessageNotFound,
    MessageTooLarge,
    PermissionDenied,
    ProviderError,
    QueueError,
    QueueFull,
    QueueNotFound,
    Throttled,
    Timeout,
)
from pipeline.providers.azure import AzureProvider
from pipeline.providers.azure.errors import condition_of, from_exception
from pipeline.providers.port import Sent
from tests.contract.azure.bench import broken_rules
from tests.contract.azure.scene import CONNECTION, bodies, bring, messages, provided
from tests.servicebus.assumptions import Assumptions
from tests.servicebus.bus import ServiceBus


async def sent(provider: AzureProvider, *texts: bytes) -> list[Sent | QueueError]:
    return await (await provider.sender("q")).send(messages(*texts))


@pytest.mark.spec("P10", "P12")
async def test_a_queue_that_is_not_there_is_told_of_when_it_is_opened() -> None:
    """By who sends and by who receives."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        with pytest.raises(QueueNotFound, match="sender of q: connect") as caught:
            await provider.sender("q")
        assert not caught.value.transient
        assert caught.value.causes
        with pytest.raises(QueueNotFound):
            await provider.receiver("q")
        with pytest.raises(QueueNotFound, match="names no queue 'other'; it names: q"):
            await provider.sender("other")


@pytest.mark.spec("P8", "P10", "P12")
@pytest.mark.parametrize("endpoint", [False, True])
async def test_credentials_that_are_refused(endpoint: bool) -> None:
    """Also at an endpoint of its own, where the SDK calls that a lost connection."""
    async with ServiceBus() as bus:
        bus.queue("q")
        address = f"sb://127.0.0.1:{bus.port}" if endpoint else None
        connection = CONNECTION.model_copy(update={"endpoint": address})
        async with provided(bus, {"q": {}}, connection=connection) as provider:
            bus.faults.refuse_auth()
            with pytest.raises(AuthenticationFailed, match="connection_string") as caught:
                await provider.sender("q")
        assert not caught.value.transient


@pytest.mark.spec("P10", "P12")
async def test_a_right_that_is_missing() -> None:
    """The credentials are good, but not for this."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        text = "Unauthorized access. 'Listen' claim(s) are required to perform this operation."
        bus.faults.refuse("attach", "amqp:unauthorized-access", text, entity="q", times=None)
        with pytest.raises(PermissionDenied, match=r"'Listen' claim.*the right to Send, or to"):
            await provider.receiver("q")


@pytest.mark.spec("P4", "P10", "P12")
async def test_a_queue_with_sessions_must_be_called_one() -> None:
    """Received from as if it had none, it says which key is wrong."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q", sessions=True)
        with pytest.raises(ConfigurationError, match="fifo must say whether"):
            await provider.receiver("q")


@pytest.mark.spec("P10", "P12", "R1")
@pytest.mark.parametrize(
    ("condition", "kind", "transient"),
    [
        ("com.microsoft:server-busy", Throttled, True),
        ("amqp:resource-limit-exceeded", QueueFull, True),
        ("com.microsoft:timeout", Timeout, True),
        ("com.microsoft:entity-disabled", ProviderError, True),
        ("amqp:internal-error", ProviderError, True),
        ("com.microsoft:argument-error", ProviderError, False),
        ("amqp:not-found", QueueNotFound, False),
        ("amqp:resource-deleted", QueueNotFound, False),
        ("com.microsoft:operation-cancelled", ConnectionFailed, True),
    ],
)
async def test_a_send_that_is_refused(
    condition: str, kind: type[QueueError], transient: bool
) -> None:
    """One call, no repeat underneath; the next one goes."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        refused = bus.faults.refuse("send", condition)
        sender = await provider.sender("q")
        [error] = await sender.send(messages(b"1"))
        assert isinstance(error, kind)
        assert (error.transient, refused.met) == (transient, 1)
        assert await sender.send(messages(b"2")) == [Sent()]
        assert queue.counts().active == 1


@pytest.mark.spec("P3", "P10", "P12")
async def test_a_message_that_is_larger_than_the_service_takes() -> None:
    """The configuration says more than the link tells: what is less counts, before the call."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q", max_message_bytes=1_000)
        results = await sent(provider, b"a", b"x" * 2_000, b"b")
        assert [type(one) for one in results] == [Sent, MessageTooLarge, Sent]
        assert isinstance(results[1], MessageTooLarge)
        assert results[1].max_size == 1_000
        assert queue.counts().active == 2
        assert broken_rules(bus) == []


@pytest.mark.spec("P3", "P10", "P12")
async def test_a_list_that_the_service_finds_too_large_goes_one_by_one() -> None:
    """Its word counts; the message that it refuses alone is `MessageTooLarge`."""
    rejects = Assumptions(oversize_detaches=False)
    async with ServiceBus(assumptions=rejects) as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        bus.faults.refuse("send", "amqp:link:message-size-exceeded", times=2)
        results = await sent(provider, b"1", b"2", b"3")
        assert [type(one) for one in results] == [MessageTooLarge, Sent, Sent]
        assert queue.counts().active == 2


@pytest.mark.spec("P6", "P10", "P12")
async def test_a_send_that_is_never_answered_is_a_timeout() -> None:
    """Whether it was done is unknown; the next one does not wait for it."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        bus.faults.swallow("send")
        [error] = await sender.send(messages(b"1"))
        assert isinstance(error, Timeout)
        assert await sender.send(messages(b"2")) == [Sent()]
        assert queue.counts().active >= 1


@pytest.mark.spec("P10", "P12", "F2")
@pytest.mark.parametrize("applied", [False, True])
async def test_a_connection_that_is_cut_in_a_send(applied: bool) -> None:
    """Whether it was done is unknown; the connection is made anew."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        bus.faults.drop("send", applied=applied)
        [error] = await sender.send(messages(b"1"))
        assert isinstance(error, ConnectionFailed)
        assert queue.counts().active == int(applied)
        assert await sender.send(messages(b"2")) == [Sent()]


@pytest.mark.spec("P10", "P12")
async def test_a_sender_that_cannot_connect_again_says_so_for_each_message() -> None:
    """Nothing was sent; once it can, it goes on."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        bus.drop()
        busy = bus.faults.refuse("attach", "com.microsoft:server-busy", entity="q", times=1)
        [first] = await sender.send(messages(b"1"))
        assert isinstance(first, ConnectionFailed)
        results = await sender.send(messages(b"2", b"3"))
        assert [type(one) for one in results] == [Throttled, Throttled]
        assert (busy.met, queue.counts().active) == (1, 0)
        assert await sender.send(messages(b"4")) == [Sent()]


@pytest.mark.spec("P10", "P12")
async def test_nobody_answers_at_the_address() -> None:
    """It is told at once."""
    async with ServiceBus() as other:
        closed = other.port
    connection = CONNECTION.model_copy(update={"endpoint": f"sb://127.0.0.1:{closed}"})
    async with ServiceBus() as bus, provided(bus, {"q": {}}, connection=connection) as provider:
        with pytest.raises(ConnectionFailed):
            await provider.sender("q")
        with pytest.raises(ConnectionFailed):
            await provider.receiver("q")


# --- receiving and settling -----------------------------------------------------------------------


@pytest.mark.spec("P10", "P12", "P14")
@pytest.mark.parametrize("call", ["complete", "renew"])
async def test_the_lock_of_one_of_several_is_gone(call: str) -> None:
    """It fails alone, although they are settled in one request."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await sent(provider, b"1", b"2", b"3")
        receiver = await provider.receiver("q")
        first = await bring(receiver, 1)
        queue.expire_locks()
        rest = await bring(receiver, 2)
        other = await provider.receiver("q")
        assert len((await bring(other)).receipts) == 1
        receipts = [*rest.receipts, *first.receipts]
        if call == "renew":
            failures = (await receiver.renew(receipts)).failures
        else:
            failures = await receiver.complete(receipts)
        assert {at: type(one) for at, one in failures.items()} == {2: MessageLockLost}


@pytest.mark.spec("P10", "P12", "P14", "F2")
async def test_a_connection_that_is_cut_in_a_settlement() -> None:
    """It may have been done: the error is transient, and the repeat tells what can be told."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await sent(provider, b"1", b"2")
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        bus.faults.drop("update-disposition", applied=False)
        failures = await receiver.complete(received.receipts)
        assert {type(one) for one in failures.values()} == {ConnectionFailed}
        assert await receiver.complete(received.receipts[:1]) == {}
        bus.faults.drop("update-disposition", applied=True)
        failures = await receiver.complete(received.receipts[1:])
        assert isinstance(failures[0], ConnectionFailed)
        assert failures[0].transient
        failures = await receiver.complete(received.receipts[1:])
        assert isinstance(failures[0], MessageLockLost)
        assert queue.counts().locked == queue.counts().active == 0


@pytest.mark.spec("P6", "P10", "P12")
async def test_a_settlement_that_is_never_answered_is_a_timeout() -> None:
    """Those behind it go on a new connection."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        await sent(provider, b"1", b"2")
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        bus.faults.swallow("update-disposition")
        first = asyncio.create_task(receiver.complete(received.receipts[:1]))
        await asyncio.sleep(0)
        second = asyncio.create_task(receiver.complete(received.receipts[1:]))
        assert isinstance((await first)[0], Timeout)
        assert await second == {}


@pytest.mark.spec("P10", "P12")
@pytest.mark.parametrize(
    "cut",
    [
        lambda bus: bus.drop(),
        lambda bus: bus.detach("q", "amqp:link:detach-forced"),
        lambda bus: bus.close_connections("amqp:connection:forced"),
    ],
    ids=["tcp", "detach", "close"],
)
async def test_a_receive_whose_connection_ends_fails_and_the_next_goes_on(
    cut: Callable[[ServiceBus], Any],
) -> None:
    """It is no empty batch; what was in hand is settled over a new connection."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await sent(provider, b"1")
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        waiting = asyncio.create_task(bring(receiver, wait=20.0))
        await asyncio.sleep(0.2)
        assert cut(bus)
        with pytest.raises(ConnectionFailed) as caught:
            await waiting
        assert caught.value.transient
        for _ in range(2):
            failures = await receiver.complete(received.receipts)
            if not failures:
                break
            assert isinstance(failures[0], ConnectionFailed)
        assert not failures
        await sent(provider, b"2")
        assert bodies(await bring(receiver)) == [b"2"]
        assert queue.counts().locked == 1


@pytest.mark.spec("P10", "P12", "P14")
async def test_what_came_on_a_lost_connection_is_given_back_all_the_same() -> None:
    """Counted then: only the link that it came on could have given it back uncounted."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        await sent(provider, b"1")
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        bus.drop()
        for _ in range(2):
            failures = await receiver.release(received.receipts)
            if not failures:
                break
        again = await bring(receiver)
        assert list(again.batch.values("delivery_count")) == [2]


@pytest.mark.spec("P2", "P10", "P12")
async def test_messages_that_are_not_set_aside_or_scheduled() -> None:
    """They are not found, at once."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        receiver = await provider.receiver("q")
        with pytest.raises(MessageNotFound):
            await receiver.receive_deferred([77])
        assert bodies(await receiver.receive_deferred([])) == []
        with pytest.raises(MessageNotFound):
            await (await provider.sender("q")).cancel(77)


@pytest.mark.spec("P10")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), Timeout),
        (ConnectionResetError("reset"), ConnectionFailed),
        (ValueError("odd"), ProviderError),
        (QueueFull("full"), QueueFull),
    ],
)
def test_what_is_none_of_the_sdk_s_is_translated_too(
    error: Exception, kind: type[QueueError]
) -> None:
    """Nothing bare gets out, and nothing is translated twice."""
    told = from_exception("send", error)
    assert type(told) is kind
    if isinstance(error, QueueError):
        assert told is error
    assert condition_of(error) == ""


def test_secrets_are_masked() -> None:
    told = from_exception("connect", OSError("Endpoint=x;SharedAccessKey=abc;"))
    assert "SharedAccessKey=***" in str(told)
