"""Dead-lettering with a reason, which SQS has no call for: a copy there, confirmed, then delete."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from pipeline.errors import MessageTooLarge, QueueError
from pipeline.providers.aws.calls import MOST_BYTES, Batches
from pipeline.providers.aws.copies import dead_letter_of
from pipeline.providers.aws.outbound import Outbound
from pipeline.providers.aws.queues import Found
from pipeline.providers.aws.wire import Raw
from pipeline.providers.port import DeadLetter, Failures


class DeadLetters:
    """The way to a queue's dead-letter queue.

    Args:
        find: finds that queue, at the first need.
        batches: makes the calls.
    """

    def __init__(self, find: Callable[[], Awaitable[Found]], batches: Batches) -> None:
        self._find = find
        self._batches = batches

    async def copy(self, messages: Sequence[Raw], reasons: Sequence[DeadLetter]) -> Failures:
        """Put copies there; a position without failure is confirmed."""
        try:
            found = await self._find()
        except QueueError as error:
            return dict.fromkeys(range(len(messages)), error)
        limit = found.max_size(MOST_BYTES)
        copies = [
            dead_letter_of(message, why, fifo=found.fifo, limit=limit)
            for message, why in zip(messages, reasons, strict=True)
        ]
        outbound = Outbound(self._batches, found.url, fifo=found.fifo, batch_groups=False)
        # Of a queue that takes less than the one it serves: known before the call, as of a send.
        failures: Failures = {
            at: MessageTooLarge(copy.size, limit)
            for at, copy in enumerate(copies)
            if copy.size > limit
        }
        going = [at for at in range(len(copies)) if at not in failures]
        sent = await outbound.send([copies[at] for at in going])
        for at, result in zip(going, sent, strict=True):
            if isinstance(result, QueueError):
                failures[at] = result
        return failures
