"""The renewer: keeps the locks of everything in a receiver's hands, in batches (SPEC P13).

It runs beside the receiver, never where user code runs, so a handler that blocks can't lose a lock.
A lock is either a session's (NATIVE) or a lot's: the rows of one receive share their deadline.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.errors import QueueError
from pipeline.providers.port import Renewed

_log = logging.getLogger("queue_runtime.renew")
_AGAIN = 1.0
_SLACK = 1.0  # what is due within it goes with the same call

Key = TypeVar("Key", bound=Hashable)


def renew_at(now: float, deadline: float) -> float:
    """When to renew a lock: at half of what remains, but with 10 s left; short ones at a third.

    Example:
        >>> renew_at(0.0, 300.0), renew_at(0.0, 15.0)
        (150.0, 5.0)
    """
    remaining = deadline - now
    if remaining < 30.0:
        return now + remaining / 3
    return now + min(remaining / 2, remaining - 10.0)


@dataclass(slots=True)
class _Lock:
    deadline: float
    due: float


class Renewer(Generic[Key]):
    """Renews locks until they are forgotten.

    Args:
        renew: renews many locks in one go; answers the keys' positions that failed.
        lost: told of a key whose lock ended.
    """

    def __init__(
        self,
        renew: Callable[[Sequence[Key]], Awaitable[Renewed]],
        lost: Callable[[Key], None],
    ) -> None:
        self._renew = renew
        self._lost = lost
        self._locks: dict[Key, _Lock] = {}
        self._changed = asyncio.Event()
        self._next = float("inf")
        self._task: asyncio.Task[None] | None = None
        self.renewed = 0

    def start(self) -> None:
        """Begin to renew."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def close(self) -> None:
        """Stop renewing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    def add(self, key: Key, deadline: float) -> None:
        """Keep this lock from now on."""
        due = renew_at(asyncio.get_running_loop().time(), deadline)
        self._locks[key] = _Lock(deadline, due)
        if due < self._next:
            self._changed.set()

    def forget(self, key: Key) -> None:
        """The lock is no longer needed."""
        self._locks.pop(key, None)

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            self._next = min((lock.due for lock in self._locks.values()), default=float("inf"))
            try:
                async with asyncio.timeout_at(None if self._next == float("inf") else self._next):
                    await self._changed.wait()
            except TimeoutError:
                await self._round()

    async def _round(self) -> None:
        now = asyncio.get_running_loop().time()
        keys = [key for key, lock in self._locks.items() if lock.due <= now + _SLACK]
        try:
            answer = await self._renew(keys)
        except QueueError as error:
            answer = Renewed(0.0, dict.fromkeys(range(len(keys)), error))
        now = asyncio.get_running_loop().time()
        for place, key in enumerate(keys):
            lock = self._locks.get(key)
            if lock is None:
                continue
            failure = answer.failures.get(place)
            if failure is None:
                lock.deadline = answer.deadline
                lock.due = renew_at(now, answer.deadline)
                self.renewed += 1
            elif failure.transient and now + _AGAIN < lock.deadline:
                lock.due = now + _AGAIN
                _log.warning("renewing a lock failed, it is tried again: %s", failure)
            else:
                del self._locks[key]
                _log.warning("a lock is lost: %s", failure)
                self._lost(key)
