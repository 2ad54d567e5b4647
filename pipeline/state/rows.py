"""A session's record as the columns of a row, and back: numbers and texts, most of them JSON.

Texts, because a load brings all its rows as one JSON value (see file.py), and because people look
into such files. What was applied is written whole with each commit, so each message of it is
encoded once, when it is applied.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import deque
from collections.abc import Sequence
from dataclasses import astuple
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any, Final, TypeAlias

from pipeline.state.port import Applied, Failure, Pending, SessionRecord

COLUMNS: Final = (
    "version",
    "state",
    "schema",
    "expires_at",
    "applied",
    "outbox",
    "failure",
    "updated_at",
)
"""The columns that keep a record, in the order of `Columns`, behind its pipeline and its key."""

Columns: TypeAlias = tuple[int, str | None, int, float | None, str, str | None, str | None, float]

_BODY: Final = 2
"""Where a message's row has its body, the one value that JSON can't hold."""


class EncodedApplied(Applied):
    """An `Applied` that has each of its messages encoded as well."""

    __slots__ = ("_texts",)

    def __init__(self) -> None:
        super().__init__()
        self._texts: deque[str] = deque()

    @classmethod
    def read(cls, values: Sequence[Any]) -> EncodedApplied:
        """What `text` made, read as JSON: the highest sequence, then sequences and ids in turn."""
        made = cls()
        made.top = values[0]
        made._keep(list(zip(values[1::2], values[2::2], strict=True)))
        return made

    def extend(self, messages: Sequence[tuple[int, str]], settled_below: int) -> None:
        """Messages were applied, see `Applied.extend`."""
        super().extend(messages, settled_below)
        texts = self._texts
        texts.extend([f"{sequence},{_quoted(id_)}" for sequence, id_ in messages])
        for _ in range(len(texts) - len(self._recent)):
            texts.popleft()

    @property
    def text(self) -> str:
        """All of it as JSON."""
        return f"[{self.top},{','.join(self._texts)}]"

    def _keep(self, messages: list[tuple[int, str]]) -> None:
        self._recent.extend(messages)
        self._texts.extend([f"{sequence},{_quoted(id_)}" for sequence, id_ in messages])


def to_columns(record: SessionRecord, updated_at: float) -> Columns:
    """A record whose `applied` are `EncodedApplied` as a row's columns."""
    parts = [
        f"{_quoted(source)}:{applied.text}"
        for source, applied in record.applied.items()
        if isinstance(applied, EncodedApplied)
    ]
    return (
        record.version,
        None if record.state is None else record.state.decode(),
        record.schema,
        record.expires_at,
        f"{{{','.join(parts)}}}",
        _outbox_text(record.outbox) if record.outbox else None,
        None if record.failure is None else json.dumps(astuple(record.failure)),
        updated_at,
    )


def to_record(columns: Sequence[Any]) -> SessionRecord:
    """The record that `to_columns` wrote."""
    version, state, schema, expires_at, applied, outbox, failure, _ = columns
    return SessionRecord(
        version,
        None if state is None else state.encode(),
        {source: EncodedApplied.read(values) for source, values in json.loads(applied).items()},
        [] if outbox is None else [_pending(*one) for one in json.loads(outbox)],
        None if failure is None else _failure(json.loads(failure)),
        schema,
        expires_at,
    )


def _outbox_text(outbox: Sequence[Pending]) -> str:
    return json.dumps([(one.sequence, one.queue, _sealed(one.row)) for one in outbox])


def _sealed(row: Sequence[Any]) -> list[Any]:
    values = list(row)
    values[_BODY] = b64encode(values[_BODY]).decode()
    return values


def _pending(sequence: int, queue: str, values: list[Any]) -> Pending:
    values[_BODY] = b64decode(values[_BODY])
    return Pending(sequence, queue, tuple(values))


def _failure(values: list[Any]) -> Failure:
    sequence, id_, attempts, first_at, retry_at, holding, verdict, deaths = values
    decided = None if verdict is None else (verdict[0], verdict[1])
    return Failure(sequence, id_, attempts, first_at, retry_at, holding, decided, deaths)
