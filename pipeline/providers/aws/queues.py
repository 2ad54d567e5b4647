"""What is behind a queue's name: its address, its limits, its dead-letter queue."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.config import AwsQueue
from pipeline.errors import ConfigurationError, PermissionDenied, QueueNotFound
from pipeline.providers.aws.errors import PROVIDER
from pipeline.providers.aws.sdk import Sdk
from pipeline.providers.configured import keys_of

_log = logging.getLogger("queue_runtime.sqs")
_READ = [
    "QueueArn",
    "CreatedTimestamp",
    "MaximumMessageSize",
    "RedrivePolicy",
    "VisibilityTimeout",
]
_DEPTHS = [
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
]


@dataclass(frozen=True, slots=True)
class Found:
    """A queue at SQS.

    Args:
        name: what it is called there.
        url: its address.
        attributes: what could be read of it; nothing without the right to.
    """

    name: str
    url: str
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def fifo(self) -> bool:
        """Whether its messages have groups in order."""
        return self.name.endswith(".fifo")

    @property
    def source(self) -> str:
        """Where its messages come from, and since when it is there (SPEC F4)."""
        arn = self.attributes.get("QueueArn", self.url)
        return f"{PROVIDER}:{arn}@{self.attributes.get('CreatedTimestamp', '')}"

    @property
    def redrive(self) -> Mapping[str, Any]:
        """Its redrive policy; empty where it has none."""
        policy: dict[str, Any] = json.loads(self.attributes.get("RedrivePolicy") or "{}")
        return policy

    def max_size(self, default: int) -> int:
        """The most bytes of a message."""
        return int(self.attributes.get("MaximumMessageSize", default))


class Queues:
    """Finds the queues of one connection, each once.

    Args:
        sdk: makes the calls.
        settings: the queues of the configuration by name.
    """

    def __init__(self, sdk: Sdk, settings: Mapping[str, AwsQueue]) -> None:
        self._sdk = sdk
        self._settings = settings
        self._found: dict[str, Found] = {}
        self._dead: dict[str, Found] = {}

    def settings(self, queue: str) -> AwsQueue:
        """A queue's keys.

        Raises:
            QueueNotFound: the configuration names no such queue.
        """
        return keys_of(self._settings, queue)

    def known(self, queue: str) -> Found | None:
        """The queue, if it was found before."""
        return self._found.get(queue)

    async def find(self, queue: str) -> Found:
        """The queue.

        Raises:
            QueueNotFound: there is none at SQS, or the configuration names none.
        """
        settings = self.settings(queue)
        if queue not in self._found:
            name = settings.name or queue
            if settings.create:
                await self._create(name)
                await self._create_dead(name, settings)
            try:
                self._found[queue] = await self._look(name, settings)
            except QueueNotFound as error:
                meta = self._sdk.rest.meta
                raise QueueNotFound(
                    f"queue {queue}: there is no {name} at SQS in {meta.region_name} "
                    f"({meta.endpoint_url}): make it, correct queues.{queue}.name or the "
                    "connection's region, or set create: true"
                ) from error
        return self._found[queue]

    async def dead(self, queue: str) -> Found:
        """Its dead-letter queue.

        Raises:
            QueueNotFound: there is none: the message says what to make.
        """
        if queue not in self._dead:
            found = await self.find(queue)
            settings = self.settings(queue)
            name, account = _dead_name(found, settings)
            try:
                self._dead[queue] = await self._look(name, settings, account)
            except QueueNotFound as error:
                raise QueueNotFound(
                    f"queue {queue} has no dead-letter queue: there is no {name} at SQS; make it, "
                    "name another one with dead_letter_queue, or set create: true"
                ) from error
        return self._dead[queue]

    async def depths(self, found: Found) -> dict[str, int]:
        """How much it holds, about."""
        answer = await self._sdk.ask(
            "get_queue_attributes", QueueUrl=found.url, AttributeNames=_DEPTHS
        )
        return {name: int(value) for name, value in (answer.get("Attributes") or {}).items()}

    async def _look(self, name: str, settings: AwsQueue, account: str | None = None) -> Found:
        owner = account or settings.account
        given = {} if owner is None else {"QueueOwnerAWSAccountId": owner}
        answer = await self._sdk.ask("get_queue_url", QueueName=name, **given)
        url = answer["QueueUrl"]
        try:
            read = await self._sdk.ask("get_queue_attributes", QueueUrl=url, AttributeNames=_READ)
        except PermissionDenied as error:
            _log.warning(
                "queue %s: its attributes can't be read (grant sqs:GetQueueAttributes): its limits "
                "and its redrive policy are taken from the configuration: %s",
                name,
                error,
            )
            read = {}
        return Found(name, url, dict(read.get("Attributes") or {}))

    async def _create(self, name: str) -> None:
        try:
            await self._sdk.ask("get_queue_url", QueueName=name)
        except QueueNotFound:
            attributes = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
            await self._sdk.ask("create_queue", QueueName=name, Attributes=attributes)
            _log.info("queue %s was made at SQS", name)

    async def _create_dead(self, name: str, settings: AwsQueue) -> None:
        dead, account = _dead_name(await self._look(name, settings), settings)
        if account is None:
            await self._create(dead)


def _dead_name(found: Found, settings: AwsQueue) -> tuple[str, str | None]:
    """What the dead-letter queue is called, and whose it is when the redrive policy says so."""
    if settings.dead_letter_queue is not None:
        return settings.dead_letter_queue, None
    arn = found.redrive.get("deadLetterTargetArn")
    if arn:
        *_, account, name = str(arn).split(":")
        return name, account
    stem = found.name.removesuffix(".fifo")
    return stem + "-dlq" + (".fifo" if found.fifo else ""), None


def check_order(queue: str, found: Found, settings: AwsQueue) -> None:
    """SPEC P4: order can't be had of a standard queue, nor done without on a FIFO one.

    Raises:
        ConfigurationError: what the configuration asks for does not go with the queue.
    """
    if settings.fifo and not found.fifo:
        told = f"queues.{queue}: fifo: true, and {found.name} is a standard queue at SQS"
        if settings.on_unsupported_sessions == "fail":
            raise ConfigurationError(
                f"{told}: name a FIFO queue, or set on_unsupported_sessions: unordered"
            )
        _log.warning("%s: its messages are handled without order", told)
    if found.fifo and not settings.fifo:
        raise ConfigurationError(
            f"queues.{queue}.fifo: {found.name} is a FIFO queue: must be true, or read a standard "
            "queue to do without order"
        )


def check_redrive(queue: str, found: Found, attempts: int) -> None:
    """SQS counts every receive, also of a message that only waited behind a failing one.

    So its redrive policy must leave far more receives than our attempts need.

    Raises:
        ConfigurationError: it would take messages away before their attempts are over.
    """
    most = found.redrive.get("maxReceiveCount")
    if most is None or int(most) >= 3 * attempts:
        return
    told = (
        f"queue {queue}: the redrive policy of {found.name} moves a message after {most} receives, "
        f"and its handler may try it {attempts} times (pipelines.NAME.retry.max_attempts); SQS "
        f"counts every receive: set maxReceiveCount to {3 * attempts} or more"
    )
    if int(most) < attempts:
        raise ConfigurationError(told)
    _log.warning("%s", told)
