"""The outlet of a queue without sessions: one line, for which its consumers compete."""

from __future__ import annotations

from collections import deque

from tests.servicebus.entities import errors
from tests.servicebus.entities.consumer import Consumer
from tests.servicebus.entities.deadlines import Deadlines
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.lanes import Lane
from tests.servicebus.entities.store import Store
from tests.servicebus.entities.stored import Stored


class Shared:
    """Consumers take turns, a message each, as long as they have credit.

    Args:
        store: whose messages go out here.

    Attributes:
        enabled: whether anything is delivered.
    """

    def __init__(self, store: Store) -> None:
        self.enabled = store.settings.enabled
        self._store = store
        self._lane = Lane()
        self._consumers: dict[Consumer, None] = {}
        # Those that had credit when last asked.
        self._waiting: deque[Consumer] = deque()
        self._flowing = False
        self._locks = Deadlines(store.clock, store.locks, self._expire_due)

    def attach(self, consumer: Consumer) -> None:
        """It may receive."""
        self._consumers[consumer] = None
        self._store.expire_overdue()

    def detach(self, consumer: Consumer) -> None:
        """It may not any more. What it has locked stays locked."""
        self._consumers.pop(consumer, None)
        if consumer in self._waiting:
            self._waiting.remove(consumer)

    def ready(self, consumer: Consumer) -> None:
        """It has more credit than before."""
        if consumer not in self._consumers:
            return
        if consumer not in self._waiting:
            self._waiting.append(consumer)
        self.flow()

    def flow(self) -> None:
        """Deliver as long as there are messages and credit."""
        if self._flowing or not self.enabled:
            return
        self._flowing = True
        try:
            self._deliver()
        finally:
            self._flowing = False

    def _deliver(self) -> None:
        waiting, lane, store = self._waiting, self._lane, self._store
        now = store.clock.now()
        until = now + store.settings.lock_seconds
        lock, locks = store.lock, self._locks
        while waiting:
            consumer = waiting[0]
            if consumer.wanted() <= 0:
                waiting.popleft()
                continue
            message = lane.take()
            if message is None:
                return
            # The timer may be late, or nobody was here to receive.
            if message.expires_at is not None and store.expired(message, now):
                continue
            if consumer.locks:
                locks.add(until, lock(message, until))
            else:
                store.remove(message)
            # Its turn is over before it is called: it may detach, and others may come.
            if len(waiting) > 1:
                waiting.rotate(-1)
            consumer.deliver(message)

    # --- of the store ---

    def enter(self, messages: list[Stored]) -> None:
        """They are new and available."""
        put = self._lane.put
        for message in messages:
            put(message)

    def put(self, message: Stored) -> None:
        """It is available again."""
        self._lane.put(message)

    def discard(self, message: Stored) -> None:
        """It is not to be delivered."""
        self._lane.discard(message)

    def unlocked(self, message: Stored) -> None:
        """Its deadline is forgotten in time."""

    def left(self, message: Stored) -> None:
        """Nothing here knows it."""

    def listened(self) -> bool:
        """Whether anybody receives here."""
        return bool(self._consumers)

    # --- locks ---

    def lock(self, message: Stored, session: str | None) -> None:
        """Lock one that isn't delivered by the line."""
        until = self._store.clock.now() + self._store.settings.lock_seconds
        self._locks.add(until, self._store.lock(message, until))

    def renew(self, message: Stored) -> float:
        """Its lock lasts anew. Its deadline is moved when it comes due, not now."""
        message.locked_until = self._store.clock.now() + self._store.settings.lock_seconds
        return message.locked_until

    def lost(self, session: str | None) -> Refused:
        """The error for a token that is no lock."""
        return Refused(
            errors.LOCK_LOST, f"{self._store.name}: the message's lock has ended, or it is settled"
        )

    def expire_locks(self) -> int:
        """End every lock now."""
        return self._end_locks(list(self._store.locks))

    def _expire_due(self, tokens: list[bytes]) -> None:
        locks = self._store.locks
        now = self._store.clock.now()
        due = []
        for token in tokens:
            message = locks.get(token)
            if message is None:
                continue
            if message.locked_until > now:
                self._locks.add(message.locked_until, token)
            else:
                due.append(token)
        self._end_locks(due)

    def _end_locks(self, tokens: list[bytes]) -> int:
        ended = 0
        # All are back in their places before the first goes out again: whoever gets a dead letter
        # may call into this queue.
        flowing, self._flowing = self._flowing, True
        try:
            for token in tokens:
                message = self._store.locks.get(token)
                if message is not None:
                    self._store.unlock(message)
                    self._store.fail(message)
                    ended += 1
        finally:
            self._flowing = flowing
        self.flow()
        return ended
