"""One configured connection to a Service Bus namespace."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping
from typing import TypeAlias

from pipeline.clock import Clock
from pipeline.config import AzureConnection, AzureQueue
from pipeline.errors import ConfigurationError, QueueError
from pipeline.providers.azure.errors import PROVIDER
from pipeline.providers.azure.peeks import Peeks
from pipeline.providers.azure.receiver import MOST, AzureReceiver
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.azure.sender import AzureSender
from pipeline.providers.azure.sessions import AzureSessionReceiver
from pipeline.providers.configured import Limits, keys_of
from pipeline.providers.guard import Guard
from pipeline.providers.port import Capabilities, Count, Depth, SessionSupport

_log = logging.getLogger("queue_runtime.servicebus")
_WAIT = 2.0
"""Seconds that one receive should wait."""
_IDLE = 0.25
"""Seconds an empty session is kept while others wait: to accept another takes about twice that."""

_Receiver: TypeAlias = AzureReceiver | AzureSessionReceiver


class AzureProvider:
    """Connects to Service Bus (see `pipeline.providers.port.Provider`).

    Args:
        name: the connection's name.
        settings: its keys.
        queues: its queues by name.
        limits: time-outs.
        clock: calendar, chance and ids.
        attempts: by queue, how often the handlers that read it may try a message.
    """

    def __init__(
        self,
        name: str,
        settings: AzureConnection,
        queues: Mapping[str, AzureQueue],
        limits: Limits,
        clock: Clock,
        attempts: Mapping[str, int] | None = None,
    ) -> None:
        self._queues = dict(queues)
        self._clock = clock
        self._attempts = attempts or {}
        self._sdk = Sdk(name, settings, limits)
        self._guard = Guard(f"connection {name}", limits.send)
        self._started = False
        self._open: set[AzureSender | _Receiver] = set()
        self._peeks: dict[str, Peeks] = {}
        self._counts: Counter[str] = Counter()

    async def start(self) -> None:
        """Read the credentials; idempotent. Each link connects by itself, where it is made."""
        if self._started:
            self._guard.check()
            return
        self._guard.bind()
        self._guard.check()
        try:
            await self._sdk.start(
                {name: keys.topic or keys.name or name for name, keys in self._queues.items()}
            )
        except BaseException:
            await self._sdk.close()
            raise
        self._started = True

    def capabilities(self, queue: str) -> Capabilities:
        """What that queue can do: whether it has sessions decides."""
        settings = self._settings(queue)
        fifo = settings.fifo
        return Capabilities(
            provider=PROVIDER,
            sessions=SessionSupport.NATIVE if fifo else SessionSupport.UNSUPPORTED,
            count=Count.ON_FAILURE,
            release_counts=False,
            abandon_delay=False,
            group_delay=False,
            single_release=not fifo,
            session_state=fifo,
            scheduling=True,
            cancel_scheduled=True,
            defer=True,
            peek=True,
            duplicate_detection=settings.duplicate_detection,
            exact_depth=False,
            bounds_sessions=True,
            max_receive=MOST,
            max_message_size=settings.max_message_size,
            held_sessions=settings.held_sessions,
            session_idle=_IDLE,
            max_wait=_WAIT,
        )

    async def source(self, queue: str) -> str:
        """`azure_service_bus:<namespace>/<path>`; the service does not say when it was created."""
        self._guard.check()
        return f"{PROVIDER}:{self._sdk.namespace}/{self._settings(queue).path}".lower()

    async def sender(self, queue: str) -> AzureSender:
        """A new sending side."""
        self._guard.check()
        settings = self._settings(queue)
        line = self._sdk.sender(settings)
        try:
            await line.open()
        except BaseException:
            await line.close()
            raise
        sender = AzureSender(
            queue,
            settings,
            line,
            self._sdk.limits.send,
            self._clock,
            self._made(f"the sender of queue {queue}"),
            self._open.discard,
        )
        self._open.add(sender)
        return sender

    async def receiver(
        self,
        queue: str,
        *,
        partition: int = 0,  # noqa: ARG002 - every lane of a queue gets of all its messages
        dead_letters: bool = False,
        owner: str = "",  # noqa: ARG002 - Service Bus knows no owners: what a dead one had comes again
    ) -> _Receiver:
        """A new receiving lane, of the queue or of its dead-letter queue."""
        self._guard.check()
        settings = self._settings(queue)
        if settings.topic is not None and settings.subscription is None:
            raise ConfigurationError(
                f"queues.{queue}.subscription: missing: topic {settings.topic} is received from by "
                "way of one of its subscriptions"
            )
        if not dead_letters:
            self._check_attempts(queue, settings)
        receiver = self._lane(queue, settings, dead_letters=dead_letters)
        if isinstance(receiver, AzureReceiver):
            await receiver.open()
        self._open.add(receiver)
        return receiver

    def _lane(self, queue: str, settings: AzureQueue, *, dead_letters: bool) -> _Receiver:
        guard = self._made(f"the receiver of queue {queue}")
        if settings.fifo and not dead_letters:
            return AzureSessionReceiver(
                queue,
                settings,
                self._sdk,
                self._clock,
                guard,
                self._counts,
                self._open.discard,
                peek=self._peeks_at(queue, settings).peek,
            )
        return AzureReceiver(
            queue,
            settings,
            self._sdk,
            self._clock,
            guard,
            self._counts,
            self._open.discard,
            dead_letters=dead_letters,
        )

    def _check_attempts(self, queue: str, settings: AzureQueue) -> None:
        """The service's own dead-lettering must not come before our attempts are over."""
        most, attempts = settings.max_delivery_count, self._attempts.get(queue, 0)
        if most < attempts:
            raise ConfigurationError(
                f"queues.{queue}.max_delivery_count: the queue dead-letters a message after {most} "
                f"deliveries, and its handler may try it {attempts} times "
                "(pipelines.NAME.retry.max_attempts): let it have more, or try less often"
            )

    async def depth(self, queue: str) -> Depth:
        """How old the oldest message is, and how many scheduled ones are seen; there may be more.

        Counts need the management endpoint and its rights.
        """
        self._guard.check()
        settings = self._settings(queue)
        if settings.topic is not None and settings.subscription is None:
            return Depth()
        return await self._peeks_at(queue, settings).depth()

    def _peeks_at(self, queue: str, settings: AzureQueue) -> Peeks:
        """What peeks at a queue; it connects when it is used."""
        found = self._peeks.get(queue)
        if found is None:
            found = self._peeks[queue] = Peeks(self._sdk, settings, self._clock)
        return found

    def figures(self) -> dict[str, int]:
        """How many links are open, a connection each."""
        return {"links_in_use": len(self._open) + len(self._peeks), **self._counts}

    async def close(self) -> None:
        """Close every sender and receiver, then the client; idempotent."""
        self._guard.close()
        closing = [each.close() for each in list(self._open)]
        closing += [peeks.close() for peeks in self._peeks.values()]
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, QueueError):
                _log.warning("closing: %s", result)
            elif isinstance(result, BaseException):
                raise result
        self._peeks.clear()
        await self._sdk.close()

    def _made(self, what: str) -> Guard:
        guard = Guard(what, self._sdk.limits.send)
        guard.bind()
        return guard

    def _settings(self, queue: str) -> AzureQueue:
        return keys_of(self._queues, queue)
