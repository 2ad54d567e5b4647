"""Sending and plain receiving: what comes out is what went in, once."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest
from pydantic import BaseModel

from pipeline.client import json_message
from pipeline.errors import (
    MessageNotFound,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    ValidationError,
)
from pipeline.message import Message, TraceContext
from pipeline.providers.port import Sent
from tests.contract.parts.bench import Contract, bodies, needs, now


class Order(BaseModel):
    """A typed body."""

    lines: int


class SendingContract(Contract):
    """Sending, scheduling, duplicates, bounds, empty receives."""

    @pytest.mark.spec("M2", "P2")
    @pytest.mark.parametrize(
        "body",
        [b"", b"plain text", bytes(range(256)), b"\x00" * 1000, "żółw 🐢".encode()],
        ids=["empty", "text", "every-byte", "zeros", "utf-8"],
    )
    async def test_a_body_of_any_bytes_comes_back_unchanged(self, body: bytes) -> None:
        """Bodies are bytes, whatever the service carries."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message(body))
            delivery = await self.one(client, bench.queue)
            assert delivery.body == body
            await client.complete(delivery)

    @pytest.mark.spec("M1", "M2", "O2")
    async def test_everything_a_message_has_comes_back(self) -> None:
        """Id, session, attributes, correlation, content type, trace, and the rest."""
        async with self.open() as bench:
            [client] = bench.clients
            sent = Message(
                b"{}",
                id="order-7",
                session="customer-3",
                correlation_id="call-9",
                content_type="application/json",
                attributes={"kind": "departure", "empty": "", "unicode": "🛫 ß"},
                time_to_live=3600.0,
                deduplication_id="order-7/1",
                trace=TraceContext(
                    traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="vendor=1"
                ),
            )
            before = bench.clock.now()
            await client.send(bench.queue, sent)
            delivery = await self.one(client, bench.queue)
            assert delivery.message == sent
            assert delivery.queue == bench.queue
            assert delivery.delivery_count == 1
            assert delivery.sequence > 0
            assert before - 60 <= delivery.enqueued_at.timestamp() <= bench.clock.now() + 60
            assert delivery.lock.locked_until.timestamp() > bench.clock.now()
            assert delivery.dead_letter_reason is None
            await client.complete(delivery)

    @pytest.mark.spec("M2")
    async def test_the_longest_time_to_live_is_carried(self) -> None:
        """What a `Message` takes, every queue can take."""
        async with self.open() as bench:
            [client] = bench.clients
            sent = self.message(time_to_live=99_999_999_999.0)
            await client.send(bench.queue, sent)
            delivery = await self.one(client, bench.queue)
            assert delivery.message == sent
            await client.complete(delivery)

    @pytest.mark.spec("M2", "P2")
    @needs("scheduling")
    async def test_a_time_long_ago_is_now(self) -> None:
        """The first that there is."""
        async with self.open() as bench:
            [client] = bench.clients
            sent = self.message(not_before=datetime.min.replace(tzinfo=UTC))
            await client.send(bench.queue, sent)
            delivery = await self.one(client, bench.queue)
            assert delivery.id == sent.id
            await client.complete(delivery)

    @pytest.mark.spec("M2")
    async def test_a_bare_message_has_nothing_it_was_not_given(self) -> None:
        """What was not sent is absent, not empty text."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            nothing = (delivery.correlation_id, delivery.content_type, delivery.time_to_live)
            assert nothing == (None, None, None)
            assert (delivery.trace, delivery.not_before) == (None, None)
            assert dict(delivery.attributes) == {}
            await client.complete(delivery)

    @pytest.mark.spec("M3")
    async def test_a_pydantic_body_is_sent_as_json_and_checked(self) -> None:
        """A body that is not what the model says is refused before anything is sent."""
        async with self.open() as bench:
            [client] = bench.clients
            session = "customer-3" if self.ordered else None
            await client.send(bench.queue, json_message(Order(lines=2), session=session))
            await client.send(bench.queue, self.message(b'{"lines": 3}'), model=Order)
            with pytest.raises(ValidationError, match=r"messages\[1\].body must be a Order: lines"):
                await client.send_many(
                    bench.queue,
                    [self.message(b'{"lines": 4}'), self.message(b'{"lines": "many"}')],
                    model=Order,
                )
            found = await self.several(client, bench.queue, 3)
            lines = sorted(Order.model_validate_json(one.body).lines for one in found)
            assert lines == [2, 3]
            assert {one.content_type for one in found} == {"application/json"}
            await client.complete(found)

    @pytest.mark.spec("P2")
    async def test_an_empty_queue_answers_within_the_wait(self) -> None:
        """An empty receive is an empty list, neither late nor early."""
        async with self.open() as bench:
            [client] = bench.clients
            start = now()
            assert await client.receive(bench.queue, wait=self.soon) == []
            assert self.soon * 0.9 <= now() - start <= self.soon + 5

    @pytest.mark.spec("P2")
    async def test_a_wait_of_zero_asks_once(self) -> None:
        """It brings what is there, and does not wait for more."""
        async with self.open() as bench:
            [client] = bench.clients
            start = now()
            assert await client.receive(bench.queue, wait=0) == []
            assert now() - start <= 5

    @pytest.mark.spec("P2")
    async def test_a_waiting_receive_returns_with_the_first_message(self) -> None:
        """It does not sit out its wait."""
        async with self.open() as bench:
            [client] = bench.clients
            receiving = asyncio.create_task(client.receive(bench.queue, 10, 20 * self.soon))
            await self.sleep(self.soon)
            start = now()
            await client.send(bench.queue, self.message(b"first"))
            deliveries = await receiving
            assert bodies(deliveries) == [b"first"]
            assert now() - start <= self.soon
            await client.complete(deliveries)

    @pytest.mark.spec("P3")
    async def test_the_largest_batch_and_one_more(self) -> None:
        """More messages than a call carries are cut; one receive brings no more than it may."""
        most = self.declared.max_receive
        async with self.open() as bench:
            [client] = bench.clients
            messages = [self.message(str(number).encode()) for number in range(most + 1)]
            results = await client.send_many(bench.queue, messages)
            assert all(isinstance(result, Sent) for result in results)
            assert len(results) == most + 1
            first = await client.receive(bench.queue, most + 1, self.soon)
            assert 1 <= len(first) <= most
            rest = await self.several(client, bench.queue, most + 1 - len(first))
            assert sorted(bodies(first + rest)) == sorted(one.body for one in messages)
            assert await client.complete(first + rest) == {}

    @pytest.mark.spec("P2")
    async def test_a_receive_brings_no_more_than_was_asked_for(self) -> None:
        """The rest stays for the next one."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send_many(bench.queue, [self.message() for _ in range(5)])
            found = await client.receive(bench.queue, 2, self.soon)
            assert 1 <= len(found) <= 2
            await client.complete(found)
            await client.complete(await self.several(client, bench.queue, 5 - len(found)))

    @pytest.mark.spec("P3", "P10")
    async def test_a_message_over_the_limit_fails_alone(self) -> None:
        """It is `MessageTooLarge` with both sizes; the largest allowed one and the others go."""
        most = self.declared.max_message_size
        async with self.open() as bench:
            [client] = bench.clients
            too_large = self.message(b"x" * (most + 1))
            with pytest.raises(MessageTooLarge) as caught:
                await client.send(bench.queue, too_large)
            assert caught.value.max_size == most
            beside = caught.value.size - (most + 1)  # what the provider adds to a body
            assert 0 <= beside < 1_000
            most -= beside
            results = await client.send_many(
                bench.queue, [self.message(b"a"), too_large, self.message(b"y" * most)]
            )
            assert [type(result) for result in results] == [Sent, MessageTooLarge, Sent]
            with pytest.raises(MessageTooLarge):
                await client.send(bench.queue, self.message(b"x" * (most + 1)))
            found = await self.several(client, bench.queue, 2)
            assert sorted(len(body) for body in bodies(found)) == [1, most]
            await client.complete(found)

    @pytest.mark.spec("P3", "F3")
    @needs("sessions")
    async def test_nothing_of_a_session_is_sent_past_a_failure_of_it(self) -> None:
        """The later messages of its session fail with its error; other sessions go on."""
        huge = b"x" * (self.declared.max_message_size + 1)
        async with self.open() as bench:
            [client] = bench.clients
            results = await client.send_many(
                bench.queue,
                [
                    self.message(b"1", "a"),
                    self.message(huge, "a"),
                    self.message(b"3", "a"),
                    self.message(b"4", "b"),
                ],
            )
            kinds = [type(result) for result in results]
            assert kinds == [Sent, MessageTooLarge, MessageTooLarge, Sent]
            found = await self.several(client, bench.queue, 2)
            assert sorted(bodies(found)) == [b"1", b"4"]
            await client.complete(found)

    @pytest.mark.spec("P2")
    @needs("scheduling")
    async def test_a_scheduled_message_comes_when_it_is_due(self) -> None:
        """Not before, and then without anybody's doing."""
        async with self.open() as bench:
            [client] = bench.clients
            due = bench.clock.now() + 4 * self.soon
            message = self.message(b"later", not_before=datetime.fromtimestamp(due, UTC))
            await client.send(bench.queue, message)
            await client.send(bench.queue, self.message(b"now"))
            early = await self.several(client, bench.queue, 2)
            assert bodies(early) == [b"now"]
            await client.complete(early)
            [late] = await client.receive(bench.queue, 1, 10 * self.soon)
            assert late.body == b"later"
            assert bench.clock.now() >= due - 1
            await client.complete(late)

    @pytest.mark.spec("P2")
    @needs("cancel_scheduled")
    async def test_a_scheduled_message_can_be_taken_back(self) -> None:
        """Then it never comes; taking back what is no longer scheduled is `MessageNotFound`."""
        async with self.open() as bench:
            [client] = bench.clients
            due = datetime.fromtimestamp(bench.clock.now() + 3 * self.soon, UTC)
            sent = await client.send(bench.queue, self.message(not_before=due))
            assert sent.sequence is not None
            await client.cancel_scheduled(bench.queue, sent.sequence)
            with pytest.raises(MessageNotFound):
                await client.cancel_scheduled(bench.queue, sent.sequence)
            await self.sleep(4 * self.soon)
            await self.nothing(client, bench.queue)

    @pytest.mark.spec("P11")
    @needs("duplicate_detection")
    async def test_a_second_message_of_one_id_is_dropped_within_the_window(self) -> None:
        """The deduplication id counts where there is one, else the message id."""
        async with self.open(duplicate_window=10 * self.soon) as bench:
            [client] = bench.clients
            session = "s" if self.ordered else None
            results = await client.send_many(
                bench.queue,
                [
                    Message(b"1", id="a", session=session),
                    Message(b"2", id="a", session=session),
                    Message(b"3", id="a", session=session, deduplication_id="other"),
                    Message(b"4", id="b", session=session, deduplication_id="other"),
                ],
            )
            duplicates = [isinstance(one, Sent) and one.duplicate for one in results]
            assert duplicates == [self.tells_duplicates and at in (1, 3) for at in range(4)]
            found = await self.several(client, bench.queue, 4)
            assert sorted(bodies(found)) == [b"1", b"3"]
            await client.complete(found)
            if self.fixed_window:
                return
            await self.sleep(11 * self.soon)
            again = await client.send(bench.queue, Message(b"5", id="a", session=session))
            assert not again.duplicate
            await client.complete(await self.one(client, bench.queue))

    @pytest.mark.spec("P11", "R1")
    async def test_a_full_queue_refuses_and_recovers(self) -> None:
        """`QueueFull` is transient: the send goes through once something was handled."""
        if not self.bounded:
            pytest.skip(f"{self.declared.provider} bounds no queue by a number of messages")
        async with self.open(max_messages=2) as bench:
            [client] = bench.clients
            results = await client.send_many(bench.queue, [self.message() for _ in range(3)])
            assert [type(result) for result in results] == [Sent, Sent, QueueFull]
            sending = asyncio.create_task(client.send(bench.queue, self.message(b"fits")))
            await asyncio.sleep(0)
            await client.complete(await self.one(client, bench.queue))
            assert isinstance(await sending, Sent)
            await client.complete(await self.several(client, bench.queue, 2))

    @pytest.mark.spec("P10")
    async def test_a_queue_that_nobody_configured_is_not_found(self) -> None:
        """The error names it and those that there are."""
        async with self.open() as bench:
            [client] = bench.clients
            for call in (
                client.send("nowhere", self.message()),
                client.receive("nowhere"),
                client.peek("nowhere"),
                client.depth("nowhere"),
                client.accept_session("nowhere"),
                client.cancel_scheduled("nowhere", 1),
                client.receive_deferred("nowhere", [1]),
            ):
                with pytest.raises(QueueNotFound, match=f"nowhere.*{bench.queue}"):
                    await call
