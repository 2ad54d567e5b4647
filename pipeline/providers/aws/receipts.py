"""Receipts of one SQS lane: what is in hand, and how each ends, once.

It makes the calls that settle and renew. It does not know why: what came, and what is too old, is
the receiver's.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import MessageLockLost, MessageNotFound
from pipeline.providers.aws.calls import CHANGE, DELETE, Batches
from pipeline.providers.aws.dead_letters import DeadLetters
from pipeline.providers.aws.wire import Raw
from pipeline.providers.port import DeadLetter, Failures, Renewed

MAX_LOCK = 43_200.0
"""Seconds from its receipt after which SQS refuses to keep a message locked."""
_MANY = 1_024
"""So many receipts are kept without a look at whose locks ended."""
_GONE = (MessageNotFound, MessageLockLost)
"""What SQS answers of a message that is not ours any more."""


@dataclass(slots=True, eq=False)
class Receipt:
    """One message in hand.

    Args:
        message: as SQS gave it: a copy for the dead-letter queue needs all of it.
        received: `loop.time()` before it was asked for.
        deadline: `loop.time()` at which its lock ends.
        ended: it was settled.
    """

    message: Raw
    received: float
    deadline: float
    ended: bool = False

    @property
    def handle(self) -> str:
        """What SQS calls it by."""
        handle: str = self.message["ReceiptHandle"]
        return handle


class Receipts:
    """The messages in hand of one lane.

    Args:
        url: the queue they came from.
        lock: seconds a message is locked.
        batches: makes the calls.
        dead_letters: the way to the dead-letter queue.
    """

    def __init__(self, url: str, lock: float, batches: Batches, dead_letters: DeadLetters) -> None:
        self._url = url
        self._lock = lock
        self._batches = batches
        self._dead_letters = dead_letters
        self._in_hand: set[Receipt] = set()
        self._look_at = _MANY

    def add(self, receipts: Iterable[Receipt]) -> None:
        """They are in hand from now on."""
        self._in_hand.update(receipts)
        if len(self._in_hand) >= self._look_at:
            # Nobody tells of those whose locks ended: they must not be kept for ever.
            self._in_hand = set(self.left())
            self._look_at = max(_MANY, 2 * len(self._in_hand))

    def left(self) -> list[Receipt]:
        """What is in hand: their locks have not ended, as far as is known."""
        now = asyncio.get_running_loop().time()
        return [receipt for receipt in self._in_hand if receipt.deadline > now]

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks by the queue's lock duration from now."""
        now = asyncio.get_running_loop().time()
        failures = self._refused(receipts)
        going: list[int] = []
        lasts: list[int] = []
        for at, receipt in enumerate(receipts):
            # From its receipt on SQS keeps a message for 12 h at most.
            left = math.floor(min(self._lock, MAX_LOCK - (now - receipt.received)))
            if at not in failures and left < 1:
                failures[at] = MessageLockLost("SQS keeps no message locked for more than 12 h")
            elif at not in failures:
                going.append(at)
                lasts.append(left)
        entries = [_change(receipts[at], left) for at, left in zip(going, lasts, strict=True)]
        found = await self._batches.each(CHANGE, self._url, entries)
        failures |= {going[at]: error for at, error in found.items()}
        for at, left in zip(going, lasts, strict=True):
            if at not in failures:
                receipts[at].deadline = now + left
        return Renewed(now + min(lasts, default=0), failures)

    async def settle(self, receipts: Sequence[Receipt], act: Callable[..., Any]) -> Failures:
        """Settle those that are in hand; the others are refused without a call."""
        failures = self._refused(receipts)
        going = [at for at in range(len(receipts)) if at not in failures]
        if not failures:
            failures = await act(receipts)
        elif going:
            found = await act([receipts[at] for at in going])
            failures |= {going[at]: error for at, error in found.items()}
        return failures

    def _refused(self, receipts: Sequence[Receipt]) -> Failures:
        """Receipts that can't be settled any more (SPEC P14)."""
        now = asyncio.get_running_loop().time()
        failures: Failures = {}
        for at, receipt in enumerate(receipts):
            if receipt.ended:
                failures[at] = MessageNotFound("the message was settled already")
            elif receipt.deadline <= now:
                failures[at] = MessageLockLost("the message's lock ended before: it comes again")
        return failures

    async def delete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled, or a copy of them is safe: delete them."""
        entries = [{"ReceiptHandle": receipt.handle} for receipt in receipts]
        return self._ended(receipts, await self._batches.each(DELETE, self._url, entries))

    async def give(self, receipts: Sequence[Receipt], seconds: int) -> Failures:
        """Give them back: to be delivered again after so many seconds."""
        entries = [_change(receipt, seconds) for receipt in receipts]
        return self._ended(receipts, await self._batches.each(CHANGE, self._url, entries))

    async def give_later(self, receipts: Sequence[Receipt], delay: float) -> Failures:
        """Give them back for later: SQS keeps a message for 12 h from its receipt at most."""
        now = asyncio.get_running_loop().time()
        oldest = min((receipt.received for receipt in receipts), default=now)
        seconds = min(math.ceil(delay), math.floor(oldest + MAX_LOCK - now))
        return await self.give(receipts, max(seconds, 0))

    async def free(self, receipts: Sequence[Receipt]) -> Failures:
        """Give them back at once."""
        return await self.give(receipts, 0)

    async def move(self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]) -> Failures:
        """Copy them to the dead-letter queue, then delete those whose copy is confirmed."""
        failures = await self._dead_letters.copy([one.message for one in receipts], reasons)
        going = [at for at in range(len(receipts)) if at not in failures]
        deleted = await self.delete([receipts[at] for at in going])
        return failures | {going[at]: error for at, error in deleted.items()}

    def _ended(self, receipts: Sequence[Receipt], failures: Failures) -> Failures:
        if not failures:
            for receipt in receipts:
                receipt.ended = True
            self._in_hand.difference_update(receipts)
            return failures
        for at, receipt in enumerate(receipts):
            receipt.ended = at not in failures
            if receipt.ended or isinstance(failures[at], _GONE):
                self._in_hand.discard(receipt)
        return failures


def _change(receipt: Receipt, seconds: int) -> dict[str, Any]:
    return {"ReceiptHandle": receipt.handle, "VisibilityTimeout": seconds}
