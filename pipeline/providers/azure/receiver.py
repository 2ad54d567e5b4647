"""One receiving lane of a queue without sessions, or of a dead-letter queue.

Two links, a connection each: one that polls, and one over which everything is settled, renewed and
read, by lock token. Settling on the link that polls would stand behind its waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import Closed, MessageLockLost, MessageNotFound, Unsupported
from pipeline.providers.azure import peeks, settle, wire
from pipeline.providers.azure.errors import PROVIDER
from pipeline.providers.azure.locks import QueueLocks
from pipeline.providers.azure.polls import Polls
from pipeline.providers.azure.sdk import Sdk, Ways
from pipeline.providers.azure.settle import Desk, Receipt, receipt_of
from pipeline.providers.azure.unreadable import Unreadable
from pipeline.providers.guard import Guard
from pipeline.providers.port import DeadLetter, Failures, Holding, Received, Renewed, Want

_log = logging.getLogger("queue_runtime.servicebus")
MOST = 1_024
"""Messages that one receive brings."""
POLL = 0.5
"""Seconds of one poll: it can't be ended, so a receive is several."""
_AT_ONCE = 0.25
"""Seconds in which what is there has come, for who does not want to wait."""
_MANY = 1_024
"""So many receipts are kept without a look at whose locks ended."""


class AzureReceiver:
    """Receives from one queue and settles what it received (see `port.Receiver`).

    Args:
        queue: its name in the configuration.
        settings: its keys.
        sdk: makes the links.
        clock: the calendar.
        guard: says whether a call can be made.
        counts: of the provider's receivers.
        forget: tells the provider that this receiver was closed.
        dead_letters: whether it reads the dead-letter queue.
    """

    def __init__(
        self,
        queue: str,
        settings: AzureQueue,
        sdk: Sdk,
        clock: Clock,
        guard: Guard,
        counts: Counter[str],
        forget: Callable[[AzureReceiver], None],
        *,
        dead_letters: bool = False,
    ) -> None:
        self._queue = queue
        self._lock = settings.lock
        self._locks = QueueLocks(queue, settings.lock, clock)
        self._limits = sdk.limits
        self._clock = clock
        self._guard = guard
        self._counts = counts
        self._forget = forget
        self._dead_letters = dead_letters
        self._polls = Polls(
            sdk.receiver(settings, dead_letters=dead_letters),
            sdk.limits,
            self._late,
            lambda unreadable: self._spawn(self._set_aside(unreadable)),
        )
        self._other = sdk.receiver(settings, dead_letters=dead_letters)
        self._desk = Desk(self._other, sdk.limits.send)
        self._in_hand: set[Receipt] = set()
        self._look_at = _MANY
        self._holding = 0
        self._size = 0.0
        self._stop = asyncio.Event()
        self._bringing: asyncio.Task[Received] | None = None
        self._later: set[asyncio.Task[Any]] = set()
        self._closing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect both links."""
        try:
            await asyncio.gather(self._polls.open(), self._other.open())
        except BaseException:
            await asyncio.gather(self._polls.close(), self._other.close())
            raise

    # --- receiving --------------------------------------------------------------------------------

    async def receive(self, want: Want) -> Received:
        """Bring messages, waiting for the first one; the moment there is one it returns."""
        loop = self._guard.check()
        self._stop.clear()
        self._bringing = bringing = loop.create_task(self._bring(want))
        try:
            received = await asyncio.shield(bringing)
        except asyncio.CancelledError:
            self._stop.set()
            self._spawn(self._give_back_after(bringing))
            raise
        finally:
            if self._bringing is bringing and bringing.done():
                self._bringing = None
        if self._guard.closed:
            raise Closed(
                f"the receiver of queue {self._queue} was closed"
            )  # and all was given back
        return received

    async def _give_back_after(self, bringing: asyncio.Task[Received]) -> None:
        """What comes for nobody is free again at once."""
        await asyncio.wait([bringing])
        if bringing.exception() is None:
            await self._free(bringing.result().receipts)

    async def _bring(self, want: Want) -> Received:
        loop = asyncio.get_running_loop()
        until = loop.time() + want.wait
        while True:
            since = loop.time()
            wait = min(until - since, POLL) if want.wait else _AT_ONCE
            messages, link = await self._polls.poll(self._room(want), max(wait, 0.01))
            if messages:
                return self._received(messages, link, since)
            if self._stop.is_set() or self._guard.closed or loop.time() >= until:
                return self._nothing()

    def _room(self, want: Want) -> int:
        """How many messages may come, going by the size of those that came."""
        most = min(want.messages, MOST)
        return most if self._size <= 0 else max(1, min(most, int(want.bytes / self._size)))

    def _late(self, messages: list[Any], link: Any) -> None:
        """What a poll brought that had been given up."""
        receipts = self._receipts(messages, link, asyncio.get_running_loop().time() + self._lock)
        self._spawn(self._free(receipts))

    async def _set_aside(self, unreadable: Unreadable) -> None:
        """What can't be decoded goes to the dead letters."""
        failures = None
        if not self._dead_letters:  # it is there: what is given back comes again at once
            failures = await self._desk.settle(
                settle.SUSPENDED, [unreadable.receipt], unreadable.reason
            )
        unreadable.tell(f"queue {self._queue}", failures)

    def _nothing(self) -> Received:
        return Received(MessageBatch.empty(), [], asyncio.get_running_loop().time() + self._lock)

    def _received(self, messages: list[Any], link: Any, since: float) -> Received:
        loop = asyncio.get_running_loop()
        now = self._clock.now()
        ends = [wire.locked_until(message) for message in messages]
        deadline = self._locks.deadline(since, _first(ends))
        columns = wire.columns_of(messages)
        # Holdings grow whoever has them, as the calendar does: in steps of 10 us.
        self._holding = max(self._holding + 1, int(now * 1e5))
        sizes = sum(map(len, columns["body"])) / len(messages)
        self._size = sizes if self._size <= 0 else (3 * self._size + sizes) / 4
        receipts = self._receipts(messages, link, deadline)
        self._in_hand.update(receipts)
        if len(self._in_hand) >= self._look_at:
            # Nobody tells of those whose locks ended: they must not be kept for ever.
            self._in_hand = set(self._left())
            self._look_at = max(_MANY, 2 * len(self._in_hand))
        batch = MessageBatch.from_columns(
            len(messages),
            columns
            | {
                "holding": [self._holding] * len(messages),
                "locked_until": [now + (deadline - loop.time())] * len(messages),
            },
        )
        return Received(batch, receipts, deadline)

    def _receipts(self, messages: Sequence[Any], link: Any, deadline: float) -> list[Receipt]:
        ways = Ways.of(self._other.handler)  # they are settled there
        return [receipt_of(message, link, deadline, ways) for message in messages]

    async def end_wait(self) -> None:
        """Let a pending receive return when its poll is over."""
        self._guard.check()
        self._stop.set()

    # --- settling ---------------------------------------------------------------------------------

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled: delete them."""
        self._guard.check()
        return await self._settle(settle.COMPLETED, receipts)

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Handling failed: deliver them again; the count grows."""
        self._guard.check()
        if delay:
            hint = "keep the message, renew it, and abandon it when the delay is over"
            raise Unsupported("abandon with a delay", PROVIDER, hint)
        return await self._settle(settle.ABANDONED, receipts)

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: deliver them again now, in their place."""
        self._guard.check()
        if delay:
            raise Unsupported("release with a delay", PROVIDER, "keep the message and renew it")
        return await self._free(receipts)

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead-letter queue; each reason is a request of its own."""
        self._guard.check()
        if self._dead_letters:
            raise Unsupported("dead_letter", PROVIDER, "they are in the dead-letter queue already")
        places: dict[DeadLetter, list[int]] = {}
        for at, reason in enumerate(reasons):
            places.setdefault(reason, []).append(at)
        failures: Failures = {}
        for reason, ats in places.items():
            found = await self._settle(settle.SUSPENDED, [receipts[at] for at in ats], reason)
            failures |= {ats[at]: error for at, error in found.items()}
        return failures

    async def defer(self, receipts: Sequence[Receipt]) -> Failures:
        """Set them aside until `receive_deferred` asks for their sequences."""
        self._guard.check()
        if self._dead_letters:
            hint = "complete it, or keep it and renew it"
            raise Unsupported("defer", f"{PROVIDER} in a dead-letter queue", hint)
        return await self._settle(settle.DEFERRED, receipts)

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks, by what the entity says."""
        now = self._guard.check().time()
        failures = await self._desk.settle(settle.RENEWED, receipts)
        renewed = [receipt for at, receipt in enumerate(receipts) if at not in failures]
        deadline = self._locks.deadline(now, _first([receipt.until for receipt in renewed]))
        for receipt in renewed:
            receipt.deadline = deadline
        return Renewed(deadline, failures)

    async def _settle(
        self, status: str, receipts: Sequence[Receipt], reason: DeadLetter | None = None
    ) -> Failures:
        failures = await self._desk.settle(status, receipts, reason)
        self._gone(receipts, failures)
        return failures

    def _gone(self, receipts: Sequence[Receipt], failures: Failures) -> None:
        lost = (MessageNotFound, MessageLockLost)
        self._in_hand.difference_update(
            receipt
            for at, receipt in enumerate(receipts)
            if at not in failures or isinstance(failures[at], lost)
        )

    async def _free(self, receipts: Sequence[Receipt]) -> Failures:
        """Give them back, uncounted where the link that they came on is still there."""
        failures = settle.refused(receipts, asyncio.get_running_loop().time())
        going = [at for at in range(len(receipts)) if at not in failures]
        released = await self._polls.release([receipts[at] for at in going])
        going = [at for at in going if receipts[at] not in released]
        found = await self._desk.settle(settle.ABANDONED, [receipts[at] for at in going])
        failures |= {going[at]: error for at, error in found.items()}
        self._gone(receipts, failures)
        return failures

    # --- reading ----------------------------------------------------------------------------------

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:
        """Bring messages that were set aside, locked; `MessageNotFound` if one isn't there."""
        since = self._guard.check().time()
        if not sequences:
            return self._nothing()
        messages = await self._other.do(
            "receive_deferred",
            lambda receiver: receiver.receive_deferred_messages(
                list(sequences), timeout=self._limits.send
            ),
            self._limits.send,
            lambda found: self._late(found, None),
        )
        if not messages:
            raise MessageNotFound(f"{PROVIDER}: none of these is set aside: {list(sequences)}")
        return self._received(messages, None, since)

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Read up to `count` messages with a sequence above `after` without locking, in order."""
        self._guard.check()
        messages = await self._other.do(
            "peek",
            lambda receiver: peeks.peek(receiver, count, after, self._limits.send),
            self._limits.send,
        )
        if not messages:
            return MessageBatch.empty()
        return MessageBatch.from_columns(len(messages), wire.columns_of(messages))

    # --- sessions, which there are none of --------------------------------------------------------

    async def accept(self, session: str | None, wait: float) -> Holding:  # noqa: ARG002
        """There are no sessions."""
        self._lacks("accept_session")

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:  # noqa: ARG002
        """There are no sessions."""
        self._lacks("release_sessions")

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:  # noqa: ARG002
        """There are no sessions."""
        self._lacks("renew_sessions")

    async def session_state(self, holding: int) -> bytes | None:  # noqa: ARG002
        """There are no sessions."""
        self._lacks("session_state")

    async def set_session_state(self, holding: int, state: bytes | None) -> None:  # noqa: ARG002
        """There are no sessions."""
        self._lacks("session_state")

    def _lacks(self, operation: str) -> NoReturn:
        self._guard.check()
        hint = f"use receive: queue {self._queue} has no sessions (fifo: true says that one has)"
        raise Unsupported(operation, f"{PROVIDER} without sessions", hint)

    # --- the end ----------------------------------------------------------------------------------

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    def _left(self) -> list[Receipt]:
        now = asyncio.get_running_loop().time()
        return [one for one in self._in_hand if not one.ended and one.deadline > now]

    async def close(self) -> None:
        """Let the poll in flight end, and give back what is in hand."""
        self._guard.close()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._stop.set()
        if self._bringing is not None:
            await asyncio.wait([self._bringing])
        while self._later:
            await asyncio.wait(list(self._later))
        failures = await self._free(self._left())
        lost = [error for error in failures.values() if not isinstance(error, MessageLockLost)]
        if lost:
            _log.warning(
                "queue %s: %d messages could not be given back and come again when their locks "
                "end: %s",
                self._queue,
                len(lost),
                lost[0],
            )
        await self._desk.end()
        await asyncio.gather(self._polls.close(), self._other.close())
        while self._later:  # what came in those last moments and can't be decoded
            await asyncio.wait(list(self._later))
        self._forget(self)


def _first(ends: Sequence[float | None]) -> float | None:
    """When the first of some locks ends, as far as that was told."""
    return min((end for end in ends if end is not None), default=None)
