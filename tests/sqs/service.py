"""SQS without a network: the queues by name, and what each action does."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from tests.sqs import clock as clocks
from tests.sqs.clock import Clock
from tests.sqs.errors import SqsError, invalid_value, missing, no_queue
from tests.sqs.queues import Queue
from tests.sqs.receiving import Receiving
from tests.sqs.sending import Sending
from tests.sqs.settings import Settings, parse_redrive
from tests.sqs.settling import Settling
from tests.sqs.stored import Stored

Result = dict[str, Any]
Action = Callable[[dict[str, Any]], Result | asyncio.Future[Result]]

ACCOUNT = "000000000000"
_NAME = re.compile(r"(?=.{1,80}$)[A-Za-z0-9_-]+(\.fifo)?")
_PURGE = 60.0
"""Seconds in which a queue is purged once."""
_tags = itertools.count(0x5EED0001)


class Service:
    """The queues of one account in one region; retention is kept and does nothing.

    Args:
        url: what queue URLs begin with, without the account.
        region: as in ARNs.
        clock: what visibility, delays and windows are measured by.
        calendar: what time stamps say.
        window: seconds of deduplication.
        in_flight_limit: messages of one queue.
    """

    def __init__(
        self,
        url: Callable[[], str],
        *,
        region: str = "us-east-1",
        clock: Clock = clocks.monotonic,
        calendar: Clock = clocks.calendar,
        window: float = 300.0,
        in_flight_limit: int = 120_000,
    ) -> None:
        self.queues: dict[str, Queue] = {}
        self.sending = Sending(self._find, clock, calendar, window)
        self.receiving = Receiving(self._find, clock, calendar, in_flight_limit)
        self._settling = Settling(self._find)
        self._url = url
        self._region = region
        self._clock = clock
        self._calendar = calendar
        self._created: dict[str, int] = {}
        self._purged: dict[Queue, float] = {}
        self.actions: Mapping[str, Action] = {
            "CreateQueue": self.create,
            "DeleteQueue": self._delete,
            "GetQueueUrl": self._get_url,
            "GetQueueAttributes": self._get_attributes,
            "SetQueueAttributes": self._set_attributes,
            "ListQueues": self._list,
            "PurgeQueue": self._purge,
            "SendMessage": self.sending.one,
            "SendMessageBatch": self.sending.batch,
            "ReceiveMessage": self.receiving.receive,
            "DeleteMessage": self._settling.delete,
            "DeleteMessageBatch": self._settling.delete_batch,
            "ChangeMessageVisibility": self._settling.change,
            "ChangeMessageVisibilityBatch": self._settling.change_batch,
        }

    def call(self, action: str, request: dict[str, Any]) -> Result | asyncio.Future[Result]:
        """Do what is asked; a long poll is answered later."""
        work = self.actions.get(action)
        if work is None:
            raise SqsError("InvalidAction", f"The action {action} is not valid for this endpoint.")
        return work(request)

    def url(self, name: str) -> str:
        """The URL of a queue of that name."""
        return f"{self._url()}/{ACCOUNT}/{name}"

    def arn(self, name: str) -> str:
        """The ARN of a queue of that name."""
        return f"arn:aws:sqs:{self._region}:{ACCOUNT}:{name}"

    def look_again(self) -> None:
        """Serve long polls with what the clock, having been moved, has shown."""
        for queue in list(self.queues.values()):
            queue.look()

    def give_again(self, url: str, handle: str) -> None:
        """Let a message of a standard queue that is in flight be given to the next receive too."""
        queue = self._find(url)
        assert not queue.fifo, "a FIFO queue gives nothing twice"
        queue.give_again(handle)
        queue.look()

    def close(self) -> None:
        """End every long poll without an answer."""
        for queue in self.queues.values():
            queue.close()

    # --- queues -----------------------------------------------------------------------------------

    def create(self, request: dict[str, Any]) -> Result:
        """CreateQueue."""
        name = request.get("QueueName")
        wanted = request.get("Attributes") or {}
        if not name:
            raise missing("QueueName")
        if not _NAME.fullmatch(name):
            raise invalid_value(
                name,
                "QueueName",
                "Can only include alphanumeric characters, hyphens, or underscores."
                " 1 to 80 in length",
            )
        if name in self.queues:
            differing = self.queues[name].settings.differing(wanted)
            if differing:
                raise SqsError(
                    "QueueNameExists",
                    "A queue already exists with the same name and a different value for attribute "
                    + ", ".join(differing),
                )
            return {"QueueUrl": self.url(name)}
        settings = Settings(name, wanted)
        self._check_redrive(settings.fifo, wanted)
        self.queues[name] = Queue(name, settings, self._clock, next(_tags), self._bury)
        self._created[name] = int(self._calendar())
        return {"QueueUrl": self.url(name)}

    def _delete(self, request: dict[str, Any]) -> Result:
        queue = self._find(request.get("QueueUrl"))
        del self.queues[queue.name]
        queue.close(no_queue())
        self._purged.pop(queue, None)
        return {}

    def _get_url(self, request: dict[str, Any]) -> Result:
        return {"QueueUrl": self.url(self._find(request.get("QueueName")).name)}

    def _list(self, request: dict[str, Any]) -> Result:
        start = request.get("QueueNamePrefix") or ""
        found = [self.url(name) for name in sorted(self.queues) if name.startswith(start)]
        return {"QueueUrls": found[:1_000]} if found else {}

    def _purge(self, request: dict[str, Any]) -> Result:
        queue = self._find(request.get("QueueUrl"))
        now = self._clock()
        if now - self._purged.get(queue, -_PURGE) < _PURGE:
            raise SqsError(
                "PurgeQueueInProgress",
                f"Only one PurgeQueue operation on {queue.name} is allowed every 60 seconds.",
            )
        self._purged[queue] = now
        queue.purge()
        return {}

    # --- attributes -------------------------------------------------------------------------------

    def _get_attributes(self, request: dict[str, Any]) -> Result:
        queue = self._find(request.get("QueueUrl"))
        queue.return_due()
        known = queue.settings.told() | {
            "QueueArn": self.arn(queue.name),
            "CreatedTimestamp": str(self._created[queue.name]),
            "LastModifiedTimestamp": str(self._created[queue.name]),
            "ApproximateNumberOfMessages": str(queue.visible),
            "ApproximateNumberOfMessagesNotVisible": str(queue.in_flight),
            "ApproximateNumberOfMessagesDelayed": str(queue.delayed),
        }
        names = request.get("AttributeNames") or []
        if "All" in names:
            return {"Attributes": known}
        for name in names:
            if name not in known and name not in _UNSET:
                raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
        chosen = {name: known[name] for name in names if name in known}
        return {"Attributes": chosen} if chosen else {}

    def _set_attributes(self, request: dict[str, Any]) -> Result:
        queue = self._find(request.get("QueueUrl"))
        wanted = request.get("Attributes") or {}
        self._check_redrive(queue.fifo, wanted)
        queue.settings.change(wanted)
        return {}

    # --- dead letters -----------------------------------------------------------------------------

    def _check_redrive(self, fifo: bool, wanted: Mapping[str, str]) -> None:
        policy = wanted.get("RedrivePolicy", "")
        redrive = parse_redrive(policy)
        if not redrive:
            return
        target = self._by_arn(redrive.target)
        if target is None:
            raise invalid_value(policy, "RedrivePolicy", "Dead letter target does not exist.")
        if target.fifo != fifo:
            raise invalid_value(
                policy,
                "RedrivePolicy",
                "Dead-letter queue must be same type of queue as the source.",
            )

    def _bury(self, source: Queue, message: Stored) -> bool:
        redrive = source.settings.redrive
        target = self._by_arn(redrive.target) if redrive else None
        if target is None:
            return False
        self.sending.bury(target, message, self.arn(source.name))
        return True

    def _by_arn(self, arn: str) -> Queue | None:
        name = arn.rpartition(":")[2]
        return self.queues.get(name) if arn == self.arn(name) else None

    def _find(self, url: object) -> Queue:
        """The queue of a URL, or of a name."""
        if not url:
            raise missing("QueueUrl")
        queue = self.queues.get(str(url).rpartition("/")[2])
        if queue is None:
            raise no_queue()
        return queue


_UNSET = {
    "Policy",
    "RedrivePolicy",
    "RedriveAllowPolicy",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
    "FifoQueue",
    "ContentBasedDeduplication",
    "DeduplicationScope",
    "FifoThroughputLimit",
}
"""Attributes that a queue may have and this one has not."""
