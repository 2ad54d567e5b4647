"""Messages that the SDK can't decode: each ends by itself, and those around it come as ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from pipeline.errors import ProviderError
from pipeline.providers.azure import AzureProvider, peeks, polls, unreadable
from pipeline.providers.azure.sdk import Ways
from pipeline.providers.port import Depth, Receiver, Want
from tests.contract.azure.bench import broken_rules
from tests.contract.azure.scene import bodies, bring, messages, provided
from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.types import Char, Decimal32, Decimal128, Described, ULong
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.queue import Queue
from tests.servicebus.messages import taken
from tests.servicebus.sdk import until


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


def section(code: int, value: Any) -> bytes:
    return encode(Described(ULong(code), value))


STRANGE = {
    "char": section(0x74, {"p": Char("x")}),
    "decimal32": section(0x74, {"p": Decimal32(b"\x32\x80\x00\x01")}),
    "decimal128": section(0x74, {"p": Decimal128(b"\x30\x40" + bytes(13) + b"\x01")}),
    "deep": section(0x77, nested(80)),
}
"""What an AMQP sender may put into application properties or a body."""


@dataclass
class Place:
    """A queue, and what is at it."""

    bus: ServiceBus
    queue: Queue
    provider: AzureProvider

    async def send(self, *texts: bytes) -> None:
        results = await (await self.provider.sender("q")).send(messages(*texts, session="s"))
        assert all(not isinstance(one, Exception) for one in results)

    def send_strange(self, kind: str = "char") -> None:
        """A message that the SDK can't decode."""
        ids = section(0x73, [None] * 10 + ["s"])
        self.queue.send([taken(ids + STRANGE[kind], fills_id=True)])


@asynccontextmanager
async def place(*, sessions: bool = False) -> AsyncIterator[Place]:
    async with (
        ServiceBus(strict=True) as bus,
        provided(bus, {"q": {"fifo": sessions, "lock": 30.0}}) as provider,
    ):
        queue = bus.queue("q", sessions=sessions, lock_seconds=30.0)
        yield Place(bus, queue, provider)
        assert broken_rules(bus) == []


async def several(receiver: Receiver, count: int, most: int = 10) -> list[bytes]:
    """So many bodies, completed as they come, of whatever sessions."""
    found: list[bytes] = []
    held: dict[int, int] = {}
    async with asyncio.timeout(20):
        while len(found) < count:
            want = Want(messages=most, wait=2.0, new_sessions=1, held=dict(held))
            got = await receiver.receive(want)
            held |= {one.number: most for one in got.opened}
            found += bodies(got)
            assert await receiver.complete(got.receipts) == {}
    return found


@pytest.mark.spec("H4", "O3", "P10")
@pytest.mark.parametrize("sessions", [False, True], ids=["queue", "sessions"])
@pytest.mark.parametrize("kind", STRANGE)
async def test_it_is_dead_lettered_and_its_neighbours_come(
    kind: str, sessions: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """In order, once, and uncounted; who looks into the log finds which one it was, and why."""
    async with place(sessions=sessions) as at:
        await at.send(b"1", b"2")
        at.send_strange(kind)
        await at.send(b"3")
        receiver = await at.provider.receiver("q")
        with caplog.at_level(logging.ERROR, "queue_runtime.servicebus"):
            assert await several(receiver, 3) == [b"1", b"2", b"3"]
            await until(lambda: at.queue.counts().dead_lettered == 1)
            await until(lambda: caplog.records)
        [told] = caplog.records
        assert "the message of sequence 3 can't be decoded" in told.getMessage()
        assert told.getMessage().endswith("dead-lettered")
        [dead] = at.queue.dead_letters.peek(1, 10)
        assert dead.properties["DeadLetterReason"] == "invalid_body"
        assert dead.delivery_count == 0
        assert at.queue.counts().active == 0


@pytest.mark.spec("H4")
@pytest.mark.parametrize("sessions", [False, True], ids=["queue", "sessions"])
async def test_one_asked_for_alone_keeps_nothing_else_waiting(sessions: bool) -> None:
    """The first one of a queue; a receive of one message that meets it goes on."""
    async with place(sessions=sessions) as at:
        at.send_strange()
        await at.send(b"1")
        receiver = await at.provider.receiver("q")
        assert await several(receiver, 1, most=1) == [b"1"]


@pytest.mark.spec("P14", "H4")
async def test_one_that_can_t_be_dead_lettered_keeps_its_session_in_order(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The session is given back, with what is behind it; it is tried again in the next holding."""
    async with place(sessions=True) as at:
        at.send_strange()
        await at.send(b"1")
        at.bus.faults.busy(1, "update-disposition")
        receiver = await at.provider.receiver("q")
        assert await several(receiver, 1) == [b"1"]
        assert at.queue.counts().dead_lettered == 1
        assert "comes again when its lock ends: azure_service_bus" in caplog.text
        assert "session 's' was lost" in caplog.text


@pytest.mark.spec("P14")
async def test_one_among_the_dead_letters_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    """Given back it would come again at once: it stays locked, and is told of once a lock."""
    async with place() as at:
        await at.send(b"1")
        at.send_strange()
        receiver = await at.provider.receiver("q")
        assert await several(receiver, 1) == [b"1"]
        await until(lambda: at.queue.counts().dead_lettered == 1)
        caplog.clear()
        dead = await at.provider.receiver("q", dead_letters=True)
        for _ in range(2):
            assert bodies(await bring(dead, wait=0.3)) == []
        assert caplog.text.count("it stays locked, and comes again when its lock ends") == 1
        assert at.queue.dead_letters.counts().locked == 1


@pytest.mark.spec("P2")
@pytest.mark.parametrize("sessions", [False, True], ids=["queue", "sessions"])
async def test_a_peek_passes_over_it(sessions: bool) -> None:
    """By a receiver, and for the age of the oldest."""
    async with place(sessions=sessions) as at:
        at.send_strange()
        assert await at.provider.depth("q") == Depth()
        await at.send(b"1")
        receiver = await at.provider.receiver("q")
        assert list((await receiver.peek(10)).values("body")) == [b"1"]
        assert (await at.provider.depth("q")).oldest_age is not None


@pytest.mark.spec("P2", "O3")
async def test_a_peek_that_can_t_pass_over_it_leaves_the_age_unknown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With an SDK that has the public call alone: told once, and never an error of the depth."""
    monkeypatch.setattr(peeks.Requests, "has", staticmethod(lambda client: False))
    monkeypatch.setattr(peeks, "_REQUEST", "no_such_method")
    async with place() as at:
        await at.send(b"1")
        assert (await at.provider.depth("q")).oldest_age is not None
        at.send_strange()
        for _ in range(2):
            assert await at.provider.depth("q") == Depth()
        assert caplog.text.count("how old the oldest message is is unknown") == 1
        receiver = await at.provider.receiver("q")
        with pytest.raises(ProviderError) as caught:
            await receiver.peek(10)
        assert (caught.value.code, caught.value.transient) == ("Unreadable", True)


@pytest.mark.spec("P10", "P12")
async def test_without_the_sdk_s_method_it_is_an_error_that_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service counts it when its lock ends, and dead-letters it one day; a receiver goes on."""
    monkeypatch.setattr(polls, "watch", lambda receiver, found: None)
    async with place() as at:
        at.send_strange()
        receiver = await at.provider.receiver("q")
        with pytest.raises(ProviderError) as caught:
            await bring(receiver)
        assert (caught.value.code, caught.value.transient) == ("Unreadable", True)
        await at.send(b"1")
        assert bodies(await bring(receiver)) == [b"1"]


# --- the link -------------------------------------------------------------------------------------


def link(tag: Any, payload: bytes = b"") -> Any:
    """A link of the SDK that stumbles over each frame."""

    async def take(frame: Any) -> None:
        raise ValueError("no such type")

    return SimpleNamespace(
        _incoming_transfer=take, _first_frame=(0, 1, tag), _received_payload=bytearray(payload)
    )


def receiver_of(made: Any, monkeypatch: pytest.MonkeyPatch, *, settles: bool = True) -> Any:
    ways = SimpleNamespace(settle_many=settles)
    monkeypatch.setattr(Ways, "of", staticmethod(lambda receiver: ways))
    return SimpleNamespace(_handler=SimpleNamespace(_link=made))


@pytest.mark.spec("P10")
@pytest.mark.parametrize(
    ("noted", "sequence"),
    [(b"\x81" + (2**40).to_bytes(8), 2**40), (b"\x55\x07", 7), (b"\x40", None), (b"", None)],
)
async def test_its_sequence_is_read_from_the_bytes(
    noted: bytes, sequence: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a message of one frame, and of several; watched twice it is told of once."""
    token = uuid4()
    for several_frames in (False, True):
        payload = b"x-opt-sequence-number" + noted
        made = link(token.bytes_le, payload if several_frames else b"")
        receiver = receiver_of(made, monkeypatch)
        found: list[unreadable.Unreadable] = []
        for _ in range(2):
            unreadable.watch(receiver, found.append)
        await made._incoming_transfer((*range(11), payload))
        assert found == [unreadable.Unreadable(token, "no such type", sequence)]
        assert made._received_payload == b""


@pytest.mark.spec("P10")
async def test_a_frame_that_is_not_as_expected_is_the_sdk_s_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for tag in (None, b"short"):
        made = link(tag)
        unreadable.watch(receiver_of(made, monkeypatch), lambda found: None)
        with pytest.raises(ValueError, match="no such type"):
            await made._incoming_transfer((*range(11), b""))


@pytest.mark.spec("P12")
async def test_what_can_t_be_settled_by_its_token_is_not_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would stay in hand for ever; so it is with an SDK that has another link."""
    made = link(uuid4().bytes_le)
    usual = made._incoming_transfer
    unreadable.watch(receiver_of(made, monkeypatch, settles=False), lambda found: None)
    assert made._incoming_transfer is usual
    unreadable.watch(receiver_of(SimpleNamespace(), monkeypatch), lambda found: None)
