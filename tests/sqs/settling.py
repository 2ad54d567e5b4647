"""DeleteMessage, ChangeMessageVisibility and their batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sqs import batches
from tests.sqs.errors import SqsError, missing
from tests.sqs.queues import Queue


class Settling:
    """Ends and prolongs what is in flight.

    Args:
        find: the queue of a URL.
    """

    def __init__(self, find: Callable[[object], Queue]) -> None:
        self._find = find

    def delete(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteMessage."""
        queue = self._find(request.get("QueueUrl"))
        _delete(queue, request)
        queue.look()
        return {}

    def delete_batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """DeleteMessageBatch."""
        return self._batch(request, _delete)

    def change(self, request: dict[str, Any]) -> dict[str, Any]:
        """ChangeMessageVisibility."""
        queue = self._find(request.get("QueueUrl"))
        _change(queue, request)
        queue.look()
        return {}

    def change_batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """ChangeMessageVisibilityBatch."""
        return self._batch(request, _change)

    def _batch(
        self, request: dict[str, Any], work: Callable[[Queue, dict[str, Any]], None]
    ) -> dict[str, Any]:
        queue = self._find(request.get("QueueUrl"))

        def done(entry: dict[str, Any]) -> dict[str, Any]:
            try:
                work(queue, entry)
            except SqsError as error:
                raise _in_a_batch(error) from None
            return {}

        result = batches.each(batches.entries(request), done)
        queue.look()
        return result


def _delete(queue: Queue, entry: dict[str, Any]) -> None:
    queue.delete(entry.get("ReceiptHandle"))


def _change(queue: Queue, entry: dict[str, Any]) -> None:
    if "VisibilityTimeout" not in entry:
        raise missing("VisibilityTimeout")
    queue.change(entry.get("ReceiptHandle"), entry["VisibilityTimeout"])


def _in_a_batch(error: SqsError) -> SqsError:
    """The service names a handle that has expired otherwise within a batch than alone.

    Seen in github.com/smaskalik/sqsmover/issues/54.
    """
    _, sep, reason = error.message.partition("for parameter ReceiptHandle is invalid. Reason: ")
    return SqsError("ReceiptHandleIsInvalid", reason.rstrip(".")) if sep else error
