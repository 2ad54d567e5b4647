"""Accepts: how a receiver comes to its sessions, in the background and side by side.

An accept is a connection that waits until the service grants it a session; none of them holds up
the sessions that are held already. A granted session is kept here until the receiver tells its
caller of it, which it does once a message of it has come; when that takes too long it is given
back, for others to have it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import QueueError, SessionLocked, SessionNotFound, Timeout
from pipeline.providers.azure.errors import condition_of
from pipeline.providers.azure.link import Link
from pipeline.providers.azure.locks import QueueLocks
from pipeline.providers.azure.sdk import Next, Sdk
from pipeline.providers.azure.session import PREFETCH, HeldSession

_log = logging.getLogger("queue_runtime.servicebus")
_FEW, _MANY = 8, 32
"""The most accepts that wait at once: while few sessions come free, and as long as each is granted.
An accept takes half a second by the SDK's own sleeps, and a connection."""
_WAIT = 10.0
"""Seconds that the service may keep one waiting; then another one is made."""
_LEAST = 0.5
"""Seconds that it is kept waiting at least."""
_AGAIN = 0.25
"""Seconds until a session that another one holds is asked for again."""
_KEPT = 3.0
"""Seconds that a granted session is kept that nobody is told of."""
_PAUSE = 3.0
"""Seconds without an accept after that, so that others come to it."""
_FAILED = 1.0
"""Seconds without an accept after one that failed."""
_LATE = 1.0
"""Seconds that may pass between the grant and our hearing of it."""


class Accepts:
    """Grants of one receiver.

    Args:
        settings: the queue's keys, its name filled in.
        sdk: makes the lines.
        clock: the calendar.
        counts: of the provider's receivers.
        budget: how many more messages all sessions of the receiver may bring now.
        changed: called when something came or ended.
    """

    def __init__(
        self,
        settings: AzureQueue,
        sdk: Sdk,
        clock: Clock,
        counts: Counter[str],
        budget: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._sdk = sdk
        self._clock = clock
        self._counts = counts
        self._budget = budget
        self._changed = changed
        self._locks = QueueLocks(settings.path, settings.lock, clock)
        self._number = 0
        self._wanted = 0
        self._rows = 0
        self._side_by_side = _FEW
        self._wait = _WAIT
        self._not_before = 0.0
        self._waiting: dict[asyncio.Task[HeldSession], float] = {}
        self._ending: set[asyncio.Task[Any]] = set()
        self.fresh: dict[HeldSession, float] = {}
        """Granted, and nobody was told; and since when."""
        self.failure: QueueError | None = None
        """Why the last accept could not be made; None once the service has answered one."""

    # --- one accept -------------------------------------------------------------------------------

    async def grant(self, session: str | Next) -> HeldSession:
        """Lock a session. Cancelled, the accept ends, and what is granted late is closed at once.

        Raises:
            SessionLocked: another one holds it.
            SessionNotFound: there was no next one.
        """
        line = self._sdk.receiver(self._settings, session=session, prefetch=PREFETCH)
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            handler = await line.open()
            told = handler.session.locked_until_utc
            until = None if told is None else told.timestamp()
            held = HeldSession(
                Link(line, self._sdk.limits.send),
                self._next_number(until),
                self._locks.deadline(max(began, loop.time() - _LATE), until),
                self._locks,
                self._budget,
                self._changed,
            )
        except asyncio.CancelledError:
            await asyncio.wait({self.later(line.withdraw())})
            raise
        except QueueError as error:
            self.later(line.close())
            if isinstance(session, Next) and _none_free(error):
                self.failure = None
                text = f"no session of {self._settings.path} with messages came free"
                raise SessionNotFound(text) from error
            raise
        self.failure = None
        self._counts["sessions_accepted"] += 1
        self._counts["sessions_in_use"] += 1
        held.task.add_done_callback(lambda _: self._over(held))
        return held

    def _over(self, held: HeldSession) -> None:
        self._counts["sessions_in_use"] -= 1
        self._counts["sessions_lost"] += held.lost is not None

    def _next_number(self, until: float | None) -> int:
        """A number that grows for a session whoever holds it: the service's time of the grant.

        In steps of 10 us. All holders read one clock, the service's; here no two are alike.
        """
        granted = self._clock.now() if until is None else until - self._settings.lock
        self._number = max(self._number + 1, int(granted * 1e5))
        return self._number

    async def named(self, session: str | None, wait: float) -> HeldSession:
        """Lock one session, asking until the wait is over; None: the next one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while True:
            left = max(end - loop.time(), 0.0)
            asked = Next(self._bounded(left)) if session is None else session
            try:
                return await self.grant(asked)
            except (SessionLocked, SessionNotFound):
                left = end - loop.time()
                if left <= 0:
                    raise
                if session is not None:
                    await asyncio.sleep(min(_AGAIN, left))

    def _bounded(self, wait: float) -> float:
        """As long as one accept may be kept waiting: the SDK ends it with the time to connect."""
        most = min(_WAIT, self._sdk.limits.connect * 0.8 - _LEAST)
        return max(min(wait, most), _LEAST)

    # --- in the background ------------------------------------------------------------------------

    def want(self, sessions: int, rows: int, wait: float) -> None:
        """So many sessions are wanted, those of `fresh` included.

        Args:
            sessions: how many.
            rows: how many messages of each may come at first.
            wait: seconds that whoever wants them waits.
        """
        self._wanted, self._wait = sessions, self._bounded(wait)
        self._rows = rows = min(rows, PREFETCH)
        for held in self.fresh:
            held.allow(rows)
        self._fill()

    def asking(self, since: float) -> bool:
        """Whether an accept is under way, or a session that was granted has brought nothing yet."""
        return bool(self._waiting) or any(
            not held.ready and granted >= since for held, granted in self.fresh.items()
        )

    def tell(self, held: HeldSession) -> None:
        """The caller is told of this one: it is the receiver's from now on."""
        del self.fresh[held]

    def stop(self) -> None:
        """No session is wanted any more: end the accepts, and give back what was granted."""
        self._wanted = 0
        self._fill()
        for held in list(self.fresh):
            self._give_back(held)

    async def close(self) -> None:
        """The same, and wait for it."""
        self.stop()
        while self._waiting or self._ending:
            await asyncio.wait([*self._waiting, *self._ending])

    async def undo(self, accepting: asyncio.Task[HeldSession]) -> None:
        """What an accept brings that nobody waits for is given back."""
        await asyncio.wait({accepting})
        if not accepting.cancelled() and accepting.exception() is None:
            await accepting.result().leave()

    def later(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Do it in the background; the end waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.debug("letting go of a session: %s", error)

    def _fill(self) -> None:
        """As many accepts as are missing; those that are too many end."""
        loop = asyncio.get_running_loop()
        missing = min(self._wanted - len(self.fresh), self._side_by_side) - len(self._waiting)
        if missing > 0 and loop.time() < self._not_before:
            loop.call_at(self._not_before, self._fill)
            return
        for _ in range(missing):
            task = loop.create_task(self.grant(Next(self._wait)))
            self._waiting[task] = loop.time()
            task.add_done_callback(self._granted)
        for task in list(self._waiting)[len(self._waiting) + min(missing, 0) :]:
            task.cancel()

    def _granted(self, task: asyncio.Task[HeldSession]) -> None:
        del self._waiting[task]
        loop = asyncio.get_running_loop()
        if not task.cancelled():
            error = task.exception()
            self._side_by_side = _FEW if error else min(2 * self._side_by_side, _MANY)
            if error is None:
                self._take(task.result())
            elif not isinstance(error, SessionNotFound):
                self._not_before = loop.time() + _FAILED
                self._fail(error)
        self._fill()
        self._changed()

    def _take(self, held: HeldSession) -> None:
        if len(self.fresh) >= self._wanted:
            self._let_go(held)
            return
        loop = asyncio.get_running_loop()
        self.fresh[held] = loop.time()
        held.allow(self._rows)
        loop.call_later(_KEPT, self._give_back, held)

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, QueueError):
            self.failure = error
            _log.debug("queue %s: an accept failed: %s", self._settings.path, error)
        else:
            _log.error("an accept ended with a defect", exc_info=error)

    def _give_back(self, held: HeldSession) -> None:
        """Nobody was told of it in time, or there is no place for it."""
        if self.fresh.pop(held, None) is None:
            return
        if held.ready:
            self._not_before = asyncio.get_running_loop().time() + _PAUSE
        self._let_go(held)
        self._fill()

    def _let_go(self, held: HeldSession) -> None:
        self.later(held.leave())


def _none_free(error: QueueError) -> bool:
    """Whether the service said so; a connection that does not come about is something else."""
    below: BaseException | None = error if isinstance(error, Timeout) else None
    while below is not None:
        if condition_of(below) == "com.microsoft:timeout":
            return True
        below = below.__cause__
    return False
