"""Outcomes: how each row of a call ended, and the book that sees that none is missing or twice.

The same protocol runs between receiver and router and between router and handler: a call brings n
rows, numbered 0 to n-1 by their position; its outcomes come back in parts, as soon as they are
known (DESIGN law 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from pipeline.errors import ValidationError


class Kind(IntEnum):
    """How a row ended; completed rows travel as bare positions."""

    RETRY = 1
    DEAD_LETTER = 2
    RELEASED = 3


class Reason(StrEnum):
    """Why a message was dead-lettered: the closed list of codes (SPEC R3)."""

    REJECTED = "rejected"
    ATTEMPTS = "attempts_exhausted"
    INVALID_BODY = "invalid_body"
    NO_HANDLER = "no_handler"
    EXPIRED = "expired"
    MAX_DELIVERIES = "max_deliveries"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row that isn't completed ended.

    Args:
        row: its position in the call.
        kind: retry (the handler failed, or what it needs can't be had), dead-letter, or released
            (nobody handled it).
        delay: of a retry, seconds to wait.
        counted: of a retry, whether it was an attempt of the handler.
        reason: of a dead letter, the code.
        description: of a dead letter, the failure as compact JSON.
    """

    row: int
    kind: Kind
    delay: float = 0.0
    counted: bool = True
    reason: str = ""
    description: str = ""


@dataclass(slots=True)
class Part:
    """Some outcomes of one call.

    Args:
        completed: positions of completed rows.
        others: the outcomes of other rows.
        last: whether every row of the call has its outcome now.
    """

    completed: list[int] = field(default_factory=list)
    others: list[Outcome] = field(default_factory=list)
    last: bool = False


class OutcomeBook:
    """The called side's book of one call: collects outcomes and answers in parts.

    Args:
        rows: how many rows the call brought.
        pause: seconds between two answers while rows are still running; 0 answers at once.
        first: seconds after which the first answer comes even if nothing is known; None waits.
    """

    __slots__ = (
        "_answered",
        "_first",
        "_pause",
        "_seen",
        "_timed",
        "_waiter",
        "open",
        "part",
        "rows",
    )

    def __init__(self, rows: int, pause: float, first: float | None = None) -> None:
        self.rows = rows
        self.open = rows
        self.part = Part(last=rows == 0)
        self._pause = pause
        self._first = first
        self._seen = bytearray(rows)
        self._answered = asyncio.get_running_loop().time()
        self._waiter: asyncio.Future[None] | None = None
        self._timed = False

    def complete(self, rows: Iterable[int]) -> None:
        """These rows are completed."""
        seen, before = self._seen, len(self.part.completed)
        try:
            for row in rows:
                if seen[row]:
                    raise ValidationError("outcome", "must come once a row", row)
                seen[row] = 1
                self.part.completed.append(row)
        finally:
            self._note(len(self.part.completed) - before)

    def end(self, outcome: Outcome) -> None:
        """This row ended otherwise."""
        if self._seen[outcome.row]:
            raise ValidationError("outcome", "must come once a row", outcome.row)
        self._seen[outcome.row] = 1
        self.part.others.append(outcome)
        self._note(1)

    def _note(self, count: int) -> None:
        self.open -= count
        waiter = self._waiter
        if not count or waiter is None or waiter.done():
            return
        loop = asyncio.get_running_loop()
        if not self.open or loop.time() >= self._answered + self._pause:
            waiter.set_result(None)
        elif not self._timed:
            self._timed = True
            loop.call_at(self._answered + self._pause, _wake, waiter)

    async def answer(self) -> Part:
        """The next part: at the end, or when something is known and the pause is over."""
        loop = asyncio.get_running_loop()
        if self.open and not (self._known and loop.time() >= self._answered + self._pause):
            self._waiter = loop.create_future()
            self._timed = self._known
            if self._known:
                loop.call_at(self._answered + self._pause, _wake, self._waiter)
            elif self._first is not None:
                # The caller learns that the rows are running, and sends the next ones.
                loop.call_at(self._answered + self._first, _wake, self._waiter)
            await self._waiter
        self._first = None
        part, self.part = self.part, Part()
        part.last = not self.open
        self._answered = loop.time()
        return part

    @property
    def _known(self) -> bool:
        return bool(self.part.completed or self.part.others)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
