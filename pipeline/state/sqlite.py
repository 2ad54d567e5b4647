"""The state store in one SQLite file, for all processes and jobs of one machine.

A commit is one transaction for all its sessions. All work on the file is done on one thread of the
store's own; a bounded cache of records lies over it, read and changed on the loop alone. A commit
takes its records out of the cache, changes them, and puts back those that were written: what fails,
or is cancelled, leaves nothing in the cache that the file has not.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

from pipeline.errors import Closed, ProviderError, QueueError, StateConflict
from pipeline.state.file import Row, StateFile
from pipeline.state.port import Change, SessionRecord
from pipeline.state.rows import EncodedApplied, to_columns, to_record

T = TypeVar("T")
_Cached: TypeAlias = tuple[int, SessionRecord]
"""The holding in which a record was read, and the record."""
_UNKNOWN: Final[_Cached] = (-1, SessionRecord())

_log = logging.getLogger("queue_runtime.state")

_LOOK: Final = 60.0
"""Seconds between two looks for what can be purged."""
_WRITTEN: Final = 20_000
"""Rows written after which it looks earlier."""
_PURGED: Final = 2_000
"""The most rows that one look removes, or twice what was just written: no commit waits for long,
and none writes more than a look removes."""
_PAGE: Final = 500
"""Rows of one read of all of them."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept of what is only the memory of what was applied, and in the cache.

    Args:
        keep: seconds that such a record is kept after its last commit.
        records: how many of them a file may hold, all pipelines together.
        cached: how many records of any kind a store keeps read.
    """

    keep: float = 86_400.0
    records: int = 1_000_000
    cached: int = 32_768


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it lies in the file.

    Args:
        record: the record; its state is there even when it has expired.
        size: of the state, in bytes; 0 for none.
        updated_at: when it was last written, seconds since 1970.
    """

    record: SessionRecord
    size: int
    updated_at: float

    def live(self, now: float) -> Kept:
        """The same without a state that has expired."""
        record = self.record.live(now)
        return self if record is self.record else Kept(record, 0, self.updated_at)


class SqliteStore:
    """A `StateStore` in a file.

    Args:
        path: the file; it and its directory are made, for their user alone, when they are missing.
        pipeline: whose records; those of others in the same file are not touched.
        now: the calendar's time, seconds since 1970.
        bounds: how much is kept.

    Example:
        >>> import tempfile
        >>> from pipeline.clock import SystemClock
        >>> store = SqliteStore(
        ...     Path(tempfile.mkdtemp()) / "shop.sqlite", "orders", SystemClock().now
        ... )
        >>> await store.start()
        >>> await store.commit([Change("ann", 0, "q", [(1, "m1")], state=b"{}", writes_state=True)])
        [None]
        >>> [record.state for record in await store.load(["ann", "bob"])]
        [b'{}', None]
        >>> await store.close()
    """

    def __init__(
        self,
        path: Path,
        pipeline: str,
        now: Callable[[], float],
        bounds: Bounds = Bounds(),
    ) -> None:
        self._path = path
        self._pipeline = pipeline
        self._now = now
        self._bounds = bounds
        self._file: StateFile | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._cached: OrderedDict[str, _Cached] = OrderedDict()
        self._looked = 0.0
        self._written = 0

    async def start(self) -> None:
        """Open the file.

        Raises:
            ConfigurationError: it can't be opened, or is not ours; the message says what to do.
        """
        if self._thread is not None:
            return
        thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        try:
            opening = asyncio.get_running_loop().run_in_executor(thread, StateFile, self._path)
            self._file = await opening
        except BaseException:
            thread.shutdown(wait=False)
            raise
        self._thread = thread
        self._looked = self._now()

    async def load(
        self, keys: Sequence[str], holdings: Sequence[int] | None = None
    ) -> list[SessionRecord]:
        """The keys' records, from the cache where they were read in the same holding."""
        cached = self._cached
        found: list[SessionRecord | None] = []
        for at, key in enumerate(keys):
            kept = cached.get(key)
            if kept is None or (holdings is not None and kept[0] != holdings[at]):
                found.append(None)
            else:
                cached.move_to_end(key)
                found.append(kept[1])
        missing = [at for at, record in enumerate(found) if record is None]
        if missing:
            records = await self._run(self._read, [keys[at] for at in missing])
            for at, record in zip(missing, records, strict=True):
                found[at] = record
                self._keep(keys[at], -1 if holdings is None else holdings[at], record)
        now = self._now()
        return [record.live(now) for record in found if record is not None]

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Apply changes in one transaction; those of another version are refused alone."""
        if not changes:
            return []
        pop = self._cached.pop
        taken = [pop(change.key, _UNKNOWN) for change in changes]
        try:
            answers = await self._run(self._write, changes, taken, self._now())
        except ProviderError as error:
            return [error] * len(changes)
        results: list[QueueError | None] = []
        for change, (holding, _), answer in zip(changes, taken, answers, strict=True):
            if isinstance(answer, SessionRecord):
                self._keep(change.key, holding, answer)
                results.append(None)
            else:
                results.append(answer)
        return results

    async def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """All keys that have a state that has not expired, with it, in the order of the keys."""
        async for key, kept in self.records():
            state = kept.record.live(self._now()).state
            if state is not None:
                yield key, state

    async def records(
        self, prefix: str = "", limit: int | None = None
    ) -> AsyncIterator[tuple[str, Kept]]:
        """All records whose keys begin so, in the order of the keys, some hundred in memory.

        Args:
            prefix: what the keys begin with.
            limit: the most; None: all.

        Raises:
            ProviderError: they can't be read.
        """
        after = None
        left = limit
        while left is None or left > 0:
            most = _PAGE if left is None else min(_PAGE, left)
            page = await self._run(self._page, after, prefix, most)
            for key, kept in page:
                yield key, kept
            if len(page) < most:
                return
            after = page[-1][0]
            left = None if left is None else left - len(page)

    async def find(self, key: str) -> Kept | None:
        """One record as it lies in the file; None when there is none.

        Raises:
            ProviderError: it can't be read.
        """
        async for found, kept in self.records(key, 1):
            if found == key:
                return kept
        return None

    async def count(self) -> int:
        """How many records there are.

        Raises:
            ProviderError: it can't be read.
        """
        return await self._run(lambda: self._opened().count(self._pipeline))

    async def delete(self, keys: Sequence[str] | None = None) -> int:
        """Delete the records of these keys, or all of the pipeline; says how many there were.

        Raises:
            ProviderError: nothing was deleted.
        """
        count = await self._run(self._opened().delete, self._pipeline, keys)
        for key in list(self._cached) if keys is None else keys:
            self._cached.pop(key, None)
        return count

    async def close(self) -> None:
        """Close the file."""
        thread, file = self._thread, self._file
        if thread is None or file is None:
            return
        self._thread = self._file = None
        self._cached.clear()
        await asyncio.get_running_loop().run_in_executor(thread, file.close)
        thread.shutdown(wait=False)

    # ---------------------------------------------------------------- on the loop

    async def _run(self, work: Callable[..., T], *arguments: object) -> T:
        if self._thread is None:
            raise Closed(f"the state store {self._path} is not open: start it")
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _keep(self, key: str, holding: int, record: SessionRecord) -> None:
        self._cached[key] = (holding, record)
        self._cached.move_to_end(key)
        if len(self._cached) > self._bounds.cached:
            self._cached.popitem(last=False)

    # ---------------------------------------------------------------- on the thread

    def _opened(self) -> StateFile:
        if self._file is None:
            raise Closed(f"the state store {self._path} is not open: start it")
        return self._file

    def _read(self, keys: Sequence[str]) -> list[SessionRecord]:
        rows = self._opened().read(self._pipeline, keys)
        return [to_record(rows[at]) if at in rows else SessionRecord() for at in range(len(keys))]

    def _page(self, after: str | None, prefix: str, most: int) -> list[tuple[str, Kept]]:
        rows = self._opened().page(self._pipeline, after, prefix, most)
        return [
            (key, Kept(record, len(record.state or b""), columns[-1]))
            for key, columns in rows
            for record in [to_record(columns)]
        ]

    def _write(
        self, changes: Sequence[Change], taken: Sequence[_Cached], now: float
    ) -> list[SessionRecord | StateConflict]:
        """What each change came to: its record, or why it was refused."""
        records = self._bases(changes, taken)
        answers: list[SessionRecord | StateConflict] = []
        rows: list[Row] = []
        places: list[int] = []
        for at, (change, record) in enumerate(zip(changes, records, strict=True)):
            if record.version != change.version:
                answers.append(_conflict(change, record.version))
                continue
            record.apply(change, EncodedApplied)
            live = record.live(now)
            answers.append(live)
            rows.append((change.key, to_columns(live, now)))
            places.append(at)
        for row, version in self._opened().write(self._pipeline, rows).items():
            at = places[row]
            answers[at] = _conflict(changes[at], version)
        self._written += len(rows)
        self._purge(now, max(_PURGED, 2 * len(rows)))
        return answers

    def _bases(self, changes: Sequence[Change], taken: Sequence[_Cached]) -> list[SessionRecord]:
        """The records that the changes are made to, read anew where the cache had another one."""
        records = [record for _, record in taken]
        unknown = [
            at
            for at, (change, record) in enumerate(zip(changes, records, strict=True))
            if record is _UNKNOWN[1] or record.version != change.version
        ]
        if unknown:
            read = self._read([changes[at].key for at in unknown])
            for at, record in zip(unknown, read, strict=True):
                records[at] = record
        return records

    def _purge(self, now: float, limit: int) -> None:
        """Now and then, and again soon while there is more."""
        if now - self._looked < _LOOK and self._written < _WRITTEN:
            return
        bounds = self._bounds
        try:
            more = self._opened().purge(now, now - bounds.keep, bounds.records, limit)
        except ProviderError as error:
            # The commit was made; what is too much now is so at the next look as well.
            _log.warning("nothing was purged: %s", error)
            more = False
        if not more:
            self._looked, self._written = now, 0


def _conflict(change: Change, version: int) -> StateConflict:
    return StateConflict(
        f"session {change.key!r} is at version {version}, not {change.version}: "
        "another handler wrote it"
    )
