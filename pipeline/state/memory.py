"""The state store in the handler's own memory: as durable as its process.

Records without a state, an outbox or a failure are only the memory of what was applied; of those
the least recently used go beyond `most_records`, so that sessions seen once don't fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

from pipeline.clock import SystemClock
from pipeline.errors import QueueError, StateConflict
from pipeline.state.port import Change, SessionRecord


class MemoryStore:
    """A `StateStore` in memory.

    Args:
        most_records: how many records without a state are kept.
        now: the calendar's time, seconds since 1970; unset: the machine's.

    Example:
        >>> store = MemoryStore()
        >>> await store.commit(
        ...     [Change("N14228", 0, "q", [(1, "m1")], state=b"{}", writes_state=True)]
        ... )
        [None]
        >>> [record.state for record in await store.load(["N14228", "other"])]
        [b'{}', None]
    """

    def __init__(self, most_records: int = 100_000, now: Callable[[], float] | None = None) -> None:
        self._most = most_records
        self._now = SystemClock().now if now is None else now
        self._records: dict[str, SessionRecord] = {}
        self._bare: OrderedDict[str, SessionRecord] = OrderedDict()
        self._ending: OrderedDict[str, None] = OrderedDict()
        """Keys whose state ends, in the order of their last commit: one handler's states all live
        equally long, so that it is the order of their ends as well."""

    async def start(self) -> None:
        """Nothing to open."""

    async def load(
        self,
        keys: Sequence[str],
        holdings: Sequence[int] | None = None,  # noqa: ARG002 - nobody else writes these records
    ) -> list[SessionRecord]:
        """The keys' records; a new one for a key that is not known."""
        now = self._now()
        return [(self._find(key) or SessionRecord()).live(now) for key in keys]

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Apply changes, each whole or not at all."""
        now = self._now()
        answers = [self._apply(change, now) for change in changes]
        self._drop_expired(now)
        return answers

    async def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """All keys that have a state that has not expired, with it."""
        now = self._now()
        for key, record in list(self._records.items()):
            state = record.live(now).state
            if state is not None:
                yield key, state

    async def close(self) -> None:
        """Nothing to close."""

    def _find(self, key: str) -> SessionRecord | None:
        return self._records.get(key) or self._bare.get(key)

    def _apply(self, change: Change, now: float) -> QueueError | None:
        record = self._find(change.key)
        if record is None:
            record = SessionRecord()
        if record.version != change.version:
            return StateConflict(
                f"session {change.key!r} is at version {record.version}, not {change.version}: "
                "another handler wrote it"
            )
        record.apply(change)
        self._put(change.key, record.live(now))
        return None

    def _put(self, key: str, record: SessionRecord) -> None:
        self._ending.pop(key, None)
        if record.expires_at is not None:
            self._ending[key] = None
        if record.bare:
            self._records.pop(key, None)
            self._bare[key] = record
            self._bare.move_to_end(key)
            if len(self._bare) > self._most:
                self._bare.popitem(last=False)
        else:
            self._bare.pop(key, None)
            self._records[key] = record

    def _drop_expired(self, now: float) -> None:
        while self._ending:
            key = next(iter(self._ending))
            record = self._records[key]
            if record.live(now) is record:
                return
            self._put(key, record.live(now))
