"""What an entity was created with: checked once, here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.servicebus.entities.numbers import finite, whole

_OPTIONAL: Final = ("ttl", "duplicate_window", "max_bytes")
_LONGEST: Final = 922_337_203_685  # seconds, the most that the service can be told


@dataclass(frozen=True, slots=True)
class Settings:
    """The properties of a queue, topic or subscription.

    Args:
        lock_seconds: how long a message or a session is locked.
        sessions: whether it is received by session.
        max_delivery_count: the attempt with this number is the last.
        ttl: seconds; what a message without a time to live of its own gets, and the most it can be.
        dead_letter_on_expiry: an expired message is dead-lettered, not dropped.
        duplicate_window: seconds in which a message id counts once; None: no detection.
        max_message_bytes: of one message.
        max_bytes: of all messages; None: no limit.
        enabled: whether anything can be sent or received at the start.

    Raises:
        ValueError: a value cannot be; it names the field.
    """

    lock_seconds: float = 60.0
    sessions: bool = False
    max_delivery_count: int = 10
    ttl: float | None = None
    dead_letter_on_expiry: bool = False
    duplicate_window: float | None = None
    max_message_bytes: int = 262_144
    max_bytes: int | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        for name in ("lock_seconds", "ttl", "duplicate_window"):
            self._check(name, "more than 0, a number of seconds that ends", _is_time)
        for name in ("max_delivery_count", "max_message_bytes", "max_bytes"):
            self._check(name, "a whole number, 1 or more", _is_count)
        for name in ("sessions", "dead_letter_on_expiry", "enabled"):
            self._check(name, "True or False", _is_flag)

    def _check(self, name: str, wanted: str, good: Callable[[object], bool]) -> None:
        value = getattr(self, name)
        if not good(value) and not (value is None and name in _OPTIONAL):
            raise ValueError(f"{name} is {value!r}: it must be {wanted}")


def _is_time(value: object) -> bool:
    return finite(value) and 0 < value <= _LONGEST


def _is_count(value: object) -> bool:
    return whole(value) and value >= 1


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)
