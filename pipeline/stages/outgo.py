"""The way out of a receiver: batches to their routers, numbered, and their outcomes back.

It owns the numbering of calls (DESIGN law 3 f) and the copies of rows that are out. What an outcome
means is the receiver's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from pipeline.batch import MessageBatch
from pipeline.errors import ValidationError
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.rows import Rows, mark
from pipeline.slots import SlotTable, owners_of
from pipeline.stages.calls import Line, RunCalls

_NOTES = 256


class Call:
    """Rows on their way out: one call to a router, from before it is made to its last outcome.

    Args:
        router: which one.
        batch: its rows.
        rows: their numbers in the ledger.
        alone: whether each of them is run with nothing beside it.
        apply: told of each part of its outcomes.
    """

    __slots__ = ("_apply", "_batch", "_places", "_seen", "alone", "open", "router", "rows")

    def __init__(
        self,
        router: int,
        batch: MessageBatch,
        rows: Rows,
        alone: bool,
        apply: Callable[[Call, Part], None],
    ) -> None:
        self.router = router
        self.rows = rows
        self.alone = alone
        self.open = len(rows)
        self._apply = apply
        self._batch = batch
        self._places: Rows | None = None
        self._seen = np.zeros(len(rows), np.bool_)

    def copy(self, positions: Sequence[int] | Rows) -> MessageBatch:
        """Copies of the rows at these positions."""
        return self._batch.take(positions if self._places is None else self._places[positions])

    def apply(self, part: Part) -> None:
        """Some outcomes came."""
        if part.void:
            self.release()
            return
        mark(self._seen, part.completed)
        if part.others:
            mark(self._seen, np.array([outcome.row for outcome in part.others]))
        self.open -= len(part.completed) + len(part.others)
        if part.last and self.open:
            raise ValidationError("outcome", "must come for every row; missing", self.open)
        self._apply(self, part)
        # Once three quarters have ended, keep only the rest: a slow row must not pin a batch.
        if self.open and self.open * 4 <= len(self._batch):
            left = self._left()
            self._batch = self.copy(left)
            self._places = np.full(len(self.rows), -1)
            self._places[left] = np.arange(len(left))

    def died(self) -> None:
        """The router is dead: its rows come back.

        Its handlers are not: what they still run of these rows, they run before anything that is
        sent to them from now on, and find in their record when it comes again.
        """
        self.release(unknown=True)

    def release(self, *, unknown: bool = False) -> None:
        """Nobody will answer for the rows that are open: they come back."""
        others = [Outcome(row, Kind.RELEASED) for row in self._left().tolist()]
        self.apply(Part(others=others, last=True, unknown=unknown))

    def _left(self) -> Rows:
        return np.flatnonzero(~self._seen)


class Send(Protocol):
    """Sends rows on their way."""

    def __call__(self, batch: MessageBatch, rows: Rows, *, alone: bool = False) -> None:
        """Send a batch of rows, by their numbers in the ledger."""


class Identity(Protocol):
    """What the way out needs of the receiver's settings."""

    @property
    def name(self) -> str:
        """Who the receiver is, to its routers."""

    @property
    def epoch(self) -> int:
        """Grows with each start of it."""

    @property
    def by_id(self) -> bool:
        """Whether messages without a session that have one id go to one router."""


class Outgo:
    """Sends a receiver's rows to the routers.

    Args:
        identity: the caller's name and epoch.
        origin: where the messages come from.
        routers: by number.
        table: who owns which slot.
        apply: told of each part of a call's outcomes.
        changed: told of a router that may have sent rows back whose outcome is still on its way:
            one of its handlers has died, or a call to it never came.
        fatal: told of an error after which rows may have no outcome.
    """

    def __init__(
        self,
        identity: Identity,
        origin: str,
        routers: Sequence[RunCalls],
        table: SlotTable,
        apply: Callable[[Call, Part], None],
        changed: Callable[[int], None],
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._origin = origin
        self._table = table
        self._apply_part = apply
        self._changed = changed
        self._identity = identity
        self._fatal = fatal
        self._ways = [_Way(self._line(router, calls)) for router, calls in enumerate(routers)]
        self._stopped = False

    def send(self, batch: MessageBatch, rows: Rows, *, alone: bool = False) -> None:
        """Send rows, each to the router that owns its session."""
        if len(self._ways) == 1:
            self._call(Call(0, batch, rows, alone, self._apply), batch)
            return
        for router, (places, part) in batch.split(self._owners(batch)).items():
            self._call(Call(router, part, rows[places], alone, self._apply), part)

    def close_turns(self, session: str, holding: int) -> None:
        """The session's turns are over: who kept a stop for them may forget it."""
        way = self._ways[self._table.router_of(session)]
        way.closed.append((session, holding))
        if len(way.closed) >= _NOTES:
            self._note(way)

    def lose(self, key: str, holding: int) -> None:
        """A lock ended: tell everybody who may have rows of it, in this pass of the loop.

        Args:
            key: the session, or where there is none the message's id.
            holding: rows of this one and of older ones are lost.
        """
        if not any(way.lost for way in self._ways):
            # Locks that end together are told of together.
            asyncio.get_running_loop().call_soon(self._tell_lost)
        for way in self._ways:
            way.lost.append((key, holding))

    def _tell_lost(self) -> None:
        for way in self._ways:
            if way.lost:
                self._note(way)

    async def join(self, router: int, calls: RunCalls) -> None:
        """A new router took the place of one that is dead, or will be found to be.

        What waited for it comes back first: its turn may have ended with the old router's answers.
        """
        way = self._ways[router]
        if not await way.line.give_way(calls):
            return
        way.line = self._line(router, calls)
        way.generation = 0
        way.release()
        if way.closed or way.lost:
            self._note(way)

    def stop(self) -> None:
        """From here on nothing waits for a new router: what can't be sent comes back."""
        self._stopped = True
        for way in self._ways:
            way.release()

    async def close(self, *, abandon: bool = False) -> None:
        """Wait for the calls that are open, or abandon them: their handlers are gone."""
        for way in self._ways:
            await way.line.close(abandon=abandon)

    def _line(self, router: int, calls: RunCalls) -> Line:
        identity = self._identity
        voided = partial(self._changed, router)
        return Line(identity.name, identity.epoch, calls, self._fatal, voided)

    def _owners(self, batch: MessageBatch) -> Rows:
        names, codes = batch.distinct("session")
        ids = batch.values("id") if self._identity.by_id else None
        return owners_of(names, codes, self._table.router_of, range(len(self._ways)), ids)

    def _apply(self, call: Call, part: Part) -> None:
        way = self._ways[call.router]
        if part.generation > way.generation:
            way.generation = part.generation
            self._changed(call.router)
        self._apply_part(call, part)

    def _call(self, call: Call, batch: MessageBatch) -> None:
        way = self._ways[call.router]
        if not way.line.dead:
            way.call(batch, call, self._origin)
        elif self._stopped:
            asyncio.get_running_loop().call_soon(call.release)
        else:
            way.waiting.append(call)

    def _note(self, way: _Way) -> None:
        """Tell a router what it has to know without rows; a dead one's follower hears it."""
        if not way.line.dead:
            way.call(MessageBatch.empty(), _NO_ROWS, self._origin)


class _Way:
    """The way to one router.

    Args:
        line: to the router that is there now.
    """

    def __init__(self, line: Line) -> None:
        self.line = line
        self.closed: list[tuple[str, int]] = []
        self.lost: list[tuple[str, int]] = []
        self.waiting: list[Call] = []
        self.generation = 0

    def release(self) -> None:
        """What waits comes back."""
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call.release()

    def call(self, batch: MessageBatch, pending: Call | _NoRows, origin: str) -> None:
        """Make a call; the notes that are due go with it."""
        closed, self.closed = tuple(self.closed), []
        lost, self.lost = tuple(self.lost), []
        self.line.call(
            batch,
            pending,
            source=origin,
            closed=closed,
            lost=lost,
            alone=pending.alone,
            generation=self.generation,
        )


class _NoRows:
    """A call that only brings notes; one that is lost with its router costs nothing."""

    alone = False

    def apply(self, part: Part) -> None:
        """There are no outcomes."""

    def died(self) -> None:
        """There are no rows."""


_NO_ROWS = _NoRows()
