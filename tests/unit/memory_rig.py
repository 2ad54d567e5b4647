"""A memory broker on the virtual loop, and short ways of saying what a test does with it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.message import Message, to_row
from pipeline.providers.memory import Counters, MemoryBroker
from pipeline.providers.memory.calls import BrokerReceived, BrokerSent
from pipeline.providers.port import Depth, Want


def settings(**given: Any) -> MemoryQueue:
    """The settings of a queue, as a configuration would have them."""
    return MemoryQueue(connection="main", **given)


class Rig:
    """A broker with one queue `q`; made inside a running loop."""

    def __init__(self, **given: Any) -> None:
        self.clock = SeededClock(asyncio.get_running_loop().time)
        self.settings = settings(**given)
        self.broker = MemoryBroker({"q": self.settings}, self.clock)
        self._sent = 0

    async def lane(self, dead_letters: bool = False) -> Hand:
        """A new receiving lane."""
        return Hand(self, await self.broker.open_lane("q", dead_letters))

    async def send(self, *sessions: str | None, **given: Any) -> BrokerSent:
        """Send one message a session; the bodies are b"1", b"2" … in all."""
        return await self.put(*[self.message(session, **given) for session in sessions])

    def message(self, session: str | None = None, **given: Any) -> Message:
        """The next message."""
        self._sent += 1
        body = str(self._sent).encode()
        return Message(**{"body": body, "id": f"m{self._sent}", "session": session, **given})

    async def put(self, *messages: Message) -> BrokerSent:
        """Send these."""
        return await self.broker.send("q", [to_row(message) for message in messages])

    def later(self, seconds: float) -> datetime:
        """A time on the calendar, so many seconds from now."""
        return datetime.fromtimestamp(self.clock.now() + seconds, UTC)

    async def depth(self) -> Depth:
        """How much the queue holds."""
        return await self.broker.depth("q")

    async def counters(self) -> Counters:
        """What happened on it."""
        return await self.broker.counters("q")


class Hand:
    """One lane, and the holdings it was given."""

    def __init__(self, rig: Rig, lane: int) -> None:
        self.broker = rig.broker
        self.lane = lane
        self.held: dict[str, int] = {}

    async def receive(
        self, messages: int = 100, *, wait: float = 0.0, poll: int = 0, **given: Any
    ) -> BrokerReceived:
        """Receive; native: of the held sessions, and of up to 100 new ones."""
        want = {
            "messages": messages,
            "wait": wait,
            "new_sessions": 100,
            "held": dict.fromkeys(self.held.values(), 100),
            **given,
        }
        got = await self.broker.receive(self.lane, Want(**want), poll)
        for holding in got.opened:
            self.held[holding.session] = holding.number
        return got

    async def bodies(self, messages: int = 100, **given: Any) -> list[str]:
        """Receive and say what came."""
        return texts(await self.receive(messages, **given))


def texts(got: BrokerReceived) -> list[str]:
    """The bodies of what came."""
    return [body.decode() for body in got.batch.values("body")]


def column(got: BrokerReceived, name: str) -> Sequence[Any]:
    """One column of what came."""
    values: Sequence[Any] = got.batch.values(name)
    return values


def kinds(failures: dict[int, Any]) -> dict[int, str]:
    """Failures by the name of their error."""
    return {position: type(error).__name__ for position, error in failures.items()}
