"""The end of a run: a drain, and the look for what must not be left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Protocol

from pipeline.providers.memory import MemoryBroker
from tests.simulation.journal import Journal
from tests.simulation.processes import Process, ProcessLoop, Slot

QUEUE = "queue"


class Cluster(Protocol):
    """What is drained."""

    journal: Journal
    broker: MemoryBroker
    receivers: list[Slot]
    routers: list[Slot]
    handlers: list[Slot]

    async def within(self, process: Process, work: Awaitable[Any]) -> Any:
        """Run a coroutine in a process, and wait for it."""


async def drained(cluster: Cluster) -> None:
    """End as a drain does, and see that nothing is left."""
    receivers = [slot.here for slot in cluster.receivers]
    routers = [slot.here for slot in cluster.routers]
    handlers = [slot.here for slot in cluster.handlers]
    for process in receivers:
        await cluster.within(process, process.core.stop_receiving())
    for process in (*routers, *handlers):
        await cluster.within(process, process.core.drain())
    for process in receivers:
        await _receiver_ends(cluster, process)
    for process in (*routers, *handlers):
        await cluster.within(process, process.core.close())
        _none(cluster, process, "calls with rows without an outcome", process.core._reception.open)
        for what in ("waiting", "running", "unsent"):
            _none(cluster, process, what, process.core.stats().get(what, 0))
    await _broker_is_empty(cluster)
    _no_task_failed(cluster, {process.name for process in (*receivers, *routers, *handlers)})


async def _receiver_ends(cluster: Cluster, process: Process) -> None:
    core = process.core
    _none(cluster, process, "rows in hand", core.stats()["in_hand"])
    left = await cluster.within(process, core.close())
    _none(cluster, process, "rows left to lock expiry", left)
    _none(cluster, process, "messages of credit", core._credit.held_messages)
    _none(cluster, process, "bytes of credit", core._credit.held_bytes)


def _none(cluster: Cluster, process: Process, what: str, count: int) -> None:
    if count:
        cluster.journal.broken("nothing is left", f"{process.name} has {count} {what}")


async def _broker_is_empty(cluster: Cluster) -> None:
    counters = await cluster.broker.counters(QUEUE)
    depth = await cluster.broker.depth(QUEUE)
    if counters.completed + counters.dead_lettered != counters.sent or depth.in_hand:
        cluster.journal.broken("every message ends", f"the broker has {counters} and {depth}")


def _no_task_failed(cluster: Cluster, alive: set[str]) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProcessLoop)
    for task in loop.tasks:
        if task.get_name() not in alive or not task.done() or task.cancelled():
            continue
        unheard: bool = task._log_traceback  # type: ignore[attr-defined]
        if unheard:
            cluster.journal.broken(
                "no defects", f"a task of {task.get_name()} ended with {task.exception()!r}"
            )
