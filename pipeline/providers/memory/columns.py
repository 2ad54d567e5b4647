"""Stored messages as the columns of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.batch import MessageBatch
from pipeline.message import ROW_FIELDS
from pipeline.providers.memory.stored import AGAIN, EXTRA, Stored


def batch_of(
    records: Sequence[Stored], holdings: Sequence[int], locked_until: Sequence[float], marks: int
) -> MessageBatch:
    """Make a batch of stored messages.

    Args:
        records: the rows.
        holdings: each one's holding.
        locked_until: seconds since 1970.
        marks: the records' marks, or-ed: columns that no row needs are not made.
    """
    columns: dict[str, Sequence[Any]] = {
        "id": [record.id for record in records],
        "session": [record.session for record in records],
        "body": [record.body for record in records],
        "holding": holdings,
        "sequence": [record.sequence for record in records],
        "enqueued_at": [record.enqueued_at for record in records],
        "locked_until": locked_until,
    }
    if marks & AGAIN:
        columns["delivery_count"] = [record.count for record in records]
    if records and marks & EXTRA:
        _add_extras(columns, records)
    if records and records[0].why is not None:  # then all of them are dead letters
        reasons = [record.why for record in records if record.why is not None]
        columns["dead_letter_reason"] = [str(why.reason) for why in reasons]
        columns["dead_letter_description"] = [why.description for why in reasons]
    return MessageBatch.from_columns(len(records), columns)


def _add_extras(columns: dict[str, Sequence[Any]], records: Sequence[Stored]) -> None:
    given = zip(*[record.rest for record in records], strict=True)
    for name, values in zip(ROW_FIELDS[3:], given, strict=True):
        if values.count(None) == len(values):
            continue
        if name == "attributes":
            columns[name] = [pairs and list(pairs.items()) for pairs in values]
        else:
            columns[name] = values
