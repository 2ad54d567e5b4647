"""The router: session to handler, sticky; rows grow into large batches while a handler is busy.

It owns what is in flight between its receivers and its handlers, in order, and matches every
outcome to the call its row came with. It decides two things about a row: one of an older holding is
refused when a newer one of its session has come (DESIGN law 3 e), and so is one that was sent
before its receiver knew that a handler has died: the turns that handler had stopped died with it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np

from pipeline.batch import MessageBatch
from pipeline.errors import ValidationError
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part
from pipeline.rows import Rows, runs
from pipeline.slots import SlotTable, owners_of
from pipeline.stages.calls import Header, Line, Reception, RunCalls, RunRow

_NONE_OF_OURS = (0, 0)
"""Names no row: calls are numbered from 1."""
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
        by_id: whether messages without a session that have one id come to one handler.
    """

    name: str
    epoch: int
    batch_rows: int
    batch_bytes: int
    by_id: bool = False


@dataclass(slots=True)
class _Fragment:
    """Rows of one call that go to one handler."""

    book: OutcomeBook
    places: Rows
    batch: MessageBatch
    source: str
    alone: bool = False

    def take(self, rows: Rows) -> _Fragment:
        """Some of the rows."""
        places = self.places[rows]
        return _Fragment(self.book, places, self.batch.take(rows), self.source, self.alone)

    def without(self, rows: Rows) -> _Fragment:
        """All rows but some."""
        return self.take(np.delete(np.arange(len(self.places)), rows))


class RouterCore:
    """The core of `RouterActor`.

    Args:
        settings: what it is configured with.
        handlers: by number; those this router owns.
        table: who owns which slot.
        fatal: told of an error after which rows may have no outcome.
    """

    def __init__(
        self,
        settings: RouterSettings,
        handlers: dict[int, RunCalls],
        table: SlotTable,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._epoch = settings.epoch
        self._by_id = settings.by_id
        self._table = table
        self._own = sorted(handlers)
        line = partial(Line, settings.name, settings.epoch, fatal=fatal)
        self._ways = {
            number: _Way(settings, line, calls, self._handler_died)
            for number, calls in handlers.items()
        }
        self._reception = Reception(self._take_in)
        self._generation = 0
        self.counts = {"calls": 0, "rows": 0}

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Take the rows in; answer with the first outcomes."""
        return self._stamped(await self._reception.run(header, batch))

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """The next outcomes of a call that is still open."""
        return self._stamped(await self._reception.more(caller, epoch, number, part))

    def greet(self) -> None:
        """See which handlers are there: one that was dead before did not die of what it gets."""
        for way in self._ways.values():
            way.greet()

    async def join(self, handler: int, calls: RunCalls) -> None:
        """A new handler took the place of one that is dead, or will be found to be."""
        await self._ways[handler].join(calls)

    def overdue(self, handler: int, rows: Sequence[RunRow]) -> None:
        """A handler is about to be killed for these rows, which have run for too long.

        Args:
            handler: its number.
            rows: they, and no others, have failed when it has died: none of ours, where a router
                before this one had sent them.
        """
        mine = [(call, row) for epoch, call, row in rows if epoch == self._epoch]
        self._ways[handler].overdue.update(mine or [_NONE_OF_OURS])

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
            "runs": sum(way.runs for way in ways),
            "run_rows": sum(way.rows for way in ways),
        }

    def _stamped(self, part: Part) -> Part:
        part.generation = self._generation
        return part

    def _handler_died(self) -> None:
        self._generation += 1

    def _take_in(self, header: Header, batch: MessageBatch) -> OutcomeBook:
        book = OutcomeBook(len(batch), 0.0)
        self.counts["calls"] += 1
        self.counts["rows"] += len(batch)
        self._pass_notes(header)
        whole = _Fragment(book, np.arange(len(batch)), batch, header.source, header.alone)
        if header.generation < self._generation:
            _release(whole)
        elif len(batch):
            for number, (places, rows) in batch.split(self._owners(batch)).items():
                self._ways[number].add(_Fragment(book, places, rows, header.source, header.alone))
        return book

    def _owners(self, batch: MessageBatch) -> Rows:
        names, codes = batch.distinct("session")
        ids = batch.values("id") if self._by_id else None
        return owners_of(names, codes, self._table.handler_of, self._own, ids)

    def _pass_notes(self, header: Header) -> None:
        for session, holding in header.closed:
            self._ways[self._table.handler_of(session)].closed.append((session, holding))
        if header.lost:
            for way in self._ways.values():
                way.lose(header.lost)


class _Way:
    """The way to one handler: what waits for it, and what it has.

    Args:
        settings: the router's.
        line: makes a line to a handler.
        calls: the handler that is there now.
        died: told once of each handler that died.
    """

    def __init__(
        self,
        settings: RouterSettings,
        line: Callable[..., Line],
        calls: RunCalls,
        died: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._new_line = partial(line, voided=self._voided)
        self._line = self._new_line(calls=calls)
        self._died = died
        self._known_dead = False
        self._greeted = False
        self._fragments: deque[_Fragment] = deque()
        self._newest: dict[str, int] = {}
        self._unanswered = 0
        self._running: set[_Sent] = set()
        self._draining = False
        self.closed: list[tuple[str, int]] = []
        self.overdue: set[tuple[int, int]] = set()
        self.sole = False
        """The handler died with one row in its hands."""
        self.waiting = 0
        self.runs = 0
        self.rows = 0

    def add(self, fragment: _Fragment) -> None:
        """Rows have come for this handler."""
        if self._draining:
            _release(fragment)
            return
        if self._fragments:
            self._refuse_older(fragment)
        self._fragments.append(fragment)
        self.waiting += len(fragment.places)
        self._pump()

    def lose(self, lost: tuple[tuple[str, int], ...]) -> None:
        """Locks ended: what waits here comes back, and the handler is told, whatever it has."""
        ended = dict(lost)
        self._release_where(lambda key, holding: key in ended and holding <= ended[key])
        if not self._line.dead:
            self._send(_Sent([], self), MessageBatch.empty(), "", lost)

    async def join(self, calls: RunCalls) -> None:
        """A new handler is there: once nothing of the old one is open, it gets what waits."""
        if not await self._line.give_way(calls):
            return
        self.dead()  # if no call was open to tell
        self._line = self._new_line(calls=calls)
        self._known_dead = False
        self._greeted = True  # it has just been started
        self.overdue.clear()
        self._pump()

    def drain(self) -> None:
        """What has not gone out comes back; so does all that comes from now on."""
        self._draining = True
        self._release_all()

    async def close(self) -> None:
        """Wait for the runs that are open."""
        await self._line.close()

    def dead(self) -> None:
        """The handler died: what waits for it comes back, as its turn may have been stopped."""
        if not self._known_dead:
            self._known_dead = True
            self.sole = sum(sent.open for sent in self._running) == 1
            self._died()
            self._release_all()

    @property
    def alive(self) -> bool:
        """Whether the handler was alive when it got its rows, as far as anybody can know."""
        return self._greeted or self._line.alive

    def greet(self) -> None:
        """Make a call without rows, to see who is there."""
        self._send(_Sent([], self), MessageBatch.empty(), "", ())

    def _voided(self) -> None:
        """A run never came: what waits, and what is on its way, must not go before its rows."""
        self._died()
        self._release_all()

    def answered(self) -> None:
        """A run has its first answer: the next one may go."""
        self._unanswered -= 1
        self._pump()

    def ended(self, sent: _Sent) -> None:
        """A run is over."""
        self._running.discard(sent)
        self._pump()

    def _release_all(self) -> None:
        while self._fragments:
            _release(self._fragments.popleft())
        self._newest.clear()
        self.waiting = 0

    def _refuse_older(self, fragment: _Fragment) -> None:
        """Rows that wait here and belong to an older holding than the same session's new rows."""
        names, codes = fragment.batch.distinct("session")
        holdings = fragment.batch.values("holding")
        if not self._newest:
            self._remember(self._fragments)
        fresh: dict[str, int] = {}
        for at, code in enumerate(codes.tolist()):
            if names[code] is not None:
                fresh[names[code]] = holdings[at]
        older = {
            name for name, holding in fresh.items() if self._newest.get(name, holding) < holding
        }
        self._newest.update(fresh)
        if not older:
            return
        self._release_where(lambda key, holding: key in older and holding < fresh[key])

    def _release_where(self, gone: Callable[[str, int], bool]) -> None:
        """Rows that wait here come back: those of whose session (or id) and holding this is so."""
        for at, waiting in enumerate(list(self._fragments)):
            batch = waiting.batch
            keys = zip(batch.values("session"), batch.provider_ids(), strict=True)
            held = batch.values("holding")
            rows = [
                row
                for row, (session, id_) in enumerate(keys)
                # Without order a session is a label, and a lost lock is named by its message.
                if gone(id_, held[row]) or (session is not None and gone(session, held[row]))
            ]
            if rows:
                found = np.array(rows)
                _release(waiting.take(found))
                self.waiting -= len(rows)
                self._fragments[at] = waiting.without(found)
        self._fragments = deque(one for one in self._fragments if len(one.places))

    def _remember(self, fragments: deque[_Fragment]) -> None:
        for fragment in fragments:
            pairs = zip(
                fragment.batch.values("session"), fragment.batch.values("holding"), strict=True
            )
            self._newest.update((name, holding) for name, holding in pairs if name is not None)

    def _pump(self) -> None:
        """Send what waits while the handler answers; what it can't take yet grows into one run."""
        while self._fragments and self._may_send():
            run = self._next_alone() if self._fragments[0].alone else self._next_run()
            batch = MessageBatch.concat([one.batch for one in run])
            self.waiting -= len(batch)
            self.runs += 1
            self.rows += len(batch)
            self._unanswered += 1
            sent = _Sent(run, self)
            self._running.add(sent)
            self._send(sent, batch, run[0].source, ())
        if not self._fragments:
            self._newest.clear()

    def _may_send(self) -> bool:
        if self._line.dead or self._unanswered >= _UNANSWERED:
            return False
        if self._fragments[0].alone:
            return not self._running
        return not any(sent.alone for sent in self._running)

    def _next_alone(self) -> list[_Fragment]:
        """One row: if the process dies, it is known of which."""
        fragment = self._fragments.popleft()
        while (rows := len(fragment.places)) > 1:
            # In halves: to cut off row after row would copy what is left once a row.
            self._fragments.appendleft(fragment.take(np.arange(rows // 2, rows)))
            fragment = fragment.take(np.arange(rows // 2))
        return [fragment]

    def _next_run(self) -> list[_Fragment]:
        """As many as go together."""
        source = self._fragments[0].source
        run: list[_Fragment] = []
        rows = size = 0
        while self._fragments:
            fragment = self._fragments[0]
            size += fragment.batch.nbytes
            full = rows + len(fragment.places) > self._settings.batch_rows
            if run and (full or size > self._settings.batch_bytes):
                break
            if fragment.source != source or fragment.alone:
                break
            run.append(self._fragments.popleft())
            rows += len(fragment.places)
        return run

    def _send(
        self,
        sent: _Sent,
        batch: MessageBatch,
        source: str,
        lost: tuple[tuple[str, int], ...],
    ) -> None:
        closed, self.closed = tuple(self.closed), []
        self._line.call(batch, sent, source=source, closed=closed, lost=lost, alone=sent.alone)
        sent.number = self._line.number


class _Sent:
    """A run at a handler: which call, and which row of it, each of its rows came with.

    Args:
        run: the rows, by the calls they came with; none: the run only brings notes.
        way: the way it was sent.
    """

    def __init__(self, run: Sequence[_Fragment], way: _Way) -> None:
        self._way = way
        self._parts = [(one.book, one.places) for one in run]
        sizes = [len(places) for _, places in self._parts]
        self._starts = list(accumulate(sizes, initial=0))[:-1]
        self._rows = sum(sizes)
        self.open = self._rows
        self._waits = bool(run)
        self.alone = bool(run) and run[0].alone
        self.number = 0

    def apply(self, part: Part) -> None:
        """Note the handler's outcomes in the books of the calls."""
        if part.void:
            self._end_open(lambda row: Outcome(row, Kind.RELEASED))
            return
        if len(self._parts) == 1:
            book, places = self._parts[0]
            book.complete(places[part.completed])
        else:
            completed = np.sort(part.completed)
            for at, begin, end in runs(np.searchsorted(self._starts, completed, "right") - 1):
                book, places = self._parts[at]
                book.complete(places[completed[begin:end] - self._starts[at]])
        for outcome in part.others:
            book, place = self._find(outcome.row)
            book.end(_moved(outcome, place))
        self.open -= len(part.completed) + len(part.others)
        if part.last and self.open:
            raise ValidationError("outcome", "must come for every row; missing", self.open)
        self._go_on(last=part.last)

    def died(self) -> None:
        """The handler is dead: which of its rows it died of is known, or will be found out."""
        way = self._way
        way.dead()
        sure = way.alive and (self.alone or way.sole or len(way.overdue) == 1)

        def outcome(row: int) -> Outcome:
            if way.overdue and (self.number, row) not in way.overdue:
                return Outcome(row, Kind.RELEASED)
            return Outcome(row, Kind.DIED, counted=sure)

        self._end_open(outcome)

    def _end_open(self, outcome: Callable[[int], Outcome]) -> None:
        for row in range(self._rows):
            book, place = self._find(row)
            if not book.ended(place):
                book.end(_moved(outcome(row), place))
        self.open = 0
        self._go_on(last=True)

    def _find(self, row: int) -> tuple[OutcomeBook, int]:
        at = bisect_right(self._starts, row) - 1
        book, places = self._parts[at]
        return book, int(places[row - self._starts[at]])

    def _go_on(self, *, last: bool) -> None:
        """Let the way know, once, that the handler has answered, and once that the run is over."""
        if not self._rows:
            return
        if self._waits:
            self._waits = False
            self._way.answered()
        if last:
            self._way.ended(self)


def _moved(outcome: Outcome, row: int) -> Outcome:
    return Outcome(
        row, outcome.kind, outcome.delay, outcome.counted, outcome.reason, outcome.description
    )


def _release(fragment: _Fragment) -> None:
    for place in fragment.places.tolist():
        fragment.book.end(Outcome(place, Kind.RELEASED))
