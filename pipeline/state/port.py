"""The state store port: what a store must do, as prose, and what it keeps for a session.

A store keeps one `SessionRecord` for each key (a pipeline's session, or one message where messages
have no order). One handler at a time owns a key; a store that several processes share refuses a
handler that lost it by comparing versions. All methods are coroutines, called from the handler
core's loop, one commit and one load at a time, never both on one key.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.errors import QueueError
from pipeline.message import Row

RECENT = 64
"""How many applied messages are remembered after their settlement is confirmed (SPEC F4)."""


class Applied:
    """What was applied of one source: (sequence, provider id), ascending as a rule."""

    __slots__ = ("_recent", "top")

    def __init__(self) -> None:
        self.top = -1
        self._recent: deque[tuple[int, str]] = deque()

    def __contains__(self, message: tuple[int, str]) -> bool:
        """Whether this message was applied. A sequence above all others can't have been."""
        return message[0] <= self.top and message in self._recent

    def extend(self, messages: Sequence[tuple[int, str]], settled_below: int) -> None:
        """Messages were applied; those below `settled_below` are confirmed, 64 of them stay."""
        recent = self._recent
        recent.extend(messages)
        highest = max(messages)[0]
        if highest > self.top:
            self.top = highest
        while len(recent) > RECENT and recent[RECENT][0] < settled_below:
            recent.popleft()

    def __len__(self) -> int:
        return len(self._recent)


@dataclass(frozen=True, slots=True)
class Failure:
    """How far a session's first message has failed; kept only while it has.

    Args:
        sequence: the message's sequence.
        id: the message's provider id.
        attempts: runs that failed.
        first_at: when the first one failed, seconds since 1970.
        retry_at: when it may run again, seconds since 1970.
        holding: the possession in which it failed last.
        verdict: (reason, description) once it is to be dead-lettered: a repeat ends the same.
        deaths: of the attempts, how many processes died of it in that holding.
    """

    sequence: int
    id: str
    attempts: int
    first_at: float
    retry_at: float = 0.0
    holding: int = 0
    verdict: tuple[str, str] | None = None
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that a handler sent and that is not confirmed yet.

    Args:
        sequence: of the message that caused it.
        queue: where it goes.
        row: the message, as plain values.
    """

    sequence: int
    queue: str
    row: Row


@dataclass(slots=True)
class SessionRecord:
    """What a store keeps for a key. Read it; only `commit` changes it.

    Args:
        version: grows with each commit.
        state: the user's state as JSON; None: none yet, or ended.
        applied: source to the record of what was applied of it.
        outbox: what was sent and is not confirmed, in order.
        failure: how far its first message has failed.
    """

    version: int = 0
    state: bytes | None = None
    applied: dict[str, Applied] = field(default_factory=dict)
    outbox: list[Pending] = field(default_factory=list)
    failure: Failure | None = None

    def has(self, source: str, message: tuple[int, str]) -> bool:
        """Whether a message of this source was applied."""
        applied = self.applied.get(source)
        return applied is not None and message in applied


@dataclass(slots=True)
class Change:
    """What one commit does to one key.

    Args:
        key: which.
        version: the record's version as it was read: the commit is refused when it is another now.
        source: where the applied messages came from.
        applied: (sequence, provider id) of messages that were handled.
        settled_below: what is confirmed, see `Applied.extend`.
        state: the new state, when `writes_state`.
        writes_state: whether the state changes.
        outbox: messages to send, behind those that wait already.
        sent: how many of the outbox, from the front, are confirmed.
        failure: the new failure, when `writes_failure`.
        writes_failure: whether the failure changes.
    """

    key: str
    version: int
    source: str
    applied: list[tuple[int, str]] = field(default_factory=list)
    settled_below: int = 0
    state: bytes | None = None
    writes_state: bool = False
    outbox: list[Pending] = field(default_factory=list)
    sent: int = 0
    failure: Failure | None = None
    writes_failure: bool = False

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (
            self.applied or self.writes_state or self.outbox or self.sent or self.writes_failure
        )


class StateStore(Protocol):
    """Keeps session records."""

    async def start(self) -> None:
        """Open what is needed; idempotent."""

    async def load(self, keys: Sequence[str]) -> list[SessionRecord]:
        """The keys' records, in order; a new one for a key that is not known."""

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Apply changes, each whole or not at all, durable when this returns.

        One answer a change, in order: None, or `StateConflict` when the version is another, or the
        error of the store. Raises nothing for a single change.
        """

    def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """All keys that have a state, with it."""

    async def close(self) -> None:
        """Close what is open; idempotent."""
