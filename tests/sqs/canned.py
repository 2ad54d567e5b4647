"""Replies to the hot calls that are prepared once, so that a benchmark measures the client.

A receive brings ten messages whose ids, handles and sequence numbers are new each time; a batch
call succeeds for the entries "0" to "9", whatever it asks for. Nothing of a request is parsed but
its target and its length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from tests.sqs import digests, wire

_TEN = 10
_ID = "@@id@@"
_HANDLE = 344
"""Characters of a handle, about as many as the service's have."""
_SENT = "1764028800000"


class Canned:
    """The prepared replies.

    Args:
        size: characters of each body.
        groups: messages are in so many groups in turn, as of a FIFO queue; 0: of a standard queue.
        attributes: message attributes of type String that every message has.
    """

    def __init__(
        self, size: int, groups: int = 0, attributes: Mapping[str, str] | None = None
    ) -> None:
        self._numbers = count(1)
        self._groups = groups
        body = "x" * size
        text = {
            name: {"DataType": "String", "StringValue": value}
            for name, value in (attributes or {}).items()
        }
        self._messages = _template([_message(body, text, groups) for _ in range(_TEN)])
        done = _successful({})
        nothing = wire.reply(b"{}")
        sent = _successful(
            {"MessageId": "00000000-0000-4000-8000-000000000000", **_sent(body, text, groups)}
        )
        self.replies: dict[str, Callable[[], bytes]] = {
            "ReceiveMessage": self._receive,
            "DeleteMessageBatch": lambda: done,
            "ChangeMessageVisibilityBatch": lambda: done,
            "SendMessageBatch": lambda: sent,
            "DeleteMessage": lambda: nothing,
            "ChangeMessageVisibility": lambda: nothing,
        }

    def _receive(self) -> bytes:
        values: list[int] = []
        for _ in range(_TEN):
            number = next(self._numbers)
            values += [number] * (4 if self._groups else 2)
            if self._groups:
                values.append(number % self._groups)
        return self._messages % tuple(values)


def _message(body: str, attributes: Mapping[str, Any], groups: int) -> dict[str, Any]:
    told: dict[str, Any] = {
        "MessageId": f"00000000-0000-4000-8000-{_ID}",
        "ReceiptHandle": f"AQEB{_ID}".ljust(_HANDLE - 12 + len(_ID), "A"),
        "MD5OfBody": digests.of_body(body),
        "Body": body,
        "Attributes": {
            "SenderId": "000000000000",
            "SentTimestamp": _SENT,
            "ApproximateReceiveCount": "1",
            "ApproximateFirstReceiveTimestamp": _SENT,
        },
    }
    if attributes:
        told["MessageAttributes"] = attributes
        told["MD5OfMessageAttributes"] = digests.of_attributes(attributes)
    if groups:
        told["Attributes"] |= {
            "MessageDeduplicationId": _ID,
            "SequenceNumber": "@@sequence@@",
            "MessageGroupId": "@@group@@",
        }
    return told


def _template(messages: list[dict[str, Any]]) -> bytes:
    """The whole reply with a place for each number: they are all of a fixed width."""
    body = json.dumps({"Messages": messages}, separators=(",", ":")).replace("%", "%%")
    slots = {_ID: "%012x", "@@sequence@@": "1885%016d", "@@group@@": "group-%06d"}
    places = sum(map(body.count, slots))
    for name, slot in slots.items():
        body = body.replace(name, slot)
    zeros = body % ((0,) * places)
    head = wire.reply(zeros.encode()).split(b"\r\n\r\n")[0]
    return head + b"\r\n\r\n" + body.encode()


def _successful(told: Mapping[str, Any]) -> bytes:
    entries = [{"Id": str(number), **told} for number in range(_TEN)]
    return wire.reply(json.dumps({"Successful": entries}, separators=(",", ":")).encode())


def _sent(body: str, attributes: Mapping[str, Any], groups: int) -> dict[str, str]:
    told = {"MD5OfMessageBody": digests.of_body(body)}
    if attributes:
        told["MD5OfMessageAttributes"] = digests.of_attributes(attributes)
    if groups:
        told["SequenceNumber"] = "18850000000000000001"
    return told
