"""The long polls that wait at one queue, in the order in which they came."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tests.sqs.stored import Stored

Found = TypeVar("Found")


@dataclass(slots=True, eq=False)
class Waiter:
    """One long poll: how it takes messages, and where they go."""

    take: Callable[[], list[Stored]]
    done: asyncio.Future[list[Stored]]
    end: asyncio.TimerHandle


class Waiters:
    """Served first come, first served.

    A poll whose caller has hung up still waits, and what it takes is in flight to nobody: so it is
    with the service, which can't see that the caller has gone.
    """

    def __init__(self) -> None:
        self._line: deque[Waiter] = deque()

    def __bool__(self) -> bool:
        return bool(self._line)

    def join(
        self, take: Callable[[], list[Stored]], seconds: float
    ) -> asyncio.Future[list[Stored]]:
        """Wait for so long; the result is what was taken, or nothing at the end."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Stored]] = loop.create_future()
        end = loop.call_later(seconds, self._give_up, done)
        self._line.append(Waiter(take, done, end))
        return done

    def serve(self) -> None:
        """Give what is there to those that wait."""
        while self._line:
            waiter = self._line[0]
            if not waiter.done.done():
                found = waiter.take()
                if not found:
                    return
                waiter.done.set_result(found)
            waiter.end.cancel()
            self._line.popleft()

    def fail(self, error: Exception) -> None:
        """End all of them with an error."""
        while self._line:
            waiter = self._line.popleft()
            waiter.end.cancel()
            if not waiter.done.done():
                waiter.done.set_exception(error)

    def drop(self) -> None:
        """End all of them without an answer."""
        while self._line:
            waiter = self._line.popleft()
            waiter.end.cancel()
            waiter.done.cancel()

    @staticmethod
    def _give_up(done: asyncio.Future[list[Stored]]) -> None:
        if not done.done():
            done.set_result([])
