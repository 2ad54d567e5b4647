"""The life of a message in the SDK's hands: locked, settled in each way, looked at, lost."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusMessageState,
    ServiceBusReceiveMode,
    ServiceBusSubQueue,
)
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient
from azure.servicebus.exceptions import MessageLockLostError, MessageNotFoundError

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.sdk import received, texts, until

pytestmark = pytest.mark.spec("T2")

DEAD = ServiceBusSubQueue.DEAD_LETTER


async def test_a_locked_message_is_with_one_receiver_until_it_is_completed(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Peek-lock: another receiver gets the next message, and what is completed is gone."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "ab"])
    one, other = client.get_queue_receiver("orders"), client.get_queue_receiver("orders")
    (first,) = await received(one, 1)
    (second,) = await received(other, 1)
    assert texts([first, second]) == ["a", "b"]
    assert first.lock_token != second.lock_token
    assert queue.counts() == Counts(0, 2, 0, 0, 0)
    await one.complete_message(first)
    await other.complete_message(second)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_receive_and_delete_leaves_nothing_to_settle(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """A message is gone when it is delivered, however many are prefetched."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages(
        [ServiceBusMessage(str(number)) for number in range(20)]
    )
    receiver = client.get_queue_receiver(
        "orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=50
    )
    got = await received(receiver, 20)
    assert texts(got) == [str(number) for number in range(20)]
    assert queue.counts() == Counts(0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="not supported in 'RECEIVE_AND_DELETE'"):
        await receiver.complete_message(got[0])


async def test_an_abandoned_message_returns_to_its_place_until_its_attempts_are_used_up(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Each failed attempt counts; the last allowed one ends among the dead letters."""
    queue = bus.queue("orders", max_delivery_count=3)
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "ab"])
    receiver = client.get_queue_receiver("orders")
    for attempt in range(3):
        (message,) = await received(receiver, 1)
        assert str(message) == "a"
        assert message.delivery_count == attempt
        assert message.sequence_number == 1
        await receiver.abandon_message(message)
    assert queue.counts() == Counts(1, 0, 0, 0, 1)
    (letter,) = await received(client.get_queue_receiver("orders", sub_queue=DEAD), 1)
    assert str(letter) == "a"
    assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"
    assert letter.dead_letter_error_description


async def test_a_dead_letter_carries_why_and_can_be_received_and_completed(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Reason and description come with it, also none; abandoned there, its count does not grow."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages(
        [ServiceBusMessage(t, application_properties={"own": 1}) for t in "ab"]
    )
    receiver = client.get_queue_receiver("orders")
    one, other = await received(receiver, 2)
    await receiver.dead_letter_message(one, reason="bad", error_description="very bad")
    await receiver.dead_letter_message(other)
    assert queue.counts() == Counts(0, 0, 0, 0, 2)
    dead = client.get_queue_receiver("orders", sub_queue=DEAD)
    first, second = await received(dead, 2)
    assert (first.dead_letter_reason, first.dead_letter_error_description) == ("bad", "very bad")
    assert (first.application_properties or {})[b"own"] == 1
    assert first.dead_letter_source == "orders"
    assert not second.dead_letter_reason
    await dead.abandon_message(first)
    (again,) = await received(dead, 1)
    assert (str(again), again.delivery_count) == ("a", 0)
    await dead.complete_message(again)
    await dead.complete_message(second)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_a_deferred_message_is_had_by_its_number_alone(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Deferred, it is not delivered; asked for, it is locked and can be settled in each way."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abcde"])
    receiver = client.get_queue_receiver("orders")
    messages = await received(receiver, 4)
    for message in messages:
        await receiver.defer_message(message)
    assert queue.counts() == Counts(1, 0, 4, 0, 0)
    (next_one,) = await received(receiver, 1)
    assert str(next_one) == "e"
    numbers = [message.sequence_number for message in messages]
    deferred = await receiver.receive_deferred_messages([number for number in numbers if number])
    assert texts(deferred) == ["a", "b", "c", "d"]
    assert {message.state for message in deferred} == {ServiceBusMessageState.DEFERRED}
    await receiver.complete_message(deferred[0])
    await receiver.abandon_message(deferred[1])
    await receiver.dead_letter_message(deferred[2], reason="deferred")
    await receiver.defer_message(deferred[3])
    assert queue.counts() == Counts(0, 1, 2, 0, 1)
    (again,) = await receiver.receive_deferred_messages(deferred[1].sequence_number or 0)
    assert again.delivery_count == 1
    with pytest.raises(MessageNotFoundError):
        await receiver.receive_deferred_messages([numbers[0] or 0])


async def test_deferred_messages_can_be_received_and_deleted(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """By number in receive-and-delete: it is gone with the answer."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages(ServiceBusMessage("a"))
    receiver = client.get_queue_receiver("orders")
    (message,) = await received(receiver, 1)
    await receiver.defer_message(message)
    deleting = client.get_queue_receiver(
        "orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
    )
    assert texts(await deleting.receive_deferred_messages(message.sequence_number or 0)) == ["a"]
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_a_lock_ends_at_its_time_unless_it_is_renewed(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """Renewed, it lasts anew; ended, the message is another receiver's and counts an attempt."""
    queue = still_bus.queue("orders", lock_seconds=30)
    await still_client.get_queue_sender("orders").send_messages(ServiceBusMessage("a"))
    receiver = still_client.get_queue_receiver("orders")
    (message,) = await received(receiver, 1)
    assert message.locked_until_utc is not None
    assert abs(message.locked_until_utc.timestamp() - clock.now() - 30) < 0.01
    clock.advance(20)
    renewed = await receiver.renew_message_lock(message)
    assert abs(renewed.timestamp() - clock.now() - 30) < 0.01
    clock.advance(20)
    assert queue.counts().locked == 1
    clock.advance(11)
    assert queue.counts() == Counts(1, 0, 0, 0, 0)
    with pytest.raises(MessageLockLostError):
        await receiver.complete_message(message)
    with pytest.raises(MessageLockLostError):
        await receiver.renew_message_lock(message)
    (again,) = await received(receiver, 1)
    assert again.delivery_count == 1
    await receiver.complete_message(again)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_locks_can_be_ended_by_the_test(bus: ServiceBus, client: ServiceBusClient) -> None:
    """As if their time had come: every kind of settlement of it fails."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abcd"])
    receiver = client.get_queue_receiver("orders")
    messages = await received(receiver, 4)
    assert queue.expire_locks() == 4
    for message, settle in zip(
        messages,
        (
            receiver.complete_message,
            receiver.abandon_message,
            receiver.defer_message,
            receiver.dead_letter_message,
        ),
        strict=True,
    ):
        with pytest.raises(MessageLockLostError):
            await settle(message)
    assert queue.counts() == Counts(4, 0, 0, 0, 0)


async def test_the_sdk_renews_locks_by_itself(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """Its AutoLockRenewer keeps a message that is about to be lost."""
    queue = still_bus.queue("orders", lock_seconds=5)
    await still_client.get_queue_sender("orders").send_messages(ServiceBusMessage("a"))
    receiver = still_client.get_queue_receiver("orders")
    (message,) = await received(receiver, 1)
    first = message.locked_until_utc
    assert first is not None
    clock.advance(3)
    async with AutoLockRenewer() as renewer:
        renewer.register(receiver, message)
        await until(lambda: message.locked_until_utc and message.locked_until_utc > first)
    clock.advance(4)
    assert queue.counts().locked == 1
    await receiver.complete_message(message)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_peek_shows_every_state_and_locks_nothing(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Active, locked, deferred and scheduled messages in order of their numbers, from any on."""
    queue = bus.queue("orders")
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    assert await receiver.peek_messages(10) == []
    await sender.send_messages([ServiceBusMessage(t) for t in "abc"])
    await sender.schedule_messages(ServiceBusMessage("d"), datetime.now(UTC) + timedelta(hours=1))
    _, second = await received(receiver, 2)
    await receiver.defer_message(second)
    before = queue.counts()
    seen = await receiver.peek_messages(10, sequence_number=1)
    assert texts(seen) == ["a", "b", "c", "d"]
    states = ServiceBusMessageState
    assert [message.state for message in seen] == [
        states.ACTIVE,
        states.DEFERRED,
        states.ACTIVE,
        states.SCHEDULED,
    ]
    assert texts(await receiver.peek_messages(2, sequence_number=2)) == ["b", "c"]
    assert queue.counts() == before == Counts(1, 1, 1, 1, 0)


async def test_closing_a_receiver_returns_what_it_has_not_handed_out(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """The SDK drains and releases what it prefetched: it is free at once, its count unchanged."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abcde"])
    async with client.get_queue_receiver("orders", prefetch_count=10) as receiver:
        (first,) = await received(receiver, 1)
        await until(lambda: queue.counts().locked == 5)
        assert str(first) == "a"
    await until(lambda: queue.counts() == Counts(4, 1, 0, 0, 0))
    got = await received(client.get_queue_receiver("orders"), 4)
    assert texts(got) == ["b", "c", "d", "e"]
    assert {message.delivery_count for message in got} == {0}


async def test_a_waiting_receiver_is_sent_a_message_when_it_comes(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """A receiver that iterates gets messages as they are sent, one by one."""
    bus.queue("orders")
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    got: list[str] = []

    async def consume() -> None:
        async for message in receiver:
            got.append(str(message))
            await receiver.complete_message(message)
            if len(got) == 3:
                return

    consuming = asyncio.create_task(consume())
    for number in range(3):
        await sender.send_messages(ServiceBusMessage(str(number)))
        await until(lambda number=number: len(got) > number)
    await consuming
    assert got == ["0", "1", "2"]
