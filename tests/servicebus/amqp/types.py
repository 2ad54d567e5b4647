"""The Python values that stand for AMQP 1.0 types: what was decoded encodes as its own type.

It owns the classes and what equality means between them; codec.py owns their bytes and checks their
ranges, so that making a value costs nothing more than making an int or a str.

| AMQP | Python | AMQP | Python |
|---|---|---|---|
| null | None | char | Char |
| boolean | bool | string, symbol | str, Symbol |
| ubyte, ushort, uint, ulong | UByte, UShort, UInt, ULong | binary | bytes |
| byte, short, int | Byte, Short, Int | uuid | uuid.UUID |
| long | int (Long is its other name) | list, map | list, dict |
| float, double | Float, float | array | Array |
| decimal32, 64, 128 | Decimal32, Decimal64, Decimal128 | described | Described |
| timestamp | Timestamp, milliseconds since 1970 in UTC | | |

Values of different AMQP types are equal when their Python values are (`UInt(1) == 1`, `Symbol("a")
== "a"`): annotations and fields are looked up by plain names. The price is that a map whose keys
differ in type alone has no dict, and is refused by the decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


class UByte(int):
    """An unsigned integer of 8 bits."""

    __slots__ = ()


class UShort(int):
    """An unsigned integer of 16 bits."""

    __slots__ = ()


class UInt(int):
    """An unsigned integer of 32 bits."""

    __slots__ = ()


class ULong(int):
    """An unsigned integer of 64 bits."""

    __slots__ = ()


class Byte(int):
    """A signed integer of 8 bits."""

    __slots__ = ()


class Short(int):
    """A signed integer of 16 bits."""

    __slots__ = ()


class Int(int):
    """A signed integer of 32 bits."""

    __slots__ = ()


# A signed integer of 64 bits is Python's own: a class of its own would say nothing more, and every
# sequence number would pay for it.
Long = int


class Timestamp(int):
    """Milliseconds since 1970 in UTC; negative before."""

    __slots__ = ()


class Float(float):
    """A number that travels in 32 bits: decoding gives what was left of it."""

    __slots__ = ()


class Decimal32(bytes):
    """The 4 bytes of a decimal32: nobody here calculates with it."""

    __slots__ = ()


class Decimal64(bytes):
    """The 8 bytes of a decimal64."""

    __slots__ = ()


class Decimal128(bytes):
    """The 16 bytes of a decimal128."""

    __slots__ = ()


class Char(str):
    """One Unicode character."""

    __slots__ = ()


class Symbol(str):
    """A name, in ASCII."""

    __slots__ = ()


@dataclass(slots=True, unsafe_hash=True)
class Described:
    """A value with a descriptor that says what it means: a ULong or a Symbol, as a rule."""

    descriptor: Any
    value: Any


class Array(list[Any]):
    """A list whose elements are all of one AMQP type, also when there are none.

    Args:
        items: The elements, as bare values when the array is of described ones.
        of: The class of the elements (`Timestamp`, `uuid.UUID`, `str`, `type(None)`, ...). Without
            it, that of the first element.
        descriptors: What describes every element, outermost first; empty when nothing does.
    """

    __slots__ = ("descriptors", "of")

    def __init__(
        self, items: Iterable[Any], of: type | None = None, descriptors: tuple[Any, ...] = ()
    ) -> None:
        super().__init__(items)
        if of is None:
            if not self:
                raise ValueError(
                    "an empty Array needs the class of its elements: Array([], of=...)"
                )
            of = type(self[0])
        self.of: type = of
        self.descriptors = descriptors

    def __repr__(self) -> str:
        described = f", descriptors={self.descriptors!r}" if self.descriptors else ""
        return f"Array({super().__repr__()}, of={self.of.__name__}{described})"
