"""What every provider is configured with: its time-outs, and the keys of its queues by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import QueueNotFound

Keys = TypeVar("Keys")


@dataclass(frozen=True, slots=True)
class Limits:
    """Time-outs in seconds (SPEC P6).

    Args:
        connect: to connect, and to be let in.
        send: for a call that waits for nothing but its answer.
        receive: for a receive, beyond what the service may keep it.
    """

    connect: float
    send: float
    receive: float


def keys_of(queues: Mapping[str, Keys], queue: str) -> Keys:
    """A queue's keys.

    Args:
        queues: the keys by name.
        queue: the name.

    Raises:
        QueueNotFound: the configuration names no such queue.

    Example:
        >>> keys_of({"orders": 1}, "orders")
        1
    """
    found = queues.get(queue)
    if found is None:
        known = ", ".join(sorted(queues)) or "none"
        raise QueueNotFound(f"the configuration names no queue {queue!r}; it names: {known}")
    return found
