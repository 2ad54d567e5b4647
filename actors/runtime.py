"""The runtime: starts Ray or joins it, owns every actor of a run, feeds, watches and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import ray

from actors.broker import RemoteBroker
from actors.calls import answer, end
from actors.crew import Crew, SharedActors
from actors.topology import Topology, pool_size, shared_connections
from pipeline.client import QueueClient
from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig, import_object, load, parse
from pipeline.errors import ConnectionFailed, QueueError, SerializationError
from pipeline.handlers.api import Handler
from pipeline.handlers.run import StateCodec
from pipeline.names import QueueName, SessionId
from pipeline.providers.memory import Counters
from pipeline.stages.calls import ProcessDied
from pipeline.stages.drain import Drained, Limits
from pipeline.stages.supervisor import Figures, Shared, Supervisor
from pipeline.state.open import forget, located, open_sqlite
from pipeline.state.sqlite import SqliteStore
from pipeline.telemetry.counters import Histogram

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from actors.process import Process
    from actors.status import StatusActor

_log = logging.getLogger("queue_runtime.runtime")
_LOOK = 0.2
"""Seconds between two looks at the actors."""
_POOL = 2
"""Crypto actors on a cluster of several machines."""
_SUMMARY = 60.0
"""Seconds between two summaries in the log."""


class RuntimeFailed(QueueError):
    """An actor of the run can't go on: the run ends; what was not settled comes again."""


@dataclass(slots=True)
class Totals:
    """What happened on the queues of all pipelines.

    By the brokers' own counters where there are brokers, else as the receivers have seen it.

    Args:
        received: deliveries handed out.
        completed: messages handled and deleted.
        dead_lettered: messages moved to a dead-letter queue.
        redelivered: deliveries that were not the message's first.
    """

    received: int = 0
    completed: int = 0
    dead_lettered: int = 0
    redelivered: int = 0


@dataclass(slots=True)
class Look:
    """The whole run at one moment.

    Args:
        pipelines: each one's figures.
        at: the running loop's time.
        shared: the connections' circuit breakers, and the crypto pool.
    """

    pipelines: dict[str, Figures] = field(default_factory=dict)
    at: float = 0.0
    shared: Shared = field(default_factory=Shared)

    def total(self, part: str, name: str) -> int:
        """One counter of all pipelines' receivers, routers or handlers, added up."""
        return sum(getattr(figures, part).get(name, 0) for figures in self.pipelines.values())

    @property
    def latency(self) -> Histogram:
        """Seconds from enqueued to settled, of all pipelines."""
        merged = Histogram()
        for figures in self.pipelines.values():
            merged.merge(figures.latency)
        return merged

    @property
    def missing(self) -> list[str]:
        """Which actors don't work just now, and why: they are being replaced, or wait."""
        parts: tuple[Shared | Figures, ...] = (self.shared, *self.pipelines.values())
        return [why for figures in parts for why in figures.missing]

    @property
    def errors(self) -> list[str]:
        """Which actors can't go on."""
        parts: tuple[Shared | Figures, ...] = (self.shared, *self.pipelines.values())
        return [error for figures in parts for error in figures.errors]


class Runtime:
    """A run of a configuration's pipelines on Ray; `async with` starts it and always drains it.

    Where Ray runs already in this process it is used; inside a job (`RAY_ADDRESS`) that cluster is
    joined; otherwise Ray is started on this machine and stopped at the end.

    Args:
        config: what to run.
        path: directories that handlers are imported from; the current one unless given.

    Example:
        >>> runtime = Runtime.from_file("configs/quickstart.yaml")
        >>> runtime.config.name
        'flights'
    """

    def __init__(self, config: RuntimeConfig, *, path: Sequence[str] | None = None) -> None:
        self.config = config
        self._path = list(path) if path is not None else [str(Path.cwd())]
        self._brokers: dict[str, RemoteBroker] = {}
        self._client: QueueClient | None = None
        self._status: ActorProxy[StatusActor] | None = None
        self._supervisor: Supervisor | None = None
        self._actors: dict[str, Crew] = {}
        self._shared: SharedActors | None = None
        self._watch: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._looks = 0
        self._failure: RuntimeFailed | None = None
        self._own_ray = False
        self._own_cluster = False
        self.look = Look()
        self.drain_wanted = asyncio.Event()
        self.drained: Drained | None = None

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Make a runtime from a configuration file.

        Raises:
            ConfigurationError: the file is wrong; the message names every problem.
        """
        return cls(load(path))

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        """Make a runtime from a configuration as plain mappings.

        Raises:
            ConfigurationError: it is wrong; the message names every problem.
        """
        return cls(parse(config))

    @property
    def address(self) -> str:
        """The Ray cluster it runs in, for another process that wants to join it."""
        return str(ray.get_runtime_context().gcs_address)

    @property
    def client(self) -> QueueClient:
        """A client of the run's queues, in this process.

        Raises:
            ConnectionFailed: the runtime is not started.
        """
        if self._client is None:
            raise ConnectionFailed("the runtime is not started: use `async with`")
        return self._client

    # ---------------------------------------------------------------- start

    def connect(self) -> None:
        """Start Ray or join it; `start` does it too. A repeat does nothing.

        It takes seconds and replaces the process's handler of SIGTERM: who has one installs it
        again between this and `start`.

        Raises:
            ConnectionFailed: there is no Ray to be had.
        """
        if not ray.is_initialized():
            self._own_cluster = _start_ray()
            self._own_ray = True

    async def start(self) -> None:
        """Start Ray if need be, and every actor.

        Raises:
            ConfigurationError: a handler can't be imported, or the name is in use.
            Timeout: an actor did not start; the message names it and what it asks for.
        """
        if self._supervisor is not None:
            return
        self.connect()
        try:
            await self._start()
        except BaseException:
            await self._end()
            raise

    async def _start(self) -> None:
        # Here, because the actors have another current directory, and perhaps another home.
        alive = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
        self.config = _pooled(located(self.config, nodes=alive), nodes=alive)
        topology = Topology(self.config, self._path)
        await self._start_queues(topology)
        await forget(self.config, SystemClock())  # now no other run of this name is active
        await self._start_pipelines(topology)

    async def _start_queues(self, topology: Topology) -> None:
        self._status = await topology.status()
        self._brokers = await topology.brokers()
        self._shared = SharedActors(topology, pool_size(self.config))
        await self._shared.start()
        self._client = QueueClient(
            self.config,
            brokers=self._brokers,
            shared=shared_connections(self.config),
            user="driver",
        )
        await self._client.start()

    async def _start_pipelines(self, topology: Topology) -> None:
        config = self.config
        parts = {}
        for name, settings in config.pipelines.items():
            crew = self._actors[name] = Crew(topology, name, self._brokers)
            await crew.start()
            exact = self.client.capabilities(settings.queue).exact_depth
            parts[name] = crew.parts(exact_depth=exact)
        drain = config.drain
        limits = Limits(release=drain.release, running=drain.running, cancel=drain.cancel)
        self._supervisor = Supervisor(
            parts,
            self.client.depth,
            limits,
            answer=config.timeouts.answer,
            connections=None if self._shared is None else self._shared.connections,
            pool=() if self._shared is None else self._shared.pool,
        )
        self._watch = asyncio.ensure_future(self._watch_all(topology))
        _log.info("started %d pipelines of %s", len(parts), config.name)

    # ---------------------------------------------------------------- while it runs

    async def next_look(self) -> Look:
        """Wait for the next figures.

        Raises:
            RuntimeFailed: an actor can't go on; the message names it and why.
        """
        async with self._news:
            seen = self._looks
            while self._looks == seen and self._failure is None:
                await self._news.wait()
        if self._failure is not None:
            raise self._failure
        return self.look

    @property
    def processes(self) -> dict[str, Process]:
        """Where each actor of the pipelines runs now, by its name: node and process number."""
        shared = {} if self._shared is None else self._shared.processes
        return shared | {
            name: one for crew in self._actors.values() for name, one in crew.processes.items()
        }

    async def until_empty(self) -> None:
        """Wait until nothing is queued, scheduled, held for a retry or in hand anywhere.

        Raises:
            RuntimeFailed: an actor can't go on.
        """
        if self._supervisor is None:
            raise ConnectionFailed("the runtime is not started: use `async with`")
        empty = 0
        while empty < 2:
            look = await self.next_look()
            empty = empty + 1 if self._supervisor.empty(look.pipelines) else 0

    async def states(self) -> dict[str, dict[SessionId, Any]]:
        """Every pipeline's states: pipeline to session to state, as the handler declared it.

        Raises:
            SerializationError: a state can't be read by its handler as it is now.
            ProviderError: the state store can't be read.
        """
        found: dict[str, dict[SessionId, Any]] = {}
        for name, actors in self._actors.items():
            handler = import_object(
                self.config.pipelines[name].handler, f"pipelines.{name}.handler"
            )
            if not isinstance(handler, Handler) or handler.state is None:
                continue
            codec = StateCodec(handler.state, handler.kept)
            store = open_sqlite(self.config, name, SystemClock())
            if store is not None:
                found[name] = await _states_in(store, codec)
                continue
            found[name] = {}
            for place in actors.handlers:
                for session, state in (await answer(place.actor.states.remote())).items():
                    # What is in their memory, they wrote.
                    found[name][SessionId.trusted(session)] = codec.load(state, codec.version)
        return found

    async def refresh(self) -> Look:
        """Ask every actor now; after a drain too, until `close`."""
        if self._supervisor is None:
            return self.look
        self.look = await _look(self._supervisor)
        return self.look

    async def totals(self) -> Totals:
        """What happened on the queues of all pipelines."""
        totals = Totals()
        counted: set[str] = set()
        for name, settings in self.config.pipelines.items():
            queue = settings.queue
            broker = self._brokers.get(self.config.queues[QueueName(queue)].connection)
            if broker is None:
                _add(totals, Totals(**_seen(self.look.pipelines.get(name))))
            elif queue not in counted:
                counted.add(queue)
                _add(totals, await broker.counters(queue))
        return totals

    async def _watch_all(self, topology: Topology) -> None:
        supervisor = self._supervisor
        if supervisor is None:
            return
        loop = asyncio.get_running_loop()
        summed_up = loop.time()
        while True:
            self.look = await _look(supervisor)
            if loop.time() - summed_up >= _SUMMARY:
                summed_up = loop.time()
                _sum_up(self.look)
            if self.look.errors and self._failure is None:
                self._failure = RuntimeFailed("; ".join(self.look.errors))
                _log.error("the run can't go on: %s", self._failure)
            await self._exchange(topology)
            async with self._news:
                self._looks += 1
                self._news.notify_all()
            await asyncio.sleep(_LOOK)

    async def _exchange(self, topology: Topology) -> None:
        """Figures to the status actor, requests from it; a new one where it died."""
        try:
            if self._status is None:
                self._status = await topology.status()
            if "drain" in await answer(self._status.exchange.remote(self._public())):
                self.drain_wanted.set()
        except ProcessDied as error:
            _log.warning("the status actor is replaced: %s", error)
            self._status = None
        except QueueError as error:
            _log.debug("the status actor: %s", error)

    def _public(self) -> dict[str, Any]:
        """The figures as the status actor shows them."""
        failed = [str(self._failure)] if self._failure is not None else []
        reason = "; ".join(failed or self.look.missing)
        return {
            "name": self.config.name,
            "live": True,
            "ready": not reason and not self.drain_wanted.is_set(),
            "reason": reason,
            "pid": os.getpid(),
            "own_cluster": self._own_cluster,
            "processes": {name: one.pid for name, one in self.processes.items()},
            "connections": {
                name: {
                    direction: {"state": state, "since": since}
                    for direction, (state, since) in breakers.items()
                }
                for name, breakers in self.look.shared.breakers.items()
            },
            "crypto": self.look.shared.counts,
            "pipelines": {
                name: {
                    "receivers": figures.receivers,
                    "routers": figures.routers,
                    "handlers": figures.handlers,
                    "backlog": figures.depth.available,
                    "replaced": figures.replaced,
                    "p50_ms": round(figures.latency.quantile(0.5) * 1000, 1),
                    "p99_ms": round(figures.latency.quantile(0.99) * 1000, 1),
                }
                for name, figures in self.look.pipelines.items()
            },
        }

    # ---------------------------------------------------------------- end

    async def drain(self) -> Drained:
        """Stop as SPEC F6 says: nothing new, running messages finish, the rest is given back."""
        if self.drained is None:
            self.drain_wanted.set()
            self.drained = await self._supervisor.drain() if self._supervisor else Drained()
        return self.drained

    async def close(self) -> None:
        """Drain, then end every actor, and Ray if this runtime started it."""
        try:
            await self.drain()
        finally:
            await self._end()

    async def _end(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
            self._watch = None
        if self._client is not None:
            with contextlib.suppress(QueueError):
                await self._client.close()
        self._kill_all()
        self._supervisor = None
        if self._own_ray:
            ray.shutdown()
            self._own_ray = False

    def _kill_all(self) -> None:
        """End every actor now: dropping the handles would, but at a time of Ray's choosing."""
        for crew in self._actors.values():
            crew.end()
        self._actors = {}
        if self._shared is not None:
            self._shared.end()
            self._shared = None
        for broker in self._brokers.values():
            broker.kill()
        self._brokers = {}
        if self._status is not None:
            end(self._status)
            self._status = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


async def _look(supervisor: Supervisor) -> Look:
    pipelines = await supervisor.look()
    return Look(pipelines, asyncio.get_running_loop().time(), supervisor.shared)


def _pooled(config: RuntimeConfig, *, nodes: int) -> RuntimeConfig:
    """The configuration with a number of crypto actors, where it names none."""
    crypto = config.crypto
    if crypto.actors is not None:
        return config
    crypto = crypto.model_copy(update={"actors": 0 if nodes <= 1 else _POOL})
    return config.model_copy(update={"crypto": crypto})


def _sum_up(look: Look) -> None:
    """What each pipeline has done so far, once a minute."""
    for name, figures in look.pipelines.items():
        counts = figures.receivers | {"failed": figures.handlers.get("failed", 0)}
        done = ("received", "completed", "failed", "retried", "dead_lettered", "lost", "in_hand")
        told = ", ".join(f"{key} {counts.get(key, 0):,}" for key in done)
        _log.info("pipeline %s so far: %s", name, told)


async def _states_in(store: SqliteStore, codec: StateCodec) -> dict[SessionId, Any]:
    """All states of a pipeline, read here and not by each handler: they share the file."""
    now = SystemClock().now()
    states: dict[SessionId, Any] = {}
    await store.start()
    try:
        async for session, kept in store.records():
            record = kept.record.live(now)
            if record.state is None:
                continue
            try:
                states[SessionId.trusted(session)] = codec.load(record.state, record.schema)
            except Exception as error:
                raise SerializationError(
                    f"the state of session {session!r} can't be read: {error}"
                ) from error
    finally:
        await store.close()
    return states


def _seen(figures: Figures | None) -> dict[str, int]:
    """What a pipeline's receivers have seen of what a run tells."""
    counts = {} if figures is None else figures.receivers
    return {each.name: counts.get(each.name, 0) for each in fields(Totals)}


def _add(totals: Totals, counters: Counters | Totals) -> None:
    totals.received += counters.received
    totals.completed += counters.completed
    totals.dead_lettered += counters.dead_lettered
    totals.redelivered += counters.redelivered


def _start_ray() -> bool:
    """Join the cluster this process belongs to, or start one here; True when it is our own."""
    quiet: dict[str, Any] = {"log_to_driver": True, "logging_level": logging.WARNING}
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(address="auto", **quiet)
            return False
        # A cluster of our own listens on this machine alone and lives as long as the run.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise ConnectionFailed(f"Ray can't be started or joined: {error}") from error
    return True


__all__ = ["Look", "Runtime", "RuntimeFailed", "Totals"]
