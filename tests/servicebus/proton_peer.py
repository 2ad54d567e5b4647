"""Apache Qpid Proton as a client: it knows AMQP 1.0 and nothing of Service Bus.

Its blocking connection works on a thread while the server runs on the test's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final, TypeVar

from tests.servicebus.bus import KEY, KEY_NAME, ServiceBus
from tests.servicebus.tools import needed

try:
    from proton import Delivery, Message
    from proton.utils import BlockingConnection, BlockingReceiver
except ImportError:
    needed("python-qpid-proton is not installed (it needs a C compiler): make peers")

PATIENCE: Final = 30.0  # seconds, for anything
PLAIN: Final = {"allowed_mechs": "PLAIN", "user": KEY_NAME, "password": KEY}
ANONYMOUS: Final = {"allowed_mechs": "ANONYMOUS"}

Result = TypeVar("Result")


async def peer(
    bus: ServiceBus, work: Callable[[BlockingConnection], Result], **options: Any
) -> Result:
    """What the work on a connection comes to, on a thread of its own."""
    options = options or PLAIN

    def connected() -> Result:
        connection = BlockingConnection(
            f"amqp://127.0.0.1:{bus.port}", PATIENCE, allow_insecure_mechs=True, **options
        )
        with contextlib.closing(connection):
            return work(connection)

    return await asyncio.to_thread(connected)


def taken(receiver: BlockingReceiver) -> tuple[Message, Delivery]:
    """A message and its delivery, which is not settled yet."""
    message = receiver.receive()
    return message, receiver.fetcher.unsettled[-1]


def outcome(connection: BlockingConnection, delivery: Delivery, state: int) -> Any:
    """Ask for an outcome, and wait for the server's: it settles first, as the service does."""
    delivery.update(state)
    connection.wait(lambda: delivery.settled)
    delivery.settle()
    return delivery.remote_state
