"""SendMessage and its batch: checks, deduplication, sequence numbers, delay."""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from tests.sqs import batches
from tests.sqs.checks import check
from tests.sqs.clock import Clock
from tests.sqs.errors import missing
from tests.sqs.queues import Queue
from tests.sqs.stored import Stored

_FIRST = 18_850_000_000_000_000_000
_STEP = 256


@dataclass(slots=True)
class _Sent:
    """What a duplicate is answered with, and since when."""

    at: float
    result: dict[str, Any]


class Sending:
    """Takes messages into queues.

    Args:
        find: the queue of a URL.
        clock: what the deduplication window is measured by.
        calendar: what messages are stamped with.
        window: seconds for which a duplicate is recognised, also of a message that was deleted.
    """

    def __init__(
        self, find: Callable[[object], Queue], clock: Clock, calendar: Clock, window: float
    ) -> None:
        self.window = window
        self.later = 0.0
        """Seconds until what is being sent can be received, though nobody asked for a delay."""
        self._find = find
        self._clock = clock
        self._calendar = calendar
        self._sent: WeakKeyDictionary[Queue, OrderedDict[str, _Sent]] = WeakKeyDictionary()

    def one(self, request: dict[str, Any]) -> dict[str, Any]:
        """SendMessage."""
        queue = self._find(request.get("QueueUrl"))
        result = self._send(queue, request)
        queue.look()
        return result

    def batch(self, request: dict[str, Any]) -> dict[str, Any]:
        """SendMessageBatch."""
        queue = self._find(request.get("QueueUrl"))
        found = batches.entries(request)
        if queue.fifo and not all(entry.get("MessageGroupId") for entry in found):
            raise missing("MessageGroupId")
        batches.not_too_long(found)
        result = batches.each(found, lambda entry: self._send(queue, entry))
        queue.look()
        return result

    def bury(self, target: Queue, message: Stored, source: str) -> None:
        """Put a message that was received too often into the dead-letter queue.

        It keeps its id, time and count; the deduplication of the target isn't asked.
        """
        target.put(
            Stored(
                id=message.id,
                number=_number(target),
                body=message.body,
                attributes=message.attributes,
                sent=message.sent,
                group=message.group,
                deduplication=message.deduplication,
                sequence=_sequence(target),
                trace=message.trace,
                source=source,
                first_received=message.first_received,
                receives=message.receives,
                elsewhere=message.receives,
            )
        )
        target.look()

    def _send(self, queue: Queue, entry: Mapping[str, Any]) -> dict[str, Any]:
        check(queue, entry)
        key = self._key(queue, entry) if queue.fifo else None
        sent = self._recent(queue)
        if key is not None and key in sent:
            return sent[key].result
        message = self._message(queue, entry)
        delay = entry.get("DelaySeconds", queue.settings.number("DelaySeconds"))
        queue.put(message, delay or self.later)
        result = _result(message)
        if key is not None:
            sent[key] = _Sent(self._clock(), result)
        return result

    def _message(self, queue: Queue, entry: Mapping[str, Any]) -> Stored:
        trace = (entry.get("MessageSystemAttributes") or {}).get("AWSTraceHeader")
        return Stored(
            id=str(uuid.uuid4()),
            number=_number(queue),
            body=entry["MessageBody"],
            attributes=entry.get("MessageAttributes") or {},
            sent=int(self._calendar() * 1_000),
            group=entry.get("MessageGroupId"),
            deduplication=_deduplication(entry) if queue.fifo else None,
            sequence=_sequence(queue),
            trace=trace and trace.get("StringValue"),
        )

    def _key(self, queue: Queue, entry: Mapping[str, Any]) -> str:
        name = _deduplication(entry)
        return f"{entry['MessageGroupId']} {name}" if queue.settings.by_group else name

    def _recent(self, queue: Queue) -> OrderedDict[str, _Sent]:
        sent = self._sent.setdefault(queue, OrderedDict())
        ended = self._clock() - self.window
        while sent and next(iter(sent.values())).at <= ended:
            sent.popitem(last=False)
        return sent


def _deduplication(entry: Mapping[str, Any]) -> str:
    explicit: str | None = entry.get("MessageDeduplicationId")
    return explicit or hashlib.sha256(entry["MessageBody"].encode()).hexdigest()


def _number(queue: Queue) -> int:
    queue.numbers += 1
    return queue.numbers


def _sequence(queue: Queue) -> str | None:
    """Of the message that was numbered last."""
    return str(_FIRST + _STEP * queue.numbers) if queue.fifo else None


def _result(message: Stored) -> dict[str, Any]:
    told = {
        "MessageId": message.id,
        "MD5OfMessageBody": message.digest,
        "MD5OfMessageAttributes": message.attribute_digest,
        "SequenceNumber": message.sequence,
    }
    return {name: value for name, value in told.items() if value is not None}
