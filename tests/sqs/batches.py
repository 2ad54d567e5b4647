"""What batch calls have in common: the checks of the whole, and an answer for each entry."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tests.sqs.checks import size
from tests.sqs.errors import SqsError
from tests.sqs.settings import LARGEST

MOST = 10
_ID = re.compile(r"[\w-]{1,80}", re.ASCII)


def entries(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The entries of a batch that is sound as a whole."""
    found: list[dict[str, Any]] = request.get("Entries") or []
    if not found:
        raise SqsError("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(found) > MOST:
        raise SqsError(
            "TooManyEntriesInBatchRequest",
            f"Maximum number of entries per request are {MOST}. You have sent {len(found)}.",
        )
    seen = set()
    for entry in found:
        name = entry["Id"]
        if not _ID.fullmatch(name):
            raise SqsError(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and "
                "underscores. It can be at most 80 letters long.",
            )
        if name in seen:
            raise SqsError("BatchEntryIdsNotDistinct", f"Id {name} repeated.")
        seen.add(name)
    return found


def not_too_long(found: list[dict[str, Any]]) -> None:
    """Refuse messages that are too much together."""
    total = sum(map(size, found))
    if total > LARGEST:
        raise SqsError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {LARGEST} bytes. You have sent {total} bytes.",
        )


def each(
    found: list[dict[str, Any]], work: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Do them one by one; an error is its own entry's alone."""
    done, failed = [], []
    for entry in found:
        try:
            done.append({"Id": entry["Id"], **work(entry)})
        except SqsError as error:
            failed.append(failure(entry["Id"], error))
    return merged(done, failed)


def failure(name: str, error: SqsError) -> dict[str, Any]:
    """What `Failed` says of one."""
    return {
        "Id": name,
        "SenderFault": error.sender_fault,
        "Code": error.query_code,
        "Message": error.message,
    }


def merged(done: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    """The answer to a batch: a part that is empty isn't there."""
    parts = {"Successful": done, "Failed": failed}
    return {name: part for name, part in parts.items() if part}
