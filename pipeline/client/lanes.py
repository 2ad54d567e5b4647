"""The receiving lanes of one queue that a client keeps: a small pool, each used by one task a time.

The port lets one task a time receive on a lane, so tasks that receive at once have one each. What
was received is settled on the lane it came by, whoever receives on that lane then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pipeline.client.leases import Leases, Possession
from pipeline.message import Delivery
from pipeline.names import QueueName
from pipeline.providers.port import Capabilities, Received, Receiver

LANES = 8
"""Receives of one queue that are under way at once; further ones wait for their turn."""


@dataclass(slots=True, eq=False)
class Lane:
    """A receiver, what its queue can do, and the sessions it holds.

    Args:
        queue: its queue.
        receiver: the provider's.
        capabilities: of its queue.
    """

    queue: QueueName
    receiver: Receiver
    capabilities: Capabilities
    _held: dict[int, Possession] = field(default_factory=dict)

    def hold(self, possession: Possession) -> None:
        """A session was locked by this lane."""
        self._held[possession.holding.number] = possession

    def take_in(self, leases: Leases[Lane], received: Received) -> list[Delivery]:
        """Take in hand what a receive brought; nothing is awaited, so nothing can get lost between.

        Args:
            leases: the client's ledger.
            received: what came.
        """
        for holding in received.opened:
            self.hold(Possession(holding, kept=False, deadline=holding.deadline))
        held, until = self._held, received.deadline
        rows = zip(received.batch.values("holding"), received.receipts, strict=True)
        handles = [
            leases.grant(receipt, self, until, held.get(holding)) for holding, receipt in rows
        ]
        self._held = {number: one for number, one in held.items() if not leases.lost_session(one)}
        return [
            Delivery(received.batch, row, self.queue, receipt=handle)
            for row, handle in enumerate(handles)
        ]


class Turns:
    """So many may at once; further ones wait in the order they came.

    Not a semaphore under `asyncio.timeout`: that ends a wait by cancelling whoever waits, and here
    it is no error that no turn comes.

    Args:
        free: so many.
    """

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: dict[asyncio.Future[bool], None] = {}

    @asynccontextmanager
    async def turn(self, wait: float | None = None) -> AsyncIterator[bool]:
        """Wait for a turn, up to so many seconds if given; False when none came."""
        mine = await self._take(wait)
        try:
            yield mine
        finally:
            if mine:
                self._give()

    async def _take(self, wait: float | None) -> bool:
        if self._free:
            self._free -= 1
            return True
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[bool] = loop.create_future()
        self._waiting[mine] = None
        timer = None if wait is None else loop.call_later(wait, _end, mine)
        try:
            return await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled() and mine.result():
                self._give()
            raise
        finally:
            self._waiting.pop(mine, None)
            if timer is not None:
                timer.cancel()

    def _give(self) -> None:
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(True)
                return
        self._free += 1


def _end(waiting: asyncio.Future[bool]) -> None:
    if not waiting.done():
        waiting.set_result(False)


@dataclass(slots=True)
class Lanes:
    """The lanes of one queue, or of its dead letters; made when first needed.

    Args:
        make: makes another lane.
    """

    make: Callable[[], Awaitable[Lane]]
    _all: list[Lane] = field(default_factory=list)
    _idle: list[Lane] = field(default_factory=list)
    _turns: Turns = field(default_factory=lambda: Turns(LANES))

    @asynccontextmanager
    async def lend(self, wait: float) -> AsyncIterator[Lane | None]:
        """Lend a lane to receive on; None when all were receiving for longer than the wait.

        Args:
            wait: seconds to wait for one.
        """
        async with self._turns.turn(wait) as mine:
            if not mine:
                yield None
                return
            # The one used last, so that a client with little to do keeps to one connection.
            lane = self._idle.pop() if self._idle else await self._another()
            try:
                yield lane
            finally:
                self._idle.append(lane)

    async def beside(self) -> Lane:
        """A lane for what may run beside a receive: peeking and asking for deferred messages."""
        if not self._all:
            self._idle.append(await self._another())
        return self._all[0]

    async def _another(self) -> Lane:
        lane = await self.make()
        self._all.append(lane)
        return lane
