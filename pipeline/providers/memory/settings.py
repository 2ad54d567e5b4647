"""What a memory queue is told: the settings it reads, and the rules they come to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class QueueSettings(Protocol):
    """The settings of one memory queue; `pipeline.config` has a model with these fields.

    The broker states what it reads, so that it need not import the configuration.
    """

    @property
    def fifo(self) -> bool:
        """Whether every message needs a session."""

    @property
    def sessionless(self) -> str:
        """What happens on a FIFO queue to a message without one: `reject` or `spread`."""

    @property
    def sessions(self) -> str | None:
        """The dialect: `native`, `groups` or `none`; None: native when `fifo`, none otherwise."""

    @property
    def count(self) -> str:
        """When the delivery count grows: `on_failure` or `on_receive`."""

    @property
    def visibility(self) -> float:
        """Seconds a lock lasts."""

    @property
    def max_deliveries(self) -> int | None:
        """How often a message is delivered at most; None: no limit."""

    @property
    def time_to_live(self) -> float | None:
        """Seconds a message is kept unread; its own may be shorter; None: for ever."""

    @property
    def on_expiry(self) -> str:
        """What happens to an expired message: `dead_letter` or `drop`."""

    @property
    def duplicate_window(self) -> float:
        """Seconds in which a second message of one id is dropped; 0: never."""

    @property
    def max_messages(self) -> int:
        """How many messages it holds at most, dead letters included."""

    @property
    def max_bytes(self) -> int:
        """How many bytes it holds at most, dead letters included."""

    @property
    def max_message_size(self) -> int:
        """The largest message in bytes: body and attributes."""


def dialect_of(settings: QueueSettings) -> str:
    """The queue's dialect: `native`, `groups` or `none`."""
    return settings.sessions or ("native" if settings.fifo else "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """A queue's settings, read once; a dead-letter queue has rules of its own.

    Args:
        name: the queue, as errors call it.
        dialect: `native`, `groups` or `none`.
        lock: seconds a lock lasts.
        on_receive: whether every receive makes the delivery count grow.
        needs_session: whether a message without a session is refused or spread.
        spread: whether it is spread.
        max_deliveries: a message whose count would pass it is dead-lettered.
        time_to_live: seconds; infinite: for ever.
        drop_expired: whether an expired message is dropped, not dead-lettered.
        duplicate_window: seconds; 0: duplicates are not looked for.
        max_messages: how many messages fit.
        max_bytes: how many bytes fit.
        max_message_size: the largest message in bytes.
    """

    name: str
    dialect: str
    lock: float
    on_receive: bool
    needs_session: bool = False
    spread: bool = False
    max_deliveries: float = math.inf
    time_to_live: float = math.inf
    drop_expired: bool = False
    duplicate_window: float = 0.0
    max_messages: int = 0
    max_bytes: int = 0
    max_message_size: int = 0

    @property
    def can_delay(self) -> bool:
        """Whether an abandoned message can be delayed: as on an SQS standard queue."""
        return self.dialect == "none" and self.on_receive

    @property
    def unhandled(self) -> int:
        """By how much the delivery count grows when nobody handled the message."""
        return 1 if self.on_receive else 0


def rules_of(name: str, settings: QueueSettings) -> Rules:
    """Read a queue's settings."""
    dialect = dialect_of(settings)
    return Rules(
        name=name,
        dialect=dialect,
        lock=settings.visibility,
        on_receive=settings.count == "on_receive",
        needs_session=settings.fifo or dialect != "none",
        spread=settings.sessionless == "spread",
        max_deliveries=math.inf if settings.max_deliveries is None else settings.max_deliveries,
        time_to_live=math.inf if settings.time_to_live is None else settings.time_to_live,
        drop_expired=settings.on_expiry == "drop",
        duplicate_window=settings.duplicate_window,
        max_messages=settings.max_messages,
        max_bytes=settings.max_bytes,
        max_message_size=settings.max_message_size,
    )


def dead_letter_rules(rules: Rules) -> Rules:
    """The rules of a queue's dead letters: unordered, kept for ever, delivered without limit."""
    return Rules(
        name=f"{rules.name} (dead letters)",
        dialect="none",
        lock=rules.lock,
        on_receive=rules.on_receive,
    )
