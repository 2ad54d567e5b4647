"""The sending side of one SQS queue."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from pipeline.clock import Clock
from pipeline.config import AwsQueue
from pipeline.errors import MessageTooLarge, QueueError, Unsupported, ValidationError
from pipeline.message import Message
from pipeline.providers.aws.calls import Batches
from pipeline.providers.aws.errors import PROVIDER
from pipeline.providers.aws.outbound import Outbound
from pipeline.providers.aws.queues import Found
from pipeline.providers.aws.wire import Entry, entry_of
from pipeline.providers.guard import Guard
from pipeline.providers.port import Sent
from pipeline.session_keys import spread_session

_MOST_DELAY = 900


class SqsSender:
    """Sends to one queue (see `pipeline.providers.port.Sender`).

    Args:
        queue: its name in the configuration.
        found: it.
        settings: its keys.
        batches: makes the calls.
        clock: the calendar, for `not_before`.
        guard: says whether a call can be made.
        forget: tells the provider that this sender was closed.
    """

    def __init__(
        self,
        queue: str,
        found: Found,
        settings: AwsQueue,
        batches: Batches,
        clock: Clock,
        guard: Guard,
        forget: Callable[[SqsSender], None],
    ) -> None:
        self._queue = queue
        self._fifo = found.fifo
        self._spread = settings.sessionless == "spread"
        self._max_size = found.max_size(settings.max_message_size)
        self._outbound = Outbound(
            batches, found.url, fifo=found.fifo, batch_groups=settings.send.batch_groups
        )
        self._clock = clock
        self._guard = guard
        self._forget = forget

    async def send(self, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send many; one result per message, in order."""
        self._guard.check()
        results: dict[int, Sent | QueueError] = {}
        stopped: dict[str, QueueError] = {}
        entries: list[Entry] = []
        going: list[int] = []
        for at, message in enumerate(messages):
            entry = self._entry(message, stopped)
            if isinstance(entry, QueueError):
                results[at] = entry
            else:
                entries.append(entry)
                going.append(at)
        sent = await self._outbound.send(entries)
        results.update(zip(going, sent, strict=True))
        return [results[at] for at in range(len(messages))]

    def _entry(self, message: Message, stopped: dict[str, QueueError]) -> Entry | QueueError:
        """The message's entry, or why it can't go; on FIFO nothing goes behind a failure."""
        session = None if message.session is None else str(message.session)
        if session is None and self._fifo and self._spread:
            session = spread_session(str(message.id))
        if session in stopped:
            return stopped[session]
        made = self._made(message, session)
        if isinstance(made, QueueError) and self._fifo and session is not None:
            stopped[session] = made
        return made

    def _made(self, message: Message, session: str | None) -> Entry | QueueError:
        if session is None and self._fifo:
            return ValidationError(
                "Message.session",
                f"must be given, for queue {self._queue} is ordered "
                "(`sessionless: spread` gives one to messages without)",
            )
        delay = 0
        if message.not_before is not None:
            if self._fifo:
                hint = "a FIFO queue delays no single message"
                return Unsupported("not_before", f"{PROVIDER} on queue {self._queue}", hint)
            delay = max(0, math.ceil(message.not_before.timestamp() - self._clock.now()))
            if delay > _MOST_DELAY:
                hint = "SQS delays a message for at most 15 minutes"
                return Unsupported("not_before", f"{PROVIDER} on queue {self._queue}", hint)
        entry = entry_of(message, session, fifo=self._fifo, delay=delay)
        if entry.size > self._max_size:
            return MessageTooLarge(entry.size, self._max_size)
        return entry

    async def cancel(self, sequence: int) -> None:  # noqa: ARG002 - the port's
        """SQS takes nothing back."""
        self._guard.check()
        raise Unsupported("cancel_scheduled", PROVIDER, "a sent message can't be taken back")

    async def close(self) -> None:
        """No call is taken any more."""
        self._guard.close()
        self._forget(self)
