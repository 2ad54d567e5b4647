"""Columns of what a service of others delivered, made of one tuple a message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_NAMES = (
    "id",
    "session",
    "sequence",
    "delivery_count",
    "body",
    "content_type",
    "correlation_id",
    "attributes",
    "time_to_live",
    "not_before",
    "deduplication_id",
    "traceparent",
    "tracestate",
    "enqueued_at",
    "provider_id",
    "dead_letter_reason",
    "dead_letter_description",
)


def columns_of_rows(rows: Iterable[tuple[Any, ...]]) -> dict[str, list[Any]]:
    """All columns but the lock's and the holding; not for no rows.

    Args:
        rows: values in the order of the names above, which is that of the result.
    """
    return dict(zip(_NAMES, map(list, zip(*rows, strict=True)), strict=True))
