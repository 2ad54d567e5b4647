"""A message of ours as the SDK sends it (see `wire`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any
from uuid import UUID

from azure.servicebus import ServiceBusMessageBatch
from azure.servicebus.amqp import AmqpAnnotatedMessage, AmqpMessageHeader, AmqpMessageProperties

from pipeline.message import Message, is_text
from pipeline.providers.azure.wire import OURS, RESERVED, TYPES

_LONGEST = 128
"""Characters of a message id and of a session id."""
_MOST_MILLISECONDS = 2**32 - 1
_UNBOUNDED = 2**31
_DEEPEST = 64
"""How deep lists and maps may be in each other: what is deeper the SDK itself can't receive."""
_LARGEST = 65_536
"""Items of one list, and keys and values of one map, that the SDK can receive."""
_BESIDE = (5, 8)
"""Bytes that a list adds to a message of less than 256 bytes, and to a longer one."""


def message_of(message: Message, session: str | None) -> AmqpAnnotatedMessage:
    """A message as the SDK sends it.

    Args:
        message: it.
        session: its session, or the one that it was spread into.
    """
    kinds = _kinds(message.attributes.get(TYPES))
    ours, known = _ids(message)
    header, ours["ttl"] = _lives(message.time_to_live)
    properties, ours["more"] = _properties(message, kinds)
    content_type = message.content_type
    if content_type is not None and not content_type.isascii():
        ours["type"], content_type = content_type, None
    due = message.not_before
    if due is not None and milliseconds_of(due) / 1000 != due.timestamp():
        ours["not_before"] = due.timestamp()
    mine = {name: value for name, value in ours.items() if value}
    if mine:
        properties[OURS] = json.dumps(mine, separators=(",", ":"))
    return AmqpAnnotatedMessage(
        header=header,
        properties=AmqpMessageProperties(
            message_id=known,
            group_id=session,
            correlation_id=message.correlation_id,
            content_type=content_type,
        ),
        application_properties=properties or None,
        **_body(message.body, kinds.get("")),
    )


def _ids(message: Message) -> tuple[dict[str, Any], str]:
    """What our property says of its ids, and the id that Service Bus knows it by."""
    identity, dedup = str(message.id), message.deduplication_id
    known = legal(dedup or identity)
    ours: dict[str, Any] = {}
    if known != identity:
        ours["id"] = identity
    if dedup is not None:
        ours["dedup"] = True if known == dedup else dedup
    return ours, known


def _lives(seconds: float | None) -> tuple[AmqpMessageHeader, float | None]:
    """Its time to live in whole milliseconds, and itself where that is not the same."""
    header = AmqpMessageHeader()
    if seconds is None:
        return header, None
    header.time_to_live = min(max(1, round(seconds * 1000)), _MOST_MILLISECONDS)
    return header, None if header.time_to_live / 1000 == seconds else seconds


def _properties(
    message: Message, kinds: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    """A user's attributes and the trace context as application properties, and those that can't."""
    properties: dict[str, Any] = {}
    more: dict[str, str] = {}
    for name, value in message.attributes.items():
        if name == TYPES and kinds:
            continue
        if name in RESERVED:
            more[name] = value
        else:
            properties[name] = _typed(value, kinds.get(name))
    if message.trace is not None:
        properties["traceparent"] = message.trace.traceparent
        if message.trace.tracestate:
            properties["tracestate"] = message.trace.tracestate
    return properties, more


def legal(text: str) -> str:
    """An id as Service Bus takes it: itself, or what stands for one that is too long."""
    if len(text) <= _LONGEST:
        return text
    return f"hash-{blake2b(text.encode(), digest_size=20).hexdigest()}"


def milliseconds_of(moment: datetime) -> int:
    """A time as AMQP has it: whole milliseconds since 1970."""
    return round(moment.timestamp() * 1000)


def scheduled_for(message: Message) -> datetime | None:
    """When the service shall make it active, in UTC without a zone's name, as the SDK wants it."""
    if message.not_before is None:
        return None
    return datetime.fromtimestamp(milliseconds_of(message.not_before) / 1000, UTC)


def _kinds(noted: str | None) -> Mapping[str, str]:
    """What `TYPES` notes; nothing where it is not as we write it."""
    if noted is None:
        return {}
    try:
        found = json.loads(noted)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: kind for name, kind in found.items() if isinstance(kind, str)}


_MAKE: Mapping[str, Callable[[str], Any]] = {
    "bool": lambda text: {"true": True, "false": False}[text],
    "int": int,
    "time": int,
    "float": float,
    "uuid": UUID,
    "bytes": lambda text: bytearray(base64.b64decode(text, validate=True)),
    "null": lambda _: None,
}


def _typed(value: str, kind: str | None) -> Any:
    """An attribute with the type that it had; text where it can't have it."""
    make = _MAKE.get(kind or "")
    if make is None:
        return value
    try:
        found = make(value)
    except (ValueError, KeyError):
        return value
    if kind in ("int", "time"):
        return _number(found, "TIMESTAMP" if kind == "time" else "LONG") or value
    return found


def _number(value: int, kind: str = "LONG") -> dict[str, Any] | None:
    """A whole number as the SDK writes it: without a type it would have 32 bits; None: too large.

    Args:
        value: it.
        kind: AMQP's type for it, of 64 bits with a sign.
    """
    if -(2**63) <= value < 2**63:
        return {"TYPE": kind, "VALUE": value}
    if kind == "LONG" and 0 <= value < 2**64:
        return {"TYPE": "ULONG", "VALUE": value}
    return None


def _item(value: Any, depth: int = 0) -> Any:
    """A value of a JSON body with types that hold it; `ValueError` when AMQP has none."""
    if isinstance(value, list):
        if depth >= _DEEPEST or len(value) > _LARGEST:
            raise ValueError("a list that nobody could receive")
        return [_item(one, depth + 1) for one in value]
    if isinstance(value, dict):
        if depth >= _DEEPEST or 2 * len(value) > _LARGEST:
            raise ValueError("a map that nobody could receive")
        # Pairs: a map of its own with the key TYPE would be taken for a typed value.
        pairs = [(_item(name), _item(one, depth + 1)) for name, one in value.items()]
        return {"TYPE": "MAP", "VALUE": pairs}
    if isinstance(value, str) and not is_text(value):
        raise ValueError("half a surrogate pair")
    if isinstance(value, int) and not isinstance(value, bool):
        number = _number(value)
        if number is None:
            raise ValueError("a number of more than 64 bits")
        return number
    return value


def _only(found: Any) -> Any:
    """A whole body of one value as the SDK writes it; None where it would not be what it was.

    Types are known to the SDK only of what is inside of a list or a map. A whole number alone has
    32 bits, a text would come back without its quotes, and what is empty or 0 would not be sent.
    """
    made = _item(found)
    if isinstance(found, dict):
        made = dict(made["VALUE"])
    elif isinstance(found, int):
        made = found if -(2**31) <= found < 2**31 else None
    return None if isinstance(found, str) else made or None


def _body(body: bytes, kind: str | None) -> dict[str, Any]:
    """The section of a body: what it was noted to be, or bytes where it can't be that."""
    if kind in ("value", "sequence"):
        try:
            found = json.loads(body)
            if kind == "sequence" and isinstance(found, list):
                return {"sequence_body": [_item(found)]}
            only = _only(found) if kind == "value" else None
        except (ValueError, RecursionError):
            only = None
        if only is not None:
            return {"value_body": only}
    if kind == "text":
        try:
            return {"value_body": body.decode()}
        except UnicodeDecodeError:
            pass
    return {"data_body": body}


def encoded_size(message: AmqpAnnotatedMessage) -> int:
    """Bytes of a message on the wire, all of it."""
    batch = ServiceBusMessageBatch(max_size_in_bytes=_UNBOUNDED)
    before = batch.size_in_bytes
    batch.add_message(message)
    size = batch.size_in_bytes - before
    return size - _BESIDE[0] if size - _BESIDE[0] < 256 else size - _BESIDE[1]
