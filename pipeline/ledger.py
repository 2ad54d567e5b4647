"""The ledger: every delivery a receiver holds, from its receipt to its one end.

Rows are numbered as they come; those of one receive form a lot, kept as lists side by side, so that
no object is made per message. The ledger decides nothing about order (that is `turns`) and calls
nobody: it knows what is in hand, what is being settled, and that nothing ends twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.errors import ValidationError

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
    """The rows of one receive; row `base + i` stands at place `i` of every list."""

    __slots__ = (
        "base",
        "enqueued",
        "holding",
        "ids",
        "open",
        "receipts",
        "sequences",
        "since",
        "sizes",
        "states",
        "turns",
    )

    def __init__(
        self,
        base: int,
        receipts: Sequence[Any],
        turns: Sequence[Turns | None],
        sequences: Sequence[int],
        sizes: Sequence[int],
        enqueued: Sequence[float],
        ids: Sequence[str],
        holding: int,
        since: float,
    ) -> None:
        self.base = base
        self.receipts = receipts
        self.turns = turns
        self.sequences = sequences
        self.sizes = sizes
        self.enqueued = enqueued
        self.ids = ids
        self.holding = holding
        self.since = since
        self.states = bytearray(len(receipts))
        self.open = len(receipts)

    def unsettled(self) -> list[int]:
        """The rows whose lock still matters: in hand or being settled."""
        return [self.base + at for at, state in enumerate(self.states) if state <= SETTLING]


class Ledger:
    """All lots of one receiver. Every method is synchronous."""

    def __init__(self) -> None:
        self._lots: dict[int, Lot] = {}
        self._number = 0
        self.open = 0

    def admit(
        self,
        receipts: Sequence[Any],
        turns: Sequence[Turns | None],
        sequences: Sequence[int],
        sizes: Sequence[int],
        enqueued: Sequence[float],
        ids: Sequence[str] = (),
        holding: int = 0,
        since: float = 0.0,
    ) -> Lot:
        """Take in the rows of one receive (at most `MOST_ROWS`), which came at `since`.

        `turns` has None, and `ids` and `holding` are given, where messages have no order.
        """
        if len(receipts) > MOST_ROWS:
            raise ValidationError("receive", f"brings at most {MOST_ROWS} rows", len(receipts))
        base = self._number << _WIDTH
        lot = Lot(base, receipts, turns, sequences, sizes, enqueued, ids, holding, since)
        self._number += 1
        if receipts:
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
        return not self.settle_all(lot, [place])

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

    def lots(self, rows: Sequence[int]) -> Iterator[tuple[Lot, list[int]]]:
        """The rows' lots, each with the places of those rows: one pass over each lot's lists.

        Raises:
            ValidationError: every row of a lot has ended.
        """
        if not rows:
            return
        if min(rows) >> _WIDTH == max(rows) >> _WIDTH:  # as nearly always
            yield self.find(rows[0])[0], [row & _MASK for row in rows]
            return
        places: dict[int, list[int]] = {}
        for row in rows:
            places.setdefault(row >> _WIDTH, []).append(row & _MASK)
        for number, found in places.items():
            yield self.find(number << _WIDTH)[0], found

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

    def settle_all(self, lot: Lot, places: Sequence[int]) -> list[int]:
        """Begin to settle rows in hand; returns the places of those whose lock was lost."""
        states = lot.states
        lost = []
        for place in places:
            state = states[place]
            if state == IN_HAND:
                states[place] = SETTLING
            elif state == LOST:
                lost.append(place)
            else:
                raise ValidationError("outcome", "must come once a delivery", lot.base + place)
        return lost

    def end_all(self, lot: Lot, places: Sequence[int]) -> int:
        """The rows have come to their one end; returns their bytes together."""
        states, sizes = lot.states, lot.sizes
        size = 0
        for place in places:
            if states[place] == ENDED:
                raise ValidationError("delivery", "must end once", lot.base + place)
            states[place] = ENDED
            size += sizes[place]
        lot.open -= len(places)
        self.open -= len(places)
        if not lot.open:
            del self._lots[lot.base >> _WIDTH]
        return size
