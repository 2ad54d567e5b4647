"""Apache Qpid Proton receives: outcomes, credit, settle modes, sessions and requests."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any, Final

import pytest

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.proton_peer import PATIENCE, PLAIN, outcome, peer, taken
from tests.servicebus.sdk import until

# After proton_peer, which skips the module when there is no Proton.
from proton import (  # isort: skip
    Array,
    Condition,
    Data,
    Delivery,
    Message,
    symbol,
)
from proton.handlers import MessagingHandler  # isort: skip
from proton.reactor import AtLeastOnce, AtMostOnce, Container, Filter  # isort: skip
from proton.utils import BlockingConnection  # isort: skip

pytestmark = pytest.mark.spec("T2")

NOTHING: Final = Counts(0, 0, 0, 0, 0)


# --- receiving ------------------------------------------------------------------------------------


async def test_each_outcome_is_answered_with_itself(bus: ServiceBus) -> None:
    """Accepted, released, modified in both ways, rejected: echoed, and done."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> list[Any]:
        sender = connection.create_sender("orders")
        for body in ("accept", "release", "fail", "put aside", "reject"):
            sender.send(Message(body=body))
        receiver = connection.create_receiver("orders", credit=0)
        receiver.link.flow(5)
        (_, accept), (_, release), (_, fail), (_, aside), (_, reject) = (
            taken(receiver) for _ in range(5)
        )
        told = [outcome(connection, accept, Delivery.ACCEPTED)]
        told.append(outcome(connection, release, Delivery.RELEASED))
        fail.local.failed = True
        fail.local.annotations = {symbol("why"): "it failed"}
        told.append(outcome(connection, fail, Delivery.MODIFIED))
        aside.local.failed = aside.local.undeliverable = True
        told.append(outcome(connection, aside, Delivery.MODIFIED))
        words = {symbol("DeadLetterReason"): "bad", symbol("DeadLetterErrorDescription"): "so"}
        reject.local.condition = Condition("com.microsoft:dead-letter", info=words)
        told.append(outcome(connection, reject, Delivery.REJECTED))
        again = [receiver.receive() for _ in range(2)]
        letter = connection.create_receiver("orders/$DeadLetterQueue").receive()
        return [told, [(m.body, m.delivery_count, m.properties) for m in (*again, letter)]]

    told, messages = await peer(bus, work)
    assert told == [
        Delivery.ACCEPTED,
        Delivery.RELEASED,
        Delivery.MODIFIED,
        Delivery.MODIFIED,
        Delivery.REJECTED,
    ]
    assert messages == [
        ("release", 0, None),
        ("fail", 1, {"why": "it failed"}),
        ("reject", 0, {"DeadLetterReason": "bad", "DeadLetterErrorDescription": "so"}),
    ]
    # Two and the letter are locked by a connection that is gone.
    assert queue.counts() == Counts(0, 2, 1, 0, 1)


async def test_a_client_that_settles_first_gets_its_way(bus: ServiceBus) -> None:
    """At least once: accept, release and modify without waiting for an answer."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> list[int]:
        connection.create_sender("orders").send(Message(body="again and again"))
        receiver = connection.create_receiver("orders", options=AtLeastOnce())
        counts = []
        for settle in (
            lambda: receiver.release(delivered=False),
            lambda: receiver.settle(Delivery.MODIFIED),
            receiver.accept,
        ):
            counts.append(receiver.receive().delivery_count)
            settle()
        return counts

    assert await peer(bus, work) == [0, 0, 1]
    await until(lambda: queue.counts() == NOTHING)


async def test_a_lock_that_is_lost_is_told_in_the_outcome(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """Accepting after the lock's end is rejected with the reason, and the message is back."""
    queue = still_bus.queue("orders")
    loop = asyncio.get_running_loop()

    def work(connection: BlockingConnection) -> tuple[Any, str]:
        connection.create_sender("orders").send(Message(body="late"))
        receiver = connection.create_receiver("orders", credit=0)
        receiver.link.flow(1)
        _, delivery = taken(receiver)

        async def end_lock() -> None:
            clock.advance(61)

        asyncio.run_coroutine_threadsafe(end_lock(), loop).result(PATIENCE)
        return outcome(connection, delivery, Delivery.ACCEPTED), delivery.remote.condition.name

    assert await peer(still_bus, work) == (Delivery.REJECTED, "com.microsoft:message-lock-lost")
    assert queue.counts() == Counts(1, 0, 0, 0, 0)


async def test_a_receiver_of_settled_messages_deletes_them(bus: ServiceBus) -> None:
    """The sender's end settled: receive-and-delete."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> Any:
        connection.create_sender("orders").send(Message(body="gone"))
        receiver = connection.create_receiver("orders", options=AtMostOnce())
        got = receiver.receive()
        assert not receiver.fetcher.unsettled  # it came settled
        return got.body

    assert await peer(bus, work) == "gone"
    assert queue.counts() == NOTHING


async def test_credit_is_kept_and_drained(bus: ServiceBus) -> None:
    """No more is sent than there is credit for, and a drain ends what is left of it."""
    queue = bus.queue("orders")

    def work(connection: BlockingConnection) -> list[Any]:
        sender = connection.create_sender("orders")
        for number in range(5):
            sender.send(Message(body=number))
        receiver = connection.create_receiver("orders", credit=0)
        receiver.link.flow(3)
        bodies = [receiver.receive().body for _ in range(3)]
        # The answer to this request comes after anything that was sent too much.
        sender.send(Message(body="request"))
        assert not receiver.fetcher.has_message
        receiver.link.drain(10)  # three are left
        connection.wait(
            lambda: len(receiver.fetcher.incoming) == 3 and not receiver.link.draining()
        )
        bodies += [message.body for message, _ in receiver.fetcher.incoming]
        sender.send(Message(body="without credit"))
        assert len(receiver.fetcher.incoming) == 3
        return [bodies, receiver.link.credit, receiver.link.drained()]

    assert await peer(bus, work) == [[0, 1, 2, 3, 4, "request"], 0, 7]
    assert queue.counts() == Counts(1, 6, 0, 0, 0)


class Stream(MessagingHandler):
    """Sends numbers and receives them, as fast as either side's credit lets it."""

    def __init__(self, port: int, count: int) -> None:
        super().__init__(prefetch=50)
        self.got: list[int] = []
        self._url = f"127.0.0.1:{port}"
        self._count = count
        self._sent = self._confirmed = 0

    def on_start(self, event: Any) -> None:
        connection = event.container.connect(self._url, reconnect=False, **PLAIN)
        event.container.create_sender(connection, "orders")
        event.container.create_receiver(connection, "orders")

    def on_sendable(self, event: Any) -> None:
        while event.sender.credit and self._sent < self._count:
            event.sender.send(Message(body=self._sent))
            self._sent += 1

    def on_accepted(self, event: Any) -> None:
        self._confirmed += 1
        self._end(event)

    def on_message(self, event: Any) -> None:
        self.got.append(event.message.body)
        self._end(event)

    def _end(self, event: Any) -> None:
        if self._confirmed == len(self.got) == self._count:
            event.connection.close()


async def test_a_thousand_messages_stream_through(bus: ServiceBus) -> None:
    """Proton's own flow control on both sides: in order, each once, and nothing is left."""
    queue = bus.queue("orders")

    stream = Stream(bus.port, 1_000)
    container = Container(stream)
    container.allow_insecure_mechs = True
    await asyncio.wait_for(asyncio.to_thread(container.run), 60)
    assert stream.got == list(range(1_000))
    await until(lambda: queue.counts() == NOTHING)


# --- sessions and requests ------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["a", None])
async def test_a_filter_asks_for_a_session(bus: ServiceBus, asked: str | None) -> None:
    """The source that comes back names the session, by name or the next; it holds only its own."""
    bus.queue("carts", sessions=True)
    session_filter = symbol("com.microsoft:session-filter")

    def work(connection: BlockingConnection) -> list[Any]:
        sender = connection.create_sender("carts")
        for group in "aab":
            sender.send(Message(body=f"of {group}", group_id=group))
        receiver = connection.create_receiver(
            "carts", credit=0, options=Filter({session_filter: asked})
        )
        receiver.link.flow(5)
        got = [receiver.receive().body for _ in range(2)]
        sender.send(Message(body="request", group_id="b"))
        assert not receiver.fetcher.has_message
        filters = receiver.link.remote_source.filter
        filters.rewind()
        filters.next()
        return [got, filters.get_dict(), receiver.link.remote_properties]

    got, filters, properties = await peer(bus, work)
    assert got == ["of a", "of a"]
    assert filters == {session_filter: "a"}
    assert properties["com.microsoft:locked-until-utc"] > 621_355_968_000_000_000


async def test_requests_are_answered_in_the_services_types(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """`$management`: peek a message, renew its lock; arrays, uuids and times are what they say."""
    queue = still_bus.queue("orders")

    def work(connection: BlockingConnection) -> list[Any]:
        connection.create_sender("orders").send(Message(body="a", id="1"))
        receiver = connection.create_receiver("orders", credit=0)
        receiver.link.flow(1)
        receiver.receive()
        token = uuid.UUID(bytes=queue.peek(1, 1)[0].token)  # Proton's Python can't read the tag
        requests = connection.create_sender("orders/$management")
        replies = connection.create_receiver("orders/$management", credit=10)

        def ask(operation: str, body: Any) -> Message:
            words = {"operation": f"com.microsoft:{operation}"}
            requests.send(Message(id=operation, properties=words, body=body))
            answer = replies.receive()
            assert answer.correlation_id == operation
            return answer

        peeked = ask("peek-message", {"from-sequence-number": 1, "message-count": 5})
        renewed = ask("renew-lock", {"lock-tokens": Array(None, Data.UUID, token)})
        unknown = ask("renew-lock", {"lock-tokens": Array(None, Data.UUID, uuid.uuid4())})
        return [peeked, renewed, unknown]

    peeked, renewed, unknown = await peer(still_bus, work)
    assert peeked.properties["statusCode"] == 200
    (entry,) = peeked.body["messages"]
    message = Message()
    message.decode(bytes(entry["message"]))
    assert (message.body, message.id) == ("a", "1")
    until_when = renewed.body["expirations"]
    assert until_when.type == Data.TIMESTAMP
    assert list(until_when) == [pytest.approx(clock.now() * 1000 + 60_000, abs=1)]
    assert unknown.properties["statusCode"] == 410
    assert unknown.properties["errorCondition"] == "com.microsoft:message-lock-lost"
