"""Delivery states as bytes, and what a client's mean."""

from __future__ import annotations

from typing import Any, Final

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.types import Described, Symbol, ULong
from tests.servicebus.entities.errors import Refused

ACCEPTED: Final = b"\x00\x53\x24\x45"
REJECTED: Final = b"\x00\x53\x25\x45"
RELEASED: Final = b"\x00\x53\x26\x45"

_ERROR: Final = ULong(0x1D)
_REJECTED: Final = ULong(0x25)
# The descriptors of states, as numbers and as names.
_CODES: Final[dict[Any, int]] = {
    "amqp:accepted:list": 0x24,
    "amqp:rejected:list": 0x25,
    "amqp:released:list": 0x26,
    "amqp:modified:list": 0x27,
}
_OPERATIONS: Final = {0x24: "complete", 0x25: "dead-letter", 0x26: "release", 0x27: "abandon"}


def error(refusal: Refused) -> Described:
    """AMQP's error; all three fields, because the SDK for Python hangs without the third."""
    return Described(_ERROR, [Symbol(refusal.condition), refusal.description, {}])


def rejected(refusal: Refused) -> bytes:
    """The outcome of what was refused."""
    return encode(Described(_REJECTED, [error(refusal)]))


def operation_of(state: Any) -> tuple[str, list[Any]]:
    """What a client's outcome asks for, and the outcome's fields; "" for what is no outcome."""
    if not isinstance(state, Described) or not isinstance(state.descriptor, int | str):
        return "", []
    code = _CODES.get(state.descriptor, state.descriptor)
    operation = _OPERATIONS.get(code, "")
    fields = state.value if isinstance(state.value, list) else []
    if operation == "abandon" and len(fields) > 1 and fields[1]:
        operation = "defer"  # modified, undeliverable here
    return operation, fields


def dead_letter_words(fields: list[Any]) -> tuple[str | None, str | None, dict[Any, Any]]:
    """Reason, description and properties of a rejected outcome."""
    told = fields[0].value if fields and isinstance(fields[0], Described) else None
    info = told[2] if isinstance(told, list) and len(told) > 2 else None
    if not isinstance(info, dict):
        return None, None, {}
    others = dict(info)
    reason = others.pop("DeadLetterReason", None)
    description = others.pop("DeadLetterErrorDescription", None)
    return reason, description, others


def properties_to_modify(fields: list[Any]) -> dict[Any, Any] | None:
    """The properties that a modified outcome changes."""
    return dict(fields[2]) if len(fields) > 2 and isinstance(fields[2], dict) else None
