"""Values and their bytes: by the tables of the specification, and by properties."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.amqp.codec import (
    DecodeError,
    decode,
    encode,
    opened,
    skip,
)
from tests.servicebus.amqp.types import (
    Array,
    Byte,
    Char,
    Decimal32,
    Decimal64,
    Decimal128,
    Described,
    Float,
    Int,
    Long,
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)
from tests.servicebus.amqp_values import typed, values

_UUID = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")

# Every code of part 1 of the specification: the bytes, what they mean, and how that is encoded here
# when the bytes are not the smallest variant.
_CODES: list[tuple[str, Any, str | None]] = [
    ("40", None, None),
    ("41", True, None),
    ("42", False, None),
    ("56 01", True, "41"),
    ("56 00", False, "42"),
    ("43", UInt(0), None),
    ("44", ULong(0), None),
    ("45", [], None),
    ("50 ff", UByte(255), None),
    ("51 80", Byte(-128), None),
    ("52 ff", UInt(255), None),
    ("52 00", UInt(0), "43"),
    ("53 ff", ULong(255), None),
    ("53 00", ULong(0), "44"),
    ("54 80", Int(-128), None),
    ("54 7f", Int(127), None),
    ("55 80", -128, None),
    ("55 7f", 127, None),
    ("60 ffff", UShort(65535), None),
    ("61 8000", Short(-32768), None),
    ("70 00000100", UInt(256), None),
    ("70 000000ff", UInt(255), "52 ff"),
    ("71 ffffff7f", Int(-129), None),
    ("71 ffffff80", Int(-128), "54 80"),
    ("72 3fc00000", Float(1.5), None),
    ("73 0001f40c", Char("\U0001f40c"), None),
    ("74 00010203", Decimal32(bytes(range(4))), None),
    ("80 0000000000000100", ULong(256), None),
    ("80 0000000000000070", ULong(0x70), "53 70"),
    ("81 0000000000000080", 128, None),
    ("81 ffffffffffffffff", -1, "55 ff"),
    ("82 3ff8000000000000", 1.5, None),
    ("83 0000018bcfe56800", Timestamp(1_700_000_000_000), None),
    ("83 ffffffffffffffff", Timestamp(-1), None),
    ("84 0001020304050607", Decimal64(bytes(range(8))), None),
    ("94 000102030405060708090a0b0c0d0e0f", Decimal128(bytes(range(16))), None),
    ("98 00112233445566778899aabbccddeeff", _UUID, None),
    ("a0 02 00ff", b"\x00\xff", None),
    ("b0 00000002 00ff", b"\x00\xff", "a0 02 00ff"),
    ("a1 03 e282ac", "\u20ac", None),
    ("b1 00000003 e282ac", "\u20ac", "a1 03 e282ac"),
    ("a3 02 6162", Symbol("ab"), None),
    ("b3 00000002 6162", Symbol("ab"), "a3 02 6162"),
    ("c0 03 02 40 43", [None, UInt(0)], None),
    ("c0 01 00", [], "45"),
    ("d0 00000006 00000002 40 43", [None, UInt(0)], "c0 03 02 40 43"),
    ("c1 06 02 a3 01 61 55 05", {Symbol("a"): 5}, None),
    ("c1 01 00", {}, None),
    ("d1 00000009 00000002 a3 01 61 55 05", {Symbol("a"): 5}, "c1 06 02 a3 01 61 55 05"),
    ("e0 04 02 55 01 ff", Array([1, -1]), None),
    ("f0 00000007 00000002 55 01 ff", Array([1, -1]), "e0 04 02 55 01 ff"),
    ("00 53 70 45", Described(ULong(0x70), []), None),
    ("00 a3 01 61 00 44 40", Described(Symbol("a"), Described(ULong(0), None)), None),
]

# Arrays have one constructor for all elements. Same columns.
_ARRAYS: list[tuple[str, Any, str | None]] = [
    ("e0 02 00 98", Array([], of=uuid.UUID), None),
    ("e0 02 00 45", Array([], of=list), "e0 02 00 c0"),
    ("e0 02 03 40", Array([None, None, None]), None),
    ("e0 04 02 56 01 00", Array([True, False]), None),
    ("e0 02 02 41", Array([True, True]), "e0 04 02 56 01 01"),
    ("e0 02 02 43", Array([UInt(0), UInt(0)]), "e0 04 02 52 00 00"),
    ("e0 0a 02 70 00000001 00000002", Array([UInt(1), UInt(2)]), "e0 04 02 52 01 02"),
    ("e0 0a 02 71 00000001 ffffff7f", Array([Int(1), Int(-129)]), None),
    ("e0 0a 02 74 00010203 00010203", Array([Decimal32(bytes(range(4)))] * 2), None),
    ("e0 0a 02 73 00000061 00000062", Array([Char("a"), Char("b")]), None),
    ("e0 06 02 a1 01 61 01 62", Array(["a", "b"]), None),
    ("e0 0b 02 b3 00000001 61 00000000", Array([Symbol("a"), Symbol("")]), "e0 05 02 a3 01 61 00"),
    ("e0 07 02 c0 02 01 40 01 00", Array([[None], []]), None),
    ("e0 08 01 c1 05 02 a1 00 55 05", Array([{"": 5}]), None),
    ("e0 09 02 e0 03 01 55 07 02 00 a1", Array([Array([7]), Array([], of=str)]), None),
    # Of described values: the descriptor is a part of the constructor, and may itself be described.
    ("e0 06 01 00 53 25 55 07", Array([7], descriptors=(ULong(0x25),)), None),
    ("e0 05 00 00 53 25 98", Array([], of=uuid.UUID, descriptors=(ULong(0x25),)), None),
    ("e0 0a 01 00a30161 005325 55 07", Array([7], descriptors=(Symbol("a"), ULong(0x25))), None),
]
_ALL = _CODES + _ARRAYS


@pytest.mark.parametrize(("text", "value"), [row[:2] for row in _ALL], ids=[r[0] for r in _ALL])
def test_every_code_is_decoded(text: str, value: Any) -> None:
    """Each variant gives the value with its type and where it ends, wherever it starts."""
    data = bytes.fromhex(text)
    got, end = decode(b"??" + data + b"?", 2)
    assert typed(got) == typed(value)
    assert end == 2 + len(data)


@pytest.mark.parametrize(
    ("value", "text"), [(v, small or t) for t, v, small in _ALL], ids=[r[0] for r in _ALL]
)
def test_the_smallest_variant_is_encoded(value: Any, text: str) -> None:
    assert encode(value).hex(" ") == bytes.fromhex(text).hex(" ")


@pytest.mark.parametrize(
    ("value", "head"),
    [
        (b"x" * 255, "a0 ff"),
        (b"x" * 256, "b0 00000100"),
        ("x" * 256, "b1 00000100"),
        (Symbol("x" * 256), "b3 00000100"),
        ([None] * 254, "c0 ff fe"),
        ([None] * 255, "d0 00000103 000000ff"),
        ([b"x" * 300], "d0 00000135 00000001 b0 0000012c"),
        ({"k": b"x" * 300}, "d1 00000138 00000002 a1 01 6b b0 0000012c"),
        (Array([b"x" * 300, b""]), "f0 00000139 00000002 b0 0000012c"),
        (Array([["x" * 252, None], []]), "f0 00000114 00000002 d0 00000103 00000002 a1 fc"),
        (Array([None] * 256), "f0 00000005 00000100 40"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else "",
)
def test_sizes_and_counts_that_need_more_than_a_byte(value: Any, head: str) -> None:
    data = encode(value)
    assert data.hex().startswith(bytes.fromhex(head).hex())
    assert typed(decode(data)[0]) == typed(value)


@given(values())
def test_what_is_encoded_is_decoded_as_it_was(value: Any) -> None:
    """Types survive as well as values; and what was decoded has the same bytes again."""
    data = encode(value)
    got, end = decode(data)
    assert typed(got) == typed(value)
    assert end == len(data)
    assert encode(got) == data


@given(values(), st.binary(max_size=4), st.binary(max_size=4))
def test_skipping_ends_where_decoding_does(value: Any, before: bytes, behind: bytes) -> None:
    data = before + encode(value) + behind
    assert skip(data, len(before)) == decode(data, len(before))[1] == len(data) - len(behind)


@pytest.mark.parametrize(
    "value",
    [
        UByte(256),
        UByte(-1),
        UShort(65536),
        UInt(-1),
        UInt(2**32),
        ULong(2**64),
        Byte(128),
        Short(-32769),
        Int(2**31),
        Long(2**63),
        Timestamp(2**63),
        Float(1e300),
        Decimal32(b"123"),
        Char(""),
        Char("ab"),
        Symbol("\u20ac"),
        "\ud800",
        [UByte(256)],
        Array([UByte(256)]),
    ],
    ids=repr,
)
def test_what_does_not_fit_its_type_is_not_encoded(value: Any) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (UnicodeEncodeError has a message of its own)
        encode(value)


@pytest.mark.parametrize("value", [object(), [{1, 2}], Array([object()])], ids=["", "in", "of"])
def test_what_has_no_type_is_not_encoded(value: Any) -> None:
    with pytest.raises(TypeError, match="AMQP has no type for a "):
        encode(value)


def test_an_array_holds_values_of_its_class_alone() -> None:
    with pytest.raises(TypeError, match="an array of Timestamp holds 5, a int"):
        encode(Array([Timestamp(1), 5]))
    with pytest.raises(TypeError, match="AMQP has no type for a Described"):
        encode(Array([Described(ULong(1), 5)]))


def test_an_empty_array_has_to_be_told_its_class() -> None:
    with pytest.raises(ValueError, match="class of its elements"):
        Array([])


def test_a_derived_class_is_encoded_as_its_base() -> None:
    class Role(enum.IntEnum):
        RECEIVER = 1

    class Name(Symbol):
        pass

    assert encode(Role.RECEIVER) == encode(1)
    assert encode(Name("a")) == encode(Symbol("a"))
    assert encode(Array([Name("a")])) == encode(Array([Symbol("a")]))


def test_an_array_shows_its_class() -> None:
    """Equal lists may be different arrays: a failed assertion has to tell them apart."""
    assert repr(Array([1])) == "Array([1], of=int)"
    described = Array([], of=str, descriptors=(Symbol("a"),))
    assert repr(described) == "Array([], of=str, descriptors=('a',))"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("45", (0, 1, 1)),
        ("c0 03 02 40 43", (2, 3, 5)),
        ("d0 00000006 00000002 40 43", (2, 9, 11)),
        ("c1 05 02 a1 00 55 05", (2, 3, 7)),
        ("d1 00000008 00000002 a1 00 55 05", (2, 9, 13)),
    ],
)
def test_a_list_or_map_is_looked_into(text: str, expected: tuple[int, int, int]) -> None:
    """Its values can then be skipped or decoded one by one, up to the end."""
    data = bytes.fromhex(text)
    assert opened(data, 0) == expected
    count, at, end = expected
    for _ in range(count):
        at = skip(data, at)
    assert at == end


@pytest.mark.parametrize("text", ["", "40", "c0", "c0 01", "c0 00 00", "d0 0000", "c0 05 01 40"])
def test_what_is_no_list_or_map_is_not_looked_into(text: str) -> None:
    with pytest.raises(DecodeError):
        opened(bytes.fromhex(text), 0)
