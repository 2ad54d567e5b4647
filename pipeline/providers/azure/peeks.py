"""Reading an entity's messages without locking them, and without a link to receive on.

At a queue that requires sessions nobody gets a link without a session, and the SDK's public `peek`
needs one. So the SDK's private handler for requests alone is used, where this version has it; else
queues with sessions can't be peeked at, and the others by a receiver.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import Unsupported
from pipeline.providers.azure import wire
from pipeline.providers.azure.errors import PROVIDER
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.port import Depth

_log = logging.getLogger("queue_runtime.servicebus")
_PEEK = b"com.microsoft:peek-message"
_LOOKED_AT = 32
"""Messages among which the oldest one that is available is looked for."""


class Requests:
    """The SDK's handler that makes requests and receives nothing, as `Line` opens and closes it.

    Args:
        handler: the SDK's.
    """

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    @staticmethod
    def has(client: Any) -> bool:
        """Whether this version of the SDK has one; the names are those of azure-servicebus 7.15."""
        made = getattr(client, "_create_session_browser", None)
        return made is not None and "entity_name" in inspect.signature(made).parameters

    async def __aenter__(self) -> Requests:
        await self._handler._open_with_retry()  # noqa: SLF001 - its only way
        return self

    async def close(self) -> None:
        """Close its connection."""
        await self._handler.close()

    async def peek(self, count: int, after: int, seconds: float) -> list[Any]:
        """Messages with a sequence above `after`, in order, of all sessions."""
        found: list[Any] = await self._handler._mgmt_request_response_with_retry(  # noqa: SLF001
            _PEEK,
            {
                "from-sequence-number": {"TYPE": "LONG", "VALUE": after + 1},
                "message-count": count,
            },
            _peeked,
            keep_alive_associated_link=False,
            timeout=seconds,
        )
        return found


def _peeked(status: int, message: Any, description: Any, amqp_transport: Any) -> list[Any]:
    """What the answer to a peek holds."""
    if status == 200:
        entries = message.value[b"messages"]
        return [ServiceBusReceivedMessage.from_bytes(bytes(one[b"message"])) for one in entries]
    if status in (202, 204):
        return []
    condition = (message.application_properties or {}).get(b"errorCondition")
    amqp_transport.handle_amqp_mgmt_error(_log, "Peek failed.", condition, description, status)
    return []


class Peeks:
    """Peeks at one queue or subscription.

    Args:
        sdk: makes the line.
        settings: the queue's keys.
        clock: the calendar, for ages.
    """

    def __init__(self, sdk: Sdk, settings: AzureQueue, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._seconds = sdk.limits.send
        self._alone = Requests.has(sdk.client)
        self._line = self._requests(sdk.client, sdk) if self._alone else sdk.receiver(settings)

    def _requests(self, client: Any, sdk: Sdk) -> Line:
        settings = self._settings

        def make() -> Requests:
            return Requests(
                client._create_session_browser(  # noqa: SLF001 - checked
                    settings.topic or settings.name, settings.subscription, keep_alive=0
                )
            )

        return Line(make, f"peeking at {settings.path}", sdk.limits.connect)

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Up to `count` messages with a sequence above `after`, in order."""
        messages = await self._messages(count, after)
        if not messages:
            return MessageBatch.empty()
        return MessageBatch.from_columns(len(messages), wire.columns_of(messages))

    async def depth(self) -> Depth:
        """How old the oldest available message is; how many there are needs other rights."""
        if self._settings.fifo and not self._alone:
            return Depth()
        found = await self._messages(_LOOKED_AT, 0)
        sent = [
            message.enqueued_time_utc
            for message in found
            if message.state is ServiceBusMessageState.ACTIVE and message.enqueued_time_utc
        ]
        if not sent:
            return Depth()
        return Depth(oldest_age=max(0.0, self._clock.now() - sent[0].timestamp()))

    async def _messages(self, count: int, after: int) -> Sequence[Any]:
        if self._alone:
            return await self._line.do(
                "peek", lambda requests: requests.peek(count, after, self._seconds), self._seconds
            )
        if self._settings.fifo:
            raise Unsupported("peek", f"{PROVIDER} with sessions by this version of the SDK")
        return await self._line.do(
            "peek",
            lambda receiver: receiver.peek_messages(
                count, sequence_number=after + 1, timeout=self._seconds
            ),
            self._seconds,
        )

    async def close(self) -> None:
        """Close its connection."""
        await self._line.close()
