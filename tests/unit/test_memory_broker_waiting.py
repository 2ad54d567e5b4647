"""Those who wait at the memory broker: served at once, fairly, and without losing anything."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import Closed, SessionLocked, SessionNotFound
from pipeline.providers.port import DeadLetter, Want
from tests.unit.memory_rig import Rig, texts


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


@pytest.mark.spec("P2", "P11")
@pytest.mark.parametrize("sessions", ["native", "groups", "none"])
async def test_a_receive_waits_for_the_first_message(sessions: str) -> None:
    """It returns the moment there is one, and empty when its wait is over."""
    rig = Rig(fifo=True, sessions=sessions)
    lane = await rig.lane()
    assert await lane.bodies(wait=20) == []
    assert now() == pytest.approx(20)
    waiting = asyncio.create_task(lane.bodies(wait=20))
    await asyncio.sleep(5)
    await rig.send("a", "a")
    assert await waiting == ["1", "2"]
    assert now() == pytest.approx(25)


@pytest.mark.spec("P11")
async def test_who_waited_longest_is_served_first() -> None:
    """And then waits behind the others."""
    rig = Rig()
    lanes = [await rig.lane() for _ in range(3)]
    order: list[int] = []

    async def poll(number: int) -> None:
        while len(order) < 9:
            got = await lanes[number].receive(1, wait=100)
            order.append(number)
            await rig.broker.complete(lanes[number].lane, got.receipts)

    polls = [asyncio.create_task(poll(number)) for number in range(3)]
    for _ in range(9):
        await asyncio.sleep(1)
        await rig.send(None)
    await asyncio.sleep(0)
    assert order == [0, 1, 2] * 3
    for task in polls:
        task.cancel()
    await asyncio.gather(*polls, return_exceptions=True)


@pytest.mark.spec("P11")
async def test_one_send_serves_all_who_can_be_served() -> None:
    """One message each, and one waits on."""
    rig = Rig()
    lanes = [await rig.lane() for _ in range(3)]
    polls = [asyncio.create_task(lane.bodies(1, wait=30)) for lane in lanes]
    await asyncio.sleep(1)
    await rig.send(None, None)
    assert await asyncio.gather(*polls) == [["1"], ["2"], []]


@pytest.mark.spec("P11")
async def test_a_receive_that_can_get_nothing_keeps_nobody_from_anything() -> None:
    """The first waits for a session it holds; the second gets the one that is sent."""
    rig = Rig(fifo=True)
    lane, other = await rig.lane(), await rig.lane()
    held = await rig.broker.accept(lane.lane, "a", 0)
    first = asyncio.create_task(
        rig.broker.receive(lane.lane, Want(messages=9, wait=30, held={held.number: 9}))
    )
    second = asyncio.create_task(other.bodies(wait=30))
    await asyncio.sleep(1)
    await rig.send("b")
    assert await second == ["1"]
    assert not first.done()
    await rig.send("a")
    assert texts(await first) == ["2"]


@pytest.mark.spec("P11")
async def test_what_is_given_back_or_freed_serves_those_who_wait() -> None:
    """A release, a settled group, a session let go, a closed lane: without a new send."""
    rig = Rig(fifo=True, sessions="groups")
    await rig.send("a", "a", "a", "a")
    lane, other = await rig.lane(), await rig.lane()
    for expected, settle in ((["2"], "complete"), (["2"], "release"), (["2"], "close_lane")):
        got = await lane.receive(1)
        waiting = asyncio.create_task(other.receive(1, wait=30))
        await asyncio.sleep(1)
        if settle == "close_lane":
            await rig.broker.close_lane(lane.lane)
        else:
            await getattr(rig.broker, settle)(lane.lane, got.receipts)
        came = await waiting
        assert texts(came) == expected
        await rig.broker.release(other.lane, came.receipts)


@pytest.mark.spec("P2")
@pytest.mark.parametrize("sessions", ["native", "groups", "none"])
async def test_an_ended_poll_returns_at_once_with_nothing(sessions: str) -> None:
    """Only that one: another of the lane waits on; a poll that isn't there is no error."""
    rig = Rig(fifo=True, sessions=sessions)
    lane = await rig.lane()
    staying = asyncio.create_task(lane.bodies(wait=30, poll=1))
    ending = asyncio.create_task(lane.bodies(wait=30, poll=2))
    await asyncio.sleep(5)
    await rig.broker.end_poll(lane.lane, 2)
    await rig.broker.end_poll(lane.lane, 2)
    assert await ending == []
    assert now() == pytest.approx(5)
    assert not staying.done()
    await rig.send("a")
    assert await staying == ["1"]


@pytest.mark.spec("P2")
async def test_a_poll_that_ended_before_it_arrived_takes_nothing() -> None:
    """Calls to an actor may overtake one another."""
    rig = Rig(fifo=True)
    lane = await rig.lane()
    await rig.send("a")
    await rig.broker.end_poll(lane.lane, 7)
    assert await lane.bodies(wait=30, poll=7) == []
    await rig.broker.end_poll(lane.lane, 8)
    with pytest.raises(SessionNotFound):
        await rig.broker.accept(lane.lane, None, 30, 8)
    await rig.broker.end_poll(lane.lane, 9)
    with pytest.raises(SessionLocked):
        await rig.broker.accept(lane.lane, "a", 30, 9)
    assert now() == 0
    assert await lane.bodies(wait=30, poll=10) == ["1"]


@pytest.mark.spec("P2", "F2")
@pytest.mark.parametrize("sessions", ["native", "groups", "none"])
async def test_a_cancelled_receive_gives_back_what_it_was_served(sessions: str) -> None:
    """Cancelled while it waits, or in the very moment between being served and returning."""
    rig = Rig(fifo=True, sessions=sessions)
    lane, other = await rig.lane(), await rig.lane()
    waiting = asyncio.create_task(lane.receive(wait=30))
    await asyncio.sleep(1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await rig.send("a", "a")
    assert await other.bodies() == ["1", "2"]
    waiting = asyncio.create_task(lane.receive(wait=30))
    await asyncio.sleep(1)
    await rig.send("b")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await other.bodies() == ["3"]
    assert (await rig.depth()).in_hand == 3


@pytest.mark.spec("P2", "F2")
async def test_a_cancelled_accept_gives_back_what_it_was_granted() -> None:
    """Cancelled while it waits, or between being granted and returning."""
    rig = Rig(fifo=True)
    lane, other = await rig.lane(), await rig.lane()
    for send_first in (False, True):
        waiting = asyncio.create_task(rig.broker.accept(lane.lane, None, 30))
        await asyncio.sleep(1)
        if send_first:
            await rig.send("a")
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert await other.bodies() == ["1"]


@pytest.mark.spec("P2", "F2")
async def test_a_receive_cancelled_after_its_lane_was_closed_gives_nothing_back_twice() -> None:
    """It was served, the lane was closed, somebody else has the session: that one keeps it."""
    rig = Rig(fifo=True)
    lane, other = await rig.lane(), await rig.lane()
    waiting = asyncio.create_task(lane.receive(wait=30))
    await asyncio.sleep(1)
    await rig.send("a")
    await rig.broker.close_lane(lane.lane)
    got = await other.receive()
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert await rig.broker.complete(other.lane, got.receipts) == {}
    assert (await rig.broker.renew_sessions(other.lane, list(other.held.values()))).failures == {}


@pytest.mark.spec("P2")
async def test_closing_a_lane_ends_its_polls() -> None:
    """They raise `Closed`; those of other lanes wait on."""
    rig = Rig(fifo=True)
    lane, other = await rig.lane(), await rig.lane()
    polls = [
        asyncio.create_task(lane.receive(wait=30)),
        asyncio.create_task(rig.broker.accept(lane.lane, None, 30)),
    ]
    staying = asyncio.create_task(other.bodies(wait=30))
    await asyncio.sleep(1)
    await rig.broker.close_lane(lane.lane)
    for poll in polls:
        with pytest.raises(Closed):
            await poll
    await rig.send("a")
    assert await staying == ["1"]


@pytest.mark.spec("P2", "F2")
async def test_a_poll_cancelled_when_its_lane_was_closed_is_simply_cancelled() -> None:
    """It brought an error, which nobody waits for."""
    rig = Rig()
    lane = await rig.lane()
    waiting = asyncio.create_task(lane.receive(wait=30))
    await asyncio.sleep(1)
    await rig.broker.close_lane(lane.lane)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.spec("P11")
async def test_time_alone_serves_those_who_wait() -> None:
    """A lock's end, a scheduled message's time, an expiry: one timer serves all."""
    rig = Rig(visibility=40.0)
    lane, dead = await rig.lane(), await rig.lane(dead_letters=True)
    await rig.send(None)
    await rig.send(None, not_before=rig.later(20))
    await rig.send(None, not_before=rig.later(10))
    await rig.send(None, not_before=rig.later(20), time_to_live=50.0)
    await lane.receive()
    seen = []
    for _ in range(3):
        got = await lane.receive(wait=100)
        seen.append((round(now()), texts(got)))
        await rig.broker.complete(lane.lane, got.receipts[:1])
    assert seen == [(10, ["3"]), (20, ["2", "4"]), (40, ["1"])]
    assert await dead.bodies(wait=15) == []
    await asyncio.sleep(6)
    assert (await rig.counters()).lock_lost == 2
    assert await dead.bodies(wait=20) == ["4"]
    assert now() == pytest.approx(70)


@pytest.mark.spec("P11")
async def test_dead_lettering_serves_those_who_wait_for_dead_letters() -> None:
    """And not those who wait at the queue."""
    rig = Rig()
    lane, dead = await rig.lane(), await rig.lane(dead_letters=True)
    await rig.send(None)
    got = await lane.receive()
    waiting, idle = (asyncio.create_task(hand.bodies(wait=30)) for hand in (dead, lane))
    await asyncio.sleep(1)
    await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")])
    assert await waiting == ["1"]
    assert now() == pytest.approx(1)
    assert await idle == []
