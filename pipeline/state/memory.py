"""The state store in the handler's own memory: as durable as its process.

Records without a state, an outbox or a failure are only the memory of what was applied; of those
the least recently used go beyond `most_records`, so that sessions seen once don't fill the memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence

from pipeline.errors import QueueError, StateConflict
from pipeline.state.port import Applied, Change, SessionRecord


class MemoryStore:
    """A `StateStore` in memory.

    Args:
        most_records: how many records without a state are kept.

    Example:
        >>> store = MemoryStore()
        >>> await store.commit(
        ...     [Change("N14228", 0, "q", [(1, "m1")], state=b"{}", writes_state=True)]
        ... )
        [None]
        >>> [record.state for record in await store.load(["N14228", "other"])]
        [b'{}', None]
    """

    def __init__(self, most_records: int = 100_000) -> None:
        self._most = most_records
        self._records: dict[str, SessionRecord] = {}
        self._bare: OrderedDict[str, SessionRecord] = OrderedDict()

    async def start(self) -> None:
        """Nothing to open."""

    async def load(self, keys: Sequence[str]) -> list[SessionRecord]:
        """The keys' records; a new one for a key that is not known."""
        return [self._find(key) or SessionRecord() for key in keys]

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Apply changes, each whole or not at all."""
        return [self._apply(change) for change in changes]

    async def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """All keys that have a state, with it."""
        for key, record in list(self._records.items()):
            if record.state is not None:
                yield key, record.state

    async def close(self) -> None:
        """Nothing to close."""

    def _find(self, key: str) -> SessionRecord | None:
        return self._records.get(key) or self._bare.get(key)

    def _apply(self, change: Change) -> QueueError | None:
        record = self._find(change.key)
        if record is None:
            record = SessionRecord()
        if record.version != change.version:
            return StateConflict(
                f"session {change.key!r} is at version {record.version}, not {change.version}: "
                "another handler wrote it"
            )
        record.version += 1
        _change(record, change)
        if record.state is None and not record.outbox and record.failure is None:
            self._records.pop(change.key, None)
            self._bare[change.key] = record
            self._bare.move_to_end(change.key)
            if len(self._bare) > self._most:
                self._bare.popitem(last=False)
        else:
            self._bare.pop(change.key, None)
            self._records[change.key] = record
        return None


def _change(record: SessionRecord, change: Change) -> None:
    if change.applied:
        applied = record.applied.get(change.source)
        if applied is None:
            applied = record.applied[change.source] = Applied()
        applied.extend(change.applied, change.settled_below)
    if change.writes_state:
        record.state = change.state
    if change.sent:
        del record.outbox[: change.sent]
    record.outbox.extend(change.outbox)
    if change.writes_failure:
        record.failure = change.failure
