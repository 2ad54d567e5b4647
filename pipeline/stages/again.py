"""Rows that go out again from the receiver that holds them: retries in place (DESIGN law 3 c)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pipeline.batch import MessageBatch
from pipeline.ledger import Ledger
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
        send: Callable[[MessageBatch, Sequence[int]], None],
        lost: Callable[[Sequence[int]], None],
    ) -> None:
        self._ledger = ledger
        self._held = held
        self._send = send
        self._lost = lost
        self._due: list[tuple[Held, int, int]] = []
        self._waiting: dict[int, int] = {}

    def __len__(self) -> int:
        """How many rows without a session wait for their time."""
        return len(self._waiting)

    def later(self, held: Held, delay: float, failures: int) -> None:
        """A row without a session waits for its retry.

        Args:
            held: the row.
            delay: seconds.
            failures: attempts that failed during this delivery.
        """
        self._waiting[held.row] = failures
        asyncio.get_running_loop().call_later(delay, self._time_has_come, held)

    def forget(self, row: int) -> bool:
        """The row does not wait any longer; whether it did."""
        return self._waiting.pop(row, None) is not None

    def take(self) -> list[int]:
        """All rows that wait, which they no longer do."""
        rows = list(self._waiting)
        self._waiting.clear()
        return rows

    def now(self, held: Sequence[Held], turn: int, failures: int = 0) -> None:
        """Rows go out in this pass of the loop."""
        if held and not self._due:
            asyncio.get_running_loop().call_soon(self._flush)
        self._due.extend((one, turn, failures) for one in held)

    def _time_has_come(self, held: Held) -> None:
        failures = self._waiting.pop(held.row, None)
        if failures is not None:
            self.now([held], 0, failures)

    def _flush(self) -> None:
        due, self._due = self._due, []
        self._lost([held.row for held, _, _ in due if not self._held(held.row)])
        due = [entry for entry in due if self._held(entry[0].row)]
        if not due:
            return
        below = []
        for held, _, _ in due:
            lot, place = self._ledger.find(held.row)
            turns = lot.turns[place]
            below.append(0 if turns is None else turns.settled_below)
            if turns is not None:
                turns.out += 1
        batch = MessageBatch.gather([(held.batch, held.place) for held, _, _ in due])
        self._send(
            batch.with_columns(
                turn=[turn for _, turn, _ in due],
                failures=[failures for _, _, failures in due],
                settled_below=below,
            ),
            [held.row for held, _, _ in due],
        )
