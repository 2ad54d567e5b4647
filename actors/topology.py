"""How classes become actors: their options, their names, and the graph of one pipeline.

Owned, never detached: the actors of a run die with its driver, so that a dead job leaves no
consumer behind. Ray retries nothing: the broker is the log (DESIGN law 4).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import ray
from ray.exceptions import RayActorError, RayTaskError

from actors.broker import BrokerActor, RemoteBroker
from actors.calls import unwrap
from actors.connection import ConnectionActor, RemoteConnection
from actors.crypto import CryptoActor, RemoteBodies
from actors.handler import HandlerActor
from actors.receiver import ReceiverActor
from actors.router import RouterActor
from actors.status import StatusActor
from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigurationError, Timeout
from pipeline.names import QueueName
from pipeline.providers.open import breaker_policy
from pipeline.stages.router import RouterSettings

if TYPE_CHECKING:
    from ray.actor import ActorClass, ActorProxy

    from actors.process import Process

T = TypeVar("T")
Made: TypeAlias = "tuple[str, ActorProxy[T], Callable[..., Awaitable[Process]]]"
"""An actor's name, the actor, and what starts it: it gives where it runs."""


def namespace(name: str) -> str:
    """The Ray namespace of a run."""
    return f"queue-runtime:{name}"


def find(actor: str, run: str, what: str) -> Any:
    """An actor of another run, by its name.

    Raises:
        ConfigurationError: there is no such run, or it has no such actor.
    """
    try:
        return ray.get_actor(actor, namespace=namespace(run))
    except ValueError as error:
        raise ConfigurationError(
            f"{what}: no run named {run!r} with a {actor.replace(':', ' ')} is active in this "
            "cluster: start it first"
        ) from error


def actor_class(cls: type[T]) -> ActorClass[T]:
    """A class as an actor with a lane of its own for control calls.

    Ray takes concurrency groups nowhere else, and its stubs don't know them here.
    """
    made: ActorClass[T] = ray.remote(concurrency_groups={"control": 1})(cls)  # type: ignore[call-overload]
    return made


def shared_connections(config: RuntimeConfig) -> dict[str, RemoteConnection]:
    """The connection actors of a run, by connection; by their names, whoever is there."""
    return {
        name: RemoteConnection(f"connection:{name}", namespace(config.name))
        for name in config.connections
    }


def pool(config: RuntimeConfig) -> RemoteBodies | None:
    """The pool of crypto actors of a run, by their names; None where there is none."""
    names = [f"crypto:{number}" for number in range(pool_size(config))]
    if not names:
        return None
    return RemoteBodies(names, namespace(config.name), config.timeouts.send)


def pool_size(config: RuntimeConfig) -> int:
    """How many crypto actors a run has."""
    return (config.crypto.actors or 0) if config.crypto.enabled else 0


class Topology:
    """Makes and starts the actors of a run.

    Args:
        config: what to make.
        path: directories that handlers are imported from.
    """

    def __init__(self, config: RuntimeConfig, path: Sequence[str]) -> None:
        self.config = config
        self._path = list(path)
        self._namespace = namespace(config.name)
        self._limit = config.timeouts.start

    async def status(self) -> ActorProxy[StatusActor]:
        """The status actor: its name is the run's; a second run of that name is refused here."""
        try:
            actor = self._make(StatusActor, "status", 0.0, self.config.name)
        except ValueError as error:
            raise ConfigurationError(
                f"name: a run named {self.config.name!r} is active in this cluster already; "
                "drain it first, or give this one another name"
            ) from error
        await self._ready("status", 0.0, actor.figures.remote())
        return actor

    async def brokers(self) -> dict[str, RemoteBroker]:
        """One broker actor for each memory connection: a new one, or another run's."""
        brokers = {}
        cpus = self.config.ray.broker_cpus
        for name, connection in self.config.connections.items():
            if connection.provider != "memory":
                continue
            queues = {
                str(queue): settings
                for queue, settings in self.config.queues.items()
                if settings.connection == name
            }
            label = f"broker:{name}"
            if connection.run is None:
                actor = self._make(BrokerActor, label, cpus, queues)
            else:
                actor = find(label, connection.run, f"connections.{name}.run")
            for queue in queues:
                await self._ready(label, cpus, actor.source.remote(queue))
            brokers[name] = RemoteBroker(actor, own=connection.run is None)
        return brokers

    def connection(self, connection: str) -> Made[ConnectionActor]:
        """The actor of a connection; it asks for no CPU, because it has nearly nothing to do."""
        name = f"connection:{connection}"
        policy, logs = breaker_policy(self.config), self.config.log
        actor = self._make(ConnectionActor, name, 0.0, connection, policy, _epoch(), logs)
        return name, actor, self._starter(name, 0.0, actor)

    def crypto(self, number: int) -> Made[CryptoActor]:
        """One of the pool of crypto actors."""
        cpus = self.config.ray.crypto_cpus
        name = f"crypto:{number}"
        actor = self._make(CryptoActor, name, cpus, self.config)
        return name, actor, self._starter(name, cpus, actor)

    def handler(
        self, pipeline: str, number: int, brokers: Mapping[str, RemoteBroker]
    ) -> Made[HandlerActor]:
        """A handler of a pipeline."""
        cpus = self.config.ray.handler_cpus
        name = f"handler:{pipeline}:{number}"
        actor = self._make(
            HandlerActor,
            name,
            cpus,
            self.config,
            pipeline,
            name,
            self._path,
            dict(brokers),
            shared_connections(self.config),
            pool(self.config),
        )
        return name, actor, self._starter(name, cpus, actor)

    def router(self, pipeline: str, number: int) -> Made[RouterActor]:
        """A router of a pipeline."""
        cpus = self.config.ray.router_cpus
        name = f"router:{pipeline}:{number}"
        batch = self.config.pipelines[pipeline].batch
        settings = RouterSettings(
            name=f"{pipeline}/{number}",
            epoch=_epoch(),
            batch_rows=batch.rows,
            batch_bytes=batch.bytes,
            by_id=self.config.crypto.finds_replays,
        )
        actor = self._make(RouterActor, name, cpus, settings)
        return name, actor, self._starter(name, cpus, actor)

    def receiver(
        self, pipeline: str, number: int, brokers: Mapping[str, RemoteBroker]
    ) -> Made[ReceiverActor]:
        """A receiver of a pipeline."""
        cpus = self.config.ray.receiver_cpus
        name = f"receiver:{pipeline}:{number}"
        queue = self.config.queues[QueueName(self.config.pipelines[pipeline].queue)]
        broker = brokers.get(queue.connection)
        actor = self._make(
            ReceiverActor,
            name,
            cpus,
            self.config,
            pipeline,
            number,
            _epoch(),
            broker,
            shared_connections(self.config)[queue.connection],
            pool(self.config),
        )
        return name, actor, self._starter(name, cpus, actor)

    def _starter(self, name: str, cpus: float, actor: Any) -> Callable[..., Awaitable[Process]]:
        def start(*given: Any) -> Awaitable[Process]:
            return self._ready(name, cpus, actor.start.remote(*given))

        return start

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

    async def _ready(self, name: str, cpus: float, call: Awaitable[T]) -> T:
        """Wait for an actor's first answer; Ray waits for a place for ever without a word."""
        try:
            async with asyncio.timeout(self._limit):
                return await call
        except TimeoutError as error:
            free = ray.available_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
            raise Timeout(
                f"actor {name} did not start within {self._limit:g} s: it asks for {cpus:g} CPU, "
                f"and the cluster has {free:g} free; free some, or lower `ray` in the configuration"
            ) from error
        except (RayTaskError, RayActorError) as error:
            raise unwrap(error) from error


def _epoch() -> int:
    """A number that grows with each start of an actor: milliseconds since 1970."""
    return int(SystemClock().now() * 1000)
