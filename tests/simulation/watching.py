"""The supervisor over handlers whose calls don't end: the real one, looking as it does in a run.

Here it is not the one that hears of deaths: who dies is replaced by the world. So it looks only
while there may be something that has to be killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pipeline.providers.port import Depth
from pipeline.slots import SlotTable
from pipeline.stages.calls import ProcessDied, RunRow
from pipeline.stages.drain import Limits
from pipeline.stages.supervisor import Parts, Said, Supervisor
from tests.simulation.plan import GRACE, Plan
from tests.simulation.processes import NOBODY, Process, Slot

_LOOK = 1.0


class Watched(Protocol):
    """The cluster."""

    plan: Plan
    table: SlotTable
    routers: list[Slot]
    handlers: list[Slot]

    def end_late(self, process: Process) -> None:
        """Kill a process for what it runs, and replace it."""


class WatchOver:
    """Looks after handlers while one of them is in a call that may never end.

    Args:
        cluster: whose handlers.
    """

    def __init__(self, cluster: Watched) -> None:
        self._plan = cluster.plan
        places = [_Place(cluster, slot) for slot in cluster.handlers]
        parts = Parts("", True, (), (), places)
        self._supervisor = Supervisor({"": parts}, _no_depth, Limits())
        self._until = 0.0
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """A call has begun that may never end."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + 2 * (self._plan.timeout + GRACE)
        if self._looking is None:
            self._looking = loop.create_task(self._look(), context=NOBODY.copy())

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < self._until:
            await self._supervisor.look()
            await asyncio.sleep(_LOOK)
        self._looking = None


class _Place:
    """The place of a handler, as the supervisor watches it (see `actors.crew`)."""

    def __init__(self, cluster: Watched, slot: Slot) -> None:
        self._cluster = cluster
        self._slot = slot
        self._asked: Process | None = None
        self.name = slot.name

    async def stats(self) -> Said:
        """What it has run for too long; nothing from one that is dead or stands still."""
        self._asked = process = self._slot.process
        if process is None or not self._slot.standing or process.still is not None:
            return Said()
        return Said(overdue=process.core.overdue())

    async def blame(self, rows: Sequence[RunRow]) -> None:
        """Tell its router which rows it is ended for."""
        number = self._slot.number
        router = self._cluster.routers[self._cluster.table.routers[number]]
        if router.process is None or not router.standing or router.process.still is not None:
            raise ProcessDied(router.name)
        router.process.now(router.process.core.overdue, number, rows)

    async def replace(self) -> None:
        """End who was asked, unless it died meanwhile; wait for its follower."""
        process = self._asked
        if process is not None and process is self._slot.process and self._slot.standing:
            self._cluster.end_late(process)
        while not self._slot.standing:  # noqa: ASYNC110 - whoever replaces it tells nobody
            await asyncio.sleep(0.1)

    async def drain(self) -> None:
        """Never called: `ending` drains."""

    async def stop_running(self) -> None:
        """Never called."""

    async def close(self) -> None:
        """Never called."""

    async def kill(self) -> None:
        """Never called."""


async def _no_depth(_: str) -> Depth:
    return Depth()
