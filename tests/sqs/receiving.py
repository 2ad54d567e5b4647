"""ReceiveMessage: short and long polls, repeated attempts, and what is told of a message."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.sqs import digests
from tests.sqs.checks import wrong_kind
from tests.sqs.clock import Clock
from tests.sqs.errors import invalid_value
from tests.sqs.queues import Queue, full
from tests.sqs.settings import LONGEST_LOCK
from tests.sqs.stored import Stored, handle

_ATTEMPT = 300.0
"""Seconds for which an attempt may be repeated."""
_ACCOUNT = "000000000000"


@dataclass(slots=True)
class _Attempt:
    """What a receive with an attempt id brought: each message, its delivery and its stamp."""

    at: float
    taken: list[tuple[Stored, int, int]]


class Receiving:
    """Gives messages out.

    Args:
        find: the queue of a URL.
        clock: what attempts are measured by; long polls end by the loop's time.
        calendar: what first receives are stamped with.
        limit: messages of one queue in flight; then a standard queue answers OverLimit and a FIFO
            queue gives nothing.
    """

    def __init__(
        self, find: Callable[[object], Queue], clock: Clock, calendar: Clock, limit: int
    ) -> None:
        self.limit = limit
        self._find = find
        self._clock = clock
        self._calendar = calendar
        self._attempts: dict[tuple[Queue, str], _Attempt] = {}

    def receive(self, request: dict[str, Any]) -> dict[str, Any] | asyncio.Future[dict[str, Any]]:
        """ReceiveMessage; a long poll that finds nothing is answered later."""
        queue = self._find(request.get("QueueUrl"))
        most, wait, visibility = _numbers(queue, request)
        attempt = request.get("ReceiveRequestAttemptId")
        if attempt and not queue.fifo:
            raise wrong_kind(attempt, "ReceiveRequestAttemptId")

        def take() -> list[Stored]:
            room = self.limit - queue.in_flight
            taken = queue.take(min(most, room), visibility) if room > 0 else []
            if attempt and taken:
                self._keep(queue, attempt, taken)
            return taken

        found = self._repeated(queue, attempt, visibility) if attempt else None
        found = found or take()
        queue.look()  # time may have shown messages that others wait for
        if not found and not queue.fifo and queue.in_flight >= self.limit:
            raise full()
        if found or not wait:
            return self._told(queue, request, found)
        return self._later(queue, request, take, wait)

    def _later(
        self, queue: Queue, request: dict[str, Any], take: Callable[[], list[Stored]], wait: float
    ) -> asyncio.Future[dict[str, Any]]:
        told: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()

        def tell(done: asyncio.Future[list[Stored]]) -> None:
            if done.cancelled():
                told.cancel()
            elif error := done.exception():
                told.set_exception(error)
            else:
                told.set_result(self._told(queue, request, done.result()))

        queue.waiters.join(take, wait).add_done_callback(tell)
        queue.look()
        return told

    def _keep(self, queue: Queue, attempt: str, taken: Iterable[Stored]) -> None:
        now = self._clock()
        for key, old in list(self._attempts.items()):
            if old.at > now - _ATTEMPT:
                break
            del self._attempts[key]
        kept = [(message, message.receipt, message.stamp) for message in taken]
        self._attempts.pop((queue, attempt), None)
        self._attempts[queue, attempt] = _Attempt(now, kept)

    def _repeated(self, queue: Queue, attempt: str, visibility: float) -> list[Stored] | None:
        """What the attempt brought, unless one of it was deleted, changed or shown since."""
        old = self._attempts.get((queue, attempt))
        if old is None or old.at <= self._clock() - _ATTEMPT:
            return None
        if not all(queue.still(*delivery) for delivery in old.taken):
            return None
        for message, _, _ in old.taken:
            queue.renew(message, visibility)
        again = [message for message, _, _ in old.taken]
        old.taken = [(message, message.receipt, message.stamp) for message in again]
        return again

    def _told(
        self, queue: Queue, request: Mapping[str, Any], found: list[Stored]
    ) -> dict[str, Any]:
        if not found:
            return {}
        now = int(self._calendar() * 1_000)
        system = {
            *(request.get("AttributeNames") or ()),
            *(request.get("MessageSystemAttributeNames") or ()),
        }
        names = request.get("MessageAttributeNames") or ()
        for message in found:
            message.first_received = message.first_received or now
        return {"Messages": [_message(queue, message, system, names) for message in found]}


def _numbers(queue: Queue, request: Mapping[str, Any]) -> tuple[int, int, int]:
    most = request.get("MaxNumberOfMessages", 1)
    wait = request.get("WaitTimeSeconds", queue.settings.number("ReceiveMessageWaitTimeSeconds"))
    visibility = request.get("VisibilityTimeout", queue.settings.number("VisibilityTimeout"))
    for value, name, low, high in (
        (most, "MaxNumberOfMessages", 1, 10),
        (wait, "WaitTimeSeconds", 0, 20),
        (visibility, "VisibilityTimeout", 0, LONGEST_LOCK),
    ):
        if not low <= value <= high:
            raise invalid_value(value, name, f"Must be between {low} and {high}, if provided.")
    return most, wait, visibility


def _message(
    queue: Queue, message: Stored, system: set[str], names: Iterable[str]
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": handle(queue.tag, message),
        "MD5OfBody": message.digest,
        "Body": message.body,
    }
    if system:
        told["Attributes"] = _system(message, system)
    if names and message.attributes:
        chosen = _chosen(message.attributes, names)
        if chosen:
            told["MessageAttributes"] = chosen
            whole = len(chosen) == len(message.attributes)
            told["MD5OfMessageAttributes"] = (
                message.attribute_digest if whole else digests.of_attributes(chosen)
            )
    return told


def _system(message: Stored, wanted: set[str]) -> dict[str, str]:
    known = {
        "SenderId": _ACCOUNT,
        "SentTimestamp": str(message.sent),
        "ApproximateReceiveCount": str(message.receives),
        "ApproximateFirstReceiveTimestamp": str(message.first_received),
        "SequenceNumber": message.sequence,
        "MessageDeduplicationId": message.deduplication,
        "MessageGroupId": message.group,
        "AWSTraceHeader": message.trace,
        "DeadLetterQueueSourceArn": message.source,
    }
    everything = "All" in wanted
    return {
        name: value
        for name, value in known.items()
        if value is not None and (everything or name in wanted)
    }


def _chosen(
    attributes: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> dict[str, Mapping[str, Any]]:
    if "All" in names or ".*" in names:
        return dict(attributes)
    exact = set(names)
    starts = tuple(name[:-2] for name in names if name.endswith(".*"))
    return {
        name: value
        for name, value in attributes.items()
        if name in exact or (starts and name.startswith(starts))
    }
