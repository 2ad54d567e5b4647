"""How classes become actors: their options, their names, and the graph of one pipeline.

Owned, never detached: the actors of a run die with its driver, so that a dead job leaves no
consumer behind. Ray retries nothing: the broker is the log (DESIGN law 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.broker import BrokerActor, RemoteBroker
from actors.calls import unwrap
from actors.handler import HandlerActor
from actors.receiver import ReceiverActor
from actors.router import RouterActor
from actors.status import StatusActor
from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigurationError, Timeout
from pipeline.names import QueueName
from pipeline.slots import SlotTable
from pipeline.stages.router import RouterSettings

if TYPE_CHECKING:
    from ray.actor import ActorClass, ActorProxy

T = TypeVar("T")


def namespace(name: str) -> str:
    """The Ray namespace of a run."""
    return f"queue-runtime:{name}"


def actor_class(cls: type[T]) -> ActorClass[T]:
    """A class as an actor with a lane of its own for control calls.

    Ray takes concurrency groups nowhere else, and its stubs don't know them here.
    """
    made: ActorClass[T] = ray.remote(concurrency_groups={"control": 1})(cls)  # type: ignore[call-overload]
    return made


@dataclass(frozen=True, slots=True)
class PipelineActors:
    """The actors of one pipeline."""

    receivers: list[ActorProxy[ReceiverActor]]
    routers: list[ActorProxy[RouterActor]]
    handlers: list[ActorProxy[HandlerActor]]


class Topology:
    """Makes and starts the actors of a run.

    Args:
        config: what to make.
        path: directories that handlers are imported from.
        epoch: grows with each start.
    """

    def __init__(self, config: RuntimeConfig, path: Sequence[str], epoch: int) -> None:
        self._config = config
        self._path = list(path)
        self._epoch = epoch
        self._namespace = namespace(config.name)
        self._limit = config.timeouts.start

    async def status(self) -> ActorProxy[StatusActor]:
        """The status actor: its name is the run's; a second run of that name is refused here."""
        try:
            actor = self._make(StatusActor, "status", 0.0, self._config.name)
        except ValueError as error:
            raise ConfigurationError(
                f"name: a run named {self._config.name!r} is active in this cluster already; "
                "drain it first, or give this one another name"
            ) from error
        await self._ready("status", 0.0, actor.figures.remote())
        return actor

    async def brokers(self) -> dict[str, RemoteBroker]:
        """One broker actor for each memory connection."""
        brokers = {}
        cpus = self._config.ray.broker_cpus
        for name, connection in self._config.connections.items():
            if connection.provider != "memory":
                continue
            queues = {
                str(queue): settings
                for queue, settings in self._config.queues.items()
                if settings.connection == name
            }
            label = f"broker:{name}"
            actor = self._make(BrokerActor, label, cpus, queues)
            for queue in queues:
                await self._ready(label, cpus, actor.source.remote(queue))
                break
            brokers[name] = RemoteBroker(actor)
        return brokers

    async def pipeline(self, name: str, brokers: Mapping[str, RemoteBroker]) -> PipelineActors:
        """The actors of one pipeline, started from the handlers up to the receivers."""
        config = self._config
        settings = config.pipelines[name]
        cpus = config.ray
        table = SlotTable.spread(settings.handlers, settings.routers)
        handlers = [
            self._make(
                HandlerActor,
                f"handler:{name}:{number}",
                cpus.handler_cpus,
                config,
                name,
                self._path,
                dict(brokers),
            )
            for number in range(settings.handlers)
        ]
        routers = [
            self._make(
                RouterActor,
                f"router:{name}:{number}",
                cpus.router_cpus,
                RouterSettings(
                    name=f"{name}/{number}",
                    epoch=self._epoch,
                    batch_rows=settings.batch.rows,
                    batch_bytes=settings.batch.bytes,
                ),
            )
            for number in range(settings.routers)
        ]
        broker = brokers.get(config.queues[QueueName(settings.queue)].connection)
        receivers = [
            self._make(
                ReceiverActor,
                f"receiver:{name}:{number}",
                cpus.receiver_cpus,
                config,
                name,
                number,
                broker,
            )
            for number in range(settings.receivers)
        ]
        await asyncio.gather(
            *(
                self._ready(f"handler:{name}:{at}", cpus.handler_cpus, handler.start.remote())
                for at, handler in enumerate(handlers)
            )
        )
        for at, router in enumerate(routers):
            own = {
                number: handlers[number]
                for number, owner in enumerate(table.routers)
                if owner == at
            }
            await self._ready(
                f"router:{name}:{at}", cpus.router_cpus, router.start.remote(own, table)
            )
        await asyncio.gather(
            *(
                self._ready(
                    f"receiver:{name}:{at}",
                    cpus.receiver_cpus,
                    receiver.start.remote(routers, table),
                )
                for at, receiver in enumerate(receivers)
            )
        )
        return PipelineActors(receivers, routers, handlers)

    def _make(self, cls: type[T], name: str, cpus: float, *arguments: Any) -> ActorProxy[T]:
        return (
            actor_class(cls)
            .options(
                name=name,
                namespace=self._namespace,
                num_cpus=cpus,
                max_restarts=0,
                max_task_retries=0,
                enable_task_events=False,
            )
            .remote(*arguments)
        )

    async def _ready(self, name: str, cpus: float, call: Awaitable[Any]) -> None:
        """Wait for an actor's first answer; Ray waits for a place for ever without a word."""
        try:
            async with asyncio.timeout(self._limit):
                await call
        except TimeoutError as error:
            free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
            raise Timeout(
                f"actor {name} did not start within {self._limit:g} s: it asks for {cpus:g} CPU, "
                f"and the cluster has {free:g} free; free some, or lower `ray` in the configuration"
            ) from error
        except (RayTaskError, RayActorError) as error:
            raise unwrap(error) from error
