"""AMQP values for property tests: strategies for every type, and a comparison that sees types.

`UInt(1) == 1 == True` in Python; `typed` tells them apart.
"""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import strategies as st

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


def _integers(of: type, bits: int, *, signed: bool) -> st.SearchStrategy[Any]:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    # Around zero and a byte is where the variants change.
    near = st.integers(max(low, -130), min(high, 260))
    return (st.integers(low, high) | near).map(of)


def _bytes(of: type, size: int) -> st.SearchStrategy[Any]:
    return st.binary(min_size=size, max_size=size).map(of)


# Around 255 bytes is where a size no longer fits a byte.
_sizes = st.integers(0, 8) | st.integers(250, 260)
_long_texts = _sizes.map(lambda size: "x" * size)

NUMBERS: dict[type, st.SearchStrategy[Any]] = {
    UByte: _integers(UByte, 8, signed=False),
    UShort: _integers(UShort, 16, signed=False),
    UInt: _integers(UInt, 32, signed=False),
    ULong: _integers(ULong, 64, signed=False),
    Byte: _integers(Byte, 8, signed=True),
    Short: _integers(Short, 16, signed=True),
    Int: _integers(Int, 32, signed=True),
    int: _integers(int, 64, signed=True),
    Timestamp: _integers(Timestamp, 64, signed=True),
}
PRIMITIVES: dict[type, st.SearchStrategy[Any]] = {
    **NUMBERS,
    type(None): st.none(),
    bool: st.booleans(),
    Float: st.floats(width=32).map(Float),
    float: st.floats(),
    Decimal32: _bytes(Decimal32, 4),
    Decimal64: _bytes(Decimal64, 8),
    Decimal128: _bytes(Decimal128, 16),
    Char: st.characters(exclude_categories=["Cs"]).map(Char),
    uuid.UUID: st.uuids(),
    bytes: st.binary(max_size=20) | _sizes.map(bytes),
    str: st.text(max_size=20) | _long_texts,
    Symbol: (st.text(st.characters(max_codepoint=127), max_size=20) | _long_texts).map(Symbol),
}
descriptors = PRIMITIVES[ULong] | PRIMITIVES[Symbol]
primitives = st.one_of(*PRIMITIVES.values())


def _maps(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(primitives, inner, max_size=4)


def _arrays(inner: st.SearchStrategy[Any], most_descriptors: int) -> st.SearchStrategy[Any]:
    elements = PRIMITIVES | {list: st.lists(inner, max_size=3), dict: _maps(inner)}
    described = st.lists(descriptors, max_size=most_descriptors).map(tuple)

    def array(of: type, element: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.builds(Array, st.lists(element, max_size=4), st.just(of), described)

    flat = st.one_of(*(array(of, element) for of, element in elements.items()))
    return flat | array(Array, flat)


def values(most_descriptors: int = 2) -> st.SearchStrategy[Any]:
    """Any value, nested a few levels deep.

    Args:
        most_descriptors: how many of them may describe the elements of an array.
    """
    return st.recursive(
        primitives,
        lambda inner: (
            st.lists(inner, max_size=6)
            | _maps(inner)
            | st.builds(Described, descriptors, inner)
            | _arrays(inner, most_descriptors)
        ),
        max_leaves=20,
    )


def typed(value: Any) -> Any:
    """The value as nested tuples that are equal only when every type in it is, too."""
    if isinstance(value, Described):
        return Described, typed(value.descriptor), typed(value.value)
    if isinstance(value, Array):
        described = [typed(descriptor) for descriptor in value.descriptors]
        return Array, value.of, described, [typed(item) for item in value]
    if isinstance(value, list):
        return list, [typed(item) for item in value]
    if isinstance(value, dict):
        return dict, [(typed(key), typed(item)) for key, item in value.items()]
    # By its digits: that tells 0.0 from -0.0, and one NaN is like another.
    return type(value), repr(float(value)) if isinstance(value, float) else value
