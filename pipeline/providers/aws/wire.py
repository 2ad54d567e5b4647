"""How a message travels through SQS: entries of a send, and the columns of what was received.

SQS has a body, ten attributes and a group. What it has no place for travels as JSON in one
attribute, `queue-runtime`; the trace context in two of its own, as other tools read it; a user's
attributes as attributes, and those for which there is no room or that SQS does not take in the JSON
too. A message of other software needs none of it: its id is SQS's, its session is the group.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

from pipeline.message import Message, is_header, is_moment, is_text
from pipeline.outcomes import Reason
from pipeline.providers.aws import bodies
from pipeline.providers.columns import columns_of_rows

Raw: TypeAlias = Mapping[str, Any]
"""A message as ReceiveMessage gives it."""

OURS = "queue-runtime"
"""The attribute that is ours."""
MOST_ATTRIBUTES = 10

TRACE = ("traceparent", "tracestate")
_RESERVED = frozenset((OURS, *TRACE))
_ID = re.compile(r"[A-Za-z0-9!-/:-@\[-`{-~]{1,128}")
_NAME = re.compile(r"(?!(?i:aws|amazon)\.)[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_SEQUENCES = 2**63 - 1


@dataclass(slots=True)
class Entry:
    """A message as one entry of a send.

    Args:
        fields: what SendMessageBatch takes, without `Id`.
        group: its message group; None where it has none.
        size: its bytes as SQS counts them: body and attributes.
    """

    fields: dict[str, Any]
    group: str | None
    size: int


# --- sending --------------------------------------------------------------------------------------


def entry_of(message: Message, session: str | None, *, fifo: bool, delay: int) -> Entry:
    """A message to send.

    Args:
        message: it.
        session: its session, or the one that it was spread into.
        fifo: whether the queue is FIFO.
        delay: seconds until it may be delivered.
    """
    text, encoding = bodies.encode(message.body)
    group = None if session is None else _legal(session)
    more, attributes = _attributes(message)
    trace = message.trace
    ours = _compact(
        id=str(message.id),
        session=session if group != session else None,
        correlation=message.correlation_id,
        type=message.content_type,
        ttl=message.time_to_live,
        dedup=message.deduplication_id,
        not_before=None if message.not_before is None else message.not_before.timestamp(),
        body=encoding or None,
        more=more or None,
    )
    attributes[OURS] = string(ours)
    if trace is not None:
        attributes["traceparent"] = string(trace.traceparent)
        if trace.tracestate:
            attributes["tracestate"] = string(trace.tracestate)
    fields: dict[str, Any] = {"MessageBody": text, "MessageAttributes": attributes}
    if group is not None:
        fields["MessageGroupId"] = group
    if fifo:
        fields["MessageDeduplicationId"] = _legal(message.deduplication_id or str(message.id))
    elif delay:
        fields["DelaySeconds"] = delay
    return Entry(fields, group, size_of(text, attributes))


def _attributes(message: Message) -> tuple[dict[str, str], dict[str, Any]]:
    """A user's attributes: those that have to travel in ours, and those that are SQS's own."""
    trace = message.trace
    taken = 1 + (0 if trace is None else 1 + bool(trace.tracestate))
    more: dict[str, str] = {}
    own: dict[str, Any] = {}
    for name, value in message.attributes.items():
        if (
            len(own) < MOST_ATTRIBUTES - taken
            and name not in _RESERVED
            and len(name) <= 256
            and _NAME.fullmatch(name)
            and bodies.encode(value.encode())[1] == ""
        ):
            own[name] = string(value)
        else:
            more[name] = value
    return more, own


def string(value: str) -> dict[str, str]:
    """An attribute of type String."""
    return {"DataType": "String", "StringValue": value}


def size_of(text: str, attributes: Mapping[str, Mapping[str, Any]]) -> int:
    """Bytes as SQS counts them: the body, and name, type and value of each attribute."""
    size = len(text.encode())
    for name, one in attributes.items():
        value = one.get("StringValue")
        content = one["BinaryValue"] if value is None else value.encode()
        size += len(name) + len(one["DataType"]) + len(content)
    return size


def _legal(text: str) -> str:
    """An id as SQS takes it: itself, or what stands for it."""
    return text if _ID.fullmatch(text) else f"hash-{digest(text)}"


def digest(*parts: str) -> str:
    """40 hexadecimal digits for some texts: equal for equal ones, on every machine."""
    told = "\0".join(parts).encode()
    return blake2b(told, digest_size=20).hexdigest()


def _compact(**values: Any) -> str:
    return dumps({name: value for name, value in values.items() if value is not None})


def dumps(value: Mapping[str, Any]) -> str:
    """Compact JSON; control characters are escaped, so that it is legal in XML."""
    return json.dumps(value, separators=(",", ":"))


# --- receiving ------------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e11 < value < 1e11


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and is_moment(value)


def _is_field(value: Any) -> bool:
    return is_text(value) and 0 < len(value) <= 1024


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, dict) and "" not in value and all(map(is_text, (*value, *value.values())))
    )


def _are_typed(value: Any) -> bool:
    return isinstance(value, dict) and all(
        is_text(name)
        and name
        and isinstance(one, list)
        and len(one) == 2
        and all(map(is_text, one))
        for name, one in value.items()
    )


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    "id": is_text,
    "session": is_text,
    "correlation": _is_field,
    "type": _is_field,
    "ttl": lambda value: _is_number(value) and value > 0,
    "dedup": _is_field,
    "not_before": _is_time,
    "body": is_text,
    "more": _are_texts,
    "typed": _are_typed,
    "dead": _are_texts,
    "sent": is_text,
    "hop": lambda value: type(value) is int and 0 <= value < 1_000_000,
}
"""What may stand at each key of our attribute."""


def ours_of(message: Raw) -> dict[str, Any]:
    """What this runtime added to a message; nothing, of one of other software.

    Whoever may send can write that attribute: what is not as we would have written it is passed
    over, key by key.
    """
    mine = (message.get("MessageAttributes") or {}).get(OURS)
    if mine is None:
        return {}
    try:
        found = json.loads(mine.get("StringValue") or "{}")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if name in _SOUND and _SOUND[name](value)}


def sequence_of(message: Raw) -> int | None:
    """A FIFO queue's number for a message, ascending in a group.

    SQS's has up to 128 bits and today lies near 1.88e19; its low 63 bits keep the order until a
    queue's numbers pass 2.77e19.
    """
    number = (message.get("Attributes") or {}).get("SequenceNumber")
    return None if number is None else sequence(number)


def sequence(number: str) -> int:
    """A sequence number of SQS as one of ours.

    Example:
        >>> sequence("18849496460467696128"), sequence("18849496460467696384")
        (402752386758144512, 402752386758144768)
    """
    return int(number) & _SEQUENCES


def sent_at(message: Raw) -> float:
    """When SQS took it, in seconds since 1970."""
    return int((message.get("Attributes") or {}).get("SentTimestamp", 0)) / 1000


def group_of(message: Raw) -> str | None:
    """Its message group."""
    group: str | None = (message.get("Attributes") or {}).get("MessageGroupId")
    return group


def columns_of(messages: Sequence[Raw], sequences: Sequence[int]) -> dict[str, list[Any]]:
    """The columns of what was received, but for the lock's and the holding."""
    return columns_of_rows(map(_row, messages, sequences))


def _row(message: Raw, sequence: int) -> tuple[Any, ...]:
    ours = ours_of(message)
    system: Mapping[str, str] = message.get("Attributes") or {}
    given: Mapping[str, Mapping[str, Any]] = message.get("MessageAttributes") or {}
    attributes = [(name, shown(one)) for name, one in given.items() if name not in _RESERVED]
    for name, value in (ours.get("more") or {}).items():
        attributes.append((name, value))
    for name, (_, value) in (ours.get("typed") or {}).items():
        attributes.append((name, value))
    dead: Mapping[str, Any] = ours.get("dead") or {}
    if not dead and "DeadLetterQueueSourceArn" in system:
        dead = {"reason": Reason.MAX_DELIVERIES.value}
    provider_id = message["MessageId"]
    return (
        ours.get("id") or provider_id,
        _session_of(ours.get("session"), system.get("MessageGroupId")),
        sequence,
        int(system.get("ApproximateReceiveCount", 1)),
        bodies.decode(message.get("Body", ""), ours.get("body", "")),
        ours.get("type"),
        ours.get("correlation"),
        attributes or None,
        ours.get("ttl"),
        ours.get("not_before"),
        ours.get("dedup"),
        _trace(given, "traceparent"),
        _trace(given, "tracestate"),
        int(system.get("SentTimestamp", 0)) / 1000,
        provider_id,
        dead.get("reason"),
        dead.get("description"),
    )


def _session_of(session: str | None, group: str | None) -> str | None:
    """The session: what its group says, in full where the group only stands for it."""
    if group is None or (session is not None and group == _legal(session)):
        return session or group
    return group


def shown(attribute: Mapping[str, Any]) -> str:
    """An attribute of whatever type as text: bytes as base64."""
    value: str | None = attribute.get("StringValue")
    if value is not None:
        return value
    return base64.b64encode(attribute.get("BinaryValue", b"")).decode()


def _trace(given: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """One of the trace context; what other software wrote and can be none is passed over."""
    value = given.get(name, {}).get("StringValue")
    return value if is_header(value) else None
