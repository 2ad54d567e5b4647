"""The bytes of AMQP 1.0 values: decoded, stepped over, and encoded in their smallest variant.

It is the door to the type system's encodings (part 1 of the specification): `decode` and `skip` are
here, `encode` and `compound` in encoding.py behind it. It knows no frame, performative or section:
those are values to it. Malformed input raises DecodeError and nothing else, whatever
the bytes: a server under test is given garbage on purpose.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

from tests.servicebus.amqp.encoding import compound, encode
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

__all__ = ["MAX_DEPTH", "DecodeError", "compound", "decode", "encode", "opened", "skip"]

# How deep values may be nested. Frames and messages need about 6; the bound keeps the recursion
# below Python's own, wherever on the stack the decoder is called.
MAX_DEPTH = 64
# How many elements of no width an array may claim: nothing else bounds them, and 9 bytes of input
# would otherwise ask for 4 billion.
MAX_WIDTHLESS = 1024


class DecodeError(ValueError):
    """The bytes are no AMQP value: truncated, of an unknown type, or of sizes that disagree."""


# Given the input, where the value's bytes start (behind its constructor) and how many levels it may
# still contain; returns the value and where it ends. Elements of arrays have no constructor of
# their own, so the same functions decode them.
_Decoder: TypeAlias = Callable[[bytes, int, int], tuple[Any, int]]

_unpack_u32 = struct.Struct(">I").unpack_from
_unpack_sizes = struct.Struct(">II").unpack_from


def decode(data: bytes, at: int = 0) -> tuple[Any, int]:
    """Decode the value that starts at `at`.

    Returns:
        The value, as types.py lists them, and the position behind it.

    Raises:
        DecodeError: There is no whole, well-formed value at `at`, it is nested deeper than
            MAX_DEPTH, or a map's keys are equal in Python or cannot be a dict's.
    """
    try:
        return _DECODERS[data[at]](data, at + 1, MAX_DEPTH)
    except DecodeError:
        raise
    except (IndexError, struct.error) as error:
        raise DecodeError(f"the value at byte {at} is cut off after {len(data)}") from error
    except ValueError as error:  # no UTF-8, no ASCII, no character, half a uuid
        raise DecodeError(f"the value at byte {at} is malformed: {error}") from error


def skip(data: bytes, at: int) -> int:
    """Return the position behind the value at `at`, from its sizes alone.

    What is inside a list, map or array is not looked at, so this accepts more than `decode` does.

    Raises:
        DecodeError: The value is cut off, or of an unknown type.
    """
    values = 1
    try:
        while values:
            width = _WIDTHS[data[at]]
            if width >= 0:
                at += width
                values -= 1
            elif width == _SIZE_8:
                at += 2 + data[at + 1]
                values -= 1
            elif width == _SIZE_32:
                at += 5 + _unpack_u32(data, at + 1)[0]
                values -= 1
            elif width == _DESCRIBED:  # a descriptor and a value follow in the place of one
                at += 1
                values += 1
            else:
                raise DecodeError(f"no AMQP type has the code 0x{data[at]:02x} (byte {at})")
    except (IndexError, struct.error) as error:
        raise DecodeError(f"a value is cut off at byte {at}") from error
    if at > len(data):
        raise DecodeError(f"a value ends at byte {at} of {len(data)}")
    return at


def opened(data: bytes, at: int) -> tuple[int, int, int]:
    """Look into the list or map whose constructor is at `at`, without decoding it.

    Returns:
        How many values it holds (for a map, keys and values), where the first one starts, and where
        the last one has to end.

    Raises:
        DecodeError: It is cut off, or neither a list nor a map.
    """
    try:
        code = data[at]
        if code in (0xC0, 0xC1):
            count, first, end = data[at + 2], at + 3, at + 2 + data[at + 1]
        elif code in (0xD0, 0xD1):
            size, count = _unpack_sizes(data, at + 1)
            first, end = at + 9, at + 5 + size
        elif code == 0x45:
            count, first, end = 0, at + 1, at + 1
        else:
            raise DecodeError(f"a list or a map was expected at byte {at}, not code 0x{code:02x}")
    except (IndexError, struct.error) as error:
        raise DecodeError(f"the list or map at byte {at} is cut off") from error
    if not first <= end <= len(data):
        raise DecodeError(f"the list or map at byte {at} ends at {end} of {len(data)}")
    return count, first, end


# --- decoding -------------------------------------------------------------------------------------


def _unknown(code: int) -> _Decoder:
    def decode_unknown(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        raise DecodeError(f"no AMQP type has the code 0x{code:02x} (before byte {at})")

    return decode_unknown


def _constant(value: Any) -> _Decoder:
    def decode_constant(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return value, at

    return decode_constant


def _octet(values: Sequence[Any]) -> _Decoder:
    """One byte, that is a place in `values`: most numbers on the wire are small, and are shared."""

    def decode_octet(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return values[data[at]], at + 1

    return decode_octet


def _fixed(layout: str, make: Callable[[Any], Any] | None) -> _Decoder:
    shape = struct.Struct(layout)
    unpack, width = shape.unpack_from, shape.size
    if make is None:

        def decode_plain(data: bytes, at: int, depth: int) -> tuple[Any, int]:
            return unpack(data, at)[0], at + width

        return decode_plain

    def decode_fixed(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return make(unpack(data, at)[0]), at + width

    return decode_fixed


def _short(make: Callable[[bytes], Any] | None) -> _Decoder:
    """What has its length in one byte before it."""

    def decode_short(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + 1 + data[at]
        if end > len(data):
            raise DecodeError(f"a value ends at byte {end} of {len(data)}")
        return (make(data[at + 1 : end]) if make else data[at + 1 : end]), end

    return decode_short


def _long(make: Callable[[bytes], Any] | None) -> _Decoder:
    """What has its length in four bytes before it."""

    def decode_long(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        end = at + 4 + _unpack_u32(data, at)[0]
        if end > len(data):
            raise DecodeError(f"a value ends at byte {end} of {len(data)}")
        return (make(data[at + 4 : end]) if make else data[at + 4 : end]), end

    return decode_long


def _items(data: bytes, at: int, end: int, count: int, depth: int) -> tuple[list[Any], int]:
    """A list: the `count` values between `at` and `end`."""
    # A value has one byte at least. With `end` inside the input, the check behind the loop catches
    # whatever ran over it.
    if end > len(data) or count > end - at or not depth:
        raise DecodeError(_refusal(data, at, end, count, depth))
    items: list[Any] = []
    decoders, inner = _DECODERS, depth - 1
    for _ in range(count):
        code = data[at]
        at += 1
        if code == 0x40:  # most fields of most lists are null
            items.append(None)
        else:
            value, at = decoders[code](data, at, inner)
            items.append(value)
    if at != end:
        raise DecodeError(f"{count} values end at byte {at}, their list, map or array at {end}")
    return items, end


def _pairs(data: bytes, at: int, end: int, count: int, depth: int) -> tuple[dict[Any, Any], int]:
    if end > len(data) or count > end - at or not depth:
        raise DecodeError(_refusal(data, at, end, count, depth))
    pairs: dict[Any, Any] = {}
    decoders, inner = _DECODERS, depth - 1
    try:
        for _ in range(count // 2):
            key, at = decoders[data[at]](data, at + 1, inner)
            pairs[key], at = decoders[data[at]](data, at + 1, inner)
    except TypeError as error:
        raise DecodeError(f"a map has a key that no dict can have: {error}") from error
    if at != end or count % 2:
        raise DecodeError(f"{count} keys and values end at byte {at}, their map at {end}")
    if len(pairs) * 2 != count:
        raise DecodeError(f"the map that ends at byte {end} has equal keys")
    return pairs, end


def _elements(data: bytes, at: int, end: int, count: int, depth: int) -> tuple[Array, int]:
    if end > len(data) or not depth:
        raise DecodeError(_refusal(data, at, end, count, depth))
    descriptors = []
    while data[at] == 0:
        descriptor, at = _DECODERS[data[at + 1]](data, at + 2, depth - 1)
        descriptors.append(descriptor)
    code = data[at]
    of, decoder = _CLASSES.get(code), _DECODERS[code]
    at += 1
    if of is None or count > (MAX_WIDTHLESS if _WIDTHS[code] == 1 else end - at):
        raise DecodeError(f"an array of {count} elements of code 0x{code:02x} in {end - at} bytes")
    items = []
    for _ in range(count):
        value, at = decoder(data, at, depth - 1)
        items.append(value)
    if at != end:
        raise DecodeError(f"{count} elements end at byte {at}, their array at {end}")
    return Array(items, of, tuple(descriptors)), end


def _refusal(data: bytes, at: int, end: int, count: int, depth: int) -> str:
    if not depth:
        return f"values are nested deeper than {MAX_DEPTH} (byte {at})"
    if end > len(data):
        return f"a list, map or array ends at byte {end} of {len(data)}"
    return f"a list, map or array has {count} values in {end - at} bytes (byte {at})"


_Compound: TypeAlias = Callable[[bytes, int, int, int, int], tuple[Any, int]]


def _compound_short(inside: _Compound) -> _Decoder:
    def decode_compound(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        return inside(data, at + 2, at + 1 + data[at], data[at + 1], depth)

    return decode_compound


def _compound_long(inside: _Compound) -> _Decoder:
    def decode_compound(data: bytes, at: int, depth: int) -> tuple[Any, int]:
        size, count = _unpack_sizes(data, at)
        return inside(data, at + 8, at + 4 + size, count, depth)

    return decode_compound


def _described(data: bytes, at: int, depth: int) -> tuple[Described, int]:
    if not depth:
        raise DecodeError(_refusal(data, at, 0, 0, 0))
    descriptor, at = _DECODERS[data[at]](data, at + 1, depth - 1)
    value, at = _DECODERS[data[at]](data, at + 1, depth - 1)
    return Described(descriptor, value), at


def _empty_list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    return [], at


def _utf8(raw: bytes) -> str:
    return raw.decode()


def _symbol(raw: bytes) -> Symbol:
    return Symbol(raw, "ascii")


def _char(raw: bytes) -> Char:
    return Char(raw, "utf-32-be")


def _uuid(raw: bytes) -> uuid.UUID:
    return uuid.UUID(bytes=raw)


def _octets(of: type, signed: bool = False) -> tuple[Any, ...]:
    return tuple(of(n - 256 if signed and n > 127 else n) for n in range(256))


# Code: the class of the values, and how they are decoded.
_TYPES: dict[int, tuple[type, _Decoder]] = {
    0x40: (type(None), _constant(None)),
    0x41: (bool, _constant(True)),
    0x42: (bool, _constant(False)),
    0x43: (UInt, _constant(UInt(0))),
    0x44: (ULong, _constant(ULong(0))),
    0x45: (list, _empty_list),
    0x50: (UByte, _octet(_octets(UByte))),
    0x51: (Byte, _octet(_octets(Byte, signed=True))),
    0x52: (UInt, _octet(_octets(UInt))),
    0x53: (ULong, _octet(_octets(ULong))),
    0x54: (Int, _octet(_octets(Int, signed=True))),
    0x55: (int, _octet(_octets(int, signed=True))),
    0x56: (bool, _octet((False, True))),
    0x60: (UShort, _fixed(">H", UShort)),
    0x61: (Short, _fixed(">h", Short)),
    0x70: (UInt, _fixed(">I", UInt)),
    0x71: (Int, _fixed(">i", Int)),
    0x72: (Float, _fixed(">f", Float)),
    0x73: (Char, _fixed(">4s", _char)),
    0x74: (Decimal32, _fixed(">4s", Decimal32)),
    0x80: (ULong, _fixed(">Q", ULong)),
    0x81: (int, _fixed(">q", None)),
    0x82: (float, _fixed(">d", None)),
    0x83: (Timestamp, _fixed(">q", Timestamp)),
    0x84: (Decimal64, _fixed(">8s", Decimal64)),
    0x94: (Decimal128, _fixed(">16s", Decimal128)),
    0x98: (uuid.UUID, _fixed(">16s", _uuid)),
    0xA0: (bytes, _short(None)),
    0xA1: (str, _short(_utf8)),
    0xA3: (Symbol, _short(lru_cache(1024)(_symbol))),  # the same few names come in every message
    0xB0: (bytes, _long(None)),
    0xB1: (str, _long(_utf8)),
    0xB3: (Symbol, _long(_symbol)),
    0xC0: (list, _compound_short(_items)),
    0xC1: (dict, _compound_short(_pairs)),
    0xD0: (list, _compound_long(_items)),
    0xD1: (dict, _compound_long(_pairs)),
    0xE0: (Array, _compound_short(_elements)),
    0xF0: (Array, _compound_long(_elements)),
}
_CLASSES = {code: of for code, (of, _) in _TYPES.items()}
_DECODERS: tuple[_Decoder, ...] = (
    _described,
    *(_TYPES[code][1] if code in _TYPES else _unknown(code) for code in range(1, 256)),
)

# How far it is from a code to the next value; or where that is written; or that none is known.
_SIZE_8, _SIZE_32, _DESCRIBED, _NO_TYPE = -1, -2, -3, -4
_BY_CATEGORY = {
    0x4: 1, 0x5: 2, 0x6: 3, 0x7: 5, 0x8: 9, 0x9: 17,
    0xA: _SIZE_8, 0xC: _SIZE_8, 0xE: _SIZE_8, 0xB: _SIZE_32, 0xD: _SIZE_32, 0xF: _SIZE_32,
}  # fmt: skip
_WIDTHS = (
    _DESCRIBED,
    *(_BY_CATEGORY[code >> 4] if code in _TYPES else _NO_TYPE for code in range(1, 256)),
)
