"""The locks of a receiver: what is renewed, and what is lost when one ends.

A lock is a session's (NATIVE) or a lot's. What follows for the rows is the receiver's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pipeline.ledger import Ledger, Lot
from pipeline.providers.port import Receiver, Renewed
from pipeline.stages.holdings import Holdings
from pipeline.stages.renewal import Renewer
from pipeline.turns import Turns


class Locks:
    """Keeps a receiver's locks.

    Args:
        source: where they are renewed.
        ledger: the rows.
        holdings: the sessions.
        lose_session: told of a session whose holding is no longer ours.
        lose_row: told of a row, without a session, whose lock ended.
        most: seconds after which a message's lock can't be renewed; None: no limit.
        old: told of rows whose lock can't be renewed for much longer, and that are still held.
    """

    def __init__(
        self,
        source: Receiver,
        ledger: Ledger,
        holdings: Holdings,
        lose_session: Callable[[Turns], None],
        lose_row: Callable[[int], None],
        most: float | None,
        old: Callable[[Lot], None],
    ) -> None:
        self._source = source
        self._ledger = ledger
        self._holdings = holdings
        self._lose_session = lose_session
        self._lose_row = lose_row
        self._most = most
        self._old = old
        renew = self._renew_sessions if holdings.native else self._renew_lots
        self.renewer: Renewer[int] = Renewer(renew, self._lost)

    async def _renew_sessions(self, holdings: Sequence[int]) -> Renewed:
        return await self._source.renew_sessions(holdings)

    async def _renew_lots(self, bases: Sequence[int]) -> Renewed:
        rows: list[int] = []
        for base in bases:
            lot = self._ledger.lot(base)
            held = [] if lot is None else lot.unsettled()
            if not held:  # its rows are lost, and some still run
                self.renewer.forget(base)
            rows += held
        if not rows:
            return Renewed(0.0)
        answer = await self._source.renew(self._ledger.receipts(rows))
        # One row that can't be renewed is lost alone; its lot goes on with the others.
        again = {}
        for place, error in answer.failures.items():
            if error.transient:
                again[self._ledger.base(rows[place])] = error
            else:
                self.lose(rows[place])
        failures = {at: again[base] for at, base in enumerate(bases) if base in again}
        if self._most is not None:
            self._tell_old(bases, self._most, answer.deadline)
        return Renewed(answer.deadline, failures)

    def _tell_old(self, bases: Sequence[int], most: float, deadline: float) -> None:
        """A lot that may not live for another two locks is old."""
        now = asyncio.get_running_loop().time()
        for base in bases:
            lot = self._ledger.lot(base)
            if lot is not None and lot.since + most - now <= 2 * (deadline - now):
                self._old(lot)

    def _lost(self, key: int) -> None:
        if self._holdings.native:
            self._lose_session(self._holdings.held(key))
            return
        lot = self._ledger.lot(key)
        for row in lot.unsettled() if lot is not None else ():
            self.lose(row)

    def lose(self, row: int) -> None:
        """One row's lock ended (not NATIVE): with it the whole holding of its group."""
        lot, place = self._ledger.find(row)
        turns = lot.turns(place)
        if turns is not None:
            self._lose_session(turns)
        else:
            self._lose_row(row)
