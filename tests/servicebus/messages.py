"""Between bytes and entities: a message as it was sent, and as it is delivered.

What a sender put into a message is kept as it is, in slices; header and annotations are written
anew at each delivery, because the entity adds to them.
"""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping
from typing import Any, Final

from tests.servicebus.amqp import sections
from tests.servicebus.amqp.codec import DecodeError, encode
from tests.servicebus.amqp.types import Described, Int, Symbol, Timestamp, UByte, UInt, ULong
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored
from tests.servicebus.entities.topic import Topic

BATCH: Final = 0x80013700

_HEADER: Final = ULong(0x70)
_ANNOTATIONS: Final = ULong(0x72)
_MESSAGE_ID, _GROUP_ID = 0, 10  # places in the properties section
_PARTITION_KEY: Final = "x-opt-partition-key"
_SCHEDULED: Final = "x-opt-scheduled-enqueue-time"
_IDS: Final = (str, uuid.UUID, int, bytes, type(None))
_STATES: Final = {"active": 0, "deferred": 1, "scheduled": 2}
# What the service writes into the annotations; a sender's own are dropped.
_OURS: Final = frozenset(
    (
        "x-opt-sequence-number",
        "x-opt-enqueue-sequence-number",
        "x-opt-enqueued-time",
        "x-opt-locked-until",
        "x-opt-message-state",
        "x-opt-deadletter-source",
    )
)


def taken(encoded: bytes, *, fills_id: bool) -> Stored:
    """A message as a client sent it.

    Args:
        encoded: header to footer.
        fills_id: give it a message-id if it has none.

    Raises:
        DecodeError: it is no message.
    """
    parts = sections.split(encoded)
    bare = parts.bare
    fields = sections.properties(bare)
    message_id = fields[_MESSAGE_ID] if fields else None
    if not isinstance(message_id, _IDS):
        raise DecodeError(f"message-id is {message_id!r}, which no id is (3.2.4)")
    if message_id is None and fills_id:
        message_id = uuid.uuid4().hex
        bare = sections.with_message_id(bare, message_id)
    stored = Stored(
        bare=bare,
        size=len(encoded),
        delivery_annotations=parts.delivery_annotations,
        message_id=message_id,
        session_id=_typed("group-id", fields[_GROUP_ID], str) if len(fields) > _GROUP_ID else None,
    )
    if parts.header:
        durable, priority, ttl = (*parts.header[:3], None, None, None)[:3]
        stored.durable = bool(durable)
        stored.priority = _typed("priority", priority, int)
        stored.ttl = None if _typed("ttl", ttl, int) is None else ttl / 1000
    if parts.annotations:
        key, at = _PARTITION_KEY, _SCHEDULED
        stored.partition_key = _typed(key, parts.annotations.get(key), str)
        when = _typed(at, parts.annotations.get(at), int)
        stored.scheduled_for = None if when is None else when / 1000
        stored.annotations = {
            key: value for key, value in parts.annotations.items() if key not in _OURS
        }
    return stored


def _typed(name: str, value: Any, kind: type) -> Any:
    if value is not None and not isinstance(value, kind):
        raise DecodeError(f"{name} is {value!r}, no {kind.__name__}")
    return value


def publish(entity: Queue | Topic, kind: int, encoded: bytes, limit: int, fills_id: bool) -> None:
    """Send what came as one delivery: a message, or a batch of them, all or none.

    Args:
        entity: where to.
        kind: the message format.
        encoded: the delivery.
        limit: the most bytes it may have.
        fills_id: see `taken`.

    Raises:
        DecodeError: it is no message, or no batch of them.
        Refused: the entity does not take it.
    """
    if len(encoded) > limit:
        text = f"The received message exceeds the limit ({limit} bytes) of this link."
        raise Refused("amqp:link:message-size-exceeded", text)
    if kind == BATCH:
        parts = sections.data_sections(sections.split(encoded).bare)
        entity.send([taken(part, fills_id=fills_id) for part in parts])
    else:
        entity.send([taken(encoded, fills_id=fills_id)])


# --- delivered ------------------------------------------------------------------------------------


def _key(name: str) -> bytes:
    return b"\xa3" + bytes([len(name)]) + name.encode("ascii")


# A map with one byte for its size: four values of 64 bits, and the state, a small int.
_ANNOTATED: Final = struct.Struct(">3s BBB 23sBq 31sBq 21sBq 21sBb")
_LOCKED: Final = struct.Struct(">20sBq")
_SEQUENCE = _key("x-opt-sequence-number")
_ENQUEUE_SEQUENCE = _key("x-opt-enqueue-sequence-number")
_ENQUEUED = _key("x-opt-enqueued-time")
_STATE = _key("x-opt-message-state")
_UNTIL = _key("x-opt-locked-until")
_MAP_8, _LONG, _TIMESTAMP, _SMALL_INT = 0xC1, 0x81, 0x83, 0x54
_FIRST: Final = b"\x00\x53\x70\xc0\x06\x05\x42\x40\x40\x40\x43"  # the header of most deliveries


def delivered(message: Stored, *, locked: bool) -> bytes:
    """A message as it is delivered, peeked at or received by its number."""
    bare = message.bare
    if message.properties:
        bare = sections.with_application_properties(bare, message.properties)
    return b"".join(
        (
            _header(message),
            message.delivery_annotations,
            _annotations(message, locked),
            bare,
        )
    )


def _header(message: Stored) -> bytes:
    count = message.delivery_count
    if not (message.durable or count or message.ttl is not None or message.priority is not None):
        return _FIRST
    ttl = None if message.ttl is None else UInt(min(int(message.ttl * 1000), 0xFFFFFFFF))
    priority = None if message.priority is None else UByte(message.priority)
    return encode(Described(_HEADER, [message.durable, priority, ttl, None, UInt(count)]))


def _annotations(message: Stored, locked: bool) -> bytes:
    if message.annotations or message.dead_letter_source is not None:
        return encode(Described(_ANNOTATIONS, _annotated(message, locked)))
    extra = _LOCKED.size if locked else 0
    # fmt: off
    known = _ANNOTATED.pack(
        b"\x00\x53\x72", _MAP_8, _ANNOTATED.size - 5 + extra, 10 if locked else 8,
        _SEQUENCE, _LONG, message.sequence,
        _ENQUEUE_SEQUENCE, _LONG, message.enqueue_sequence,
        _ENQUEUED, _TIMESTAMP, int(message.enqueued_at * 1000),
        _STATE, _SMALL_INT, _STATES[message.state],
    )
    # fmt: on
    if not locked:
        return known
    return known + _LOCKED.pack(_UNTIL, _TIMESTAMP, int(message.locked_until * 1000))


def _annotated(message: Stored, locked: bool) -> Mapping[Symbol, Any]:
    known: dict[Symbol, Any] = {
        **message.annotations,
        Symbol("x-opt-sequence-number"): message.sequence,
        Symbol("x-opt-enqueue-sequence-number"): message.enqueue_sequence,
        Symbol("x-opt-enqueued-time"): Timestamp(message.enqueued_at * 1000),
        Symbol("x-opt-message-state"): Int(_STATES[message.state]),
    }
    if locked:
        known[Symbol("x-opt-locked-until")] = Timestamp(message.locked_until * 1000)
    if message.dead_letter_source is not None:
        known[Symbol("x-opt-deadletter-source")] = message.dead_letter_source
    return known
