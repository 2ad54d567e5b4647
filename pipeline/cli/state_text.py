"""How `queue-runtime state` shows what is kept: a row, a JSON line, or all of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Final

from pipeline.cli.common import json_text
from pipeline.state.port import Failure
from pipeline.state.sqlite import Kept

_ROW: Final = "{:<20}  {:<36}  {:>8}  {:>9}  {:>7}  {:>8}"
HEADER: Final = _ROW.format("pipeline", "session", "version", "bytes", "age", "attempts")
"""The table's first line."""

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def row(pipeline: str, session: str, kept: Kept, now: float) -> str:
    """One session as a line of the table.

    Args:
        pipeline: whose it is.
        session: its name.
        kept: as it reads now.
        now: seconds since 1970.
    """
    record = kept.record
    return _ROW.format(
        pipeline,
        session,
        f"{record.version:,}",
        f"{kept.size:,}",
        _age(now - kept.updated_at),
        "" if record.failure is None else record.failure.attempts,
    ).rstrip()


def line(pipeline: str, session: str, kept: Kept) -> str:
    """One session as a line of JSON."""
    record = kept.record
    values = {
        "pipeline": pipeline,
        "session": session,
        "version": record.version,
        "bytes": kept.size,
        "updated_at": _moment(kept.updated_at),
        "expires_at": _moment(record.expires_at),
        "attempts": 0 if record.failure is None else record.failure.attempts,
    }
    return json_text(values)


def described(pipeline: str, session: str, kept: Kept) -> str:
    """All that is kept for a session, as JSON over several lines."""
    record = kept.record
    values = {
        "pipeline": pipeline,
        "session": session,
        "version": record.version,
        "state": None if record.state is None else json.loads(record.state),
        "schema_version": record.schema,
        "updated_at": _moment(kept.updated_at),
        "expires_at": _moment(record.expires_at),
        "failure": None if record.failure is None else _failure(record.failure),
        "unsent": len(record.outbox),
        "applied": {source: applied.top for source, applied in record.applied.items()},
    }
    return json_text(values, indent=2)


def _failure(failure: Failure) -> dict[str, Any]:
    values = asdict(failure)
    for name in ("first_at", "retry_at"):
        values[name] = _moment(values[name])
    return values


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
