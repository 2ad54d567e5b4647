"""Outcomes: how each row of a call ended, and the book that sees that none is missing or twice.

The same protocol runs between receiver and router and between router and handler: a call brings n
rows, numbered 0 to n-1 by their position; its outcomes come back in parts, as soon as they are
known (DESIGN law 2).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np

from pipeline.errors import Closed, ValidationError
from pipeline.rows import NO_ROWS, Rows, mark


class Kind(IntEnum):
    """How a row ended; completed rows travel as bare positions."""

    RETRY = 1
    DEAD_LETTER = 2
    RELEASED = 3
    DIED = 4


class Reason(StrEnum):
    """Why a message was dead-lettered: the closed list of codes (SPEC R3)."""

    REJECTED = "rejected"
    ATTEMPTS = "attempts_exhausted"
    INVALID_BODY = "invalid_body"
    NO_HANDLER = "no_handler"
    EXPIRED = "expired"
    MAX_DELIVERIES = "max_deliveries"
    KEY_NOT_FOUND = "key_not_found"
    AUTHENTICATION_FAILED = "authentication_failed"
    MESSAGE_EXPIRED = "message_expired"
    UNSUPPORTED_VERSION = "unsupported_version"
    INVALID_ENVELOPE = "invalid_envelope"
    NONCE_REUSED = "nonce_reused"
    UNENCRYPTED = "unencrypted_message"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one row that isn't completed ended.

    Args:
        row: its position in the call.
        kind: retry (the handler failed, or what it needs can't be had), dead-letter, released
            (nobody handled it), or died (it was in the hands of a process that died).
        delay: of a retry, seconds to wait.
        counted: whether it was an attempt: of the handler, or, of one that died, whether it is
            known to be the row that its process died of.
        reason: of a dead letter, the code; of a retry, why it waits in hand however long.
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
        void: the call never came and won't be let in any more: nobody handled its rows.
        unknown: said by the caller to itself, of a router that died: a handler may run the rows.
        generation: of a router's answers, how many of its handlers have died.
    """

    completed: Rows = field(default_factory=lambda: NO_ROWS)
    others: list[Outcome] = field(default_factory=list)
    last: bool = False
    void: bool = False
    generation: int = 0
    unknown: bool = False


class OutcomeBook:
    """The called side's book of one call: collects outcomes and answers in parts.

    Args:
        rows: how many rows the call brought.
        pause: seconds between two answers while rows are still running; 0 answers at once.
        first: seconds after which the first answer comes even if nothing is known; None waits.
    """

    __slots__ = (
        "_answered",
        "_completed",
        "_first",
        "_given",
        "_next",
        "_pause",
        "_seen",
        "_timed",
        "_waiters",
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
        self._seen = np.zeros(rows, np.bool_)
        self._completed: list[Rows] = []
        self._answered = asyncio.get_running_loop().time()
        self._waiters: list[asyncio.Future[None]] = []
        self._timed = False
        self._next = 0
        self._given: Part | None = None

    def complete(self, rows: Sequence[int] | Rows) -> None:
        """These rows are completed."""
        if not len(rows):
            return
        completed = np.asarray(rows, np.int64)
        mark(self._seen, completed)
        self._completed.append(completed)
        self._note(len(completed))

    def end(self, outcome: Outcome) -> None:
        """This row ended otherwise."""
        if self._seen[outcome.row]:
            raise ValidationError("outcome", "must come once a row", outcome.row)
        self._seen[outcome.row] = True
        self.part.others.append(outcome)
        self._note(1)

    def ended(self, row: int) -> bool:
        """Whether the row has its outcome."""
        return bool(self._seen[row])

    def _note(self, count: int) -> None:
        self.open -= count
        if not self._waiters:
            return
        loop = asyncio.get_running_loop()
        if not self.open or loop.time() >= self._answered + self._pause:
            _wake(self._waiters)
        elif not self._timed:
            self._timed = True
            loop.call_at(self._answered + self._pause, _wake, self._waiters)

    async def answer(self, number: int) -> Part:
        """The answer's next part: at the end, or when something is known and the pause is over.

        Args:
            number: 0 for the first part, then 1, 2 …; asked for again, as after an answer that was
                lost, the last part given is the same.

        Raises:
            Closed: it is neither the next part nor the last one that was given.
        """
        if number == self._next and not (self._given is not None and self._given.last):
            loop = asyncio.get_running_loop()
            if self.open and not (self._known and loop.time() >= self._answered + self._pause):
                await self._wait(loop)
            if number == self._next:  # nobody else asked meanwhile
                self._give(loop)
        if self._given is None or number != self._next - 1:
            raise Closed(f"part {number} of a call was asked for after part {self._next - 1}")
        return self._given

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        waiter = loop.create_future()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            self._timed = self._known
            if self._known:
                loop.call_at(self._answered + self._pause, _wake, self._waiters)
            elif self._first is not None:
                # The caller learns that the rows are running, and sends the next ones.
                loop.call_at(self._answered + self._first, _wake, self._waiters)
        await waiter

    def _give(self, loop: asyncio.AbstractEventLoop) -> None:
        self._first = None
        self._given, self.part = self.part, Part()
        if self._completed:
            self._given.completed = np.concatenate(self._completed)
            self._completed = []
        self._given.last = not self.open
        self._answered = loop.time()
        _wake(self._waiters)
        self._waiters = []
        self._next += 1

    @property
    def _known(self) -> bool:
        return bool(self._completed or self.part.others)


def _wake(waiters: list[asyncio.Future[None]]) -> None:
    for waiter in waiters:
        if not waiter.done():
            waiter.set_result(None)
