"""The memory broker's groups dialect: a group is blocked while one of its messages is in hand."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.providers.port import DeadLetter
from tests.unit.memory_rig import Rig, column, texts


def groups(**given: Any) -> Rig:
    """A broker with a queue of message groups, as SQS FIFO."""
    return Rig(fifo=True, sessions="groups", **{"count": "on_receive", **given})


@pytest.mark.spec("P11", "F3")
async def test_a_group_is_blocked_while_a_message_is_in_hand() -> None:
    """For everyone, until all that one receive brought are settled; other groups go on."""
    rig = groups()
    await rig.send("a", "a", "a", "b")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive(2, per_session=2)
    assert texts(got) == ["1", "2"]
    assert await other.bodies() == ["4"]
    await rig.broker.complete(lane.lane, got.receipts[:1])
    assert await lane.bodies() == []
    await rig.broker.complete(lane.lane, got.receipts[1:])
    assert await other.bodies() == ["3"]


@pytest.mark.spec("P11", "F5")
async def test_one_receive_brings_several_of_several_groups() -> None:
    """Up to `per_session` of each, in order, those first that waited longest."""
    rig = groups()
    await rig.send("a", "b", "a", "b", "a", "c")
    lane = await rig.lane()
    got = await lane.receive(per_session=2)
    assert texts(got) == ["1", "3", "2", "4", "6"]
    assert len(set(column(got, "holding"))) == 1
    await rig.broker.complete(lane.lane, got.receipts)
    again = await lane.receive(per_session=0)
    assert texts(again) == []
    again = await lane.receive()
    assert texts(again) == ["5"]
    assert column(again, "holding")[0] > column(got, "holding")[0]


@pytest.mark.spec("P11", "F5")
async def test_a_receive_keeps_to_its_bounds() -> None:
    """In messages and in bytes; a group of which nothing was taken is not blocked."""
    rig = groups()
    for session in "aabb":
        await rig.put(rig.message(session, body=b"x" * 10))
    lane, other = await rig.lane(), await rig.lane()
    assert len(await lane.bodies(bytes=15)) == 2
    assert len(await other.bodies(1)) == 1
    assert await lane.bodies() == []


@pytest.mark.spec("P11", "P14", "F3")
@pytest.mark.parametrize("how", ["release", "abandon", "expire"])
async def test_the_head_comes_first_again(how: str) -> None:
    """However it was given back; the later one of the receive was completed meanwhile."""
    rig = groups(visibility=30.0)
    await rig.send("a", "a", "a")
    lane = await rig.lane()
    got = await lane.receive(2)
    await rig.broker.complete(lane.lane, got.receipts[1:])
    if how == "expire":
        await asyncio.sleep(30)
    else:
        await getattr(rig.broker, how)(lane.lane, got.receipts[:1])
    again = await lane.receive()
    assert texts(again) == ["1", "3"]
    assert column(again, "delivery_count") == [2, 1]


@pytest.mark.spec("P11", "F3")
async def test_what_was_given_back_waits_for_the_rest_of_its_receive() -> None:
    """The head is released while a later one is still in hand: neither comes yet."""
    rig = groups()
    await rig.send("a", "a", "a")
    lane = await rig.lane()
    got = await lane.receive(2)
    await rig.broker.release(lane.lane, got.receipts[:1])
    assert await lane.bodies() == []
    await rig.broker.release(lane.lane, got.receipts[1:])
    assert await lane.bodies() == ["1", "2", "3"]


@pytest.mark.spec("P11", "P14")
async def test_a_head_delivered_too_often_lets_its_group_go_on() -> None:
    """It is dead-lettered, and the next one comes."""
    rig = groups(max_deliveries=1)
    await rig.send("a", "a")
    lane = await rig.lane()
    got = await lane.receive(1)
    await rig.broker.release(lane.lane, got.receipts)
    assert await lane.bodies() == ["2"]
    assert (await rig.depth()).dead_lettered == 1


@pytest.mark.spec("P11", "M2")
async def test_messages_that_expire_in_a_group() -> None:
    """Those that wait end, whether the group is free or blocked; the one in hand is not touched."""
    rig = groups(time_to_live=10.0, on_expiry="drop")
    await rig.send("a", "a", "b")
    lane = await rig.lane()
    got = await lane.receive(1, per_session=1)
    await asyncio.sleep(10)
    assert (await rig.depth()).available == 0
    await rig.send("a")
    assert await lane.bodies() == []
    await rig.broker.complete(lane.lane, got.receipts)
    assert await lane.bodies() == ["4"]


@pytest.mark.spec("P11", "F3", "P14")
async def test_a_head_that_is_given_back_for_later_keeps_its_group_waiting() -> None:
    """Only its own group; when it expires meanwhile, those behind it go on."""
    rig = groups()
    await rig.put(rig.message("a", time_to_live=20.0))
    await rig.send("a", "b")
    lane = await rig.lane()
    got = await lane.receive(1, per_session=1)
    await rig.broker.release(lane.lane, got.receipts, 10.0)
    assert (await rig.depth()).scheduled == 1
    assert await lane.bodies() == ["3"]
    await asyncio.sleep(10)
    again = await lane.receive(1)
    assert column(again, "sequence") == [1]
    await rig.broker.release(lane.lane, again.receipts, 60.0)
    assert await lane.bodies() == []
    await asyncio.sleep(10)
    assert await lane.bodies() == ["2"]
    assert (await rig.depth()).dead_lettered == 1


@pytest.mark.spec("P2", "F3")
async def test_a_deferred_message_in_hand_blocks_its_group() -> None:
    """As any other in hand would, also when nothing of the group waited meanwhile."""
    rig = groups()
    await rig.send("a")
    lane = await rig.lane()
    await rig.broker.defer(lane.lane, (await lane.receive()).receipts)
    got = await rig.broker.receive_deferred(lane.lane, [1])
    await rig.send("a")
    assert await lane.bodies() == []
    await rig.broker.complete(lane.lane, got.receipts)
    assert await lane.bodies() == ["2"]


@pytest.mark.spec("P11", "F5")
async def test_groups_used_once_leave_nothing_behind() -> None:
    """Completed, dead-lettered or expired: the broker forgets them."""
    rig = groups(time_to_live=60.0, on_expiry="drop")
    lane = await rig.lane()
    for number in range(50):
        await rig.send(f"s{number}")
        got = await lane.receive()
        if number % 2:
            await rig.broker.complete(lane.lane, got.receipts)
        else:
            await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")])
        await rig.send(f"u{number}")
        await asyncio.sleep(60)
    order = rig.broker._queues["q"].queue._order
    assert len(order._groups) == 0  # type: ignore[attr-defined]
    assert len(order._ready) == 0  # type: ignore[attr-defined]
