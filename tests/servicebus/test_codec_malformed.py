"""Bytes that are no value: whatever they are, they are refused, and with one kind of error."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servicebus.amqp.codec import (
    MAX_DEPTH,
    MAX_WIDTHLESS,
    DecodeError,
    compound,
    decode,
    encode,
    skip,
)
from tests.servicebus.amqp_values import typed, values


@given(values(), st.data())
def test_a_value_that_is_cut_off_is_refused(value: Any, draw: st.DataObject) -> None:
    """Decoding and skipping agree that part of a value is none."""
    data = encode(value)
    part = data[: draw.draw(st.integers(0, len(data) - 1))]
    with pytest.raises(DecodeError):
        decode(part)
    with pytest.raises(DecodeError):
        skip(part, 0)


# What makes random bytes look like values.
_CONSTRUCTORS = (
    "00 40 41 42 43 44 45 50 51 52 53 54 55 56 60 61 70 71 72 73 74 80 81 82 83 84 94 98"
    "a0 a1 a3 b0 b1 b3 c0 c1 d0 d1 e0 f0"
)
_known = st.sampled_from(list(bytes.fromhex(_CONSTRUCTORS)))
_likely = st.lists(_known | st.integers(0, 8) | st.integers(0, 255), max_size=40).map(bytes)


@given(_likely | st.binary(max_size=40))
def test_any_bytes_are_a_value_or_refused(data: bytes) -> None:
    """Whatever comes, DecodeError is all that is raised; and skipping allows what decoding does."""
    try:
        value, end = decode(data)
    except DecodeError:
        _skipped_or_refused(data)
    else:
        assert skip(data, 0) == end
        assert typed(decode(encode(value))[0]) == typed(value)


@given(values(), st.data())
def test_a_damaged_value_is_another_or_refused(value: Any, draw: st.DataObject) -> None:
    data = bytearray(encode(value))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(_known | st.integers(0, 255))
    try:
        _, end = decode(bytes(data))
    except DecodeError:
        _skipped_or_refused(bytes(data))
    else:
        assert skip(bytes(data), 0) == end


def _skipped_or_refused(data: bytes) -> None:
    with contextlib.suppress(DecodeError):
        assert 0 < skip(data, 0) <= len(data)


_MALFORMED = {
    "nothing": "",
    "a code that no type has": "57",
    "a code that no type has, in a list": "c0 02 01 ff",
    "a boolean that is neither": "56 02",
    "no UTF-8": "a1 01 ff",
    "no ASCII": "a3 01 80",
    "half of a surrogate pair": "73 0000d800",
    "a character beyond Unicode": "73 00110000",
    "a list of no size": "c0 00 00",
    "a list with bytes to spare": "c0 03 01 40 40",
    "a list that ends inside its last value": "c0 02 01 52 01",
    "a list of more values than bytes": "d0 00000005 ffffffff 40",
    "a list that is larger than the input": "d0 ffffffff 00000001 40",
    "a map with half a pair": "c1 04 03 40 41 42",
    "a map with the same key twice": "c1 05 04 41 40 41 40",
    "a map with keys equal in Python": "c1 07 04 55 01 40 52 01 40",
    "a map with a list for a key": "c1 03 02 45 40",
    "a map with a described list for a key": "c1 06 02 00 53 01 45 40",
    "a map with an array for a key": "c1 06 02 e0 02 00 40 40",
    "a map of more keys and values than bytes": "d1 00000006 fffffffe 40 40",
    "an array of a type that there is none of": "e0 02 00 57",
    "an array without a constructor": "e0 01 00",
    "an array whose size ends inside its constructor": "e0 01 00 40",
    "an array with bytes to spare": "e0 03 01 40 40",
    "an array of more elements than bytes": "f0 00000006 7fffffff 50 01",
    "a descriptor that describes nothing": "00 53 70",
}


@pytest.mark.parametrize("text", _MALFORMED.values(), ids=_MALFORMED.keys())
def test_malformed_values_are_refused(text: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(text))


def _lists(depth: int) -> bytes:
    data = b"\x40"
    for _ in range(depth):
        data = compound(0xC0, 1, data)
    return data


def _maps(depth: int) -> bytes:
    data = b"\x40"
    for _ in range(depth):
        data = compound(0xC1, 2, b"\x40" + data)
    return data


def _arrays(depth: int) -> bytes:
    body = b"\x40"
    for _ in range(depth - 1):
        body = struct.pack(">BII", 0xF0, len(body) + 4, 1) + body
    return compound(0xE0, 1, body)


@pytest.mark.parametrize(
    "nested",
    [
        _lists,
        _maps,
        _arrays,
        lambda depth: b"\x00\x44" * depth + b"\x40",
        lambda depth: b"\x00" * depth + b"\x44" + b"\x40" * depth,
    ],
    ids=["lists", "maps", "arrays", "described", "descriptors"],
)
def test_nesting_is_bounded(nested: Any) -> None:
    """The bound is exact, and depth far beyond Python's own limit is refused like any other."""
    decode(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 20_000):
        data = nested(depth)
        with pytest.raises(DecodeError, match="nested deeper"):
            decode(data)
        assert skip(data, 0) == len(data)


def test_an_array_cannot_ask_for_memory_without_end() -> None:
    """Elements of no width come in any number for the same few bytes: the number is bounded."""

    def nulls(count: int) -> bytes:
        return b"\xf0\x00\x00\x00\x05" + count.to_bytes(4, "big") + b"\x40"

    assert decode(nulls(MAX_WIDTHLESS))[0] == [None] * MAX_WIDTHLESS
    with pytest.raises(DecodeError, match="4294967295 elements"):
        decode(nulls(2**32 - 1))
