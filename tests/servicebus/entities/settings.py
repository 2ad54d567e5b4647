"""What an entity was created with: checked once, here."""

from __future__ import annotations

from dataclasses import dataclass


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
        for name in ("lock_seconds", "ttl", "duplicate_window", "max_bytes"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value!r}: it must be more than 0")
        for name in ("max_delivery_count", "max_message_bytes"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}: it must be a whole number, 1 or more")
