"""States as a Parquet file, written some thousand rows at a time: never all in memory."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigurationError
from pipeline.state.port import SessionRecord

SCHEMA: Final = pa.schema(
    [
        pa.field("pipeline", pa.string(), nullable=False),
        pa.field("session", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # JSON
        pa.field("version", pa.int64(), nullable=False),
        pa.field("schema_version", pa.int64(), nullable=False),
        pa.field("updated_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("expires_at", pa.timestamp("us", tz="UTC")),
    ]
)
"""The file's columns."""

_ROWS: Final = 10_000
"""Rows of one group."""


class StateWriter:
    """Writes states to a Parquet file that is complete once it was left without an error.

    Args:
        path: the file; one that is there is replaced, at the end.

    Raises:
        ConfigurationError: it can't be the name of a file, or something else has that name.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "states.parquet"
        >>> with StateWriter(path) as writer:
        ...     writer.add("orders", "ann", SessionRecord(1, b"{}"), 1_700_000_000.0)
        >>> pq.read_table(path).column("session").to_pylist()
        ['ann']
    """

    def __init__(self, path: Path) -> None:
        if not path.name or (path.exists() and not path.is_file()):
            # What is replaced is gone: as root even /dev/null would be.
            raise ConfigurationError(f"{path} is no file that can be replaced: name another one")
        self._path = path
        self._draft = path.with_name(f".{path.name}.part")
        self._rows: list[tuple[Any, ...]] = []
        self._writer: Any = None
        self.written = 0

    def __enter__(self) -> Self:
        """Open the file.

        Raises:
            OSError: it can't be written.
        """
        try:
            self._writer = pq.ParquetWriter(self._draft, SCHEMA, compression="zstd")
        except OSError:
            with suppress(OSError):
                self._draft.unlink()
            raise
        return self

    def add(self, pipeline: str, session: str, record: SessionRecord, updated_at: float) -> None:
        """Write one session's state; a session without one is left out.

        Raises:
            OSError: it can't be written.
        """
        if record.state is None:
            return
        ends = None if record.expires_at is None else round(record.expires_at * 1e6)
        self._rows.append(
            (
                pipeline,
                session,
                record.state.decode(),
                record.version,
                record.schema,
                round(updated_at * 1e6),
                ends,
            )
        )
        if len(self._rows) >= _ROWS:
            self._write()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish the file, or take away what there is of it.

        Raises:
            OSError: it can't be written.
        """
        try:
            if error is None:
                self._write()
                self._writer.close()
                self._draft.replace(self._path)
        finally:
            self._writer.close()
            self._draft.unlink(missing_ok=True)

    def _write(self) -> None:
        columns = zip(*self._rows, strict=True) if self._rows else [()] * len(SCHEMA)
        arrays = [
            pa.array(values, kind) for values, kind in zip(columns, SCHEMA.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA))
        self.written += len(self._rows)
        self._rows.clear()
