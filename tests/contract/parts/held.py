"""A session that a client holds (NATIVE): exclusive, for as long as its lock lasts."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import (
    Closed,
    MessageLockLost,
    MessageNotFound,
    SessionLocked,
    SessionLockLost,
    SessionNotFound,
    Unsupported,
)
from tests.contract.parts.bench import Contract, bodies, needs, now
from tests.contract.parts.sessions import send


class HeldSessionContract(Contract):
    """`accept_session` and what it gives."""

    @pytest.mark.spec("P4", "P2")
    async def test_holding_a_session_where_none_can_be_locked_is_unsupported(self) -> None:
        """It says what to use instead."""
        if self.declared.sessions == "native":
            pytest.skip(f"{self.declared.provider} locks sessions")
        async with self.open() as bench:
            [client] = bench.clients
            with pytest.raises(Unsupported, match="use receive") as caught:
                await client.accept_session(bench.queue, "s")
            assert caught.value.operation == "accept_session"
            assert self.declared.provider in caught.value.provider

    @pytest.mark.spec("P2", "P4")
    @needs("native sessions")
    async def test_a_held_session_brings_its_messages_in_order(self) -> None:
        """Those that came before and those that come while it is held, and no others."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            await send(client, bench.queue, "t", b"other")
            async with await client.accept_session(bench.queue, "s") as held:
                assert (held.session, held.queue) == ("s", bench.queue)
                first = await held.receive(10, self.soon)
                assert bodies(first) == [b"1", b"2"]
                await send(client, bench.queue, "s", b"3")
                [third] = await held.receive(10, self.soon)
                await held.complete([*first, third])
                assert await held.receive(10, self.soon) == []
            other = await self.one(client, bench.queue)
            assert other.body == b"other"
            await client.complete(other)

    @pytest.mark.spec("P2")
    @needs("native sessions")
    async def test_an_empty_session_can_be_held_by_name(self) -> None:
        """And waits for its first message."""
        async with self.open() as bench:
            [client] = bench.clients
            async with await client.accept_session(bench.queue, "new") as held:
                receiving = asyncio.create_task(held.receive(1, 20 * self.soon))
                await self.sleep(self.soon)
                await send(client, bench.queue, "new", b"1")
                await held.complete(await receiving)

    @pytest.mark.spec("P2")
    @needs("native sessions")
    async def test_the_next_free_session_is_one_with_messages(self) -> None:
        """`SessionNotFound` when none came free within the wait."""
        async with self.open() as bench:
            [client] = bench.clients
            start = now()
            with pytest.raises(SessionNotFound):
                await client.accept_session(bench.queue, wait=self.soon)
            assert self.soon * 0.9 <= now() - start <= self.soon + 5
            accepting = asyncio.create_task(client.accept_session(bench.queue))
            await self.sleep(self.soon)
            await send(client, bench.queue, "s", b"1")
            async with await accepting as held:
                assert held.session == "s"
                with pytest.raises(SessionNotFound):
                    await client.accept_session(bench.queue, wait=self.soon)
                await held.complete(await held.receive())

    @pytest.mark.spec("P11", "F3")
    @needs("native sessions")
    async def test_a_held_session_is_nobody_elses(self) -> None:
        """A second accepter is told `SessionLocked` after its wait; nobody receives of it."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1")
            async with await client.accept_session(bench.queue, "s"):
                start = now()
                with pytest.raises(SessionLocked) as caught:
                    await other.accept_session(bench.queue, "s", wait=self.soon)
                assert caught.value.transient
                assert now() - start <= self.soon + 5, "the wait was the retry"
                await self.nothing(other, bench.queue)
                await self.nothing(client, bench.queue)
                waiting = asyncio.create_task(other.accept_session(bench.queue, "s"))
                await self.sleep(self.soon)
            async with await waiting as held:
                await held.complete(await held.receive())

    @pytest.mark.spec("P2", "P14")
    @needs("native sessions")
    async def test_releasing_a_session_gives_its_messages_back_uncounted(self) -> None:
        """What was in hand comes again in order; its receipts and the session are done with."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2", b"3")
            held = await client.accept_session(bench.queue, "s")
            first, second = await held.receive(2, self.soon)
            await held.complete(first)
            await held.release()
            await held.release()
            with pytest.raises(MessageNotFound):
                await client.complete(second)
            for call in (held.receive(), held.state(), held.renew(), held.receive_deferred([1])):
                with pytest.raises(Closed):
                    await call
            found = await self.several(client, bench.queue, 2)
            assert bodies(found) == [b"2", b"3"]
            assert found[0].delivery_count == self.count_after(failures=0, receives=2)
            await client.complete(found)

    @pytest.mark.spec("P2", "P14")
    @needs("native sessions", "single_release")
    async def test_one_message_of_a_held_session_can_be_given_back(self) -> None:
        """It is the next one that the holder receives."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            async with await client.accept_session(bench.queue, "s") as held:
                [first] = await held.receive()
                await client.release(first)
                found = await held.receive(10, self.soon)
                assert bodies(found) == [b"1", b"2"]
                await held.abandon(found)
                again = await held.receive(10, self.soon)
                assert bodies(again) == [b"1", b"2"]
                await held.dead_letter(again, "rejected")
            dead = await self.several(client, bench.queue, 2, dead_letters=True)
            await client.complete(dead)

    @pytest.mark.spec("P11", "P13", "P14")
    @needs("native sessions")
    async def test_a_session_whose_lock_ended_is_lost(self) -> None:
        """A second accepter has it; whatever the first one tries is refused, and harmless."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1", b"2")
            held = await client.accept_session(bench.queue, "s")
            [delivery] = await held.receive()
            async with await other.accept_session(bench.queue, "s", 2 * self.lock) as theirs:
                assert theirs.fence > held.fence
                with pytest.raises(MessageLockLost):
                    await held.complete(delivery)
                with pytest.raises(MessageLockLost):
                    await client.renew(delivery)
                for call in (held.receive(), held.state(), held.set_state(b"x"), held.renew()):
                    with pytest.raises(SessionLockLost):
                        await call
                await held.release()
                found = await theirs.receive(10, self.soon)
                assert bodies(found) == [b"1", b"2"]
                assert [one.delivery_count for one in found] == [2, 1]
                assert await theirs.state() is None
                await theirs.complete(found)

    @pytest.mark.spec("P13")
    @needs("native sessions")
    async def test_a_renewed_session_is_kept_with_all_its_messages(self) -> None:
        """By the session, or by any of its messages."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            async with await client.accept_session(bench.queue, "s") as held:
                first, second = await held.receive(2, self.soon)
                await self.sleep(self.lock * 0.6)
                until = await held.renew()
                assert abs((until - held.locked_until).total_seconds()) < 1
                left = until.timestamp() - bench.clock.now()
                assert self.lock - 2 <= left <= self.lock + 2
                await self.sleep(self.lock * 0.6)
                await client.renew(first)
                await self.sleep(self.lock * 0.6)
                assert await held.complete([first, second]) == {}

    @pytest.mark.spec("P13")
    @needs("native sessions")
    async def test_renewing_one_message_keeps_its_session(self) -> None:
        """Also where `receive` opened it: the lock is the session's."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            first, second = await self.several(client, bench.queue, 2)
            await self.sleep(self.lock * 0.6)
            await client.renew(first)
            await self.sleep(self.lock * 0.6)
            assert await client.complete([first, second]) == {}

    @pytest.mark.spec("P2")
    @needs("native sessions", "session_state")
    async def test_a_session_keeps_bytes_at_the_service(self) -> None:
        """They outlive the holding and belong to the session alone."""
        async with self.open() as bench:
            [client] = bench.clients
            async with await client.accept_session(bench.queue, "s") as held:
                assert await held.state() is None
                await held.set_state(bytes(range(256)))
            async with await client.accept_session(bench.queue, "t") as held:
                assert await held.state() is None
            async with await client.accept_session(bench.queue, "s") as held:
                assert await held.state() == bytes(range(256))
                await held.set_state(b"")
                assert await held.state() == b""
                await held.set_state(None)
            async with await client.accept_session(bench.queue, "s") as held:
                assert await held.state() is None

    @pytest.mark.spec("P2")
    @needs("native sessions", "defer")
    async def test_a_deferred_message_of_a_session_needs_the_session(self) -> None:
        """Its holder gets it back by its sequence; nobody else does."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            async with await client.accept_session(bench.queue, "s") as held:
                first, second = await held.receive(2, self.soon)
                await held.defer(first)
                with pytest.raises(MessageNotFound):
                    await client.receive_deferred(bench.queue, [first.sequence])
                await held.complete(second)
                assert await held.receive(10, self.soon) == []
                [back] = await held.receive_deferred([first.sequence])
                assert back.body == b"1"
                await held.complete(back)

    @pytest.mark.spec("P2", "P7")
    @needs("native sessions")
    async def test_receives_of_one_session_take_turns(self) -> None:
        """Two at once never see one message twice; who gets no turn in time gets nothing."""
        async with self.open() as bench:
            [client] = bench.clients
            async with await client.accept_session(bench.queue, "s") as held:
                long = asyncio.create_task(held.receive(1, 20 * self.soon))
                await asyncio.sleep(0)
                assert await held.receive(1, self.soon) == []
                second = asyncio.create_task(held.receive(1, 20 * self.soon))
                await send(client, bench.queue, "s", b"1", b"2")
                found = [*await long, *await second]
                assert bodies(found) == [b"1", b"2"]
                await held.complete(found)
