"""Turns: so many at once, in the order they came, and none lost to whoever is cancelled."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.client.lanes import Turns


async def hold(turns: Turns, seconds: float, log: list[object], name: object) -> None:
    async with turns.turn() as mine:
        assert mine
        log.append(name)
        await asyncio.sleep(seconds)


@pytest.mark.spec("P7")
async def test_turns_go_round_in_order() -> None:
    """Two at once; the third and the fourth follow as they came."""
    turns, log = Turns(2), list[object]()
    tasks = [asyncio.create_task(hold(turns, 1 + n / 10, log, n)) for n in range(4)]
    await asyncio.sleep(0.5)
    assert log == [0, 1]
    await asyncio.gather(*tasks)
    assert log == [0, 1, 2, 3]
    async with turns.turn(0) as first, turns.turn(0) as second, turns.turn(0) as third:
        assert (first, second, third) == (True, True, False)


@pytest.mark.spec("P7", "F5")
async def test_who_waited_in_vain_is_forgotten() -> None:
    """Nothing is kept of them, and the turn goes to those who still wait."""
    turns, log = Turns(1), list[object]()
    holder = asyncio.create_task(hold(turns, 10, log, "holder"))
    await asyncio.sleep(0)
    for _ in range(100):
        async with turns.turn(0.01) as mine:
            assert not mine
    assert len(turns._waiting) == 0
    patient = asyncio.create_task(hold(turns, 1, log, "patient"))
    await holder
    await patient
    assert log == ["holder", "patient"]


@pytest.mark.spec("P2", "P7")
@pytest.mark.parametrize("steps", range(4))
async def test_a_turn_that_comes_to_a_cancelled_task_goes_on(steps: int) -> None:
    """Cancelled while it waits, at the very moment, or after: the next one gets it."""
    turns, log = Turns(1), list[object]()
    holder = asyncio.create_task(hold(turns, 1, log, "holder"))
    await asyncio.sleep(0)
    cancelled = asyncio.create_task(hold(turns, 100, log, "cancelled"))
    await asyncio.sleep(0)
    after = asyncio.create_task(hold(turns, 1, log, "after"))
    await asyncio.sleep(1)  # the holder's end comes in this very step
    for _ in range(steps):
        await asyncio.sleep(0)
    cancelled.cancel()
    await asyncio.wait([holder, cancelled, after], timeout=5)
    assert after.done()
    assert log[-1] == "after"


@pytest.mark.spec("P7")
async def test_a_turn_and_the_end_of_the_wait_at_once() -> None:
    """Whichever is first counts; the turn isn't lost."""
    turns, log = Turns(1), list[object]()
    holder = asyncio.create_task(hold(turns, 1, log, "holder"))
    await asyncio.sleep(0)
    async with turns.turn(1) as mine:
        log.append(mine)
    await holder
    async with turns.turn(0) as mine:
        assert mine


@pytest.mark.spec("P2", "P7")
async def test_a_cancellation_and_the_end_of_the_wait_at_once() -> None:
    """Cancelled in the very step in which the wait ends, it is cancelled."""
    turns, log = Turns(1), list[object]()
    holder = asyncio.create_task(hold(turns, 10, log, "holder"))

    async def wait() -> None:
        async with turns.turn(1):
            log.append("never")

    waiting = asyncio.create_task(wait())
    asyncio.get_running_loop().call_later(1, waiting.cancel)  # before the wait's own timer
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    await holder
    assert log == ["holder"]
