"""The ledger: every delivery a receiver holds, from its receipt to its one end.

Rows are numbered as they come; those of one receive form a lot, kept as columns side by side, so
that no object is made per message. The ledger decides nothing about order (that is `turns`) and
calls nobody: it knows what is in hand, what is being settled, and that nothing ends twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ValidationError
from pipeline.rows import Codes, Rows, runs

if TYPE_CHECKING:
    from pipeline.turns import Turns

_WIDTH = 16
MOST_ROWS = 1 << _WIDTH
_MASK = MOST_ROWS - 1

IN_HAND = 0
SETTLING = 1
LOST = 2
ENDED = 3


class Lot:
    """The rows of one receive; row `base + i` stands at place `i` of every column."""

    __slots__ = (
        "_states",
        "base",
        "codes",
        "enqueued",
        "holding",
        "ids",
        "open",
        "receipts",
        "sequences",
        "sessions",
        "since",
        "sizes",
        "states",
    )

    def __init__(
        self,
        base: int,
        receipts: Sequence[Any],
        sessions: Sequence[Turns],
        codes: Codes,
        sequences: Rows,
        sizes: npt.NDArray[np.int32],
        enqueued: npt.NDArray[np.float64],
        ids: Sequence[str],
        holding: int,
        since: float,
    ) -> None:
        self.base = base
        self.receipts = receipts
        self.sessions = sessions
        self.codes = codes
        self.sequences = sequences
        self.sizes = sizes
        self.enqueued = enqueued
        self.ids = ids
        self.holding = holding
        self.since = since
        self.states = bytearray(len(receipts))  # read one by one
        self._states = np.frombuffer(self.states, np.uint8)  # the same memory, for many at once
        self.open = len(receipts)

    def turns(self, place: int) -> Turns | None:
        """The session of a row; None where messages have no order."""
        return self.sessions[self.codes[place]] if self.sessions else None

    def by_session(self, places: Rows) -> list[tuple[Turns, int]]:
        """How many of these rows each session has; nothing where messages have no order."""
        if not self.sessions:
            return []
        if len(places) == 1:
            return [(self.sessions[self.codes[places[0]]], 1)]
        codes, counts = np.unique(self.codes[places], return_counts=True)
        pairs = zip(codes.tolist(), counts.tolist(), strict=True)
        return [(self.sessions[code], count) for code, count in pairs]

    def unsettled(self) -> list[int]:
        """The rows whose lock still matters: in hand or being settled."""
        rows: list[int] = (np.flatnonzero(self._states <= SETTLING) + self.base).tolist()
        return rows

    def ours(self, places: Rows) -> npt.NDArray[np.bool_]:
        """Whether each row's lock is ours, as far as we know."""
        ours: npt.NDArray[np.bool_] = self._states[places] <= SETTLING
        return ours

    def settle(self, places: Rows) -> Rows:
        """Begin to settle rows in hand; returns the places of those whose lock was lost."""
        lost: Rows = places[self._states[places] == LOST]
        if len(lost):
            places = places[self._states[places] != LOST]
        self._change(places, SETTLING, "outcome", "must come once a delivery")
        return lost

    def end(self, places: Rows) -> None:
        """The rows have come to their one end."""
        self._change(places, ENDED, "delivery", "must end once")
        self.open -= len(places)

    def _change(self, places: Rows, state: int, field: str, rule: str) -> None:
        """To a state that none of them has been in or past, except that a lost row ends too."""
        states = self._states
        before = states[places]
        count = np.count_nonzero(states == state)
        states[places] = state
        if (before >= state).any() or np.count_nonzero(states == state) != count + len(places):
            states[places] = before
            raise ValidationError(field, rule, (places + self.base).tolist())


class Ledger:
    """All lots of one receiver. Every method is synchronous."""

    def __init__(self) -> None:
        self._lots: dict[int, Lot] = {}
        self._number = 0
        self.open = 0

    def admit(
        self,
        receipts: Sequence[Any],
        sessions: Sequence[Turns],
        codes: Codes,
        sequences: Rows,
        sizes: npt.NDArray[np.int32],
        enqueued: npt.NDArray[np.float64],
        ids: Sequence[str] = (),
        holding: int = 0,
        since: float = 0.0,
    ) -> Lot:
        """Take in the rows of one receive (at most `MOST_ROWS`), which came at `since`.

        Row `i` is of `sessions[codes[i]]`; where messages have no order there are no sessions, and
        `ids` and `holding` are given.
        """
        if len(receipts) > MOST_ROWS:
            raise ValidationError("receive", f"brings at most {MOST_ROWS} rows", len(receipts))
        base = self._number << _WIDTH
        lot = Lot(base, receipts, sessions, codes, sequences, sizes, enqueued, ids, holding, since)
        self._number += 1
        if len(receipts):
            self._lots[lot.base >> _WIDTH] = lot
            self.open += len(receipts)
        return lot

    def find(self, row: int) -> tuple[Lot, int]:
        """The row's lot and its place there.

        Raises:
            ValidationError: every row of the lot has ended.
        """
        lot = self._lots.get(row >> _WIDTH)
        if lot is None:
            raise ValidationError("delivery", "must end once", row)
        return lot, row & _MASK

    def lot(self, base: int) -> Lot | None:
        """The lot that begins at this row, while it has rows."""
        return self._lots.get(base >> _WIDTH)

    @staticmethod
    def base(row: int) -> int:
        """Where the row's lot begins."""
        return row & ~_MASK

    def state(self, row: int) -> int:
        """IN_HAND, SETTLING, LOST or ENDED."""
        lot = self._lots.get(row >> _WIDTH)
        return ENDED if lot is None else lot.states[row & _MASK]

    def settle(self, row: int) -> bool:
        """Begin to settle a row in hand; False when its lock was lost meanwhile."""
        lot, place = self.find(row)
        return not len(lot.settle(np.array([place])))

    def keep(self, row: int) -> None:
        """A row that was being settled, and still is ours, is in hand again: that can't be done."""
        lot, place = self.find(row)
        lot.states[place] = IN_HAND

    def lose(self, row: int) -> bool:
        """The lock on this row ended; True when that was news."""
        lot, place = self.find(row)
        if lot.states[place] > SETTLING:
            return False
        lot.states[place] = LOST
        return True

    def may_go(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which of these rows may go on: their lock is ours, and their session is not stopped."""
        go = np.empty(len(rows), np.bool_)
        numbers = rows >> _WIDTH
        for number in np.unique(numbers).tolist():
            lot = self.find(number << _WIDTH)[0]
            at = np.flatnonzero(numbers == number)
            places = rows[at] & _MASK
            go[at] = lot.ours(places)
            if lot.sessions:
                stopped = np.array([turns.stopped for turns in lot.sessions])
                go[at] &= ~stopped[lot.codes[places]]
        return go

    def lots(self, rows: Sequence[int] | Rows) -> Iterator[tuple[Lot, Rows]]:
        """The rows' lots, each with the places of those rows.

        Raises:
            ValidationError: every row of a lot has ended.
        """
        numbers = np.asarray(rows, np.int64)
        lots = numbers >> _WIDTH
        if len(lots) and (lots == lots[0]).all():  # as nearly always
            yield self.find(int(numbers[0]))[0], numbers & _MASK
            return
        order = np.argsort(lots, kind="stable")
        places = numbers[order] & _MASK
        for number, begin, end in runs(lots[order]):
            yield self.find(number << _WIDTH)[0], places[begin:end]

    def receipts(self, rows: Sequence[int]) -> list[Any]:
        """The rows' receipts, in their order."""
        found = []
        number = -1
        receipts: Sequence[Any] = ()
        for row in rows:
            if row >> _WIDTH != number:
                number = row >> _WIDTH
                receipts = self.find(row)[0].receipts
            found.append(receipts[row & _MASK])
        return found

    def end(self, lot: Lot, places: Rows) -> int:
        """The rows have come to their one end; returns their bytes together."""
        lot.end(places)
        self.open -= len(places)
        if not lot.open:
            del self._lots[lot.base >> _WIDTH]
        return int(lot.sizes[places].sum())
