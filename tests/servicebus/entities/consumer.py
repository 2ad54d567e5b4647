"""What an entity needs to know of a receiving link. The engine implements it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from tests.servicebus.entities.errors import Refused
    from tests.servicebus.entities.stored import Stored


class Consumer(Protocol):
    """A receiving link. Its methods are called from inside the entity's and from timers.

    They must not raise and may call back into the entity: settle, `ready`, detach. Deliveries that
    such a call would start are made by the one that is running.
    """

    @property
    def locks(self) -> bool:
        """Whether messages are locked until settled. Otherwise they are gone when delivered."""
        ...

    @property
    def session(self) -> str | None:
        """The session it holds; None in a queue without sessions."""
        ...

    def wanted(self) -> int:
        """Its credit now. Asked before every delivery, so it must be cheap."""
        ...

    def deliver(self, message: Stored) -> None:
        """Send it off, which takes one credit. The object may change after the call."""
        ...

    def lost(self, error: Refused) -> None:
        """Its session's lock is lost and with it every token it was given. Called once."""
        ...
