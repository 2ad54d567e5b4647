"""Slots: fixed shares of the session space, and the table that says who owns each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

SLOTS = 64


@lru_cache(maxsize=65_536)
def slot_of(session: str) -> int:
    """The slot of a session: equal in every process, unlike `hash()`.

    Example:
        >>> slot_of("N14228") == slot_of("N14228") < SLOTS
        True
    """
    return int.from_bytes(blake2b(session.encode(), digest_size=8).digest(), "big") % SLOTS


@dataclass(frozen=True, slots=True)
class SlotTable:
    """Which router and which handler own each slot.

    A handler belongs to one router, so that what is in flight to it is ordered in one place.

    Args:
        version: grows with each change.
        handlers: slot to handler.
        routers: handler to router.
    """

    version: int
    handlers: tuple[int, ...]
    routers: tuple[int, ...]

    @classmethod
    def spread(cls, handlers: int, routers: int, version: int = 1) -> SlotTable:
        """Deal the slots to the handlers and the handlers to the routers in turn."""
        return cls(
            version,
            tuple(slot % handlers for slot in range(SLOTS)),
            tuple(handler % routers for handler in range(handlers)),
        )

    def handler_of(self, session: str) -> int:
        """Who handles this session."""
        return self.handlers[slot_of(session)]

    def router_of(self, session: str) -> int:
        """Who routes this session."""
        return self.routers[self.handlers[slot_of(session)]]
