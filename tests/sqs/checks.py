"""What SQS refuses in a message before it takes it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

from tests.sqs.errors import SqsError, invalid_value, missing
from tests.sqs.queues import Queue

_ATTRIBUTES = 10
_ILLEGAL = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TYPE = re.compile(r"(String|Number|Binary)(\..+)?")
_NAME = re.compile(r"(?!(?i:aws|amazon)\.)(?!\.)(?!.*\.\.)[\w.-]{1,256}(?<!\.)", re.ASCII)
_WRONG_KIND = "The request include parameter that is not valid for this queue type"
_ID = re.compile(r"[!-~]{1,128}")


def wrong_kind(value: object, parameter: str) -> SqsError:
    """A parameter that the other kind of queue has."""
    return invalid_value(value, parameter, _WRONG_KIND)


def check(queue: Queue, entry: Mapping[str, Any]) -> None:
    """Refuse what SQS refuses in a message to that queue."""
    body = entry.get("MessageBody")
    if not body:
        raise missing("MessageBody")
    _text(body, "message body")
    _attributes(entry.get("MessageAttributes") or {})
    largest = queue.settings.number("MaximumMessageSize")
    if size(entry) > largest:
        raise SqsError(
            "InvalidParameterValue",
            "One or more parameters are invalid. "
            f"Reason: Message must be shorter than {largest} bytes.",
        )
    for name in ("MessageGroupId", "MessageDeduplicationId"):
        if name in entry and not _ID.fullmatch(entry[name]):
            raise invalid_value(
                entry[name],
                name,
                f"{name} can only include alphanumeric and punctuation characters."
                " 1 to 128 in length.",
            )
    (_check_fifo if queue.fifo else _check_standard)(queue, entry)


def size(entry: Mapping[str, Any]) -> int:
    """Bytes of a message: the body and, of each attribute, name, type and value."""
    total = len((entry.get("MessageBody") or "").encode(errors="replace"))
    for name, attribute in (entry.get("MessageAttributes") or {}).items():
        text = attribute.get("StringValue") or ""
        total += len(name.encode()) + len(attribute.get("DataType", "")) + len(text.encode())
        total += len(base64.b64decode(attribute.get("BinaryValue") or ""))
    return total


def _check_fifo(queue: Queue, entry: Mapping[str, Any]) -> None:
    if not entry.get("MessageGroupId"):
        raise missing("MessageGroupId")
    if "MessageDeduplicationId" not in entry and not queue.settings.on("ContentBasedDeduplication"):
        raise SqsError(
            "InvalidParameterValue",
            "The queue should either have ContentBasedDeduplication enabled or "
            "MessageDeduplicationId provided explicitly",
        )
    if entry.get("DelaySeconds"):
        raise wrong_kind(entry["DelaySeconds"], "DelaySeconds")


def _check_standard(queue: Queue, entry: Mapping[str, Any]) -> None:
    if "MessageDeduplicationId" in entry:
        raise wrong_kind(entry["MessageDeduplicationId"], "MessageDeduplicationId")
    delay = entry.get("DelaySeconds", 0)
    if not 0 <= delay <= 900:
        raise invalid_value(delay, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900.")


def _attributes(attributes: Mapping[str, Mapping[str, Any]]) -> None:
    if len(attributes) > _ATTRIBUTES:
        raise SqsError(
            "InvalidParameterValue",
            f"Number of message attributes [{len(attributes)}] exceeds the allowed maximum "
            f"[{_ATTRIBUTES}].",
        )
    for name, attribute in attributes.items():
        _attribute(name, attribute)


def _attribute(name: str, attribute: Mapping[str, Any]) -> None:
    kind = attribute.get("DataType", "")
    if not _NAME.fullmatch(name):
        raise _bad_attribute(name, "has a name that is not allowed")
    if not _TYPE.fullmatch(kind):
        raise _bad_attribute(name, "has a type other than String, Number or Binary")
    value = attribute.get("BinaryValue" if kind.startswith("Binary") else "StringValue")
    if not value:
        raise _bad_attribute(name, f"must contain a non-empty value of type '{kind}'")
    if not kind.startswith("Binary"):
        _text(value, f"message attribute '{name}'")


def _bad_attribute(name: str, why: str) -> SqsError:
    return SqsError("InvalidParameterValue", f"Message (user) attribute '{name}' {why}.")


def _text(text: str, where: str) -> None:
    found = _ILLEGAL.search(text)
    if found:
        raise SqsError(
            "InvalidMessageContents",
            f"Invalid binary character '#x{ord(found[0]):X}' was found in the {where}, the set of "
            "allowed characters is #x9 | #xA | #xD | [#x20-#xD7FF] | [#xE000-#xFFFD] | "
            "[#x10000-#x10FFFF].",
        )
