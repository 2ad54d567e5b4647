"""One session, and one who waits for one: what `Sessions` keeps, without the rules."""

from __future__ import annotations

from collections.abc import Callable

from tests.servicebus.entities.clock import Timer
from tests.servicebus.entities.consumer import Consumer
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.lanes import Lane
from tests.servicebus.entities.stored import Stored

Granted = Callable[[str, float], None]
RefusedCall = Callable[[Refused], None]


class Waiting:
    """Somebody who wants the next free session, until it is granted, refused or cancelled."""

    __slots__ = ("_forget", "granted", "refused", "timer")

    def __init__(
        self, granted: Granted, refused: RefusedCall, forget: Callable[[Waiting], None]
    ) -> None:
        self.granted = granted
        self.refused = refused
        self.timer: Timer | None = None
        self._forget = forget

    def cancel(self) -> None:
        """Want it no more. Neither call is made after this; when one was made, nothing happens."""
        self._forget(self)


class Session:
    """One that has messages or a state, or is held. Others exist in name only."""

    __slots__ = (
        "consumer", "grant", "lane", "locked", "locked_until", "messages", "name", "state",
        "updated_at",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.lane = Lane()
        # Of all its messages: available, locked and deferred.
        self.messages = 0
        self.locked: dict[bytes, Stored] = {}
        # The number of the lock that holds it; 0: none does.
        self.grant = 0
        self.locked_until = 0.0
        self.consumer: Consumer | None = None
        self.state: bytes | None = None
        self.updated_at: float | None = None
