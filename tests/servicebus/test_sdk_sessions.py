"""Sessions with the SDK: who holds one, in what order it is read, its state, its lock's end."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient
from azure.servicebus.exceptions import (
    OperationTimeoutError,
    ServiceBusError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.sdk import BREAKING, received, texts, until

pytestmark = [pytest.mark.spec("T2"), *BREAKING]


def of(session: str, bodies: str) -> list[ServiceBusMessage]:
    """A message for each letter."""
    return [ServiceBusMessage(body, session_id=session) for body in bodies]


def waits(bus: ServiceBus) -> bool:
    """A link waits for a session: it is there beside the two of `$cbs`."""
    channels = [each for connection in bus.connections for each in connection.channels.values()]
    return any(len(channel.links) == 3 for channel in channels)


async def test_a_named_session_is_read_in_order_by_its_one_holder(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Interleaved messages come by session; while it is held, nobody else gets it."""
    queue = bus.queue("orders", sessions=True)
    mixed = [ServiceBusMessage(f"{s}{n}", session_id=s) for n in range(5) for s in "ab"]
    await client.get_queue_sender("orders").send_messages(mixed)
    async with client.get_queue_receiver("orders", session_id="b") as receiver:
        assert receiver.session.session_id == "b"
        assert receiver.session.locked_until_utc is not None
        got = await received(receiver, 5)
        assert texts(got) == ["b0", "b1", "b2", "b3", "b4"]
        with pytest.raises(SessionCannotBeLockedError):
            await client.get_queue_receiver("orders", session_id="b").__aenter__()
        for message in got:
            await receiver.complete_message(message)
    assert queue.counts() == Counts(5, 0, 0, 0, 0)
    async with client.get_queue_receiver("orders", session_id="b"):
        pass  # closed, it is free again


async def test_the_next_available_session_is_one_that_nobody_holds(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Receivers get one session each, first the one that has waited longest."""
    bus.queue("orders", sessions=True)
    sender = client.get_queue_sender("orders")
    for session in "cab":
        await sender.send_messages(of(session, "x"))
    held = []
    for _ in range(3):
        receiver = client.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION)
        await receiver.__aenter__()
        held.append(receiver.session.session_id)
    assert held == ["c", "a", "b"]


async def test_who_waits_for_a_session_gets_the_one_that_comes(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """The attach is answered when there is a session to give."""
    bus.queue("orders", sessions=True)
    receiver = client.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION)
    waiting = asyncio.create_task(receiver.__aenter__())
    await until(lambda: waits(bus))
    assert not waiting.done()
    await client.get_queue_sender("orders").send_messages(of("late", "ab"))
    await waiting
    assert receiver.session.session_id == "late"
    assert texts(await received(receiver, 2)) == ["a", "b"]


async def test_waiting_for_a_session_ends(bus: ServiceBus, client: ServiceBusClient) -> None:
    """Without a session in the receiver's time the service answers with a time-out."""
    bus.queue("orders", sessions=True)
    receiver = client.get_queue_receiver(
        "orders", session_id=NEXT_AVAILABLE_SESSION, max_wait_time=0.5
    )
    with pytest.raises(OperationTimeoutError):
        await receiver.__aenter__()


async def test_waiting_for_a_session_without_a_time_ends_too(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """The service's own time-out is a little more than a minute."""
    still_bus.queue("orders", sessions=True)
    receiver = still_client.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION)
    waiting = asyncio.create_task(receiver.__aenter__())
    await until(lambda: waits(still_bus))
    clock.advance(64)
    assert waits(still_bus)
    clock.advance(2)
    with pytest.raises(OperationTimeoutError):
        await waiting


async def test_closing_a_session_returns_its_messages_in_order_uncounted(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """What was not settled is next for whoever holds it then, and is no failed attempt."""
    bus.queue("orders", sessions=True)
    await client.get_queue_sender("orders").send_messages(of("a", "01234"))
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        got = await received(receiver, 4)
        await receiver.complete_message(got[1])
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        got = await received(receiver, 4)
        assert texts(got) == ["0", "2", "3", "4"]
        assert [message.delivery_count for message in got] == [0, 0, 0, 0]


async def test_messages_of_a_session_are_settled_in_each_way(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Abandoned ones come back at their place; deferred ones are had by number in the session."""
    queue = bus.queue("orders", sessions=True)
    await client.get_queue_sender("orders").send_messages(of("a", "abcd"))
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        a, b, c, d = await received(receiver, 4)
        await receiver.complete_message(a)
        await receiver.dead_letter_message(b, reason="bad")
        await receiver.defer_message(c)
        await receiver.abandon_message(d)
        assert queue.counts() == Counts(1, 0, 1, 0, 1)
        (again,) = await received(receiver, 1)
        assert (str(again), again.delivery_count) == ("d", 1)
        (deferred,) = await receiver.receive_deferred_messages(c.sequence_number or 0)
        await receiver.complete_message(deferred)
        assert texts(await receiver.peek_messages(5, sequence_number=1)) == ["d"]
    (letter,) = await received(client.get_queue_receiver("orders", sub_queue="deadletter"), 1)
    assert (str(letter), letter.session_id, letter.dead_letter_reason) == ("b", "a", "bad")


async def test_a_session_has_a_state(bus: ServiceBus, client: ServiceBusClient) -> None:
    """It outlives receivers and messages, is bytes of any kind, and can be cleared."""
    queue = bus.queue("orders", sessions=True)
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        assert await receiver.session.get_state() is None
        await receiver.session.set_state(b"\x00state\xff")
        assert await receiver.session.get_state() == b"\x00state\xff"
        await receiver.session.set_state("text")
    async with client.get_queue_receiver("orders", session_id="a") as receiver:
        assert await receiver.session.get_state() == b"text"
        await receiver.session.set_state(None)
        assert await receiver.session.get_state() is None
    assert queue.list_sessions(None, 0, 10) == []


async def test_sessions_are_listed(bus: ServiceBus, client: ServiceBusClient) -> None:
    """Those with messages or a state, over pages; or those whose state was set since a time."""
    queue = bus.queue("orders", sessions=True)
    assert [name async for name in client.list_queue_sessions("orders")] == []
    names = [f"session-{number:03}" for number in range(250)]
    await client.get_queue_sender("orders").send_messages(
        [ServiceBusMessage("x", session_id=name) for name in names]
    )
    queue.set_state("with-state", b"x")
    assert [name async for name in client.list_queue_sessions("orders")] == [*names, "with-state"]
    now = datetime.now(UTC)
    for since, expected in ((-60, ["with-state"]), (60, [])):
        listed = client.list_queue_sessions(
            "orders", state_updated_after=now + timedelta(seconds=since)
        )
        assert [name async for name in listed] == expected


async def test_a_sessions_lock_is_renewed(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """Renewed, by request or by the SDK's AutoLockRenewer, it lasts anew with its messages."""
    queue = still_bus.queue("orders", sessions=True, lock_seconds=9)
    await still_client.get_queue_sender("orders").send_messages(of("a", "a"))
    async with still_client.get_queue_receiver("orders", session_id="a") as receiver:
        (message,) = await received(receiver, 1)
        clock.advance(5)
        renewed = await receiver.session.renew_lock()
        assert abs(renewed.timestamp() - clock.now() - 9) < 0.01
        clock.advance(5)
        assert queue.counts().locked == 1
        async with AutoLockRenewer() as renewer:
            renewer.register(receiver, receiver.session)
            await until(lambda: (receiver.session.locked_until_utc or renewed) > renewed)
        clock.advance(5)
        await receiver.complete_message(message)
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_a_session_whose_lock_ends_is_lost(
    still_bus: ServiceBus, still_client: ServiceBusClient, clock: ManualClock
) -> None:
    """The receiver can do nothing more; the next holder gets the messages, an attempt counted."""
    queue = still_bus.queue("orders", sessions=True, lock_seconds=30)
    await still_client.get_queue_sender("orders").send_messages(of("a", "ab"))
    receiver = still_client.get_queue_receiver("orders", session_id="a")
    (message, _) = await received(receiver, 2)
    clock.advance(31)
    assert queue.counts() == Counts(2, 0, 0, 0, 0)
    with pytest.raises(SessionLockLostError):
        await receiver.complete_message(message)
    async with still_client.get_queue_receiver("orders", session_id="a") as other:
        got = await received(other, 2)
        assert texts(got) == ["a", "b"]
        assert [message.delivery_count for message in got] == [1, 1]


async def test_every_use_of_a_lost_session_says_so(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Receiving, renewing: each fails with the lost lock."""
    queue = bus.queue("orders", sessions=True)
    await client.get_queue_sender("orders").send_messages(
        [*of("a", "a"), *of("b", "b"), *of("c", "c")]
    )
    one, other, third = [client.get_queue_receiver("orders", session_id=name) for name in "abc"]
    for receiver in (one, other, third):
        await received(receiver, 1)
    assert queue.expire_session_locks() == 3
    with pytest.raises(SessionLockLostError):
        await one.receive_messages(1, max_wait_time=10)
    with pytest.raises(SessionLockLostError):
        await other.session.renew_lock()
    with pytest.raises(SessionLockLostError):
        await third.receive_deferred_messages([1])


async def test_sessions_and_their_absence_do_not_mix(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Receivers and messages with and without a session are refused where they don't belong."""
    with_sessions, plain = bus.queue("sessions", sessions=True), bus.queue("plain")
    wrong = (
        client.get_queue_receiver("sessions"),
        client.get_queue_receiver("plain", session_id="a"),
        client.get_queue_receiver("plain", session_id=NEXT_AVAILABLE_SESSION),
    )
    for receiver in wrong:
        with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
            await receiver.__aenter__()
        await receiver.close()
    with pytest.raises(ServiceBusError, match="amqp:not-allowed"):
        await client.get_queue_sender("sessions").send_messages(ServiceBusMessage("x"))
    # A session id means nothing where there are none, and it is kept.
    await client.get_queue_sender("plain").send_messages(of("a", "x"))
    (message,) = await received(client.get_queue_receiver("plain"), 1)
    assert message.session_id == "a"
    assert (with_sessions.counts().active, plain.counts().locked) == (0, 1)


async def test_a_subscription_has_sessions_too(bus: ServiceBus, client: ServiceBusClient) -> None:
    """What is sent to the topic with a session is received by session, and listed."""
    bus.topic("events", ["all"], sessions=True)
    await client.get_topic_sender("events").send_messages([*of("a", "1"), *of("b", "2")])
    async with client.get_subscription_receiver(
        "events",
        "all",
        session_id="b",
        receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE,
    ) as receiver:
        assert texts(await received(receiver, 1)) == ["2"]
    listed = client.list_subscription_sessions("events", "all")
    assert [name async for name in listed] == ["a"]
