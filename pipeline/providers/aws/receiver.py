"""One receiving lane of an SQS queue: it receives, and it alone settles what it received."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.errors import (
    Closed,
    MessageLockLost,
    MessageNotFound,
    Unsupported,
)
from pipeline.outcomes import Reason
from pipeline.providers.aws.calls import CHANGE, DELETE, Batches
from pipeline.providers.aws.dead_letters import DeadLetters
from pipeline.providers.aws.errors import PROVIDER
from pipeline.providers.aws.polls import Poll, Polls
from pipeline.providers.aws.wire import Raw, columns_of, group_of, ours_of, sent_at, sequence_of
from pipeline.providers.guard import Guard
from pipeline.providers.port import DeadLetter, Failures, Holding, Received, Renewed, Want

_log = logging.getLogger("queue_runtime.sqs")
MAX_LOCK = 43_200.0
"""Seconds from its receipt after which SQS refuses to keep a message locked."""
_LATER = 5
"""Seconds for which what is too much of one group is given back (SPEC F5)."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSettings:
    """What a lane is told.

    Args:
        queue: its queue's name in the configuration.
        url: where it reads.
        fifo: whether that has groups in order.
        visibility: seconds a message is locked.
        time_to_live: seconds a message lives that names none itself; None: for ever.
        drop_expired: whether an expired message is dropped, not dead-lettered.
        dead_letters: whether it reads the dead-letter queue.
    """

    queue: str
    url: str
    fifo: bool
    visibility: float
    time_to_live: float | None = None
    drop_expired: bool = False
    dead_letters: bool = False


class SqsReceiver:
    """Receives from one queue and settles what it received (see `port.Receiver`).

    Args:
        settings: what it is told.
        polls: makes its receive calls, given what to do with what comes for nobody.
        batches: makes all other calls.
        dead_letters: the way to the dead-letter queue.
        clock: the calendar.
        guard: says whether a call can be made.
        counts: of the provider's receivers: how many expired messages were disposed of.
        forget: tells the provider that this receiver was closed.
    """

    def __init__(
        self,
        settings: LaneSettings,
        polls: Callable[[Callable[[Poll], Any]], Polls],
        batches: Batches,
        dead_letters: DeadLetters,
        clock: Clock,
        guard: Guard,
        counts: Counter[str],
        forget: Callable[[SqsReceiver], None],
    ) -> None:
        self._settings = settings
        self._polls = polls(self._give_back)
        self._batches = batches
        self._dead_letters = dead_letters
        self._clock = clock
        self._guard = guard
        self._counts = counts
        self._forget = forget
        self._lock = float(math.ceil(settings.visibility))
        self._holding = 0
        self._sequence = 0
        self._bringing: asyncio.Task[Received] | None = None
        self._in_hand: set[Receipt] = set()
        self._closing: asyncio.Task[None] | None = None

    # --- receiving --------------------------------------------------------------------------------

    async def receive(self, want: Want) -> Received:
        """Bring messages, waiting for the first one; the moment there is one it returns."""
        loop = self._guard.check()
        self._bringing = bringing = loop.create_task(self._bring(want))
        try:
            received = await bringing
        except asyncio.CancelledError:
            if bringing.done() and not bringing.cancelled() and bringing.exception() is None:
                # Cancelled when it had come already: it is nobody's.
                self._polls.later(self._settle(bringing.result().receipts, self._free))
            task = asyncio.current_task()
            if self._guard.closed and not (task is not None and task.cancelling()):
                raise self._was_closed() from None
            raise
        finally:
            self._bringing = None
        if self._guard.closed:
            raise self._was_closed()  # and what came was given back with all that was in hand
        return received

    def _was_closed(self) -> Closed:
        return Closed(f"the receiver of queue {self._settings.queue} was closed")

    async def _bring(self, want: Want) -> Received:
        gathered = await self._polls.gather(want.messages, want.bytes, want.wait)
        if not gathered.polls:
            deadline = asyncio.get_running_loop().time() + self._lock
            return Received(MessageBatch.empty(), [], deadline)
        receipts = [
            Receipt(message, poll.since, poll.since + self._lock)
            for poll in gathered.polls
            for message in poll.messages
        ]
        kept = await self._fresh(self._within(receipts, want))
        return self._received(kept, min(poll.since for poll in gathered.polls) + self._lock)

    def _within(self, receipts: list[Receipt], want: Want) -> list[Receipt]:
        """Give back what is more than was asked for: of all, and of one group."""
        kept, surplus = receipts[: want.messages], receipts[want.messages :]
        if self._settings.fifo:
            held: Counter[str | None] = Counter()
            few: list[Receipt] = []
            for receipt in kept:
                group = group_of(receipt.message)
                held[group] += 1
                (few if held[group] <= want.per_session else surplus).append(receipt)
            kept = few
        if surplus:
            self._polls.later(self._give(surplus, _LATER))
        return kept

    def _received(self, receipts: list[Receipt], deadline: float) -> Received:
        messages = [receipt.message for receipt in receipts]
        if not messages:
            return Received(MessageBatch.empty(), [], deadline)
        # Holdings of a session grow whoever has it, as the calendar does: in steps of 10 us.
        now = self._clock.now()
        self._holding = max(self._holding + 1, int(now * 1e5))
        left = deadline - asyncio.get_running_loop().time()
        columns: Mapping[str, Sequence[Any]] = columns_of(messages, self._sequences(messages)) | {
            "holding": [self._holding] * len(messages),
            "locked_until": [now + left] * len(messages),
        }
        self._in_hand.update(receipts)
        return Received(MessageBatch.from_columns(len(messages), columns), receipts, deadline)

    def _sequences(self, messages: list[Raw]) -> list[int]:
        """SQS numbers what has groups; all else is numbered as it comes."""
        found = []
        for message in messages:
            number = sequence_of(message)
            if number is None:
                self._sequence += 1
                number = self._sequence
            found.append(number)
        return found

    async def end_wait(self) -> None:
        """A poll can't be ended: it ends by itself."""
        self._guard.check()

    async def _give_back(self, poll: Poll) -> None:
        """What came for nobody is free again at once."""
        receipts = [Receipt(message, poll.since, math.inf) for message in poll.messages]
        failures = await self._free(receipts)
        if failures:
            _log.warning(
                "queue %s: %d messages that came for nobody come again when their locks end: %s",
                self._settings.queue,
                len(failures),
                next(iter(failures.values())),
            )

    # --- what is too old --------------------------------------------------------------------------

    async def _fresh(self, receipts: list[Receipt]) -> list[Receipt]:
        """Those that are not too old; cancelled, it disposes of the others and frees these."""
        expired = self._expired(receipts)
        if not expired:
            return receipts
        loop = asyncio.get_running_loop()
        disposing = loop.create_task(self._without(expired, receipts))
        try:
            return await asyncio.shield(disposing)
        except asyncio.CancelledError:
            self._polls.later(self._free_after(disposing))
            raise

    async def _free_after(self, disposing: asyncio.Task[list[Receipt]]) -> None:
        await self._free(await disposing)

    def _expired(self, receipts: list[Receipt]) -> list[Receipt]:
        if self._settings.dead_letters:
            return []
        now = self._clock.now()
        return [receipt for receipt in receipts if self._is_expired(receipt.message, now)]

    async def _without(self, expired: list[Receipt], receipts: list[Receipt]) -> list[Receipt]:
        """SQS keeps no time to live: it is judged here, before anybody handles the message.

        Of a group nothing goes on before its expired message is disposed of; where that can't be
        done it is given back with those behind it.
        """
        gone = set(expired)
        failures = await self._dispose(expired)
        self._counts["expired"] += len(expired) - len(failures)
        back = [expired[at] for at in failures]
        kept = [receipt for receipt in receipts if receipt not in gone]
        if back:
            _log.warning(
                "queue %s: %d expired messages could not be disposed of: %s",
                self._settings.queue,
                len(back),
                next(iter(failures.values())),
            )
            if self._settings.fifo:
                stuck = {group_of(receipt.message) for receipt in back}
                back += [one for one in kept if group_of(one.message) in stuck]
                kept = [one for one in kept if group_of(one.message) not in stuck]
            await self._give(back, _LATER)
        return kept

    def _is_expired(self, message: Raw, now: float) -> bool:
        lives = ours_of(message).get("ttl") or self._settings.time_to_live
        return lives is not None and sent_at(message) + float(lives) <= now

    async def _dispose(self, expired: list[Receipt]) -> Failures:
        if self._settings.drop_expired:
            return await self._delete(expired)
        return await self._move(expired, [DeadLetter(Reason.EXPIRED)] * len(expired))

    # --- settling ---------------------------------------------------------------------------------

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled: delete them."""
        self._guard.check()
        return await self._settle(receipts, self._delete)

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Handling failed: deliver them again, not before `delay` seconds; the count grows."""
        self._guard.check()
        if delay and self._settings.fifo:
            hint = "keep the message, renew it, and abandon it when the delay is over"
            raise Unsupported("abandon with a delay", f"{PROVIDER} (FIFO)", hint)
        return await self._settle(receipts, lambda some: self._give_later(some, delay))

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: deliver them again, in front; with a delay their groups wait."""
        self._guard.check()
        if not delay:
            return await self._settle(receipts, self._free)
        if not self._settings.fifo:
            raise Unsupported("release with a delay", PROVIDER, "abandon it: that can be delayed")
        return await self._settle(receipts, lambda some: self._give_later(some, delay))

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Copy them to the dead-letter queue and delete them; where the copy fails they stay."""
        self._guard.check()
        if self._settings.dead_letters:
            raise Unsupported("dead_letter", PROVIDER, "they are in the dead-letter queue already")
        why = dict(zip(receipts, reasons, strict=True))
        return await self._settle(
            receipts, lambda some: self._move(some, [why[receipt] for receipt in some])
        )

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks by the queue's lock duration from now."""
        now = self._guard.check().time()
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
        found = await self._batches.each(CHANGE, self._settings.url, entries)
        failures |= {going[at]: error for at, error in found.items()}
        for at, left in zip(going, lasts, strict=True):
            if at not in failures:
                receipts[at].deadline = now + left
        return Renewed(now + min(lasts, default=0), failures)

    async def _settle(self, receipts: Sequence[Receipt], act: Callable[..., Any]) -> Failures:
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

    async def _delete(self, receipts: Sequence[Receipt]) -> Failures:
        entries = [{"ReceiptHandle": receipt.handle} for receipt in receipts]
        return self._ended(receipts, await self._batches.each(DELETE, self._settings.url, entries))

    async def _give(self, receipts: Sequence[Receipt], seconds: int) -> Failures:
        """Give them back: to be delivered again after so many seconds."""
        entries = [_change(receipt, seconds) for receipt in receipts]
        return self._ended(receipts, await self._batches.each(CHANGE, self._settings.url, entries))

    async def _give_later(self, receipts: Sequence[Receipt], delay: float) -> Failures:
        """Give them back for later: SQS keeps a message for 12 h from its receipt at most."""
        now = asyncio.get_running_loop().time()
        oldest = min((receipt.received for receipt in receipts), default=now)
        seconds = min(math.ceil(delay), math.floor(oldest + MAX_LOCK - now))
        return await self._give(receipts, max(seconds, 0))

    async def _free(self, receipts: Sequence[Receipt]) -> Failures:
        return await self._give(receipts, 0)

    async def _move(self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]) -> Failures:
        failures = await self._dead_letters.copy([one.message for one in receipts], reasons)
        going = [at for at in range(len(receipts)) if at not in failures]
        deleted = await self._delete([receipts[at] for at in going])
        return failures | {going[at]: error for at, error in deleted.items()}

    def _ended(self, receipts: Sequence[Receipt], failures: Failures) -> Failures:
        if not failures:
            for receipt in receipts:
                receipt.ended = True
            self._in_hand.difference_update(receipts)
            return failures
        for at, receipt in enumerate(receipts):
            if at not in failures:
                receipt.ended = True
                self._in_hand.discard(receipt)
        return failures

    # --- what SQS does not have -------------------------------------------------------------------

    async def defer(self, receipts: Sequence[Receipt]) -> Failures:  # noqa: ARG002
        """SQS sets nothing aside."""
        self._lacks("defer", "keep the message and renew it, or send it anew")

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:  # noqa: ARG002
        """SQS sets nothing aside."""
        self._lacks("receive_deferred")

    async def peek(self, count: int, after: int = 0) -> MessageBatch:  # noqa: ARG002
        """SQS shows no message without locking it."""
        self._lacks("peek", "receive it and release it: that counts as a delivery")

    async def accept(self, session: str | None, wait: float) -> Holding:  # noqa: ARG002
        """SQS locks no groups."""
        self._lacks("accept_session", "use receive: a group is blocked while one is in hand")

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:  # noqa: ARG002
        """SQS locks no groups."""
        self._lacks("release_sessions")

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:  # noqa: ARG002
        """SQS locks no groups."""
        self._lacks("renew_sessions")

    async def session_state(self, holding: int) -> bytes | None:  # noqa: ARG002
        """SQS keeps no state."""
        self._lacks("session_state")

    async def set_session_state(self, holding: int, state: bytes | None) -> None:  # noqa: ARG002
        """SQS keeps no state."""
        self._lacks("session_state")

    def _lacks(self, operation: str, hint: str = "") -> NoReturn:
        self._guard.check()
        raise Unsupported(operation, PROVIDER, hint)

    # --- the end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Let the receive in flight end, and give back what is in hand."""
        self._guard.close()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._bringing is not None:
            self._bringing.cancel()
            await asyncio.wait([self._bringing])
        left = list(self._in_hand)
        failures = await self._free(left)
        lost = [error for error in failures.values() if not isinstance(error, MessageLockLost)]
        if lost:
            _log.warning(
                "queue %s: %d messages could not be given back and come again when their locks "
                "end: %s",
                self._settings.queue,
                len(lost),
                lost[0],
            )
        await self._polls.close()
        self._forget(self)


def _change(receipt: Receipt, seconds: int) -> dict[str, Any]:
    return {"ReceiptHandle": receipt.handle, "VisibilityTimeout": seconds}
