"""Both behaviours of every switch that the entities ask for."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.rig import (
    START,
    Asking,
    Receiver,
    bodies,
    give,
    holder,
    messages,
    queue,
    receiver,
    refused,
)


def test_every_switch_is_documented_and_those_of_the_entities_have_a_test_here() -> None:
    """The others are the engine's, which has tests of its own."""
    here = Path(__file__)
    entities = "".join(path.read_text() for path in (here.parent / "entities").glob("*.py"))
    for each in fields(Assumptions):
        assert f"{each.name}: " in (Assumptions.__doc__ or "")
        if f"assumptions.{each.name}" in entities:
            assert f"Assumptions({each.name}=" in here.read_text()


@pytest.mark.parametrize(("keeps", "numbers"), [(True, [2, 3]), (False, [1, 2])])
def test_numbers_of_dead_letters(keeps: bool, numbers: list[int]) -> None:
    """Kept, they lie in the order they were sent; new ones are given in the order they die."""
    q, _ = queue(guesses=Assumptions(dead_letter_keeps_sequence=keeps))
    q.send(messages("a", "b", "c"))
    consumer = receiver(q, 3)
    q.dead_letter(consumer.tokens[2])
    q.dead_letter(consumer.tokens[1])
    assert q.dead_letters is not None
    dead = q.dead_letters.peek(0, 9)
    assert [message.sequence for message in dead] == numbers
    assert bodies(dead) == (["b", "c"] if keeps else ["c", "b"])
    assert {message.enqueue_sequence for message in dead} == {2, 3}
    assert receiver(q.dead_letters, 9).bodies == bodies(dead)


@pytest.mark.parametrize("counts", [False, True])
def test_whether_deferring_counts(counts: bool) -> None:
    """It never dead-letters; in a dead-letter queue it never counts."""
    q, _ = queue(guesses=Assumptions(defer_counts=counts), max_delivery_count=1)
    q.send(messages("a"))
    q.defer(receiver(q, 1).tokens[0])
    message = q.receive_deferred([1], locks=True)[0]
    assert message.delivery_count == int(counts)
    assert message.token is not None
    q.dead_letter(message.token)
    dead = q.dead_letters
    assert dead is not None
    dead.defer(receiver(dead, 1).tokens[0])
    assert dead.peek(0, 1)[0].delivery_count == int(counts)


@pytest.mark.parametrize("keeps", [False, True])
def test_whether_a_pending_receive_keeps_the_session(keeps: bool) -> None:
    """Kept, it lasts its full length from the message that ended the wait."""
    q, clock = queue(
        guesses=Assumptions(pending_receive_keeps_session=keeps), sessions=True, lock_seconds=30
    )
    consumer = holder(q, "a", 1)
    clock.advance(30)
    assert len(consumer.errors) == (not keeps)
    if not keeps:
        return
    clock.advance(29)
    q.send(messages("a1", session_id="a"))
    assert consumer.got[0].locked_until == START + 89
    clock.advance(29.9)
    assert consumer.errors == []
    clock.advance(0.1)
    assert len(consumer.errors) == 1


@pytest.mark.parametrize("keeps", [False, True])
def test_a_message_that_was_there_already_ends_no_wait(keeps: bool) -> None:
    """Asking for what is there does not renew the lock."""
    q, clock = queue(
        guesses=Assumptions(pending_receive_keeps_session=keeps), sessions=True, lock_seconds=30
    )
    q.send(messages("a1", session_id="a"))
    consumer = holder(q, "a")
    clock.advance(20)
    give(q, consumer, 1)
    clock.advance(10)
    assert len(consumer.errors) == 1


@pytest.mark.parametrize("counts", [False, True])
def test_whether_closing_a_session_counts(counts: bool) -> None:
    """As a failed attempt, which may be the last."""
    q, _ = queue(
        guesses=Assumptions(session_close_counts=counts), sessions=True, max_delivery_count=2
    )
    q.send(messages("a1", "a2", session_id="a"))
    for _ in range(2):
        q.close_session("a", holder(q, "a", 1))
    assert q.counts().dead_lettered == int(counts)
    assert [m.delivery_count for m in q.peek(0, 9)] == ([0] if counts else [0, 0])


@pytest.mark.parametrize("new", [False, True])
def test_numbers_of_scheduled_messages(new: bool) -> None:
    """A new one puts it behind, the old one in its old place."""
    q, clock = queue(guesses=Assumptions(scheduled_gets_new_sequence=new))
    q.send(messages("a"))
    q.schedule(messages("later", scheduled_for=START + 5))
    q.send(messages("b"))
    clock.advance(5)
    expected = ["a", "b", "later"] if new else ["a", "later", "b"]
    assert bodies(q.peek(0, 9)) == expected
    consumer = receiver(q, 9)
    assert consumer.bodies == expected
    later = consumer.got[expected.index("later")]
    assert (later.sequence, later.enqueue_sequence) == (4 if new else 2, 2)


@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize("promptly", [False, True])
def test_whether_messages_expire_with_nobody_receiving(promptly: bool, sessions: bool) -> None:
    """If not, they are hidden, and go when somebody comes."""
    q, clock = queue(
        guesses=Assumptions(expires_without_receivers=promptly),
        sessions=sessions,
        dead_letter_on_expiry=True,
    )
    q.send(messages("a", "b", ttl=5.0, session_id="a"))
    clock.advance(5)
    assert q.counts().dead_lettered == (2 if promptly else 0)
    assert q.peek(0, 9) == []
    consumer = Receiver("a")
    if sessions:
        asking = Asking(q)
        assert asking.granted == []
    else:
        consumer = receiver(q)
    assert q.counts().dead_lettered == 2
    q.send(messages("c", "d", ttl=5.0, session_id="a"))
    if sessions:
        q.hold("a", consumer)
    clock.advance(4)
    give(q, consumer, 1)
    clock.advance(1)
    assert consumer.bodies == ["c"]
    assert q.counts().dead_lettered == 3


@pytest.mark.parametrize("stays", [False, True])
def test_whether_a_cancelled_message_is_known_by_its_id(stays: bool) -> None:
    """If it isn't, it can be sent again, after which it is."""
    q, clock = queue(
        guesses=Assumptions(cancelled_id_stays_duplicate=stays), duplicate_window=100.0
    )
    q.cancel_scheduled(q.schedule(messages("a", scheduled_for=START + 5, message_id="1")))
    clock.advance(50)
    q.send(messages("b", message_id="1"))
    q.send(messages("c", message_id="1"))
    assert bodies(q.peek(0, 9)) == ([] if stays else ["b"])
    clock.advance(50)
    q.send(messages("d", message_id="1"))
    assert bodies(q.peek(0, 9)) == (["d"] if stays else ["b"])
    assert refused(lambda: q.complete(b"?" * 16)) == errors.LOCK_LOST
