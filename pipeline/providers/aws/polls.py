"""Receives at SQS: one that waits, and many beside it while there is much to get.

A receive in flight is never cancelled: what it brings would be locked for nobody. Who stops waiting
leaves it; the next one takes it up, and if nobody does, what it brings is given back.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import ConnectionFailed, ProviderError, QueueError, Timeout
from pipeline.providers.aws.calls import MOST_ENTRIES, RECEIVE, Calls
from pipeline.providers.aws.wire import Raw

_log = logging.getLogger("queue_runtime.sqs")
_GATHERING = 0.2
"""Seconds for which one receive goes on to bring more once it has something."""
_SYSTEM = [
    "ApproximateReceiveCount",
    "SentTimestamp",
    "SequenceNumber",
    "MessageGroupId",
]


@dataclass(slots=True)
class Poll:
    """What one receive brought.

    Args:
        messages: as SQS gives them.
        since: `loop.time()` before it was sent: their locks last from here at least.
    """

    messages: list[Raw]
    since: float


@dataclass(slots=True)
class Gathered:
    """What several receives brought together.

    Args:
        polls: each of them that brought something.
        size: bytes of their bodies.
        count: their messages.
    """

    polls: list[Poll] = field(default_factory=list)
    size: int = 0
    count: int = 0

    def add(self, poll: Poll) -> None:
        """One more."""
        self.polls.append(poll)
        self.count += len(poll.messages)
        self.size += sum(len(message.get("Body", "")) for message in poll.messages)


class Polls:
    """The receives of one lane.

    Args:
        calls: makes a call.
        url: the queue's.
        fifo: whether it is FIFO.
        visibility: seconds a message is locked.
        longest: seconds one receive may wait at SQS.
        most: how many run at once.
        new_id: makes the id of an attempt.
        left: told of what came for nobody.
        dead_letters: whether it is read as a dead-letter queue.
    """

    def __init__(
        self,
        calls: Calls,
        url: str,
        *,
        fifo: bool,
        visibility: float,
        longest: float,
        most: int,
        new_id: Callable[[], str],
        left: Callable[[Poll], Coroutine[Any, Any, None]],
        dead_letters: bool,
    ) -> None:
        self._calls = calls
        self._longest = longest
        self._most = most
        self._new_id = new_id if fifo else None
        self._left = left
        self._asked: dict[str, Any] = {
            "QueueUrl": url,
            "VisibilityTimeout": math.ceil(visibility),
            "MessageAttributeNames": ["All"],
            "MessageSystemAttributeNames": ["All"] if dead_letters else _SYSTEM,
        }
        # Of a receive whose answer was lost SQS FIFO gives the same messages again to its id.
        self._unanswered: deque[str] = deque(maxlen=most)
        self._open: set[asyncio.Task[Poll]] = set()
        self._alone: set[asyncio.Task[Poll]] = set()
        self._orphans: set[asyncio.Task[Any]] = set()
        self._width = 1

    async def gather(self, want: int, size: int, wait: float) -> Gathered:
        """Bring messages, waiting for the first ones.

        Args:
            want: at most so many.
            size: stop when so many bytes of bodies are reached.
            wait: seconds to wait for the first one.

        Raises:
            QueueError: the first receive failed.
        """
        gathered = Gathered()
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        try:
            while True:
                left = max(0.0, end - loop.time())
                poll = await self._first(min(want, MOST_ENTRIES), left)
                if poll.messages:
                    gathered.add(poll)
                    break
                if loop.time() >= end:
                    return gathered
            if len(poll.messages) == MOST_ENTRIES:
                await self._more(gathered, want, size, loop.time() + _GATHERING)
        except asyncio.CancelledError:
            for poll in gathered.polls:
                self.later(self._left(poll))
            raise
        return gathered

    async def close(self) -> None:
        """Wait for the receives that are open; what they bring is given back."""
        while self._open or self._orphans:
            await asyncio.wait([*self._open, *self._orphans])

    async def _first(self, count: int, wait: float) -> Poll:
        """One receive, which may be one that somebody left."""
        task = next(iter(self._open), None) or self._start(count, min(wait, self._longest))
        await self._wait([task])
        return task.result()

    async def _more(self, gathered: Gathered, want: int, size: int, until: float) -> None:
        """Go on, several at once, for as long as they come back full."""
        loop = asyncio.get_running_loop()
        going: set[asyncio.Task[Poll]] = set()
        full = True
        while True:
            while (
                full
                and len(going) < self._width
                and gathered.count + MOST_ENTRIES * len(going) < want
                and gathered.size < size
                and loop.time() < until
            ):
                rest = want - gathered.count - MOST_ENTRIES * len(going)
                going.add(self._start(min(rest, MOST_ENTRIES), 0.0))
            if not going:
                break
            done = await self._wait(going)
            going -= done
            for task in done:
                full = self._taken(task, gathered) and full
        self._width = max(1, self._width // 2) if not full else self._width

    def _taken(self, task: asyncio.Task[Poll], gathered: Gathered) -> bool:
        """Add what it brought; whether there seems to be more."""
        error = task.exception()
        if error is not None:
            if not isinstance(error, QueueError):
                raise error
            _log.debug("a receive beside others failed: %s", error)
            return False
        poll = task.result()
        if poll.messages:
            gathered.add(poll)
        full = len(poll.messages) == MOST_ENTRIES
        if full:
            self._width = min(self._width + 1, self._most)
        return full

    async def _wait(
        self, tasks: list[asyncio.Task[Poll]] | set[asyncio.Task[Poll]]
    ) -> set[asyncio.Task[Poll]]:
        """Until the first is done. Cancelled, all are left: what they bring is given back."""
        # Of one that is done its callback is under way and can't be taken back: it looks here.
        self._alone.difference_update(tasks)
        for task in tasks:
            task.remove_done_callback(self._came_for_nobody)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._alone.update(tasks)
            for task in tasks:
                task.add_done_callback(self._came_for_nobody)
            raise
        self._open -= done
        return done

    def _start(self, count: int, wait: float) -> asyncio.Task[Poll]:
        task = asyncio.get_running_loop().create_task(self._receive(count, wait))
        self._open.add(task)
        return task

    async def _receive(self, count: int, wait: float) -> Poll:
        since = asyncio.get_running_loop().time()
        seconds = math.ceil(wait)  # SQS waits whole ones
        asked = {**self._asked, "MaxNumberOfMessages": count, "WaitTimeSeconds": seconds}
        attempt = ""
        if self._new_id is not None:
            attempt = self._unanswered.popleft() if self._unanswered else self._new_id()
            asked["ReceiveRequestAttemptId"] = attempt
        try:
            answer = await self._calls.call(RECEIVE, asked, float(seconds))
        except (Timeout, ConnectionFailed, ProviderError) as error:
            if attempt and error.transient:
                self._unanswered.append(attempt)
            raise
        return Poll(list(answer.get("Messages") or ()), since)

    def _came_for_nobody(self, task: asyncio.Task[Poll]) -> None:
        if task not in self._alone:
            return  # somebody took it up as it ended
        self._alone.discard(task)
        self._open.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            _log.debug("a receive that nobody waited for failed: %s", error)
        elif task.result().messages:
            self.later(self._left(task.result()))

    def later(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it beside the receives; closing waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._orphans.add(task)
        task.add_done_callback(self._orphans.discard)
