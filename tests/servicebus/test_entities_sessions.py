"""A queue with sessions: who holds which, for how long, in what order, and their state."""

from __future__ import annotations

import pytest

from tests.servicebus.entities import errors
from tests.servicebus.entities.queue import Queue
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
from tests.servicebus.entities.stored import Stored


def send(q: Queue, *named: str) -> None:
    """Messages named by session and number: `a1` is one of session a."""
    q.send([Stored(bare=name.encode(), session_id=name[0]) for name in named])


def test_a_message_without_a_session_is_refused() -> None:
    """And so is a receiver without one; and one with, where there are none."""
    q, _ = queue(sessions=True)
    assert refused(lambda: q.send(messages("a"))) == errors.NOT_ALLOWED
    assert refused(lambda: q.attach(Receiver())) == errors.NOT_ALLOWED
    q.detach(Receiver())
    q.ready(Receiver())
    asking = Asking(queue()[0], "a")
    asking.waiting.cancel()
    assert asking.refused == [errors.NOT_ALLOWED]
    assert q.expire_locks() == 0


def test_a_session_is_received_by_its_holder_in_order() -> None:
    """What is there and what comes, of this session only."""
    q, _ = queue(sessions=True)
    send(q, "a1", "b1", "a2")
    consumer = holder(q, "a", 3)
    assert consumer.bodies == ["a1", "a2"]
    send(q, "b2", "a3", "a4")
    assert consumer.bodies == ["a1", "a2", "a3"]
    assert consumer.got[0].locked_until == START + 60
    assert q.counts().active == 3


def test_a_held_session_is_granted_to_nobody_else() -> None:
    """Until it is closed; a session without messages can be held too."""
    q, _ = queue(sessions=True)
    consumer = holder(q, "a")
    assert Asking(q, "a").refused == [errors.SESSION_HELD]
    q.close_session("a", consumer)
    asking = Asking(q, "a")
    assert asking.granted == [("a", START + 60)]
    q.close_session("a", None)
    assert Asking(q, "a").refused == []


def test_the_next_session_is_the_one_that_has_waited_longest() -> None:
    """Of those with messages that nobody holds; one that was let go of goes to the end."""
    q, _ = queue(sessions=True)
    send(q, "a1", "b1", "c1")
    second = holder(q, "b")
    assert Asking(q).granted[0][0] == "a"
    q.close_session("b", second)
    send(q, "d1")
    assert [Asking(q).granted[0][0] for _ in range(3)] == ["c", "b", "d"]
    assert Asking(q).granted == []


def test_who_waits_for_the_next_session_gets_it_in_turn() -> None:
    """When one gets messages or is let go of."""
    q, _ = queue(sessions=True)
    first, gone, second = Asking(q), Asking(q), Asking(q)
    gone.waiting.cancel()
    send(q, "a1")
    assert [first.granted, gone.granted, second.granted] == [[("a", START + 60)], [], []]
    send(q, "a2", "a3")
    assert second.granted == []
    consumer = Receiver("a")
    q.hold("a", consumer)
    give(q, consumer, 1)
    q.close_session("a", consumer)
    assert second.granted == [("a", START + 60)]
    second.waiting.cancel()
    assert gone.refused == []


def test_waiting_ends_at_its_time() -> None:
    """With a refusal; who was granted something is not refused later."""
    q, clock = queue(sessions=True)
    brief, patient = Asking(q, timeout=5), Asking(q, timeout=10)
    clock.advance(5)
    assert (brief.refused, patient.refused) == ([errors.TIMEOUT], [])
    send(q, "a1")
    assert patient.granted
    clock.advance(10)
    assert patient.refused == []
    assert brief.granted == []
    assert len(clock._heap) <= 2


def test_granted_inside_and_served_at_once() -> None:
    """The engine holds the session and gives credit from inside the call."""
    q, _ = queue(sessions=True)
    made: list[Receiver] = []

    def granted(name: str, until: float) -> None:
        made.append(Receiver(name))
        q.hold(name, made[-1])
        give(q, made[-1], 5)

    for _ in range(2):
        q.accept(None, granted, pytest.fail, 10)
    send(q, "a1", "b1", "a2")
    assert [consumer.bodies for consumer in made] == [["a1", "a2"], ["b1"]]


def test_closing_puts_back_what_is_unsettled_without_counting() -> None:
    """In its place, for the next holder; the old tokens are lost."""
    q, _ = queue(sessions=True)
    send(q, "a1", "a2", "a3")
    consumer = holder(q, "a", 2)
    q.close_session("a", consumer)
    assert refused(lambda: q.complete(consumer.tokens[0], "a")) == errors.SESSION_LOST
    other = holder(q, "a", 9)
    assert other.bodies == ["a1", "a2", "a3"]
    assert [message.delivery_count for message in other.got] == [0, 0, 0]
    q.close_session("a", consumer)
    assert refused(lambda: q.complete(consumer.tokens[0], "a")) == errors.LOCK_LOST
    assert refused(lambda: q.complete(consumer.tokens[0])) == errors.SESSION_LOST
    q.complete(other.tokens[0])
    assert consumer.errors == []


def test_a_session_whose_lock_ends_is_lost_to_its_holder() -> None:
    """Its unsettled messages have failed an attempt; the next in line gets it."""
    q, clock = queue(sessions=True, lock_seconds=30)
    send(q, "a1", "a2")
    consumer = holder(q, "a", 1)
    waiting = Asking(q)
    clock.advance(29)
    assert consumer.errors == []
    clock.advance(1)
    assert [error.condition for error in consumer.errors] == [errors.SESSION_LOST]
    assert waiting.granted == [("a", START + 60)]
    other = Receiver("a")
    q.hold("a", other)
    give(q, other, 9)
    assert other.bodies == ["a1", "a2"]
    assert [message.delivery_count for message in other.got] == [1, 0]
    give(q, consumer, 9)
    assert consumer.bodies == ["a1"]


def test_a_renewed_session_is_kept() -> None:
    """From now on for its full length; renewing a message's lock is not allowed."""
    q, clock = queue(sessions=True, lock_seconds=30)
    send(q, "a1")
    consumer = holder(q, "a", 1)
    for _ in range(5):
        clock.advance(20)
        assert q.renew_session("a") == clock.now() + 30
    assert refused(lambda: q.renew(consumer.tokens[0])) == errors.NOT_ALLOWED
    q.complete(consumer.tokens[0])
    clock.advance(30)
    assert refused(lambda: q.renew_session("a")) == errors.SESSION_LOST
    assert refused(lambda: q.hold("a", consumer)) == errors.SESSION_LOST
    assert len(consumer.errors) == 1


def test_the_last_attempt_in_a_session() -> None:
    """By losing the lock too, it ends among the dead letters, which have no sessions."""
    q, clock = queue(sessions=True, max_delivery_count=2)
    send(q, "a1", "a2")
    consumer = holder(q, "a", 1)
    q.abandon(consumer.tokens[0])
    give(q, consumer, 1)
    clock.advance(60)
    assert q.counts().dead_lettered == 1
    assert q.dead_letters is not None
    reader = receiver(q.dead_letters, 5)
    assert reader.bodies == ["a1"]
    assert reader.got[0].session_id == "a"
    assert bodies(q.peek(0, 9)) == ["a2"]


def test_a_reader_of_dead_letters_cannot_make_a_session_go_out_of_order() -> None:
    """Whatever it calls while the session's messages are put back."""
    q, clock = queue(sessions=True, max_delivery_count=2)
    send(q, "a1", "a2", "a3")
    consumer = holder(q, "a", 3)
    q.abandon(consumer.tokens[2])
    give(q, consumer, 1)
    q.release(consumer.tokens[0])
    give(q, consumer, 1)
    # Locked in the order a2, a3, a1; this is a3's last attempt.
    made = Receiver("a")

    def granted(name: str, until: float) -> None:
        q.hold(name, made)
        give(q, made, 9)

    def ask(message: Stored) -> None:
        q.accept(None, granted, pytest.fail, 10)

    assert q.dead_letters is not None
    reader = receiver(q.dead_letters, 5, then=ask)
    clock.advance(60)
    assert reader.bodies == ["a3"]
    assert made.bodies == ["a1", "a2"]


def test_a_deserted_session_stays_locked_until_its_lock_ends() -> None:
    """As when a connection breaks and nobody notices."""
    q, clock = queue(sessions=True)
    send(q, "a1")
    consumer = holder(q, "a", 5)
    q.desert_session("a", Receiver("a"))
    q.desert_session("a", consumer)
    send(q, "a2")
    assert consumer.bodies == ["a1"]
    assert Asking(q, "a").refused == [errors.SESSION_HELD]
    q.complete(consumer.tokens[0])
    clock.advance(60)
    assert consumer.errors == []
    assert holder(q, "a", 5).bodies == ["a2"]


def test_deferred_messages_of_a_session() -> None:
    """Only for its holder, by number; they stay with the session."""
    q, _ = queue(sessions=True)
    send(q, "a1", "b1")
    consumer = holder(q, "a", 1)
    q.defer(consumer.tokens[0])
    holder(q, "b", 1)

    def get(session: str | None, *sequences: int) -> list[Stored]:
        return q.receive_deferred(list(sequences), locks=True, session=session)

    assert refused(lambda: get(None, 1)) == errors.NOT_ALLOWED
    assert refused(lambda: get("c", 1)) == errors.SESSION_LOST
    assert refused(lambda: get("b", 1)) == errors.MESSAGE_NOT_FOUND
    assert bodies(get("a", 1)) == ["a1"]
    q.close_session("a", consumer)
    assert q.counts().deferred == 1
    assert refused(lambda: get("a", 1)) == errors.SESSION_LOST
    assert q.list_sessions(None, 0, 9) == ["a", "b"]
    again = holder(q, "a", 5)
    assert again.got == []
    assert bodies(q.receive_deferred([1], locks=False, session="a")) == ["a1"]
    q.close_session("a", again)
    assert q.list_sessions(None, 0, 9) == ["b"]


def test_a_sessions_state_outlives_its_messages() -> None:
    """And its lock; None clears it."""
    q, clock = queue(sessions=True)
    assert q.get_state("a") is None
    q.set_state("a", None)
    assert q.list_sessions(None, 0, 9) == []
    q.set_state("a", b"half done")
    clock.advance(1000)
    assert q.get_state("a") == b"half done"
    assert q.list_sessions(None, 0, 9) == ["a"]
    q.set_state("a", b"")
    assert q.get_state("a") == b""
    q.set_state("a", None)
    assert q.get_state("a") is None
    assert q.list_sessions(None, 0, 9) == []


def test_sessions_are_listed_by_pages() -> None:
    """All with messages or state, or those whose state was set since."""
    q, clock = queue(sessions=True)
    send(q, "c1", "a1", "b1")
    holder(q, "e")
    q.set_state("d", b"x")
    assert q.list_sessions(None, 0, 9) == ["a", "b", "c", "d"]
    assert q.list_sessions(None, 1, 2) == ["b", "c"]
    clock.advance(10)
    q.set_state("b", b"y")
    assert q.list_sessions(START + 5, 0, 9) == ["b"]
    assert q.list_sessions(START - 1, 0, 9) == ["b", "d"]


def test_peeking_one_session() -> None:
    """Held by another or not."""
    q, _ = queue(sessions=True)
    send(q, "a1", "b1", "a2")
    holder(q, "a", 1)
    assert bodies(q.peek(0, 9, "a")) == ["a1", "a2"]
    assert bodies(q.peek(2, 9, "a")) == ["a2"]
    assert bodies(q.peek(0, 9)) == ["a1", "b1", "a2"]


def test_a_session_whose_messages_have_expired_is_not_the_next() -> None:
    """At their time, or found so by who asks when timers are late."""
    q, clock = queue(sessions=True)
    q.send(messages("a1", session_id="a", ttl=5.0))
    clock.advance(5)
    q.send(messages("b1", session_id="b", ttl=5.0))
    clock._now += 6
    asking = Asking(q)
    assert asking.granted == []
    send(q, "c1")
    assert [name for name, _ in asking.granted] == ["c"]
    consumer = holder(q, "d", 1)
    q.send(messages("d1", "d2", session_id="d", ttl=5.0))
    clock._now += 6
    give(q, consumer, 1)
    assert consumer.bodies == ["d1"]


def test_a_session_that_ran_empty_has_lost_its_turn() -> None:
    """When its messages expire, it waits anew from the next that comes."""
    q, clock = queue(sessions=True)
    send(q, "a1")
    consumer = holder(q, "a", 1)
    q.defer(consumer.tokens[0])
    q.close_session("a", consumer)
    q.send(messages("a2", session_id="a", ttl=5.0))
    clock.advance(5)
    send(q, "b1", "a3")
    assert [Asking(q).granted[0][0] for _ in range(2)] == ["b", "a"]


def test_locks_of_sessions_can_be_ended_at_once() -> None:
    """Of all, whether their receivers wait or not."""
    q, clock = queue(sessions=True)
    send(q, "a1")
    first, second = holder(q, "a", 1), holder(q, "b", 1)
    assert q.expire_session_locks() == 2
    assert [len(first.errors), len(second.errors)] == [1, 1]
    assert q.expire_session_locks() == 0
    assert holder(q, "a", 1).got[0].delivery_count == 1
    clock.advance(59)
    assert q.counts().locked == 1


def test_one_that_loses_its_session_may_close_another() -> None:
    """While all are ended."""
    q, _ = queue(sessions=True)
    send(q, "a1", "b1")
    first, second = holder(q, "a", 1), holder(q, "b", 1)
    first.lost = lambda error: q.close_session("b", second)
    assert q.expire_session_locks() == 1
    assert second.errors == []
    assert [message.delivery_count for message in q.peek(0, 9)] == [1, 0]


def test_a_consumer_may_close_its_session_inside_a_delivery() -> None:
    """It gets nothing more, and what it had goes back."""
    q, _ = queue(sessions=True)
    send(q, "a1", "a2")
    consumer = Receiver("a", then=lambda _: q.close_session("a", consumer))
    assert Asking(q, "a").granted
    q.hold("a", consumer)
    give(q, consumer, 9)
    assert consumer.bodies == ["a1"]
    assert holder(q, "a", 9).bodies == ["a1", "a2"]


def test_receive_and_delete_in_a_session() -> None:
    """It is gone, and so is the session when it is let go of."""
    q, _ = queue(sessions=True)
    send(q, "a1")
    consumer = holder(q, "a", 1, locks=False)
    assert consumer.bodies == ["a1"]
    q.close_session("a", consumer)
    assert q._outlet._sessions == {}


def test_a_disabled_queue_grants_nothing() -> None:
    """Who waits goes on waiting; who asks is refused."""
    q, _ = queue(sessions=True)
    waiting = Asking(q)
    consumer = holder(q, "b", 1)
    q.set_enabled(False)
    assert Asking(q).refused == [errors.DISABLED]
    q.set_enabled(True)
    send(q, "a1", "b1")
    assert waiting.granted
    assert consumer.bodies == ["b1"]


def test_sessions_leave_nothing_behind() -> None:
    """However many come and go."""
    q, clock = queue(sessions=True)
    for number in range(2000):
        name = f"s{number}"
        q.send(messages("x", session_id=name))
        asking = Asking(q)
        assert asking.granted[0][0] == name
        consumer = Receiver(name)
        q.hold(name, consumer)
        give(q, consumer, 1)
        q.complete(consumer.tokens[0])
        q.close_session(name, consumer)
        clock.advance(0.01)
    assert q._outlet._sessions == {}
    assert len(q._outlet._locks) < 300
    assert len(clock._heap) < 100
