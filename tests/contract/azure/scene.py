"""A provider at a server of its own, for what the contract does not ask of everybody."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import AzureConnection, AzureQueue
from pipeline.message import Message
from pipeline.providers.azure import AzureProvider
from pipeline.providers.configured import Limits
from pipeline.providers.port import Received, Receiver, Want
from tests.servicebus.bus import ServiceBus

STRING = "QR_TEST_SERVICE_BUS"
CONNECTION = AzureConnection(connection_string=f"env:{STRING}")
LIMITS = Limits(connect=5.0, send=1.5, receive=1.5)


@asynccontextmanager
async def provided(
    bus: ServiceBus,
    queues: dict[str, dict[str, Any]],
    *,
    connection: AzureConnection = CONNECTION,
    limits: Limits = LIMITS,
    attempts: dict[str, int] | None = None,
) -> AsyncIterator[AzureProvider]:
    """A provider that is started, and closed at the end; queues have the names they have there."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(STRING, bus.connection_string)
        provider = AzureProvider(
            "main",
            connection,
            {
                name: AzureQueue(connection="main", **{"name": name, **keys})
                for name, keys in queues.items()
            },
            limits,
            SystemClock(),
            attempts,
        )
        await provider.start()
        try:
            yield provider
        finally:
            await provider.close()


def messages(*bodies: bytes, **fields: Any) -> list[Message]:
    return [Message(body, **fields) for body in bodies]


async def bring(receiver: Receiver, most: int = 10, wait: float = 2.0) -> Received:
    """What one receive brings."""
    return await receiver.receive(Want(messages=most, wait=wait))


def bodies(received: Received) -> list[bytes]:
    return list(received.batch.values("body"))
