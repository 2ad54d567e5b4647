"""What is said to SQLite: the table, and the statements on it. Values are always given beside them.

What is put into the texts is our own: names of columns, and how many rows a statement has.
"""

from __future__ import annotations

from typing import Final

from pipeline.state.rows import COLUMNS

FORMAT: Final = 1
"""Grows when the table changes so that older code can't use it."""

MARK: Final = 0x51525354
"""SQLite's `application_id` of our files: QRST."""

_BARE: Final = "state IS NULL AND outbox IS NULL AND failure IS NULL"

TABLES: Final = (
    """
    CREATE TABLE record (
        pipeline TEXT NOT NULL,
        key TEXT NOT NULL,
        version INTEGER NOT NULL,
        state TEXT,
        schema INTEGER NOT NULL,
        expires_at REAL,
        applied TEXT NOT NULL,
        outbox TEXT,
        failure TEXT,
        updated_at REAL NOT NULL,
        PRIMARY KEY (pipeline, key)
    ) WITHOUT ROWID
    """,
    # What is only the memory of what was applied, oldest first, and what will expire.
    f"CREATE INDEX bare ON record (updated_at) WHERE {_BARE}",
    "CREATE INDEX ending ON record (expires_at) WHERE expires_at IS NOT NULL",
    f"PRAGMA application_id = {MARK}",
    f"PRAGMA user_version = {FORMAT}",
)

SETTINGS: Final = (
    "PRAGMA synchronous = FULL",
    "PRAGMA cache_size = -16384",  # KiB
    "PRAGMA wal_autocheckpoint = 4096",  # pages
    "PRAGMA journal_size_limit = 67108864",  # bytes
)


def read(count: int) -> str:
    """All rows of some keys as one JSON value; given (n, key) a key, then the pipeline."""
    columns = ", ".join(f"record.{name}" for name in COLUMNS)
    return (
        f"{_wanted(count, 'n, key')} SELECT json_group_array(json_array(wanted.n, {columns})) "
        "FROM wanted JOIN record ON record.pipeline = ? AND record.key = wanted.key"
    )


def others(count: int) -> str:
    """(n, version) of rows of another version; given (n, key, version) a row, then the pipeline.

    A row that isn't there has version 0.
    """
    return (
        f"{_wanted(count, 'n, key, version')} "
        "SELECT json_group_array(json_array(wanted.n, coalesce(record.version, 0))) "
        "FROM wanted LEFT JOIN record ON record.pipeline = ? AND record.key = wanted.key "
        "WHERE coalesce(record.version, 0) <> wanted.version"
    )


def write(count: int) -> str:
    """Write rows of the version before; given the pipeline, (key, columns) a row, the pipeline.

    It changes fewer rows than it is given when one has another version: then nothing is to stay.
    """
    names = ("key", *COLUMNS)
    values = ", ".join(f"column{at}" for at in range(1, len(names) + 1))
    updates = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS)
    return (
        f"INSERT INTO record (pipeline, {', '.join(names)}) "
        f"SELECT ?, {values} FROM (VALUES {_rows(count, len(names))}) AS given "
        # What was deleted meanwhile is not made anew by who has read it before.
        "WHERE column2 = 1 OR EXISTS "
        "(SELECT 1 FROM record WHERE pipeline = ? AND key = given.column1) "
        f"ON CONFLICT (pipeline, key) DO UPDATE SET {updates} "
        "WHERE record.version = excluded.version - 1"
    )


EXPIRE: Final = (
    "UPDATE record SET state = NULL, expires_at = NULL WHERE (pipeline, key) IN "
    "(SELECT pipeline, key FROM record WHERE expires_at <= ? LIMIT ?)"
)
FORGET_OLD: Final = (
    "DELETE FROM record WHERE (pipeline, key) IN "
    f"(SELECT pipeline, key FROM record WHERE {_BARE} AND updated_at < ? LIMIT ?)"
)
FORGET_OLDEST: Final = (
    "DELETE FROM record WHERE (pipeline, key) IN "
    f"(SELECT pipeline, key FROM record WHERE {_BARE} ORDER BY updated_at LIMIT ?)"
)
COUNT_BARE: Final = f"SELECT count(*) FROM record WHERE {_BARE}"
PAGE: Final = (
    f"SELECT key, {', '.join(COLUMNS)} FROM record WHERE pipeline = :pipeline "
    "AND key > coalesce(:after, '') AND key >= :prefix "
    "AND substr(key, 1, length(:prefix)) = :prefix ORDER BY key LIMIT :most"
)
COUNT: Final = "SELECT count(*) FROM record WHERE pipeline = ?"
DELETE: Final = "DELETE FROM record WHERE pipeline = ? AND key = ?"
DELETE_ALL: Final = "DELETE FROM record WHERE pipeline = ?"


def _wanted(count: int, names: str) -> str:
    """A table of values that are given with the statement."""
    return f"WITH wanted({names}) AS (VALUES {_rows(count, names.count(',') + 1)})"


def _rows(count: int, width: int) -> str:
    return ", ".join([f"({', '.join('?' * width)})"] * count)
