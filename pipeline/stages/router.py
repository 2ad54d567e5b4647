"""The router: session to handler, sticky; rows grow into large batches while a handler is busy.

It owns what is in flight between its receivers and its handlers, in order, and matches every
outcome to the call its row came with. It decides one thing about a row: one of an older holding is
refused when a newer one of its session has come (DESIGN law 3 e).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.admission import Admission
from pipeline.batch import MessageBatch
from pipeline.errors import ValidationError
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, RunCalls, drive

_UNANSWERED = 2
"""Runs a handler may have without a first answer: one it works on, one that waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """What a router is configured with.

    Args:
        name: who it is, to its handlers.
        epoch: grows with each start of it.
        batch_rows: the most rows of one run.
        batch_bytes: the bytes at which a run is full.
    """

    name: str
    epoch: int
    batch_rows: int
    batch_bytes: int


@dataclass(slots=True)
class _Fragment:
    """Rows of one call that go to one handler."""

    book: OutcomeBook
    places: Sequence[int]
    batch: MessageBatch
    source: str

    def without(self, rows: Sequence[int]) -> _Fragment:
        gone = set(rows)
        left = [at for at in range(len(self.places)) if at not in gone]
        places = [self.places[at] for at in left]
        return _Fragment(self.book, places, self.batch.take(left), self.source)


class RouterCore:
    """The core of `RouterActor`.

    Args:
        settings: what it is configured with.
        handlers: by number; those this router owns.
        table: who owns which slot.
        fatal: told of a call whose outcome can't be known.
    """

    def __init__(
        self,
        settings: RouterSettings,
        handlers: dict[int, RunCalls],
        table: SlotTable,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._table = table
        self._own = sorted(handlers)
        self._ways = {number: _Way(settings, calls, fatal) for number, calls in handlers.items()}
        self._admission = Admission()
        self._books: dict[tuple[str, int], OutcomeBook] = {}
        self._draining = False
        self.counts = {"calls": 0, "rows": 0}

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Take the rows in; answer with the first outcomes."""
        await self._admission.turn(header.caller, header.epoch, header.number)
        book = OutcomeBook(len(batch), 0.0)
        self.counts["calls"] += 1
        self.counts["rows"] += len(batch)
        self._pass_notes(header)
        if len(batch):
            self._books[header.caller, header.number] = book
            for number, (places, rows) in batch.split(self._owners(batch)).items():
                self._ways[number].add(_Fragment(book, places, rows, header.source))
        self._admission.advance(header.caller)
        return await self._answer(header.caller, header.number, book)

    async def more(self, caller: str, number: int) -> Part:
        """The next outcomes of a call that is still open."""
        return await self._answer(caller, number, self._books[caller, number])

    async def drain(self) -> None:
        """Drain 2: what has not gone to a handler comes back."""
        for way in self._ways.values():
            way.drain()

    async def close(self) -> None:
        """Wait for the runs that are open."""
        for way in self._ways.values():
            await way.close()

    def stats(self) -> dict[str, int]:
        """Plain counters."""
        ways = self._ways.values()
        return self.counts | {
            "waiting": sum(way.waiting for way in ways),
            "runs": sum(way.number for way in ways),
            "run_rows": sum(way.rows for way in ways),
        }

    async def _answer(self, caller: str, number: int, book: OutcomeBook) -> Part:
        part = await book.answer()
        if part.last:
            self._books.pop((caller, number), None)
        return part

    def _owners(self, batch: MessageBatch) -> list[int]:
        names, codes = batch.distinct("session")
        own = self._own
        owners = [-1 if name is None else self._table.handler_of(name) for name in names]
        # Rows without a session have no place of their own: they are dealt out.
        return [
            own[at % len(own)] if owners[code] < 0 else owners[code]
            for at, code in enumerate(codes)
        ]

    def _pass_notes(self, header: Header) -> None:
        for session, holding in header.closed:
            self._ways[self._table.handler_of(session)].closed.append((session, holding))
        if header.lost:
            for way in self._ways.values():
                way.lose(header.lost)


class _Way:
    """The way to one handler: what waits for it, and what it has."""

    def __init__(
        self, settings: RouterSettings, calls: RunCalls, fatal: Callable[[BaseException], None]
    ) -> None:
        self._settings = settings
        self._calls = calls
        self._fatal = fatal
        self._fragments: deque[_Fragment] = deque()
        self._newest: dict[str, int] = {}
        self._unanswered = 0
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        self.closed: list[tuple[str, int]] = []
        self.waiting = 0
        self.number = 0
        self.rows = 0

    def add(self, fragment: _Fragment) -> None:
        """Rows have come for this handler."""
        if self._draining:
            _release(fragment, range(len(fragment.places)))
            return
        if self._fragments:
            self._refuse_older(fragment)
        self._fragments.append(fragment)
        self.waiting += len(fragment.places)
        self._pump()

    def lose(self, lost: tuple[tuple[str, int], ...]) -> None:
        """Locks ended: the handler is told at once, whatever it has."""
        self._send([], lost)

    def drain(self) -> None:
        """What has not gone out comes back; so does all that comes from now on."""
        self._draining = True
        while self._fragments:
            fragment = self._fragments.popleft()
            _release(fragment, range(len(fragment.places)))
        self.waiting = 0

    async def close(self) -> None:
        """Wait for the runs that are open."""
        while self._tasks:
            await asyncio.wait(list(self._tasks))

    def _refuse_older(self, fragment: _Fragment) -> None:
        """Rows that wait here and belong to an older holding than the same session's new rows."""
        names, codes = fragment.batch.distinct("session")
        holdings = fragment.batch.values("holding")
        if not self._newest:
            self._remember(self._fragments)
        fresh: dict[str, int] = {}
        for at, code in enumerate(codes):
            if names[code] is not None:
                fresh[names[code]] = holdings[at]
        older = {
            name for name, holding in fresh.items() if self._newest.get(name, holding) < holding
        }
        self._newest.update(fresh)
        if not older:
            return
        for at, waiting in enumerate(list(self._fragments)):
            sessions = waiting.batch.values("session")
            held = waiting.batch.values("holding")
            gone = [
                row
                for row, session in enumerate(sessions)
                if session in older and held[row] < fresh[session]
            ]
            if gone:
                _release(waiting, gone)
                self.waiting -= len(gone)
                self._fragments[at] = waiting.without(gone)
        self._fragments = deque(one for one in self._fragments if one.places)

    def _remember(self, fragments: deque[_Fragment]) -> None:
        for fragment in fragments:
            pairs = zip(
                fragment.batch.values("session"), fragment.batch.values("holding"), strict=True
            )
            self._newest.update((name, holding) for name, holding in pairs if name is not None)

    def _pump(self) -> None:
        """Send what waits while the handler answers; what it can't take yet grows into one run."""
        while self._fragments and self._unanswered < _UNANSWERED:
            source = self._fragments[0].source
            run: list[_Fragment] = []
            rows = size = 0
            while self._fragments and self._fragments[0].source == source:
                fragment = self._fragments[0]
                size += fragment.batch.nbytes
                full = rows + len(fragment.places) > self._settings.batch_rows
                if run and (full or size > self._settings.batch_bytes):
                    break
                run.append(self._fragments.popleft())
                rows += len(fragment.places)
            self.waiting -= rows
            self._send(run, ())
        if not self._fragments:
            self._newest.clear()

    def _send(self, run: list[_Fragment], lost: tuple[tuple[str, int], ...]) -> None:
        self.number += 1
        closed, self.closed = tuple(self.closed), []
        source = run[0].source if run else ""
        settings = self._settings
        header = Header(settings.name, settings.epoch, self.number, source, closed, lost)
        batch = MessageBatch.concat([one.batch for one in run]) if run else MessageBatch.empty()
        self.rows += len(batch)
        books = _Books([(one.book, one.places) for one in run])
        if run:
            self._unanswered += 1
        task = asyncio.ensure_future(drive(self._calls, header, batch, self._applier(books)))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _applier(self, books: _Books) -> Callable[[Part], None]:
        waits = bool(books.rows)

        def apply(part: Part) -> None:
            nonlocal waits
            books.apply(part)
            if waits:
                waits = False
                self._unanswered -= 1
                self._pump()

        return apply

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)


class _Books:
    """Which call, and which row of it, each row of a run came with."""

    def __init__(self, parts: Sequence[tuple[OutcomeBook, Sequence[int]]]) -> None:
        self._parts = parts
        self._starts: list[int] = []
        self.rows = 0
        for _, places in parts:
            self._starts.append(self.rows)
            self.rows += len(places)
        self._open = self.rows

    def apply(self, part: Part) -> None:
        """Note a handler's outcomes in the books of the calls."""
        starts, parts = self._starts, self._parts
        if len(parts) == 1:
            book, places = parts[0]
            book.complete([places[row] for row in part.completed])
        else:
            done: list[list[int]] = [[] for _ in parts]
            for row in part.completed:
                at = bisect_right(starts, row) - 1
                done[at].append(parts[at][1][row - starts[at]])
            for at, rows in enumerate(done):
                if rows:
                    parts[at][0].complete(rows)
        for outcome in part.others:
            at = bisect_right(starts, outcome.row) - 1
            book, places = parts[at]
            place = places[outcome.row - starts[at]]
            book.end(_moved(outcome, place))
        self._open -= len(part.completed) + len(part.others)
        if part.last and self._open:
            raise ValidationError("outcome", "must come for every row; missing", self._open)


def _moved(outcome: Outcome, row: int) -> Outcome:
    return Outcome(
        row, outcome.kind, outcome.delay, outcome.counted, outcome.reason, outcome.description
    )


def _release(fragment: _Fragment, rows: Sequence[int]) -> None:
    for row in rows:
        fragment.book.end(Outcome(fragment.places[row], Kind.RELEASED))
