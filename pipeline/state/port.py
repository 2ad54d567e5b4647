"""The state store port: what a store must do, as prose, and what it keeps for a session.

A store keeps one `SessionRecord` for each key (a pipeline's session, or one message where messages
have no order). One handler at a time owns a key; a store that several processes share refuses a
handler that lost it by comparing versions. All methods are coroutines, called from the handler
core's loop, one commit and one load at a time, never both on one key.

A store that can't read or write now (its disk is full or read-only, its file is locked, its service
doesn't answer) says so with a transient error: `load` and `states` raise it, `commit` answers with
it for each change of which nothing was applied. The store itself doesn't wait for better times and
keeps nothing of what it refused: the handler core waits and makes the same call again. An error
that isn't transient means that trying again is no use. `StateConflict` is neither: the record has
another version, so the change was made from something that no longer holds, and is dropped.

A record without a state, an outbox or a failure is only the memory of what was applied. A store
keeps a bounded number of those, or keeps them for a bounded time: at least until the provider can't
deliver the message again.

A state may have an end (`Change.expires_at`). From then on the record reads as one without a state;
its version and what was applied of it stay. The calendar's time is the store's argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipeline.errors import QueueError
from pipeline.message import Row

RECENT = 64
"""How many applied messages are remembered after their settlement is confirmed (SPEC F4)."""


SOURCES = 8
"""How many sources' messages a record remembers: those applied from last. A queue that is made anew
is another source, and one in memory is so at each start."""


class Applied:
    """What was applied of one source: (sequence, provider id), ascending as a rule."""

    __slots__ = ("_recent", "top")

    def __init__(self) -> None:
        self.top = -1
        """The highest sequence that was applied."""
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
        state: the user's state as JSON; None: none yet, ended, or expired.
        applied: source to the record of what was applied of it, the last one last.
        outbox: what was sent and is not confirmed, in order.
        failure: how far its first message has failed.
        schema: the version of the state's type that the state was written with.
        expires_at: when the state ends, seconds since 1970; None: never.
    """

    version: int = 0
    state: bytes | None = None
    applied: dict[str, Applied] = field(default_factory=dict)
    outbox: list[Pending] = field(default_factory=list)
    failure: Failure | None = None
    schema: int = 1
    expires_at: float | None = None

    def has(self, source: str, message: tuple[int, str]) -> bool:
        """Whether a message of this source was applied."""
        applied = self.applied.get(source)
        return applied is not None and message in applied

    @property
    def bare(self) -> bool:
        """Whether it is only the memory of what was applied."""
        return self.state is None and not self.outbox and self.failure is None

    def live(self, now: float) -> SessionRecord:
        """The record as it reads at this time: without a state that has expired."""
        if self.expires_at is None or now < self.expires_at:
            return self
        return replace(self, state=None, expires_at=None)

    def apply(self, change: Change, applied: Callable[[], Applied] = Applied) -> None:
        """Make a commit's change; a store's own work.

        Args:
            change: made from this version.
            applied: makes the record of a source that was not known.
        """
        self.version += 1
        if change.applied:
            known = self.applied.pop(change.source, None)
            if known is None:
                known = applied()
            known.extend(change.applied, change.settled_below)
            self.applied[change.source] = known
            if len(self.applied) > SOURCES:
                del self.applied[next(iter(self.applied))]
        if change.writes_state:
            self.state = change.state
            self.schema = change.schema
            self.expires_at = change.expires_at
        elif change.expires_at is not None:
            self.expires_at = change.expires_at
        if change.sent:
            del self.outbox[: change.sent]
        self.outbox.extend(change.outbox)
        if change.writes_failure:
            self.failure = change.failure


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
        schema: the version of the state's type, when `writes_state`.
        expires_at: when the state, new or as it is, ends; None: a new one never, else as before.
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
    schema: int = 1
    expires_at: float | None = None

    @property
    def empty(self) -> bool:
        """Whether it changes nothing."""
        return not (
            self.applied or self.writes_state or self.outbox or self.sent or self.writes_failure
        )


class StateStore(Protocol):
    """Keeps session records."""

    async def start(self) -> None:
        """Open what is needed; idempotent.

        Raises:
            ConfigurationError: what the configuration names can't be opened, or isn't a store of
                this kind and format; the message says what to do. Nothing of it was changed.
        """

    async def load(
        self, keys: Sequence[str], holdings: Sequence[int] | None = None
    ) -> list[SessionRecord]:
        """The keys' records, in order; a new one for a key that is not known.

        Args:
            keys: which; each once.
            holdings: for each key the possession in which it is read. A record that the store has
                cached under another one may have been written by another process since, and is
                read anew. None: the caller has gone on holding what it read.

        Raises:
            ProviderError: it can't be read; trying again helps when the error is transient.
        """

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Apply changes, each of another key, each whole or not at all, durable when this returns.

        One answer a change, in order: None, or `StateConflict` when the version is another, or a
        `ProviderError` when the store can't write now; nothing of a change that has an error was
        applied, and making it again is right. Raises nothing for a single change. It may change the
        records that `load` gave: after a commit, load them again.
        """

    def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """All keys that have a state that has not expired, with it; in no certain order.

        Raises:
            ProviderError: it can't be read.
        """

    async def close(self) -> None:
        """Close what is open; idempotent. What was committed stays as durable as it was."""
