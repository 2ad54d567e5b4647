"""What a receiver makes of rows of an ordered queue that came without a session."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from pipeline import Context, handler
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.message import Message
from pipeline.providers.port import Received, Receiver, Want
from pipeline.testing.flow import Flow, FlowSettings


class Nameless:
    """A receiver whose rows lack their session.

    Args:
        real: the provider's.
    """

    def __init__(self, real: Receiver) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def receive(self, want: Want) -> Received:
        """What comes, without any name; every other row in a batch of several."""
        got = await self._real.receive(want)
        names = [
            None if at % 2 == 0 else name for at, name in enumerate(got.batch.values("session"))
        ]
        return replace(got, batch=got.batch.with_columns(session=names))


@pytest.mark.spec("F3", "P10")
@pytest.mark.parametrize(
    ("dialect", "named"), [("native", {"a"}), ("groups", {"", "a"})], ids=["held", "groups"]
)
async def test_a_row_without_a_session_ends_no_receiver(dialect: Any, named: set[str]) -> None:
    """It is of the session that is held, or else of one with an empty name."""
    seen: list[tuple[str, bytes]] = []

    @handler
    async def note(body: bytes, context: Context) -> None:
        seen.append((str(context.delivery.session), body))

    settings = FlowSettings(
        queue=MemoryQueue(connection="main", fifo=True, sessions=dialect),
        source=Nameless,  # type: ignore[arg-type]
    )
    async with Flow(note, settings, SeededClock(asyncio.get_running_loop().time)) as flow:
        await flow.send([Message(body, session="a") for body in (b"1", b"2", b"3")])
        await flow.settled()
        flow.check()
    assert sorted(body for _, body in seen) == [b"1", b"2", b"3"]
    assert {session for session, _ in seen} == named
