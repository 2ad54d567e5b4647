"""A topic: each subscription gets a copy of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.rig import START, bodies, messages, receiver, refused
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.topic import Topic


def topic(**changes: object) -> tuple[Topic, ManualClock]:
    """One named `t`, at START."""
    clock = ManualClock(START)
    return Topic("t", replace(Settings(), **changes), clock), clock


def test_every_subscription_gets_a_copy() -> None:
    """With its own number, lock and fate; the topic's number stays with all."""
    t, _ = topic()
    one = t.subscribe("one")
    t.send(messages("a"))
    two = t.subscribe("two")
    t.send(messages("b", annotations={"x": 1}))
    assert one.name == "t/Subscriptions/one"
    first, second = receiver(one, 9), receiver(two, 9)
    assert (first.bodies, second.bodies) == (["a", "b"], ["b"])
    assert [message.sequence for message in first.got + second.got] == [1, 2, 1]
    assert [message.enqueue_sequence for message in first.got + second.got] == [1, 2, 2]
    assert first.got[1].annotations == second.got[0].annotations == {"x": 1}
    assert first.got[1].annotations is not second.got[0].annotations
    two.dead_letter(second.tokens[0], "bad")
    assert first.got[1].properties == {}
    assert two.dead_letters is not None
    assert two.dead_letters.peek(0, 1)[0].dead_letter_source == "t/Subscriptions/two"
    assert two.dead_letters.name == "t/Subscriptions/two/$DeadLetterQueue"
    one.complete(first.tokens[1])


def test_scheduled_messages_wait_in_the_topic() -> None:
    """And go to whoever subscribes at their time."""
    t, clock = topic()
    assert t.schedule(messages("a", "b", scheduled_for=START + 5)) == [1, 2]
    t.send(messages("c", scheduled_for=START + 6))
    one = t.subscribe("one")
    t.cancel_scheduled([1])
    assert refused(lambda: t.cancel_scheduled([1])) == errors.MESSAGE_NOT_FOUND
    assert t.scheduled_count() == 2
    assert one.peek(0, 9) == []
    clock.advance(6)
    assert bodies(one.peek(0, 9)) == ["b", "c"]
    assert [message.state for message in one.peek(0, 9)] == ["active", "active"]
    assert t.scheduled_count() == 0


def test_the_least_time_to_live_holds() -> None:
    """Of the message, the topic and the subscription."""
    t, clock = topic(ttl=10.0)
    one, two = t.subscribe("one", Settings(ttl=5.0)), t.subscribe("two")
    t.send(messages("a"))
    assert [each.peek(0, 1)[0].ttl for each in (one, two)] == [5.0, 10.0]
    clock.advance(5)
    assert (len(one.peek(0, 1)), len(two.peek(0, 1))) == (0, 1)


def test_limits_and_duplicates_are_the_topics() -> None:
    """All or none, for all subscriptions."""
    t, _ = topic(duplicate_window=10.0, max_message_bytes=3)
    one = t.subscribe("one")
    assert refused(lambda: t.send(messages("a", "bbbb", message_id="1"))) == errors.TOO_LARGE
    t.send(messages("a", "b", message_id="1"))
    assert bodies(one.peek(0, 9)) == ["a"]
    t.set_enabled(False)
    assert refused(lambda: t.send(messages("c"))) == errors.DISABLED


def test_a_subscription_with_sessions_buries_what_has_none() -> None:
    """With the documented reason."""
    t, _ = topic()
    one = t.subscribe("one", Settings(sessions=True))
    t.send([*messages("a"), *messages("b", session_id="s")])
    t.send(messages("c"))
    assert bodies(one.peek(0, 9)) == ["b"]
    assert one.dead_letters is not None
    dead = one.dead_letters.peek(0, 9)
    assert bodies(dead) == ["a", "c"]
    assert dead[0].properties["DeadLetterReason"] == "Session ID is null"
    numbers = [message.sequence for message in [*dead, *one.peek(0, 9)]]
    assert len(set(numbers)) == 3


def test_names_are_told_apart_whatever_their_case() -> None:
    """And one that isn't there can't be removed."""
    t, _ = topic()
    t.subscribe("One")
    with pytest.raises(ValueError, match="one"):
        t.subscribe("one")
    t.unsubscribe("One")
    assert refused(lambda: t.unsubscribe("One")) == errors.NOT_FOUND
    t.subscribe("one")
