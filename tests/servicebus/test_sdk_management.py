"""What goes over `$management`: settling elsewhere, many tokens at once, schedules."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusMessageState
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    MessageNotFoundError,
    MessagingEntityDisabledError,
    ServiceBusError,
)

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.sdk import BREAKING, received, texts, until

pytestmark = [pytest.mark.spec("T2"), *BREAKING]


def at(clock: ManualClock, seconds: float) -> datetime:
    """A time so many seconds from now."""
    return datetime.fromtimestamp(clock.now() + seconds, UTC)


async def test_a_second_receiver_settles_and_renews_what_the_first_has(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """By lock token, in each way, while the first receiver waits for more."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abcde"])
    one, other = client.get_queue_receiver("orders"), client.get_queue_receiver("orders")
    a, b, c, d, e = await received(one, 5)
    waiting = asyncio.create_task(one.receive_messages(1, max_wait_time=30))
    await other.__aenter__()
    before = e.locked_until_utc
    assert before is not None
    await other.complete_message(a)
    await other.defer_message(b)
    await other.dead_letter_message(c, reason="bad", error_description="very bad")
    assert await other.renew_message_lock(e) > before
    assert queue.counts() == Counts(0, 2, 1, 0, 1)
    await other.abandon_message(d)
    (again,) = await waiting
    assert (str(again), again.delivery_count) == ("d", 1)
    assert again.lock_token != d.lock_token
    (letter,) = await received(client.get_queue_receiver("orders", sub_queue="deadletter"), 1)
    assert (letter.dead_letter_reason, letter.dead_letter_error_description) == ("bad", "very bad")


async def test_a_hundred_locks_are_renewed_and_settled_in_one_request(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """The SDK's private batched calls: every lock lasts anew, then every message is gone."""
    queue = still_bus.queue("orders", lock_seconds=30)
    await still_client.get_queue_sender("orders").send_messages(
        [ServiceBusMessage(str(number)) for number in range(100)]
    )
    messages = await received(still_client.get_queue_receiver("orders"), 100)
    tokens = [message.lock_token for message in messages]
    other: Any = still_client.get_queue_receiver("orders")
    clock.advance(20)
    answer = await other._renew_locks(*tokens)
    until_ms = {*answer[b"expirations"]}
    assert len(answer[b"expirations"]) == 100
    assert until_ms == {int((clock.now() + 30) * 1000)}
    clock.advance(20)
    assert queue.counts().locked == 100
    await other._settle_message_via_mgmt_link("completed", tokens)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_a_request_with_one_lost_lock_changes_nothing(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Renewing and settling many is all or none."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abc"])
    receiver: Any = client.get_queue_receiver("orders")
    messages = await received(receiver, 3)
    tokens = [message.lock_token for message in messages]
    await receiver.complete_message(messages[1])
    for status in ("completed", "abandoned", "defered", "suspended"):
        with pytest.raises(MessageLockLostError):
            await receiver._settle_message_via_mgmt_link(status, tokens)
    with pytest.raises(MessageLockLostError):
        await receiver._renew_locks(*tokens)
    assert queue.counts() == Counts(0, 2, 0, 0, 0)
    with pytest.raises(ServiceBusError, match="disposition-status 'forgotten'"):
        await receiver._settle_message_via_mgmt_link("forgotten", tokens[:1])


async def test_a_scheduled_message_comes_at_its_time(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """Scheduled by request or by its annotation; what was sent meanwhile is received before it."""
    queue = still_bus.queue("orders")
    sender = still_client.get_queue_sender("orders")
    numbers = await sender.schedule_messages(
        [ServiceBusMessage("late"), ServiceBusMessage("later")], at(clock, 60)
    )
    assert len(numbers) == 2
    await sender.send_messages(ServiceBusMessage("soon", scheduled_enqueue_time_utc=at(clock, 30)))
    assert queue.counts() == Counts(0, 0, 0, 3, 0)
    clock.advance(31)
    assert queue.counts() == Counts(1, 0, 0, 2, 0)
    await sender.send_messages(ServiceBusMessage("now"))
    clock.advance(30)
    got = await received(still_client.get_queue_receiver("orders"), 4)
    assert texts(got) == ["soon", "now", "late", "later"]
    assert {message.state for message in got} == {ServiceBusMessageState.ACTIVE}
    # A new number when it became active; the first one stays as the enqueue sequence.
    assert got[2].enqueued_sequence_number == numbers[0]
    assert (got[2].sequence_number or 0) > (got[1].sequence_number or 0)
    assert got[2].scheduled_enqueue_time_utc is not None


async def test_a_cancelled_message_never_comes(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """By number, one or several; what is active already or unknown is not found."""
    queue = still_bus.queue("orders")
    sender = still_client.get_queue_sender("orders")
    numbers = await sender.schedule_messages([ServiceBusMessage(t) for t in "abcd"], at(clock, 60))
    await sender.cancel_scheduled_messages(numbers[0])
    await sender.cancel_scheduled_messages(numbers[1:3])
    assert queue.counts() == Counts(0, 0, 0, 1, 0)
    clock.advance(61)
    assert queue.counts() == Counts(1, 0, 0, 0, 0)
    for gone in (numbers[0], numbers[3], 999):
        with pytest.raises(MessageNotFoundError):
            await sender.cancel_scheduled_messages(gone)
    assert texts(await received(still_client.get_queue_receiver("orders"), 1)) == ["d"]


async def test_a_topic_gives_each_subscription_a_copy(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """Settled in one it stays in the other; each has dead letters; topics schedule and cancel."""
    topic = still_bus.topic("events", ["all", "Some"])
    sender = still_client.get_topic_sender("events")
    await sender.send_messages([ServiceBusMessage(t) for t in "ab"])
    numbers = await sender.schedule_messages([ServiceBusMessage(t) for t in "cd"], at(clock, 60))
    await sender.cancel_scheduled_messages(numbers[0])
    clock.advance(61)
    every = still_client.get_subscription_receiver("events", "all")
    some = still_client.get_subscription_receiver("Events", "sOME")
    first, second, third = await received(every, 3)
    assert texts([first, second, third]) == ["a", "b", "d"]
    await every.complete_message(first)
    await every.dead_letter_message(second, reason="bad")
    await every.defer_message(third)
    assert topic.subscriptions["all"].counts() == Counts(0, 0, 1, 0, 1)
    assert topic.subscriptions["Some"].counts() == Counts(3, 0, 0, 0, 0)
    assert texts(await every.receive_deferred_messages(third.sequence_number or 0)) == ["d"]
    assert texts(await some.peek_messages(5)) == ["a", "b", "d"]
    assert texts(await received(some, 3)) == ["a", "b", "d"]
    dead = still_client.get_subscription_receiver("events", "all", sub_queue="deadletter")
    (letter,) = await received(dead, 1)
    assert (str(letter), letter.dead_letter_reason) == ("b", "bad")
    assert letter.dead_letter_source == "events/Subscriptions/all"


async def test_a_disabled_entity_refuses_until_it_is_enabled(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Sending and peeking fail with the entity's state; what is locked can be settled still."""
    queue = bus.queue("orders")
    sender, receiver = client.get_queue_sender("orders"), client.get_queue_receiver("orders")
    await sender.send_messages([ServiceBusMessage(t) for t in "ab"])
    (message,) = await received(receiver, 1)
    queue.set_enabled(False)
    with pytest.raises(MessagingEntityDisabledError):
        await sender.send_messages(ServiceBusMessage("c"))
    await receiver.complete_message(message)
    with pytest.raises(MessagingEntityDisabledError):
        await receiver.peek_messages(1)
    waiting = asyncio.create_task(receiver.receive_messages(1, max_wait_time=30))
    queue.set_enabled(True)
    assert texts(await waiting) == ["b"]


async def test_a_lock_outlives_the_connection_it_was_given_on(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """After TCP is dropped the SDK settles what it holds by lock token, on a new connection."""
    queue = bus.queue("orders")
    await client.get_queue_sender("orders").send_messages([ServiceBusMessage(t) for t in "abc"])
    async with client.get_queue_receiver("orders") as receiver:
        a, b, c = await received(receiver, 3)
        bus.drop()
        await until(lambda: not bus.connections)
        assert queue.counts().locked == 3
    async with client.get_queue_receiver("orders") as other:
        await other.complete_message(a)
        await other.abandon_message(b)
        await other.dead_letter_message(c)
    assert queue.counts() == Counts(1, 0, 0, 0, 1)
