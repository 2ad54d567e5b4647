"""The provider at the project's own endpoint, over a real socket, with faults on demand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SystemClock
from pipeline.config import AwsConnection, AwsQueue, RuntimeConfig, parse
from pipeline.errors import QueueError
from pipeline.message import Message
from pipeline.providers.aws import AwsProvider
from pipeline.providers.aws.receipts import Receipt
from pipeline.providers.aws.receiver import SqsReceiver
from pipeline.providers.configured import Limits
from pipeline.providers.port import Received, Sent, Want
from tests.contract.aws.bench import connection
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import KEY, SECRET

FIFO, STANDARD = "orders.fifo", "orders"
both_clients = pytest.mark.parametrize("client", ["lean", "sdk"])
"""Who makes the hot calls."""


@dataclass
class Own:
    """A provider at an endpoint.

    Args:
        sqs: the endpoint.
        queue: the queue's name.
        config: the provider's configuration.
        provider: started.
        others: more of them, closed at the end.
    """

    sqs: Endpoint
    queue: str
    config: RuntimeConfig
    provider: AwsProvider
    others: list[AwsProvider] = field(default_factory=list)

    async def another(self, limits: Limits | None = None, **keys: Any) -> AwsProvider:
        """One more provider, with other keys of the connection."""
        made = await started(self.config, limits, **keys)
        self.others.append(made)
        return made

    def client(self) -> QueueClient:
        """A client with the same configuration, not started."""
        return QueueClient(self.config, clock=SystemClock())

    async def send(self, *messages: Message) -> list[Sent | QueueError]:
        """Send over a sender of its own."""
        sender = await self.provider.sender(self.queue)
        return await sender.send(messages)

    async def fill(self, *bodies: str, group: str = "g") -> None:
        """Put messages there: of one group, on a FIFO queue."""
        group_of = {"session": group} if self.fifo else {}
        sent = await self.send(*(Message(body.encode(), **group_of) for body in bodies))  # type: ignore[arg-type]
        assert all(isinstance(one, Sent) for one in sent), sent

    @property
    def fifo(self) -> bool:
        """Whether the queue is FIFO."""
        return self.queue.endswith(".fifo")

    async def receiver(self, **options: Any) -> SqsReceiver:
        """A lane."""
        return await self.provider.receiver(self.queue, **options)


@asynccontextmanager
async def own(
    client: str,
    queue: str = FIFO,
    *,
    sqs: Endpoint | None = None,
    attributes: dict[str, str] | None = None,
    limits: Limits | None = None,
    keys: dict[str, Any] | None = None,
    more: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Own]:
    """A queue, its dead-letter queue and a provider; at the end no call is under way.

    Args:
        client: who makes the hot calls.
        queue: its name; `.fifo` says what it is.
        sqs: the endpoint, up or not; None: a new one.
        attributes: the queue's, at SQS.
        limits: time-outs; None: 10 s each.
        keys: more of the connection.
        more: of the configuration.
        settings: of the queue.
    """
    patch = pytest.MonkeyPatch()
    patch.setenv("QR_TEST_KEY", KEY)
    patch.setenv("QR_TEST_SECRET", SECRET)
    async with sqs or Endpoint() as endpoint:
        if queue not in endpoint.service.queues:
            endpoint.create(queue, **(attributes or {}))
        config = parse(
            {
                "name": "own",
                "connections": {"main": connection(endpoint.url, client=client, **(keys or {}))},
                "retry": {"initial": 0.001, "maximum": 5.0},
                "queues": {
                    queue: {
                        "connection": "main",
                        "fifo": queue.endswith(".fifo"),
                        "poll": 1.0,
                        **settings,
                    }
                },
                **(more or {}),
            }
        )
        provider = await started(config, limits)
        at = Own(endpoint, queue, config, provider)
        try:
            yield at
        finally:
            for each in (provider, *at.others):
                await each.close()
            patch.undo()


async def started(config: RuntimeConfig, limits: Limits | None = None, **keys: Any) -> AwsProvider:
    """A provider, with other keys of the connection where some are given."""
    settings = cast(AwsConnection, config.connections["main"])
    queues = {str(name): cast(AwsQueue, queue) for name, queue in config.queues.items()}
    attempts = {one.queue: one.retry.max_attempts for one in config.pipelines.values()}
    provider = AwsProvider(
        "main",
        AwsConnection(**settings.model_dump() | keys),
        queues,
        limits or Limits(10.0, 10.0, 10.0),
        SystemClock(),
        attempts,
    )
    await provider.start()
    return provider


def want(messages: int = 10, wait: float = 0.0, **more: Any) -> Want:
    """What a receive may bring."""
    return Want(messages=messages, wait=wait, **more)


def bodies(received: Received) -> list[str]:
    """What came, in order."""
    return [body.decode() for body in received.batch.values("body")]


def receipts(received: Received) -> Sequence[Receipt]:
    """What it is settled by."""
    return cast(Sequence[Receipt], received.receipts)
