"""From values to the bytes of AMQP 1.0, each in its smallest variant: the way out of codec.py.

Import `encode` from codec. What only looks at bytes, or takes them apart, is there.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

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
    Short,
    Symbol,
    Timestamp,
    UByte,
    UInt,
    ULong,
    UShort,
)

_Encoder: TypeAlias = Callable[[Any], bytes]


def encode(value: Any) -> bytes:
    """Encode a value of one of the classes in types.py, or of a class derived from one.

    Raises:
        TypeError: It is of no such class, or an array's element not of the array's.
        ValueError: It does not fit its type: a UByte of 256, a Symbol that is not ASCII.
    """
    try:
        return _ENCODERS[type(value)](value)
    except (struct.error, OverflowError) as error:
        raise ValueError(f"{value!r} does not fit its AMQP type: {error}") from error


def compound(short: int, count: int, body: bytes) -> bytes:
    """Put a list's, map's or array's constructor, size and count before its `count` encoded values.

    Args:
        short: The code of the variant with sizes of a byte; the other's is 16 more.
        count: How many values the body holds: for a map, keys and values.
        body: Their bytes; for an array, with the constructor of the elements first.
    """
    if len(body) < 255 and count < 256:
        return bytes((short, len(body) + 1, count)) + body
    return _wide_head(short + 0x10, len(body) + 4, count) + body


_wide_head = struct.Struct(">BII").pack


class _ByClass(dict[type, _Encoder]):
    """Encoders by the class of the value; a derived class, an IntEnum say, has its base's."""

    def __missing__(self, of: type) -> _Encoder:
        for base in of.__mro__:
            if base in self:
                return self[base]
        raise TypeError(f"AMQP has no type for a {of.__name__}: use the classes in amqp/types.py")


def _joined(values: Sequence[Any]) -> bytes:
    return b"".join([_ENCODERS[type(value)](value) for value in values])


def _fixed(layout: str) -> _Encoder:
    code, pack = int(layout[:2], 16), struct.Struct(">B" + layout[2:]).pack

    def encode_fixed(value: Any) -> bytes:
        return pack(code, value)

    return encode_fixed


def _number(low: int, small: Sequence[bytes], wide: _Encoder) -> _Encoder:
    """An integer that has a variant of a byte, from `low` on: `small` holds all of those."""
    end = low + len(small)

    def encode_number(value: Any) -> bytes:
        return small[value - low] if low <= value < end else wide(value)

    return encode_number


def _sized(short: int, raw_of: Callable[[Any], bytes]) -> _Encoder:
    """What has its length before it, in one byte or, with a code that is 16 more, in four."""
    heads = tuple(bytes((short, size)) for size in range(256))
    long_head = struct.Struct(">BI").pack

    def encode_sized(value: Any) -> bytes:
        raw = raw_of(value)
        size = len(raw)
        return (heads[size] if size < 256 else long_head(short + 0x10, size)) + raw

    return encode_sized


def _opaque(code: int, size: int) -> _Encoder:
    head = bytes((code,))

    def encode_opaque(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"a {type(value).__name__} has {size} bytes, not {len(value)}")
        return head + value

    return encode_opaque


def _character(value: str) -> bytes:
    raw = value.encode("utf-32-be")
    if len(raw) != 4:
        raise ValueError(f"a Char is one character, not {value!r}")
    return raw


def _flat(pairs: dict[Any, Any]) -> list[Any]:
    return [value for pair in pairs.items() for value in pair]


def _list(value: list[Any]) -> bytes:
    return compound(0xC0, len(value), _joined(value)) if value else b"\x45"


def _map(value: dict[Any, Any]) -> bytes:
    return compound(0xC1, len(value) * 2, _joined(_flat(value)))


def _described(value: Described) -> bytes:
    return b"\x00" + _joined((value.descriptor, value.value))


def _array(value: Array) -> bytes:
    return compound(0xE0, len(value), _array_body(value))


_ENCODERS = _ByClass(
    {
        type(None): lambda _: b"\x40",
        bool: lambda value: b"\x41" if value else b"\x42",
        UByte: _fixed("50B"),
        UShort: _fixed("60H"),
        UInt: _number(0, (b"\x43", *(bytes((0x52, n)) for n in range(1, 256))), _fixed("70I")),
        ULong: _number(0, (b"\x44", *(bytes((0x53, n)) for n in range(1, 256))), _fixed("80Q")),
        Byte: _fixed("51b"),
        Short: _fixed("61h"),
        Int: _number(-128, [bytes((0x54, n & 255)) for n in range(-128, 128)], _fixed("71i")),
        int: _number(-128, [bytes((0x55, n & 255)) for n in range(-128, 128)], _fixed("81q")),
        Float: _fixed("72f"),
        float: _fixed("82d"),
        Decimal32: _opaque(0x74, 4),
        Decimal64: _opaque(0x84, 8),
        Decimal128: _opaque(0x94, 16),
        Char: lambda value: b"\x73" + _character(value),
        Timestamp: _fixed("83q"),
        uuid.UUID: lambda value: b"\x98" + value.bytes,
        bytes: _sized(0xA0, bytes),
        str: _sized(0xA1, str.encode),
        Symbol: _sized(0xA3, lambda value: value.encode("ascii")),
        list: _list,
        dict: _map,
        Described: _described,
        Array: _array,
    }
)


# --- arrays: one constructor for all elements, so the variant that suits every one of them --------


def _array_body(value: Array) -> bytes:
    of = value.of
    for item in value:
        if not isinstance(item, of):
            raise TypeError(f"an array of {of.__name__} holds {item!r}, a {type(item).__name__}")
    described = b"".join([b"\x00" + encode(descriptor) for descriptor in value.descriptors])
    return described + _PACKERS[of](value)


def _all_fixed(layout: str) -> _Encoder:
    code = bytes.fromhex(layout[:2])

    def pack(items: list[Any]) -> bytes:
        return code + struct.pack(f">{len(items)}{layout[2:]}", *items)

    return pack


def _all_numbers(low: int, small: str, wide: str) -> _Encoder:
    pack_small, pack_wide = _all_fixed(small), _all_fixed(wide)

    def pack(items: list[Any]) -> bytes:
        fits = all(low <= item < low + 256 for item in items)
        return pack_small(items) if fits else pack_wide(items)

    return pack


def _all_plain(code: int, encoder: _Encoder) -> _Encoder:
    """Of a type with one variant: every element's own constructor is taken off."""
    return lambda items: bytes((code,)) + b"".join([encoder(item)[1:] for item in items])


def _all_sized(short: int, raw_of: Callable[[Any], bytes]) -> _Encoder:
    def pack(items: list[Any]) -> bytes:
        raws = [raw_of(item) for item in items]
        wide = any(len(raw) > 255 for raw in raws)
        sizes = struct.Struct(">I" if wide else ">B").pack
        head = bytes((short + 0x10 if wide else short,))
        return head + b"".join([sizes(len(raw)) + raw for raw in raws])

    return pack


def _all_compound(short: int, inside: Callable[[Any], tuple[int, bytes]]) -> _Encoder:
    def pack(items: list[Any]) -> bytes:
        bodies = [inside(item) for item in items]
        wide = any(len(body) > 254 or count > 255 for count, body in bodies)
        sizes, width = struct.Struct(">II" if wide else ">BB").pack, 4 if wide else 1
        head = bytes((short + 0x10 if wide else short,))
        return head + b"".join([sizes(len(body) + width, count) + body for count, body in bodies])

    return pack


_PACKERS = _ByClass(
    {
        type(None): lambda _: b"\x40",
        # Booleans, zeros and empty lists have variants of no width. They are not used here: such an
        # array of any length has the same few bytes, and decoders are right to be wary of it.
        bool: lambda items: b"\x56" + bytes(items),
        UByte: _all_fixed("50B"),
        UShort: _all_fixed("60H"),
        UInt: _all_numbers(0, "52B", "70I"),
        ULong: _all_numbers(0, "53B", "80Q"),
        Byte: _all_fixed("51b"),
        Short: _all_fixed("61h"),
        Int: _all_numbers(-128, "54b", "71i"),
        int: _all_numbers(-128, "55b", "81q"),
        Float: _all_fixed("72f"),
        float: _all_fixed("82d"),
        Timestamp: _all_fixed("83q"),
        Decimal32: _all_plain(0x74, _ENCODERS[Decimal32]),
        Decimal64: _all_plain(0x84, _ENCODERS[Decimal64]),
        Decimal128: _all_plain(0x94, _ENCODERS[Decimal128]),
        Char: _all_plain(0x73, _ENCODERS[Char]),
        uuid.UUID: _all_plain(0x98, _ENCODERS[uuid.UUID]),
        bytes: _all_sized(0xA0, bytes),
        str: _all_sized(0xA1, str.encode),
        Symbol: _all_sized(0xA3, lambda value: value.encode("ascii")),
        list: _all_compound(0xC0, lambda value: (len(value), _joined(value))),
        dict: _all_compound(0xC1, lambda value: (len(value) * 2, _joined(_flat(value)))),
        Array: _all_compound(0xE0, lambda value: (len(value), _array_body(value))),
    }
)
