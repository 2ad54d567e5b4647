"""What crosses between a provider and its broker: the calls, and the plain values they bring.

`MemoryBroker` answers these calls in its own process; a proxy with the same methods reaches one in
another. Arguments and results are plain values or a `MessageBatch`, and pickle. Times are lengths
in seconds, never points of a loop's time, which differs from process to process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.batch import MessageBatch
from pipeline.message import Row
from pipeline.providers.port import DeadLetter, Depth, Failures, Want


@dataclass(frozen=True, slots=True)
class BrokerSent:
    """How a send went: columns, not an object a message.

    Args:
        sequences: one a row; 0 where none was given.
        duplicates: the positions that duplicate detection dropped.
        failures: position to error.
    """

    sequences: Sequence[int]
    duplicates: Sequence[int] = ()
    failures: Failures = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BrokerHolding:
    """A session that was locked: its number, its name, and for how many seconds."""

    number: int
    session: str
    seconds: float


@dataclass(frozen=True, slots=True)
class BrokerReceived:
    """What one receive brought.

    Args:
        batch: the rows.
        receipts: one a row: the tokens of their locks.
        seconds: how long the rows' locks last; infinite where the session's lock counts.
        opened: the sessions that this receive locked.
        others_wait: whether sessions that nobody holds have messages.
    """

    batch: MessageBatch
    receipts: Sequence[int]
    seconds: float
    opened: tuple[BrokerHolding, ...] = ()
    others_wait: bool = False


@dataclass(frozen=True, slots=True)
class BrokerRenewed:
    """How a renewal went: for how many seconds, and what failed."""

    seconds: float
    failures: Failures = field(default_factory=dict)


@dataclass(slots=True)
class Counters:
    """What happened on one queue since the broker was made; dead letters read back don't count.

    Args:
        sent: messages taken in.
        duplicates: messages that duplicate detection dropped.
        received: deliveries handed out.
        redelivered: those of them that were not the message's first.
        completed: messages deleted as handled.
        dead_lettered: messages moved to the dead letters, for whatever reason.
        expired: messages whose time to live ended, dead-lettered or dropped.
        dropped: those of them that were dropped.
        abandoned: deliveries given back as failed.
        released: deliveries given back unhandled, by closing a session or a lane as well.
        lock_lost: deliveries whose lock ended.
    """

    sent: int = 0
    duplicates: int = 0
    received: int = 0
    redelivered: int = 0
    completed: int = 0
    dead_lettered: int = 0
    expired: int = 0
    dropped: int = 0
    abandoned: int = 0
    released: int = 0
    lock_lost: int = 0


class BrokerCalls(Protocol):
    """A broker, here or elsewhere. Every call may raise `ConnectionFailed` from the way to it.

    A lane is a number that `open_lane` gave. A poll is a number the caller chose for one `receive`
    or `accept` of a lane, so that `end_poll` can end it, even when it arrives first.
    """

    async def source(self, queue: str) -> str:
        """`memory:<broker id>/<queue>`: another broker, or this one restarted, has another id."""

    async def send(self, queue: str, rows: Sequence[Row]) -> BrokerSent:
        """Take messages in."""

    async def cancel(self, queue: str, sequence: int) -> None:
        """Take back a scheduled message, or `MessageNotFound`."""

    async def depth(self, queue: str) -> Depth:
        """How much a queue holds."""

    async def counters(self, queue: str) -> Counters:
        """What happened on a queue."""

    async def open_lane(self, queue: str, dead_letters: bool = False, owner: str = "") -> int:
        """A new lane of a queue, or of its dead letters; the owner's last one is closed."""

    async def close_lane(self, lane: int) -> None:
        """Give back all it has in hand; its pending polls raise `Closed`. A repeat does nothing."""

    async def receive(self, lane: int, want: Want, poll: int = 0, after: int = 0) -> BrokerReceived:
        """Messages, as soon as there are some; none when the wait is over or the poll ended.

        `after` is the lane's last receive whose answer arrived: what a later one brought is given
        back first, so that nothing is taken behind it.
        """

    async def accept(
        self, lane: int, session: str | None, wait: float, poll: int = 0
    ) -> BrokerHolding:
        """Lock a session."""

    async def end_poll(self, lane: int, poll: int) -> None:
        """Its caller was cancelled: make it return at once with what it has."""

    async def complete(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Delete them."""

    async def abandon(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again, counted."""

    async def release(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again; of a group, nothing before the delay is over."""

    async def dead_letter(
        self, lane: int, receipts: Sequence[int], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""

    async def defer(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Set them aside."""

    async def receive_deferred(self, lane: int, sequences: Sequence[int]) -> BrokerReceived:
        """Bring messages that were set aside; `MessageNotFound` if one isn't there."""

    async def renew(self, lane: int, receipts: Sequence[int]) -> BrokerRenewed:
        """Prolong message locks."""

    async def peek(self, lane: int, count: int, after: int = 0) -> MessageBatch:
        """Read without locking."""

    async def release_sessions(self, lane: int, holdings: Sequence[int]) -> Failures:
        """Give sessions back."""

    async def renew_sessions(self, lane: int, holdings: Sequence[int]) -> BrokerRenewed:
        """Prolong session locks."""

    async def session_state(self, lane: int, holding: int) -> bytes | None:
        """The bytes kept with a held session."""

    async def set_session_state(self, lane: int, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session."""
