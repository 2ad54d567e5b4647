"""What a client has in hand: every row it received and has not settled, and until when.

Decisions only, no I/O: who asks gets the lease or the error, makes the provider's call and comes
back with how it went. Settling twice and settling too late are answered from here, the same on
every provider (SPEC P14).

Bounded: a settled row leaves nothing behind, because a receipt that is unknown means just that. A
row whose lock ended leaves its handle among the last 10,000 of that kind; an older one is answered
like an unknown one. Rows that nobody settles are swept out once their lock is over, whenever the
rows in hand have doubled since the last sweep: never more than twice those whose lock runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pipeline.clock import new_id
from pipeline.errors import (
    ConnectionFailed,
    MessageLockLost,
    MessageNotFound,
    QueueError,
    SessionLockLost,
    Timeout,
)
from pipeline.names import ReceiptHandle
from pipeline.providers.port import Holding, Receipt

LaneT = TypeVar("LaneT")

_REMEMBERED = 10_000
_SWEEP_FROM = 1_024

_LOST = "its lock ended before this call, and the queue delivers it again: drop it"
_UNKNOWN = "the receipt is settled already, or of another client, or its lock ended long ago"


@dataclass(slots=True, eq=False)
class Possession:
    """A session that this client holds: its lock is the lock of all its rows.

    Args:
        holding: what the provider granted.
        kept: whether a `ClientSession` holds it; else it ends with its last row.
        deadline: `loop.time()` at which it ends unless renewed.
        rows: the handles of its rows that are in hand.
        over: whether it was given back or lost.
    """

    holding: Holding
    kept: bool
    deadline: float
    rows: set[str] = field(default_factory=set)
    over: bool = False


@dataclass(slots=True, eq=False)
class Lease(Generic[LaneT]):
    """One row in hand.

    Args:
        handle: what the user has for it.
        receipt: what the provider has for it.
        lane: who received it, and so settles it.
        until: `loop.time()` at which its own lock ends; infinite where the session's counts.
        possession: the session it belongs to, where sessions are locked as a whole.
        settling: the operation under way, if one is.
        attempted: the operation whose outcome stayed unknown, if there was one.
    """

    handle: ReceiptHandle
    receipt: Receipt
    lane: LaneT
    until: float
    possession: Possession | None = None
    settling: str | None = None
    attempted: str | None = None

    @property
    def deadline(self) -> float:
        """`loop.time()` at which its lock ends."""
        return self.until if self.possession is None else self.possession.deadline


@dataclass(slots=True)
class Leases(Generic[LaneT]):
    """The ledger of one client.

    Args:
        time: the loop's clock, on which locks are judged.
        remembered: how many receipts whose lock ended are told from unknown ones.
    """

    time: Callable[[], float]
    remembered: int = _REMEMBERED
    _live: dict[str, Lease[LaneT]] = field(default_factory=dict)
    _lost: dict[str, None] = field(default_factory=dict)
    _sweep_at: int = _SWEEP_FROM
    _prefix: str = field(default_factory=lambda: new_id()[:12])
    _granted: int = 0

    def __len__(self) -> int:
        """How many rows are in hand."""
        return len(self._live)

    def grant(
        self, receipt: Receipt, lane: LaneT, until: float, possession: Possession | None
    ) -> ReceiptHandle:
        """Take a row in hand that was just received.

        Args:
            receipt: the provider's.
            lane: who received it.
            until: `loop.time()` at which its own lock ends.
            possession: the session it came with; then `until` does not count.
        """
        if len(self._live) >= self._sweep_at:
            self._sweep()
        # Counted, not drawn: a handle is never taken apart, it only has to be this client's alone.
        self._granted += 1
        handle = ReceiptHandle.trusted(f"{self._prefix}{self._granted:x}")
        if possession is not None:
            until = math.inf
            possession.rows.add(handle)
        self._live[handle] = Lease(handle, receipt, lane, until, possession)
        return handle

    def find(self, handle: str) -> Lease[LaneT] | QueueError:
        """The row in hand, or why it is not: settled or unknown, or its lock ended."""
        lease = self._live.get(handle)
        if lease is None:
            return MessageLockLost(_LOST) if handle in self._lost else MessageNotFound(_UNKNOWN)
        # A call under way decides for itself, even if the lock ends meanwhile.
        if lease.settling is None and lease.deadline <= self.time():
            self._lose(lease)
            return MessageLockLost(_LOST)
        return lease

    def begin(self, handle: str, operation: str) -> Lease[LaneT] | QueueError:
        """Begin to settle a row; what `find` refuses, and what is being settled, is an error."""
        lease = self.find(handle)
        if isinstance(lease, QueueError):
            return lease
        if lease.settling is not None:
            return MessageNotFound(f"another call is at it: {lease.settling}; wait for its result")
        lease.settling = operation
        return lease

    def conclude(self, lease: Lease[LaneT], error: QueueError | None) -> QueueError | None:
        """Take in how one call to settle a row went; a transient failure may be followed by more.

        Returns:
            The error that counts. None, too, when the row is not found because the same operation,
            whose outcome stayed unknown, had worked: it was ours until its deadline, so nobody
            else can have settled it.
        """
        if isinstance(error, MessageNotFound) and lease.attempted == lease.settling:
            error = None
        if error is None or isinstance(error, MessageNotFound):
            self._end(lease)
        elif isinstance(error, MessageLockLost | SessionLockLost):
            self.lose(lease)
        elif isinstance(error, Timeout | ConnectionFailed):
            lease.attempted = lease.settling
        return error

    def give_up(self, lease: Lease[LaneT], *, unknown: bool) -> None:
        """End the settling of a row that it did not end; it can be settled again.

        Args:
            lease: the row.
            unknown: whether the call was cut short, so that nobody knows whether it worked.
        """
        if unknown:
            lease.attempted = lease.settling
        lease.settling = None

    def refused(self, lease: Lease[LaneT], error: QueueError) -> None:
        """Take in why a row was not renewed."""
        if isinstance(error, MessageLockLost | SessionLockLost):
            self.lose(lease)
        elif isinstance(error, MessageNotFound) and lease.settling is None:
            self._end(lease)

    def lose(self, lease: Lease[LaneT]) -> None:
        """Take in that the provider says the lock of a row, or of its session, is over."""
        if lease.possession is not None:
            self.lose_session(lease.possession)
        self._lose(lease)

    def lose_session(self, possession: Possession) -> None:
        """Take in that a session's lock is over: every row of it is too late from now on."""
        possession.deadline = -math.inf
        possession.over = True

    def lost_session(self, possession: Possession) -> bool:
        """Whether a session is not held any more, because its lock ended or it was given back."""
        if possession.deadline <= self.time():
            self.lose_session(possession)
        return possession.over

    def emptied(self, leases: Iterable[Lease[LaneT]]) -> list[int]:
        """The holdings that end with these rows, because nothing of them is in hand any more.

        Each is named once, however many calls settle its last rows: whoever is told gives it back.
        """
        numbers = []
        for lease in leases:
            possession = lease.possession
            if possession is None or possession.kept or possession.rows:
                continue
            if not self.lost_session(possession):
                possession.over = True
                numbers.append(possession.holding.number)
        return numbers

    def give_back(self, possession: Possession) -> None:
        """End a session that is given back, with its rows: they come again."""
        possession.over = True
        for handle in list(possession.rows):
            self._end(self._live[handle])

    def clear(self) -> None:
        """Forget everything: the client is closed."""
        self._live.clear()
        self._lost.clear()

    def _end(self, lease: Lease[LaneT]) -> None:
        if self._live.pop(lease.handle, None) is not None and lease.possession is not None:
            lease.possession.rows.discard(lease.handle)

    def _lose(self, lease: Lease[LaneT]) -> None:
        self._end(lease)
        self._lost[lease.handle] = None
        while len(self._lost) > self.remembered:
            del self._lost[next(iter(self._lost))]

    def _sweep(self) -> None:
        now = self.time()
        for lease in list(self._live.values()):
            if lease.settling is None and lease.deadline <= now:
                self._lose(lease)
        self._sweep_at = max(_SWEEP_FROM, 2 * len(self._live))
