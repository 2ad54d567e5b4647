"""The messages of a queue, their locks, and what becomes of them.

It owns where a message is: available, locked, deferred or gone. In which order the available ones
go out and to whom is the outlet's; so is how long a lock lasts.
"""

from __future__ import annotations

import uuid
from typing import Protocol

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import Clock
from tests.servicebus.entities.deadlines import Deadlines
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored


class Outlet(Protocol):
    """Where available messages wait: one line, or one for each session."""

    def enter(self, messages: list[Stored]) -> None:
        """They are new and available."""
        ...

    def put(self, message: Stored) -> None:
        """It is available again."""
        ...

    def discard(self, message: Stored) -> None:
        """It was available and is not to be delivered."""
        ...

    def unlocked(self, message: Stored) -> None:
        """Its lock has ended; it still has its token."""
        ...

    def left(self, message: Stored) -> None:
        """It is in the queue no more."""
        ...

    def flow(self) -> None:
        """Deliver what can be delivered. A call from inside a flow returns at once."""
        ...

    def listened(self) -> bool:
        """Whether anybody receives here."""
        ...


class Store:
    """See the module.

    Args:
        name: of the queue.
        settings: of the queue.
        clock: the time.
        assumptions: which guesses hold.
        dead_letters: where dead letters go; None: this is such a place.

    Attributes:
        messages: by sequence number: all but the scheduled.
        locks: the locked ones by token, in the order of locking.
        deferred: those of them that are not locked, by sequence number.
        bytes: of all messages.
        last: no message has a higher number.
        outlet: to be set before anything else is done.
    """

    outlet: Outlet

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        assumptions: Assumptions,
        dead_letters: Store | None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.assumptions = assumptions
        self.dead_letters = dead_letters
        self.messages: dict[int, Stored] = {}
        self.locks: dict[bytes, Stored] = {}
        self.deferred: dict[int, Stored] = {}
        self.bytes = 0
        self.last = 0
        self._expiries = Deadlines(clock, self.messages, self._expire_due)
        self._overdue: list[int] = []
        # Tokens are told apart by a number, queues by what stands before it: a random UUID costs
        # more than everything else that is done to lock a message.
        self._token_head = uuid.uuid4().bytes[:8]
        self._tokens = 0

    # --- in ---

    def add(self, messages: list[Stored]) -> None:
        """They have become active: stamped, with numbers nothing here has."""
        stored = self.messages
        for message in messages:
            stored[message.sequence] = message
            self.bytes += message.size
            if message.expires_at is not None:
                self._expiries.add(message.expires_at, message.sequence)
            if message.sequence > self.last:
                self.last = message.sequence
        self.outlet.enter(messages)
        self.outlet.flow()

    # --- locks ---

    def lock(self, message: Stored, until: float) -> bytes:
        """Lock it. The outlet sees to the end of the lock."""
        self._tokens = number = self._tokens + 1
        token = self._token_head + number.to_bytes(8, "big")
        message.token = token
        message.locked_until = until
        self.locks[token] = message
        return token

    def unlock(self, message: Stored) -> None:
        """End its lock; what becomes of it is the caller's next step."""
        token = message.token
        assert token is not None
        del self.locks[token]
        self.outlet.unlocked(message)
        message.token = None
        message.locked_until = 0.0

    # --- out, and back ---

    def remove(self, message: Stored) -> None:
        """It is settled or given away: not locked, and in no line."""
        del self.messages[message.sequence]
        self.bytes -= message.size
        self.outlet.left(message)

    def back(self, message: Stored) -> None:
        """To where it was before it was locked, unless its time has come meanwhile."""
        if message.state == "deferred":
            # A deferred message expires only when somebody asks for it.
            self.deferred[message.sequence] = message
        elif not self.expired(message, self.clock.now()):
            self.outlet.put(message)

    def fail(self, message: Stored) -> None:
        """An attempt has failed: to its place, or to the dead letters if it was the last."""
        if self.dead_letters is None:
            self.back(message)
            return
        message.delivery_count += 1
        if message.delivery_count >= self.settings.max_delivery_count:
            self.dead_letter(
                message,
                "MaxDeliveryCountExceeded",
                "Message could not be consumed after "
                f"{self.settings.max_delivery_count} delivery attempts.",
            )
        else:
            self.back(message)

    def dead_letter(
        self, message: Stored, reason: str | None = None, description: str | None = None
    ) -> None:
        """To the dead letters: not locked, and in no line. There must be such a place."""
        assert self.dead_letters is not None
        self.remove(message)
        self.bury(message, self.dead_letters, reason, description)

    def bury(
        self, message: Stored, target: Store, reason: str | None, description: str | None
    ) -> None:
        """To those dead letters; it is not, or no longer, one of this store's."""
        if reason is not None:
            message.properties["DeadLetterReason"] = reason
        if description is not None:
            message.properties["DeadLetterErrorDescription"] = description
        message.dead_letter_source = self.name
        message.state = "active"
        message.expires_at = None
        if not self.assumptions.dead_letter_keeps_sequence:
            message.sequence = target.last + 1
        target.add([message])

    # --- time to live ---

    def expired(self, message: Stored, now: float) -> bool:
        """Whether its time has come; then it is dropped or dead-lettered. It is in no line."""
        if message.expires_at is None or message.expires_at > now:
            return False
        if self.settings.dead_letter_on_expiry:
            self.dead_letter(
                message, "TTLExpiredException", "The message expired and was dead lettered."
            )
        else:
            self.remove(message)
        return True

    def expire_overdue(self) -> None:
        """Somebody receives: what has expired while nobody did goes now."""
        if self._overdue:
            overdue, self._overdue = self._overdue, []
            self._expire(overdue)

    def _expire_due(self, sequences: list[int]) -> None:
        if self.assumptions.expires_without_receivers or self.outlet.listened():
            self._expire(sequences)
        else:
            self._overdue += sequences

    def _expire(self, sequences: list[int]) -> None:
        now = self.clock.now()
        for sequence in sequences:
            message = self.messages.get(sequence)
            # Locked and deferred ones are in no lane: they are looked at when they come back.
            if message is not None and message.lane is not None:
                self.outlet.discard(message)
                self.expired(message, now)

    # --- deferred ---

    def defer(self, message: Stored) -> None:
        """Set it aside: not locked, and in no line."""
        if self.assumptions.defer_counts and self.dead_letters is not None:
            message.delivery_count += 1
        message.state = "deferred"
        self.deferred[message.sequence] = message

    def take_deferred(self, sequences: list[int], session: str | None) -> list[Stored]:
        """Out of the deferred, all or none. One that has expired goes its way and is not there.

        Raises:
            Refused: message-not-found.
        """
        now = self.clock.now()
        found = []
        for sequence in sequences:
            message = self.deferred.get(sequence)
            if message is not None and (session is None or message.session_id == session):
                if message.expires_at is None or message.expires_at > now:
                    found.append(message)
                    continue
                del self.deferred[sequence]
                self.expired(message, now)
            raise Refused(
                errors.MESSAGE_NOT_FOUND, f"{self.name}: no deferred message {sequence} is free"
            )
        for message in found:
            del self.deferred[message.sequence]
        return found
