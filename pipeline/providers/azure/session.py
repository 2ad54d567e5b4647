"""One held session: the task that owns its link, what came of it, and what is to be done with it.

The task makes one call at a time: what is to be settled or asked first, then what brings messages.
A message of a session is never given back alone, because those behind it would overtake it: the
session is, by closing its link, and the service puts all of it back in order, its counts unchanged.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from azure.servicebus import ServiceBusReceivedMessage

from pipeline.errors import (
    MessageLockLost,
    MessageNotFound,
    QueueError,
    SessionLockLost,
    SessionNotFound,
)
from pipeline.providers.azure import settle
from pipeline.providers.azure.errands import Errands, Kind
from pipeline.providers.azure.link import Link
from pipeline.providers.azure.locks import QueueLocks
from pipeline.providers.azure.wire import sequence_of, size_of
from pipeline.providers.port import UNBOUNDED, DeadLetter, Failures

T = TypeVar("T")
_log = logging.getLogger("queue_runtime.servicebus")

PREFETCH = 50
"""Messages a link may send ahead of what was asked for. With none, the SDK gives back what comes
between two receives, and what comes next is of a later place."""
_IDLE, _BUSY, _MORE = 0.05, 0.02, 0.01
"""Seconds that a receive waits for a message: with nothing in hand, with something (it is settled
soon, and waits for the end of this), and for those behind one that just came."""
_TICK = 5.0
"""Seconds until the link is looked after while nothing is wanted of it."""


@dataclass(slots=True, eq=False)
class SessionReceipt(settle.Receipt):
    """One message in hand; its lock is its session's.

    Args:
        held: its session.
    """

    held: HeldSession = field(kw_only=True)


class HeldSession:
    """A session of one receiver, from its grant to its end.

    Args:
        link: its link.
        number: the holding's.
        deadline: `loop.time()` at which its lock ends.
        locks: tells how long a renewal is good for.
        budget: how many more messages all sessions of the receiver may bring now.
        changed: called when messages came, and at the end.
    """

    def __init__(
        self,
        link: Link,
        number: int,
        deadline: float,
        locks: QueueLocks,
        budget: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        self.number = number
        self.session = link.session
        self.deadline = deadline
        self.rows: deque[ServiceBusReceivedMessage] = deque()
        self.lost: QueueError | None = None
        self._cause: QueueError | None = None
        self._link = link
        self._locks = locks
        self._budget = budget
        self._changed = changed
        self._hand: set[SessionReceipt] = set()
        self._wake = asyncio.Event()
        self._errands: Errands[SessionReceipt] = Errands(self._settled, self._wake.set)
        self._room = 0
        self._top = 0
        self._flowing = False
        self._stopped = False
        self._overtaken = False
        self._leaving = False
        self.task = asyncio.ensure_future(self._run())
        """Ends with it."""

    # --- what the receiver asks -------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether it is held no more, or not for long."""
        return self._leaving or self.lost is not None or self.task.done()

    def allow(self, rows: int) -> None:
        """So many of its messages may come."""
        self._room = rows
        if self._wanted() > 0:
            self._wake.set()

    @property
    def ready(self) -> int:
        """How many messages can be taken."""
        return 0 if self.over or self._stopped else len(self.rows)

    def take(self, most: int, size: int) -> tuple[list[ServiceBusReceivedMessage], int]:
        """Messages that have come, in order, and how many bytes of `size` are left.

        Args:
            most: how many.
            size: bytes of bodies at which it stops.
        """
        taken: list[ServiceBusReceivedMessage] = []
        for _ in range(min(most, self.ready)):
            if size <= 0:
                break
            taken.append(self.rows.popleft())
            if size < UNBOUNDED:
                size -= size_of(taken[-1])
        self._room -= len(taken)
        return taken, size

    def hand_out(self, messages: Sequence[Any]) -> list[SessionReceipt]:
        """Their receipts: they are in hand from now on."""
        receipts = [
            SessionReceipt(
                message.lock_token,
                None,
                None,
                math.inf,
                message if self._link.keeps_messages else None,
                held=self,
            )
            for message in messages
        ]
        self._hand.update(receipts)
        return receipts

    async def settle(
        self, status: str, receipts: Sequence[SessionReceipt], reasons: Sequence[DeadLetter] = ()
    ) -> Failures:
        """Settle messages; what gathers while another request is under way goes with the next."""
        failures = self._refused(receipts)
        groups: dict[DeadLetter | None, list[int]] = {}
        for at in range(len(receipts)):
            if at not in failures:
                groups.setdefault(reasons[at] if reasons else None, []).append(at)
        if status == settle.ABANDONED and groups:
            self._stopped = True  # they come again, below those that may be on their way
        parts = [
            (places, self._errands.settle((status, why), [receipts[at] for at in places]))
            for why, places in groups.items()
        ]
        for places, answer in parts:
            for at, error in (await answer).items():
                failures[places[at]] = error
        return failures

    def put_back(self, receipts: Sequence[SessionReceipt]) -> Failures:
        """Nobody handled them: they come again when the session is given back, in order."""
        failures = self._refused(receipts)
        for at, receipt in enumerate(receipts):
            if at not in failures:
                self._end(receipt)
                self._stopped = True
        self._wake.set()
        return failures

    async def deferred(self, sequences: Sequence[int]) -> list[ServiceBusReceivedMessage]:
        """Messages that were set aside; all of them or `MessageNotFound`."""
        return await self._ask(lambda: self._link.deferred(sequences))

    async def renew(self) -> float:
        """Prolong the lock; returns the new deadline."""

        async def call() -> float:
            now = asyncio.get_running_loop().time()
            self.deadline = self._locks.deadline(now, await self._link.renew())
            return self.deadline

        return await self._ask(call)

    async def state(self) -> bytes | None:
        """The bytes kept with the session."""
        return await self._ask(self._link.state)

    async def set_state(self, state: bytes | None) -> None:
        """Keep bytes with the session."""
        await self._ask(lambda: self._link.set_state(state))

    async def leave(self) -> None:
        """Give the session back, once what was asked for is done: all that is in hand comes again.

        Raises:
            SessionLockLost: it was lost before.
        """
        self._leaving = True
        self._wake.set()
        await asyncio.wait({self.task})
        if self.lost is not None:
            raise self.lost

    # --- inside -----------------------------------------------------------------------------------

    def _refused(self, receipts: Sequence[SessionReceipt]) -> Failures:
        """Receipts that can't be settled any more (SPEC P14)."""
        failures: Failures = {}
        for at, receipt in enumerate(receipts):
            if receipt.ended:
                failures[at] = MessageNotFound("the message was settled already")
            elif self.lost is not None:
                failures[at] = self.lost
            elif self.over:
                text = f"session {self.session!r} was given back, and the message with it"
                failures[at] = MessageNotFound(text)
        return failures

    def _gone(self) -> QueueError:
        return SessionNotFound(f"session {self.session!r} was given back: accept it anew")

    async def _ask(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        if self.over:
            raise self.lost or self._gone()
        return await self._errands.ask(call)

    def _end(self, receipt: SessionReceipt) -> None:
        receipt.ended = True
        self._hand.discard(receipt)

    @property
    def waiting(self) -> int:
        """How many messages have come that may be taken now."""
        return min(self.ready, max(self._room, 0))

    def _wanted(self) -> int:
        """How many more messages may come now."""
        if self._stopped or self._leaving:
            return 0
        return min(self._room - len(self.rows), self._budget())

    # --- the task ---------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self._work()
        except QueueError as error:
            self._lose(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the session is given back
            _log.exception("the task of session %s died", self.session)
            self._lose(error)
        finally:
            self._leaving = True
            self.rows.clear()
            await self._link.close()
            self._errands.refuse_all(self.lost or self._gone())
            self._changed()

    def _lose(self, error: Exception) -> None:
        text = f"session {self.session!r} was lost, what was not settled comes again: {error}"
        self.lost = SessionLockLost(text)
        self.lost.__cause__ = error
        _log.warning("%s", text)
        self._errands.refuse_all(self.lost)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() >= self.deadline:
                await self._expire()
            if self._errands:
                await self._unless_lost(self._errands.do_next())
            elif self._leaving:
                return
            elif self._overtaken and not self._hand:
                raise SessionLockLost("a message came that belongs before those that came")
            elif (most := self._wanted()) > 0:
                await self._fetch(most)
            else:
                await self._rest()

    async def _unless_lost(self, call: Coroutine[Any, Any, object]) -> None:
        """Make a call: its refusal is an answer as any other, unless the link went with it."""
        try:
            await call
        except QueueError:
            if self._link.lost:
                raise
        if self._link.lost:
            raise self._cause or SessionLockLost("its connection is gone")

    async def _fetch(self, most: int) -> None:
        """What is there, or comes soon; those behind the first one come with it."""
        messages: list[ServiceBusReceivedMessage] = []
        if not self._flowing:
            messages = await self._link.receive(1, _BUSY if self._hand else _IDLE)
        if (self._flowing or messages) and most > len(messages):
            messages += await self._link.receive(most - len(messages), _MORE)
        self._flowing = bool(messages)
        await self._set_aside()
        self._take_in(messages)

    async def _set_aside(self) -> None:
        """What can't be decoded goes to the dead letters, and what is behind it waits for that.

        When it could not be, the session is given back, and it is tried in the next holding.
        """
        while self._link.unreadable:
            one = self._link.unreadable.pop(0)
            failures = await self._link.settle(settle.SUSPENDED, [one.receipt], one.reason)
            one.tell(f"session {self.session}", failures)
            if failures:
                raise failures[0]

    def _take_in(self, messages: Sequence[ServiceBusReceivedMessage]) -> None:
        for message in messages:
            number = sequence_of(message)
            if number <= self._top:
                # It is back from somewhere. What is in hand ends as it will; then all comes anew.
                self._stopped = self._overtaken = True
                text = "session %s: sequence %d came behind %d: the session is given back"
                _log.warning(text, self.session, number, self._top)
                return
            self._top = number
            self.rows.append(message)
        if messages:
            self._changed()

    async def _rest(self) -> None:
        """Wait until something is to be done; see meanwhile whether the link is still there."""
        self._wake.clear()
        loop = asyncio.get_running_loop()
        tick = loop.time() + _TICK
        try:
            async with asyncio.timeout_at(min(tick, self.deadline)):
                await self._wake.wait()
        except TimeoutError:
            if tick <= self.deadline:
                # A receive would be answered from what the SDK has. This is the smallest request;
                # what it does to the lock does not count: whoever holds the session renews it.
                await self._unless_lost(self._link.renew())

    async def _expire(self) -> None:
        """Nobody renewed the lock. The service counts that as a failure, so it is told of one.

        It would not notice by itself: a receiver with credit keeps its session.
        """
        left = list(self._hand)
        for at in range(0, len(left), settle.MOST):
            some = left[at : at + settle.MOST]
            await self._link.settle(settle.ABANDONED, some)
        raise SessionLockLost("its lock ended: renew it in time")

    # --- settling ---------------------------------------------------------------------------------

    async def _settled(
        self, kind: Kind, receipts: Sequence[SessionReceipt]
    ) -> dict[SessionReceipt, QueueError]:
        """Settle messages; returns those that could not be, and why."""
        status, why = kind
        errors: dict[SessionReceipt, QueueError] = {
            one: MessageNotFound("the message was settled already") for one in receipts if one.ended
        }
        going = [one for one in dict.fromkeys(receipts) if not one.ended]
        for at in range(0, len(going), settle.MOST):
            some = going[at : at + settle.MOST]
            failures = await self._link.settle(status, some, why)
            for place, receipt in enumerate(some):
                error = failures.get(place)
                if error is None:
                    self._end(receipt)
                    continue
                errors[receipt] = error
                self._cause = self._cause or (error if self._link.lost else None)
                if isinstance(error, MessageLockLost | MessageNotFound):
                    self._hand.discard(receipt)  # it is not ours any more
        return errors
