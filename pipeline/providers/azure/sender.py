"""The sending side of one queue or topic: one task writes, lists of up to 100 (SPEC P3)."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.amqp import AmqpAnnotatedMessage
from azure.servicebus.exceptions import MessageSizeExceededError

from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import BatchTooLarge, Closed, MessageTooLarge, QueueError, ValidationError
from pipeline.message import Message
from pipeline.providers.azure.errors import from_exception
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.outgoing import encoded_size, message_of, scheduled_for
from pipeline.providers.guard import Guard
from pipeline.providers.port import Sent
from pipeline.session_keys import spread_session

_log = logging.getLogger("queue_runtime.servicebus")
_MOST = 100
"""Messages in one list."""
_AROUND = 2_048
"""Bytes around a list: the first message's ids and, as its partition key, its session once more,
each of 128 characters at most."""


@dataclass(slots=True, eq=False)
class _Parcel:
    """One message on its way.

    Args:
        message: as it was given.
        session: its session, or the one that it was spread into.
        order: the call that it is of.
        result: what became of it.
    """

    message: Message
    session: str | None
    order: _Order
    result: Sent | QueueError | None = None


@dataclass(slots=True, eq=False)
class _Order:
    """One call of `send`.

    Args:
        done: set when every message has its result.
        open: how many have none.
        stopped: session to the error of the first of it that failed: no later one of it is sent.
    """

    done: asyncio.Future[None]
    open: int
    stopped: dict[str, QueueError] = field(default_factory=dict)


class AzureSender:
    """Sends to one queue or topic (see `pipeline.providers.port.Sender`).

    Args:
        queue: its name in the configuration.
        settings: its keys.
        line: the line to send on.
        seconds: for one request.
        clock: the calendar, for `not_before`.
        guard: says whether a call can be made.
        forget: tells the provider that this sender was closed.
    """

    def __init__(
        self,
        queue: str,
        settings: AzureQueue,
        line: Line,
        seconds: float,
        clock: Clock,
        guard: Guard,
        forget: Callable[[AzureSender], None],
    ) -> None:
        self._queue = queue
        self._settings = settings
        self._line = line
        self._seconds = seconds
        self._clock = clock
        self._guard = guard
        self._forget = forget
        self._max_size = settings.max_message_size
        self._parcels: deque[_Parcel] = deque()
        self._going: list[_Parcel] = []
        self._writing: asyncio.Task[None] | None = None

    async def send(self, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send many; one result per message, in order."""
        loop = self._guard.check()
        if not messages:
            return []
        order = _Order(loop.create_future(), len(messages))
        parcels = [_Parcel(message, self._session(message), order) for message in messages]
        self._parcels.extend(parcels)
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write())
        await asyncio.shield(order.done)
        return [parcel.result for parcel in parcels if parcel.result is not None]

    def _session(self, message: Message) -> str | None:
        if message.session is not None:
            return str(message.session)
        if self._settings.spreads:
            return spread_session(str(message.id))
        return None

    async def cancel(self, sequence: int) -> None:
        """Take back a scheduled message. `MessageNotFound` when it is no longer scheduled."""
        self._guard.check()
        await self._line.do(
            "cancel",
            lambda sender: sender.cancel_scheduled_messages(sequence, timeout=self._seconds),
            self._seconds,
        )

    async def close(self) -> None:
        """Let what is under way end; what was not begun is `Closed`."""
        self._guard.close()
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._line.close()
        self._forget(self)

    # --- the one that writes ----------------------------------------------------------------------

    async def _write(self) -> None:
        """Send all there is, in order; nothing of an ordered session goes behind a failure."""
        while self._parcels:
            self._going = []
            try:
                await self._write_some()
            except QueueError as error:  # it could not even connect: nothing was sent
                self._all_failed(error)
            except Exception as error:  # noqa: BLE001 - whoever waits for a result gets one
                _log.error("queue %s: the task that sends failed", self._queue, exc_info=error)
                told = from_exception(f"sender of {self._queue}: send", error)
                told.__cause__ = error
                self._all_failed(told)

    def _all_failed(self, error: QueueError) -> None:
        """Nothing more can be said of what is under way, and of what waits."""
        left = [parcel for parcel in self._going if parcel.result is None]
        left += self._parcels
        self._parcels.clear()
        for parcel in left:
            self._ended(parcel, error)

    async def _write_some(self) -> None:
        """The next list, or the next message that goes alone."""
        if self._guard.closed:
            raise Closed(f"the sender of queue {self._queue} was closed")
        batch = await self._line.do("list", self._list, self._seconds)
        going = self._going
        alone: tuple[AmqpAnnotatedMessage, int] | None = None
        while self._parcels and len(going) < _MOST:
            parcel = self._parcels[0]
            error = self._refused(parcel)
            made = error if error is not None else self._made(parcel, batch)
            if isinstance(made, QueueError):
                self._ended(self._parcels.popleft(), made)
                continue
            if made is not None and going:
                break
            going.append(self._parcels.popleft())
            if made is not None:
                alone = made
                break
        if alone is not None:
            await self._alone(going[0], *alone)
        elif going:
            await self._send(batch, going)

    def _made(
        self, parcel: _Parcel, batch: ServiceBusMessageBatch
    ) -> tuple[AmqpAnnotatedMessage, int] | QueueError | None:
        """None: it is in the list. Else the message that goes alone, and its size; or an error."""
        try:
            made = message_of(parcel.message, parcel.session)
            if not self._is_later(parcel) and _added(batch, made):
                return None
            return made, encoded_size(made)
        except Exception as error:  # noqa: BLE001 - whatever the SDK stumbles over is in the message
            told = ValidationError(
                "Message", f"can't be written as AMQP: {error}", str(parcel.message.id)
            )
            told.__cause__ = error
            return told

    async def _list(self, sender: Any) -> ServiceBusMessageBatch:
        """An empty list, as large as the link allows; what one message may have is learnt too."""
        most: int = (await sender.create_message_batch()).max_size_in_bytes
        # Private, and the only place that tells; without it the configured limit counts alone.
        allowed = getattr(sender, "_max_message_size_on_link", 0)
        if isinstance(allowed, int) and allowed > 0:
            self._max_size = min(self._settings.max_message_size, allowed)
            most = min(most, allowed)
        # The SDK's sum leaves out what it writes around a list: what fits no more goes alone.
        most -= min(_AROUND, most // 2)
        batch: ServiceBusMessageBatch = await sender.create_message_batch(most)
        return batch

    def _is_later(self, parcel: _Parcel) -> bool:
        due = scheduled_for(parcel.message)
        return due is not None and due.timestamp() > self._clock.now()

    def _refused(self, parcel: _Parcel) -> QueueError | None:
        """Why a message can't go, as far as is known without a call."""
        if parcel.session is None and self._settings.fifo:
            return ValidationError(
                "Message.session",
                f"must be given, for queue {self._queue} is ordered "
                "(`sessionless: spread` gives one to messages without)",
            )
        return parcel.order.stopped.get(parcel.session or "")

    async def _alone(self, parcel: _Parcel, made: AmqpAnnotatedMessage, size: int) -> None:
        """A scheduled one; or one that fits into no list, which is larger than that may be."""
        most = self._max_size
        if size > most:
            self._ended(parcel, MessageTooLarge(size, most))
        elif self._is_later(parcel):
            await self._schedule(parcel, made)
        else:
            await self._send(made, [parcel])

    async def _send(self, what: Any, going: list[_Parcel]) -> None:
        """All or nothing, but for a list that is too large: then each message by itself."""
        try:
            await self._line.do(
                "send",
                lambda sender: sender.send_messages(what, timeout=self._seconds),
                self._seconds,
            )
        except QueueError as error:
            listed = isinstance(what, ServiceBusMessageBatch)
            if not listed or not isinstance(error, BatchTooLarge):
                for parcel in going:
                    self._ended(parcel, self._of_one(error, parcel))
                return
            for parcel in going:  # the service takes less in a list than it told
                failed = self._refused(parcel)
                if failed is not None:
                    self._ended(parcel, failed)
                else:
                    await self._send(message_of(parcel.message, parcel.session), [parcel])
            return
        for parcel in going:
            self._ended(parcel, Sent())

    def _of_one(self, error: QueueError, parcel: _Parcel) -> QueueError:
        if not isinstance(error, BatchTooLarge):
            return error
        size = encoded_size(message_of(parcel.message, parcel.session))
        told = MessageTooLarge(size, min(size - 1, self._max_size))
        told.__cause__ = error
        return told

    async def _schedule(self, parcel: _Parcel, made: AmqpAnnotatedMessage) -> None:
        due = scheduled_for(parcel.message)
        try:
            [number] = await self._line.do(
                "schedule",
                lambda sender: sender.schedule_messages([made], due, timeout=self._seconds),
                self._seconds,
            )
        except QueueError as error:
            self._ended(parcel, error)
        else:
            self._ended(parcel, Sent(int(number)))

    def _ended(self, parcel: _Parcel, result: Sent | QueueError) -> None:
        parcel.result = result
        order = parcel.order
        if isinstance(result, QueueError) and self._settings.fifo and parcel.session is not None:
            order.stopped.setdefault(parcel.session, result)
        order.open -= 1
        if not order.open and not order.done.done():
            order.done.set_result(None)


def _added(batch: ServiceBusMessageBatch, made: AmqpAnnotatedMessage) -> bool:
    """Whether a list had room for it."""
    try:
        batch.add_message(made)
    except MessageSizeExceededError:
        return False
    return True
