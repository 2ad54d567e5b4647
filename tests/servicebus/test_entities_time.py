"""What time does to messages: they become active, and they expire."""

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


def test_a_scheduled_message_becomes_active_at_its_time() -> None:
    """With a new number, behind what was sent before, and delivered to who waits."""
    q, clock = queue(ttl=100.0)
    consumer = receiver(q, 9)
    q.send(messages("later", scheduled_for=START + 10))
    assert q.schedule(messages("sooner", scheduled_for=START + 5)) == [2]
    q.send(messages("now"))
    assert consumer.bodies == ["now"]
    assert q.counts().scheduled == 2
    waiting = q.peek(0, 9)
    assert [message.state for message in waiting] == ["scheduled", "scheduled", "active"]
    assert waiting[0].expires_at is None
    clock.advance(9.9)
    assert consumer.bodies == ["now", "sooner"]
    clock.advance(0.1)
    assert consumer.bodies == ["now", "sooner", "later"]
    later = consumer.got[2]
    assert (later.state, later.sequence, later.enqueue_sequence) == ("active", 5, 1)
    assert (later.enqueued_at, later.expires_at) == (START + 10, START + 110)
    assert later.scheduled_for == START + 10


def test_a_time_that_has_passed_is_now() -> None:
    """Sent or scheduled, and without a time too."""
    q, _ = queue()
    q.send(messages("a", scheduled_for=START))
    assert q.schedule([*messages("b", scheduled_for=START - 1), *messages("c")]) == [2, 3]
    assert [message.state for message in q.peek(0, 9)] == ["active"] * 3
    assert [message.sequence for message in q.peek(0, 9)] == [1, 2, 3]


def test_scheduled_messages_can_be_taken_back() -> None:
    """All of those named or none, and none that is active."""
    q, clock = queue()
    numbers = q.schedule(messages("a", "b", "c", scheduled_for=START + 10))
    assert refused(lambda: q.cancel_scheduled([1, 99])) == errors.MESSAGE_NOT_FOUND
    q.cancel_scheduled([numbers[0], numbers[2], numbers[0]])
    assert refused(lambda: q.cancel_scheduled([1])) == errors.MESSAGE_NOT_FOUND
    clock.advance(10)
    assert bodies(q.peek(0, 9)) == ["b"]
    assert refused(lambda: q.cancel_scheduled([2])) == errors.MESSAGE_NOT_FOUND


def test_a_scheduled_duplicate_gets_a_number_for_nothing() -> None:
    """Its id counts from when it was scheduled."""
    q, clock = queue(duplicate_window=100.0)
    later = {"scheduled_for": START + 10, "message_id": "1"}
    assert q.schedule([*messages("a", **later), *messages("b", **later)]) == [1, 2]
    q.send(messages("c", message_id="1"))
    assert q.counts().scheduled == 1
    assert refused(lambda: q.cancel_scheduled([2])) == errors.MESSAGE_NOT_FOUND
    clock.advance(10)
    assert bodies(q.peek(0, 9)) == ["a"]


def test_what_is_scheduled_becomes_active_in_a_disabled_queue() -> None:
    """It is delivered when the queue is enabled."""
    q, clock = queue()
    consumer = receiver(q, 1)
    q.schedule(messages("a", scheduled_for=START + 10))
    q.set_enabled(False)
    clock.advance(10)
    assert (q.counts().active, consumer.got) == (1, [])
    q.set_enabled(True)
    assert consumer.bodies == ["a"]


@pytest.mark.parametrize(
    ("own", "of_queue", "left"),
    [(None, None, None), (5.0, None, 5.0), (None, 8.0, 8.0), (5.0, 8.0, 5.0), (9.0, 8.0, 8.0)],
)
def test_the_lesser_time_to_live_holds(
    own: float | None, of_queue: float | None, left: float | None
) -> None:
    """The message's or the queue's, and the message says which."""
    q, clock = queue(ttl=of_queue)
    q.send(messages("a", ttl=own))
    message = q.peek(0, 1)[0]
    assert message.ttl == left
    assert message.expires_at == (None if left is None else START + left)
    clock.advance(left or 1e9)
    assert len(q.peek(0, 1)) == (left is None)


def test_an_expired_message_is_dropped() -> None:
    """Wherever it stands in line, with nobody receiving."""
    q, clock = queue()
    q.send(messages("a"))
    q.send(messages("b", ttl=5.0))
    q.send(messages("c"))
    clock.advance(5)
    assert q.counts().active == 2
    assert receiver(q, 9).bodies == ["a", "c"]
    assert q.counts().dead_lettered == 0


def test_an_expired_message_is_dead_lettered_where_that_is_set() -> None:
    """At its time, so that somebody who waits for dead letters gets it."""
    q, clock = queue(dead_letter_on_expiry=True)
    assert q.dead_letters is not None
    reader = receiver(q.dead_letters, 9)
    q.send(messages("a", "b", ttl=5.0))
    clock.advance(5)
    assert reader.bodies == ["a", "b"]
    assert reader.got[0].properties["DeadLetterReason"] == "TTLExpiredException"
    assert reader.got[0].expires_at is None
    assert reader.got[0].dead_letter_source == "q"


def test_a_locked_message_does_not_expire() -> None:
    """It can be completed after its time; put back, it expires at once."""
    q, clock = queue(lock_seconds=10)
    q.send(messages("a", "b", "c", "d", ttl=5.0))
    consumer = receiver(q, 4)
    clock.advance(6)
    assert q.counts().locked == 4
    assert len(q.peek(0, 9)) == 4
    give(q, consumer, 9)
    q.complete(consumer.tokens[0])
    q.abandon(consumer.tokens[1])
    q.release(consumer.tokens[2])
    assert bodies(q.peek(0, 9)) == ["d"]
    clock.advance(4)
    assert q.peek(0, 9) == []
    assert consumer.bodies == ["a", "b", "c", "d"]


def test_the_last_attempt_counts_before_the_time_to_live() -> None:
    """A message whose last attempt fails after its time is dead-lettered for the attempts."""
    q, clock = queue(max_delivery_count=1)
    q.send(messages("a", ttl=5.0))
    consumer = receiver(q, 1)
    clock.advance(6)
    q.abandon(consumer.tokens[0])
    assert q.counts().dead_lettered == 1


@pytest.mark.parametrize("dead_lettered", [False, True])
def test_a_deferred_message_expires_when_it_is_asked_for(dead_lettered: bool) -> None:
    """As documented: not before, then it is not found."""
    q, clock = queue(dead_letter_on_expiry=dead_lettered)
    q.send(messages("a", "b", ttl=5.0))
    consumer = receiver(q, 2)
    q.defer(consumer.tokens[0])
    q.defer(consumer.tokens[1])
    clock.advance(100)
    assert bodies(q.peek(0, 9)) == ["a", "b"]
    assert refused(lambda: q.receive_deferred([1], locks=True)) == errors.MESSAGE_NOT_FOUND
    assert bodies(q.peek(0, 9)) == ["b"]
    assert q.counts().dead_lettered == dead_lettered


def test_a_late_timer_delivers_nothing_that_has_expired() -> None:
    """Loops are late; what is delivered is looked at."""
    q, clock = queue()
    q.send(messages("a", ttl=5.0))
    clock._now += 6
    q.send(messages("b"))
    assert q.peek(0, 9)[0].bare == b"b"
    assert receiver(q, 9).bodies == ["b"]
    clock.advance(1)
    assert q.counts().locked == 1
