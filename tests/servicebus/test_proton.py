"""Apache Qpid Proton sends: who may, and what arrives."""

from __future__ import annotations

import uuid
from typing import Any, Final

import pytest

from tests.servicebus.authority import SAS
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.proton_peer import ANONYMOUS, PLAIN, peer
from tests.servicebus.raw import signed
from tests.servicebus.sdk import until
from tests.servicebus.strict import Rule

# After proton_peer, which skips the module when there is no Proton.
from proton import (  # isort: skip
    Array,
    ConnectionException,
    Data,
    Delivery,
    Link,
    Message,
    symbol,
    timestamp,
    ulong,
)
from proton.reactor import AtMostOnce  # isort: skip
from proton.utils import BlockingConnection, LinkDetached, SendException  # isort: skip

pytestmark = pytest.mark.spec("T2")

NOTHING: Final = Counts(0, 0, 0, 0, 0)
SECTIONS: Final = (
    *("id", "user_id", "address", "subject", "reply_to", "correlation_id", "content_type"),
    *("content_encoding", "creation_time", "expiry_time", "group_id", "reply_to_group_id"),
    *("durable", "priority", "ttl", "properties", "instructions", "body", "delivery_count"),
)


# --- who may --------------------------------------------------------------------------------------


async def test_a_keys_name_and_key_are_enough(bus: ServiceBus) -> None:
    """SASL PLAIN: nothing needs to be put to `$cbs`; a message goes there and back."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> Message:
        connection.create_sender("orders").send(Message(body="hello"))
        receiver = connection.create_receiver("orders")
        message = receiver.receive()
        receiver.accept()
        return message

    message = await peer(bus, work)
    assert message.body == "hello"
    await until(lambda: queue.counts() == NOTHING)


async def test_a_wrong_key_is_refused(bus: ServiceBus) -> None:
    """SASL ends, and so does the connection."""
    with pytest.raises(ConnectionException, match="Authentication failed"):
        await peer(bus, lambda _: None, **PLAIN | {"password": "another"})


async def test_anybody_may_connect_and_needs_a_token(bus: ServiceBus) -> None:
    """SASL ANONYMOUS: a link is refused until a good token for its entity is put to `$cbs`."""
    bus.queue("orders")
    audience = f"sb://127.0.0.1:{bus.port}/orders"
    good = signed(bus, audience, bus.clock.now() + 600)

    def work(connection: BlockingConnection) -> list[Any]:
        with pytest.raises(LinkDetached) as refused:
            connection.create_sender("orders")
        told = [refused.value.condition]
        requests = connection.create_sender("$cbs")
        replies = connection.create_receiver("$cbs", credit=2)
        words = {"operation": "put-token", "type": SAS, "name": audience}
        for token in (good.replace("sig=", "sig=A"), good):
            requests.send(Message(id=uuid.uuid4(), properties=words, body=token))
            told.append(replies.receive().properties["status-code"])
        connection.create_sender("orders").send(Message(body="let in"))
        return told

    assert await peer(bus, work, **ANONYMOUS) == ["amqp:unauthorized-access", 401, 202]
    assert bus.violations.rules() == {Rule.AUTHORIZED}
    bus.violations.noted.clear()


@pytest.mark.parametrize("end", ["sender", "receiver"])
async def test_an_entity_that_is_not_there(bus: ServiceBus, end: str) -> None:
    """The link is attached without a terminus, then detached with the reason."""
    with pytest.raises(LinkDetached) as refused:
        await peer(bus, lambda connection: getattr(connection, f"create_{end}")("missing"))
    assert refused.value.condition == "amqp:not-found"


# --- sending --------------------------------------------------------------------------------------


async def test_nothing_of_a_message_is_lost(still_bus: ServiceBus, clock: ManualClock) -> None:
    """Every section a client may write arrives as it was; the service's annotations are added."""
    still_bus.queue("orders")
    sent = Message(
        id=ulong(7),
        user_id=b"somebody",
        address="orders",
        subject="a subject",
        reply_to="answers",
        correlation_id=uuid.UUID(int=9),
        content_type=symbol("text/plain"),
        content_encoding=symbol("none"),
        creation_time=1.5,
        expiry_time=2.5,
        group_id=None,
        reply_to_group_id="r",
        durable=True,
        priority=7,
        ttl=60.0,
        properties={"text": "å", "whole": 7, "none": None, "bytes": b"\x00"},
        annotations={symbol("x-mine"): "kept"},
        instructions={symbol("x-deliver"): [1, 2]},
        body={"map": [1, {"deep": None}], "array": Array(None, Data.INT)},
    )

    def work(connection: BlockingConnection) -> Message:
        connection.create_sender("orders").send(sent)
        receiver = connection.create_receiver("orders")
        return receiver.receive()

    got = await peer(still_bus, work)
    for name in SECTIONS:
        assert getattr(got, name) == getattr(sent, name), name
    now = int(clock.now() * 1000)
    added = dict(got.annotations)
    assert isinstance(added["x-opt-enqueued-time"], timestamp)
    assert {key: added[key] for key in ("x-mine", "x-opt-sequence-number")} == {
        "x-mine": "kept",
        "x-opt-sequence-number": 1,
    }
    assert abs(added["x-opt-enqueued-time"] - now) <= 1
    assert abs(added["x-opt-locked-until"] - now - 60_000) <= 1


async def test_a_large_message_takes_many_frames(bus: ServiceBus) -> None:
    """A client that takes frames of 1 KB gets 200 KB in pieces of that."""
    bus.queue("orders")
    body = bytes(range(256)) * 800

    def work(connection: BlockingConnection) -> bytes:
        connection.create_sender("orders").send(Message(body=body))
        receiver = connection.create_receiver("orders")
        message = receiver.receive()
        receiver.accept()
        return bytes(message.body)

    assert await peer(bus, work, **PLAIN, max_frame_size=1024) == body


async def test_a_message_that_is_too_large_is_rejected(bus: ServiceBus) -> None:
    """The link says how large one may be; the outcome of a larger one says that it is."""
    queue = bus.queue("orders", max_message_bytes=10_000)

    def work(connection: BlockingConnection) -> tuple[int, str]:
        sender = connection.create_sender("orders")
        delivery = sender.link.send(Message(body=b"x" * 20_000))
        connection.wait(lambda: delivery.settled)
        assert delivery.remote_state == Delivery.REJECTED
        with pytest.raises(SendException):
            sender.send(Message(body=b"x" * 20_000))
        sender.send(Message(body="small enough"))
        return sender.link.remote_max_message_size, delivery.remote.condition.name

    assert await peer(bus, work) == (10_000, "amqp:link:message-size-exceeded")
    assert queue.counts() == Counts(1, 0, 0, 0, 0)
    assert bus.violations.rules() == {Rule.MESSAGE_SIZE}
    bus.violations.noted.clear()


async def test_settled_transfers_are_stored_without_an_answer(bus: ServiceBus) -> None:
    """A sender that settles by itself is kept in credit all the same, far beyond the first."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> None:
        sender = connection.create_sender("orders", options=AtMostOnce())
        assert sender.link.remote_snd_settle_mode == Link.SND_SETTLED
        for number in range(2_500):
            connection.wait(lambda: sender.link.credit)
            assert sender.send(Message(body=number)).remote_state == 0

    await peer(bus, work)
    await until(lambda: queue.counts() == Counts(2_500, 0, 0, 0, 0))
