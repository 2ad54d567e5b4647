"""What one stage says to the next: the header of a call, the two ports, and both ends of a call.

A shell in `actors` carries calls over Ray; a test or a simulation joins the cores directly. A call
may be lost, come late or twice, and so may its answer: `Line` numbers and asks again, `Reception`
lets each call in once, in order, and can repeat its last answer (DESIGN laws 3 d, f and 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from pipeline.admission import Admission
from pipeline.batch import MessageBatch
from pipeline.errors import Closed, ConnectionFailed
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part

_ASK_AGAIN = 0.5
"""Seconds between two questions about a call whose answer did not come."""


class ProcessDied(ConnectionFailed):
    """The called process is dead: nothing it had in hand runs any more."""


class NoAnswer(ConnectionFailed):
    """The called process did not answer; whether it acted is unknown, and it may still act."""


@dataclass(frozen=True, slots=True)
class Header:
    """What goes before the rows of a call.

    Args:
        caller: who calls.
        epoch: grows with each start of the caller.
        number: 1, 2, 3 … within the epoch: the called side lets calls in in this order.
        source: where the rows' sequences come from (SPEC F4).
        closed: (session, holding) whose turns are over for good: stops kept for them can go.
        lost: (session, holding) whose lock ended: rows of it that have not begun must not.
        answered: every call below this number is answered to its end: its answers can go.
        alone: each of the rows is run with nothing beside it: a process died with it in hand.
        generation: to a router, the number of its handlers that the caller knows to have died.
        voids: how many void answers the caller has had when it makes the call.
    """

    caller: str
    epoch: int
    number: int
    source: str
    closed: tuple[tuple[str, int], ...] = ()
    lost: tuple[tuple[str, int], ...] = ()
    answered: int = 0
    alone: bool = False
    generation: int = 0
    voids: int = 0


RunRow: TypeAlias = tuple[int, int, int]
"""A row that a handler runs, as its router knows it: the router's epoch, the call, the row."""


class RunCalls(Protocol):
    """A router as its receivers see it, and a handler as its router sees it.

    Raises:
        ProcessDied: the other side is dead.
        NoAnswer: nothing is known: ask with `more` until there is an answer, or it has died.
    """

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Take the rows in; answer with the first outcomes, which are part 0."""

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """Part `part` of the outcomes of a call; asked for again it is the same.

        A call that did not come by now is given up with this: it is let in no more, and the
        answer is a void part.
        """


class Pending(Protocol):
    """A call's rows at the caller."""

    def apply(self, part: Part) -> None:
        """Some outcomes came, or a void part: nobody handled what is open."""

    def died(self) -> None:
        """The called process is dead: rows without an outcome will have none."""


class Line:
    """The calls of one caller to one process, each driven to its last part.

    Args:
        caller: the caller's name.
        epoch: grows with each start of the caller.
        calls: the called process.
        fatal: told of an error that is neither lost answer nor death.
        voided: told of a call that never came, before its rows come back: what was sent after it
            comes back too, and must do so before more is sent that belongs behind it.
    """

    def __init__(
        self,
        caller: str,
        epoch: int,
        calls: RunCalls,
        fatal: Callable[[BaseException], None],
        voided: Callable[[], None],
    ) -> None:
        self._caller = caller
        self._epoch = epoch
        self._calls = calls
        self._fatal = fatal
        self._voided = voided
        self._open: dict[int, asyncio.Task[None]] = {}
        self._voids = 0
        self._successor: RunCalls | None = None
        self.number = 0
        self.alive = False
        """The process has answered a call."""
        self.dead = False
        """The process is known to have died; its open calls come to their ends."""

    def call(
        self,
        batch: MessageBatch,
        pending: Pending,
        *,
        source: str,
        closed: tuple[tuple[str, int], ...] = (),
        lost: tuple[tuple[str, int], ...] = (),
        alone: bool = False,
        generation: int = 0,
    ) -> None:
        """Make a call; its outcomes are applied as they come."""
        self.number += 1
        number = self.number
        answered = next(iter(self._open), number)
        header = Header(
            self._caller,
            self._epoch,
            number,
            source,
            closed,
            lost,
            answered,
            alone,
            generation,
            self._voids,
        )
        task = asyncio.ensure_future(self._drive(header, batch, pending))
        self._open[number] = task
        task.add_done_callback(partial(self._ended, number))

    async def close(self, *, abandon: bool = False) -> None:
        """Wait for the calls that are open, or abandon them: nobody will answer."""
        if abandon:
            for task in self._open.values():
                task.cancel()
        while self._open:
            await asyncio.wait(list(self._open.values()))

    async def give_way(self, calls: RunCalls) -> bool:
        """A new process is there: wait for the calls that are open.

        Returns:
            Whether no newer one came meanwhile: only the newest takes the place of this one.
        """
        self._successor = calls
        await self.close()
        return self._successor is calls

    async def _drive(self, header: Header, batch: MessageBatch, pending: Pending) -> None:
        number = 0
        asked: Awaitable[Part] = self._calls.run(header, batch)
        while True:
            try:
                part = await asked
            except ProcessDied:
                self.dead = True
                pending.died()
                return
            except NoAnswer:
                await asyncio.sleep(_ASK_AGAIN)
            else:
                if part.void:
                    self._voids += 1
                    self._voided()
                self.alive = True
                pending.apply(part)
                if part.last:
                    return
                number += 1
            asked = self._calls.more(self._caller, self._epoch, header.number, number)

    def _ended(self, number: int, task: asyncio.Task[None]) -> None:
        del self._open[number]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)


class Reception:
    """The calls that come to a core: each is taken in once, in its caller's order.

    Args:
        take_in: takes a call's rows in, at once; gives the book of their outcomes.
    """

    def __init__(self, take_in: Callable[[Header, MessageBatch], OutcomeBook]) -> None:
        self._take_in = take_in
        self._admission = Admission()
        self._books: dict[str, dict[int, OutcomeBook]] = {}
        self._voids: dict[str, int] = {}

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """See `RunCalls`."""
        caller = header.caller
        self._enter(caller, header.epoch)
        books = self._books[caller]
        try:
            await self._admission.turn(caller, header.number)
        except Closed:
            repeated = self._books[caller].get(header.number)
            if repeated is None:
                raise
            return await repeated.answer(0)
        for number in [number for number in books if number < header.answered]:
            del books[number]
        if header.voids < self._voids[caller]:
            # The caller did not know of a call that was given up: its rows may belong before these.
            book = OutcomeBook(len(batch), 0.0)
            for row in range(len(batch)):
                book.end(Outcome(row, Kind.RELEASED))
        else:
            book = self._take_in(header, batch)
        books[header.number] = book
        self._admission.advance(caller)
        return await book.answer(0)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """See `RunCalls`."""
        self._enter(caller, epoch)
        book = self._books[caller].get(number)
        if book is not None:
            return await book.answer(part)
        if self._admission.give_up(caller, number):
            self._voids[caller] += 1
            book = self._books[caller][number] = OutcomeBook(0, 0.0)
            book.part.void = True
            return await book.answer(part)
        raise Closed(f"the answers to call {number} of {caller} were let go: it had them all")

    @property
    def open(self) -> int:
        """How many calls have rows without an outcome."""
        return sum(book.open > 0 for books in self._books.values() for book in books.values())

    def _enter(self, caller: str, epoch: int) -> None:
        if self._admission.enter(caller, epoch):
            self._books[caller] = {}
            self._voids[caller] = 0
