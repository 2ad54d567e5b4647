"""A queue without sessions: sending, competing consumers, duplicates, limits, peeking."""

from __future__ import annotations

import pytest

from tests.servicebus.entities import errors
from tests.servicebus.entities.rig import (
    START,
    bodies,
    give,
    messages,
    queue,
    receiver,
    refused,
)
from tests.servicebus.entities.stored import Stored


def test_messages_come_in_the_order_sent_with_rising_numbers() -> None:
    """Each with a lock of its own and the times of the queue."""
    q, clock = queue()
    q.send(messages("a", "b"))
    clock.advance(1)
    q.send(messages("c"))
    consumer = receiver(q, 2)
    assert consumer.bodies == ["a", "b"]
    give(q, consumer, 5)
    assert consumer.bodies == ["a", "b", "c"]
    assert [message.sequence for message in consumer.got] == [1, 2, 3]
    assert [message.enqueue_sequence for message in consumer.got] == [1, 2, 3]
    assert [message.enqueued_at - START for message in consumer.got] == [0, 0, 1]
    assert [message.locked_until - START for message in consumer.got] == [61, 61, 61]
    assert len(set(consumer.tokens)) == 3
    assert {len(token) for token in consumer.tokens} == {16}
    assert consumer.credit == 4


def test_a_waiting_consumer_gets_what_is_sent() -> None:
    """At once, as far as its credit goes."""
    q, _ = queue()
    consumer = receiver(q, 2)
    q.send(messages("a", "b", "c"))
    assert consumer.bodies == ["a", "b"]
    counts = q.counts()
    assert (counts.active, counts.locked) == (1, 2)


def test_consumers_take_turns() -> None:
    """A message each, in a batch and over several."""
    q, _ = queue()
    first, second = receiver(q, 10), receiver(q, 10)
    for body in "abcde":
        q.send(messages(body))
    assert first.bodies == ["a", "c", "e"]
    assert second.bodies == ["b", "d"]
    q.send(messages("f", "g", "h"))
    assert second.bodies == ["b", "d", "f", "h"]
    assert first.bodies == ["a", "c", "e", "g"]


def test_one_without_credit_is_passed_over() -> None:
    """And is served again when it has some."""
    q, _ = queue()
    first, second = receiver(q, 1), receiver(q, 10)
    q.send(messages("a", "b", "c"))
    assert (first.bodies, second.bodies) == (["a"], ["b", "c"])
    give(q, first, 1)
    q.detach(second)
    q.send(messages("d", "e"))
    assert first.bodies == ["a", "d"]


def test_who_is_not_attached_gets_nothing() -> None:
    """Detaching is no error either, twice or without having attached."""
    q, _ = queue()
    consumer = receiver(q, 5)
    q.detach(consumer)
    q.detach(consumer)
    q.send(messages("a"))
    q.ready(consumer)
    assert consumer.got == []


def test_receive_and_delete() -> None:
    """It is gone when it is delivered."""
    q, _ = queue()
    q.send(messages("a"))
    consumer = receiver(q, 1, locks=False)
    assert consumer.bodies == ["a"]
    assert consumer.got[0].token is None
    assert q.counts() == queue()[0].counts()
    assert q.peek(0, 10) == []


def test_a_consumer_may_settle_and_ask_for_more_inside_a_delivery() -> None:
    """Order and credit are kept; nothing is delivered inside a delivery."""
    q, _ = queue()
    inside = 0
    deepest = 0

    def settle(message: Stored) -> None:
        nonlocal inside, deepest
        inside += 1
        deepest = max(deepest, inside)
        assert message.token is not None
        if message.delivery_count:
            q.complete(message.token)
        else:
            q.abandon(message.token)
        give(q, consumer, 1)
        inside -= 1

    consumer = receiver(q, 1, then=settle)
    q.send(messages("a", "b", "c"))
    assert consumer.bodies == ["a", "a", "b", "b", "c", "c"]
    assert deepest == 1
    assert q.peek(0, 9) == []


def test_a_consumer_may_detach_inside_a_delivery() -> None:
    """The next message is another's, or stays."""
    q, _ = queue()

    def leave(message: Stored) -> None:
        q.detach(first)

    first = receiver(q, 9, then=leave)
    second = receiver(q, 9)
    q.send(messages("a", "b", "c"))
    assert (first.bodies, second.bodies) == (["a"], ["b", "c"])


def test_peeking_shows_everything_in_order_and_changes_nothing() -> None:
    """Locked, deferred and scheduled ones too, from a number on, so many."""
    q, _ = queue()
    q.send(messages("a", "b"))
    q.send(messages("later", scheduled_for=START + 50))
    q.send(messages("c", "d"))
    consumer = receiver(q, 3)
    q.defer(consumer.tokens[1])
    before = q.counts()
    assert bodies(q.peek(0, 99)) == ["a", "b", "later", "c", "d"]
    assert [message.state for message in q.peek(1, 3)] == ["active", "deferred", "scheduled"]
    assert bodies(q.peek(4, 1)) == ["c"]
    assert q.peek(6, 10) == []
    assert q.counts() == before
    q.abandon(consumer.tokens[0])
    assert bodies(q.peek(0, 99)) == ["a", "b", "later", "c", "d"]


def test_a_batch_is_taken_as_a_whole_or_not_at_all() -> None:
    """Whatever is wrong with one of its messages."""
    q, _ = queue(max_message_bytes=10, max_bytes=25)
    assert refused(lambda: q.send(messages("a", "b" * 11))) == errors.TOO_LARGE
    assert refused(lambda: q.send([Stored(bare=b"", size=11)])) == errors.TOO_LARGE
    assert refused(lambda: q.send(messages(*["c" * 9] * 3))) == errors.FULL
    assert q.peek(0, 9) == []
    q.send(messages("d" * 10, "e" * 10))
    q.schedule(messages("f" * 5, scheduled_for=START + 5))
    assert refused(lambda: q.send(messages("g"))) == errors.FULL
    q.cancel_scheduled([3])
    q.send(messages("g"))
    q.complete(receiver(q, 1).tokens[0])
    q.send(messages("h" * 10))
    assert refused(lambda: q.send(messages("i" * 5))) == errors.FULL


def test_a_scheduled_message_takes_room_once() -> None:
    """Before it is active, and then until it is settled."""
    q, clock = queue(max_bytes=10)
    q.send(messages("a" * 10, scheduled_for=START + 5))
    assert refused(lambda: q.send(messages("b"))) == errors.FULL
    clock.advance(5)
    assert refused(lambda: q.send(messages("b"))) == errors.FULL
    q.complete(receiver(q, 1).tokens[0])
    q.send(messages("b" * 10))


def test_duplicates_inside_the_window_are_dropped() -> None:
    """The window is that of the first; ids differ by type; none is never a duplicate."""
    q, clock = queue(duplicate_window=100.0)
    q.send(messages("a", message_id="1"))
    q.send([*messages("b", message_id="2"), *messages("B", message_id="2")])
    q.send(messages("c", "d"))
    q.send(messages("e", message_id=1))
    clock.advance(99)
    q.send(messages("A", message_id="1"))
    assert bodies(q.peek(0, 9)) == ["a", "b", "c", "d", "e"]
    clock.advance(1)
    q.send(messages("again", message_id="1"))
    assert [message.sequence for message in q.peek(6, 9)] == [6]


def test_a_completed_message_is_still_known_by_its_id() -> None:
    """Its history is the window's, not the queue's."""
    q, _ = queue(duplicate_window=100.0)
    q.send(messages("a", message_id="1"))
    receiver(q, 1, locks=False)
    q.send(messages("A", message_id="1"))
    assert q.peek(0, 1) == []


def test_a_refused_batch_leaves_no_ids_behind() -> None:
    """So that it can be sent again."""
    q, _ = queue(duplicate_window=100.0, max_message_bytes=1)
    a, b = messages("a", message_id="1"), messages("bb", message_id="2")
    assert refused(lambda: q.send([*a, *b])) == errors.TOO_LARGE
    q.send(a)
    assert bodies(q.peek(0, 9)) == ["a"]


def test_the_history_of_ids_is_that_of_a_window() -> None:
    """However many have come before."""
    q, clock = queue(duplicate_window=1.0)
    for number in range(1000):
        q.send(messages("a", message_id=number))
        clock.advance(0.1)
    duplicates = q._intake._duplicates
    assert duplicates is not None
    assert len(duplicates) <= 11
    assert len(duplicates._seen) <= 11


def test_a_disabled_queue_takes_and_gives_nothing() -> None:
    """What is locked can be settled; enabled again it goes on."""
    q, _ = queue()
    q.send(messages("a", "b"))
    consumer = receiver(q, 1)
    q.set_enabled(False)
    give(q, consumer, 5)
    for call in (
        lambda: q.send(messages("c")),
        lambda: q.schedule(messages("c")),
        lambda: q.attach(consumer),
        lambda: q.receive_deferred([1], locks=True),
        lambda: q.peek(0, 1),
    ):
        assert refused(call) == errors.DISABLED
    q.abandon(consumer.tokens[0])
    assert consumer.bodies == ["a"]
    q.set_enabled(True)
    assert consumer.bodies == ["a", "a", "b"]
    assert queue(enabled=False)[0].counts() == queue()[0].counts()
    assert refused(lambda: queue(enabled=False)[0].send(messages("x"))) == errors.DISABLED


def test_locks_can_be_ended_at_once() -> None:
    """The counts grow as they do when their time comes, which then finds nothing."""
    q, clock = queue()
    q.send(messages("a", "b"))
    consumer = receiver(q, 2)
    assert q.expire_session_locks() == 0
    assert q.expire_locks() == 2
    assert q.expire_locks() == 0
    give(q, consumer, 2)
    assert consumer.bodies == ["a", "b", "a", "b"]
    assert [message.delivery_count for message in consumer.got[2:]] == [1, 1]
    clock.advance(59.9)
    assert q.counts().locked == 2


@pytest.mark.parametrize(
    "call",
    [
        lambda q: q.renew_session("s"),
        lambda q: q.get_state("s"),
        lambda q: q.set_state("s", b""),
        lambda q: q.list_sessions(None, 0, 9),
        lambda q: q.close_session("s", None),
    ],
)
def test_it_has_no_sessions(call: object) -> None:
    """Whoever asks for one is told."""
    q, _ = queue()
    assert refused(lambda: call(q)) == errors.NOT_ALLOWED


def test_memory_stays_flat() -> None:
    """Neither locks, nor expiries, nor timers pile up behind messages that come and go."""
    q, clock = queue(ttl=1e6)
    consumer = receiver(q)
    for _ in range(300):
        q.send(messages(*"abcdefghij"))
        give(q, consumer, 10)
        for token in consumer.tokens:
            q.complete(token)
        consumer.tokens.clear()
        clock.advance(0.01)
    assert len(q._outlet._locks) < 400
    assert len(q._store._expiries) < 400
    assert len(clock._heap) < 100
    assert q._store.bytes == 0
