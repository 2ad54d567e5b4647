"""Settling and renewing over `$management`, by lock token: many messages in one request.

Where the SDK has not the private methods for that (`Ways`), the public ones do it, one message
after another. A request that is refused because the lock of one of its messages is gone is made
again in halves, so that the others are not lost with it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from uuid import UUID

from pipeline.errors import MessageLockLost, MessageNotFound, QueueError
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Ways
from pipeline.providers.port import DeadLetter, Failures

COMPLETED = "completed"
ABANDONED = "abandoned"
DEFERRED = "defered"
"""The protocol's spelling."""
SUSPENDED = "suspended"
"""Dead-lettered."""
RENEWED = "renewed"
"""No status of the protocol: the lock is to last anew."""
MOST = 500
"""Lock tokens in one request."""
_LONGEST = 4_096
"""Characters that the service keeps of a reason and of a description."""
_ENDS = b"expirations"
"""Where the answer to a renewal has the ends of the locks, in milliseconds since 1970."""
_PUBLIC = {
    COMPLETED: "complete_message",
    ABANDONED: "abandon_message",
    DEFERRED: "defer_message",
    SUSPENDED: "dead_letter_message",
    RENEWED: "renew_message_lock",
}


@dataclass(slots=True, eq=False)
class Receipt:
    """One message in hand: what names it to the service, and no more of it.

    Args:
        token: its lock's.
        delivery: its number on the link it came on.
        link: that link: the SDK's object; None: it was asked for by its sequence.
        deadline: `loop.time()` at which its lock ends.
        message: the SDK's, where its public methods are needed to settle it.
        ended: it was settled.
        until: when its lock ends by what the service said when it was renewed, in seconds since
            1970.
    """

    token: UUID
    delivery: int | None
    link: Any
    deadline: float
    message: Any = None
    ended: bool = False
    until: float | None = None


def receipt_of(message: Any, link: Any, deadline: float, ways: Ways) -> Receipt:
    """The receipt of a message that came on a link; its body is not kept with it.

    Args:
        message: the SDK's.
        link: the SDK's receiver it came on; None: it was asked for by its sequence.
        deadline: `loop.time()` at which its lock ends.
        ways: what that receiver has.
    """
    keep = not (ways.settle_many and ways.renew_many)
    delivery = getattr(message, "_delivery_id", None)
    return Receipt(message.lock_token, delivery, link, deadline, message if keep else None)


_Call: TypeAlias = Callable[[Any], Awaitable[Any]]


@dataclass(slots=True)
class _Order:
    """Receipts that someone waits for."""

    what: tuple[str, DeadLetter | None]
    receipts: Sequence[Receipt]
    failures: Failures
    done: asyncio.Future[None]


class Desk:
    """Settles on one line, gathering what comes while a request is under way.

    Args:
        line: a receiver of the entity; of a session its own.
        seconds: for one request.
    """

    def __init__(self, line: Line, seconds: float) -> None:
        self._line = line
        self._seconds = seconds
        self._orders: deque[_Order] = deque()
        self._working: asyncio.Task[None] | None = None

    async def settle(
        self, status: str, receipts: Sequence[Receipt], reason: DeadLetter | None = None
    ) -> Failures:
        """Settle or renew; a failure for each that could not be.

        Args:
            status: one of this module's.
            receipts: any number of them.
            reason: of a dead-lettering.
        """
        if not receipts:
            return {}
        loop = asyncio.get_running_loop()
        order = _Order((status, reason), receipts, {}, loop.create_future())
        self._orders.append(order)
        if self._working is None or self._working.done():
            self._working = loop.create_task(self._work())
        # Cancelled or not, what was asked for is done: whether it was could not be told else.
        await asyncio.shield(order.done)
        return order.failures

    async def end(self) -> None:
        """Wait until all that was asked for is done."""
        if self._working is not None:
            await asyncio.wait([self._working])

    async def _work(self) -> None:
        while self._orders:
            orders = [self._orders.popleft()]
            taken = set(orders[0].receipts)
            # One that two ask for is asked for twice: the second is told that it was too late.
            while (
                self._orders
                and self._orders[0].what == orders[0].what
                and taken.isdisjoint(self._orders[0].receipts)
            ):
                orders.append(self._orders.popleft())
                taken.update(orders[-1].receipts)
            try:
                await self._carry_out(orders)
            finally:
                for order in orders:
                    if not order.done.done():
                        order.done.set_result(None)

    async def _carry_out(self, orders: Sequence[_Order]) -> None:
        """Orders of one kind, in as few requests as they take."""
        going: list[tuple[_Order, int]] = []
        now = asyncio.get_running_loop().time()
        for order in orders:
            order.failures |= refused(order.receipts, now)
            going += [(order, at) for at in range(len(order.receipts)) if at not in order.failures]
        status, reason = orders[0].what
        for start in range(0, len(going), MOST):
            part = going[start : start + MOST]
            receipts = [order.receipts[at] for order, at in part]
            failures = await settle(self._line, status, receipts, self._seconds, reason)
            for place, (order, at) in enumerate(part):
                if place in failures:
                    order.failures[at] = failures[place]
                elif status != RENEWED:
                    order.receipts[at].ended = True


def refused(receipts: Sequence[Receipt], now: float) -> Failures:
    """Receipts that can't be settled any more (SPEC P14)."""
    failures: Failures = {}
    for at, receipt in enumerate(receipts):
        if receipt.ended:
            failures[at] = MessageNotFound("the message was settled already")
        elif receipt.deadline <= now:
            failures[at] = MessageLockLost("the message's lock ended before: it comes again")
    return failures


async def settle(
    line: Line,
    status: str,
    receipts: Sequence[Receipt],
    seconds: float,
    reason: DeadLetter | None = None,
) -> Failures:
    """Settle or renew up to `MOST` in one request where the SDK can, else one after another."""
    try:
        many = await line.do(status, _batched(status, receipts, reason), seconds)
    except MessageLockLost as error:
        if len(receipts) == 1:
            return {0: error}
        half = len(receipts) // 2
        failures = await settle(line, status, receipts[:half], seconds, reason)
        behind = await settle(line, status, receipts[half:], seconds, reason)
        return failures | {half + at: each for at, each in behind.items()}
    except QueueError as error:
        return dict.fromkeys(range(len(receipts)), error)
    return {} if many else await _one_by_one(line, status, receipts, seconds, reason)


def _batched(status: str, receipts: Sequence[Receipt], reason: DeadLetter | None) -> _Call:
    """The call for all; it tells whether this receiver has one."""
    tokens = [receipt.token for receipt in receipts]

    async def call(handler: Any) -> bool:
        ways = Ways.of(handler)
        if status == RENEWED:
            if ways.renew_many:
                told = await handler._renew_locks(*tokens)  # noqa: SLF001 - checked
                for receipt, end in zip(receipts, told[_ENDS], strict=False):
                    receipt.until = end / 1000
            return ways.renew_many
        if ways.settle_many:
            details = None if reason is None else _details(reason)
            await handler._settle_message_via_mgmt_link(  # noqa: SLF001 - checked
                status, tokens, dead_letter_details=details
            )
        return ways.settle_many

    return call


def _details(reason: DeadLetter) -> dict[str, str]:
    return {
        "deadletter-reason": reason.reason[:_LONGEST],
        "deadletter-description": reason.description[:_LONGEST],
    }


async def _one_by_one(
    line: Line,
    status: str,
    receipts: Sequence[Receipt],
    seconds: float,
    reason: DeadLetter | None,
) -> Failures:
    options = {}
    if status == SUSPENDED and reason is not None:
        options = {
            "reason": reason.reason[:_LONGEST],
            "error_description": reason.description[:_LONGEST],
        }
    failures: Failures = {}
    for at, receipt in enumerate(receipts):

        async def call(handler: Any, receipt: Receipt = receipt) -> None:
            told = await getattr(handler, _PUBLIC[status])(receipt.message, **options)
            if status == RENEWED:
                receipt.until = told.timestamp()

        try:
            await line.do(status, call, seconds)
        except QueueError as error:
            failures[at] = error
    return failures
