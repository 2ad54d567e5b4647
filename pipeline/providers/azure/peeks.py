"""Reading an entity's messages without locking them, and without a link to receive on.

At a queue that requires sessions nobody gets a link without a session, and the SDK's public `peek`
needs one. So the SDK's private handler for requests alone is used, where this version has it; else
queues with sessions can't be peeked at, and the others by a receiver.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from azure.servicebus import ServiceBusMessageState, ServiceBusReceivedMessage

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import ProviderError, Unsupported
from pipeline.providers.azure import wire
from pipeline.providers.azure.errors import PROVIDER, UNREADABLE
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.port import Depth

_log = logging.getLogger("queue_runtime.servicebus")
_PEEK = b"com.microsoft:peek-message"
_REQUEST = "_mgmt_request_response_with_retry"
"""The SDK's private method for it."""
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
        return await peek(self._handler, count, after, seconds, linked=False)


async def peek(
    handler: Any, count: int, after: int, seconds: float, *, linked: bool = True
) -> list[Any]:
    """Messages with a sequence above `after`, in order.

    Args:
        handler: the SDK's, of requests or of a receiver.
        count: the most.
        after: the sequence before them.
        seconds: for the request.
        linked: whether it has a link to receive on, which the request then keeps alive.
    """
    request = getattr(handler, _REQUEST, None)
    if request is None:  # the public call fails as a whole where one message can't be decoded
        return list(await handler.peek_messages(count, sequence_number=after + 1, timeout=seconds))
    asked = {
        "from-sequence-number": {"TYPE": "LONG", "VALUE": after + 1},
        "message-count": count,
    }
    return list(
        await request(_PEEK, asked, _peeked, keep_alive_associated_link=linked, timeout=seconds)
    )


def _peeked(status: int, message: Any, description: Any, amqp_transport: Any) -> list[Any]:
    """What the answer to a peek holds, but for what can't be decoded: a receive tells of that."""
    if status == 200:
        found: list[Any] = []
        for entry in message.value[b"messages"]:
            try:
                found.append(ServiceBusReceivedMessage.from_bytes(bytes(entry[b"message"])))
            except Exception as error:  # noqa: BLE001 - whatever the SDK says of it
                _log.debug("a message that was peeked at can't be decoded: %s", error)
        return found
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
        self._warned = False
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
        """How old the oldest available message is, and whether any is scheduled, as far as is seen.

        How many there are needs other rights. An answer that can't be read is no error: whoever
        asks wants to know how old it is, and it is unknown then.
        """
        if self._settings.fifo and not self._alone:
            return Depth()
        try:
            found = await self._messages(_LOOKED_AT, 0)
        except ProviderError as error:
            if error.transient and error.code != UNREADABLE:
                raise
            if not self._warned:
                self._warned = True
                _log.warning("how old the oldest message is is unknown from here on: %s", error)
            return Depth()
        states = Counter(message.state for message in found)
        sent = [
            message.enqueued_time_utc.timestamp()
            for message in found
            if message.state is ServiceBusMessageState.ACTIVE and message.enqueued_time_utc
        ]
        return Depth(
            scheduled=states[ServiceBusMessageState.SCHEDULED] or None,
            oldest_age=max(0.0, self._clock.now() - sent[0]) if sent else None,
        )

    async def _messages(self, count: int, after: int) -> Sequence[Any]:
        if self._alone:
            return await self._line.do(
                "peek", lambda requests: requests.peek(count, after, self._seconds), self._seconds
            )
        if self._settings.fifo:
            raise Unsupported("peek", f"{PROVIDER} with sessions by this version of the SDK")
        return await self._line.do(
            "peek",
            lambda receiver: peek(receiver, count, after, self._seconds),
            self._seconds,
        )

    async def close(self) -> None:
        """Close its connection."""
        await self._line.close()
