"""The sending side of one memory queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pipeline.errors import MessageTooLarge, QueueError
from pipeline.message import Message, Row, to_row
from pipeline.providers.guard import Guard
from pipeline.providers.memory.admission import message_size
from pipeline.providers.memory.calls import BrokerCalls
from pipeline.providers.port import Sent

MAX_SEND = 4_096
"""Rows in one call, so that a long list does not hold up the broker's other callers."""


class MemorySender:
    """Sends to one queue (see `pipeline.providers.port.Sender`).

    Args:
        broker: the broker, or a proxy of it.
        queue: the queue's name.
        max_size: the largest message in bytes.
        ordered: whether the messages of a session must not overtake one another.
        guard: says whether a call can be made.
        forget: tells the provider that this sender was closed.
    """

    def __init__(
        self,
        broker: BrokerCalls,
        queue: str,
        max_size: int,
        ordered: bool,
        guard: Guard,
        forget: Callable[[MemorySender], None],
    ) -> None:
        self._broker = broker
        self._queue = queue
        self._max_size = max_size
        self._ordered = ordered
        self._guard = guard
        self._forget = forget

    async def send(self, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send many; one result per message, in order.

        A call that fails as a whole raises while nothing of the list was sent; later it is the
        error of the rest, so that what was sent before it is known.
        """
        self._guard.check()
        results: list[Sent | QueueError] = []
        stopped: dict[str, QueueError] = {}
        while len(results) < len(messages):
            start = len(results)
            rows = [to_row(message) for message in messages[start : start + MAX_SEND]]
            try:
                results += await self._send(rows, stopped)
            except QueueError as error:
                if not results:
                    raise
                results += [error] * (len(messages) - start)
        return results

    async def _send(
        self, rows: list[Row], stopped: dict[str, QueueError]
    ) -> list[Sent | QueueError]:
        results: list[Sent | QueueError | None] = [self._refused(row, stopped) for row in rows]
        going = [position for position, result in enumerate(results) if result is None]
        self._guard.check()
        sent = await self._guard.bounded(
            self._broker.send(self._queue, [rows[position] for position in going])
        )
        duplicates = set(sent.duplicates)
        for index, position in enumerate(going):
            error = sent.failures.get(index)
            if error is not None:
                self._stop(rows[position], error, stopped)
                results[position] = error
            else:
                results[position] = Sent(sent.sequences[index] or None, index in duplicates)
        return [result for result in results if result is not None]

    def _refused(self, row: Row, stopped: dict[str, QueueError]) -> QueueError | None:
        """The error of a message that is too large, or behind one that failed."""
        if row[1] in stopped:
            return stopped[row[1]]
        size = message_size(row)
        if size <= self._max_size:
            return None
        error = MessageTooLarge(size, self._max_size)
        self._stop(row, error, stopped)
        return error

    def _stop(self, row: Row, error: QueueError, stopped: dict[str, QueueError]) -> None:
        if self._ordered and row[1] is not None:
            stopped.setdefault(row[1], error)

    async def cancel(self, sequence: int) -> None:
        """Take back a scheduled message. `MessageNotFound` when it is no longer scheduled."""
        self._guard.check()
        await self._guard.bounded(self._broker.cancel(self._queue, sequence))

    async def close(self) -> None:
        """No call is taken any more."""
        self._guard.close()
        self._forget(self)
