"""Slots: fixed shares of the session space, and the table that says who owns each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from pipeline.rows import Codes, Rows

SLOTS = 64


@lru_cache(maxsize=65_536)
def slot_of(session: str) -> int:
    """The slot of a session: equal in every process, unlike `hash()`.

    Example:
        >>> slot_of("N14228") == slot_of("N14228") < SLOTS
        True
    """
    return int.from_bytes(blake2b(session.encode(), digest_size=8).digest(), "big") % SLOTS


def owners_of(
    sessions: Sequence[str | None],
    codes: Codes,
    owner_of: Callable[[str], int],
    all_owners: Sequence[int],
    ids: Sequence[str] | None = None,
) -> Rows:
    """Whose each row is.

    Args:
        sessions: the rows' distinct sessions.
        codes: for each row, which of them it belongs to.
        owner_of: whose a session is.
        all_owners: rows without a session have no place of their own: they are dealt out to these.
        ids: the messages', where those of one id have to come to one owner.

    Example:
        >>> owners_of(["a", None], np.array([0, 1, 0, 1]), {"a": 5}.__getitem__, [5, 6]).tolist()
        [5, 6, 5, 6]
    """
    owners: Rows = np.array([-1 if name is None else owner_of(name) for name in sessions])[codes]
    if None in sessions:
        dealt = np.resize(all_owners, len(codes)) if ids is None else [*map(owner_of, ids)]
        owners = np.where(owners < 0, dealt, owners)
    return owners


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
