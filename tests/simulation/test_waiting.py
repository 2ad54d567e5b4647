"""A receive that waits never waits for less than could be had: no stall until its wait is over.

The time is the virtual loop's, so that it is exact: a stall shows as a whole wait.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.errors import ConnectionFailed
from pipeline.handlers.api import Context, Retry, handler
from pipeline.message import Message
from pipeline.providers.port import Receiver
from pipeline.slots import slot_of
from pipeline.testing.flow import Flow, FlowSettings

WAIT = 1_000.0
SLOW = 0.2
"""Seconds of one message: more than a part of a run, so that rows end one by one."""


@handler
async def slow(body: bytes) -> None:
    """Take some time."""
    await asyncio.sleep(SLOW)


class Watched:
    """A receiver whose `end_wait` is counted, or fails."""

    def __init__(self, inner: Receiver, *, fails: bool) -> None:
        self._inner = inner
        self._fails = fails
        self.ended = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def end_wait(self) -> None:
        """Count, then do it or fail."""
        self.ended += 1
        if self._fails:
            raise ConnectionFailed("cut")
        await self._inner.end_wait()


async def seconds(names: list[str], *, fails: bool = False, **settings: Any) -> tuple[float, int]:
    """How long the messages take, one for each session named, and how many waits were ended."""
    loop = asyncio.get_running_loop()
    watched: list[Watched] = []

    def watch(receiver: Receiver) -> Any:
        watched.append(Watched(receiver, fails=fails))
        return watched[-1]

    flow = Flow(
        slow,
        FlowSettings(
            queue=MemoryQueue(connection="m", fifo=True), wait=WAIT, source=watch, **settings
        ),
        SeededClock(loop.time, 1),
    )
    await flow.send([Message(session.encode(), session=session) for session in names])
    began = loop.time()
    async with flow:
        await flow.settled()
        took = loop.time() - began
    return took, watched[0].ended


@pytest.mark.spec("F5")
async def test_a_session_that_had_its_share_goes_on_as_rows_of_it_end() -> None:
    """One session may hold a quarter of the credit; the rest is asked for when a row ends."""
    count = 40
    took, ended = await seconds(["hot"] * count, messages=16)
    assert ended > 0
    assert took < count * SLOW + 5


@pytest.mark.spec("F5")
async def test_one_full_slot_does_not_hold_its_sessions_up() -> None:
    """A slot may hold half of the credit; its sessions are asked for more when rows of it end."""
    names = [name for name in (f"s{n}" for n in range(2_000)) if slot_of(name) == slot_of("s0")][:8]
    count = 8
    took, _ = await seconds([name for _ in range(count) for name in names], messages=16)
    assert took < count * len(names) * SLOW + 5


@pytest.mark.spec("F5")
async def test_with_every_place_taken_others_follow_as_sessions_end() -> None:
    """More sessions than are held at once, each with one message: none waits for a time-out."""
    took, _ = await seconds([f"s{n}" for n in range(60)], sessions=4, messages=64)
    assert took < 60 / 4 * (SLOW + 0.3) + 5


@pytest.mark.spec("P2")
async def test_a_wait_that_can_not_be_ended_loses_nothing() -> None:
    """The call fails: the messages come when the wait is over, each once."""
    took, ended = await seconds(["hot"] * 12, fails=True, messages=16)
    assert ended > 0
    assert took >= WAIT


async def others_done(count: int, bodies: list[tuple[str, bytes]], **settings: Any) -> float:
    """How long until so many were handled; a body `fails` is retried after half a wait."""
    handled = asyncio.Semaphore(0)

    @handler
    async def first_fails(body: bytes, context: Context) -> Retry | None:
        await asyncio.sleep(SLOW)
        if body == b"fails" and context.attempt == 1:
            return Retry(WAIT / 2)
        handled.release()
        return None

    loop = asyncio.get_running_loop()
    flow = Flow(
        first_fails,
        FlowSettings(
            queue=MemoryQueue(connection="m", fifo=True), wait=WAIT, hold=WAIT, **settings
        ),
        SeededClock(loop.time, 1),
    )
    await flow.send([Message(body, session=session) for session, body in bodies])
    began = loop.time()
    async with flow:
        for _ in range(count):
            await handled.acquire()
        return loop.time() - began


@pytest.mark.spec("F5")
async def test_one_session_stops_as_another_has_room_again() -> None:
    """As many sessions may bring more as before, but not the same: the other one is asked."""
    count = 12
    took = await others_done(count, [("f", b"fails"), *[("hot", b"hot")] * count], messages=16)
    assert took < count * SLOW + 5


@pytest.mark.spec("F5")
async def test_sessions_that_wait_for_their_retry_leave_their_places_at_once() -> None:
    """All places are taken by them: the others come without any row having ended."""
    stopped = [(f"f{n}", b"fails") for n in range(4)]
    took = await others_done(
        8, [*stopped, *((f"s{n}", b"x") for n in range(8))], sessions=4, messages=64
    )
    assert took < 8 * SLOW + 5


@pytest.mark.spec("F6")
async def test_a_close_waits_for_the_call_that_ends_a_wait() -> None:
    """The provider's receiver is closed after it, not under it."""
    answered: list[float] = []

    class Late(Watched):
        async def end_wait(self) -> None:
            await asyncio.sleep(100)
            answered.append(asyncio.get_running_loop().time())

        async def close(self) -> None:
            assert answered
            await self._inner.close()

    loop = asyncio.get_running_loop()
    flow = Flow(
        slow,
        FlowSettings(
            queue=MemoryQueue(connection="m", fifo=True),
            wait=WAIT,
            messages=16,
            source=lambda receiver: Late(receiver, fails=False),
        ),
        SeededClock(loop.time, 1),
    )
    await flow.send([Message(b"x", session="hot") for _ in range(12)])
    async with flow:
        await asyncio.sleep(10 * SLOW)
    assert len(answered) == 1
