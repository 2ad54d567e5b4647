"""Sizes that a client only claims, and data without end: none of it is kept or made room for."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Final

import pytest

from tests.servicebus.amqp.frames import Disposition, Transfer
from tests.servicebus.amqp.types import UInt
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.raw import Raw, refused, request

pytestmark = pytest.mark.spec("T2")

HEAD: Final = struct.Struct(">IBBH")
HUGE: Final = b"\xff\xff\xff\xff"
CLAIMS: Final = {
    "a list": b"\xd0" + b"\x7f\xff\xff\xff" + HUGE,
    "a list of nulls": b"\xd0" + struct.pack(">II", 4 + 100, 2**32 - 1) + b"\x40" * 100,
    "a map": b"\xd1" + b"\x7f\xff\xff\xff" + HUGE,
    "an array": b"\xf0" + b"\x7f\xff\xff\xff" + HUGE + b"\x40",
    "an array of nulls": b"\xf0" + struct.pack(">II", 5, 2**32 - 1) + b"\x40",
    "an array of zeros": b"\xf0" + struct.pack(">II", 5, 2**32 - 1) + b"\x43",
    "a binary": b"\xb0" + HUGE,
    "a string": b"\xb1" + HUGE,
    "a symbol": b"\xb3" + HUGE,
    "lists in lists": b"\xc0\xff\x01" * 20_000,
    "descriptors of descriptors": b"\x00" * 60_000,
}


@pytest.mark.parametrize("claim", CLAIMS)
async def test_a_size_that_is_not_there(claim: str) -> None:
    """What a value claims is compared with what has come before anything is made of it."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    body = b"\x00\x53\x10" + CLAIMS[claim]
    tracemalloc.start()
    try:
        raw.arrive(HEAD.pack(8 + len(body), 2, 0, 0) + body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert await raw.closed_with() == "amqp:decode-error"
    assert peak < 1_000_000


async def test_a_delivery_without_end() -> None:
    """Of a message that is too large no more is kept than it takes to refuse it."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    piece = bytes(60_000)
    tracemalloc.start()
    try:
        raw.put(raw.transfer(0, more=True), payload=piece)
        for _ in range(500):
            raw.put(Transfer(0, more=True), payload=piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
    raw.put(Transfer(0), payload=piece)
    state = (await raw.take(Disposition)).body.state
    assert refused(state) == "amqp:link:message-size-exceeded"


async def test_a_frame_that_never_ends() -> None:
    """Its size was checked first, so that at most one frame waits for its rest."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    raw.arrive(HEAD.pack(65_536, 2, 0, 0) + bytes(60_000))
    assert len(raw.connection._rest) == 60_008
    raw.arrive(bytes(10_000))
    assert await raw.closed_with() == "amqp:decode-error"
    raw.arrive(bytes(100_000))
    assert raw.connection._rest == b""


async def test_a_request_that_is_too_large() -> None:
    """It is refused, and not read."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    await raw.node("orders/$management", 4)
    body = {"messages": [{"message": bytes(60_000)} for _ in range(20)], "n": UInt(1)}
    whole = request({"operation": "com.microsoft:schedule-message"}, body)
    raw.put(raw.transfer(4, more=True), payload=whole[:60_000])
    for at in range(60_000, len(whole), 60_000):
        raw.put(Transfer(4, more=at + 60_000 < len(whole)), payload=whole[at : at + 60_000])
    state = (await raw.take(Disposition)).body.state
    assert refused(state) == "amqp:link:message-size-exceeded"
    assert await raw.quiet(Transfer)
