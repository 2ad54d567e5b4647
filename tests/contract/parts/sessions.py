"""Order inside a session, whether the service locks sessions (NATIVE) or blocks groups."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.client import QueueClient
from pipeline.errors import ValidationError
from pipeline.message import Message
from pipeline.providers.port import Sent
from tests.contract.parts.bench import Contract, bodies, needs


async def send(client: QueueClient, queue: str, session: str, *texts: bytes) -> None:
    """Send some bodies in one session."""
    results = await client.send_many(queue, [Message(text, session=session) for text in texts])
    assert all(isinstance(result, Sent) for result in results)


class SessionContract(Contract):
    """What every service with sessions keeps, for a client that only receives."""

    @pytest.mark.spec("F3", "P5")
    @needs("sessions")
    async def test_a_session_comes_in_order(self) -> None:
        """Whatever is received at once, and however sessions are mixed at the sender."""
        async with self.open() as bench:
            [client] = bench.clients
            for number in range(12):
                for session in ("a", "b", "c"):
                    await send(client, bench.queue, session, b"%02d" % number)
            seen: dict[str, list[bytes]] = {"a": [], "b": [], "c": []}
            while deliveries := await client.receive(bench.queue, 5, self.soon):
                for delivery in deliveries:
                    seen[str(delivery.session)].append(delivery.body)
                await client.complete(deliveries)
            assert seen == {key: [b"%02d" % number for number in range(12)] for key in "abc"}

    @pytest.mark.spec("F3", "P14")
    @needs("sessions")
    async def test_a_session_is_blocked_while_one_of_its_messages_is_in_hand(self) -> None:
        """Nobody gets its next ones, not even who has it; others' sessions go on."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1", b"2", b"3")
            first = await self.one(client, bench.queue)
            await self.nothing(other, bench.queue)
            await self.nothing(client, bench.queue)
            await send(client, bench.queue, "t", b"free")
            free = await self.one(other, bench.queue)
            assert free.body == b"free"
            await other.complete(free)
            await client.complete(first)
            rest = await self.several(other, bench.queue, 2)
            assert bodies(rest) == [b"2", b"3"]
            await other.complete(rest)

    @pytest.mark.spec("F3")
    @needs("sessions")
    async def test_a_session_stays_blocked_until_all_that_came_of_it_is_settled(self) -> None:
        """The first of three completed is not enough."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1", b"2", b"3", b"4")
            found = await client.receive(bench.queue, 3, self.soon)
            assert bodies(found) == [b"1", b"2", b"3"][: len(found)]
            for delivery in found:
                await self.nothing(other, bench.queue)
                await client.complete(delivery)
            rest = await self.several(other, bench.queue, 4 - len(found))
            assert bodies(rest)[-1] == b"4"
            await other.complete(rest)

    @pytest.mark.spec("F3", "P14")
    @pytest.mark.parametrize("ending", ["release", "abandon"])
    @needs("sessions")
    async def test_what_is_given_back_comes_first_again(self, ending: str) -> None:
        """The head of the session, before those behind it."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2", b"3")
            first = await self.one(client, bench.queue)
            await (client.release(first) if ending == "release" else client.abandon(first))
            found = await self.several(client, bench.queue, 3)
            assert bodies(found) == [b"1", b"2", b"3"]
            await client.complete(found)

    @pytest.mark.spec("F3", "P14")
    @needs("sessions")
    async def test_several_that_are_given_back_come_in_order(self) -> None:
        """Given back in any order, one by one, and those behind them after them."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2", b"3", b"4", b"5")
            found = await client.receive(bench.queue, 4, self.soon)
            for delivery in reversed(found):
                await client.release(delivery)
            again = await self.several(client, bench.queue, 5)
            assert bodies(again) == [b"1", b"2", b"3", b"4", b"5"]
            await client.complete(again)

    @pytest.mark.spec("F3", "P11")
    @needs("sessions")
    async def test_a_session_goes_on_in_order_after_its_lock_ended(self) -> None:
        """What was in the lost hand comes first."""
        async with self.open(lock=self.lock) as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1", b"2", b"3")
            await client.receive(bench.queue, 2, self.soon)
            await self.sleep(self.lock + 1)
            found = await self.several(other, bench.queue, 3)
            assert bodies(found) == [b"1", b"2", b"3"]
            await other.complete(found)

    @pytest.mark.spec("F3")
    @needs("sessions")
    async def test_a_session_goes_on_after_one_was_dead_lettered(self) -> None:
        """The ones behind it aren't affected."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2", b"3")
            await client.dead_letter(await self.one(client, bench.queue), "rejected")
            found = await self.several(client, bench.queue, 2)
            assert bodies(found) == [b"2", b"3"]
            await client.complete(found)
            await client.complete(await self.one(client, bench.queue, dead_letters=True))

    @pytest.mark.spec("P4", "P5")
    @needs("sessions")
    async def test_sessions_are_received_in_parallel(self) -> None:
        """Two clients each have one in hand at the same time."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "a", b"a1", b"a2")
            await send(client, bench.queue, "b", b"b1", b"b2")
            mine = await self.one(client, bench.queue)
            theirs = await self.one(other, bench.queue)
            assert {mine.body, theirs.body} == {b"a1", b"b1"}
            await client.complete(mine)
            await other.complete(theirs)
            rest = await self.several(client, bench.queue, 2)
            assert sorted(bodies(rest)) == [b"a2", b"b2"]
            await client.complete(rest)

    @pytest.mark.spec("F3", "P7")
    @needs("sessions")
    async def test_many_tasks_keep_a_sessions_order(self) -> None:
        """No two messages of a session are in hand at once, and none overtakes."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            sessions = [f"s{number}" for number in range(5)]
            for session in sessions:
                await send(client, bench.queue, session, *[b"%02d" % n for n in range(8)])
            seen: dict[str, list[bytes]] = {session: [] for session in sessions}
            busy: set[str] = set()

            async def work(mine: QueueClient) -> None:
                while sum(map(len, seen.values())) < 40:
                    for delivery in await mine.receive(bench.queue, 1, self.soon):
                        session = str(delivery.session)
                        assert session not in busy
                        busy.add(session)
                        await asyncio.sleep(0.01)
                        seen[session].append(delivery.body)
                        busy.remove(session)
                        await mine.complete(delivery)

            async with asyncio.TaskGroup() as group:
                for number in range(10):
                    group.create_task(work(client if number % 2 else other))
            assert seen == {key: [b"%02d" % number for number in range(8)] for key in sessions}

    @pytest.mark.spec("P5")
    @needs("sessions")
    async def test_a_message_without_a_session_is_refused_on_an_ordered_queue(self) -> None:
        """A `ValidationError` at send that names the way out; the others go."""
        async with self.open() as bench:
            [client] = bench.clients
            with pytest.raises(ValidationError, match="sessionless"):
                await client.send(bench.queue, Message(b"nowhere"))
            results = await client.send_many(
                bench.queue, [Message(b"x"), Message(b"y", session="s")]
            )
            assert [type(result) for result in results] == [ValidationError, Sent]
            await client.complete(await self.one(client, bench.queue))

    @pytest.mark.spec("P5")
    @needs("sessions")
    async def test_a_message_without_a_session_can_be_spread(self) -> None:
        """Into one of 64 sessions by its id: equal ids meet, and order holds inside each."""
        async with self.open(sessionless="spread") as bench:
            [client] = bench.clients
            for number in range(100):
                # Where the service drops what it takes for duplicates, these are none.
                message = Message(
                    b"%02d" % number, id=f"m{number % 25}", deduplication_id=f"d{number}"
                )
                await client.send(bench.queue, message)
            seen: dict[str, list[bytes]] = {}
            by_id: dict[str, set[str]] = {}
            while deliveries := await client.receive(bench.queue, 10, self.soon):
                for delivery in deliveries:
                    session = str(delivery.session)
                    seen.setdefault(session, []).append(delivery.body)
                    by_id.setdefault(str(delivery.id), set()).add(session)
                await client.complete(deliveries)
            assert sum(map(len, seen.values())) == 100
            assert 8 < len(seen) <= 25
            assert all(found == sorted(found) for found in seen.values())
            assert all(len(sessions) == 1 for sessions in by_id.values())

    @pytest.mark.spec("P4")
    @needs("unordered delivery")
    async def test_a_session_on_an_unordered_queue_is_only_a_label(self) -> None:
        """It comes back as sent and blocks nothing."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2")
            found = [await self.one(client, bench.queue), await self.one(client, bench.queue)]
            assert {str(one.session) for one in found} == {"s"}
            await client.complete(found)

    @pytest.mark.spec("P14", "F5")
    @needs("message groups")
    async def test_one_receive_brings_several_of_a_group_in_order(self) -> None:
        """As SQS FIFO does: the group is blocked until all of them are settled."""
        async with self.open() as bench:
            [client] = bench.clients
            await send(client, bench.queue, "s", b"1", b"2", b"3", b"4")
            found = await client.receive(bench.queue, 3, self.soon)
            assert bodies(found) == [b"1", b"2", b"3"]
            await client.complete(found[0])
            await client.release(found[2])
            await self.nothing(client, bench.queue)
            await client.release(found[1])
            again = await self.several(client, bench.queue, 3)
            assert bodies(again) == [b"2", b"3", b"4"]
            await client.complete(again)
