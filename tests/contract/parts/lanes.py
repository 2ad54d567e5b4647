"""Receiving lanes as a receiver actor has them, each of a provider of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pipeline.message import Message
from pipeline.providers.port import Provider, Received, Receiver, Want
from tests.contract.parts.bench import Bench, Contract


@dataclass
class Lane:
    """A receiving lane as a receiver actor has it."""

    receiver: Receiver
    soon: float
    held: dict[int, str] = field(default_factory=dict)

    async def bodies(self, most: int = 10) -> list[bytes]:
        """What comes soon."""
        return list((await self.receive(most)).batch.values("body"))

    async def receive(self, most: int = 10) -> Received:
        """The same, with its receipts."""
        received = await self.receiver.receive(
            Want(
                messages=most,
                wait=self.soon,
                new_sessions=10,
                held=dict.fromkeys(self.held, most),
            )
        )
        self.held |= {holding.number: holding.session for holding in received.opened}
        return received

    async def complete(self, received: Received) -> None:
        """All of it."""
        assert await self.receiver.complete(received.receipts) == {}
        await self.close()

    async def close(self) -> None:
        """Give everything back that can be."""
        if self.held:
            await self.receiver.release_sessions(list(self.held))
        await self.receiver.close()


class LaneContract(Contract):
    """What its tests are written with."""

    @asynccontextmanager
    async def _providers(self, bench: Bench, count: int) -> AsyncIterator[list[Provider]]:
        """So many, each as in a process of its own."""
        providers = [bench.provider() for _ in range(count)]
        for provider in providers:
            await provider.start()
        yield providers
        for provider in providers:
            await provider.close()

    async def _lane(self, provider: Provider, queue: str, owner: str, **options: bool) -> Lane:
        return Lane(await provider.receiver(queue, owner=owner, **options), self.soon)

    async def _send(self, bench: Bench, *texts: bytes) -> None:
        [client] = bench.clients
        session = "s" if self.ordered else None
        results = await client.send_many(
            bench.queue, [Message(text, session=session) for text in texts]
        )
        assert not any(isinstance(result, Exception) for result in results)
