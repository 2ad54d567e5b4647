"""The way out of a receiver: batches to their routers, numbered, and their outcomes back.

It owns the numbering of calls (DESIGN law 3 f) and the copies of rows that are out. What an outcome
means is the receiver's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from pipeline.batch import MessageBatch
from pipeline.errors import ValidationError
from pipeline.outcomes import Part
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, RunCalls, drive

_NOTES = 256


class Call:
    """One call to a router.

    Args:
        router: which one.
        batch: its rows.
        rows: their numbers in the ledger.
    """

    __slots__ = ("_batch", "_places", "open", "router", "rows")

    def __init__(self, router: int, batch: MessageBatch, rows: Sequence[int]) -> None:
        self.router = router
        self.rows = rows
        self.open = len(rows)
        self._batch = batch
        self._places: dict[int, int] | None = None

    def copy(self, positions: Sequence[int]) -> MessageBatch:
        """Copies of the rows at these positions."""
        if self._places is None:
            return self._batch.take(positions)
        return self._batch.take([self._places[at] for at in positions])

    def shrink(self, missing: Callable[[], list[int]]) -> None:
        """Once three quarters have ended, keep only the rest: a slow row must not pin a batch."""
        if self.open and self.open * 4 <= len(self._batch):
            left = missing()
            self._batch = self.copy(left)
            self._places = {at: place for place, at in enumerate(left)}


class Identity(Protocol):
    """What the way out needs of the receiver's settings."""

    @property
    def name(self) -> str:
        """Who the receiver is, to its routers."""

    @property
    def epoch(self) -> int:
        """Grows with each start of it."""


class Outgo:
    """Sends a receiver's rows to the routers.

    Args:
        identity: the caller's name and epoch.
        origin: where the messages come from.
        routers: by number.
        table: who owns which slot.
        apply: told of each part of a call's outcomes.
        fatal: told of a call whose outcome can't be known.
    """

    def __init__(
        self,
        identity: Identity,
        origin: str,
        routers: Sequence[RunCalls],
        table: SlotTable,
        apply: Callable[[Call, Part], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._identity = identity
        self._origin = origin
        self._routers = routers
        self._table = table
        self._apply = apply
        self._fatal = fatal
        self._numbers = [0] * len(routers)
        self._closed: list[list[tuple[str, int]]] = [[] for _ in routers]
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, batch: MessageBatch, rows: Sequence[int]) -> None:
        """Send rows, each to the router that owns its session."""
        if len(self._routers) == 1:
            self._call(0, batch, rows)
            return
        for router, (places, part) in batch.split(self._owners(batch)).items():
            self._call(router, part, [rows[at] for at in places])

    def close_turns(self, session: str, holding: int) -> None:
        """The session's turns are over: who kept a stop for them may forget it."""
        router = self._table.router_of(session)
        self._closed[router].append((session, holding))
        if len(self._closed[router]) >= _NOTES:
            self._call(router, MessageBatch.empty(), [])

    def lose(self, key: str, holding: int) -> None:
        """A lock ended: tell everybody who may have rows of it, at once.

        Args:
            key: the session, or where there is none the message's id.
            holding: rows of this one and of older ones are lost.
        """
        for router in range(len(self._routers)):
            self._call(router, MessageBatch.empty(), [], lost=((key, holding),))

    async def close(self, *, abandon: bool = False) -> None:
        """Wait for the calls that are open, or abandon them: their handlers are gone."""
        if abandon:
            for task in self._tasks:
                task.cancel()
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _owners(self, batch: MessageBatch) -> list[int]:
        names, codes = batch.distinct("session")
        table = self._table
        owners = [-1 if name is None else table.router_of(name) for name in names]
        count = len(self._routers)
        return [at % count if owners[code] < 0 else owners[code] for at, code in enumerate(codes)]

    def _call(
        self,
        router: int,
        batch: MessageBatch,
        rows: Sequence[int],
        lost: tuple[tuple[str, int], ...] = (),
    ) -> None:
        self._numbers[router] += 1
        closed, self._closed[router] = tuple(self._closed[router]), []
        header = Header(
            self._identity.name,
            self._identity.epoch,
            self._numbers[router],
            self._origin,
            closed,
            lost,
        )
        task = asyncio.ensure_future(self._drive(Call(router, batch, rows), header, batch))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    async def _drive(self, call: Call, header: Header, batch: MessageBatch) -> None:
        seen = bytearray(len(call.rows))

        def apply(part: Part) -> None:
            for row in (*part.completed, *(outcome.row for outcome in part.others)):
                if seen[row]:
                    raise ValidationError("outcome", "must come once a row", row)
                seen[row] = 1
            call.open -= len(part.completed) + len(part.others)
            if part.last and call.open:
                raise ValidationError("outcome", "must come for every row; missing", call.open)
            self._apply(call, part)
            call.shrink(lambda: [row for row, done in enumerate(seen) if not done])

        await drive(self._routers[call.router], header, batch, apply)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)
