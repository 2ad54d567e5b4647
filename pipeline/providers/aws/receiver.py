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
from pipeline.errors import Closed, MessageLockLost, Unsupported
from pipeline.outcomes import Reason
from pipeline.providers.aws.errors import PROVIDER
from pipeline.providers.aws.polls import Poll, Polls
from pipeline.providers.aws.receipts import Receipt, Receipts
from pipeline.providers.aws.wire import Raw, columns_of, group_of, ours_of, sent_at, sequence_of
from pipeline.providers.guard import Guard
from pipeline.providers.port import DeadLetter, Failures, Holding, Received, Renewed, Want

_log = logging.getLogger("queue_runtime.sqs")
_LATER = 5
"""Seconds for which what is too much of one group is given back (SPEC F5)."""


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
        hand: what is in hand; makes all other calls.
        clock: the calendar.
        guard: says whether a call can be made.
        counts: of the provider's receivers: how many expired messages were disposed of.
        forget: tells the provider that this receiver was closed.
    """

    def __init__(
        self,
        settings: LaneSettings,
        polls: Callable[[Callable[[Poll], Any]], Polls],
        hand: Receipts,
        clock: Clock,
        guard: Guard,
        counts: Counter[str],
        forget: Callable[[SqsReceiver], None],
    ) -> None:
        self._settings = settings
        self._polls = polls(self._give_back)
        self._hand = hand
        self._clock = clock
        self._guard = guard
        self._counts = counts
        self._forget = forget
        self._lock = float(math.ceil(settings.visibility))
        self._holding = 0
        self._sequence = 0
        self._bringing: asyncio.Task[Received] | None = None
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
                self._polls.later(self._hand.settle(bringing.result().receipts, self._hand.free))
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
            self._polls.later(self._hand.give(surplus, _LATER))
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
        self._hand.add(receipts)
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
        failures = await self._hand.free(receipts)
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
        await self._hand.free(await disposing)

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
            await self._hand.give(back, _LATER)
        return kept

    def _is_expired(self, message: Raw, now: float) -> bool:
        lives = ours_of(message).get("ttl") or self._settings.time_to_live
        return lives is not None and sent_at(message) + float(lives) <= now

    async def _dispose(self, expired: list[Receipt]) -> Failures:
        if self._settings.drop_expired:
            return await self._hand.delete(expired)
        return await self._hand.move(expired, [DeadLetter(Reason.EXPIRED)] * len(expired))

    # --- settling ---------------------------------------------------------------------------------

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled: delete them."""
        self._guard.check()
        return await self._hand.settle(receipts, self._hand.delete)

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Handling failed: deliver them again, not before `delay` seconds; the count grows."""
        self._guard.check()
        if delay and self._settings.fifo:
            hint = "keep the message, renew it, and abandon it when the delay is over"
            raise Unsupported("abandon with a delay", f"{PROVIDER} (FIFO)", hint)
        return await self._hand.settle(receipts, lambda some: self._hand.give_later(some, delay))

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: deliver them again, in front; with a delay their groups wait."""
        self._guard.check()
        if not delay:
            return await self._hand.settle(receipts, self._hand.free)
        if not self._settings.fifo:
            raise Unsupported("release with a delay", PROVIDER, "abandon it: that can be delayed")
        return await self._hand.settle(receipts, lambda some: self._hand.give_later(some, delay))

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Copy them to the dead-letter queue and delete them; where the copy fails they stay."""
        self._guard.check()
        if self._settings.dead_letters:
            raise Unsupported("dead_letter", PROVIDER, "they are in the dead-letter queue already")
        why = dict(zip(receipts, reasons, strict=True))
        return await self._hand.settle(
            receipts, lambda some: self._hand.move(some, [why[receipt] for receipt in some])
        )

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks by the queue's lock duration from now."""
        self._guard.check()
        return await self._hand.renew(receipts)

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
        left = self._hand.left()
        failures = await self._hand.free(left)
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
