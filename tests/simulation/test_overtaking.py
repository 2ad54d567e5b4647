"""Rows that might overtake others of their session, and must not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.errors import SessionLockLost
from pipeline.handlers.api import Retry, handler
from pipeline.message import Message
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.providers.port import Received, Receiver, Renewed, Want
from pipeline.stages.calls import Header, NoAnswer
from pipeline.stages.router import RouterCore
from pipeline.testing.flow import Flow, FlowSettings, Wire


class Losing(Wire):
    """The first call with these rows is lost on its way."""

    def __init__(self, core: Any, lost: bytes) -> None:
        super().__init__(core)
        self._lost = lost

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        if self._lost and self._lost in batch.values("body"):
            self._lost = b""
            raise NoAnswer("lost")
        return await super().run(header, batch)


@pytest.mark.spec("F3", "F7")
@pytest.mark.parametrize("to", ["router", "handler"])
async def test_rows_behind_a_call_that_was_lost_are_not_handled_before_its_rows(to: str) -> None:
    """They are in calls of their own, which wait for the lost one: they come back with its rows."""
    log: list[str] = []

    @handler
    async def note(body: str) -> None:
        log.append(body)

    loop = asyncio.get_running_loop()
    flow = Flow(
        note,
        FlowSettings(
            queue=MemoryQueue(connection="m", fifo=True),
            wire=lambda core: Losing(
                core, b"1" if isinstance(core, RouterCore) == (to == "router") else b""
            ),
        ),
        SeededClock(loop.time, 1),
    )
    async with flow:
        for number in range(6):
            await flow.send([Message(str(number).encode(), session="s")])
            await asyncio.sleep(0.01)
        await flow.settled()
    assert log == [str(number) for number in range(6)]


@pytest.mark.spec("F3")
async def test_rows_that_come_as_a_turn_begins_go_behind_those_that_wait() -> None:
    """A receive ends in the same pass of the loop in which a session's next turn begins."""
    loop = asyncio.get_running_loop()
    first: asyncio.Future[Part] = loop.create_future()
    gate: asyncio.Future[None] = loop.create_future()
    gate.set_result(None)
    runs: list[list[str]] = []

    class Router:
        async def run(self, header: Header, batch: MessageBatch) -> Part:
            runs.append([body.decode() for body in batch.values("body")])
            return await first if len(runs) == 1 else Part(list(range(len(batch))), last=True)

    class Gated:
        def __init__(self, inner: Receiver) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def receive(self, want: Want) -> Received:
            received = await self._inner.receive(want)
            await gate
            return received

    flow = Flow(
        handler(lambda context: None),
        FlowSettings(
            queue=MemoryQueue(connection="m", fifo=True),
            source=Gated,
            wire=lambda core: Router() if isinstance(core, RouterCore) else core,
        ),
        SeededClock(loop.time, 1),
    )
    await flow.send([Message(body, session="s") for body in (b"0", b"1")])
    async with flow:
        await asyncio.sleep(1)
        gate = loop.create_future()
        await flow.send([Message(b"2", session="s")])
        await asyncio.sleep(1)
        others = [Outcome(0, Kind.RETRY, delay=0.0), Outcome(1, Kind.RELEASED)]
        first.set_result(Part(others=others, last=True))
        gate.set_result(None)
        await flow.settled()
    assert [body for run in runs for body in run] == ["0", "1", "0", "1", "2"]


@pytest.mark.spec("F3", "P13")
async def test_rows_of_a_session_that_was_lost_while_they_came_are_not_handled() -> None:
    """The receive was answered before the lock ended, and heard after: others have them now."""
    log: list[str] = []

    @handler
    async def note(body: str) -> Retry | None:
        log.append(body)
        return Retry(25.0) if log == ["0"] else None

    class Late:
        """Hears of the second message late, and never of a renewal."""

        def __init__(self, inner: Receiver) -> None:
            self._inner = inner
            self._late = True

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        async def receive(self, want: Want) -> Received:
            received = await self._inner.receive(want)
            if self._late and b"1" in received.batch.values("body"):
                self._late = False
                await asyncio.sleep(35.0)
            return received

        async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:
            lost = SessionLockLost("gone")
            return Renewed(0.0, dict.fromkeys(range(len(holdings)), lost))

    loop = asyncio.get_running_loop()
    flow = Flow(
        note,
        FlowSettings(queue=MemoryQueue(connection="m", fifo=True, visibility=30.0), source=Late),
        SeededClock(loop.time, 1),
    )
    async with flow:
        await flow.send([Message(b"0", session="s"), Message(b"free", session="t")])
        await asyncio.sleep(1.0)
        await flow.send([Message(b"1", session="s"), Message(b"too", session="t")])
        await flow.settled()
    assert [body for body in log if body in "01"] == ["0", "0", "1"]
    assert sorted(log) == ["0", "0", "1", "free", "too"]
