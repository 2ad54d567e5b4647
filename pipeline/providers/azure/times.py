"""Times among what other software sends, told from whole numbers.

The SDK makes a plain number of both, so that a time that is sent on would become one. Its table of
decoders, which is private, is all that knows: there a time's gets a type of its own (SPEC M2). That
is so in all of the process, and changes nothing for others: a `Time` is the number that it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_TIMESTAMP = 0x83
"""AMQP's code of a time: milliseconds since 1970 in 64 bits."""


class Time(int):
    """Milliseconds since 1970, which came as a time and not as a number."""

    __slots__ = ()


def tell_times() -> bool:
    """Have the SDK make a `Time` of each time; False where this version of it has no such table.

    Times are numbers then, as to the SDK.
    """
    try:
        from azure.servicebus._pyamqp import _decode  # its only way
    except ImportError:
        return False
    decoders = getattr(_decode, "_DECODE_BY_CONSTRUCTOR", None)
    if not isinstance(decoders, list) or len(decoders) <= _TIMESTAMP:
        return False
    found = decoders[_TIMESTAMP]
    if not isinstance(found, _Telling):
        decoders[_TIMESTAMP] = _Telling(found)
    return True


class _Telling:
    """The SDK's decoder of a time, with a type of its own for what it makes.

    Args:
        decode: the SDK's.
    """

    def __init__(self, decode: Callable[..., tuple[Any, int]]) -> None:
        self._decode = decode

    def __call__(self, *given: Any) -> tuple[Any, Time]:
        left, number = self._decode(*given)
        return left, Time(number)
