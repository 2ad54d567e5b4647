"""The way into a queue or a topic: checks, duplicates, sequence numbers, scheduled messages.

It owns what is not active yet. What is goes to `arrive`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import Clock
from tests.servicebus.entities.deadlines import Deadlines
from tests.servicebus.entities.duplicates import Duplicates
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored


class Intake:
    """Takes messages in.

    Args:
        name: of the entity, for errors.
        settings: limits, time to live and the window of duplicates.
        clock: the time.
        assumptions: which guesses hold.
        arrive: given the messages that have become active, stamped and in sequence order.
        used: the bytes the entity holds besides what is scheduled.

    Attributes:
        scheduled: by sequence number.
        last: the last sequence number given.
        enabled: whether anything may be sent.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        assumptions: Assumptions,
        arrive: Callable[[list[Stored]], None],
        used: Callable[[], int],
    ) -> None:
        self.scheduled: dict[int, Stored] = {}
        self.last = 0
        self.enabled = settings.enabled
        self._name = name
        self._settings = settings
        self._clock = clock
        self._assumptions = assumptions
        self._arrive = arrive
        self._used = used
        self._scheduled_bytes = 0
        self._due = Deadlines(clock, self.scheduled, self._activate_due)
        window = settings.duplicate_window
        self._duplicates = None if window is None else Duplicates(window)

    def send(self, messages: Sequence[Stored]) -> None:
        """All or nothing. Duplicates are accepted and dropped."""
        self._check(messages)
        now = self._clock.now()
        kept: Iterable[Stored] = messages
        if self._duplicates is not None:
            kept = self._duplicates.new(messages, now)
        active = []
        last = self.last
        for message in kept:
            last += 1
            message.sequence = message.enqueue_sequence = last
            if message.scheduled_for is not None and message.scheduled_for > now:
                self._hold(message, now)
            else:
                active.append(message)
        self.last = last
        if active:
            self._activate(active, now)

    def schedule(self, messages: Sequence[Stored]) -> list[int]:
        """Send, and say under which numbers. One whose time has passed is active at once.

        A duplicate gets a number too, under which there is nothing.
        """
        self._check(messages)
        now = self._clock.now()
        new = set(messages)
        if self._duplicates is not None:
            new = set(self._duplicates.new(messages, now))
        active, numbers = [], []
        for message in messages:
            self.last += 1
            numbers.append(self.last)
            if message not in new:
                continue
            message.sequence = message.enqueue_sequence = self.last
            if message.scheduled_for is not None and message.scheduled_for > now:
                self._hold(message, now)
            else:
                active.append(message)
        if active:
            self._activate(active, now)
        return numbers

    def cancel(self, sequences: Sequence[int]) -> None:
        """Take scheduled messages back, all or none.

        Raises:
            Refused: message-not-found: one is not scheduled (any more).
        """
        for sequence in sequences:
            if sequence not in self.scheduled:
                raise Refused(
                    errors.MESSAGE_NOT_FOUND, f"{self._name}: nothing is scheduled as {sequence}"
                )
        for sequence in dict.fromkeys(sequences):
            message = self.scheduled.pop(sequence)
            self._scheduled_bytes -= message.size
            if self._duplicates is not None and not self._assumptions.cancelled_id_stays_duplicate:
                self._duplicates.forget(message.message_id)

    def take_over(self, messages: list[Stored]) -> None:
        """What a topic passes on to a subscription: checked and in time, but numbered anew here."""
        now = self._clock.now()
        for message in messages:
            self.last += 1
            message.sequence = self.last
        self._activate(messages, now)

    def _check(self, messages: Iterable[Stored]) -> None:
        if not self.enabled:
            raise Refused(errors.DISABLED, f"{self._name} is disabled")
        limit = self._settings.max_message_bytes
        sessions = self._settings.sessions
        size = 0
        for message in messages:
            if message.size > limit:
                raise Refused(
                    errors.TOO_LARGE,
                    f"{self._name} takes messages of {limit} bytes: this has {message.size}",
                )
            if sessions and message.session_id is None:
                raise Refused(
                    errors.NOT_ALLOWED, f"{self._name} has sessions: a message must have its id"
                )
            size += message.size
        limit_of_all = self._settings.max_bytes
        if limit_of_all is not None and self._used() + self._scheduled_bytes + size > limit_of_all:
            raise Refused(errors.FULL, f"{self._name} is full: {limit_of_all} bytes")

    def _hold(self, message: Stored, now: float) -> None:
        message.state = "scheduled"
        message.enqueued_at = now
        self.scheduled[message.sequence] = message
        self._scheduled_bytes += message.size
        assert message.scheduled_for is not None
        self._due.add(message.scheduled_for, message.sequence)

    def _activate(self, messages: list[Stored], now: float) -> None:
        """They have their numbers, and now get their times."""
        cap = self._settings.ttl
        for message in messages:
            message.enqueued_at = now
            if cap is not None and (message.ttl is None or message.ttl > cap):
                message.ttl = cap
            if message.ttl is not None:
                message.expires_at = now + message.ttl
        self._arrive(messages)

    def _activate_due(self, sequences: list[int]) -> None:
        """The time of some has come. They are active even where nothing can be sent any more."""
        messages = []
        for sequence in sequences:
            message = self.scheduled.pop(sequence, None)
            if message is None:
                continue
            self._scheduled_bytes -= message.size
            message.state = "active"
            if self._assumptions.scheduled_gets_new_sequence:
                # Not the enqueue sequence: that stays the number it was scheduled with.
                self.last += 1
                message.sequence = self.last
            messages.append(message)
        if messages:
            self._activate(messages, self._clock.now())
