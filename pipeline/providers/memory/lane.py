"""A receiving lane: what one receiver has in hand at the broker."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pipeline.providers.memory.stored import Stored

if TYPE_CHECKING:
    from pipeline.providers.memory.queue import Taken
    from pipeline.providers.memory.sessions import Session

_REMEMBERED = 10_000


class Recent:
    """The last numbers that were put in: at least half of the limit, at most all of it."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def add(self, numbers: Iterable[int]) -> None:
        """Remember these."""
        self._seen.update(dict.fromkeys(numbers))
        if len(self._seen) > _REMEMBERED:
            kept = list(self._seen)[-_REMEMBERED // 2 :]
            self._seen = dict.fromkeys(kept)

    def __contains__(self, number: int) -> bool:
        return number in self._seen


class Lane:
    """What one receiver has in hand.

    Args:
        number: the lane's name in calls.
    """

    __slots__ = (
        "brought",
        "ended",
        "hand",
        "lost",
        "lost_sessions",
        "number",
        "ready",
        "sessions",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        # Both in the order in which their locks end, for every lock of a queue lasts as long; a
        # renewed one moves to the end. So finding what ended costs nothing while nothing does.
        self.hand: dict[int, Stored] = {}
        self.sessions: dict[int, Session] = {}
        self.ready: OrderedDict[Session, None] = OrderedDict()  # held ones with messages that wait
        self.lost = Recent()
        self.lost_sessions = Recent()
        # The last receive that brought something: its poll, and what it was.
        self.brought: tuple[int, Taken] | None = None
        self.ended = Recent()  # polls that were ended before they arrived
