"""Faults as Microsoft's client sees them: what is tried again, and which errors they become."""

from __future__ import annotations

import asyncio

import pytest
from azure.servicebus import (
    ServiceBusMessage,
    ServiceBusReceiveMode,
)
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.exceptions import (
    MessageLockLostError,
    OperationTimeoutError,
    ServiceBusAuthenticationError,
    ServiceBusError,
    ServiceBusServerBusyError,
    SessionCannotBeLockedError,
    SessionLockLostError,
)

from tests.servicebus.bus import ServiceBus
from tests.servicebus.sdk import BREAKING, connect, received, texts, until

pytestmark = [pytest.mark.spec("T2"), *BREAKING]


def numbered(count: int) -> list[ServiceBusMessage]:
    """Messages with their numbers."""
    return [ServiceBusMessage(str(number)) for number in range(count)]


async def test_server_busy_is_tried_again(bus: ServiceBus) -> None:
    """As often as the client was told to; after that it is an error of its own."""
    orders = bus.queue("orders")
    async with connect(bus, retry_total=2) as client:
        sender = client.get_queue_sender("orders")
        fault = bus.faults.busy(2)
        await sender.send_messages(ServiceBusMessage("patient"))
        assert (fault.met, orders.counts().active) == (2, 1)
        bus.faults.busy(3)
        with pytest.raises(ServiceBusServerBusyError, match="throttled"):
            await sender.send_messages(ServiceBusMessage("refused"))
        assert orders.counts().active == 1


@pytest.mark.parametrize("applied", [False, True])
async def test_tcp_is_dropped_at_a_send(bus: ServiceBus, applied: bool) -> None:
    """The client sends again: a message that had arrived is there twice."""
    orders = bus.queue("orders")
    fault = bus.faults.drop("send", applied=applied)
    async with connect(bus, retry_total=3) as client:
        await client.get_queue_sender("orders").send_messages(ServiceBusMessage("one"))
    assert (fault.met, orders.counts().active) == (1, 1 + applied)


@pytest.mark.parametrize("applied", [False, True])
async def test_tcp_is_dropped_at_complete(bus: ServiceBus, applied: bool) -> None:
    """The client settles again by the lock, which is gone if it had worked: it can't tell."""
    orders = bus.queue("orders")
    async with connect(bus, retry_total=3) as client:
        await client.get_queue_sender("orders").send_messages(ServiceBusMessage("one"))
        receiver = client.get_queue_receiver("orders")
        (message,) = await received(receiver, 1)
        bus.faults.drop("complete", applied=applied)
        if applied:
            with pytest.raises(MessageLockLostError):
                await receiver.complete_message(message)
        else:
            await receiver.complete_message(message)
    assert (orders.counts().active, orders.counts().locked) == (0, 0)
    assert bus.faults.waiting == []


async def test_an_answer_that_never_comes(bus: ServiceBus) -> None:
    """A send without an answer ends in the client's own time-out."""
    orders = bus.queue("orders")
    bus.faults.swallow("send")
    async with connect(bus) as client:
        sender = client.get_queue_sender("orders")
        with pytest.raises(OperationTimeoutError):
            await sender.send_messages(ServiceBusMessage("one"), timeout=1)
    assert orders.counts().active == 1


async def test_every_shape_at_once(bus: ServiceBus) -> None:
    """Merged outcomes, small transfers and writes, and latency both ways change nothing else."""
    orders = bus.queue("orders")
    shape = bus.faults.shape
    shape.to_client = shape.to_server = 0.005
    shape.merge_outcomes = 0.01
    shape.transfer_bytes, shape.write_bytes = 100, 50
    async with connect(bus) as client:
        await client.get_queue_sender("orders").send_messages(numbered(20))
        receiver = client.get_queue_receiver("orders", prefetch_count=20)
        got = await received(receiver, 20)
        assert texts(got) == [str(number) for number in range(20)]
        await asyncio.gather(*(receiver.complete_message(message) for message in got))
    assert (orders.counts().active, orders.counts().locked) == (0, 0)


async def test_outcomes_and_transfers_apart(bus: ServiceBus) -> None:
    """Each outcome and each transfer alone: everything is received and settled."""
    orders = bus.queue("orders")
    shape = bus.faults.shape
    shape.split_outcomes = shape.split_transfers = 0.002
    shape.transfer_bytes = 100
    async with connect(bus) as client:
        await client.get_queue_sender("orders").send_messages(numbered(10))
        receiver = client.get_queue_receiver("orders", prefetch_count=10)
        got = await received(receiver, 10)
        assert texts(got) == [str(number) for number in range(10)]
        await asyncio.gather(*(receiver.complete_message(message) for message in got))
    assert (orders.counts().active, orders.counts().locked) == (0, 0)


async def test_a_token_that_is_refused(bus: ServiceBus) -> None:
    """Neither sender nor receiver opens; once tokens are taken again, they do."""
    bus.queue("orders")
    bus.faults.refuse_auth()
    async with connect(bus) as client:
        with pytest.raises(ServiceBusAuthenticationError):
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("one"))
        bus.faults.clear()
        await client.get_queue_sender("orders").send_messages(ServiceBusMessage("one"))


async def test_a_session_is_refused(bus: ServiceBus) -> None:
    """With the condition that the test asked for, as an error of the SDK's own."""
    bus.queue("orders", sessions=True)
    bus.faults.refuse("accept", "com.microsoft:session-cannot-be-locked")
    async with connect(bus) as client:
        with pytest.raises(SessionCannotBeLockedError):
            async with client.get_queue_receiver("orders", session_id="s"):
                pass
        async with client.get_queue_receiver("orders", session_id="s") as receiver:
            assert receiver.session.session_id == "s"


async def test_links_are_detached(bus: ServiceBus) -> None:
    """A client that may try again attaches anew; one that may not fails with the condition."""
    orders = bus.queue("orders")
    async with connect(bus, retry_total=3) as client, connect(bus) as hasty:
        sender = client.get_queue_sender("orders")
        await sender.send_messages(ServiceBusMessage("one"))
        assert bus.detach("orders") == 1
        await sender.send_messages(ServiceBusMessage("two"))
        assert orders.counts().active == 2
        sender = hasty.get_queue_sender("orders")
        await sender.send_messages(ServiceBusMessage("three"))
        bus.detach("orders", "com.microsoft:entity-disabled")
        with pytest.raises(ServiceBusError):
            await sender.send_messages(ServiceBusMessage("four"))
    assert orders.counts().active == 3


async def test_connections_are_closed_or_dropped(bus: ServiceBus) -> None:
    """A receiver that may try again goes on receiving."""
    bus.queue("orders")
    async with connect(bus, retry_total=3) as client:
        sender = client.get_queue_sender("orders")
        mode = ServiceBusReceiveMode.RECEIVE_AND_DELETE
        receiver = client.get_queue_receiver("orders", receive_mode=mode)
        await sender.send_messages(ServiceBusMessage("one"))
        assert texts(await received(receiver, 1)) == ["one"]
        assert bus.close_connections("amqp:connection:forced") == 2
        await sender.send_messages(ServiceBusMessage("two"))
        assert texts(await received(receiver, 1)) == ["two"]
        assert bus.drop() == 2
        await sender.send_messages(ServiceBusMessage("three"))
        assert texts(await received(receiver, 1)) == ["three"]


async def test_locks_end_now(bus: ServiceBus) -> None:
    """Of a message and of a session: settling fails with the SDK's error for each."""
    orders, sessions = bus.queue("orders"), bus.queue("sessions", sessions=True)
    async with connect(bus) as client:
        await client.get_queue_sender("orders").send_messages(ServiceBusMessage("one"))
        await client.get_queue_sender("sessions").send_messages(
            ServiceBusMessage("one", session_id="s")
        )
        receiver = client.get_queue_receiver("orders")
        (message,) = await received(receiver, 1)
        assert orders.expire_locks() == 1
        with pytest.raises(MessageLockLostError):
            await receiver.complete_message(message)
        async with client.get_queue_receiver("sessions", session_id="s") as holder:
            (message,) = await received(holder, 1)
            assert sessions.expire_session_locks() == 1
            with pytest.raises(SessionLockLostError):
                await holder.complete_message(message)


async def test_a_delivery_is_late(bus: ServiceBus) -> None:
    """It comes after a while, and those behind it after it."""
    bus.queue("orders")
    bus.faults.delay("deliver", 0.2)
    async with connect(bus) as client:
        await client.get_queue_sender("orders").send_messages(numbered(3))
        receiver = client.get_queue_receiver("orders", prefetch_count=3)
        assert texts(await received(receiver, 3)) == ["0", "1", "2"]
    await until(lambda: not bus.connections)


async def test_a_refused_attach_is_not_that_of_a_node(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """A fault of `attach` that names no entity leaves `$cbs` and `$management` alone."""
    bus.queue("orders")
    fault = bus.faults.refuse("attach", "amqp:not-allowed")
    with pytest.raises(ServiceBusError, match="not-allowed"):
        await client.get_queue_sender("orders").__aenter__()
    assert fault.met == 1
    named = bus.faults.refuse("attach", "amqp:not-allowed", entity="orders/$management")
    async with client.get_queue_receiver("orders") as receiver:
        with pytest.raises(ServiceBusError):
            await receiver.peek_messages(1)
    assert named.met == 1
