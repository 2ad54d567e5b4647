"""An AMQP message as its sections: what a queue reads of them, and the little that it changes.

It owns the format of messages (part 3 of the specification). A queue reads the header, the
annotations and a few properties; the rest is the sender's, and leaves as the bytes it came in: a
section is cut out or spliced in, never decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tests.servicebus.amqp.codec import DecodeError, compound, decode, encode, opened, skip
from tests.servicebus.amqp.types import Symbol, ULong

HEADER: Final = 0x70
DELIVERY_ANNOTATIONS: Final = 0x71
ANNOTATIONS: Final = 0x72
PROPERTIES: Final = 0x73
APPLICATION_PROPERTIES: Final = 0x74
DATA: Final = 0x75
SEQUENCE: Final = 0x76
VALUE: Final = 0x77
FOOTER: Final = 0x78


@dataclass(slots=True)
class Sections:
    """The parts of a message that are treated differently.

    Attributes:
        header: Its fields as far as they were sent, or None without a header.
        delivery_annotations: The whole section, encoded; empty without one.
        annotations: The message annotations; empty without any.
        bare: Everything else, as it came: properties, application properties, body and footer.
    """

    header: list[Any] | None
    delivery_annotations: bytes
    annotations: dict[Any, Any]
    bare: bytes


def split(message: bytes) -> Sections:
    """Take a message apart.

    A message without a body passes, and so does one without any section: azure-servicebus sends
    both, for a body of None.

    Raises:
        DecodeError: It is no message: a section is malformed, repeated, unknown or out of order.
            Inside a body and a footer nothing is looked at, and inside properties only once
            `properties` is called.
    """
    header: list[Any] | None = None
    delivery_annotations = b""
    annotations: dict[Any, Any] = {}
    bare_at = bare_end = len(message)
    for number, start, value_at, end in _sections(message):
        if number >= PROPERTIES:
            if start < bare_at:
                bare_at = start
            if number == APPLICATION_PROPERTIES:
                # Only a check. With it, properties can be merged in later, when there is nobody
                # left to be told that they cannot.
                decode(message, value_at)
        elif number == HEADER:
            header, _ = decode(message, value_at)
        elif number == ANNOTATIONS:
            annotations, _ = decode(message, value_at)
        elif delivery_annotations:
            raise DecodeError("a message has its delivery annotations twice")
        else:
            delivery_annotations = message[start:end]
            bare_end = start if start > bare_at else bare_end
    return Sections(header, delivery_annotations, annotations, message[bare_at:bare_end])


def properties(bare: bytes) -> list[Any]:
    """Decode the properties, as far as they were sent; empty without any.

    Raises:
        DecodeError: The section is malformed.
    """
    number, value_at = _start(bare, 0)
    if number != PROPERTIES:
        return []
    fields: list[Any] = decode(bare, value_at)[0]
    return fields


def with_message_id(bare: bytes, message_id: str) -> bytes:
    """Set the message id, in a section of properties that is added where there is none."""
    count, first, end = 0, 0, 0
    number, value_at = _start(bare, 0)
    if number == PROPERTIES:
        count, first, end = opened(bare, value_at)
    others = bare[skip(bare, first) : end] if count else b""
    section = compound(0xC0, max(count, 1), encode(message_id) + others)
    return _descriptor(PROPERTIES) + section + bare[end:]


def with_application_properties(bare: bytes, extra: Mapping[str, Any]) -> bytes:
    """Merge into the application properties, in a section that is added where there is none.

    Those of other names stay, as they were encoded and in their order, before the new ones.
    """
    if not extra:
        return bare
    place = 0
    number, value_at = _start(bare, place)
    if number == PROPERTIES:
        place = skip(bare, value_at)
        number, value_at = _start(bare, place)
    kept: list[bytes] = []
    end = place
    if number == APPLICATION_PROPERTIES:
        count, at, end = opened(bare, value_at)
        for _ in range(count // 2):
            name, after_name = decode(bare, at)
            after = skip(bare, after_name)
            if name not in extra:
                kept.append(bare[at:after])
            at = after
    # Names are strings here, where the outcome that they came with had symbols.
    kept += [encode(str(name)) + encode(value) for name, value in extra.items()]
    section = compound(0xC1, len(kept) * 2, b"".join(kept))
    return bare[:place] + _descriptor(APPLICATION_PROPERTIES) + section + bare[end:]


def data_sections(bare: bytes) -> list[bytes]:
    """The contents of the body's data sections: for a batch, each is a message.

    Raises:
        DecodeError: The body is of another kind.
    """
    found: list[bytes] = []
    for number, _, value_at, _ in _sections(bare):
        if number == DATA:
            found.append(decode(bare, value_at)[0])
        elif number in (SEQUENCE, VALUE):
            raise DecodeError("the body is not made of data sections")
    return found


# --- sections in their order ----------------------------------------------------------------------

_LIST, _MAP, _BINARY = b"\x45\xc0\xd0", b"\xc1\xd1", b"\xa0\xb0"
# What a section may hold, by the code of its value: anything, where none is given.
_CODES: Final[dict[int, bytes]] = {
    HEADER: _LIST,
    DELIVERY_ANNOTATIONS: _MAP,
    ANNOTATIONS: _MAP,
    PROPERTIES: _LIST,
    APPLICATION_PROPERTIES: _MAP,
    DATA: _BINARY,
    SEQUENCE: _LIST,
    VALUE: bytes(range(256)),
    FOOTER: _MAP,
}
_NAMES: Final[dict[Symbol, int]] = {
    Symbol("amqp:header:list"): HEADER,
    Symbol("amqp:delivery-annotations:map"): DELIVERY_ANNOTATIONS,
    Symbol("amqp:message-annotations:map"): ANNOTATIONS,
    Symbol("amqp:properties:list"): PROPERTIES,
    Symbol("amqp:application-properties:map"): APPLICATION_PROPERTIES,
    Symbol("amqp:data:binary"): DATA,
    Symbol("amqp:amqp-sequence:list"): SEQUENCE,
    Symbol("amqp:amqp-value:*"): VALUE,
    Symbol("amqp:footer:map"): FOOTER,
}
_ANY: Final = bytes(range(HEADER, FOOTER + 1))
# What may come behind a section. azure-servicebus writes delivery annotations behind everything
# else (its encode_payload says for whose sake), so they may come there as well as in their place.
_BEHIND: Final[dict[int, bytes]] = {
    HEADER: _ANY[1:],
    DELIVERY_ANNOTATIONS: _ANY[2:],
    ANNOTATIONS: _ANY[3:] + b"\x71",
    PROPERTIES: _ANY[4:] + b"\x71",
    APPLICATION_PROPERTIES: _ANY[5:] + b"\x71",
    DATA: bytes((DATA, FOOTER, DELIVERY_ANNOTATIONS)),
    SEQUENCE: bytes((SEQUENCE, FOOTER, DELIVERY_ANNOTATIONS)),
    VALUE: bytes((FOOTER, DELIVERY_ANNOTATIONS)),
    FOOTER: bytes((DELIVERY_ANNOTATIONS,)),
}


def _sections(message: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Each section's number, and where it, its value and what is behind it start."""
    at, whole = 0, len(message)
    previous, allowed = HEADER, _ANY
    while at < whole:
        number, value_at = _start(message, at)
        if number not in allowed:
            raise DecodeError(f"section 0x{number:02x} (byte {at}) is behind 0x{previous:02x}")
        end = skip(message, value_at)
        if message[value_at] not in _CODES[number]:
            code = message[value_at]
            raise DecodeError(f"section 0x{number:02x} (byte {at}) holds a value of 0x{code:02x}")
        yield number, at, value_at, end
        late = number == DELIVERY_ANNOTATIONS and previous > DELIVERY_ANNOTATIONS
        previous, allowed, at = number, b"" if late else _BEHIND[number], end


def _start(message: bytes, at: int) -> tuple[int, int]:
    """The number of the section at `at`, 0 behind the last one, and where its value starts."""
    if message.startswith(b"\x00\x53", at) and at + 2 < len(message):
        return message[at + 2], at + 3
    if at == len(message):
        return 0, at
    if message[at] != 0:
        raise DecodeError(f"no section starts at byte {at}: its value is not described")
    descriptor, value_at = decode(message, at + 1)
    if isinstance(descriptor, ULong) and descriptor in _CODES:
        return int(descriptor), value_at
    if isinstance(descriptor, Symbol) and descriptor in _NAMES:
        return _NAMES[descriptor], value_at
    raise DecodeError(f"no section of a message is described by {descriptor!r} (byte {at})")


def _descriptor(number: int) -> bytes:
    return bytes((0x00, 0x53, number))
