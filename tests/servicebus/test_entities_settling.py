"""Locks, every way to settle, dead letters and deferred messages, in a queue without sessions."""

from __future__ import annotations

from tests.servicebus.entities import errors
from tests.servicebus.entities.rig import (
    bodies,
    give,
    messages,
    queue,
    receiver,
    refused,
)
from tests.servicebus.entities.stored import Stored


def test_a_completed_message_is_gone_and_its_token_worthless() -> None:
    """For every kind of settling, and for renewing."""
    q, _ = queue()
    q.send(messages("a"))
    token = receiver(q, 1).tokens[0]
    found = q.locked(token)
    assert found is not None
    assert found.bare == b"a"
    q.complete(token)
    assert q.locked(token) is None
    assert q.peek(0, 10) == []
    for call in (q.complete, q.abandon, q.defer, q.dead_letter, q.release, q.renew):
        assert refused(lambda call=call: call(token)) == errors.LOCK_LOST


def test_an_abandoned_message_goes_back_to_its_place() -> None:
    """Before all that was sent after it, one attempt older."""
    q, _ = queue()
    q.send(messages("a", "b", "c", "d"))
    consumer = receiver(q, 3)
    q.abandon(consumer.tokens[1])
    q.abandon(consumer.tokens[0], {"why": "because"})
    give(q, consumer, 2)
    assert consumer.bodies == ["a", "b", "c", "a", "b"]
    assert [message.delivery_count for message in consumer.got[3:]] == [1, 1]
    assert consumer.got[3].properties == {"why": "because"}
    assert len(set(consumer.tokens)) == 5
    assert refused(lambda: q.complete(consumer.tokens[0])) == errors.LOCK_LOST


def test_releasing_is_no_attempt() -> None:
    """It goes back to its place with its count as it was."""
    q, _ = queue()
    q.send(messages("a", "b"))
    consumer = receiver(q, 1)
    q.release(consumer.tokens[0])
    give(q, consumer, 1)
    assert consumer.bodies == ["a", "a"]
    assert consumer.got[1].delivery_count == 0


def test_a_lock_ends_and_its_message_is_delivered_again() -> None:
    """Also after its receiver detached: the lock lives as long as before."""
    q, clock = queue(lock_seconds=30)
    q.send(messages("a", "b"))
    gone = receiver(q, 1)
    q.detach(gone)
    other = receiver(q, 5)
    assert other.bodies == ["b"]
    clock.advance(29.9)
    assert other.bodies == ["b"]
    clock.advance(0.1)
    assert other.bodies == ["b", "a", "b"]
    assert [message.delivery_count for message in other.got[1:]] == [1, 1]
    assert refused(lambda: q.complete(gone.tokens[0])) == errors.LOCK_LOST
    q.complete(other.tokens[1])


def test_a_detached_receivers_message_can_be_settled_by_token() -> None:
    """As long as the lock lives."""
    q, _ = queue()
    q.send(messages("a"))
    consumer = receiver(q, 1)
    q.detach(consumer)
    q.complete(consumer.tokens[0])
    assert q.peek(0, 1) == []


def test_a_renewed_lock_lasts_anew() -> None:
    """From now, however often."""
    q, clock = queue(lock_seconds=30)
    q.send(messages("a", "b"))
    consumer = receiver(q, 2)
    kept, left = consumer.tokens
    for _ in range(5):
        clock.advance(20)
        assert q.renew(kept) == clock.now() + 30
    assert refused(lambda: q.complete(left)) == errors.LOCK_LOST
    clock.advance(29.9)
    assert q.locked(kept) is not None
    clock.advance(0.1)
    assert refused(lambda: q.renew(kept)) == errors.LOCK_LOST


def test_the_last_attempt_ends_among_the_dead_letters() -> None:
    """By abandoning or by losing the lock, whatever the attempt ends with."""
    q, clock = queue(max_delivery_count=2)
    q.send(messages("a", "b"))
    consumer = receiver(q, 2)
    for token in list(consumer.tokens):
        q.abandon(token)
    give(q, consumer, 2)
    q.abandon(consumer.tokens[2])
    clock.advance(60)
    assert q.counts().dead_lettered == 2
    assert q.dead_letters is not None
    reader = receiver(q.dead_letters, 5)
    assert reader.bodies == ["a", "b"]
    for message in reader.got:
        assert message.properties["DeadLetterReason"] == "MaxDeliveryCountExceeded"
        assert "2 delivery attempts" in message.properties["DeadLetterErrorDescription"]
        assert message.dead_letter_source == "q"
        assert message.delivery_count == 2


def test_dead_lettering_by_the_receiver() -> None:
    """With a reason, a description and properties, or without any."""
    q, _ = queue()
    q.send(messages("a", "b"))
    consumer = receiver(q, 2)
    q.dead_letter(consumer.tokens[1], "bad", "very bad", {"x": 1})
    q.dead_letter(consumer.tokens[0])
    assert q.dead_letters is not None
    reader = receiver(q.dead_letters, 5)
    assert reader.bodies == ["a", "b"]
    assert reader.got[0].properties == {}
    assert reader.got[1].properties == {
        "DeadLetterReason": "bad",
        "DeadLetterErrorDescription": "very bad",
        "x": 1,
    }


def test_what_a_dead_letter_queue_is_not() -> None:
    """Nothing can be sent to it, its counts don't grow, it has no dead letters of its own."""
    q, clock = queue(ttl=1000.0, max_delivery_count=2)
    q.send(messages("a"))
    q.dead_letter(receiver(q, 1).tokens[0])
    dead = q.dead_letters
    assert dead is not None
    assert dead.name == "q/$DeadLetterQueue"
    assert dead.dead_letters is None
    reader = receiver(dead, 1)
    for _ in range(5):
        dead.abandon(reader.tokens[-1])
        give(dead, reader, 1)
    clock.advance(60)
    give(dead, reader, 1)
    assert [message.delivery_count for message in reader.got] == [0] * 7
    token = reader.tokens[-1]
    assert refused(lambda: dead.dead_letter(token)) == errors.NOT_ALLOWED
    assert refused(lambda: dead.send(messages("b"))) == errors.NOT_ALLOWED
    assert refused(lambda: dead.schedule(messages("b"))) == errors.NOT_ALLOWED
    clock.advance(10_000)
    give(dead, reader, 1)
    assert reader.bodies == ["a"] * 8
    dead.complete(reader.tokens[-1])
    assert q.counts().dead_lettered == 0


def test_a_reader_of_dead_letters_may_call_into_the_queue() -> None:
    """While an abandoned message is on its way there, and while locks end."""
    q, clock = queue(max_delivery_count=1)
    q.send(messages("a", "b", "c"))
    consumer = receiver(q, 3)
    assert q.dead_letters is not None

    def settle_another(message: Stored) -> None:
        if message.bare == b"a":
            q.complete(consumer.tokens[1])

    reader = receiver(q.dead_letters, 9, then=settle_another)
    clock.advance(60)
    assert reader.bodies == ["a", "c"]
    assert consumer.bodies == ["a", "b", "c"]


def test_locks_that_end_together_are_put_back_before_any_goes_out_again() -> None:
    """Though a reader of dead letters gives more credit meanwhile."""
    q, clock = queue(max_delivery_count=2)
    q.send(messages("a", "b", "c"))
    consumer = receiver(q, 3)
    q.abandon(consumer.tokens[2])
    give(q, consumer, 1)
    q.release(consumer.tokens[0])
    give(q, consumer, 1)
    # Locked in the order b, c, a; this is c's last attempt.
    assert q.dead_letters is not None
    receiver(q.dead_letters, 5, then=lambda _: give(q, consumer, 2))
    clock.advance(60)
    assert consumer.bodies == ["a", "b", "c", "c", "a", "a", "b"]


def test_deferred_messages_are_had_by_number_only() -> None:
    """All or none; locked ones are not there."""
    q, _ = queue()
    q.send(messages("a", "b", "c"))
    consumer = receiver(q, 3)
    q.defer(consumer.tokens[0])
    q.defer(consumer.tokens[2], {"step": 2})
    give(q, consumer, 5)
    assert consumer.bodies == ["a", "b", "c"]
    assert (q.counts().deferred, q.counts().locked) == (2, 1)
    assert [message.state for message in q.peek(0, 9)] == ["deferred", "active", "deferred"]
    for wanted in ([1, 2], [1, 99], [2]):
        assert (
            refused(lambda wanted=wanted: q.receive_deferred(wanted, locks=True))
            == errors.MESSAGE_NOT_FOUND
        )
    got = q.receive_deferred([3, 1, 3], locks=True)
    assert bodies(got) == ["c", "a"]
    assert got[0].properties == {"step": 2}
    assert all(message.token and message.state == "deferred" for message in got)
    assert (q.counts().deferred, q.counts().locked) == (0, 3)
    assert refused(lambda: q.receive_deferred([1], locks=True)) == errors.MESSAGE_NOT_FOUND
    token = got[0].token
    assert token is not None
    q.complete(token)


def test_a_deferred_message_stays_deferred() -> None:
    """When it is abandoned, released or its lock ends, up to the last attempt."""
    q, clock = queue(max_delivery_count=2)
    q.send(messages("a"))
    consumer = receiver(q, 9)
    q.defer(consumer.tokens[0])

    def received() -> bytes:
        token = q.receive_deferred([1], locks=True)[0].token
        assert token is not None
        return token

    q.release(received())
    q.defer(received())
    q.abandon(received())
    assert q.counts().deferred == 1
    received()
    clock.advance(60)
    assert q.counts().dead_lettered == 1
    assert consumer.bodies == ["a"]
    assert q.dead_letters is not None
    assert q.dead_letters.peek(0, 1)[0].state == "active"


def test_a_deferred_message_received_and_deleted_is_gone() -> None:
    """Without a lock."""
    q, _ = queue()
    q.send(messages("a"))
    q.defer(receiver(q, 1).tokens[0])
    assert bodies(q.receive_deferred([1], locks=False)) == ["a"]
    assert q.peek(0, 1) == []
