"""Rules 1 to 13: headers, frames, SASL, open and close, silence, and channels with sessions."""

from __future__ import annotations

import struct

import pytest

from tests.servicebus.amqp.frames import (
    AMQP_HEADER,
    EMPTY,
    SASL_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Detach,
    End,
    Flow,
    Open,
    SaslInit,
    SaslOutcome,
    frame,
)
from tests.servicebus.amqp.types import Symbol
from tests.servicebus.breaks import breaks
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.raw import Raw, sender
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")

FRAMING = "amqp:connection:framing-error"
HEAD = struct.Struct(">IBBH")


def advance(bus: ServiceBus, seconds: float) -> None:
    """Move the server's clock."""
    assert isinstance(bus.clock, ManualClock)
    bus.clock.advance(seconds)


@breaks(Rule.HEADER)
async def test_a_connection_without_sasl(bus: ServiceBus) -> None:
    """It is told which header is spoken here, and is closed; nothing after that is read."""
    raw = Raw(bus)
    raw.arrive(AMQP_HEADER)
    await raw.read()
    assert (raw.headers, raw.wire.ended) == ([SASL_HEADER], "closed")
    raw.arrive(SASL_HEADER)
    assert await raw.quiet()


@breaks(Rule.HEADER)
async def test_a_second_header_that_is_not_amqp(bus: ServiceBus) -> None:
    """After SASL comes AMQP 1.0: another version is answered with this one, and closed."""
    raw = Raw(bus)
    init = frame(0, SaslInit(Symbol("ANONYMOUS")), kind=SASL_FRAME)
    raw.arrive(SASL_HEADER + init + b"AMQP\x00\x00\x09\x01")
    await raw.read()
    assert (raw.headers, raw.wire.ended) == ([SASL_HEADER, AMQP_HEADER], "closed")


@breaks(Rule.FRAME_SIZE)
async def test_a_frame_that_is_too_large(bus: ServiceBus) -> None:
    """Its size is enough to close the connection: what it would hold is not waited for."""
    raw = await Raw.ready(bus)
    raw.arrive(HEAD.pack(65_537, 2, 0, 0))
    assert await raw.closed_with() == FRAMING


@breaks(Rule.DATA_OFFSET)
async def test_a_data_offset_outside_the_frame(bus: ServiceBus) -> None:
    """Nobody knows where the frame's body starts, nor the next frame: the connection is closed."""
    for size, offset in ((16, 1), (16, 5), (7, 2), (0, 0)):
        raw = await Raw.ready(bus)
        raw.arrive(HEAD.pack(size, offset, 0, 0) + bytes(8))
        assert await raw.closed_with() == FRAMING


@breaks(Rule.DECODABLE)
async def test_a_frame_that_can_not_be_decoded(bus: ServiceBus) -> None:
    """The connection is closed: what the frame was about, nobody knows."""
    raw = await Raw.ready(bus)
    raw.arrive(HEAD.pack(12, 2, 0, 0) + b"\x00\x53\x13\xff")
    assert await raw.closed_with() == "amqp:decode-error"


@breaks(Rule.DECODABLE)
async def test_a_field_of_another_type(bus: ServiceBus) -> None:
    """A handle is a number: with another type, a frame is as good as not decoded."""
    raw = await Raw.ready(bus)
    body = b"\x00\x53\x16\xc0\x05\x01\xa1\x02no"
    raw.arrive(HEAD.pack(8 + len(body), 2, 0, 0) + body)
    assert await raw.closed_with() == "amqp:decode-error"


@breaks(Rule.DECODABLE)
async def test_a_frame_of_a_type_that_nobody_knows(bus: ServiceBus) -> None:
    """There are AMQP's frames, and SASL's before them: another type closes the connection."""
    raw = await Raw.ready(bus)
    raw.arrive(frame(0, End(), kind=7))
    assert await raw.closed_with() == "amqp:decode-error"


@breaks(Rule.SASL_INIT)
async def test_a_mechanism_that_was_not_offered(bus: ServiceBus) -> None:
    """SASL fails with the code for it, and the socket is closed."""
    raw = Raw(bus)
    init = frame(0, SaslInit(Symbol("SCRAM-SHA-256")), kind=SASL_FRAME)
    raw.arrive(SASL_HEADER + init + AMQP_HEADER)
    assert (await raw.take(SaslOutcome)).body.code == 1
    assert (raw.headers, raw.wire.ended) == ([SASL_HEADER], "closed")


@breaks(Rule.SASL_INIT)
async def test_open_in_the_place_of_sasl(bus: ServiceBus) -> None:
    """Who has not said who he is opens nothing: the socket is closed."""
    raw = Raw(bus)
    raw.arrive(SASL_HEADER + frame(0, Open("by hand")))
    assert await raw.quiet(Open, Close)
    assert raw.wire.ended == "closed"


@breaks(Rule.OPEN_FIRST)
async def test_a_session_before_open(bus: ServiceBus) -> None:
    """The server opens, to be able to close with an error."""
    raw = Raw(bus)
    await raw.shake()
    raw.put(Begin(None, 0, 10, 10), Open("by hand"))
    await raw.take(Open)
    assert await raw.closed_with() == "amqp:not-allowed"
    assert await raw.quiet(Begin)


@breaks(Rule.OPEN_FIRST)
async def test_open_twice(bus: ServiceBus) -> None:
    """The second one is not answered, and the connection goes on."""
    raw = await Raw.ready(bus)
    raw.put(Open("by hand"))
    assert await raw.quiet(Open)
    assert await raw.goes_on()


@breaks(Rule.OPEN_FIRST)
async def test_open_on_another_channel(bus: ServiceBus) -> None:
    """It is taken for what it is, and the connection goes on."""
    raw = Raw(bus)
    await raw.shake()
    raw.put(Open("by hand"), channel=3)
    await raw.take(Open)
    assert await raw.goes_on()


@breaks(Rule.CONTAINER_ID)
async def test_open_without_a_container_id(bus: ServiceBus) -> None:
    """The connection goes on."""
    raw = Raw(bus)
    await raw.shake()
    raw.put(Open())
    await raw.take(Open)
    assert await raw.goes_on()


@breaks(Rule.AFTER_CLOSE)
async def test_a_frame_after_close(bus: ServiceBus) -> None:
    """It is dropped; close is answered."""
    raw = await Raw.ready(bus)
    raw.put(Close(), Begin(None, 0, 10, 10))
    assert (await raw.take(Close)).body.error is None
    assert await raw.quiet()
    assert raw.wire.ended == "closed"


@breaks(Rule.IDLE)
async def test_a_frame_after_more_than_the_time_out(bus: ServiceBus) -> None:
    """Twice the time that was told is borne: until then the connection goes on."""
    raw = await Raw.ready(bus)
    advance(bus, 121)
    raw.arrive(EMPTY)
    assert await raw.goes_on()


@breaks(Rule.IDLE)
async def test_no_frame_for_twice_the_time_out(bus: ServiceBus) -> None:
    """The connection is closed."""
    raw = await Raw.ready(bus)
    advance(bus, 240)
    assert await raw.closed_with() == "amqp:resource-limit-exceeded"


@breaks(Rule.CHANNEL_MAX)
async def test_a_channel_above_the_highest(bus: ServiceBus) -> None:
    """The connection is closed, as the text asks for."""
    raw = await Raw.ready(bus)
    raw.put(Begin(None, 0, 10, 10), channel=4_999)
    assert (await raw.take(Begin)).channel == 4_999
    raw.put(Begin(None, 0, 10, 10), channel=5_000)
    assert await raw.closed_with() == FRAMING


@breaks(Rule.CHANNEL_IN_USE)
async def test_a_session_on_a_channel_that_has_one(bus: ServiceBus) -> None:
    """The new session takes the place of the old one and its links."""
    raw = await Raw.ready(bus)
    raw.put(Begin(None, 0, 5_000, 5_000))
    await raw.take(Begin)
    await raw.sender("orders", 250)  # a handle that the old one used
    assert await raw.goes_on()


@breaks(Rule.BEGIN_FIELDS)
async def test_begin_without_a_window(bus: ServiceBus) -> None:
    """The session is begun all the same."""
    raw = await Raw.ready(bus)
    for channel, fields in enumerate(((None, 10, 10), (0, None, 10), (0, 10, None)), start=1):
        raw.put(Begin(None, *fields), channel=channel)
        assert (await raw.take(Begin)).body.remote_channel == channel
    assert len(bus.violations.noted) == 3 * bus.violations.strict


@breaks(Rule.UNMAPPED)
async def test_a_frame_on_a_channel_that_never_had_a_session(bus: ServiceBus) -> None:
    """It is dropped."""
    raw = await Raw.ready(bus)
    raw.put(sender("orders"), channel=5)
    assert await raw.quiet(Attach)
    assert await raw.goes_on()


@breaks(Rule.UNMAPPED)
async def test_frames_on_a_session_that_was_ended(bus: ServiceBus) -> None:
    """They are dropped: the SDK for Python detaches links of sessions that it has ended."""
    raw = await Raw.ready(bus)
    raw.put(End())
    await raw.take(End)
    raw.put(Detach(250, True), Flow(0, 10, 0, 10))
    assert await raw.quiet()
    assert await raw.goes_on()
