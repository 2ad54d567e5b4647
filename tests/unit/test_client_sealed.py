"""A client where cryptography is on: what leaves the process is sealed, what comes is opened."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import crypto
from pipeline.client import QueueClient, core
from pipeline.client.core import Core, give_back
from pipeline.client.lanes import Lane
from pipeline.clock import SeededClock
from pipeline.config import parse
from pipeline.crypto.envelope import MARKER, is_sealed, overhead
from pipeline.errors import (
    BodyAuthenticationFailed,
    Closed,
    ConnectionFailed,
    InvalidEnvelope,
    KeyNotFound,
    MessageExpired,
    MessageTooLarge,
    QueueNotFound,
    UnencryptedMessage,
    ValidationError,
)
from pipeline.message import Message
from pipeline.names import MessageId, QueueName, SessionId
from pipeline.providers.memory import MemoryBroker
from pipeline.providers.port import Sent, SessionSupport

KEYS = {
    "current": "k1",
    "keys": {name: base64.b64encode(name[-1:].encode() * 32).decode() for name in ("k1", "k2")},
}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QR_KEYS", json.dumps(KEYS))


class Shop:
    """One broker, and clients of it with and without cryptography."""

    def __init__(self) -> None:
        now = asyncio.get_running_loop().time
        self.clock = SeededClock(now, 1)
        self.config = self.of()
        queues = {str(name): queue for name, queue in self.config.queues.items()}
        self.broker = MemoryBroker(queues, self.clock)

    def of(self, **crypto: Any) -> Any:
        given = {"enabled": True, "keys": {"provider": "environment"}} | crypto
        return parse(
            {
                "name": "shop",
                "connections": {"main": {"provider": "memory"}},
                "queues": {
                    "orders": {"connection": "main", "fifo": True, "visibility": 10.0},
                    "spread": {"connection": "main", "fifo": True, "sessionless": "spread"},
                    "mails": {"connection": "main", "max_message_size": 1_000},
                },
                "crypto": given,
            }
        )

    def client(self, **crypto: Any) -> QueueClient:
        config = self.of(**crypto) if crypto else self.config
        return QueueClient(config, brokers={"main": self.broker}, clock=self.clock)

    def plain(self) -> QueueClient:
        return self.client(enabled=False)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.mark.spec("C1", "C2")
async def test_bodies_are_sealed_on_their_way_and_nothing_else_is(shop: Shop) -> None:
    """Who has no key sees id, session and attributes, and a body that says nothing."""
    sent = Message(b"two shoes", "m1", "s1", "c1", "text/plain", {"kind": "order"})
    async with shop.client() as client, shop.plain() as plain:
        await client.send("orders", sent)
        [seen] = await plain.peek("orders")
        assert is_sealed(seen.body)
        assert b"shoes" not in seen.body
        assert len(seen.body) == len(sent.body) + overhead("k1")
        assert replace(seen.message, body=sent.body) == sent
        [peeked] = await client.peek("orders")
        [delivery] = await client.receive("orders")
        assert peeked.message == delivery.message == sent
        assert delivery.sealed
        assert not seen.sealed
        await client.complete(delivery)


@pytest.mark.spec("C4")
@pytest.mark.parametrize(
    "change", [{"id": MessageId("m2")}, {"session": SessionId("s2")}, {"body": None}]
)
async def test_a_body_fits_no_other_message(shop: Shop, change: dict[str, Any]) -> None:
    """Moved to another id or session, or altered, it can't be had; all else can be read."""
    async with shop.client() as client, shop.plain() as plain:
        await client.send("orders", Message(b"two shoes", "m1", "s1"))
        [seen] = await plain.receive("orders")
        await plain.complete(seen)
        if "body" in change:
            body = bytearray(seen.body)
            body[-30] ^= 1
            change = {"body": bytes(body)}
        await plain.send("orders", replace(seen.message, **change))
        [delivery] = await client.receive("orders")
        with pytest.raises(BodyAuthenticationFailed):
            _ = delivery.body
        assert isinstance(delivery.refused, crypto.AuthenticationFailed)
        assert delivery.id == change.get("id", "m1")
        assert not delivery.sealed
        await client.dead_letter(delivery, "authentication_failed")
        [dead] = await plain.receive("orders", dead_letters=True)
        assert dead.body == change.get("body", seen.body)


@pytest.mark.spec("C4", "P15")
async def test_a_dead_letter_still_opens_and_can_be_sent_again(shop: Shop) -> None:
    """However old it is; what is sent again is sealed anew."""
    async with shop.client() as client:
        await client.send("orders", Message(b"two shoes", "m1", "s1"))
        [delivery] = await client.receive("orders")
        await client.dead_letter(delivery, "rejected")
        await asyncio.sleep(100_000.0)
        [peeked] = await client.peek("orders", dead_letters=True)
        [dead] = await client.receive("orders", dead_letters=True)
        assert peeked.body == dead.body == b"two shoes"
        await client.send("orders", dead.message)
        await client.complete(dead)
        [again] = await client.receive("orders")
        assert again.message == delivery.message


@pytest.mark.spec("C9")
@pytest.mark.parametrize("policy", ["allow", "allow_with_alert", "reject"])
async def test_plain_messages_meet_the_policy(shop: Shop, policy: str) -> None:
    """Two of the three let them through; a dead letter is always let through."""
    async with shop.client(plaintext=policy) as client, shop.plain() as plain:
        await plain.send("mails", Message(b"hello"))
        [delivery] = await client.receive("mails")
        if policy == "reject":
            with pytest.raises(UnencryptedMessage, match="seal it at its sender"):
                _ = delivery.body
        else:
            assert delivery.body == b"hello"
            assert delivery.refused is None
        assert not delivery.sealed
        await client.dead_letter(delivery, "unencrypted_message")
        [dead] = await client.receive("mails", dead_letters=True)
        assert dead.body == b"hello"


@pytest.mark.spec("C3")
async def test_a_plain_body_does_not_begin_like_a_sealed_one(shop: Shop) -> None:
    """Refused with and without cryptography; what is sealed already may be sent on by anybody."""
    async with shop.client() as client, shop.plain() as plain:
        for one in (client, plain):
            with pytest.raises(ValidationError, match="must not begin with QRE1"):
                await one.send("mails", Message(b"QRE1 is how it begins"))
        await client.send("mails", Message(b"hello", "m1"))
        [sealed] = await plain.receive("mails")
        await plain.complete(sealed)
        await plain.send("mails", sealed.message)
        [delivery] = await client.receive("mails")
        assert delivery.body == b"hello"


@pytest.mark.spec("P3")
async def test_behind_one_that_can_not_be_sealed_its_session_waits(shop: Shop) -> None:
    """The later ones of its session fail with its error; others are sent."""
    async with shop.client() as client:
        results = await client.send_many(
            "orders",
            [
                Message(b"1", session="s"),
                Message(b"QRE1", session="s"),
                Message(b"3", session="s"),
                Message(b"4", session="t"),
            ],
        )
        assert [type(one).__name__ for one in results] == ["Sent", *["ValidationError"] * 2, "Sent"]
        assert results[1] is results[2]
        assert await client.send_many("orders", []) == []
        came = await client.receive("orders", 10)
        assert sorted(one.body for one in came) == [b"1", b"4"]


@pytest.mark.spec("P5", "C4")
async def test_a_session_that_is_given_is_bound_too(shop: Shop) -> None:
    """`sessionless: spread` gives it before the body is sealed; a given session is kept."""
    async with shop.client() as client:
        await client.send("spread", Message(b"hello", "m1"))
        await client.send("spread", Message(b"hello", "m2", "mine"))
        came = sorted(await client.receive("spread", 10), key=lambda one: one.id)
        assert [one.body for one in came] == [b"hello"] * 2
        assert (came[0].session or "").startswith("spread-")
        assert came[1].session == "mine"


@pytest.mark.spec("P3")
async def test_the_limit_of_size_is_that_of_the_sealed_body(shop: Shop) -> None:
    """And the error says how many bytes that has."""
    async with shop.client() as client:
        room = 1_000 - overhead("k1")
        await client.send("mails", Message(bytes(room)))
        with pytest.raises(MessageTooLarge) as caught:
            await client.send("mails", Message(bytes(room + 1)))
        assert (caught.value.size, caught.value.max_size) == (1_001, 1_000)


@pytest.mark.spec("C8")
async def test_an_old_body_that_is_sent_again_is_found(shop: Shop) -> None:
    """Its age is that at which it was sent: a long backlog and redeliveries make nothing old."""
    async with shop.client() as client, shop.plain() as plain:
        await client.send("orders", Message(b"two shoes", "m1", "s1"))
        await asyncio.sleep(10_000.0)
        [delivery] = await client.receive("orders")
        assert delivery.body == b"two shoes"
        await client.release(delivery)
        [sealed] = await plain.receive("orders")
        await plain.complete(sealed)
        await plain.send("orders", sealed.message)
        [again] = await client.receive("orders")
        with pytest.raises(MessageExpired):
            _ = again.body


@pytest.mark.spec("C8", "M2")
async def test_a_scheduled_message_is_not_old_when_it_comes(shop: Shop) -> None:
    """Its age is that at which the queue took it."""
    async with shop.client() as client:
        start = datetime.fromtimestamp(shop.clock.now(), UTC) + timedelta(hours=3)
        await client.send("mails", Message(b"later", not_before=start))
        await client.send("mails", Message(b"now"))
        peeked = await client.peek("mails", 2)
        assert sorted(one.body for one in peeked) == [b"later", b"now"]
        [delivery] = await client.receive("mails", wait=0)
        await client.complete(delivery)
        [delivery] = await client.receive("mails", wait=20_000.0)
        assert delivery.body == b"later"


@pytest.mark.spec("P2")
async def test_sessions_and_deferred_messages_are_opened(shop: Shop) -> None:
    """Wherever a delivery comes from."""
    async with shop.client() as client:
        for number in range(3):
            await client.send("orders", Message(b"%d" % number, session="s"))
        await client.send("mails", Message(b"aside"))
        async with await client.accept_session("orders", "s") as session:
            came = await session.receive(3)
            assert [one.body for one in came] == [b"0", b"1", b"2"]
            await session.defer(came[0])
            [first] = await session.receive_deferred([came[0].sequence])
            assert first.body == b"0"
        [aside] = await client.receive("mails")
        await client.defer(aside)
        [again] = await client.receive_deferred("mails", [aside.sequence])
        assert again.body == b"aside"


@pytest.mark.spec("C5")
async def test_a_key_that_is_not_there_is_said_with_its_id(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message can be given back, and is opened once the key is there."""
    async with shop.client() as client:
        await client.send("mails", Message(b"hello", "m1"))
    only = {"current": "k2", "keys": {"k2": KEYS["keys"]["k2"]}}  # type: ignore[index]
    monkeypatch.setenv("QR_KEYS", json.dumps(only))
    async with shop.client() as client:
        [delivery] = await client.receive("mails")
        with pytest.raises(KeyNotFound) as caught:
            _ = delivery.body
        assert caught.value.key_id == "k1"
        await client.release(delivery)
    monkeypatch.setenv("QR_KEYS", json.dumps(KEYS))
    async with shop.client() as client:
        [delivery] = await client.receive("mails")
        assert (delivery.body, delivery.delivery_count) == (b"hello", 1)


@pytest.mark.spec("C3")
async def test_a_body_that_only_begins_like_a_sealed_one(shop: Shop) -> None:
    """Whatever another program sent: the delivery comes, and says what is wrong."""
    async with shop.client() as client:
        row = ("m1", None, b"QRE1\x01\x00", *[None] * 8)
        await shop.broker.send("mails", [row])
        [delivery] = await client.receive("mails")
        with pytest.raises(InvalidEnvelope):
            _ = delivery.body


class Waits:
    """Seals and opens when it is told to."""

    def __init__(self) -> None:
        self.wanted = asyncio.Event()
        self.told = asyncio.Event()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def open(self, rows: Any, *, fresh: bool = True) -> Any:
        self.wanted.set()
        await self.told.wait()
        raise Closed("told")


@pytest.fixture
def waiting() -> Iterator[Waits]:
    return Waits()


@pytest.mark.spec("P2", "C11")
@pytest.mark.parametrize("queue", ["orders", "mails"])
@pytest.mark.parametrize("how", ["cancelled", "failed"])
async def test_what_comes_while_the_key_does_not_is_given_back(
    shop: Shop, queue: str, how: str
) -> None:
    """A receive that is cut short while bodies are opened loses nothing and locks nothing."""
    waits: Any = Waits()
    async with shop.plain() as plain:
        await plain.send(queue, Message(b"hello", session="s" if queue == "orders" else None))
        async with QueueClient(
            shop.config, brokers={"main": shop.broker}, clock=shop.clock, bodies=waits
        ) as client:
            receiving = asyncio.ensure_future(client.receive(queue))
            await waits.wanted.wait()
            if how == "cancelled":
                receiving.cancel()
            waits.told.set()
            await asyncio.wait([receiving])
            await asyncio.sleep(0.1)
            [delivery] = await plain.receive(queue, wait=0)
            assert delivery.delivery_count == 1


@pytest.mark.spec("P2")
async def test_what_a_held_session_received_in_vain_comes_again(shop: Shop) -> None:
    """The session stays held: the messages are given back one by one."""
    waits: Any = Waits()
    waits.told.set()
    async with shop.plain() as plain:
        await plain.send("orders", Message(b"hello", session="s"))
        async with (
            QueueClient(
                shop.config, brokers={"main": shop.broker}, clock=shop.clock, bodies=waits
            ) as client,
            await client.accept_session("orders", "s") as session,
        ):
            for _ in range(2):
                with pytest.raises(Closed):
                    await session.receive()
                await asyncio.sleep(0.1)
        assert len(await plain.receive("orders", wait=0)) == 1


@pytest.mark.spec("P3", "P7")
async def test_many_large_bodies_are_sealed_in_portions(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A column holds 2 GiB at most, and a send takes any number of messages."""
    monkeypatch.setattr("pipeline.client.opening._PORTION", 1_000)
    async with shop.client() as client:
        sent = [Message(bytes(size), session="s") for size in (400, 400, 400, 2_000, 1, 999)]
        assert all(not isinstance(one, Exception) for one in await client.send_many("orders", sent))
        came = await client.receive("orders", 10)
        assert [one.body for one in came] == [one.body for one in sent]


class Slow:
    """A provider's sender that takes its time, and fails as often as it is told to."""

    def __init__(self, inner: Any, seconds: float, failures: int = 0) -> None:
        self.inner = inner
        self.seconds = seconds
        self.failures = failures
        self.seen: list[list[bytes]] = []

    async def send(self, messages: Any) -> Any:
        self.seen.append([message.body for message in messages])
        await asyncio.sleep(self.seconds)
        if self.failures:
            self.failures -= 1
            return [ConnectionFailed("once more") for _ in messages]
        return await self.inner.send(messages)


class Taken:
    """A sender that takes everything."""

    async def send(self, messages: Any) -> Any:
        return [Sent(sequence=None, duplicate=False) for _ in messages]


class Refuses:
    """A sender that fails as a whole."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls = 0

    async def send(self, *_: Any) -> Any:
        self.calls += 1
        raise self.error


class StopsSession:
    """A sender that can't send a session's messages: the later ones have the first one's error."""

    def __init__(self, session: str) -> None:
        self.session = session

    async def send(self, messages: Any) -> Any:
        error = ConnectionFailed("of the first one")
        sent = Sent(sequence=None, duplicate=False)
        return [error if one.session == self.session else sent for one in messages]


def slowed(client: QueueClient, monkeypatch: pytest.MonkeyPatch, *how: Any) -> list[Slow]:
    """Every sender of a client is slow."""
    made: list[Slow] = []
    find = client._core.sender

    async def sender(queue: str) -> Any:
        made.append(Slow(await find(queue), *how))
        return made[-1]

    monkeypatch.setattr(Core, "sender", lambda core, queue: sender(queue))
    return made


@pytest.mark.spec("C8", "P3")
async def test_what_is_sent_late_in_a_long_call_is_not_old(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each portion is sealed when the one before it was taken."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    async with shop.client() as client:
        made = slowed(client, monkeypatch, 200.0)
        sent = [Message(b"%d" % at, session="s") for at in range(6)]
        await client.send_many("orders", sent)
        assert [len(bodies) for bodies in made[0].seen] == [2, 2, 2]
        came = await client.receive("orders", 10)
        assert [one.body for one in came] == [one.body for one in sent]


@pytest.mark.spec("C8", "P3")
async def test_what_is_tried_again_is_sealed_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or it would be old by the time at which a queue that was away takes it."""
    async with shop.client() as client:
        made = slowed(client, monkeypatch, 200.0, 1)
        await client.send("orders", Message(b"hello", session="s"))
        [[first], [second]] = made[0].seen
        assert first != second
        [delivery] = await client.receive("orders")
        assert delivery.body == b"hello"


@pytest.mark.spec("P5", "P7")
async def test_a_portion_that_fails_stops_its_sessions_and_no_others(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an ordered queue: what stands behind it in a later portion would come before it."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    async with shop.client() as client:
        large = Message(bytes(2_000_000), session="s")
        small = [Message(b"x", session=session) for session in ("t", "s", "t")]
        for queue, stopped in (("orders", True), ("mails", False)):
            results = await client.send_many(queue, [large, *small])
            failed = [type(one) is MessageTooLarge for one in results]
            assert failed == [True, False, stopped, False]


@pytest.mark.spec("P5", "P7")
async def test_what_is_tried_again_is_not_stopped_by_what_stands_behind_it(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one can't be sealed, which is no matter of the first one."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 3)
    async with shop.client() as client:
        slowed(client, monkeypatch, 1.0, 1)
        bodies = [b"1", MARKER + b"2", b"3", b"4"]
        results = await client.send_many("orders", [Message(body, session="s") for body in bodies])
        assert [type(one) for one in results] == [Sent, *[ValidationError] * 3]


@pytest.mark.spec("P5")
@pytest.mark.parametrize("place", [1, 3])
async def test_a_session_that_is_given_stops_as_any_other(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """In this portion and in later ones."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    monkeypatch.setattr("pipeline.client.opening.spread_session", lambda name: name[0])
    async with shop.client() as client:
        many = [Message(b"x", id=f"b{at}") for at in range(4)]
        many[0] = Message(bytes(2_000_000), id="a0")
        many[place] = Message(b"x", id="a1")
        results = await client.send_many("spread", many)
        failed = [at for at, one in enumerate(results) if isinstance(one, MessageTooLarge)]
        assert failed == [0, place]


@pytest.mark.spec("P7", "P10")
async def test_what_was_sent_before_an_error_of_the_whole_call_is_known(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the error of the rest; of all, where nothing was sent, it is raised."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    async with shop.client() as client:
        made = slowed(client, monkeypatch, 1.0)
        many = [Message(b"%d" % at, session="s") for at in range(6)]
        sending = asyncio.ensure_future(client.send_many("orders", many))
        await asyncio.sleep(1.5)
        made[0].inner = Refuses(QueueNotFound("orders"))
        results = await sending
        assert [type(one) for one in results] == [Sent] * 2 + [QueueNotFound] * 4
        assert len(made[0].seen) == 2
        monkeypatch.setattr(Slow, "send", Refuses(QueueNotFound("orders")).send)
        with pytest.raises(QueueNotFound):
            await client.send_many("orders", many)


@pytest.mark.spec("P10")
async def test_a_queue_that_is_not_there_is_said(shop: Shop) -> None:
    """As where cryptography is off."""
    for client in (shop.client(), shop.plain()):
        async with client:
            with pytest.raises(QueueNotFound, match="unknown"):
                await client.send("unknown", Message(b"hello"))
            with pytest.raises(QueueNotFound, match="unknown"):
                await client.peek("unknown")


@pytest.mark.spec("P10")
async def test_a_provider_that_is_away_is_not_asked_for_each_portion(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what can't be sent at all keeps its own error, which no other try helps."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    away = Refuses(ConnectionFailed("away"))
    async with shop.client() as client:
        slowed(client, monkeypatch, 1.0)
        monkeypatch.setattr(Slow, "send", away.send)
        bodies = [MARKER, b"1", b"2", b"3", b"4", b"5", b"6", b"7"]
        results = await client.send_many("mails", [Message(body) for body in bodies])
        assert [type(one) for one in results] == [ValidationError] + [ConnectionFailed] * 7
        # Three attempts for the first portion, and the rest is told.
        assert away.calls == 3


@pytest.mark.spec("P5", "P7")
async def test_a_portion_of_one_session_that_fails_ends_no_other_session(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it have the error of the first; the provider is there all the same."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    async with shop.client() as client:
        slowed(client, monkeypatch, 1.0)
        monkeypatch.setattr(Slow, "send", StopsSession("s").send)
        many = [Message(b"%d" % at, session=session) for at, session in enumerate("sstt")]
        results = await client.send_many("orders", many)
        assert [type(one) for one in results] == [ConnectionFailed] * 2 + [Sent] * 2


@pytest.mark.spec("P5", "P7")
async def test_a_message_that_is_sent_later_does_not_come_before(shop: Shop) -> None:
    """From another task: a call that was begun has its messages sealed and sent first."""
    async with shop.client() as client:
        many = [Message(b"%d" % at, session="s") for at in range(3_000)]
        sending = asyncio.ensure_future(client.send_many("orders", many))
        await asyncio.sleep(0)
        await client.send("orders", Message(b"later", session="s"))
        await sending
        counts = 0
        while came := await client.receive("orders", 1_000, wait=0):
            counts += len(came)
            last = came[-1].body
            await client.complete(came)
        assert (counts, last) == (3_001, b"later")


@pytest.mark.spec("P7", "P10")
async def test_a_client_that_is_closed_while_it_sends_says_so(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that a key is missing, which asks for another try."""
    monkeypatch.setattr("pipeline.client.opening._AT_ONCE", 2)
    client = shop.client()
    await client.start()
    made = slowed(client, monkeypatch, 5.0)
    many = [Message(b"%d" % at, session="s") for at in range(6)]
    sending = asyncio.ensure_future(client.send_many("orders", many))
    await asyncio.sleep(1.0)
    made[0].inner = Taken()  # what is under way there is taken all the same
    await client.close()
    assert [type(one) for one in await sending] == [Sent] * 2 + [Closed] * 4
    assert len(made[0].seen) == 1


@pytest.mark.spec("P2", "P7")
@pytest.mark.parametrize("queue", ["orders", "mails"])
async def test_a_client_that_is_closed_while_it_opens_gives_back(
    shop: Shop, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything, and before its receivers are gone."""
    async with shop.client() as sender:
        many = [Message(b"%d" % at, session="s") for at in range(3_000)]
        if queue == "mails":
            many = [replace(one, session=None) for one in many]
        await sender.send_many(queue, many)
        client = shop.client()
        await client.start()
        opening = asyncio.Event()
        open_ = client._core.bodies.open

        async def told(*given: Any, **more: Any) -> Any:
            opening.set()
            return await open_(*given, **more)

        client._core.bodies.open = told  # type: ignore[method-assign]
        receiving = asyncio.ensure_future(client.receive(queue, 3_000))
        await opening.wait()
        await client.close()
        with pytest.raises(Closed):
            await receiving
        came = await sender.receive(queue, 3_000, wait=0)
        assert [one.delivery_count for one in came] == [1] * 3_000
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


@pytest.mark.spec("P7")
async def test_who_closes_waits_until_all_have_left() -> None:
    """Also who closes a second time, when a wait is being left."""
    waits, left = core.Waits("client"), []

    async def call() -> None:
        async with waits.until_closed():
            try:
                await asyncio.sleep(100.0)
            finally:
                await asyncio.sleep(1.0)
                left.append("call")

    async def close() -> None:
        await waits.end()
        left.append("close")

    calling = asyncio.ensure_future(call())
    await asyncio.sleep(1.0)
    closing = asyncio.ensure_future(close())
    await asyncio.sleep(0.5)
    await close()
    await closing
    with pytest.raises(Closed, match="the client was closed while this call waited"):
        await calling
    await close()
    assert left == ["call", "close", "close", "close"]


@pytest.mark.spec("C7", "P7")
async def test_a_client_that_does_not_start_keeps_no_keys(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does anything go on refreshing them."""
    client = shop.client()

    async def refuse() -> None:
        raise InvalidEnvelope("no connection")

    monkeypatch.setattr(type(client._core.connections), "start", lambda _: refuse())
    with pytest.raises(InvalidEnvelope):
        async with client:
            pass
    assert len(asyncio.all_tasks()) == 1
    bodies: Any = client._core.bodies._bodies
    with pytest.raises(Closed):
        await bodies._ring.current()


class Gives:
    """A receiver that can't give everything back."""

    def __init__(self) -> None:
        self.released: list[Any] = []

    async def release(self, receipts: Any) -> dict[int, Exception]:
        self.released += receipts
        return {0: Closed("gone")}


@pytest.mark.spec("P2", "P10")
@pytest.mark.parametrize("single", [True, False])
async def test_what_can_not_be_given_back_is_told_of_or_waits_for_its_session(
    single: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Messages of a session that is held go back with it, where none goes back alone."""
    receiver: Any = Gives()
    able: Any = SimpleNamespace(single_release=single, sessions=SessionSupport.NATIVE)
    received: Any = SimpleNamespace(opened=[], receipts=["one"])
    await give_back(Lane(QueueName("q"), receiver, able), received)
    assert receiver.released == (["one"] if single else [])
    assert ("left to lock expiry: gone" in caplog.text) == single
