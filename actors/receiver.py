"""The shell of `pipeline.stages.receiver`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from actors.broker import RemoteBroker
from actors.calls import RemoteRuns
from actors.process import Process, process, tune
from actors.router import RouterActor
from pipeline.clock import SystemClock
from pipeline.config import PipelineConfig, RuntimeConfig
from pipeline.names import QueueName
from pipeline.providers.gate import ConnectionCalls
from pipeline.providers.guarded import GuardedProvider
from pipeline.providers.open import open_provider
from pipeline.retry import RetryPolicy
from pipeline.slots import SlotTable
from pipeline.stages.receiver import ReceiverCore, ReceiverSettings
from pipeline.stages.supervisor import Said
from pipeline.telemetry import log

if TYPE_CHECKING:
    from ray.actor import ActorProxy

    from pipeline.crypto.bodies import Bodies


class ReceiverActor:
    """Takes messages in, sends them on, settles them."""

    def __init__(
        self,
        config: RuntimeConfig,
        pipeline: str,
        number: int,
        epoch: int,
        broker: RemoteBroker | None,
        shared: ConnectionCalls,
        pool: Bodies | None,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._number = number
        self._epoch = epoch
        self._broker = broker
        self._shared = shared
        self._bodies = pool
        self._provider: GuardedProvider | None = None
        self._core: ReceiverCore | None = None
        self._error: str | None = None

    @ray.method
    async def start(self, routers: Sequence[ActorProxy[RouterActor]], table: SlotTable) -> Process:
        """Connect and begin to receive."""
        if self._core is None:
            await self._start(routers, table)
        return process()

    async def _start(self, routers: Sequence[ActorProxy[RouterActor]], table: SlotTable) -> None:
        log.configure_actor(self._config.log.format, self._config.log.level)
        settings = self._config.pipelines[self._pipeline]
        queue = self._config.queues[QueueName(settings.queue)]
        clock = SystemClock()
        name = f"{self._pipeline}/{self._number}"
        provider = self._provider = open_provider(
            self._config,
            queue.connection,
            broker=self._broker,
            clock=clock,
            shared=self._shared,
            user=f"receiver:{name}",
        )
        await provider.start()
        if self._bodies is None and self._config.crypto.enabled:
            from pipeline.crypto.open import open_bodies

            self._bodies = open_bodies(self._config.crypto, clock, self._fatal)
        if self._bodies is not None:
            await self._bodies.start()
        self._core = ReceiverCore(
            _settings(self._config, settings, name, self._epoch),
            await provider.receiver(
                settings.queue, partition=self._number, owner=f"{self._config.name}/{name}"
            ),
            provider.capabilities(settings.queue),
            await provider.source(settings.queue),
            [RemoteRuns(router) for router in routers],
            table,
            clock,
            self._fatal,
            self._bodies,
        )
        tune()
        await self._core.start()

    @ray.method
    async def join(self, number: int, router: ActorProxy[RouterActor]) -> None:
        """A new router took a dead one's place."""
        if self._core is not None:
            await self._core.join(number, RemoteRuns(router))

    @ray.method
    async def stop_receiving(self) -> None:
        """Drain 1."""
        if self._core is not None:
            await self._core.stop_receiving()

    @ray.method
    async def nothing_runs(self) -> None:
        """No handler runs anything any more."""
        if self._core is not None:
            await self._core.nothing_runs()

    @ray.method
    async def idle(self) -> None:
        """Return when nothing is in hand."""
        if self._core is not None:
            await self._core.idle()

    @ray.method
    async def close(self) -> int:
        """Drain 5."""
        left = 0 if self._core is None else await self._core.close()
        if self._bodies is not None:
            await self._bodies.close()
        return left

    @ray.method(concurrency_group="control")
    async def stats(self) -> Said:
        """Counters and latencies, and why it can't go on, if it can't."""
        if self._core is None or self._provider is None:
            return Said(error=self._error)
        counts = self._core.stats() | self._provider.figures()
        latency = list(self._core.latency.counts)
        return Said(counts, self._error, latency, self._provider.paused)

    def _fatal(self, error: BaseException) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"


def _settings(
    config: RuntimeConfig, settings: PipelineConfig, name: str, epoch: int
) -> ReceiverSettings:
    queue = config.queues[QueueName(settings.queue)]
    return ReceiverSettings(
        name=name,
        epoch=epoch,
        ordered=queue.ordered,
        messages=settings.credit.messages,
        bytes=settings.credit.bytes,
        batch_rows=settings.batch.rows,
        batch_bytes=settings.batch.bytes,
        wait=config.timeouts.receive,
        hold=settings.retry.hold,
        sessions=settings.sessions,
        key_wait=config.crypto.key_wait,
        by_id=config.crypto.finds_replays,
        retry=RetryPolicy(**config.retry.model_dump()),
    )
