"""The crew: the actors of one pipeline, made, joined to one another, and replaced when they die.

It owns who is there now. When somebody has to be replaced is the supervisor's decision; how an
actor is made is the topology's.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from actors.calls import answer, end
from pipeline.errors import QueueError
from pipeline.slots import SlotTable
from pipeline.stages.calls import ProcessDied, RunRow
from pipeline.stages.supervisor import Parts, Said

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ray.actor import ActorProxy

    from actors.broker import RemoteBroker
    from actors.handler import HandlerActor
    from actors.process import Process
    from actors.receiver import ReceiverActor
    from actors.router import RouterActor
    from actors.topology import Topology


class Crew:
    """The actors of one pipeline.

    Args:
        topology: makes them.
        pipeline: the pipeline's name.
        brokers: the brokers of the run's memory connections.
    """

    def __init__(
        self, topology: Topology, pipeline: str, brokers: Mapping[str, RemoteBroker]
    ) -> None:
        self.settings = topology.config.pipelines[pipeline]
        self.table = SlotTable.spread(self.settings.handlers, self.settings.routers)
        self.joining = asyncio.Lock()
        """Held while somebody new is made known to its neighbours."""
        self.handlers = [
            _Handler(self, number, partial(topology.handler, pipeline, number, brokers))
            for number in range(self.settings.handlers)
        ]
        self.routers = [
            _Router(self, number, partial(topology.router, pipeline, number))
            for number in range(self.settings.routers)
        ]
        self.receivers = [
            _Receiver(self, number, partial(topology.receiver, pipeline, number, brokers))
            for number in range(self.settings.receivers)
        ]

    async def start(self) -> None:
        """Make and start all, from the handlers up to the receivers.

        Raises:
            ConfigurationError: a handler can't be imported.
            Timeout: an actor did not start; the message names it and what it asks for.
        """
        for places in (self.handlers, self.routers, self.receivers):
            for place in places:
                place.make()
        for places in (self.handlers, self.routers, self.receivers):
            await asyncio.gather(*(place.begin() for place in places))

    def parts(self, *, exact_depth: bool) -> Parts:
        """The places as the supervisor watches them."""
        return Parts(self.settings.queue, exact_depth, self.receivers, self.routers, self.handlers)

    @property
    def actors(self) -> dict[str, list[Any]]:
        """The actors that are there now, by kind."""
        return {
            kind: [place.actor for place in places]
            for kind, places in (
                ("receiver", self.receivers),
                ("router", self.routers),
                ("handlers", self.handlers),
            )
        }

    @property
    def processes(self) -> dict[str, Process]:
        """Where each actor runs, by its name."""
        places = (*self.receivers, *self.routers, *self.handlers)
        return {place.name: place.process for place in places if place.process is not None}

    def end(self) -> None:
        """End every actor now."""
        for place in (*self.receivers, *self.routers, *self.handlers):
            place.end()


class SharedActors:
    """The actors of a run that all its pipelines share: connections, and the crypto pool.

    Args:
        topology: makes them.
        pool: how many crypto actors there are.
    """

    def __init__(self, topology: Topology, pool: int) -> None:
        self.connections = {
            name: _Place(partial(topology.connection, name)) for name in topology.config.connections
        }
        self.pool = [_Place(partial(topology.crypto, number)) for number in range(pool)]

    async def start(self) -> None:
        """Make and start all.

        Raises:
            ConfigurationError: the encryption keys can't be used.
            Timeout: an actor did not start.
        """
        for place in self._places:
            place.make()
        await asyncio.gather(*(place.begin() for place in self._places))

    @property
    def processes(self) -> dict[str, Process]:
        """Where each actor runs, by its name."""
        return {one.name: one.process for one in self._places if one.process is not None}

    def end(self) -> None:
        """End every actor now."""
        for place in self._places:
            place.end()

    @property
    def _places(self) -> Sequence[_Place]:
        return (*self.connections.values(), *self.pool)


class _Place:
    """The place of one actor.

    Args:
        made: makes an actor for it; gives its name, its handle and a way to wait for its start.
    """

    def __init__(self, made: Any) -> None:
        self.name = ""
        self.actor: Any = None
        """Who is there: nobody gets to know an actor that has not begun."""
        self.process: Process | None = None
        self._made = made
        self._coming: Any = None
        self._starting: Any = None

    def make(self) -> None:
        """Have an actor made for this place; it has not begun."""
        self.name, self._coming, self._starting = self._made()

    async def begin(self) -> None:
        """Start who was made; it takes its place."""
        self._take(await self._starting(*self.given()))

    def _take(self, process: Process) -> None:
        self.actor, self._coming, self.process = self._coming, None, process

    def given(self) -> Sequence[Any]:
        """What it is started with."""
        return ()

    async def stats(self) -> Said:
        """What it says of itself."""
        try:
            said: Said = await answer(self.actor.stats.remote())
        except ProcessDied:
            self.process = None  # the number may be another process's soon
            raise
        return said

    async def replace(self) -> None:
        """End who is there and put a new one there."""
        self._stop_for_good()
        self.end()
        self.make()
        await self.begin_anew()

    async def begin_anew(self) -> None:
        """Start who was made, and make it known to its neighbours, where it has any."""
        await self.begin()

    def end(self) -> None:
        """End who is there, or was about to be."""
        for actor in (self.actor, self._coming):
            if actor is not None:
                end(actor)

    def _stop_for_good(self) -> None:
        """End a process that does not answer, if it is on this machine.

        Ray asks the process to end itself; one that is stopped would go on once it is continued.
        """
        process, self.process = self.process, None
        if process is not None and process.node == ray.get_runtime_context().get_node_id():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


class _Member(_Place):
    """The place of an actor of a crew.

    Args:
        crew: the others.
        number: which one of its kind.
        made: as in the class.
    """

    def __init__(self, crew: Crew, number: int, made: Any) -> None:
        super().__init__(made)
        self.crew = crew
        self.number = number

    async def begin_anew(self) -> None:
        async with self.crew.joining:
            await self.begin()


class _Handler(_Member):
    """The place of a handler."""

    actor: ActorProxy[HandlerActor]

    async def begin_anew(self) -> None:
        process = await self._starting()
        crew = self.crew
        async with crew.joining:
            # At once with the joining: a router that starts later is given this handler, and one
            # that started before is told; none is told of one that it was given.
            self._take(process)
            router = crew.routers[crew.table.routers[self.number]].actor
            # A router that is dead itself will be replaced by one that is given this handler.
            with contextlib.suppress(QueueError):
                await answer(router.join.remote(self.number, self.actor))

    async def blame(self, rows: Sequence[RunRow]) -> None:
        """Tell its router which rows it is ended for."""
        router = self.crew.routers[self.crew.table.routers[self.number]].actor
        await answer(router.overdue.remote(self.number, rows))

    async def drain(self) -> None:
        await answer(self.actor.drain.remote())

    async def idle(self) -> None:
        await answer(self.actor.idle.remote())

    async def stop_running(self) -> None:
        await answer(self.actor.stop_running.remote())

    async def close(self) -> None:
        await answer(self.actor.close.remote())

    async def kill(self) -> None:
        self.end()


class _Router(_Member):
    """The place of a router."""

    actor: ActorProxy[RouterActor]

    def given(self) -> Sequence[Any]:
        crew = self.crew
        own = {
            number: crew.handlers[number].actor
            for number, owner in enumerate(crew.table.routers)
            if owner == self.number
        }
        return own, crew.table

    async def begin_anew(self) -> None:
        async with self.crew.joining:
            await self.begin()
            for receiver in self.crew.receivers:
                # A receiver that is dead itself will be replaced by one that is given this router.
                with contextlib.suppress(QueueError):
                    await answer(receiver.actor.join.remote(self.number, self.actor))

    async def drain(self) -> None:
        await answer(self.actor.drain.remote())


class _Receiver(_Member):
    """The place of a receiver."""

    actor: ActorProxy[ReceiverActor]

    def given(self) -> Sequence[Any]:
        return [router.actor for router in self.crew.routers], self.crew.table

    async def stop_receiving(self) -> None:
        await answer(self.actor.stop_receiving.remote())

    async def nothing_runs(self) -> None:
        await answer(self.actor.nothing_runs.remote())

    async def idle(self) -> None:
        await answer(self.actor.idle.remote())

    async def close(self) -> int:
        return await answer(self.actor.close.remote())
