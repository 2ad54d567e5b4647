"""A handler core driven directly: rows in by calls, outcomes out in parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.errors import QueueError
from pipeline.handlers.api import Handler
from pipeline.message import Message
from pipeline.names import QueueName
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.providers.port import Sent
from pipeline.retry import RetryPolicy
from pipeline.stages.calls import Header
from pipeline.stages.handler import HandlerCore, HandlerSettings
from pipeline.stages.workers import InlineHands
from pipeline.state.memory import MemoryStore
from pipeline.state.port import SessionRecord

POLICY = RetryPolicy(3, 1.0, 300.0, 2.0, jitter="half")


def now() -> float:
    return asyncio.get_running_loop().time()


class Target:
    """Where sent messages go; refuses while `errors` has something to refuse with."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, bytes]] = []
        self.calls: list[tuple[str, int]] = []
        self.errors: list[QueueError | Exception] = []

    async def send(self, queue: str, messages: Sequence[Message]) -> list[Sent | QueueError]:
        self.calls.append((queue, len(messages)))
        results: list[Sent | QueueError] = []
        for message in messages:
            if self.errors:
                error = self.errors.pop(0)
                if not isinstance(error, QueueError) or "whole call" in str(error):
                    raise error
                results += [error] * (len(messages) - len(results))
                break
            self.taken.append((queue, str(message.id), message.body))
            results.append(Sent())
        return results


class Rig:
    """One handler core, its store and its target, and the calls of one router."""

    def __init__(
        self,
        handler: Handler,
        *,
        ordered: bool = True,
        store: MemoryStore | None = None,
        send: bool = True,
        clock: Callable[[], float] = now,
        **settings: Any,
    ) -> None:
        self.store = store if store is not None else MemoryStore(now=now)
        self.target = Target()
        self.errors: list[BaseException] = []
        settings.setdefault("retry", POLICY)
        self.core = HandlerCore(
            HandlerSettings(queue=QueueName("in"), ordered=ordered, **settings),
            handler,
            self.store,
            InlineHands(),
            SeededClock(now, start=0.0),
            clock,
            None,
            self.target.send if send else None,
            self.errors.append,
        )
        self.number = 0

    async def __aenter__(self) -> Rig:
        await self.core.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.core.close()

    def call(
        self, batch: MessageBatch, **header: Any
    ) -> asyncio.Task[tuple[list[int], dict[int, Outcome]]]:
        """Make a call; the task ends with its completed rows and its other outcomes."""
        self.number += 1
        number = self.number

        async def make() -> tuple[list[int], dict[int, Outcome]]:
            part = await self.core.run(Header("router", 1, number, "src", **header), batch)
            parts: list[Part] = [part]
            while not parts[-1].last:
                parts.append(await self.core.more("router", 1, number, len(parts)))
            completed = [row for one in parts for row in one.completed]
            others = [outcome for one in parts for outcome in one.others]
            rows = completed + [outcome.row for outcome in others]
            assert sorted(rows) == list(range(len(batch))), "each row has one outcome"
            return sorted(completed), {outcome.row: outcome for outcome in others}

        return asyncio.ensure_future(make())

    async def run(self, batch: MessageBatch, **header: Any) -> list[str]:
        """The outcomes of a call, a word a row."""
        return words(await self.call(batch, **header), len(batch))

    async def begun(self, when: Callable[[], object] | None = None) -> None:
        """Let the loop go on just until a lane is being worked on, or until `when` says so."""

        def busy() -> bool:
            return any(lane.busy for lane in self.core._lanes.values())

        for _ in range(100):
            if (when or busy)():
                return
            await asyncio.sleep(0)
        raise AssertionError("nothing began")

    async def record(self, key: str) -> SessionRecord:
        """What the store keeps for a key."""
        (record,) = await self.store.load([key])
        return record


def words(ended: tuple[list[int], dict[int, Outcome]], count: int) -> list[str]:
    """`completed`, or the outcome's kind and what matters of it."""
    _, others = ended
    return [word(others.get(row)) for row in range(count)]


def word(outcome: Outcome | None) -> str:
    if outcome is None:
        return "completed"
    if outcome.kind is Kind.RETRY:
        return f"retry {outcome.delay:g}" + ("" if outcome.counted else " uncounted")
    return outcome.reason if outcome.kind is Kind.DEAD_LETTER else "released"


def rows(
    *bodies: str,
    session: str | Sequence[str | None] | None = "s",
    first: int = 1,
    holding: int = 1,
    turn: int = 0,
    **columns: Sequence[Any],
) -> MessageBatch:
    """A batch of these bodies, in sequence, of one session or of a session a row."""
    count = len(bodies)
    sessions = [session] * count if session is None or isinstance(session, str) else list(session)
    sequences = list(range(first, first + count))
    return MessageBatch.from_columns(
        count,
        {
            "id": [f"m{sequence}" for sequence in sequences],
            "session": sessions,
            "body": [body.encode() for body in bodies],
            "sequence": sequences,
            "holding": [holding] * count,
            "turn": [turn] * count,
            **columns,
        },
    )
