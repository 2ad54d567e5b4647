"""Handlers and jobs for the tests on a real Ray."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from pipeline import Context, Message, MessageBatch, QueueClient, Reject, Retry, States, handler


@dataclass
class Seen:
    """What one session's messages did."""

    count: int = 0
    last: int = -1
    out_of_order: int = 0

    def take(self, position: int) -> None:
        self.out_of_order += position != self.last + 1
        self.count += 1
        self.last = position


def messages(sessions: int, each: int) -> list[Message]:
    """Positions 0, 1, 2 … in each of some sessions, taken in turn."""
    return [
        Message(str(position).encode(), session=f"s{session}")
        for position in range(each)
        for session in range(sessions)
    ]


@handler(state=Seen)
def in_order(body: str, seen: Seen, context: Context) -> Any:
    """Counts; every seventh position fails at its first attempt."""
    position = int(body)
    if position % 7 == 3 and context.attempt == 1:
        seen.count += 1_000
        return Retry(0.05)
    if position % 31 == 5 and context.attempt == 1:
        raise ValueError("first attempt")
    seen.take(position)
    return None


@handler(state=Seen)
async def in_order_async(body: str, seen: Seen, context: Context) -> Any:
    """The same, async."""
    await asyncio.sleep(0)
    position = int(body)
    if position % 7 == 3 and context.attempt == 1:
        return Retry(0.05)
    seen.take(position)
    return None


@handler(state=Seen, batch=True)
def in_batches(rows: MessageBatch, states: States) -> None:
    """The same, whole batches at once."""
    for delivery in rows:
        session = delivery.session
        if session is not None:
            states[session].take(int(delivery.body))


@handler
def picky(body: str, context: Context) -> Any:
    """Rejects, fails for ever, or is content."""
    if body == "reject":
        return Reject("not wanted")
    if body == "fail":
        raise RuntimeError("never works")
    return None


@handler
def forward(body: bytes, context: Context) -> None:
    """Sends everything on."""
    session = context.delivery.session
    context.send("second", Message(body, session=session))


@handler
def slow(body: str) -> None:
    """Takes as many seconds as the body says, deaf to everything."""
    time.sleep(float(body))


@handler
async def slow_async(body: str) -> None:
    """Takes as many seconds as the body says."""
    await asyncio.sleep(float(body))


class Feeds:
    """A job that sends 300 messages and counts them afterwards."""

    async def feed(self, client: QueueClient) -> None:
        await client.send_many("first", messages(3, 100))

    async def check(self, states: dict[str, dict[str, Seen]]) -> dict[str, Any]:
        counts = [seen.count for seen in states["one"].values()]
        return {"verified": counts == [100, 100, 100], "out_of_order": 0, "report": ["all there"]}


class FeedFails:
    """A job whose feed fails."""

    async def feed(self, client: QueueClient) -> None:
        raise RuntimeError("the source is gone")
