"""One message in an entity, and how many there are.

It knows no AMQP: `bare` is bytes that go in and out untouched. The engine fills what the sender
said, the entity what it made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.servicebus.entities.lanes import Lane


@dataclass(slots=True, eq=False)
class Stored:
    """A message, from the moment it is sent until it is settled.

    The same object is delivered at every attempt, with another token: whoever keeps one sees it
    change.

    Args:
        bare: from the properties section to the end.
        size: bytes of the whole message as it was sent; 0 means those of `bare`.
        durable: of the header.
        priority: of the header.
        ttl: seconds; lowered to the entity's own when that is less.
        annotations: the sender's message annotations.
        delivery_annotations: the encoded section, or nothing.
        message_id: what duplicates are told by; hashable.
        session_id: its session.
        partition_key: not used here, for the engine to hand on.
        scheduled_for: when it is to become active; past times mean at once.
        sequence: its number in this entity.
        enqueue_sequence: the number it was given first: by the topic, or when it was scheduled.
        enqueued_at: when it became active here; of a scheduled message, when it was sent.
        expires_at: when its time to live ends; None: never.
        delivery_count: attempts that failed.
        state: active, deferred or scheduled.
        token: its lock: a UUID's bytes in network order; None when it isn't locked.
        locked_until: 0.0 when it isn't locked.
        dead_letter_source: the entity it was dead-lettered in.
        properties: to be merged into the application properties at delivery.
        lane: where it waits to be delivered. The entity's own.
    """

    bare: bytes
    size: int = 0
    durable: bool = False
    priority: int | None = None
    ttl: float | None = None
    annotations: dict[Any, Any] = field(default_factory=dict)
    delivery_annotations: bytes = b""
    message_id: object | None = None
    session_id: str | None = None
    partition_key: str | None = None
    scheduled_for: float | None = None
    sequence: int = 0
    enqueue_sequence: int = 0
    enqueued_at: float = 0.0
    expires_at: float | None = None
    delivery_count: int = 0
    state: str = "active"
    token: bytes | None = None
    locked_until: float = 0.0
    dead_letter_source: str | None = None
    properties: dict[str, Any] = field(default_factory=dict)
    lane: Lane | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.size:
            self.size = len(self.bare)

    def copy(self) -> Stored:
        """Another message with the same contents, for another entity; dicts are its own."""
        made = Stored(**{name: getattr(self, name) for name in _NAMES})
        made.annotations = dict(self.annotations)
        made.properties = dict(self.properties)
        made.lane = None
        return made


_NAMES = tuple(each.name for each in fields(Stored))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages are where; each is in one of these.

    Args:
        active: can be received.
        locked: are with receivers, deferred ones that were asked for among them.
        deferred: are set aside.
        scheduled: are not active yet.
        dead_lettered: of the dead-letter queue, in whatever state.
    """

    active: int
    locked: int
    deferred: int
    scheduled: int
    dead_lettered: int
