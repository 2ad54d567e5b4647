"""Messages taken apart and changed, byte for byte."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.amqp.codec import DecodeError, decode, encode
from tests.servicebus.amqp.sections import (
    Sections,
    data_sections,
    properties,
    split,
    with_application_properties,
    with_message_id,
)
from tests.servicebus.amqp.types import Described, Int, Symbol, Timestamp, UByte, UInt, ULong
from tests.servicebus.amqp_values import primitives, typed, values


def _section(number: int, value: Any) -> bytes:
    return encode(Described(ULong(number), value))


HEADER = _section(0x70, [True, UByte(7), UInt(60_000)])
DELIVERY = _section(0x71, {Symbol("x-opt-lock-token"): 1})
ANNOTATIONS = _section(0x72, {Symbol("x-opt-partition-key"): "p"})
PROPERTIES = _section(0x73, ["id", None, "to"])
APPLICATION = _section(0x74, {"kind": "order", "attempt": Int(1)})
DATA = _section(0x75, b"body")
SEQUENCE = _section(0x76, [1, "two"])
VALUE = _section(0x77, {"any": [None]})
FOOTER = _section(0x78, {Symbol("sum"): b"\x00"})

# As azure-servicebus 7.15 sends it: a session id, a content type, properties and a time to live.
SDK_MESSAGE = bytes.fromhex(
    "005370c00a054040700000ea604040005373c05f0da1243666316232633465"
    "2d376430622d346135332d396535332d3164396536613363386130314040404040a31061"
    "70706c69636174696f6e2f6a736f6e4083000001a21ae0d92883000001a21adfeec8a10a"
    "73657373696f6e2d31374040005374c11904a1046b696e64a1056f72646572a107617474"
    "656d70745401005375a00378797a"
)


def test_a_message_of_the_sdk() -> None:
    sections = split(SDK_MESSAGE)
    assert typed(sections.header) == typed([None, None, UInt(60_000), None, None])
    assert sections.delivery_annotations == b""
    assert sections.annotations == {}
    assert SDK_MESSAGE.endswith(sections.bare)
    assert data_sections(sections.bare) == [b"xyz"]
    fields = properties(sections.bare)
    assert fields[0] == "6f1b2c4e-7d0b-4a53-9e53-1d9e6a3c8a01"
    assert typed(fields[6]) == typed(Symbol("application/json"))
    assert typed(fields[8]) == typed(Timestamp(1_795_747_273_000))
    assert fields[10] == "session-17"
    assert len(fields) == 13


_BODIES = st.one_of(
    st.lists(st.binary(max_size=300).map(lambda data: _section(0x75, data)), max_size=3),
    st.lists(values().map(lambda value: _section(0x76, [value])), max_size=3),
    values().map(lambda value: [_section(0x77, value)]),
).map(b"".join)
_ANNOTATIONS = st.dictionaries(st.text("abc", max_size=3).map(Symbol), values(), max_size=3)
_APPLICATION = st.dictionaries(st.text("abc", max_size=3), primitives, max_size=4)
_FIELDS = st.lists(primitives, max_size=13)


def _maybe(number: int, contents: st.SearchStrategy[Any]) -> st.SearchStrategy[bytes]:
    return st.just(b"") | contents.map(lambda content: _section(number, content))


_PARTS = st.tuples(
    _maybe(0x70, st.lists(primitives, max_size=5)),
    _maybe(0x71, _ANNOTATIONS),
    _maybe(0x72, _ANNOTATIONS),
    _maybe(0x73, _FIELDS),
    _maybe(0x74, _APPLICATION),
    _BODIES,
    _maybe(0x78, _ANNOTATIONS),
)


@given(_PARTS, st.booleans())
def test_every_part_is_found(parts: tuple[bytes, ...], late: bool) -> None:
    """Delivery annotations are found in their place and at the end, where the SDK puts them."""
    header, delivery, annotations, *rest = parts
    bare = b"".join(rest)
    sections = split(header + annotations + bare + delivery if late else b"".join(parts))
    assert typed(sections.header) == typed(_content(header))
    assert sections.delivery_annotations == delivery
    assert typed(sections.annotations) == typed(_content(annotations) or {})
    assert sections.bare == bare
    assert typed(properties(bare)) == typed(_content(parts[3]) or [])


def _content(section: bytes) -> Any:
    return decode(section)[0].value if section else None


@given(_PARTS, st.text(max_size=300))
def test_the_message_id_alone_is_set(parts: tuple[bytes, ...], message_id: str) -> None:
    """Other properties keep their types and places, and what is behind them its bytes."""
    bare = with_message_id(b"".join(parts[3:]), message_id)
    assert typed(properties(bare)) == typed([message_id, *properties(parts[3])[1:]])
    assert bare.endswith(b"".join(parts[4:]))
    assert split(bare).bare == bare


@given(_PARTS, _APPLICATION)
def test_application_properties_are_merged(parts: tuple[bytes, ...], extra: dict[str, Any]) -> None:
    """New values replace those of their names; everything else keeps its bytes."""
    bare = with_application_properties(b"".join(parts[3:]), extra)
    found, rest = parts[3], b"".join(parts[5:])
    assert bare.startswith(found)
    assert bare.endswith(rest)
    section = bare[len(found) : len(bare) - len(rest)]
    before = _content(parts[4]) or {}
    kept = {name: value for name, value in before.items() if name not in extra}
    assert typed(_content(section) or {}) == typed(kept | extra)
    assert split(bare).bare == bare


def test_without_new_application_properties_the_message_is_the_same() -> None:
    bare = PROPERTIES + DATA
    assert with_application_properties(bare, {}) is bare


def test_the_names_of_application_properties_are_strings() -> None:
    """Also when they come from an outcome's map, in which they are symbols."""
    bare = with_application_properties(APPLICATION, {Symbol("kind"): Symbol("late")})
    assert typed(_content(bare)) == typed({"attempt": Int(1), "kind": Symbol("late")})


def test_an_added_section_comes_in_its_place() -> None:
    extra = {"reason": "why"}
    section = _section(0x74, extra)
    assert with_application_properties(b"", extra) == section
    assert with_application_properties(DATA, extra) == section + DATA
    assert with_application_properties(PROPERTIES + VALUE, extra) == PROPERTIES + section + VALUE
    assert with_message_id(APPLICATION + DATA, "id") == _section(0x73, ["id"]) + APPLICATION + DATA


@pytest.mark.parametrize(
    "name",
    [
        (0x70, "amqp:header:list"),
        (0x71, "amqp:delivery-annotations:map"),
        (0x72, "amqp:message-annotations:map"),
        (0x73, "amqp:properties:list"),
        (0x74, "amqp:application-properties:map"),
        (0x75, "amqp:data:binary"),
        (0x76, "amqp:amqp-sequence:list"),
        (0x77, "amqp:amqp-value:*"),
        (0x78, "amqp:footer:map"),
    ],
)
@pytest.mark.parametrize("wide", [False, True], ids=["name", "wide"])
def test_descriptors_may_be_names_or_wide_numbers(name: tuple[int, str], wide: bool) -> None:
    """They are found all the same, and left as they are."""
    number, symbol = name
    short = {
        0x70: HEADER, 0x71: DELIVERY, 0x72: ANNOTATIONS, 0x73: PROPERTIES, 0x74: APPLICATION,
        0x75: DATA, 0x76: SEQUENCE, 0x77: VALUE, 0x78: FOOTER,
    }[number]  # fmt: skip
    other = b"\x80" + number.to_bytes(8, "big") if wide else encode(Symbol(symbol))
    message = b"\x00" + other + short[3:]
    got, expected = split(message), split(short)
    assert got.header == expected.header
    assert got.annotations == expected.annotations
    assert bool(got.delivery_annotations) == bool(expected.delivery_annotations)
    assert got.bare == (message if expected.bare else b"")
    assert properties(got.bare) == properties(expected.bare)


def test_messages_without_a_body_or_anything_pass() -> None:
    """The SDK sends both, for bodies of None."""
    assert split(PROPERTIES).bare == PROPERTIES
    assert split(b"") == Sections(None, b"", {}, b"")


_NO_MESSAGES = {
    "a value that is no section": encode("text"),
    "a performative": _section(0x14, []),
    "an unknown name": encode(Described(Symbol("amqp:unknown:list"), [])),
    "a descriptor of another type": encode(Described(UInt(0x75), b"")),
    "half a descriptor": PROPERTIES + b"\x00\x53",
    "a descriptor without a value": PROPERTIES + b"\x00\x53\x75",
    "a section that is cut off": DATA[:-1],
    "something behind the last section": DATA + b"\x40",
    "the header behind annotations": ANNOTATIONS + HEADER,
    "annotations behind properties": PROPERTIES + ANNOTATIONS,
    "two headers": HEADER + HEADER,
    "two sections of properties": PROPERTIES + PROPERTIES,
    "two values": VALUE + VALUE,
    "data and a sequence": DATA + SEQUENCE,
    "a value and data": VALUE + DATA,
    "a body behind the footer": FOOTER + DATA,
    "two footers": DATA + FOOTER + FOOTER,
    "delivery annotations in the middle": PROPERTIES + DELIVERY + DATA,
    "delivery annotations in two places": DELIVERY + DATA + DELIVERY,
    "a header that is a map": _section(0x70, {}),
    "annotations that are a list": _section(0x72, []),
    "annotations that are null": _section(0x72, None),
    "properties that are a map": _section(0x73, {}),
    "application properties that are a list": _section(0x74, []),
    "data that is text": _section(0x75, "text"),
    "data that is described": _section(0x75, Described(ULong(1), b"")),
    "a sequence that is binary": _section(0x76, b""),
    "a footer that is a list": DATA + _section(0x78, []),
    "a malformed header": b"\x00\x53\x70\xc0\x02\x01\xff",
    "malformed annotations": b"\x00\x53\x72\xc1\x02\x01\x40",
    "malformed application properties": b"\x00\x53\x74\xc1\x02\x01\x40" + DATA,
}


@pytest.mark.parametrize("message", _NO_MESSAGES.values(), ids=_NO_MESSAGES.keys())
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(DecodeError):
        split(message)


def test_malformed_properties_are_refused_when_they_are_read() -> None:
    bare = b"\x00\x53\x73\xc0\x02\x01\xff" + DATA
    assert split(bare).bare == bare
    with pytest.raises(DecodeError):
        properties(bare)


def test_the_messages_of_a_batch() -> None:
    messages = [SDK_MESSAGE, PROPERTIES + DATA, b""]
    envelope = PROPERTIES + b"".join(_section(0x75, message) for message in messages) + FOOTER
    assert data_sections(envelope) == messages
    assert data_sections(PROPERTIES) == []


@pytest.mark.parametrize("body", [SEQUENCE, VALUE], ids=["sequence", "value"])
def test_only_data_makes_a_batch(body: bytes) -> None:
    with pytest.raises(DecodeError, match="not made of data"):
        data_sections(PROPERTIES + body)


@given(_PARTS.map(b"".join), st.data())
def test_damaged_messages_are_messages_or_refused(message: bytes, draw: st.DataObject) -> None:
    """What passes can be changed without an error, if its properties can be read."""
    damaged = bytearray(message or DATA)
    for _ in range(draw.draw(st.integers(1, 3))):
        damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    damaged = damaged[: draw.draw(st.integers(0, len(damaged)))]
    with contextlib.suppress(DecodeError):
        bare = split(bytes(damaged)).bare
        fields = properties(bare)
        _change(bare, fields)


def _change(bare: bytes, fields: list[Any]) -> None:
    try:
        changed = with_application_properties(with_message_id(bare, "id"), {"a": 1})
    except DecodeError as error:
        raise AssertionError("it was accepted, and could not be changed") from error
    assert typed(properties(changed)) == typed(["id", *fields[1:]])
