"""The outbox: what handlers sent leaves after the commit, before the message is completed (H3)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from pipeline.clock import Clock
from pipeline.errors import QueueError
from pipeline.message import Message, from_row
from pipeline.providers.port import Sent
from pipeline.retry import RetryPolicy
from pipeline.state.port import Change, StateStore

_log = logging.getLogger("queue_runtime.handle")

SendMany: TypeAlias = Callable[[str, Sequence[Message]], Awaitable[list[Sent | QueueError]]]


class Outbox:
    """Sends what a session's record keeps to be sent, in order.

    Args:
        store: where the records are.
        send: sends to a queue, one result a message; None where handlers can't send.
        retry: how long rows wait for a target that can't take their messages.
        clock: chance for the jitter.
    """

    def __init__(
        self, store: StateStore, send: SendMany | None, retry: RetryPolicy, clock: Clock
    ) -> None:
        self._store = store
        self._send = send
        self._retry = retry
        self._clock = clock
        self._failed: dict[str, int] = {}
        self.sent = 0

    @property
    def waiting(self) -> int:
        """How many sessions wait for a target queue."""
        return len(self._failed)

    async def send(self, key: str) -> tuple[int, float] | None:
        """Send all that waits for this key, and note what is confirmed.

        Returns:
            None when all is confirmed; else the sequence of the message whose sending failed, and
            after how many seconds to try again.
        """
        (record,) = await self._store.load([key])
        waiting = list(record.outbox)
        confirmed = 0
        error: QueueError | None = None
        while confirmed < len(waiting) and error is None:
            queue = waiting[confirmed].queue
            run = confirmed
            while run < len(waiting) and waiting[run].queue == queue:
                run += 1
            some = [from_row(one.row) for one in waiting[confirmed:run]]
            results = await self._results(queue, some)
            for result in results:
                if isinstance(result, QueueError):
                    error = result
                    break
                confirmed += 1
        self.sent += confirmed
        if confirmed:
            await self._store.commit([Change(key, record.version, "", sent=confirmed)])
        if error is None:
            self._failed.pop(key, None)
            return None
        tries = self._failed[key] = self._failed.get(key, 0) + 1
        delay = self._retry.delay(min(tries, 30), self._clock.random())
        delay = max(delay, error.retry_after or 0.0)
        _log.warning(
            "session %s waits for what its handler sent to %s (try %d, the next in %.1f s): %s",
            key,
            waiting[confirmed].queue,
            tries,
            delay,
            error,
        )
        return waiting[confirmed].sequence, delay

    def forget(self, key: str) -> None:
        """Another handler may try next, as nothing ties a message without order to this one.

        Kept until it was sent from here, it might count as unsent for ever; so its delay does not
        grow.
        """
        self._failed.pop(key, None)

    async def _results(self, queue: str, messages: list[Message]) -> Sequence[Sent | QueueError]:
        if self._send is None:
            return [QueueError(f"this handler has no way to send to {queue}")]
        try:
            return await self._send(queue, messages)
        except QueueError as error:
            return [error]
