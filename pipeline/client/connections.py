"""The providers of a client: opened once, with a sender for each queue that is used."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from pipeline.client.lanes import Lane
from pipeline.config import RuntimeConfig
from pipeline.errors import QueueNotFound
from pipeline.names import QueueName
from pipeline.providers.port import Provider, Sender

Open: TypeAlias = Callable[[str], Provider]
"""Makes the provider of a connection, without I/O."""


@dataclass(slots=True, eq=False)
class Connections:
    """Which provider serves which queue.

    Args:
        config: the whole configuration.
        open: makes the provider of a connection.
    """

    config: RuntimeConfig
    open: Open
    _providers: dict[str, Provider] = field(default_factory=dict)
    _senders: dict[str, Sender] = field(default_factory=dict)
    _making: defaultdict[str, asyncio.Lock] = field(
        default_factory=lambda: defaultdict(asyncio.Lock)
    )

    async def start(self) -> None:
        """Open and start every connection that a queue uses, at once; all or none."""
        used = sorted({queue.connection for queue in self.config.queues.values()})
        try:
            self._providers = {name: self.open(name) for name in used}
            await asyncio.gather(*(provider.start() for provider in self._providers.values()))
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection: what is in hand is given back, sends under way may finish."""
        closing = [provider.close() for provider in self._providers.values()]
        self._senders.clear()
        await asyncio.gather(*closing)

    def provider(self, queue: str) -> tuple[QueueName, Provider]:
        """A queue's checked name, and the provider of its connection.

        Raises:
            QueueNotFound: the configuration names no such queue.
        """
        name = QueueName(queue)
        settings = self.config.queues.get(name)
        if settings is None:
            known = ", ".join(sorted(self.config.queues))
            raise QueueNotFound(f"the configuration names no queue {queue!r}; it names: {known}")
        return name, self._providers[settings.connection]

    async def sender(self, queue: str) -> Sender:
        """The one sender of a queue; the port lets many tasks use it at once."""
        name, provider = self.provider(queue)
        async with self._making[name]:
            if name not in self._senders:
                self._senders[name] = await provider.sender(name)
            return self._senders[name]

    async def lane(self, queue: str, *, dead_letters: bool = False) -> Lane:
        """A new lane of a queue, or of its dead letters."""
        name, provider = self.provider(queue)
        receiver = await provider.receiver(name, dead_letters=dead_letters)
        return Lane(name, receiver, provider.capabilities(name))
