"""Sealed bodies at every provider: nobody else reads them, and they open wherever they went."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.client import QueueClient
from pipeline.client.opening import ClientBodies
from pipeline.crypto.bodies import OwnBodies
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.envelope import is_sealed
from pipeline.crypto.freshness import Freshness
from pipeline.crypto.keys.memory import MemoryKeyProvider
from pipeline.crypto.plaintext import Plaintext
from pipeline.crypto.ring import KeyRing
from pipeline.crypto.rows import Opener, Sealer
from pipeline.errors import BodyAuthenticationFailed
from tests.contract.parts.bench import Bench, Contract, needs

_DELAY = 6.0


class SealedContract(Contract):
    """What a provider does with a message must not keep its body from being opened."""

    @asynccontextmanager
    async def _sealing(self, bench: Bench, max_age: float = 300.0) -> AsyncIterator[QueueClient]:
        """A client with a key."""
        client, clock = bench.make(), bench.clock
        ring = KeyRing(MemoryKeyProvider({"k": bytes(range(32))}, current="k"), clock=clock)
        crypto = AesGcm(ring, clock)
        fresh = Freshness(max_age, 1.0)
        bodies = OwnBodies(
            ring, Sealer(crypto, clock), Opener(crypto, fresh, Plaintext.REJECT, clock)
        )
        client._core.bodies = ClientBodies(bodies, client._core.bodies._queues)
        async with client:
            yield client

    @pytest.mark.spec("C1", "C4", "M2")
    async def test_a_sealed_body_is_opened_and_all_else_can_be_read(self) -> None:
        """Ids and attributes come as they were sent; a body doesn't fit another message."""
        async with self.open() as bench, self._sealing(bench) as client:
            plain = bench.clients[0]
            sent = self.message(
                b"two shoes", id="m-1", content_type="text/plain", attributes={"kind": "order"}
            )
            await client.send(bench.queue, sent)
            delivery = await self.one(client, bench.queue)
            assert delivery.message == sent
            assert delivery.sealed
            await client.complete(delivery)
            await client.send(bench.queue, self.message(b"two shoes", id="m-2"))
            seen = await self.one(plain, bench.queue)
            assert is_sealed(seen.body)
            await plain.complete(seen)
            await plain.send(bench.queue, replace(seen.message, id="m-3"))  # type: ignore[arg-type]
            moved = await self.one(client, bench.queue)
            assert isinstance(moved.refused, BodyAuthenticationFailed)
            await client.complete(moved)

    @pytest.mark.spec("C4", "P15", "R3")
    async def test_a_dead_letter_keeps_its_sealed_body_and_what_it_is_bound_to(self) -> None:
        """It opens in the dead-letter queue, and so does what is sent again from there."""
        async with self.open() as bench, self._sealing(bench) as client:
            sent = self.message(b"two shoes", id="m-1")
            await client.send(bench.queue, sent)
            await client.dead_letter(await self.one(client, bench.queue), "rejected", "no reason")
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert (dead.body, dead.id, dead.session) == (sent.body, sent.id, sent.session)
            await client.send(bench.queue, replace(dead.message, deduplication_id="again"))
            await client.complete(dead)
            again = await self.one(client, bench.queue)
            assert (again.body, again.id, again.session) == (sent.body, sent.id, sent.session)
            await client.complete(again)

    @pytest.mark.spec("C8", "M2")
    @needs("scheduling")
    async def test_a_scheduled_message_is_not_old_when_it_comes(self) -> None:
        """Whatever time the provider stamps it with."""
        async with self.open() as bench, self._sealing(bench, max_age=2.0) as client:
            start = datetime.fromtimestamp(bench.clock.now(), UTC) + timedelta(seconds=_DELAY)
            await client.send(bench.queue, self.message(b"later", not_before=start))
            [delivery] = await client.receive(bench.queue, wait=_DELAY + self.soon)
            assert delivery.body == b"later"
            await client.complete(delivery)
