"""How a delivery ends: complete, release, abandon, dead-letter, defer; and what comes again."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import MessageNotFound, QueueError, Unsupported, ValidationError
from pipeline.message import Delivery, Message
from pipeline.names import ReceiptHandle
from pipeline.outcomes import Reason
from tests.contract.parts.bench import Contract, bodies, needs, now


class SettlingContract(Contract):
    """Every ending of a delivery, and what each does to its count."""

    @pytest.mark.spec("P2", "P14")
    async def test_a_completed_message_is_gone(self) -> None:
        """By its delivery or by its receipt; nothing of it is left."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message(), self.message()])
            first, second = await self.several(client, bench.queue, 2)
            assert await client.complete(first) == {}
            assert await client.complete(second.receipt) == {}
            await self.nothing(client, bench.queue)
            depth = await client.depth(bench.queue)
            assert not depth.available
            assert not depth.dead_lettered

    @pytest.mark.spec("P14")
    @pytest.mark.parametrize("second", ["complete", "abandon", "release", "dead_letter", "renew"])
    @pytest.mark.parametrize("first", ["complete", "abandon", "release", "dead_letter"])
    async def test_settling_twice_is_message_not_found(self, first: str, second: str) -> None:
        """However it was settled, and whatever is tried then."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            endings = {
                "complete": lambda: client.complete(delivery),
                "abandon": lambda: client.abandon(delivery),
                "release": lambda: client.release(delivery),
                "dead_letter": lambda: client.dead_letter(delivery, Reason.REJECTED),
                "renew": lambda: client.renew(delivery),
            }
            await endings[first]()
            with pytest.raises(MessageNotFound):
                await endings[second]()

    @pytest.mark.spec("P2", "P3")
    async def test_several_are_settled_in_one_call_with_a_result_each(self) -> None:
        """The failures come back by position; the others are settled."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message() for _ in range(4)])
            found = await self.several(client, bench.queue, 4)
            await client.complete(found[1])
            failures = await client.complete([*found, found[3]])
            assert {at: type(error) for at, error in failures.items()} == {
                1: MessageNotFound,
                4: MessageNotFound,
            }
            assert await client.complete([]) == {}
            await self.nothing(client, bench.queue)

    @pytest.mark.spec("M1", "P14")
    async def test_a_receipt_is_good_only_in_the_client_that_received(self) -> None:
        """Elsewhere it is `MessageNotFound`, and the message stays whose it is."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            with pytest.raises(MessageNotFound):
                await other.complete(delivery)
            with pytest.raises(MessageNotFound):
                await client.complete(ReceiptHandle("made-up"))
            assert await client.complete(delivery) == {}

    @pytest.mark.spec("M1", "P10")
    async def test_what_is_no_receipt_is_refused(self) -> None:
        """Plain text, a peeked message, a negative delay: the error says what to do."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            unsettleable = Delivery(delivery._batch, 0)
            for wrong in ("text", [b"bytes"], unsettleable, [delivery, None]):
                with pytest.raises(ValidationError):
                    await client.complete(wrong)  # type: ignore[arg-type]
            with pytest.raises(ValidationError, match="delay"):
                await client.abandon(delivery, delay=-1)
            await client.complete(delivery)

    @pytest.mark.spec("P14", "H5")
    async def test_a_released_message_comes_again_at_once(self) -> None:
        """Nobody handled it: on `count: on_failure` the count stays."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message(b"again"))
            first = await self.one(client, bench.queue)
            await client.release(first)
            second = await self.one(client, bench.queue)
            assert (second.id, second.body) == (first.id, b"again")
            assert second.delivery_count == self.count_after(failures=0, receives=2)
            assert (second.delivery_count > 1) == self.declared.release_counts
            await client.complete(second)

    @pytest.mark.spec("P14")
    async def test_an_abandoned_message_comes_again_and_counts(self) -> None:
        """It failed: the count grows everywhere."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            for attempt in (1, 2, 3):
                delivery = await self.one(client, bench.queue)
                assert delivery.delivery_count == attempt
                await client.abandon(delivery)
            await client.complete(await self.one(client, bench.queue))

    @pytest.mark.spec("P14")
    @needs("abandon_delay")
    async def test_an_abandoned_message_can_be_delayed(self) -> None:
        """It comes when the delay is over, and not before."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            start = now()
            await client.abandon(await self.one(client, bench.queue), delay=3 * self.soon)
            await self.nothing(client, bench.queue)
            [again] = await client.receive(bench.queue, 1, 10 * self.soon)
            assert now() - start >= 3 * self.soon - 1
            assert again.delivery_count == 2
            await client.complete(again)

    @pytest.mark.spec("P2", "P14")
    async def test_a_delay_that_the_service_cannot_keep_is_refused(self) -> None:
        """It is `Unsupported`, and the message stays in hand."""
        if self.declared.abandon_delay:
            pytest.skip(f"{self.declared.provider} can delay an abandoned message")
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            with pytest.raises(Unsupported):
                await client.abandon(delivery, delay=5)
            assert await client.complete(delivery) == {}

    @pytest.mark.spec("P2", "R3", "M2")
    async def test_a_dead_letter_keeps_everything_and_says_why(self) -> None:
        """It is read back from the dead-letter queue, and completed there for good."""
        async with self.open() as bench:
            [client] = bench.clients
            session = "s" if self.ordered else None
            sent = Message(
                bytes(range(256)),
                id="poison",
                session=session,
                correlation_id="call-9",
                content_type="application/octet-stream",
                attributes={"kind": "departure"},
            )
            await client.send(bench.queue, sent)
            delivery = await self.one(client, bench.queue)
            await client.dead_letter(delivery, Reason.REJECTED, '{"error":"no such aircraft"}')
            await self.nothing(client, bench.queue)
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert dead.message == sent
            assert dead.dead_letter_reason == "rejected"
            assert dead.dead_letter_description == '{"error":"no such aircraft"}'
            await client.release(dead)
            again = await self.one(client, bench.queue, dead_letters=True)
            await client.renew(again)
            await client.complete(again)
            await self.nothing(client, bench.queue, dead_letters=True)

    @pytest.mark.spec("P2", "R3")
    async def test_a_reason_that_is_no_text_is_written_as_one(self) -> None:
        """A file's name that is not UTF-8, say: half a surrogate pair goes there as an escape."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            await client.dead_letter(delivery, "bad\udce9", "no file a\udce9")
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert dead.dead_letter_reason == "bad\\udce9"
            assert dead.dead_letter_description == "no file a\\udce9"
            await client.complete(dead)

    @pytest.mark.spec("P2")
    async def test_many_are_dead_lettered_in_one_call(self) -> None:
        """One reason for all of them; the dead-letter queue has no sessions to wait for."""
        async with self.open() as bench:
            [client] = bench.clients
            session = "s" if self.ordered else None
            messages = [self.message(str(number).encode(), session) for number in range(5)]
            await client.send_many(bench.queue, messages)
            found = await self.several(client, bench.queue, 5)
            assert await client.dead_letter(found, "no_handler") == {}
            dead = await self.several(client, bench.queue, 5, dead_letters=True)
            assert sorted(bodies(dead)) == [b"0", b"1", b"2", b"3", b"4"]
            assert {one.dead_letter_reason for one in dead} == {"no_handler"}
            await client.complete(dead)

    @pytest.mark.spec("P11", "P14")
    async def test_a_message_that_was_delivered_too_often_is_dead_lettered(self) -> None:
        """After `max_deliveries` counted deliveries the service does it, with its reason."""
        async with self.open(max_deliveries=2) as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message(b"poison"))
            for _ in range(2):
                await client.abandon(await self.one(client, bench.queue))
            await self.nothing(client, bench.queue)
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert dead.body == b"poison"
            if self.keeps_reasons:
                assert dead.dead_letter_reason == Reason.MAX_DELIVERIES
            await client.complete(dead)

    @pytest.mark.spec("M2", "P11")
    @pytest.mark.parametrize("own", [True, False], ids=["the message's", "the queue's"])
    async def test_a_message_that_nobody_read_in_time_is_dead_lettered(self, own: bool) -> None:
        """Its own time to live, or the queue's: `expired`."""
        lives = 2 * self.soon
        async with self.open(time_to_live=None if own else lives) as bench:
            [client] = bench.clients
            message = self.message(b"stale", time_to_live=lives if own else None)
            await client.send(bench.queue, message)
            await self.sleep(lives + 1)
            await self.nothing(client, bench.queue)
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert dead.body == b"stale"
            if self.keeps_reasons:
                assert dead.dead_letter_reason == Reason.EXPIRED
            await client.complete(dead)

    @pytest.mark.spec("M2", "P11")
    async def test_a_message_in_hand_is_judged_when_it_is_given_back(self) -> None:
        """It can be completed past its time to live, but is not delivered again."""
        async with self.open() as bench:
            [client] = bench.clients
            lives = 2 * self.soon
            for body in (b"done", b"stale"):
                await client.send(bench.queue, self.message(body, time_to_live=lives))
            found = await self.several(client, bench.queue, 2)
            done, stale = sorted(found, key=lambda one: one.body)
            await self.sleep(lives + 1)
            assert await client.complete(done) == {}
            assert await client.release(stale) == {}
            await self.nothing(client, bench.queue)
            dead = await self.one(client, bench.queue, dead_letters=True)
            assert dead.body == b"stale"
            await client.complete(dead)

    @pytest.mark.spec("M2", "P11")
    async def test_an_expired_message_can_be_dropped(self) -> None:
        """With `on_expiry: drop` it is nowhere."""
        async with self.open(on_expiry="drop") as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message(time_to_live=self.soon))
            await self.sleep(self.soon + 1)
            await self.nothing(client, bench.queue)
            await self.nothing(client, bench.queue, dead_letters=True)

    @pytest.mark.spec("P2")
    @needs("defer", "unordered delivery")
    async def test_a_deferred_message_comes_only_when_it_is_asked_for(self) -> None:
        """By its sequence; one that is not set aside is `MessageNotFound`, and none is received."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message(b"1"), self.message(b"2")])
            found = await self.several(client, bench.queue, 2)
            assert await client.defer(found) == {}
            await self.nothing(client, bench.queue)
            sequences = [one.sequence for one in found]
            with pytest.raises(MessageNotFound):
                await client.receive_deferred(bench.queue, [*sequences, max(sequences) + 99])
            back = await client.receive_deferred(bench.queue, sequences)
            assert sorted(bodies(back)) == [b"1", b"2"]
            with pytest.raises(MessageNotFound):
                await client.receive_deferred(bench.queue, sequences[:1])
            await client.complete(back)
            with pytest.raises(MessageNotFound):
                await client.receive_deferred(bench.queue, sequences[:1])

    @pytest.mark.spec("P2")
    @needs("peek")
    async def test_peeking_reads_in_order_and_locks_nothing(self) -> None:
        """From a sequence on; what was peeked has no receipt and can still be received."""
        async with self.open() as bench:
            [client] = bench.clients
            session = "s" if self.ordered else None
            assert await client.peek(bench.queue) == []
            for body in (b"1", b"2", b"3"):
                await client.send(bench.queue, self.message(body, session))
            first, second = await client.peek(bench.queue, 2)
            assert bodies([first, second]) == [b"1", b"2"]
            rest = await client.peek(bench.queue, 10, after=second.sequence)
            assert bodies(rest) == [b"3"]
            with pytest.raises(ValidationError, match="receipt"):
                await client.complete(first)
            found = await self.several(client, bench.queue, 3)
            assert bodies(found) == [b"1", b"2", b"3"]
            assert [one.delivery_count for one in found] == [1, 1, 1]
            await client.dead_letter(found[0], "rejected")
            assert bodies(await client.peek(bench.queue, 10, dead_letters=True)) == [b"1"]
            await client.complete(found[1:])

    @pytest.mark.spec("P2")
    @needs("exact_depth")
    async def test_the_depth_says_where_every_message_is(self) -> None:
        """Available, in hand, scheduled, deferred, dead-lettered, and the oldest one's age."""
        async with self.open() as bench:
            [client] = bench.clients
            empty = await client.depth(bench.queue)
            assert (empty.available, empty.in_hand, empty.oldest_age) == (0, 0, None)
            await client.send_many(bench.queue, [self.message() for _ in range(3)])
            await self.sleep(5)
            in_hand, dead = await self.several(client, bench.queue, 2)
            await client.dead_letter(dead, "rejected")
            depth = await client.depth(bench.queue)
            assert (depth.available, depth.in_hand, depth.dead_lettered) == (1, 1, 1)
            assert depth.oldest_age is not None
            assert 5 <= depth.oldest_age <= 5 + 10
            await client.complete(in_hand)

    @pytest.mark.spec("P2", "P10")
    async def test_a_dead_letter_can_not_be_set_aside(self) -> None:
        """Nobody could ask for it again; it stays in hand, to be completed."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message(b"x"))
            await client.dead_letter(await self.one(client, bench.queue), "rejected")
            dead = await self.one(client, bench.queue, dead_letters=True)
            with pytest.raises(Unsupported, match=r"defer.*renew it"):
                await client.defer(dead)
            assert await client.complete(dead) == {}
            await self.nothing(client, bench.queue, dead_letters=True)

    @pytest.mark.spec("P2", "P10")
    async def test_what_is_unsupported_says_so(self) -> None:
        """`Unsupported` names the operation and the provider; nothing is silently left out."""
        able = self.declared
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            calls = {
                "session_state": lambda: client.accept_session(bench.queue, wait=0),
                "defer": lambda: client.defer(delivery),
                "peek": lambda: client.peek(bench.queue),
                "cancel_scheduled": lambda: client.cancel_scheduled(bench.queue, 1),
            }
            for capability, call in calls.items():
                if not getattr(able, capability):
                    with pytest.raises(Unsupported) as caught:
                        await call()
                    assert caught.value.operation
                    assert able.provider in caught.value.provider
            await client.complete(delivery)

    @pytest.mark.spec("P7", "F2")
    async def test_many_tasks_share_one_client(self) -> None:
        """Each message is received by one of them, and each is settled once."""
        async with self.open() as bench:
            [client] = bench.clients
            seen: list[bytes] = []

            async def send(part: int) -> None:
                for number in range(10):
                    await client.send(bench.queue, self.message(b"%d-%d" % (part, number)))

            async def work() -> None:
                while len(seen) < 100:
                    for delivery in await client.receive(bench.queue, 3, self.soon):
                        await asyncio.sleep(0)
                        seen.append(delivery.body)
                        await client.complete(delivery)

            async with asyncio.TaskGroup() as group:
                for part in range(10):
                    group.create_task(send(part))
                for _ in range(20):
                    group.create_task(work())
            assert sorted(seen) == sorted(b"%d-%d" % (p, n) for p in range(10) for n in range(10))
            await self.nothing(client, bench.queue)

    @pytest.mark.spec("P7", "P14")
    async def test_two_tasks_that_settle_one_message_settle_it_once(self) -> None:
        """One of them is told that it was too late."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            answers = await asyncio.gather(
                client.complete(delivery), client.complete(delivery), return_exceptions=True
            )
            kinds = [type(answer) for answer in answers]
            assert sorted(kinds, key=str) == sorted([dict, MessageNotFound], key=str)
            assert all(isinstance(answer, dict | QueueError) for answer in answers)
