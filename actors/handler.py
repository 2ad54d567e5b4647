"""The shell of `pipeline.stages.handler`, and the threads that user code runs on."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import ray

from actors.process import Process, process, tune
from pipeline.batch import MessageBatch
from pipeline.client import QueueClient
from pipeline.clock import SystemClock, monotonic
from pipeline.config import CryptoConfig, RuntimeConfig, import_exception, import_object
from pipeline.crypto.envelope import LARGEST_OVERHEAD, PLAIN, is_sealed, only_begins_sealed
from pipeline.errors import ConfigurationError, MessageTooLarge, QueueError, QueueNotFound
from pipeline.errors import ValidationError as InvalidValue
from pipeline.handlers.api import Handler
from pipeline.message import Message
from pipeline.names import QueueName
from pipeline.outcomes import Part
from pipeline.providers.gate import ConnectionCalls
from pipeline.providers.memory import BrokerCalls
from pipeline.providers.port import Sent
from pipeline.retry import RetryPolicy
from pipeline.stages.calls import Header
from pipeline.stages.handler import HandlerCore, HandlerSettings
from pipeline.stages.supervisor import Said
from pipeline.state.open import open_store
from pipeline.telemetry import log

if TYPE_CHECKING:
    from pipeline.crypto.bodies import Bodies
    from pipeline.crypto.nonces import NonceBook


class ThreadHands:
    """Where user code runs: a pool of threads, and one loop on a thread of its own.

    Args:
        threads: how many threads sync handlers have.
    """

    def __init__(self, threads: int) -> None:
        self._core = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="handler")
        self._user: asyncio.AbstractEventLoop | None = None

    def on_thread(self, job: Callable[[], None]) -> None:
        """Run a job on a thread of the pool."""
        self._pool.submit(job)

    def spawn(self, job: Callable[[], None]) -> None:
        """Run a job on the user's loop."""
        self._loop().call_soon_threadsafe(job)

    async def on_user_loop(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run a coroutine on the user's loop and wait for it."""

        async def run() -> None:
            await work()

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop()))

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back soon on the core's loop."""
        self._core.call_soon_threadsafe(callback)

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._user is None:
            self._user = asyncio.new_event_loop()
            threading.Thread(
                target=self._user.run_forever, name="handler-loop", daemon=True
            ).start()
        return self._user


class Checks:
    """Refuses at once what a handler sends and can't be sent.

    Args:
        config: names the queues.
    """

    def __init__(self, config: RuntimeConfig) -> None:
        self._queues = config.queues
        self._sealed = config.crypto.enabled

    def check(self, queue: str, message: Message) -> None:
        """Raise what is wrong with it."""
        settings = self._queues.get(QueueName(queue))
        if settings is None:
            known = ", ".join(sorted(self._queues))
            raise QueueNotFound(f"no queue {queue!r} in the configuration; there are: {known}")
        if settings.fifo and settings.sessionless == "reject" and message.session is None:
            rule = f"is needed: queue {queue!r} keeps sessions in order"
            raise InvalidValue("Message.session", rule)
        body = message.body
        if is_sealed(body) if self._sealed else only_begins_sealed(body):
            raise InvalidValue("Message.body", PLAIN, f"{len(body)} bytes")
        # Refused here and not when it is sent: then its session would wait for ever.
        size = len(body)
        if self._sealed:
            size = settings.size_of_binary(size + LARGEST_OVERHEAD)
        if size > settings.max_message_size:
            raise MessageTooLarge(size, settings.max_message_size)


class HandlerActor:
    """Runs the user's handler and holds its state."""

    def __init__(
        self,
        config: RuntimeConfig,
        pipeline: str,
        name: str,
        path: Sequence[str],
        brokers: dict[str, BrokerCalls],
        shared: Mapping[str, ConnectionCalls],
        pool: Bodies | None,
    ) -> None:
        self._config = config
        self._pipeline = pipeline
        self._path = path
        self._name = name
        self._brokers = brokers
        self._shared = shared
        self._pool = pool
        self._core: HandlerCore | None = None
        self._client: QueueClient | None = None
        self._error: str | None = None

    @ray.method
    async def start(self) -> Process:
        """Import the handler and begin."""
        if self._core is None:
            await self._start()
        return process()

    async def _start(self) -> None:
        sys.path[:0] = [entry for entry in self._path if entry not in sys.path]
        log.configure_actor(self._config.log.format, self._config.log.level)
        settings = self._config.pipelines[self._pipeline]
        queue = self._config.queues[QueueName(settings.queue)]
        handler = import_object(settings.handler, f"pipelines.{self._pipeline}.handler")
        if not isinstance(handler, Handler):
            raise ConfigurationError(
                f"pipelines.{self._pipeline}.handler: {settings.handler} is no handler; "
                "decorate it with @handler"
            )
        self._client = QueueClient(
            self._config,
            brokers=self._brokers,
            shared=self._shared,
            user=self._name,
            bodies=self._pool,
        )
        await self._client.start()
        self._core = HandlerCore(
            HandlerSettings(
                queue=QueueName(settings.queue),
                ordered=queue.ordered,
                retry=RetryPolicy(
                    settings.retry.max_attempts,
                    settings.retry.initial,
                    settings.retry.maximum,
                    settings.retry.factor,
                    jitter="half",
                ),
                exceptions={
                    import_exception(name, f"pipelines.{self._pipeline}.retry.exceptions"): rule
                    for name, rule in settings.retry.exceptions.items()
                },
                timeout=settings.timeout,
                concurrency=settings.concurrency,
                threads=settings.threads,
                batch_rows=settings.batch.rows,
                redacted=self._config.dead_letter.redacts(self._config.crypto),
                nonces=_nonces(self._config.crypto),
            ),
            handler,
            open_store(self._config, self._pipeline, SystemClock()),
            ThreadHands(settings.threads),
            SystemClock(),
            monotonic,
            Checks(self._config),
            self._send,
            self._fatal,
        )
        tune()
        await self._core.start()

    @ray.method
    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Rows from the router; the first outcomes back."""
        return await self._started().run(header, batch)

    @ray.method
    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """More outcomes of a call."""
        return await self._started().more(caller, epoch, number, part)

    @ray.method
    async def drain(self) -> None:
        """Drain 2."""
        await self._started().drain()

    @ray.method
    async def idle(self) -> None:
        """Return when nothing runs any more."""
        await self._started().idle()

    @ray.method
    async def stop_running(self) -> None:
        """Drain 4."""
        await self._started().stop_running()

    @ray.method
    async def states(self) -> dict[str, bytes]:
        """Every session's state as JSON."""
        return await self._started().states()

    @ray.method
    async def close(self) -> None:
        """Drain 5."""
        if self._core is not None:
            await self._core.close()
        if self._client is not None:
            await self._client.close()

    @ray.method(concurrency_group="control")
    async def stats(self) -> Said:
        """Counters, why it can't go on or waits, if it does, and what it has run for too long."""
        core = self._core
        if core is None:
            return Said(error=self._error)
        return Said(core.stats(), self._error, None, core.paused, core.overdue())

    async def _send(self, queue: str, messages: Sequence[Message]) -> list[Sent | QueueError]:
        if self._client is None:
            raise RuntimeError("the handler was not started")
        return await self._client.send_many(queue, messages)

    def _started(self) -> HandlerCore:
        if self._core is None:
            raise RuntimeError("the handler was not started")
        return self._core

    def _fatal(self, error: BaseException) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"


def _nonces(settings: CryptoConfig) -> NonceBook | None:
    """What finds sealed bodies that come a second time, where that is wanted."""
    if not settings.finds_replays:
        return None
    from pipeline.crypto.nonces import NonceBook

    return NonceBook(settings.replay.window, settings.replay.most)
