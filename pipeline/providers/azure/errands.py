"""What is asked of one session's task: calls one after another, settlements of a kind together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pipeline.errors import QueueError
from pipeline.providers.port import DeadLetter, Failures

T = TypeVar("T")
R = TypeVar("R")
Kind: TypeAlias = tuple[str, DeadLetter | None]
"""A status of `settle`, and why something is dead-lettered."""


@dataclass(slots=True, eq=False)
class _Part(Generic[R]):
    """Receipts of one call."""

    receipts: Sequence[R]
    answer: asyncio.Future[Failures]


class Errands(Generic[R]):
    """A queue of what is to be done, and of who waits for it.

    Args:
        settle: settles receipts of one kind; returns why some could not be.
        wake: tells the task that something was added.
    """

    def __init__(
        self,
        settle: Callable[[Kind, Sequence[R]], Awaitable[dict[R, QueueError]]],
        wake: Callable[[], None],
    ) -> None:
        self._settle = settle
        self._wake = wake
        self._jobs: deque[tuple[Callable[[], Awaitable[None]], asyncio.Future[Any]]] = deque()
        self._gathering: dict[Kind, list[_Part[R]]] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._jobs)

    def ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Future[T]:
        """Make a call when it is its turn."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def job() -> None:
            found = await call()
            if not answer.done():
                answer.set_result(found)

        self._put(job, answer)
        return answer

    def settle(self, kind: Kind, receipts: Sequence[R]) -> asyncio.Future[Failures]:
        """Settle receipts; what is asked for until their turn comes goes with them."""
        loop = asyncio.get_running_loop()
        part = _Part(receipts, loop.create_future())
        parts = self._gathering.get(kind)
        if parts is None:
            parts = self._gathering[kind] = []
            self._put(lambda: self._settle_all(kind), loop.create_future())
        parts.append(part)
        return part.answer

    def _put(self, job: Callable[[], Awaitable[None]], answer: asyncio.Future[Any]) -> None:
        self._jobs.append((job, answer))
        self._wake()

    async def do_next(self) -> None:
        """Do the next one, and tell who waits for it; an error of it is also raised."""
        job, answer = self._jobs.popleft()
        try:
            await job()
        except QueueError as error:
            _refuse(answer, error)
            raise

    async def _settle_all(self, kind: Kind) -> None:
        parts = self._gathering.pop(kind)
        receipts = [receipt for part in parts for receipt in part.receipts]
        errors = await self._settle(kind, receipts)
        for part in parts:
            if not part.answer.done():
                found = {at: errors[one] for at, one in enumerate(part.receipts) if one in errors}
                part.answer.set_result(found)

    def refuse_all(self, error: QueueError) -> None:
        """None of it can be done any more."""
        for parts in self._gathering.values():
            for part in parts:
                if not part.answer.done():
                    part.answer.set_result(dict.fromkeys(range(len(part.receipts)), error))
        self._gathering.clear()
        while self._jobs:
            _refuse(self._jobs.popleft()[1], error)


async def of_each(
    keys: Sequence[int], call: Callable[[int], Coroutine[Any, Any, T]]
) -> tuple[list[T], Failures]:
    """Call for all of them at once: what came, and by position what failed."""

    async def one(key: int) -> T | QueueError:
        try:
            return await call(key)
        except QueueError as error:
            return error

    answers = await asyncio.gather(*map(one, keys))
    failures = {at: got for at, got in enumerate(answers) if isinstance(got, QueueError)}
    return [got for got in answers if not isinstance(got, QueueError)], failures


def _refuse(answer: asyncio.Future[Any], error: QueueError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # whoever asked may be gone
