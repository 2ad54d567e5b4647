"""Many clients at once, and clients that lose their connections and go on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import (
    MessageSizeExceededError,
    ServiceBusConnectionError,
    ServiceBusError,
    SessionCannotBeLockedError,
)

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.links import Outlet
from tests.servicebus.sdk import BREAKING, connect, received, texts, until

pytestmark = [pytest.mark.spec("T2"), *BREAKING]


async def test_many_clients_use_one_server(bus: ServiceBus) -> None:
    """Each with a queue of its own gets what it sent, in order, and nothing of another's."""

    async def alone(name: str) -> list[str]:
        bus.queue(name)
        async with connect(bus) as client:
            sender, receiver = client.get_queue_sender(name), client.get_queue_receiver(name)
            got: list[str] = []
            for turn in range(4):
                await sender.send_messages(
                    [ServiceBusMessage(f"{name}-{turn}-{number}") for number in range(10)]
                )
                for message in await received(receiver, 10):
                    got.append(str(message))
                    await receiver.complete_message(message)
        return got

    names = [f"queue-{number}" for number in range(8)]
    for name, got in zip(names, await asyncio.gather(*map(alone, names)), strict=True):
        assert got == [f"{name}-{turn}-{number}" for turn in range(4) for number in range(10)]
        assert bus.find(name).counts() == Counts(0, 0, 0, 0, 0)


async def test_receivers_of_one_queue_share_its_messages(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Every message goes to one of them, once, and none of them gets everything."""
    queue = bus.queue("orders")
    seen: Counter[str] = Counter()
    shares: Counter[int] = Counter()

    async def compete(number: int) -> None:
        async with client.get_queue_receiver("orders") as receiver:
            while sum(seen.values()) < 200:
                for message in await receiver.receive_messages(5, max_wait_time=0.3):
                    seen[str(message)] += 1
                    shares[number] += 1
                    await receiver.complete_message(message)

    competing = [asyncio.create_task(compete(number)) for number in range(6)]
    async with client.get_queue_sender("orders") as sender:
        for start in range(0, 200, 20):
            await sender.send_messages(
                [ServiceBusMessage(str(number)) for number in range(start, start + 20)]
            )
    await asyncio.gather(*competing)
    assert seen == {str(number): 1 for number in range(200)}
    assert max(shares.values()) < 200
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_receivers_of_sessions_keep_each_in_order(
    bus: ServiceBus, client: ServiceBusClient
) -> None:
    """Whoever takes the next available session reads it alone, in order, to its end."""
    queue = bus.queue("orders", sessions=True)
    await client.get_queue_sender("orders").send_messages(
        [
            ServiceBusMessage(str(number), session_id=f"s{session}")
            for number in range(10)
            for session in range(8)
        ]
    )
    read: defaultdict[str, list[str]] = defaultdict(list)

    async def worker() -> None:
        while any(len(read[f"s{number}"]) < 10 for number in range(8)) and queue.counts().active:
            receiver = client.get_queue_receiver("orders", session_id=NEXT_AVAILABLE_SESSION)
            async with receiver:
                for message in await received(receiver, 10):
                    read[receiver.session.session_id].append(str(message))
                    await receiver.complete_message(message)

    await asyncio.gather(*(worker() for _ in range(4)))
    assert read == {f"s{session}": [str(number) for number in range(10)] for session in range(8)}
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_clients_connect_anew_after_their_connections_are_dropped(bus: ServiceBus) -> None:
    """Senders and receivers of the SDK go on by themselves; no message is lost or doubled."""
    queue = bus.queue("orders")
    async with connect(bus, retry_total=3) as client:
        sender = client.get_queue_sender("orders")
        receiver = client.get_queue_receiver(
            "orders", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE
        )
        got: list[str] = []
        for turn in range(2):
            await sender.send_messages(ServiceBusMessage(str(turn)))
            got += texts(await received(receiver, 1))
            assert bus.drop() == 2
            await until(lambda: not bus.connections)
        await sender.send_messages(ServiceBusMessage("last"))
        got += texts(await received(receiver, 1))
    assert got == ["0", "1", "last"]
    assert queue.counts() == Counts(0, 0, 0, 0, 0)


async def test_a_waiting_receiver_connects_anew(bus: ServiceBus) -> None:
    """TCP breaks while it waits: it is there again for what comes then."""
    bus.queue("orders")
    async with connect(bus, retry_total=5) as client:
        receiver = client.get_queue_receiver("orders")
        await receiver.__aenter__()
        waiting = asyncio.create_task(received(receiver, 1))
        await until(lambda: any(link._credit for link in outlets(bus)))
        bus.drop()
        await until(lambda: any(link._credit for link in outlets(bus)))
        await client.get_queue_sender("orders").send_messages(ServiceBusMessage("x"))
        assert texts(await waiting) == ["x"]


def outlets(bus: ServiceBus) -> list[Outlet]:
    """The receiving links of the queue."""
    return [
        link
        for connection in bus.connections
        for channel in connection.channels.values()
        for link in channel.links.values()
        if link.path == "orders" and isinstance(link, Outlet)
    ]


async def test_links_and_connections_are_ended_with_an_error(bus: ServiceBus) -> None:
    """Force-detached, or closed by the service: the SDK attaches and connects again."""
    queue = bus.queue("orders")
    async with connect(bus, retry_total=3) as client:
        sender = client.get_queue_sender("orders")
        await sender.send_messages(ServiceBusMessage("0"))
        assert bus.detach("orders") == 1
        await sender.send_messages(ServiceBusMessage("1"))
        assert bus.close_connections("amqp:connection:forced") == 1
        await sender.send_messages(ServiceBusMessage("2"))
    assert queue.counts().active == 3


@pytest.mark.parametrize("frees", [True, False])
async def test_a_session_whose_holder_is_lost(clock: ManualClock, frees: bool) -> None:
    """Assumption lost_connection_frees_session: it is free at once, or when its lock ends."""
    assumptions = Assumptions(lost_connection_frees_session=frees)
    async with ServiceBus(clock=clock, assumptions=assumptions) as bus, connect(bus) as client:
        queue = bus.queue("orders", sessions=True, lock_seconds=30)
        await client.get_queue_sender("orders").send_messages(
            [ServiceBusMessage(t, session_id="a") for t in "ab"]
        )
        receiver = client.get_queue_receiver("orders", session_id="a")
        await received(receiver, 1)
        bus.drop()
        if not frees:
            with pytest.raises(SessionCannotBeLockedError):
                await client.get_queue_receiver("orders", session_id="a").__aenter__()
            assert queue.counts() == Counts(1, 1, 0, 0, 0)
            clock.advance(31)
        other = client.get_queue_receiver("orders", session_id="a")
        got = await received(other, 2)
        assert texts(got) == ["a", "b"]
        assert [message.delivery_count for message in got] == [0 if frees else 1, 0]
        with pytest.raises(ServiceBusError):
            await receiver.session.renew_lock()


@pytest.mark.parametrize("fills", [True, False])
async def test_a_message_without_an_id(fills: bool) -> None:
    """Assumption fills_message_id: it gets one of its own, also in a batch, or stays without."""
    assumptions = Assumptions(fills_message_id=fills)
    async with ServiceBus(assumptions=assumptions) as bus, connect(bus) as client:
        bus.queue("orders")
        # The SDK's own kind of message has an id from the start, AMQP's has not.
        alone, *batch = (
            AmqpAnnotatedMessage(data_body=text) for text in ("alone", "in", "a batch")
        )
        sender = client.get_queue_sender("orders")
        await sender.send_messages(alone)
        await sender.send_messages(batch)
        await sender.send_messages(ServiceBusMessage("with", message_id="own"))
        got = await received(client.get_queue_receiver("orders"), 4)
        assert texts(got) == ["alone", "in", "a batch", "with"]
        *ids, own = [message.message_id for message in got]
        assert own == "own"
        if fills:
            assert len({identifier for identifier in ids if identifier}) == 3
        else:
            assert ids == [None, None, None]


@pytest.mark.parametrize("detaches", [True, False])
async def test_a_message_above_the_limit_ends_the_link_or_not(detaches: bool) -> None:
    """Assumption oversize_detaches: with it the SDK can't tell why its message was refused."""
    assumptions = Assumptions(oversize_detaches=detaches)
    async with ServiceBus(assumptions=assumptions) as bus, connect(bus) as client:
        queue = bus.queue("orders")
        sender = client.get_queue_sender("orders")
        await sender.send_messages(ServiceBusMessage("a"))
        (connection,) = bus.connections
        error = ServiceBusConnectionError if detaches else MessageSizeExceededError
        with pytest.raises(error):
            await sender.send_messages(ServiceBusMessage(b"x" * 300_000))
        await sender.send_messages(ServiceBusMessage("b"))
        assert (connection in bus.connections) is not detaches
        assert queue.counts().active == 2


@pytest.mark.parametrize("merges", [True, False])
async def test_outcomes_of_many_settlements(merges: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Assumption merge_outcomes: one disposition answers a range of them, or each has its own."""
    from tests.servicebus import channel

    answers: list[tuple[int, int]] = []
    real = channel.disposition

    def spy(number: int, ours: bool, first: int, last: int, state: bytes) -> bytes:
        if ours:
            answers.append((first, last))
        return real(number, ours, first, last, state)

    assumptions = Assumptions(merge_outcomes=merges)
    async with ServiceBus(assumptions=assumptions) as bus, connect(bus) as client:
        queue = bus.queue("orders")
        await client.get_queue_sender("orders").send_messages(
            [ServiceBusMessage(str(number)) for number in range(30)]
        )
        receiver = client.get_queue_receiver("orders")
        messages = await received(receiver, 30)
        monkeypatch.setattr(channel, "disposition", spy)
        await asyncio.gather(*map(receiver.complete_message, messages))
        assert queue.counts() == Counts(0, 0, 0, 0, 0)
        settled = [number for first, last in answers for number in range(first, last + 1)]
        assert len(settled) == len(set(settled)) == 30
        assert (len(answers) < 30) is merges
