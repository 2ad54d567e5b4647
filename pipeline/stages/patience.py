"""A state store that may fail for a while, as those see it who can wait (SPEC T3: a full disk).

Rows in hand are kept meanwhile, and their locks renewed; a drain does not wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from pipeline.errors import QueueError
from pipeline.retry import RetryPolicy
from pipeline.state.port import Change, SessionRecord, StateStore

_log = logging.getLogger("queue_runtime.handle")
_PAUSES = RetryPolicy(3, 0.1, 10.0, 2.0)
T = TypeVar("T")


class GivenUp(QueueError):
    """The store does not work, and the runtime stops: there is no more time to wait for it."""


class PatientStore:
    """A store whose failures are waited out.

    Args:
        store: the store itself.
        chance: gives the jitter.
    """

    def __init__(self, store: StateStore, chance: Callable[[], float]) -> None:
        self._store = store
        self._chance = chance
        self.hurried = False
        """Whether nothing is waited for any more."""
        self.paused: str | None = None
        """What the store said last, while it does not work."""

    async def start(self) -> None:
        """Open what is needed."""
        await self._store.start()

    async def load(
        self, keys: Sequence[str], holdings: Sequence[int] | None = None
    ) -> list[SessionRecord]:
        """See `StateStore`.

        Raises:
            GivenUp: it can't be read, and there is no more time.
        """
        return await self._until_it_works(lambda: self._store.load(keys, holdings))

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """See `StateStore`; the answer is a passing error only when there is no more time."""
        answers: dict[int, QueueError | None] = {}

        async def commit() -> None:
            left = [at for at in range(len(changes)) if at not in answers]
            failed = None
            told = await self._store.commit([changes[at] for at in left])
            for at, error in zip(left, told, strict=True):
                if error is not None and error.transient:
                    failed = error
                else:
                    answers[at] = error
            if failed is not None:
                raise failed

        try:
            await self._until_it_works(commit)
        except QueueError as error:
            return [answers.get(at, error) for at in range(len(changes))]
        return [answers[at] for at in range(len(changes))]

    def states(self) -> AsyncIterator[tuple[str, bytes]]:
        """See `StateStore`."""
        return self._store.states()

    async def close(self) -> None:
        """Close what is open."""
        await self._store.close()

    async def _until_it_works(self, ask: Callable[[], Awaitable[T]]) -> T:
        attempt = 0
        while True:
            try:
                answer = await ask()
            except QueueError as error:
                if not error.transient:
                    raise
                attempt += 1
                await self._wait(error, attempt)
            else:
                self.paused = None
                return answer

    async def _wait(self, error: QueueError, attempt: int) -> None:
        if self.hurried:
            raise GivenUp(str(error)) from error
        if self.paused is None:
            _log.error("nothing is handled until the state store works again: %s", error)
        self.paused = str(error)
        await asyncio.sleep(_PAUSES.delay(min(attempt, 30), self._chance()))
