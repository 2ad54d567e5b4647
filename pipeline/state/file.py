"""One SQLite file with the records of several pipelines; every call blocks.

Each read and each write is one statement for many rows. Python gives its lock away around each step
of a statement and waits for it behind whoever computes, up to 5 ms: row by row, a commit of 1,000
sessions beside a busy handler took seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final, TypeAlias

from pipeline.errors import ConfigurationError, ProviderError
from pipeline.state import sql
from pipeline.state.rows import Columns

Row: TypeAlias = tuple[str, Columns]
"""A row to write: its key and its new columns, whose version is one more than before."""

_NEEDED: Final = (3, 33, 0)
"""SQLite's version since which 32,766 values may be given with one statement, and a little more."""
_BUSY: Final = 10.0
"""Seconds that a call waits for another process's transaction."""
_ROWS: Final = 256
"""Rows of one statement."""
_TRIES: Final = 100
_PAUSE: Final = 0.02

_ADVICE: Final = {
    sqlite3.SQLITE_FULL: "its disk is full: make room",
    sqlite3.SQLITE_READONLY: "it can't be written: make its disk, directory and file writable",
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {_BUSY:g} s",
    sqlite3.SQLITE_LOCKED: f"another process has kept it locked for {_BUSY:g} s",
    sqlite3.SQLITE_IOERR: "its disk can't be read or written: see to its space and health",
    sqlite3.SQLITE_CANTOPEN: "it can't be opened: see to its directory",
    sqlite3.SQLITE_NOMEM: "there is no memory for it",
}
"""SQLite's primary error codes that may pass, and what to do about each."""


class _OtherVersion(Exception):
    """A row has another version than the one that what is to be written was made from."""


class StateFile:
    """The file, open on the thread that made it.

    Args:
        path: where it is.

    Raises:
        ConfigurationError: it can't be opened, or it is not a file of ours and of this format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = _opened(path)

    def read(self, pipeline: str, keys: Sequence[str]) -> dict[int, list[Any]]:
        """The rows of these keys: position in `keys` to columns; keys without a row are left out.

        Raises:
            ProviderError: it can't be read.
        """
        found: dict[int, list[Any]] = {}
        with _told(self.path):
            for start in range(0, len(keys), _ROWS):
                some = keys[start : start + _ROWS]
                given = chain.from_iterable(enumerate(some, start))
                run = self._connection.execute(sql.read(len(some)), (*given, pipeline))
                for at, *columns in json.loads(run.fetchone()[0]):
                    found[at] = columns
        return found

    def write(self, pipeline: str, rows: Sequence[Row]) -> dict[int, int]:
        """Write rows in one transaction, each if it was made from the version that is there.

        Returns:
            The rows that were not written: position to the version that was found, 0 for none.

        Raises:
            ProviderError: nothing was written.
        """
        try:
            with self._transaction():
                self._write_all(pipeline, rows)
        except _OtherVersion:
            # Which they are is asked only now: as a rule there are none.
            with self._transaction():
                others = self._others(pipeline, rows)
                self._write_all(pipeline, [row for at, row in enumerate(rows) if at not in others])
            return others
        return {}

    def _write_all(self, pipeline: str, rows: Sequence[Row]) -> None:
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            given = [value for key, columns in some for value in (key, *columns)]
            run = self._connection.execute(sql.write(len(some)), [pipeline, *given, pipeline])
            if run.rowcount < len(some):
                raise _OtherVersion

    def _others(self, pipeline: str, rows: Sequence[Row]) -> dict[int, int]:
        """Which rows were made from another version than there is: position to that one."""
        found: dict[int, int] = {}
        for start in range(0, len(rows), _ROWS):
            some = rows[start : start + _ROWS]
            given = [
                value
                for at, (key, columns) in enumerate(some, start)
                for value in (at, key, columns[0] - 1)
            ]
            run = self._connection.execute(sql.others(len(some)), [*given, pipeline])
            found.update(json.loads(run.fetchone()[0]))
        return found

    def purge(self, now: float, before: float, most: int, limit: int) -> bool:
        """Drop expired states, and bare records that are too old or too many.

        Args:
            now: seconds since 1970.
            before: bare records not written since go.
            most: how many bare records may stay, of all pipelines.
            limit: the most rows that each of the three removes.

        Returns:
            Whether there may be more.

        Raises:
            ProviderError: nothing was changed.
        """
        run = self._connection.execute
        with self._transaction():
            gone = [
                run(sql.EXPIRE, (now, limit)).rowcount,
                run(sql.FORGET_OLD, (before, limit)).rowcount,
            ]
            extra = run(sql.COUNT_BARE).fetchone()[0] - most
            if extra > 0:
                gone.append(run(sql.FORGET_OLDEST, (min(extra, limit),)).rowcount)
        return limit in gone

    def page(
        self, pipeline: str, after: str | None, prefix: str, most: int
    ) -> list[tuple[str, Sequence[Any]]]:
        """The next (key, columns) of a pipeline in the order of the keys.

        Args:
            pipeline: whose.
            after: the last key that is known; None: from the beginning.
            prefix: what the keys begin with.
            most: how many.

        Raises:
            ProviderError: it can't be read.
        """
        given = {"pipeline": pipeline, "after": after, "prefix": prefix, "most": most}
        with _told(self.path):
            rows = self._connection.execute(sql.PAGE, given).fetchall()
        return [(key, columns) for key, *columns in rows]

    def count(self, pipeline: str) -> int:
        """How many records a pipeline has.

        Raises:
            ProviderError: it can't be read.
        """
        with _told(self.path):
            found: int = self._connection.execute(sql.COUNT, (pipeline,)).fetchone()[0]
        return found

    def delete(self, pipeline: str, keys: Sequence[str] | None) -> int:
        """Delete the records of these keys, or all of the pipeline; says how many.

        Raises:
            ProviderError: nothing was deleted.
        """
        run = self._connection.execute
        with self._transaction():
            if keys is None:
                count: int = run(sql.DELETE_ALL, (pipeline,)).rowcount
            else:
                count = sum(run(sql.DELETE, (pipeline, key)).rowcount for key in keys)
        return count

    def close(self) -> None:
        """Close it."""
        self._connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        connection = self._connection
        with _told(self.path):
            try:
                # At once, not with the first write: a transaction that began by reading may not
                # wait for another one's end, it can only fail.
                connection.execute("BEGIN IMMEDIATE")
                yield
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        connection.execute("ROLLBACK")
                raise


def _opened(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made if it is not there."""
    if sqlite3.sqlite_version_info < _NEEDED:
        raise ConfigurationError(
            f"state.store: this Python has SQLite {sqlite3.sqlite_version}; sqlite needs "
            f"{'.'.join(map(str, _NEEDED))} or later: take another Python, or store: memory"
        )
    try:
        _create(path)
        with contextlib.ExitStack() as undo:
            connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
            undo.callback(connection.close)
            _prepare(connection, path)
            undo.pop_all()
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(_cant_open(path, error)) from error
    return connection


def _create(path: Path) -> None:
    """Make the file and its directory, for their user alone; a file that is there stays as it is.

    SQLite gives its two files beside it the same mode.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check that the file is ours, or make it so while it is empty."""
    if not _is_ours(connection, path):
        _keep_a_log(connection)
        connection.execute("BEGIN IMMEDIATE")
        if not _is_ours(connection, path):  # now nobody else makes it
            for statement in sql.TABLES:
                connection.execute(statement)
        connection.execute("COMMIT")
    for statement in sql.SETTINGS:
        connection.execute(statement)


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Let readers and one writer work at once, and a commit write in one place (SQLite's WAL)."""
    tried = 0
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Only one process can change the mode; another one may be told so without waiting.
            tried += 1
            if tried == _TRIES or _primary(error) != sqlite3.SQLITE_BUSY:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _is_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file has our tables; False when it is empty.

    Raises:
        ConfigurationError: it is somebody else's, or of a newer format.
    """
    (mark,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if mark != sql.MARK:
        if mark or found or tables:
            raise ConfigurationError(
                f"state.path: {path} is a SQLite file of another program; it is left as it is: "
                "name another path"
            )
        return False
    if found != sql.FORMAT:
        raise ConfigurationError(
            f"state.path: {path} has format {found}, and this version of queue-runtime reads "
            f"format {sql.FORMAT}; it is left as it is: use the version that wrote it, or name "
            "another path"
        )
    return True


def _cant_open(path: Path, error: OSError | sqlite3.Error) -> str:
    if isinstance(error, OSError):
        return (
            f"state.path: {path} can't be opened: {error.strerror or error}; "
            "name a path that can be written"
        )
    if _primary(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return (
            f"state.path: {path} is not a SQLite file, or a damaged one ({error}); it is left as "
            "it is: name another path, or move it away"
        )
    advice = _ADVICE.get(_primary(error), "name a path that can be written")
    return f"state.path: {path} can't be opened ({error}): {advice}"


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.Error as error:
        primary = _primary(error)
        advice = _ADVICE.get(primary, "it may be damaged: restore it, or name another path")
        code = getattr(error, "sqlite_errorname", type(error).__name__)
        raise ProviderError(
            "sqlite", code, f"{path}: {error}: {advice}", transient=primary in _ADVICE
        ) from error


def _primary(error: sqlite3.Error) -> int:
    """The error's primary code; an extended one says more in its upper bits."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
