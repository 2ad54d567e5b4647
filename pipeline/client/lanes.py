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


@asynccontextmanager
async def turn(turns: asyncio.Semaphore, wait: float | None) -> AsyncIterator[bool]:
    """Wait for a turn, up to so many seconds if given; False when none came."""
    try:
        async with asyncio.timeout(wait):
            await turns.acquire()
    except TimeoutError:
        yield False
        return
    try:
        yield True
    finally:
        turns.release()


@dataclass(slots=True)
class Lanes:
    """The lanes of one queue, or of its dead letters; made when first needed.

    Args:
        make: makes another lane.
    """

    make: Callable[[], Awaitable[Lane]]
    _all: list[Lane] = field(default_factory=list)
    _idle: list[Lane] = field(default_factory=list)
    _turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(LANES))

    @asynccontextmanager
    async def lend(self, wait: float) -> AsyncIterator[Lane | None]:
        """Lend a lane to receive on; None when all were receiving for longer than the wait.

        Args:
            wait: seconds to wait for one.
        """
        async with turn(self._turns, wait) as mine:
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
