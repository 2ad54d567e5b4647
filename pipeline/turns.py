"""Turns: what keeps one session's rows in order in the receiver that holds it (DESIGN law 3).

A holding is cut into turns. Rows go out freely within a turn, in ascending sequence, until one of
them ends in anything but completed: the turn is stopped, everything of it comes back, and only when
every row of it has an outcome does the next turn begin, with the failed row first.

Pure: each method takes what happened and changes what is known; the receiver asks `due` and acts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.batch import MessageBatch
    from pipeline.ledger import Lot


PAUSE = 0.2
"""Seconds until what came back untried goes out again: a turn, or a row without order."""


@dataclass(frozen=True, slots=True, order=True)
class Held:
    """A row that waits in the receiver.

    Args:
        sequence: the queue's number; what orders the rows.
        row: the ledger's number.
        batch: has a copy of it.
        place: at this position.
        failures: attempts that failed during this delivery and that the handler can't know of, or
            keeps no count of: without order all, with order the deaths of its process.
        alone: whether it has to run with nothing beside it: a process died with it in hand.
    """

    sequence: int
    row: int
    batch: MessageBatch = field(compare=False)
    place: int = field(compare=False)
    failures: int = field(default=0, compare=False)
    alone: bool = field(default=False, compare=False)


@dataclass(slots=True)
class Stretch:
    """A session's rows of one receive.

    Args:
        lot: that receive's.
        places: where they stand in it, in ascending sequence.
        next: the first of them that has not ended, as far as was looked at.
    """

    lot: Lot
    places: list[int]
    next: int = 0


class Turns:
    """One session in one holding.

    Args:
        session: its id.
        holding: the number of this possession.
        slot: the session's slot.
    """

    __slots__ = (
        "asked",
        "disposing",
        "given_back_at",
        "held",
        "holding",
        "idle_since",
        "lost",
        "opened_at",
        "out",
        "resume_at",
        "resumed",
        "resumed_at",
        "session",
        "settled_below",
        "slot",
        "stopped",
        "stretches",
        "top",
        "tried",
        "turn",
        "unknown",
        "waiting",
        "yields",
    )

    def __init__(self, session: str, holding: int, slot: int) -> None:
        self.session = session
        self.holding = holding
        self.slot = slot
        self.turn = 0
        self.held = 0  # rows in hand
        self.out = 0  # of them: sent on, without an outcome
        self.disposing = 0  # of them: being dead-lettered, unconfirmed
        self.stopped = False
        self.lost = False
        self.yields = False  # busy for so long that others get it once it is empty
        self.resume_at = 0.0
        self.resumed = 0  # how many rows the turn began with
        self.resumed_at = 0.0
        self.tried = True  # a row of the turn has failed
        self.unknown = False  # a handler may run a row that came back (DESIGN law 3 d)
        self.asked = False  # rows went to it since, behind that one
        self.given_back_at: float | None = None
        self.opened_at = 0.0
        self.idle_since = 0.0
        self.settled_below = 0
        self.top = 0  # the highest sequence seen
        self.stretches: deque[Stretch] = deque()
        self.waiting: list[Held] = []

    def hold(self, held: Held, *, unknown: bool = False) -> None:
        """A row waits for the next turn: released, failed, or new while the turn is stopped.

        Where its run may still go on the session is not given back; a next turn may begin, because
        the handler that has it runs that one first.
        """
        self.stopped = True
        self.waiting.append(held)
        if unknown:
            self.unknown, self.asked = True, False

    def answered(self) -> None:
        """A handler has told how a row ended: what it ran before that is over."""
        if self.asked:
            self.unknown = self.asked = False

    def wait(self, now: float, delay: float, most: float) -> None:
        """The next turn begins no sooner than the delay.

        Past `most` seconds of waiting the session is given back instead: others may have it.
        """
        self.stopped = self.tried = True
        self.resume_at = max(self.resume_at, now + delay)
        if self.resume_at - now > most:
            self.given_back_at = now + most

    def give_back(self, now: float) -> None:
        """From now on there is no waiting here: once it is stopped, the session is given back."""
        self.given_back_at = now

    def dispose(self) -> None:
        """A row is being dead-lettered: the next turn waits for the confirmation."""
        self.stopped = True
        self.disposing += 1

    def quiet(self) -> bool:
        """Whether nothing of the turn is out or being disposed of."""
        return not self.out and not self.disposing

    def due(self) -> float | None:
        """When something is to be done about a stopped, quiet session; None: not yet known."""
        if not self.stopped or not self.quiet() or self.lost:
            return None
        if self.given_back_at is not None and not self.unknown:
            return self.given_back_at
        if not self.waiting:
            return 0.0
        # All of a turn came back untried: who refuses it, of an older holding as a rule, would
        # refuse the next one in the same moment.
        vain = not self.tried and len(self.waiting) >= self.resumed
        return max(self.resume_at, self.resumed_at + PAUSE) if vain else self.resume_at

    def gives_back(self, now: float) -> bool:
        """Whether the time has come to give the session back instead of trying again."""
        return not self.unknown and self.given_back_at is not None and now >= self.given_back_at

    def resume(self, now: float) -> list[Held]:
        """Begin the next turn with what waits, in order."""
        self.stopped = self.tried = False
        self.asked = self.unknown
        self.resumed, self.resumed_at = len(self.waiting), now
        self.turn += 1
        self.resume_at = 0.0
        if not self.unknown:
            self.given_back_at = None
        waiting, self.waiting = sorted(self.waiting), []
        return waiting
