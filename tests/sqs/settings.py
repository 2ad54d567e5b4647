"""A queue's attributes as they are asked for, checked and told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tests.sqs.errors import SqsError, invalid_value

LARGEST = 1_048_576
"""Bytes of a message, and of a whole batch."""
LONGEST_LOCK = 43_200
"""Seconds of visibility from the receive on."""

_RANGES = {
    "VisibilityTimeout": (0, LONGEST_LOCK, 30),
    "DelaySeconds": (0, 900, 0),
    "MaximumMessageSize": (1_024, LARGEST, LARGEST),
    "MessageRetentionPeriod": (60, 1_209_600, 345_600),
    "ReceiveMessageWaitTimeSeconds": (0, 20, 0),
}
_FIFO = {
    "FifoQueue": ("true",),
    "ContentBasedDeduplication": ("false", "true"),
    "DeduplicationScope": ("queue", "messageGroup"),
    "FifoThroughputLimit": ("perQueue", "perMessageGroupId"),
}
_KEPT = {"RedrivePolicy", "RedriveAllowPolicy", "Policy", "SqsManagedSseEnabled"}
"""Beside the above; of these only the redrive policy does anything here."""


@dataclass(frozen=True)
class Redrive:
    """Where messages go that were received so often."""

    target: str
    most: int


class Settings:
    """The attributes of one queue.

    Args:
        name: of the queue.
        wanted: attributes as CreateQueue has them.
    """

    def __init__(self, name: str, wanted: Mapping[str, str]) -> None:
        self.fifo = name.endswith(".fifo")
        self.redrive: Redrive | None = None
        self._values = {key: str(usual) for key, (_, _, usual) in _RANGES.items()}
        self._values["SqsManagedSseEnabled"] = "true"
        if self.fifo:
            if wanted.get("FifoQueue") != "true":
                raise invalid_value(name, "QueueName", _BAD_NAME)
            self._values |= {key: allowed[0] for key, allowed in _FIFO.items()}
        self.change(wanted)

    def change(self, wanted: Mapping[str, str]) -> None:
        """Take these, all or none."""
        changed = {key: self._checked(key, str(value)) for key, value in wanted.items()}
        redrive = parse_redrive(changed["RedrivePolicy"]) if "RedrivePolicy" in changed else None
        if redrive is None and changed.get("RedrivePolicy") == "":
            del changed["RedrivePolicy"]
            self._values.pop("RedrivePolicy", None)
            self.redrive = None
        self._values |= changed
        self.redrive = redrive or self.redrive

    def differing(self, wanted: Mapping[str, str]) -> list[str]:
        """Which of these are other than they are."""
        return [key for key, value in wanted.items() if self._values.get(key) != str(value)]

    def number(self, name: str) -> int:
        """The value of one that is a number."""
        return int(self._values[name])

    def on(self, name: str) -> bool:
        """Whether one that is a yes or no is a yes."""
        return self._values.get(name) == "true"

    @property
    def by_group(self) -> bool:
        """Whether deduplication looks at each group apart."""
        return self._values.get("DeduplicationScope") == "messageGroup"

    def told(self) -> dict[str, str]:
        """All of them, as GetQueueAttributes tells them."""
        return dict(self._values)

    def _checked(self, key: str, value: str) -> str:
        if key in _RANGES:
            low, high, _ = _RANGES[key]
            if not value.isdigit() or not low <= int(value) <= high:
                raise _bad(key)
        elif key in _FIFO:
            if not self.fifo:
                raise SqsError("InvalidAttributeName", f"Unknown Attribute {key}.")
            if value not in _FIFO[key]:
                raise _bad(key)
        elif key not in _KEPT:
            raise SqsError("InvalidAttributeName", f"Unknown Attribute {key}.")
        return value


_BAD_NAME = (
    "Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length."
    " The name of a FIFO queue ends in .fifo, and it has the attribute FifoQueue."
)


def _bad(key: str) -> SqsError:
    return SqsError("InvalidAttributeValue", f"Invalid value for the parameter {key}.")


def parse_redrive(policy: str) -> Redrive | None:
    """What a redrive policy says; nothing for an empty one, which takes it away."""
    if not policy:
        return None
    try:
        told = json.loads(policy)
        most = int(told["maxReceiveCount"])
        target = str(told["deadLetterTargetArn"])
    except (ValueError, KeyError, TypeError):
        raise invalid_value(
            policy, "RedrivePolicy", "It names maxReceiveCount and deadLetterTargetArn, as JSON."
        ) from None
    if not 1 <= most <= 1_000:
        raise invalid_value(
            policy, "RedrivePolicy", "Invalid value for maxReceiveCount: must be 1 to 1000."
        )
    return Redrive(target, most)
