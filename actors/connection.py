"""The shell of `pipeline.stages.connection`, and the way to it from other actors and processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray

from actors.calls import answer
from actors.process import Process, process
from pipeline.breaker import BreakerPolicy, Direction, Ticket, Told
from pipeline.clock import SystemClock
from pipeline.config.models import Log
from pipeline.providers.gate import ConnectionCalls, Known
from pipeline.stages.calls import NoAnswer, ProcessDied
from pipeline.stages.connection import ConnectionCore
from pipeline.stages.supervisor import Said
from pipeline.telemetry import log


class ConnectionActor:
    """Holds the circuit breakers of one connection. Its data is in the default group alone."""

    def __init__(self, name: str, policy: BreakerPolicy, epoch: int, logs: Log) -> None:
        self._logs = logs
        self._core = ConnectionCore(name, policy, epoch, SystemClock())

    @ray.method
    async def start(self) -> Process:
        """Say where it is."""
        log.configure_actor(self._logs.format, self._logs.level)
        return process()

    @ray.method
    async def watch(self, user: str, known: Known) -> Known:
        """See `ConnectionCalls`, as for every method here; pending until something changes."""
        return await self._core.watch(user, known)

    @ray.method
    async def tell(self, user: str, told: Sequence[Told]) -> Known:
        """Hear how calls ended."""
        return await self._core.tell(user, told)

    @ray.method
    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        """Give the probe, if it is to be had."""
        return await self._core.take(user, direction)

    @ray.method(concurrency_group="control")
    async def stats(self) -> Said:
        """How the breakers are."""
        return self._core.stats()


class RemoteConnection(ConnectionCalls):
    """A `ConnectionActor` as `ConnectionCalls`, by its name: whoever has that name now.

    It pickles, and so travels to every actor that needs it; a replacement is found by itself.

    Args:
        name: the actor's.
        namespace: the run's.
    """

    def __init__(self, name: str, namespace: str) -> None:
        self._name = name
        self._namespace = namespace
        self._actor: Any = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteConnection, (self._name, self._namespace)

    async def watch(self, user: str, known: Known) -> Known:
        """See `ConnectionCalls`, as for every method here."""
        answered: Known = await self._call("watch", user, known)
        return answered

    async def tell(self, user: str, told: Sequence[Told]) -> Known:
        """Hear how calls ended."""
        answered: Known = await self._call("tell", user, told)
        return answered

    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        """Give the probe, if it is to be had."""
        answered: tuple[Ticket | None, Known] = await self._call("take", user, direction)
        return answered

    async def _call(self, method: str, *given: Any) -> Any:
        if self._actor is None:
            try:
                self._actor = ray.get_actor(self._name, namespace=self._namespace)
            except ValueError as error:
                raise NoAnswer(f"there is no actor {self._name} now") from error
        try:
            return await answer(getattr(self._actor, method).remote(*given))
        except ProcessDied:
            self._actor = None
            raise
