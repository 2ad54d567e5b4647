"""The codec against Apache Qpid Proton's: each decodes what the other encoded, types included."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from hypothesis import given

from tests.servicebus.amqp.codec import decode, encode
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
from tests.servicebus.amqp_values import typed, values
from tests.servicebus.tools import needed

try:
    from proton import Data
except ImportError:
    needed("python-qpid-proton is not installed (it needs a C compiler)")


# Class: proton's type, how it takes a value of ours, how ours is made of what it gives.
_PLAIN: dict[type, tuple[int, str, Callable[[Any], Any], Callable[[Any], Any]]] = {
    bool: (Data.BOOL, "bool", bool, bool),
    UByte: (Data.UBYTE, "ubyte", int, UByte),
    UShort: (Data.USHORT, "ushort", int, UShort),
    UInt: (Data.UINT, "uint", int, UInt),
    ULong: (Data.ULONG, "ulong", int, ULong),
    Byte: (Data.BYTE, "byte", int, Byte),
    Short: (Data.SHORT, "short", int, Short),
    Int: (Data.INT, "int", int, Int),
    int: (Data.LONG, "long", int, int),
    Timestamp: (Data.TIMESTAMP, "timestamp", int, Timestamp),
    Float: (Data.FLOAT, "float", float, Float),
    float: (Data.DOUBLE, "double", float, float),
    # Proton has these as the number that their bytes are.
    Decimal32: (Data.DECIMAL32, "decimal32", lambda v: int.from_bytes(v, "big"),
                lambda v: Decimal32(v.to_bytes(4, "big"))),
    Decimal64: (Data.DECIMAL64, "decimal64", lambda v: int.from_bytes(v, "big"),
                lambda v: Decimal64(v.to_bytes(8, "big"))),
    Decimal128: (Data.DECIMAL128, "decimal128", bytes, Decimal128),
    Char: (Data.CHAR, "char", str, Char),
    uuid.UUID: (Data.UUID, "uuid", lambda v: v, lambda v: v),
    bytes: (Data.BINARY, "binary", bytes, bytes),
    str: (Data.STRING, "string", str, str),
    Symbol: (Data.SYMBOL, "symbol", str, Symbol),
}  # fmt: skip
_TYPES = {of: row[0] for of, row in _PLAIN.items()} | {
    type(None): Data.NULL,
    list: Data.LIST,
    dict: Data.MAP,
    Array: Data.ARRAY,
}
_CLASSES = {code: of for of, code in _TYPES.items()}


def _put(data: Any, value: Any) -> None:
    """Append a value of ours to proton's data, where its cursor is."""
    of = type(value)
    if value is None:
        data.put_null()
    elif of in _PLAIN:
        _, name, given_as, _ = _PLAIN[of]
        getattr(data, f"put_{name}")(given_as(value))
    else:
        inside: list[Any]
        if of is Described:
            data.put_described()
            inside = [value.descriptor, value.value]
        elif of is Array:
            data.put_array(bool(value.descriptors), _TYPES[value.of])
            inside = [*value.descriptors, *value]
        elif of is dict:
            data.put_map()
            inside = [item for pair in value.items() for item in pair]
        else:
            data.put_list()
            inside = value
        data.enter()
        for item in inside:
            _put(data, item)
        data.exit()


def _get(data: Any) -> Any:
    """Proton's value at its cursor, as one of ours."""
    code = data.type()
    if code == Data.NULL:
        return None
    if code == Data.DESCRIBED:
        return Described(*_inside(data))
    of = _CLASSES[code]
    if of in _PLAIN:
        _, name, _, made = _PLAIN[of]
        return made(getattr(data, f"get_{name}")())
    if of is Array:
        _, described, element = data.get_array()
        items = _inside(data)
        descriptors = (items.pop(0),) if described else ()
        return Array(items, _CLASSES[element], descriptors)
    items = _inside(data)
    return items if of is list else dict(zip(items[::2], items[1::2], strict=True))


def _inside(data: Any) -> list[Any]:
    data.enter()
    items = []
    while data.next():
        items.append(_get(data))
    data.exit()
    return items


@given(values(most_descriptors=1))
def test_proton_decodes_what_is_encoded_here(value: Any) -> None:
    encoded = encode(value)
    data = Data()
    assert data.decode(encoded) == len(encoded)
    data.rewind()
    data.next()
    assert typed(_get(data)) == typed(value)
    assert not data.next()


@given(values(most_descriptors=1))
def test_what_proton_encodes_is_decoded_here(value: Any) -> None:
    data = Data()
    _put(data, value)
    encoded = bytes(data.encode())  # it gives a bytearray
    got, end = decode(encoded)
    assert typed(got) == typed(value)
    assert end == len(encoded)
