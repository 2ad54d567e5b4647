"""A message as a queue keeps it, and the receipt handles of its deliveries."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.sqs import digests
from tests.sqs.errors import SqsError


class State(enum.Enum):
    """Where a message stands."""

    VISIBLE = enum.auto()
    DELAYED = enum.auto()
    IN_FLIGHT = enum.auto()
    GONE = enum.auto()


@dataclass(slots=True, eq=False)
class Stored:
    """One message of one queue.

    `number` is its place among all that were ever sent there. `receipt` counts its deliveries, and
    those from `flight` on are of the present one: more than one where it was given out twice.
    `elsewhere` are the receives in the queue that it was dead-lettered from: told, but not counted
    against this one. `until` is when it becomes visible, and `stamp` tells an alarm whether that is
    still so.
    """

    id: str
    number: int
    body: str
    attributes: Mapping[str, Mapping[str, Any]]
    sent: int
    group: str | None = None
    deduplication: str | None = None
    sequence: str | None = None
    trace: str | None = None
    source: str | None = None
    digest: str = ""
    state: State = State.VISIBLE
    first_received: int = 0
    received: float = 0.0
    receives: int = 0
    elsewhere: int = 0
    receipt: int = 0
    flight: int = 0
    until: float = 0.0
    stamp: int = 0
    attribute_digest: str | None = field(default=None)

    def __post_init__(self) -> None:
        self.digest = digests.of_body(self.body)
        if self.attributes:
            self.attribute_digest = digests.of_attributes(self.attributes)


_HANDLE = re.compile(r"AQEB([0-9a-f]{8})([0-9a-f]{12})([0-9a-f]{8})")


def handle(tag: int, message: Stored) -> str:
    """The receipt handle of a message's latest delivery from the queue with that tag."""
    return f"AQEB{tag:08x}{message.number:012x}{message.receipt:08x}"


def parse_handle(tag: int, text: object) -> tuple[int, int]:
    """The number and the delivery that a handle of the queue with that tag is of."""
    found = _HANDLE.fullmatch(text) if isinstance(text, str) else None
    if not found or int(found[1], 16) != tag:
        raise SqsError(
            "ReceiptHandleIsInvalid",
            f'The input receipt handle "{text}" is not a valid receipt handle.',
        )
    return int(found[2], 16), int(found[3], 16)
