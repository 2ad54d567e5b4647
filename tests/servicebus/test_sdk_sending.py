"""What the SDK sends arrives as it was: one or many, small or large, with all it carries."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import (
    AmqpAnnotatedMessage,
    AmqpMessageBodyType,
    AmqpMessageHeader,
    AmqpMessageProperties,
)
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    MessagingEntityNotFoundError,
    ServiceBusError,
)

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.sdk import received, texts
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")


async def test_single_messages_lists_and_batches_arrive_in_order(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """One message, a list and a batch object are stored in the order of the calls."""
    queue = bus.queue("orders")
    async with client.get_queue_sender("Orders") as sender:
        await sender.send_messages(ServiceBusMessage("0"))
        await sender.send_messages([ServiceBusMessage(str(number)) for number in range(1, 101)])
        batch = await sender.create_message_batch()
        for number in range(101, 201):
            batch.add_message(ServiceBusMessage(str(number)))
        await sender.send_messages(batch)
    assert queue.counts().active == 201
    async with client.get_queue_receiver("orders") as receiver:
        got = await received(receiver, 201)
    assert texts(got) == [str(number) for number in range(201)]
    assert [message.sequence_number for message in got] == list(range(1, 202))


async def test_a_batch_of_a_session_keeps_what_each_message_carries(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Ids, properties and sessions of a batch are those of its messages, not of its envelope."""
    bus.queue("orders", sessions=True)
    sent = [
        ServiceBusMessage(
            str(number),
            message_id=f"id-{number}",
            session_id="a",
            application_properties={"number": number},
        )
        for number in range(3)
    ]
    await client.get_queue_sender("orders").send_messages(sent)
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        got = await received(receiver, 3)
    assert [message.message_id for message in got] == ["id-0", "id-1", "id-2"]
    assert [message.application_properties for message in got] == [
        {b"number": number} for number in range(3)
    ]
    assert {message.session_id for message in got} == {"a"}


async def test_every_property_arrives(bus: ServiceBus, client: ServiceBusClient) -> None:
    """System properties, application properties of each type and annotations are untouched."""
    bus.queue("orders")
    identifier = uuid.uuid4()
    words = {
        "text": "ä€",
        "number": 2**31 - 1,
        "negative": -1,
        "float": 0.5,
        "yes": True,
        "uuid": identifier,
        "empty": "",
    }
    message = ServiceBusMessage(
        "body",
        message_id="id",
        content_type="text/plain",
        correlation_id="correlation",
        subject="subject",
        to="to",
        reply_to="reply-to",
        reply_to_session_id="reply-session",
        partition_key="partition",
        time_to_live=timedelta(hours=1),
        application_properties=words,
    )
    message.raw_amqp_message.annotations = {
        **(message.raw_amqp_message.annotations or {}),
        "x-own": "annotation",
        "x-number": 5,
    }
    await client.get_queue_sender("orders").send_messages(message)
    (got,) = await received(client.get_queue_receiver("orders"), 1)
    assert got.message_id == "id"
    assert (got.content_type, got.correlation_id) == ("text/plain", "correlation")
    assert (got.subject, got.to, got.reply_to) == ("subject", "to", "reply-to")
    assert (got.reply_to_session_id, got.partition_key) == ("reply-session", "partition")
    assert got.time_to_live == timedelta(hours=1)
    told = {
        key.decode(): value.decode() if isinstance(value, bytes) else value
        for key, value in (got.application_properties or {}).items()
    }
    assert told == words
    annotations = got.raw_amqp_message.annotations or {}
    assert annotations[b"x-own"] == b"annotation"
    assert annotations[b"x-number"] == 5


async def test_every_kind_of_body_arrives(bus: ServiceBus, client: ServiceBusClient) -> None:
    """Bodies of data, sequences and a value come back as they are, with header and footer."""
    bus.queue("orders")
    data = AmqpAnnotatedMessage(
        data_body=[b"one", b"", b"two"],
        header=AmqpMessageHeader(priority=7, durable=True),
        properties=AmqpMessageProperties(user_id=b"somebody", group_sequence=3),
        delivery_annotations={"x-delivery": 1},
        footer={"x-foot": "note"},
    )
    sequence = AmqpAnnotatedMessage(sequence_body=[[1, "two", None], [True, 0.5]])
    value = AmqpAnnotatedMessage(value_body={"key": [1, {"deep": b"bytes"}], "null": None})
    sender = client.get_queue_sender("orders")
    for message in (data, sequence, value):
        await sender.send_messages(message)
    first, second, third = await received(client.get_queue_receiver("orders"), 3)

    raw = first.raw_amqp_message
    assert first.body_type is AmqpMessageBodyType.DATA
    assert list(first.body) == [b"one", b"", b"two"]
    assert raw.header is not None
    assert (raw.header.priority, raw.header.durable) == (7, True)
    assert raw.properties is not None
    assert (raw.properties.user_id, raw.properties.group_sequence) == (b"somebody", 3)
    assert raw.delivery_annotations == {b"x-delivery": 1}
    assert raw.footer == {b"x-foot": b"note"}

    assert second.body_type is AmqpMessageBodyType.SEQUENCE
    assert list(second.body) == [[1, b"two", None], [True, 0.5]]

    assert third.body_type is AmqpMessageBodyType.VALUE
    assert third.body == {b"key": [1, {b"deep": b"bytes"}], b"null": None}


async def test_messages_around_the_frame_size_and_up_to_the_limit_arrive_whole(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """No byte is lost where a message begins to need two frames, three, or five; either way."""
    queue = bus.queue("orders")
    around = [*range(65_240, 65_680, 20), 130_900, 131_072, 200_000, 262_000]
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    pattern = bytes(range(251)) * 1_050
    for size in around:
        await sender.send_messages(ServiceBusMessage(pattern[:size], message_id=str(size)))
    got = await received(receiver, len(around))
    for size, message in zip(around, got, strict=True):
        assert message.message_id == str(size)
        assert b"".join(message.body) == pattern[:size]
        await receiver.complete_message(message)
    assert queue.counts().locked == 0


async def test_more_messages_than_the_credit_arrive_in_order(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """On one link each way: credit is given anew before it is used up."""
    queue = bus.queue("orders")
    sender = client.get_queue_sender("orders")
    for start in range(0, 3_000, 100):
        await sender.send_messages(
            [ServiceBusMessage(str(number)) for number in range(start, start + 100)]
        )
    for number in range(3_000, 4_100):  # more deliveries than the credit given at first
        await sender.send_messages(ServiceBusMessage(str(number)))
    receiver = client.get_queue_receiver(
        "orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=200
    )
    assert texts(await received(receiver, 4_100)) == [str(number) for number in range(4_100)]
    assert queue.counts().active == 0


async def test_a_batch_of_many_frames_arrives(bus: ServiceBus, client: ServiceBusClient) -> None:
    """A batch as large as a message may be is one delivery of several frames."""
    queue = bus.queue("orders")
    sender = client.get_queue_sender("orders")
    await sender.send_messages([ServiceBusMessage(b"x" * 24_000) for _ in range(10)])
    assert queue.counts().active == 10


async def test_a_message_above_the_limit_is_refused(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """A single one or a batch; the sender goes on. A queue may take more than another."""
    small, large = bus.queue("small"), bus.queue("large", max_message_bytes=1_000_000)
    sender = client.get_queue_sender("small")
    with pytest.raises(MessageSizeExceededError):
        await sender.send_messages(ServiceBusMessage(b"x" * 262_144))
    with pytest.raises(MessageSizeExceededError):
        await sender.send_messages([ServiceBusMessage(b"x" * 131_072) for _ in range(2)])
    await sender.send_messages(ServiceBusMessage("small"))
    await client.get_queue_sender("large").send_messages(ServiceBusMessage(b"x" * 900_000))
    assert (small.counts().active, large.counts().active) == (1, 1)
    assert bus.violations.rules() == {Rule.MESSAGE_SIZE}
    bus.violations.noted.clear()


async def test_a_full_entity_takes_no_more(bus: ServiceBus, client: ServiceBusClient) -> None:
    """A queue that is full refuses a message with the condition of an exceeded quota."""
    queue = bus.queue("orders", max_bytes=10_000)
    sender = client.get_queue_sender("orders")
    await sender.send_messages(ServiceBusMessage(b"x" * 9_000))
    with pytest.raises(ServiceBusError, match="resource-limit-exceeded"):
        await sender.send_messages(ServiceBusMessage(b"x" * 9_000))
    assert queue.counts().active == 1


async def test_what_is_not_there_is_not_found(bus: ServiceBus, client: ServiceBusClient) -> None:
    """Senders and receivers of an entity that does not exist fail when they are opened."""
    bus.topic("events", ["all"])
    for handler in (
        client.get_queue_sender("nothing"),
        client.get_queue_receiver("nothing"),
        client.get_subscription_receiver("events", "nobody"),
    ):
        with pytest.raises(MessagingEntityNotFoundError):
            await handler.__aenter__()
        await handler.close()


async def test_messages_expire(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """At the end of its time to live a message is dropped, or dead-lettered where that is asked."""
    dropped = still_bus.queue("dropped")
    kept = still_bus.queue("kept", ttl=5, dead_letter_on_expiry=True)
    message = ServiceBusMessage("short", time_to_live=timedelta(seconds=5))
    await still_client.get_queue_sender("dropped").send_messages(
        [message, ServiceBusMessage("long")]
    )
    await still_client.get_queue_sender("kept").send_messages(ServiceBusMessage("of the queue"))
    clock.advance(4.9)
    assert (dropped.counts().active, kept.counts().active) == (2, 1)
    clock.advance(0.2)
    assert dropped.counts().active == 1
    assert texts(await received(still_client.get_queue_receiver("dropped"), 1)) == ["long"]
    dead = still_client.get_queue_receiver("kept", sub_queue="deadletter")
    (letter,) = await received(dead, 1)
    assert str(letter) == "of the queue"
    assert letter.dead_letter_reason == "TTLExpiredException"
    assert letter.dead_letter_source == "kept"


async def test_duplicates_are_dropped_within_the_window(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """A message id comes once within the window, in one batch or two; after it, it comes again."""
    queue = still_bus.queue("orders", duplicate_window=60)
    sender = still_client.get_queue_sender("orders")
    await sender.send_messages(ServiceBusMessage("first", message_id="a"))
    await sender.send_messages(ServiceBusMessage("again", message_id="a"))
    await sender.send_messages([ServiceBusMessage("b", message_id="b") for _ in range(2)])
    assert queue.counts().active == 2
    clock.advance(61)
    await sender.send_messages(ServiceBusMessage("later", message_id="a"))
    got = await received(still_client.get_queue_receiver("orders"), 3)
    assert texts(got) == ["first", "b", "later"]
