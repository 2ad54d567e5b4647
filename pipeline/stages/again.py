"""Rows that go out again from the receiver that holds them: retries in place (DESIGN law 3 c)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.batch import MessageBatch
from pipeline.ledger import Ledger
from pipeline.stages.outgo import Send
from pipeline.turns import Held


class Again:
    """Sends rows again; those of one pass of the loop go together.

    Args:
        ledger: the rows.
        held: whether a row's lock is still ours.
        send: sends a batch of rows.
        lost: told of rows whose locks ended while they waited here.
    """

    def __init__(
        self,
        ledger: Ledger,
        held: Callable[[int], bool],
        send: Send,
        lost: Callable[[Sequence[int]], None],
    ) -> None:
        self._ledger = ledger
        self._held = held
        self._send = send
        self._lost = lost
        self._due: list[tuple[Held, int]] = []
        self._alone: list[tuple[Held, int]] = []
        self._waiting: set[int] = set()

    def __len__(self) -> int:
        """How many rows without a session wait for their time."""
        return len(self._waiting)

    def later(self, held: Held, delay: float) -> None:
        """A row without a session waits so many seconds for its retry."""
        self._waiting.add(held.row)
        asyncio.get_running_loop().call_later(delay, self._time_has_come, held)

    def forget(self, row: int) -> bool:
        """The row does not wait any longer; whether it did."""
        waited = row in self._waiting
        self._waiting.discard(row)
        return waited

    def take(self) -> list[int]:
        """All rows that wait, which they no longer do."""
        rows = list(self._waiting)
        self._waiting.clear()
        return rows

    def now(self, held: Sequence[Held], turn: int) -> None:
        """Rows of one session, or one without, go out in this pass of the loop."""
        if held and not self._due and not self._alone:
            asyncio.get_running_loop().call_soon(self.flush)
        # Order: what stands before a row that must run alone can't go beside or behind it.
        cut = max((at + 1 for at, one in enumerate(held) if one.alone), default=0)
        self._alone.extend((one, turn) for one in held[:cut])
        self._due.extend((one, turn) for one in held[cut:])

    def _time_has_come(self, held: Held) -> None:
        if self.forget(held.row):
            self.now([held], 0)

    def flush(self) -> None:
        """Send now what would go out in this pass of the loop."""
        alone, self._alone = self._alone, []
        due, self._due = self._due, []
        self._go(alone, alone=True)
        self._go(due, alone=False)

    def _go(self, due: Sequence[tuple[Held, int]], *, alone: bool) -> None:
        self._lost([held.row for held, _ in due if not self._held(held.row)])
        due = [entry for entry in due if self._held(entry[0].row)]
        if not due:
            return
        below = []
        for held, _ in due:
            lot, place = self._ledger.find(held.row)
            turns = lot.turns(place)
            below.append(0 if turns is None else turns.settled_below)
            if turns is not None:
                turns.out += 1
        batch = MessageBatch.gather([(held.batch, held.place) for held, _ in due])
        self._send(
            batch.with_columns(
                turn=[turn for _, turn in due],
                failures=[held.failures for held, _ in due],
                settled_below=below,
            ),
            np.array([held.row for held, _ in due]),
            alone=alone,
        )
