"""How a message travels through Service Bus, and the columns of what was received.

Service Bus has a place for nearly everything a message has, and there it is readable by any other
client. What it has none for travels as JSON in one application property, `queue-runtime`: an id
beside a deduplication id, a time that AMQP would round, attributes whose names mean something to
the service. A message of other software needs none of it.

Application properties may have types; attributes are text. What was no text is shown as text (a
time as milliseconds since 1970), and an attribute of ours, `queue-runtime-types`, notes what it
was; so it does of a body that is no bytes. A message that is sent on with it gets its types back
(`outgoing`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.amqp import AmqpAnnotatedMessage

from pipeline.errors import SerializationError
from pipeline.message import is_header, is_moment, is_text
from pipeline.outcomes import Reason
from pipeline.providers.columns import columns_of_rows
from pipeline.refusals import Refusal

OURS = "queue-runtime"
"""The application property that is ours."""
TYPES = "queue-runtime-types"
"""The attribute that notes what was no text: JSON of names to kinds; "" is the body."""
KINDS = ("bool", "int", "time", "float", "uuid", "bytes", "null")
"""What `TYPES` may note of an attribute."""
RESERVED = frozenset(
    (
        OURS,
        TYPES,
        "traceparent",
        "tracestate",
        "Diagnostic-Id",
        "DeadLetterReason",
        "DeadLetterErrorDescription",
    )
)
"""Application properties that are no attribute."""
_REASONS: Mapping[str, str] = {
    "MaxDeliveryCountExceeded": Reason.MAX_DELIVERIES.value,
    "TTLExpiredException": Reason.EXPIRED.value,
}
"""The service's own reasons, and ours for the same."""

SEQUENCE = b"x-opt-sequence-number"
ENQUEUED = b"x-opt-enqueued-time"
LOCKED = b"x-opt-locked-until"
SCHEDULED = b"x-opt-scheduled-enqueue-time"


def sequence_of(message: ServiceBusReceivedMessage) -> int:
    """The queue's number for it: ascending in a session."""
    return int(message.sequence_number or 0)


def locked_until(message: ServiceBusReceivedMessage) -> float | None:
    """When its lock ends by the service's calendar, in seconds since 1970; None in a session."""
    found = (message.raw_amqp_message.annotations or {}).get(LOCKED)
    return None if found is None else float(found) / 1000


def size_of(message: ServiceBusReceivedMessage) -> int:
    """Bytes of its body."""
    return len(_bytes_of(message.raw_amqp_message)[0])


def columns_of(messages: Sequence[ServiceBusReceivedMessage]) -> dict[str, list[Any]]:
    """The columns of what was received, but for the lock's and the holding; not for no messages.

    A message of which no row can be made is one all the same: it was locked with the others, and is
    dead-lettered in its turn.
    """
    rows: list[tuple[Any, ...]] = []
    refused: list[str | None] = []
    for message in messages:
        try:
            rows.append(_row(message))
            refused.append(None)
        except Exception as error:  # noqa: BLE001 - whatever other software has put into it
            rows.append(_bare_row(message))
            why = f"the message can't be read ({type(error).__name__}): look at its AMQP sections"
            refused.append(Refusal(SerializationError(why)).text())
    columns = columns_of_rows(rows)
    if any(refused):
        columns["refused"] = refused
        columns["nonce"] = [None if text is None else b"" for text in refused]
    return columns


def _bare_row(message: ServiceBusReceivedMessage) -> tuple[Any, ...]:
    """As little as a row needs, of what the service itself has written."""
    raw = message.raw_amqp_message
    annotations: Mapping[Any, Any] = raw.annotations or {}
    sequence = int(annotations.get(SEQUENCE) or 0)
    session = None if raw.properties is None else _session(raw.properties.group_id)
    count = 0 if raw.header is None else raw.header.delivery_count or 0
    enqueued = (annotations.get(ENQUEUED) or 0) / 1000
    nothing = [None] * 8
    return (
        *(f"sequence-{sequence}", session, sequence, 1 + int(count), b"", *nothing),
        *(enqueued, None, None, None),
    )


def _row(message: ServiceBusReceivedMessage) -> tuple[Any, ...]:
    raw = message.raw_amqp_message
    properties, header = raw.properties, raw.header
    annotations: Mapping[Any, Any] = raw.annotations or {}
    given: Mapping[Any, Any] = raw.application_properties or {}
    sequence = int(annotations.get(SEQUENCE) or 0)
    body, kind = _bytes_of(raw)
    shown, noted = _attributes(given) if given else ([], {})
    if kind:
        noted[""] = kind
    ours = _ours_of(given.get(OURS.encode())) if given else {}
    shown += (ours.get("more") or {}).items()
    if noted:
        shown.append((TYPES, json.dumps(noted, separators=(",", ":"))))
    known = _text(properties.message_id) if properties is not None else None
    identity = ours.get("id") or known or f"sequence-{sequence}"
    dedup = ours.get("dedup")
    live = None if header is None or not header.time_to_live else header.time_to_live / 1000
    return (
        identity,
        _session(properties.group_id) if properties is not None else None,
        sequence,
        1 + int((header.delivery_count if header is not None else 0) or 0),
        body,
        ours.get("type") or (_text(properties.content_type) if properties is not None else None),
        _text(properties.correlation_id) if properties is not None else None,
        shown or None,
        ours.get("ttl") or live,
        ours.get("not_before") or _due(annotations.get(SCHEDULED)),
        known if dedup is True else dedup,
        _trace(given, b"traceparent") or _trace(given, b"Diagnostic-Id"),
        _trace(given, b"tracestate"),
        (annotations.get(ENQUEUED) or 0) / 1000,
        None if known == identity else known,
        _reason(_text(given.get(b"DeadLetterReason"))),
        _text(given.get(b"DeadLetterErrorDescription")),
    )


def _reason(told: str | None) -> str | None:
    return None if told is None else _REASONS.get(told, told)


def _text(value: Any) -> str | None:
    """An id or a name, of whatever type AMQP allows, as text."""
    if value is None or value == b"":
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return str(value)


def _session(value: Any) -> str | None:
    """A session's id; one that is empty is a session as any other to the service."""
    return "" if value == b"" else _text(value)


def _due(milliseconds: Any) -> float | None:
    """When it was to become active; what is no time is passed over."""
    if not isinstance(milliseconds, int) or not is_moment(milliseconds / 1000):
        return None
    return milliseconds / 1000


def _attributes(given: Mapping[Any, Any]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Application properties as text, and what those were that are none."""
    shown: list[tuple[str, str]] = []
    noted: dict[str, str] = {}
    for key, value in given.items():
        name = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
        if name in RESERVED or not name:
            continue
        text, kind = _shown(value)
        shown.append((name, text))
        if kind:
            noted[name] = kind
    return shown, noted


def _shown(value: Any) -> tuple[str, str]:
    """A value as text, and what it was; "" of text."""
    if isinstance(value, bytes):
        try:
            return value.decode(), ""
        except UnicodeDecodeError:
            return base64.b64encode(value).decode(), "bytes"
    if value is None:
        return "", "null"
    if isinstance(value, bool):
        return str(value).lower(), "bool"
    if isinstance(value, str):
        return value, ""
    kind = type(value).__name__.lower()
    return str(value), kind if kind in KINDS else ""


def _bytes_of(raw: AmqpAnnotatedMessage) -> tuple[bytes, str]:
    """The body, and its kind where it is not bytes: `text`, `value` or `sequence`."""
    kind = raw.body_type.value
    if kind == "data":
        parts = list(raw.body)
        return (parts[0] if len(parts) == 1 else b"".join(parts)), ""
    if kind == "sequence":
        flat = [item for part in raw.body for item in part]
        return json.dumps(_keyed(flat), default=_plain).encode(), "sequence"
    value = raw.body
    if value is None:
        return b"", ""
    if isinstance(value, bytes):  # text and binary are one to the SDK
        return value, "text" if _is_utf8(value) else ""
    return json.dumps(_keyed(value), default=_plain).encode(), "value"


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _plain(value: Any) -> Any:
    """What JSON has no word for, as text."""
    if isinstance(value, dict):
        return _keyed(value)
    return _shown(value)[0]


def _keyed(value: Any) -> Any:
    """Maps with names of text, as JSON has them, however deep."""
    if isinstance(value, dict):
        return {_shown(name)[0]: _keyed(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_keyed(one) for one in value]
    return value


def _is_field(value: Any) -> bool:
    return is_text(value) and 0 < len(value) <= 1024


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e11 < value < 1e11


def _are_texts(value: Any) -> bool:
    return (
        isinstance(value, dict) and "" not in value and all(map(is_text, (*value, *value.values())))
    )


_SOUND: Mapping[str, Callable[[Any], bool]] = {
    "id": _is_field,
    "dedup": lambda value: value is True or _is_field(value),
    "more": _are_texts,
    "ttl": lambda value: _is_number(value) and value > 0,
    "type": _is_field,
    "not_before": lambda value: type(value) in (int, float) and is_moment(value),
}
"""What may stand at each key of our property."""


def _ours_of(mine: Any) -> dict[str, Any]:
    """What this runtime added; whoever may send can write it: what is not sound is passed over."""
    if not isinstance(mine, bytes):
        return {}
    try:
        found = json.loads(mine)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if name in _SOUND and _SOUND[name](value)}


def _trace(given: Mapping[Any, Any], name: bytes) -> str | None:
    """One of the trace context; what can be none is passed over."""
    value = given.get(name)
    text = value.decode(errors="replace") if isinstance(value, bytes) else None
    return text if is_header(text) else None
