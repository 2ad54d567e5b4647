"""The memory broker's native dialect: sessions with exclusive locks that expire, as Azure's."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import (
    MessageNotFound,
    SessionLocked,
    SessionLockLost,
    SessionNotFound,
    Unsupported,
)
from pipeline.message import Message, to_row
from pipeline.providers.port import DeadLetter, Depth, Want
from tests.unit.memory_rig import Hand, Rig, column, kinds, texts


def native(**given: Any) -> Rig:
    """A broker with a queue of sessions."""
    return Rig(fifo=True, **given)


async def take(hand: Hand, **want: Any) -> list[str]:
    """Receive exactly what is wanted and say what came."""
    return texts(await hand.broker.receive(hand.lane, Want(**{"messages": 100, **want})))


@pytest.mark.spec("P11")
async def test_a_receive_opens_free_sessions_with_messages() -> None:
    """Up to `new_sessions`, the longest waiting first, up to `per_session` of each."""
    rig = native()
    await rig.send("a", "b", "a", "c", "a", "b")
    lane = await rig.lane()
    got = await lane.receive(new_sessions=2, per_session=2)
    assert texts(got) == ["1", "3", "2", "6"]
    first, second = column(got, "holding")[::2]
    assert [(h.number, h.session, h.seconds) for h in got.opened] == [
        (first, "a", 300.0),
        (second, "b", 300.0),
    ]
    assert first < second
    assert got.others_wait
    assert got.seconds == float("inf")
    assert column(got, "holding") == [first, first, second, second]


@pytest.mark.spec("P11", "F5")
async def test_a_receive_brings_of_held_sessions_what_it_names() -> None:
    """So many of each; of one that it doesn't name, nothing; and nothing new unless asked."""
    rig = native()
    await rig.send("a", "b", "a", "b", "a", "b", "c")
    lane = await rig.lane()
    await lane.receive(new_sessions=2, per_session=1)
    a, b = lane.held["a"], lane.held["b"]
    assert await take(lane, held={a: 1}) == ["3"]
    assert await take(lane, held={a: 0, b: 5}) == ["4", "6"]
    assert await take(lane) == []
    assert await take(lane, held={999: 5}) == []
    assert await take(lane, held={a: 5}, new_sessions=1, messages=1) == ["5"]
    assert await take(lane, held={a: 5}, new_sessions=1, messages=1) == ["7"]


@pytest.mark.spec("P11", "F5")
async def test_a_receive_keeps_to_its_bytes() -> None:
    """The message that crosses the limit may come; none after it, of whatever session."""
    rig = native()
    for session in "aaabb":
        await rig.put(rig.message(session, body=b"x" * 10))
    lane = await rig.lane()
    assert len(await take(lane, bytes=15, new_sessions=9)) == 2
    assert len(await take(lane, bytes=1, new_sessions=9)) == 1
    assert await take(lane, bytes=0, new_sessions=9) == []
    assert await take(lane, messages=0, new_sessions=9) == []
    assert await take(lane, per_session=0, new_sessions=9) == []


@pytest.mark.spec("P11", "F3")
async def test_a_held_session_is_the_holders_alone() -> None:
    """Others get neither what waits in it nor what comes in later; what is in hand comes once."""
    rig = native()
    await rig.send("a", "a")
    lane, other = await rig.lane(), await rig.lane()
    assert await lane.bodies(1) == ["1"]
    await rig.send("a", "b")
    got = await other.receive()
    assert texts(got) == ["4"]
    assert not got.others_wait
    assert await lane.bodies() == ["2", "3"]
    assert await lane.bodies() == []


@pytest.mark.spec("P11", "P14")
async def test_a_session_given_back_comes_again_uncounted() -> None:
    """Its unsettled messages in front, under a higher holding; old receipts are void."""
    rig = native()
    await rig.send("a", "a", "a")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive(2)
    await rig.broker.complete(lane.lane, got.receipts[:1])
    number = lane.held.pop("a")
    assert await rig.broker.release_sessions(lane.lane, [number]) == {}
    again = await other.receive()
    assert texts(again) == ["2", "3"]
    assert column(again, "delivery_count") == [1, 1]
    assert other.held["a"] > number
    assert kinds(await rig.broker.complete(lane.lane, got.receipts[1:])) == {0: "MessageNotFound"}
    failures = await rig.broker.release_sessions(lane.lane, [number, other.held["a"]])
    assert kinds(failures) == {0: "SessionNotFound", 1: "SessionNotFound"}


@pytest.mark.spec("P11", "P13", "P14")
async def test_a_session_lock_ends() -> None:
    """Its messages come again to others, counted; the holder is told in every way."""
    rig = native(visibility=30.0)
    await rig.send("a", "a", "b")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive(new_sessions=1, per_session=1)
    number = lane.held["a"]
    await asyncio.sleep(30)
    again = await other.receive()
    assert texts(again) == ["3", "1", "2"]  # b waited longer
    assert column(again, "delivery_count") == [1, 2, 1]
    assert kinds(await rig.broker.complete(lane.lane, got.receipts)) == {0: "MessageLockLost"}
    failures = await rig.broker.release_sessions(lane.lane, [number])
    assert kinds(failures) == {0: "SessionLockLost"}
    failures = (await rig.broker.renew_sessions(lane.lane, [number])).failures
    assert kinds(failures) == {0: "SessionLockLost"}
    with pytest.raises(SessionLockLost):
        await rig.broker.session_state(lane.lane, number)
    with pytest.raises(SessionLockLost):
        await rig.broker.set_session_state(lane.lane, number, b"x")
    assert (await rig.counters()).lock_lost == 1


@pytest.mark.spec("P13")
async def test_a_renewed_session_is_kept() -> None:
    """Those named, from now; message locks are not renewed one by one here."""
    rig = native(visibility=30.0)
    await rig.send("a", "b")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive()
    await asyncio.sleep(20)
    renewed = await rig.broker.renew_sessions(lane.lane, [lane.held["a"], 999])
    assert renewed.seconds == 30.0
    assert kinds(renewed.failures) == {1: "SessionNotFound"}
    with pytest.raises(Unsupported, match="renew_sessions"):
        await rig.broker.renew(lane.lane, got.receipts)
    await asyncio.sleep(25)
    assert await other.bodies() == ["2"]
    assert await rig.broker.complete(lane.lane, got.receipts[:1]) == {}
    await asyncio.sleep(6)
    await rig.send("a")
    assert await other.bodies() == ["3"]


@pytest.mark.spec("P2", "P11")
async def test_locked_until_is_the_sessions() -> None:
    """A message received late in a holding has the holding's lock, not a new one."""
    rig = native(visibility=30.0)
    await rig.send("a", "a")
    start = rig.clock.now()
    lane = await rig.lane()
    await lane.receive(1)
    await asyncio.sleep(20)
    got = await lane.receive()
    assert column(got, "locked_until") == [pytest.approx(start + 30)]


@pytest.mark.spec("P2", "P11")
async def test_a_named_session_can_be_accepted_while_it_is_empty() -> None:
    """Its messages come to the holder; a second accepter is refused, the holder as well."""
    rig = native()
    lane, other = await rig.lane(), await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    assert (held.session, held.seconds) == ("a", 300.0)
    for hand in (other, lane):
        with pytest.raises(SessionLocked):
            await rig.broker.accept(hand.lane, "a", 5)
    assert asyncio.get_running_loop().time() == pytest.approx(10)
    await rig.send("a")
    assert await other.bodies() == []
    assert await take(lane, held={held.number: 5}) == ["1"]


@pytest.mark.spec("P2", "P11")
async def test_a_named_session_with_messages_is_accepted_before_others_get_it() -> None:
    """It isn't free any more, and its messages wait for the accepter."""
    rig = native()
    await rig.send("a", "b")
    lane, other = await rig.lane(), await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    assert await other.bodies() == ["2"]
    assert await take(lane, held={held.number: 5}) == ["1"]


@pytest.mark.spec("P2", "P11")
async def test_a_second_accepter_gets_the_session_when_it_is_let_go() -> None:
    """Within its wait, whether it was given back or its lock ended."""
    rig = native(visibility=30.0)
    lane, other = await rig.lane(), await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    waiting = asyncio.create_task(rig.broker.accept(other.lane, "a", 60))
    await asyncio.sleep(10)
    await rig.broker.release_sessions(lane.lane, [held.number])
    second = await waiting
    assert second.number > held.number
    third = await rig.broker.accept(lane.lane, "a", 60)
    assert third.number > second.number
    assert asyncio.get_running_loop().time() == pytest.approx(40)


@pytest.mark.spec("P2", "P11")
async def test_the_next_free_session_is_accepted() -> None:
    """The one with messages that waited longest; none within the wait is `SessionNotFound`."""
    rig = native()
    lane = await rig.lane()
    await rig.send("b", "a")
    assert (await rig.broker.accept(lane.lane, None, 0)).session == "b"
    assert (await rig.broker.accept(lane.lane, None, 0)).session == "a"
    with pytest.raises(SessionNotFound, match="within 5 s"):
        await rig.broker.accept(lane.lane, None, 5)
    waiting = asyncio.create_task(rig.broker.accept(lane.lane, None, 5))
    await asyncio.sleep(1)
    await rig.send("c")
    assert (await waiting).session == "c"


@pytest.mark.spec("P2", "P11")
async def test_a_session_keeps_state() -> None:
    """From one holding to the next, without messages, until it is set to None."""
    rig = native()
    lane, other = await rig.lane(), await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    assert await rig.broker.session_state(lane.lane, held.number) is None
    await rig.broker.set_session_state(lane.lane, held.number, b"x")
    await rig.broker.release_sessions(lane.lane, [held.number])
    again = await rig.broker.accept(other.lane, "a", 0)
    assert await rig.broker.session_state(other.lane, again.number) == b"x"
    with pytest.raises(SessionNotFound):
        await rig.broker.session_state(lane.lane, again.number)
    await rig.broker.set_session_state(other.lane, again.number, None)
    await rig.broker.release_sessions(other.lane, [again.number])
    last = await rig.broker.accept(lane.lane, "a", 0)
    assert await rig.broker.session_state(lane.lane, last.number) is None


@pytest.mark.spec("P2", "P11")
async def test_a_session_with_state_is_not_free_without_messages() -> None:
    """`accept(None)` and receives pass over it."""
    rig = native()
    lane = await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    await rig.broker.set_session_state(lane.lane, held.number, b"x")
    await rig.broker.release_sessions(lane.lane, [held.number])
    with pytest.raises(SessionNotFound):
        await rig.broker.accept(lane.lane, None, 0)
    await rig.send("a")
    assert await lane.bodies() == ["1"]


@pytest.mark.spec("P11", "F5")
async def test_sessions_used_once_leave_nothing_behind() -> None:
    """Completed, dead-lettered, expired or merely accepted: the broker forgets them."""
    rig = native(time_to_live=60.0, on_expiry="drop")
    lane = await rig.lane()
    for number in range(50):
        await rig.send(f"s{number}")
        got = await lane.receive()
        if number % 2:
            await rig.broker.complete(lane.lane, got.receipts)
        else:
            await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")])
        await rig.broker.release_sessions(lane.lane, [lane.held.popitem()[1]])
        held = await rig.broker.accept(lane.lane, f"t{number}", 0)
        await rig.broker.release_sessions(lane.lane, [held.number])
        await rig.send(f"u{number}")
        await asyncio.sleep(60)
    sessions = rig.broker._queues["q"].queue.native
    assert sessions is not None
    assert len(sessions._sessions) == 0
    assert len(sessions._free) == 0


@pytest.mark.spec("P11")
async def test_a_message_that_expires_in_a_held_session_does_not_come() -> None:
    """The holder keeps the session, and what is sent into it later comes."""
    rig = native()
    lane = await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    await rig.send("a", "a", time_to_live=10.0)
    await asyncio.sleep(10)
    assert await take(lane, held={held.number: 5}) == []
    await rig.send("a")
    assert await take(lane, held={held.number: 5}) == ["3"]


@pytest.mark.spec("P2", "F3")
async def test_a_deferred_message_needs_its_session() -> None:
    """Who doesn't hold it is told so; under the holding it comes with its number."""
    rig = native()
    await rig.send("a")
    lane, other = await rig.lane(), await rig.lane()
    await rig.broker.defer(lane.lane, (await lane.receive()).receipts)
    with pytest.raises(MessageNotFound, match="accept the session first"):
        await rig.broker.receive_deferred(other.lane, [1])
    await rig.broker.release_sessions(lane.lane, [lane.held["a"]])
    with pytest.raises(MessageNotFound, match="accept the session first"):
        await rig.broker.receive_deferred(lane.lane, [1])
    held = await rig.broker.accept(other.lane, "a", 0)
    got = await rig.broker.receive_deferred(other.lane, [1])
    assert column(got, "holding") == [held.number]
    await rig.broker.release_sessions(other.lane, [held.number])
    assert await rig.depth() == Depth(0, 0, 0, 1, 0, None)


@pytest.mark.spec("P11", "F5")
async def test_held_sessions_come_round_in_turn() -> None:
    """A full session does not keep the others from being served."""
    rig = native()
    await rig.send(*["a"] * 10, *["b"] * 10)
    lane = await rig.lane()
    await lane.receive(2, per_session=1)
    seen = [column(await lane.receive(1), "session")[0] for _ in range(6)]
    assert seen == ["a", "b", "a", "b", "a", "b"]


@pytest.mark.spec("P11")
async def test_others_wait_is_told_in_an_empty_answer_too() -> None:
    """So that a receiver that has no room for more knows that it could let go of some."""
    rig = native()
    lane = await rig.lane()
    assert not (await lane.receive()).others_wait
    await rig.broker.send("q", [to_row(Message(b"1", session="a"))])
    got = await lane.receive(new_sessions=0)
    assert len(got.batch) == 0
    assert got.others_wait


@pytest.mark.spec("P2", "P4")
@pytest.mark.parametrize("sessions", ["groups", "none"])
async def test_the_other_dialects_lock_no_sessions(sessions: str) -> None:
    """Each operation says so, and what would."""
    rig = Rig(fifo=True, sessions=sessions)
    await rig.send("a")
    lane = await rig.lane()
    broker, number = rig.broker, lane.lane
    for call in (
        broker.accept(number, "a", 5),
        broker.release_sessions(number, [1]),
        broker.renew_sessions(number, [1]),
        broker.session_state(number, 1),
        broker.set_session_state(number, 1, b""),
    ):
        with pytest.raises(Unsupported, match="sessions: native"):
            await call


@pytest.mark.spec("P11")
async def test_dead_letters_of_sessions_are_not_locked_as_sessions() -> None:
    """Two lanes read two dead letters of one session at once."""
    rig = native()
    await rig.send("a", "a")
    lane = await rig.lane()
    got = await lane.receive()
    await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")] * 2)
    one, two = await rig.lane(dead_letters=True), await rig.lane(dead_letters=True)
    first, second = await one.receive(1), await two.receive(1)
    assert texts(first) + texts(second) == ["1", "2"]
    assert (first.opened, first.others_wait, first.seconds) == ((), False, 300.0)
    assert column(first, "holding")[0] < column(second, "holding")[0]


@pytest.mark.spec("P11", "F5")
async def test_a_session_that_is_never_empty_remembers_little_of_what_it_had() -> None:
    """However many of its messages were handled since it was opened."""
    rig = native()
    lane = await rig.lane()
    await rig.send("s", "s")
    before = await lane.receive()
    session = rig.broker._queues["q"].queue.sessions("a test").find("s")
    for _ in range(500):
        await rig.send("s", "s")
        got = await lane.receive()
        assert await rig.broker.complete(lane.lane, before.receipts) == {}
        before = got
        assert len(session.hand) < 100
    assert session.out == 2
    await rig.broker.release_sessions(lane.lane, [lane.held["s"]])
    assert (session.out, session.hand) == (0, [])
    assert await (await rig.lane()).bodies() == ["1001", "1002"]


@pytest.mark.spec("P11", "P14")
async def test_sessions_that_are_released_together_come_again_each_in_order() -> None:
    """With what was in hand of each, without what was settled; a second time they are unknown."""
    rig = native()
    await rig.send("a", "b", "a", "b", "a", "b", "c")
    lane = await rig.lane()
    got = await lane.receive()
    by_body = dict(zip(texts(got), got.receipts, strict=True))
    await rig.broker.complete(lane.lane, [by_body["1"], by_body["4"], by_body["7"]])
    numbers = [lane.held["b"], lane.held["c"], lane.held["a"], lane.held["b"]]
    failures = await rig.broker.release_sessions(lane.lane, numbers)
    assert {at: type(error) for at, error in failures.items()} == {3: SessionNotFound}
    assert (await rig.depth()).in_hand == 0
    again = await (await rig.lane()).receive()
    found = list(zip(column(again, "session"), texts(again), strict=True))
    assert [body for session, body in found if session == "a"] == ["3", "5"]
    assert [body for session, body in found if session == "b"] == ["2", "6"]
    assert len(found) == 4
