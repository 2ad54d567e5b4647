"""What tests with Microsoft's SDK share: a client that fails at once, waiting, and receiving."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusClient, ServiceBusReceiver

from tests.servicebus.bus import ServiceBus

# For tests that break connections: the SDK lets go of a broken socket without closing it.
BREAKING: Final = (
    pytest.mark.usefixtures("sdk_leaks"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:loop is closed:ResourceWarning"),
)


@asynccontextmanager
async def connect(bus: ServiceBus, **options: Any) -> AsyncIterator[ServiceBusClient]:
    """A client over plain TCP, which does not try again what has failed unless told to."""
    options = {"retry_total": 0, "retry_backoff_factor": 0.05, **options}
    client = ServiceBusClient.from_connection_string(bus.connection_string, **options)
    async with closing(client):
        yield client


@asynccontextmanager
async def closing(client: ServiceBusClient) -> AsyncIterator[None]:
    """Close the client's senders and receivers at the end, together, as each takes up to 1.3 s.

    The SDK's client remembers them weakly: those that a test has let go of would never be closed.
    """
    handlers: set[Any] = set()
    client._handlers = handlers  # type: ignore[assignment]
    try:
        yield
    finally:
        await asyncio.gather(*(handler.close() for handler in handlers))
        await client.close()


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return once the condition holds.

    Raises:
        AssertionError: it does not within that time.
    """
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"not within {seconds:g} s")


async def received(receiver: ServiceBusReceiver, count: int) -> list[ServiceBusReceivedMessage]:
    """So many messages: a call of the SDK may return fewer although more are on their way."""
    got: list[ServiceBusReceivedMessage] = []
    async with asyncio.timeout(30):
        while len(got) < count:
            got += await receiver.receive_messages(count - len(got), max_wait_time=10)
    return got


def texts(messages: list[ServiceBusReceivedMessage]) -> list[str]:
    """Their bodies."""
    return [str(message) for message in messages]
