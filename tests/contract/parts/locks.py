"""Locks on messages: they end, they are renewed, and what comes after is known without a call."""

from __future__ import annotations

import pytest

from pipeline.errors import MessageLockLost, MessageNotFound
from tests.contract.parts.bench import Contract, bodies, needs


class LockContract(Contract):
    """Expiry, renewal, and settling too late."""

    @pytest.mark.spec("P11", "P13", "F2")
    async def test_a_message_comes_again_when_its_lock_ends(self) -> None:
        """To anybody; its count grows."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            other = await bench.another()
            await client.send(bench.queue, self.message(b"again"))
            await self.one(client, bench.queue)
            await self.nothing(other, bench.queue)
            await self.sleep(self.lock)
            again = await self.one(other, bench.queue)
            assert (again.body, again.delivery_count) == (b"again", 2)
            assert await other.complete(again) == {}

    @pytest.mark.spec("P14")
    @pytest.mark.parametrize("ending", ["complete", "abandon", "release", "dead_letter", "renew"])
    async def test_settling_too_late_is_message_lock_lost(self, ending: str) -> None:
        """Whatever is tried, and also when it was received anew by the same client."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            endings = {
                "complete": lambda: client.complete(delivery),
                "abandon": lambda: client.abandon(delivery),
                "release": lambda: client.release(delivery),
                "dead_letter": lambda: client.dead_letter(delivery, "rejected"),
                "renew": lambda: client.renew(delivery),
            }
            await self.sleep(self.lock + 1)
            with pytest.raises(MessageLockLost):
                await endings[ending]()
            again = await self.one(client, bench.queue)
            with pytest.raises(MessageLockLost):
                await endings[ending]()
            assert await client.complete(again) == {}
            with pytest.raises(MessageNotFound):
                await client.complete(again)

    @pytest.mark.spec("P2", "P13")
    async def test_a_renewed_lock_holds(self) -> None:
        """By the queue's lock duration from the renewal, again and again."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            other = await bench.another()
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            for _ in range(4):
                await self.sleep(self.lock * 0.6)
                assert await client.renew(delivery) == {}
            await self.nothing(other, bench.queue)
            assert await client.complete(delivery) == {}
            await self.sleep(self.lock + 1)
            await self.nothing(other, bench.queue)

    @pytest.mark.spec("P2", "P13")
    async def test_a_renewed_lock_still_ends(self) -> None:
        """Renewing once is not for ever."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            await self.sleep(self.lock * 0.6)
            await client.renew(delivery)
            await self.sleep(self.lock + 1)
            with pytest.raises(MessageLockLost):
                await client.complete(delivery)
            await client.complete(await self.one(client, bench.queue))

    @pytest.mark.spec("P3", "P13")
    async def test_many_locks_are_renewed_in_one_call(self) -> None:
        """The failures come back by position; the others hold."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message() for _ in range(3)])
            found = await self.several(client, bench.queue, 3)
            await client.complete(found[1])
            await self.sleep(self.lock * 0.6)
            failures = await client.renew(found)
            assert {at: type(error) for at, error in failures.items()} == {1: MessageNotFound}
            await self.sleep(self.lock * 0.6)
            assert await client.complete([found[0], found[2]]) == {}

    @pytest.mark.spec("P13", "P14")
    async def test_only_the_lock_that_was_not_renewed_is_lost(self) -> None:
        """Its message comes again; the other stays in hand."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message(b"kept"), self.message(b"lost")])
            found = await self.several(client, bench.queue, 2)
            kept, lost = sorted(found, key=lambda one: one.body)
            await self.sleep(self.lock * 0.6)
            await client.renew(kept)
            await self.sleep(self.lock * 0.6)
            assert bodies([await self.one(client, bench.queue)]) == [b"lost"]
            failures = await client.complete([kept, lost])
            assert {at: type(error) for at, error in failures.items()} == {1: MessageLockLost}

    @pytest.mark.spec("P13")
    async def test_the_delivery_says_until_when_it_is_locked(self) -> None:
        """As calendar time, from the queue's lock duration."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            left = delivery.lock.locked_until.timestamp() - bench.clock.now()
            assert self.lock - 2 <= left <= self.lock + 2
            await client.complete(delivery)

    @pytest.mark.spec("P2")
    @needs("defer", "unordered delivery")
    async def test_a_deferred_message_whose_lock_ends_is_aside_again(self) -> None:
        """It does not slip back among the others."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            await client.defer(delivery)
            await client.receive_deferred(bench.queue, [delivery.sequence])
            await self.sleep(self.lock + 1)
            await self.nothing(client, bench.queue)
            [back] = await client.receive_deferred(bench.queue, [delivery.sequence])
            await client.complete(back)
