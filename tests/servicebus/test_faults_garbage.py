"""What no client should send: nothing of it raises, takes much memory, or harms anybody else."""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import (
    AMQP_HEADER,
    SASL_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Flow,
    Open,
    SaslInit,
    Transfer,
    frame,
)
from tests.servicebus.amqp.types import Described, Symbol, ULong
from tests.servicebus.amqp_values import values
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.faults import MANAGEMENT
from tests.servicebus.messages import BATCH
from tests.servicebus.raw import (
    ABANDONED,
    ACCEPTED,
    DEFERRED,
    Raw,
    message,
    receiver,
    refused,
    request,
    sender,
    signed,
)

pytestmark = pytest.mark.spec("T2")

HEAD: Final = struct.Struct(">IBBH")
KINDS: Final = {
    0x10: Open,
    0x11: Begin,
    0x12: Attach,
    0x13: Flow,
    0x14: Transfer,
    0x15: Disposition,
    0x16: Detach,
    0x17: End,
    0x18: Close,
}


def served() -> ServiceBus:
    """A server with something in it."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders", duplicate_window=60)
    bus.queue("sessions", sessions=True)
    bus.topic("events", ["all"])
    return bus


async def survives(bus: ServiceBus) -> None:
    """Nothing was raised by the loop or a timer, and who comes next is served."""
    raised: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
    for _ in range(3):
        await asyncio.sleep(0)
    assert isinstance(bus.clock, ManualClock)
    bus.clock.advance(100)
    await asyncio.sleep(0)
    assert raised == []
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message())
    assert refused((await raw.take(Disposition)).body.state) == ""


def conversation(bus: ServiceBus) -> list[bytes]:
    """What a good client sends, frame by frame, after the header of AMQP."""
    until = bus.clock.now() + 3_600
    words = {
        "operation": "put-token",
        "type": "servicebus.windows.net:sastoken",
        "name": "amqp://here/",
    }
    token = request(words, signed(bus, "amqp://here/", until))

    def transfer(handle: int, number: int, payload: bytes, **more: Any) -> bytes:
        tag = str(number).encode()
        return frame(0, Transfer(handle, number, tag, more.pop("kind", 0), **more), payload)

    envelope = encode(Described(ULong(0x75), message()))
    peek = {"from-sequence-number": 0, "message-count": 5}
    return [
        frame(0, Open("by hand", idle_time_out=5_000)),
        frame(0, Begin(None, 0, 5_000, 5_000)),
        frame(0, sender("$cbs", 250)),
        frame(0, receiver("$cbs", 251)),
        frame(0, Flow(1, 5_000, 0, 5_000, 251, 0, 10)),
        transfer(250, 0, token),
        frame(0, sender("orders", 0)),
        transfer(0, 1, message()),
        transfer(0, 2, message()[:5], more=True),
        frame(0, Transfer(0), message()[5:]),
        transfer(0, 3, envelope + envelope, kind=BATCH),
        frame(0, receiver("orders", 1)),
        frame(0, Flow(1, 5_000, 4, 5_000, 1, 0, 10)),
        frame(0, Disposition(True, 1, 1, False, ACCEPTED)),
        frame(0, Disposition(True, 2, 2, False, ABANDONED)),
        frame(0, Disposition(True, 3, 4, False, DEFERRED)),
        frame(0, receiver("sessions", 2, session=None)),
        frame(0, sender("orders/$management", 4)),
        frame(0, receiver("orders/$management", 5)),
        frame(0, Flow(1, 5_000, 4, 5_000, 5, 0, 10)),
        transfer(4, 4, request({"operation": "com.microsoft:peek-message"}, peek)),
        frame(0, Flow(1, 5_000, 5, 5_000, 1, 0, 0, None, True)),
        frame(0, Detach(1, True)),
        frame(0, End()),
        frame(0, Close()),
    ]


async def shaken(bus: ServiceBus) -> Raw:
    """A client that has exchanged both headers."""
    raw = Raw(bus)
    await raw.shake()
    return raw


@given(data=st.binary(max_size=200), stage=st.sampled_from(["new", "shaken", "ready"]))
async def test_bytes_of_chance(data: bytes, stage: str) -> None:
    """They are dropped, or end in a close."""
    bus = served()
    ready = {"shaken": shaken, "ready": Raw.ready}
    raw = Raw(bus) if stage == "new" else await ready[stage](bus)
    raw.arrive(data)
    await survives(bus)


@given(
    flips=st.lists(st.tuples(st.integers(0, 10_000), st.integers(1, 255)), max_size=6),
    cuts=st.lists(st.integers(0, 10_000), max_size=3),
)
async def test_a_good_conversation_with_bytes_changed(
    flips: list[tuple[int, int]], cuts: list[int]
) -> None:
    """Some bytes are other ones, some are missing."""
    bus = served()
    raw = await shaken(bus)
    data = bytearray(b"".join(conversation(bus)))
    for place, change in flips:
        data[place % len(data)] ^= change
    for place in cuts:
        del data[place % len(data)]
    raw.arrive(bytes(data))
    await survives(bus)


@given(order=st.lists(st.integers(0, 24), max_size=40))
async def test_good_frames_in_any_order(order: list[int]) -> None:
    """Some twice, some never."""
    bus = served()
    raw = await shaken(bus)
    frames = conversation(bus)
    for place in order:
        raw.arrive(frames[place])
    await survives(bus)


@given(
    bodies=st.lists(
        st.tuples(st.sampled_from(sorted(KINDS)), st.lists(st.none() | values(), max_size=11)),
        max_size=4,
    ),
    payload=st.binary(max_size=40),
)
async def test_frames_with_fields_of_any_type(
    bodies: list[tuple[int, list[Any]]], payload: bytes
) -> None:
    """What can be decoded may still be of another type, or make no sense."""
    bus = served()
    raw = await Raw.ready(bus)
    raw.arrive(b"".join(conversation(bus)[6:20]))
    for code, fields in bodies:
        body = encode(Described(ULong(code), fields)) + payload
        raw.arrive(HEAD.pack(8 + len(body), 2, 0, 0) + body)
    await survives(bus)


_numbers = st.none() | st.sampled_from([0, 1, 2, 4, 5, 250, 251, 2**31, 2**32 - 1])
_flags = st.none() | st.booleans()
_states = st.none() | st.builds(
    Described, st.integers(0x23, 0x28).map(ULong), st.lists(values(), max_size=3)
)


def _with(kind: Any, *fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(*fields).map(lambda told: kind(*told))


_frames = st.one_of(
    _with(Flow, *[_numbers] * 8, _flags, _flags),
    _with(Disposition, _flags, _numbers, _numbers, _flags, _states),
    _with(Detach, _numbers, _flags),
    _with(
        Transfer, _numbers, _numbers, st.none() | st.binary(max_size=40), _numbers, _flags, _flags
    ),
    _with(Begin, st.none(), _numbers, _numbers, _numbers, _numbers),
    _with(Open, st.just("again"), st.none(), _numbers, st.none(), _numbers),
)


@given(frames=st.lists(_frames, max_size=12), payload=st.binary(max_size=20))
async def test_frames_with_numbers_that_make_no_sense(frames: list[Any], payload: bytes) -> None:
    """Types are right, and numbers are at their ends, unknown, or not there."""
    bus = served()
    raw = await Raw.ready(bus)
    raw.arrive(b"".join(conversation(bus)[6:20]))
    for body in frames:
        raw.arrive(frame(0, body, payload))
    await survives(bus)


@given(address=values(), other=values(), filters=values(), properties=st.none() | values())
async def test_attach_with_any_terminus(
    address: Any, other: Any, filters: Any, properties: Any
) -> None:
    """Addresses, filters and properties are a client's own words."""
    bus = served()
    raw = await Raw.ready(bus)
    named = {Symbol("com.microsoft:session-filter"): other}
    timeout = {Symbol("com.microsoft:timeout"): other}
    for handle, (path, filter_) in enumerate(
        [(address, None), ("orders", filters), ("sessions", named), ("amqps://[", None)]
    ):
        source = Described(ULong(0x28), [path, *[None] * 6, filter_])
        for role in (True, False):
            body = Attach(
                f"link {handle} {role}",
                handle * 2 + role,
                role,
                source=source,
                target=Described(ULong(0x29), [path]),
                initial_delivery_count=0,
                properties=timeout if properties is None else properties,
            )
            encoded = encode(Described(ULong(0x12), list(body)))
            raw.arrive(HEAD.pack(8 + len(encoded), 2, 0, 0) + encoded)
            raw.put(Attach(*body[:-1]))
    await survives(bus)


_KEYS: Final = (
    "lock-tokens", "disposition-status", "session-id", "session-state", "sequence-numbers",
    "from-sequence-number", "message-count", "messages", "last-updated-time", "skip", "top",
    "receiver-settle-mode", "properties-to-modify", "deadletter-reason", "message",
)  # fmt: skip
_good = st.sampled_from(
    ["completed", "suspended", "defered", "s", 1, 0, -1, 2**62, 1e300, float("inf"), b"", [1], {}]
)


@given(
    operation=st.sampled_from(MANAGEMENT),
    path=st.sampled_from(["orders", "sessions", "events", "events/subscriptions/all"]),
    body=st.dictionaries(st.sampled_from(_KEYS), _good | values(), max_size=8) | values(),
    message_id=st.none() | values(),
)
async def test_requests_with_any_body(
    operation: str, path: str, body: Any, message_id: Any
) -> None:
    """Each is answered, with 400 as a rule."""
    bus = served()
    raw = await Raw.ready(bus)
    await raw.node(f"{path}/$management", 4)
    words = {"operation": f"com.microsoft:{operation}"}
    raw.send(4, request(words, body, message_id))
    assert (await raw.answer())[0]["statusCode"] in range(200, 504)
    await survives(bus)


@given(
    kind=st.sampled_from(["jwt", "servicebus.windows.net:sastoken"]), name=values(), token=values()
)
async def test_tokens_of_any_kind(kind: str, name: Any, token: Any) -> None:
    """Each is answered."""
    bus = served()
    raw = await Raw.ready(bus)
    near = "SharedAccessSignature s%72=a&sr=http://[&sig=x&se=\u00b2&skn=RootManageSharedAccessKey"
    for told_name, told in ((name, "token"), ("amqps://[", near), ("orders", token)):
        words = {"operation": "put-token", "type": kind, "name": told_name}
        raw.send(250, request(words, told))
        assert (await raw.answer())[0]["status-code"] in (202, 401)
    await survives(bus)


@given(
    parts=st.lists(st.tuples(st.integers(0x70, 0x78), values()), max_size=5),
    batch=st.booleans(),
    path=st.sampled_from(["orders", "sessions", "events"]),
)
async def test_messages_of_any_sections(
    parts: list[tuple[int, Any]], batch: bool, path: str
) -> None:
    """Each is taken or refused, and what was taken can be received."""
    bus = served()
    raw = await Raw.ready(bus)
    await raw.sender(path)
    payload = b"".join(encode(Described(ULong(code), value)) for code, value in parts)
    raw.send(0, payload, message_format=BATCH if batch else 0)
    assert refused((await raw.take(Disposition)).body.state) in (
        "",
        "amqp:decode-error",
        "amqp:not-allowed",
    )
    if path == "orders":
        await raw.receiver("orders", credit=10)
        bus.find("orders").counts()  # type: ignore[union-attr]
    await survives(bus)


@given(
    fields=st.lists(st.none() | values(), max_size=13),
    header=st.lists(st.none() | values(), max_size=5),
    annotations=st.dictionaries(
        st.sampled_from(
            ["x-opt-scheduled-enqueue-time", "x-opt-partition-key", "x-opt-sequence-number", "own"]
        ).map(Symbol),
        values(),
    ),
)
async def test_messages_with_fields_of_any_type(
    fields: list[Any], header: list[Any], annotations: dict[Any, Any]
) -> None:
    """A header, annotations and properties are taken when they are of their types."""
    bus = served()
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    await raw.receiver("orders", credit=10)
    parts = ((0x70, header), (0x72, annotations), (0x73, fields), (0x75, b"body"))
    payload = b"".join(encode(Described(ULong(code), value)) for code, value in parts)
    raw.send(0, payload)
    await raw.take(Disposition)
    for got in await raw.all(Transfer):
        raw.settle(got.body.delivery_id, ABANDONED)
    await survives(bus)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=60))
async def test_a_conversation_in_pieces(sizes: list[int]) -> None:
    """However its bytes are cut, it is the same."""
    init = frame(0, SaslInit(Symbol("ANONYMOUS")), kind=SASL_FRAME)
    bus, whole_bus = served(), served()
    data = SASL_HEADER + init + AMQP_HEADER + b"".join(conversation(bus))
    raw, whole = Raw(bus), Raw(whole_bus)
    whole.arrive(data)
    at = 0
    while at < len(data):
        for size in sizes:
            raw.arrive(data[at : at + size])
            at += size
    kinds = [[type(got.body).__name__ for got in await each.read()] for each in (raw, whole)]
    assert kinds[0] == kinds[1]
    assert bus.find("orders").counts() == whole_bus.find("orders").counts()  # type: ignore[union-attr]
    assert bus.violations.rules() == whole_bus.violations.rules()
