"""The shell of `pipeline.stages.router`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from actors.calls import RemoteRuns
from actors.handler import HandlerActor
from actors.process import Process, process, tune
from pipeline.batch import MessageBatch
from pipeline.outcomes import Part
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, RunCalls, RunRow
from pipeline.stages.router import RouterCore, RouterSettings
from pipeline.stages.supervisor import Said

if TYPE_CHECKING:
    from ray.actor import ActorProxy


class RouterActor:
    """Sends each session's rows to the handler that owns it."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._core: RouterCore | None = None
        self._error: str | None = None

    @ray.method
    async def start(
        self, handlers: dict[int, ActorProxy[HandlerActor]], table: SlotTable
    ) -> Process:
        """Take the handlers."""
        if self._core is None:
            calls: dict[int, RunCalls] = {
                number: RemoteRuns(handler) for number, handler in handlers.items()
            }
            tune()
            self._core = RouterCore(self._settings, calls, table, self._fatal)
            self._core.greet()
        return process()

    @ray.method
    async def join(self, number: int, handler: ActorProxy[HandlerActor]) -> None:
        """A new handler took a dead one's place."""
        await self._started().join(number, RemoteRuns(handler))

    @ray.method
    async def overdue(self, number: int, rows: Sequence[RunRow]) -> None:
        """A handler is about to be ended for these rows."""
        self._started().overdue(number, rows)

    @ray.method
    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Rows from a receiver; the first outcomes back."""
        return await self._started().run(header, batch)

    @ray.method
    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """More outcomes of a call."""
        return await self._started().more(caller, epoch, number, part)

    @ray.method
    async def drain(self) -> None:
        """Drain 2."""
        await self._started().drain()

    @ray.method(concurrency_group="control")
    async def stats(self) -> Said:
        """Counters, and why it can't go on, if it can't."""
        return Said(self._core.stats() if self._core is not None else {}, self._error)

    def _started(self) -> RouterCore:
        if self._core is None:
            raise RuntimeError("the router was not started")
        return self._core

    def _fatal(self, error: BaseException) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"
