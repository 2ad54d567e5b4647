"""One configured connection to SQS."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial

from pipeline.clock import Clock
from pipeline.config import AwsConnection, AwsQueue
from pipeline.errors import PermissionDenied, QueueNotFound
from pipeline.providers.aws.calls import Batches, Calls
from pipeline.providers.aws.dead_letters import DeadLetters
from pipeline.providers.aws.errors import PROVIDER
from pipeline.providers.aws.lean import Lean
from pipeline.providers.aws.polls import Polls
from pipeline.providers.aws.queues import Queues, check_order, check_redrive
from pipeline.providers.aws.receipts import MAX_LOCK, Receipts
from pipeline.providers.aws.receiver import LaneSettings, SqsReceiver
from pipeline.providers.aws.sdk import Sdk
from pipeline.providers.aws.sender import SqsSender
from pipeline.providers.configured import Limits
from pipeline.providers.guard import Guard
from pipeline.providers.port import Capabilities, Count, Depth, SessionSupport

_MOST = 8_192
"""Messages that one receive of ours brings: of many at SQS, which run beside one another."""


class AwsProvider:
    """Connects to SQS (see `pipeline.providers.port.Provider`).

    Args:
        name: the connection's name.
        settings: its keys.
        queues: its queues by name.
        limits: time-outs.
        clock: calendar, chance and ids.
        attempts: by queue, how often the handlers that read it may try a message.
    """

    def __init__(
        self,
        name: str,
        settings: AwsConnection,
        queues: Mapping[str, AwsQueue],
        limits: Limits,
        clock: Clock,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        self._settings = settings
        self._names = tuple(queues)
        self._clock = clock
        self._attempts = attempts or {}
        self._sdk = Sdk(name, settings, limits)
        self._queues = Queues(self._sdk, queues)
        self._guard = Guard(f"connection {name}", limits.send)
        self._lean: Lean | None = None
        self._started = False
        self._open: set[SqsSender | SqsReceiver] = set()
        self._counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Connect, and look for every queue of the configuration; idempotent.

        A queue that is not there, or may not be looked at, is told of where it is used.
        """
        if self._started:
            self._guard.check()
            return
        self._guard.bind()
        self._guard.check()
        await self._sdk.start()
        try:
            if self._settings.client == "lean":
                self._lean = Lean(self._sdk)
            for queue in self._names:
                try:
                    await self._queues.find(queue)
                except (QueueNotFound, PermissionDenied):
                    continue
        except BaseException:
            await self._disconnect()
            raise
        self._started = True

    def capabilities(self, queue: str) -> Capabilities:
        """What that queue can do: FIFO or standard decides."""
        settings = self._queues.settings(queue)
        found = self._queues.known(queue)
        fifo = settings.has_groups
        most = settings.max_message_size
        return Capabilities(
            provider=PROVIDER,
            sessions=SessionSupport.EMULATED if fifo else SessionSupport.UNSUPPORTED,
            count=Count.ON_RECEIVE,
            release_counts=True,
            abandon_delay=not fifo,
            group_delay=fifo,
            single_release=True,
            session_state=False,
            scheduling=not fifo,
            cancel_scheduled=False,
            defer=False,
            peek=False,
            duplicate_detection=fifo,
            exact_depth=False,
            bounds_sessions=True,
            max_receive=_MOST,
            max_message_size=most if found is None else found.max_size(most),
            max_wait=_longest_poll(settings),
            max_lock=MAX_LOCK,
        )

    async def source(self, queue: str) -> str:
        """`aws_sqs:<ARN>@<creation>`."""
        self._guard.check()
        return (await self._queues.find(queue)).source

    async def sender(self, queue: str) -> SqsSender:
        """A new sending side."""
        self._guard.check()
        found = await self._queues.find(queue)
        sender = SqsSender(
            queue,
            found,
            self._queues.settings(queue),
            self._batches(),
            self._clock,
            self._made(f"the sender of queue {queue}"),
            self._open.discard,
        )
        self._open.add(sender)
        return sender

    async def receiver(
        self,
        queue: str,
        *,
        partition: int = 0,  # noqa: ARG002 - every lane of a queue gets of all its messages
        dead_letters: bool = False,
        owner: str = "",  # noqa: ARG002 - SQS knows no owners: what a dead one had comes again
    ) -> SqsReceiver:
        """A new receiving lane, of the queue or of its dead-letter queue."""
        self._guard.check()
        settings = self._queues.settings(queue)
        found = await self._queues.find(queue)
        check_order(queue, found, settings)
        if not dead_letters and queue in self._attempts:
            check_redrive(queue, found, self._attempts[queue])
        read = await self._queues.dead(queue) if dead_letters else found
        batches = self._batches()
        receiver = SqsReceiver(
            LaneSettings(
                queue=queue,
                url=read.url,
                fifo=read.fifo,
                visibility=settings.visibility,
                time_to_live=settings.time_to_live,
                drop_expired=settings.on_expiry == "drop",
                dead_letters=dead_letters,
            ),
            lambda left: Polls(
                self._calls(),
                read.url,
                fifo=read.fifo,
                visibility=settings.visibility,
                longest=_longest_poll(settings),
                most=self._settings.calls,
                new_id=self._clock.new_id,
                left=left,
                dead_letters=dead_letters,
            ),
            Receipts(
                read.url,
                float(math.ceil(settings.visibility)),
                batches,
                DeadLetters(partial(self._queues.dead, queue), batches),
            ),
            self._clock,
            self._made(f"the receiver of queue {queue}"),
            self._counts,
            self._open.discard,
        )
        self._open.add(receiver)
        return receiver

    async def depth(self, queue: str) -> Depth:
        """How much it holds now, about; SQS does not say how old the oldest message is."""
        self._guard.check()
        depths = await self._queues.depths(await self._queues.find(queue))
        try:
            dead = await self._queues.depths(await self._queues.dead(queue))
        except (QueueNotFound, PermissionDenied):
            dead = {}
        return Depth(
            available=depths.get("ApproximateNumberOfMessages"),
            in_hand=depths.get("ApproximateNumberOfMessagesNotVisible"),
            scheduled=depths.get("ApproximateNumberOfMessagesDelayed"),
            dead_lettered=dead.get("ApproximateNumberOfMessages"),
        )

    def figures(self) -> dict[str, int]:
        """Both pools, and how many expired messages were dead-lettered or dropped."""
        polls, calls = self._sdk.poll_pool.figures(), self._sdk.call_pool.figures()
        return polls | calls | {"expired": self._counts["expired"]}

    async def close(self) -> None:
        """Close every sender and receiver, then the connections; idempotent."""
        self._guard.close()
        for each in list(self._open):
            await each.close()
        await self._disconnect()

    async def _disconnect(self) -> None:
        if self._lean is not None:
            await self._lean.close()
            self._lean = None
        await self._sdk.close()

    def _calls(self) -> Calls:
        return self._sdk if self._lean is None else self._lean

    def _batches(self) -> Batches:
        return Batches(self._calls(), self._settings.calls)

    def _made(self, what: str) -> Guard:
        guard = Guard(what, self._sdk.limits.send)
        guard.bind()
        return guard


def _longest_poll(settings: AwsQueue) -> float:
    """Seconds that one receive waits at SQS.

    A lock is counted from before its receive was sent: of a short one enough must be left at the
    end of the wait.
    """
    return min(settings.poll, max(1.0, settings.visibility // 3))
