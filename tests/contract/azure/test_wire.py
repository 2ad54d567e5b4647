"""How a message travels through Service Bus: what other software sends, and what it can read."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus._pyamqp import _decode
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageProperties
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.batch import MessageBatch
from pipeline.errors import SerializationError
from pipeline.message import Delivery, Message, TraceContext
from pipeline.providers.azure import AzureProvider, wire
from pipeline.providers.azure.outgoing import encoded_size, message_of
from pipeline.providers.azure.times import Time, tell_times
from tests.contract.azure.scene import bring, provided
from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.types import Described, Timestamp, ULong
from tests.servicebus.bus import ServiceBus
from tests.servicebus.sdk import connect, received

WIDE = b'{"a": 18446744073709551615}'
TYPED = b'{"TYPE": "x", "in": {"TYPE": "INT", "more": [{}]}}'
SIGNED = b"[true, -9223372036854775808]"


class Post:
    """A queue with both ends: ours, and the SDK as any other program uses it."""

    def __init__(self, provider: AzureProvider, client: Any) -> None:
        self.provider = provider
        self.client = client

    async def ours(self, theirs: Any) -> Delivery:
        """What we make of a message of theirs."""
        async with self.client.get_queue_sender("q") as sender:
            await sender.send_messages(theirs)
        receiver = await self.provider.receiver("q")
        found = await bring(receiver)
        assert await receiver.complete(found.receipts) == {}
        return found.batch[0]

    async def theirs(self, ours: Message) -> Any:
        """What they see of a message of ours."""
        sender = await self.provider.sender("q")
        [result] = await sender.send([ours])
        assert not isinstance(result, Exception)
        async with self.client.get_queue_receiver("q") as receiver:
            [message] = await received(receiver, 1)
            await receiver.complete_message(message)
        return message

    async def round(self, ours: Message) -> Delivery:
        """A message of ours that we receive."""
        sender = await self.provider.sender("q")
        await sender.send([ours])
        receiver = await self.provider.receiver("q")
        found = await bring(receiver)
        assert await receiver.complete(found.receipts) == {}
        return found.batch[0]


@pytest.fixture
async def post() -> AsyncIterator[Post]:
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        async with connect(bus) as client:
            yield Post(provider, client)


@pytest.mark.spec("M2", "M1")
async def test_a_message_of_other_software_needs_nothing_of_ours(post: Post) -> None:
    """Its id, session, body and properties are those it was sent with."""
    delivery = await post.ours(
        ServiceBusMessage(
            b"{}",
            message_id="order-1",
            session_id="customer-3",
            content_type="application/json",
            correlation_id="call-9",
            time_to_live=timedelta(minutes=1),
            application_properties={"kind": "departure"},
        )
    )
    assert (delivery.id, delivery.session, delivery.body) == ("order-1", "customer-3", b"{}")
    assert (delivery.content_type, delivery.correlation_id) == ("application/json", "call-9")
    assert (delivery.time_to_live, dict(delivery.attributes)) == (60.0, {"kind": "departure"})
    assert (delivery.deduplication_id, delivery.trace) == (None, None)


@pytest.mark.spec("M2")
async def test_properties_with_types_are_text_and_keep_their_types_when_sent_on(
    post: Post,
) -> None:
    """Numbers, booleans, ids and bytes: shown as text, noted beside, and typed again."""
    given: dict[str, Any] = {
        "text": "a",
        "count": 2**40,
        "small": -1,
        "ratio": 0.5,
        "flag": True,
        "id": UUID(int=7),
        "top": 2**64 - 1,
        "at": 1_767_323_045_000,
    }
    typed = {  # the SDK's own way with more than 32 bits
        "count": {"TYPE": "LONG", "VALUE": given["count"]},
        "top": {"TYPE": "ULONG", "VALUE": given["top"]},
        "at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    delivery = await post.ours(ServiceBusMessage(b"x", application_properties=given | typed))
    shown = dict(delivery.attributes)
    noted = json.loads(shown.pop(wire.TYPES))
    assert shown == {
        "text": "a",
        "count": str(2**40),
        "small": "-1",
        "ratio": "0.5",
        "flag": "true",
        "id": str(UUID(int=7)),
        "top": str(2**64 - 1),
        "at": "1767323045000",
    }
    assert noted == {
        "count": "int",
        "small": "int",
        "ratio": "float",
        "flag": "bool",
        "id": "uuid",
        "top": "int",
        "at": "time",
    }
    again = await post.theirs(delivery.message)
    found = {
        name.decode(): value.decode() if isinstance(value, bytes) else value
        for name, value in again.application_properties.items()
    }
    assert found == given
    assert isinstance(found["at"], Time)
    assert not isinstance(found["count"], Time)


@pytest.mark.spec("M2")
def test_an_sdk_without_its_table_of_decoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are numbers then; where it has one, it is changed once."""
    assert tell_times()
    told = _decode._DECODE_BY_CONSTRUCTOR[0x83]
    assert tell_times()
    assert _decode._DECODE_BY_CONSTRUCTOR[0x83] is told
    for odd in (None, []):
        monkeypatch.setattr(_decode, "_DECODE_BY_CONSTRUCTOR", odd)
        assert not tell_times()
    monkeypatch.setitem(sys.modules, "azure.servicebus._pyamqp", None)
    assert not tell_times()


@pytest.mark.spec("M2")
@pytest.mark.parametrize(
    ("section", "body", "kind"),
    [
        ({"value_body": "text"}, b"text", "text"),
        ({"value_body": {"a": [1, "b"]}}, b'{"a": [1, "b"]}', "value"),
        ({"value_body": 7}, b"7", "value"),
        ({"value_body": -(2**31)}, b"-2147483648", "value"),
        ({"value_body": [{"TYPE": "LONG", "VALUE": 2**31}, -1]}, b"[2147483648, -1]", "value"),
        ({"value_body": {"a": {"TYPE": "ULONG", "VALUE": 2**64 - 1}}}, WIDE, "value"),
        ({"value_body": [datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)]}, b"[1767323045000]", "value"),
        ({"value_body": {"TYPE": "x", "in": {"TYPE": "INT", "more": [{}]}}}, TYPED, "value"),
        ({"sequence_body": [[1, 2]]}, b"[1, 2]", "sequence"),
        ({"sequence_body": [[True, {"TYPE": "LONG", "VALUE": -(2**63)}]]}, SIGNED, "sequence"),
    ],
)
async def test_a_body_that_is_no_bytes_comes_as_bytes_with_its_kind(
    post: Post, section: dict[str, Any], body: bytes, kind: str
) -> None:
    """And is what it was when it is sent on."""
    delivery = await post.ours(AmqpAnnotatedMessage(**section))
    assert delivery.body == body
    assert json.loads(delivery.attributes[wire.TYPES]) == {"": kind}
    again = await post.ours(message_of(delivery.message, None))
    assert (again.body, again.attributes) == (body, delivery.attributes)


@pytest.mark.spec("M2")
async def test_bodies_in_pieces_and_without_anything(post: Post) -> None:
    """Several data sections are one body; no body is an empty one."""
    pieces = await post.ours(AmqpAnnotatedMessage(data_body=[b"ab", b"cd"]))
    assert (pieces.body, dict(pieces.attributes)) == (b"abcd", {})
    nothing = await post.ours(ServiceBusMessage(None))
    assert (nothing.body, dict(nothing.attributes)) == (b"", {})


@pytest.mark.spec("M2")
async def test_ids_that_are_no_text(post: Post) -> None:
    """AMQP allows numbers, UUIDs and bytes: they are shown as text."""
    for identity, shown in (
        (UUID(int=7), str(UUID(int=7))),
        (7, "7"),
        (b"\xff\x00", "/wA="),
    ):
        message = AmqpAnnotatedMessage(
            data_body=b"x",
            properties=AmqpMessageProperties(message_id=identity, correlation_id=identity),
        )
        delivery = await post.ours(message)
        assert (delivery.id, delivery.correlation_id) == (shown, shown)


@pytest.mark.spec("M2", "O2")
async def test_what_we_send_plain_is_readable_by_any_other_client(post: Post) -> None:
    """Nothing of ours is beside it; the trace context has the names that others use."""
    trace = TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1")
    message = await post.theirs(
        Message(
            b"hello",
            id="m1",
            session="s",
            correlation_id="c",
            content_type="text/plain",
            attributes={"kind": "x"},
            time_to_live=1.5,
            trace=trace,
        )
    )
    assert (str(message), message.message_id, message.session_id) == ("hello", "m1", "s")
    assert (message.correlation_id, message.content_type) == ("c", "text/plain")
    assert message.time_to_live == timedelta(seconds=1.5)
    assert message.application_properties == {
        b"kind": b"x",
        b"traceparent": trace.traceparent.encode(),
        b"tracestate": b"v=1",
    }


@pytest.mark.spec("M1", "M2")
async def test_what_service_bus_has_no_place_for_comes_back_too(post: Post) -> None:
    """Long ids, two ids, names that mean something to the service, times finer than AMQP's."""
    sent = Message(
        b"x",
        id="i" * 128,
        deduplication_id="d" * 200,
        content_type="text/plän",
        attributes={
            "DeadLetterReason": "mine",
            wire.OURS: "mine too",
            wire.TYPES: "no JSON",
            "traceparent": "no header",
        },
        time_to_live=30.00041,
        not_before=datetime(2020, 1, 1, 0, 0, 0, 123_456, tzinfo=UTC),
    )
    assert (await post.round(sent)).message == sent
    plain = Message(b"x", id="a", deduplication_id="b", time_to_live=1e9)
    assert (await post.round(plain)).message == plain


@pytest.mark.spec("M2")
@pytest.mark.parametrize(
    "written",
    [
        "{",
        "[]",
        "[" * 100_000,
        '{"id":5,"ttl":-1,"more":{"":"x"},"dedup":"","type":7,"not_before":"x","odd":1}',
        '{"ttl":1e999,"more":[],"dedup":false}',
    ],
    ids=["cut", "list", "deep", "wrong", "odd"],
)
async def test_our_property_may_be_written_by_anybody(post: Post, written: str) -> None:
    """What is not as we would have written it is passed over."""
    delivery = await post.ours(
        ServiceBusMessage(b"x", message_id="m", application_properties={wire.OURS: written})
    )
    assert (delivery.id, delivery.body, dict(delivery.attributes)) == ("m", b"x", {})
    assert (delivery.time_to_live, delivery.deduplication_id) == (None, None)


@pytest.mark.spec("M2")
async def test_a_time_to_come_of_no_calendar(post: Post) -> None:
    """Whoever sends a message can write it; the message is there all the same."""
    when: Any = {wire.SCHEDULED: {"TYPE": "TIMESTAMP", "VALUE": -(2**62)}}
    delivery = await post.ours(AmqpAnnotatedMessage(data_body=b"x", annotations=when))
    assert (delivery.message.body, delivery.not_before) == (b"x", None)
    assert [wire._due(odd) for odd in (None, b"x", 2**62)] == [None, None, None]


@pytest.mark.spec("M2")
async def test_our_property_may_be_of_another_type(post: Post) -> None:
    delivery = await post.ours(ServiceBusMessage(b"x", application_properties={wire.OURS: 5}))
    assert dict(delivery.attributes) == {}


@pytest.mark.spec("O2", "M2")
async def test_a_trace_context_of_others(post: Post) -> None:
    """Under its older name too; what can be none is passed over."""
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    old = await post.ours(ServiceBusMessage(b"x", application_properties={"Diagnostic-Id": parent}))
    assert old.trace == TraceContext(traceparent=parent)
    for odd in ("ü\n", 5):
        none = await post.ours(ServiceBusMessage(b"x", application_properties={"traceparent": odd}))
        assert none.trace is None


@pytest.mark.spec("M2")
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", "int"),
        ("maybe", "bool"),
        ("?", "bytes"),
        ("1", "odd"),
        (str(2**64), "int"),
        (str(-(2**63) - 1), "int"),
        (str(2**63), "time"),
        ("yesterday", "time"),
    ],
)
def test_a_note_that_does_not_fit_leaves_text(value: str, kind: str) -> None:
    """An attribute may have been changed since."""
    message = Message(b"x", attributes={"a": value, wire.TYPES: json.dumps({"a": kind})})
    found = message_of(message, None).application_properties
    assert found == {"a": value}


@pytest.mark.spec("M2")
@pytest.mark.parametrize("depth", [64, 65])
@pytest.mark.parametrize(
    ("kind", "opening", "closing"),
    [("value", "[", "]"), ("value", '{"a": ', "}"), ("sequence", "[", "]")],
)
async def test_a_body_is_never_deeper_than_it_can_be_received(
    post: Post, depth: int, opening: str, closing: str, kind: str
) -> None:
    """The SDK ends at 64, and a message that it can't read nobody gets."""
    body = (opening * depth + "1" + closing * depth).encode()
    noted = json.dumps({"": kind})
    found = await post.round(Message(body, attributes={wire.TYPES: noted}))
    assert found.body == body
    shown = json.dumps({"": kind}, separators=(",", ":"))
    assert dict(found.attributes) == ({wire.TYPES: shown} if depth == 64 else {})


@pytest.mark.spec("M2")
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "value"),
        (b"1", "sequence"),
        (b"\xff", "text"),
        (b"null", "value"),
        (b"x", "odd"),
        (b"0", "value"),
        (b"false", "value"),
        (b"[]", "value"),
        (b'"text"', "value"),
        (b"2147483648", "value"),
        (b"9223372036854775808", "value"),
        (b"[18446744073709551616]", "value"),
        (b'[{"a": -9223372036854775809}]', "sequence"),
        (b'["\\ud800"]', "value"),
        (b'{"\\ud800": 1}', "value"),
        (b"[" + b"1," * 65_536 + b"1]", "sequence"),
        (json.dumps(dict.fromkeys(map(str, range(32_769)))).encode(), "value"),
        (b"[" * 100_000, "value"),
    ],
)
def test_a_body_that_is_not_what_was_noted_stays_bytes(body: bytes, kind: str) -> None:
    made = message_of(Message(body, attributes={wire.TYPES: json.dumps({"": kind})}), None)
    assert b"".join(made.body) == body


@pytest.mark.spec("M2")
def test_bytes_and_nothing_among_the_attributes() -> None:
    """The SDK can't send bytes, but receives them: base64, noted; so is nothing at all."""
    shown, noted = wire._attributes({b"raw": b"\xff", b"none": None, b"": b"x", "other": "y"})
    assert shown == [("raw", "/w=="), ("none", ""), ("other", "y")]
    assert noted == {"raw": "bytes", "none": "null"}
    message = Message(b"x", attributes={**dict(shown), wire.TYPES: json.dumps(noted)})
    assert message_of(message, None).application_properties == {
        "raw": bytearray(b"\xff"),
        "none": None,
        "other": "y",
    }


@pytest.mark.spec("P3")
@pytest.mark.parametrize("size", [0, 100, 255, 256, 300, 70_000])
def test_the_size_of_a_message_is_known_before_the_call(size: int) -> None:
    """It is that of its encoding, whatever a list would add to it."""
    one = encoded_size(message_of(Message(b"x" * size, id="1"), None))
    other = encoded_size(message_of(Message(b"x" * (size + 1), id="1"), None))
    assert size < one < size + 100
    assert 1 <= other - one <= 4


@pytest.mark.spec("M2", "P10")
async def test_a_sequence_that_holds_maps(post: Post) -> None:
    """As JSON, their names as text."""
    delivery = await post.ours(AmqpAnnotatedMessage(sequence_body=[[{"order": 1}], [2]]))
    assert json.loads(delivery.body) == [{"order": 1}, 2]


@pytest.mark.spec("M2", "P10", "F2")
async def test_a_message_that_no_row_can_be_made_of_keeps_nobody_waiting(
    post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes with those beside it, and says that it can't be read when its body is asked for."""
    real = wire._row

    def row(message: Any) -> Any:
        if b"odd" in (message.raw_amqp_message.application_properties or {}):
            raise TypeError("of a kind that nobody thought of")
        return real(message)

    monkeypatch.setattr(wire, "_row", row)
    async with post.client.get_queue_sender("q") as sender:
        await sender.send_messages(ServiceBusMessage(b"1"))
        await sender.send_messages(ServiceBusMessage(b"2", application_properties={"odd": 1}))
        await sender.send_messages(ServiceBusMessage(b"3"))
    receiver = await post.provider.receiver("q")
    batch, receipts = MessageBatch.empty(), []
    while len(batch) < 3:
        found = await bring(receiver)
        batch, receipts = MessageBatch.concat([batch, found.batch]), receipts + found.receipts
    assert [one.sequence for one in batch] == [1, 2, 3]
    assert (batch[0].body, batch[2].body) == (b"1", b"3")
    with pytest.raises(SerializationError, match=r"can't be read \(TypeError\)"):
        _ = batch[1].body
    assert batch[1].delivery_count == 1
    assert await receiver.complete(receipts) == {}


_SIMPLE = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=4)
    | st.integers(-(2**63), 2**63 - 1).map(Timestamp)
    | st.uuids()
)
_NESTED = st.recursive(
    _SIMPLE,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_SIMPLE, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.spec("M2", "P10")
@settings(max_examples=500, deadline=None)
@given(
    properties=st.dictionaries(
        st.text(max_size=5)
        | st.sampled_from(["queue-runtime", "queue-runtime-types", "DeadLetterReason"]),
        _SIMPLE | st.text(max_size=20),
        max_size=3,
    ),
    body=_NESTED,
    sequence=st.booleans(),
)
def test_whatever_a_message_holds_it_can_be_read_and_sent_on(
    properties: dict[Any, Any], body: Any, sequence: bool
) -> None:
    """A row is made of it, and of that row a message that AMQP can carry."""
    section = Described(ULong(0x76), [body]) if sequence else Described(ULong(0x77), body)
    try:
        wired = encode(Described(ULong(0x74), properties)) + encode(section)
        message = ServiceBusReceivedMessage.from_bytes(wired)
    except Exception:  # noqa: BLE001 - what the SDK can't read is none of this
        assume(False)
    columns = wire.columns_of([message])
    assert "refused" not in columns
    batch = MessageBatch.from_columns(1, columns)
    delivery = batch[0]
    again = Message(delivery.body, attributes=dict(delivery.attributes))
    assert encoded_size(message_of(again, None)) > 0
