"""Requests and their answers, as `$cbs` and `$management` have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from tests.servicebus.amqp.codec import DecodeError, decode, encode
from tests.servicebus.amqp.types import Described, Int, ULong

_PROPERTIES: Final = ULong(0x73)
_APPLICATION: Final = ULong(0x74)
_VALUE: Final = ULong(0x77)
_MESSAGE_ID, _REPLY_TO = 0, 4
_CORRELATION_ID: Final = 5


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Args:
        id: its message-id; None when it has none.
        reply_to: its reply-to.
        words: the application-properties.
        body: the value.
    """

    id: Any
    reply_to: str | None
    words: dict[Any, Any]
    body: Any


def request(encoded: bytes) -> Request:
    """A request as it came.

    Raises:
        DecodeError: it is no message.
    """
    found: dict[int, Any] = {}
    at = 0
    while at < len(encoded):
        section, at = decode(encoded, at)
        if isinstance(section, Described) and isinstance(section.descriptor, int):
            found[int(section.descriptor)] = section.value
    fields, words = found.get(_PROPERTIES, []), found.get(_APPLICATION, {})
    if not isinstance(fields, list) or not isinstance(words, dict):
        raise DecodeError("the properties of a request are no list, or its words no map")
    to = fields[_REPLY_TO] if len(fields) > _REPLY_TO else None
    return Request(
        id=fields[_MESSAGE_ID] if fields else None,
        reply_to=to if isinstance(to, str) else None,
        words=words,
        body=found.get(_VALUE),
    )


def reply(to: Any, words: dict[str, Any], body: Any = None) -> bytes:
    """An answer: the request's id as correlation-id, the status in the application-properties."""
    fields = [None] * _CORRELATION_ID + [to]
    application = {
        key: Int(value) if isinstance(value, int) else value for key, value in words.items()
    }
    return b"".join(
        (
            encode(Described(_PROPERTIES, fields)),
            encode(Described(_APPLICATION, application)),
            encode(Described(_VALUE, body)),
        )
    )
