"""A queue, or a topic's subscription, and the queue of its dead letters: what the engine calls.

It puts the parts together and owns the meaning of each request: intake takes messages in, the store
keeps them and their locks, the outlet (shared, or by session) gives them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities import errors
from tests.servicebus.entities.clock import Clock
from tests.servicebus.entities.consumer import Consumer
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.intake import Intake
from tests.servicebus.entities.lanes import in_order
from tests.servicebus.entities.session import Granted, RefusedCall, Waiting
from tests.servicebus.entities.sessions import Sessions
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.shared import Shared
from tests.servicebus.entities.store import Store
from tests.servicebus.entities.stored import Counts, Stored


class Queue:
    """See the module. Times are seconds since the epoch; every refusal is a `Refused`.

    Args:
        name: as errors and `dead_letter_source` give it.
        settings: what it was created with.
        clock: the time.
        assumptions: which guesses about the service hold.
    """

    dead_letters: DeadLetters | None
    _store: Store

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        assumptions: Assumptions | None = None,
    ) -> None:
        self.name = name
        self.settings = settings
        self.clock = clock
        self.assumptions = assumptions or Assumptions()
        self.dead_letters = self._make_dead_letters()
        self._enabled = settings.enabled
        store = self._store = Store(
            name,
            settings,
            clock,
            self.assumptions,
            None if self.dead_letters is None else self.dead_letters._store,
        )
        self._sessions = Sessions(store) if settings.sessions else None
        self._shared = None if settings.sessions else Shared(store)
        outlet = self._sessions or self._shared
        assert outlet is not None
        self._outlet: Sessions | Shared = outlet
        store.outlet = outlet
        self._intake = Intake(
            name, settings, clock, self.assumptions, store.add, lambda: store.bytes
        )

    def _make_dead_letters(self) -> DeadLetters | None:
        return DeadLetters(self)

    # --- sending ---

    def send(self, messages: Sequence[Stored]) -> None:
        """Take them in, all or none; those for later are scheduled, duplicates dropped.

        Raises:
            Refused: entity-disabled, message-size-exceeded, resource-limit-exceeded, or not-allowed
                for a message without a session where there are sessions.
        """
        self._intake.send(messages)

    def schedule(self, messages: Sequence[Stored]) -> list[int]:
        """As `send`, with the sequence numbers they have got."""
        return self._intake.schedule(messages)

    def cancel_scheduled(self, sequences: Sequence[int]) -> None:
        """Take scheduled ones back, all or none.

        Raises:
            Refused: message-not-found.
        """
        self._intake.cancel(sequences)

    def take_over(self, messages: Sequence[Stored]) -> None:
        """What a topic passes on: copies, which this queue numbers anew."""
        target = self._store.dead_letters
        good = list(messages)
        if self.settings.sessions and target is not None:
            good = [message for message in messages if message.session_id is not None]
            for message in messages:
                if message.session_id is None:
                    self._intake.last += 1
                    message.sequence = self._intake.last
                    self._store.bury(
                        message,
                        target,
                        "Session ID is null",
                        "Session enabled entity doesn't allow a message whose session identifier "
                        "is null.",
                    )
        if good:
            self._intake.take_over(good)

    # --- receiving ---

    def attach(self, consumer: Consumer) -> None:
        """It may receive; `ready` tells when it wants something.

        Raises:
            Refused: not-allowed where there are sessions; entity-disabled.
        """
        if self._shared is None:
            raise Refused(
                errors.NOT_ALLOWED, f"{self.name} has sessions: a receiver must ask for one"
            )
        self._check_enabled()
        self._shared.attach(consumer)

    def detach(self, consumer: Consumer) -> None:
        """It may not any more. What it has locked stays locked until the locks end."""
        if self._shared is not None:
            self._shared.detach(consumer)

    def ready(self, consumer: Consumer) -> None:
        """Its credit grew: deliver what there is. One that isn't attached gets nothing."""
        self._outlet.ready(consumer)

    def receive_deferred(
        self, sequences: Sequence[int], *, locks: bool, session: str | None = None
    ) -> list[Stored]:
        """Deferred messages by their numbers, all or none, locked or gone.

        Raises:
            Refused: message-not-found: one isn't there, or locked, or has expired; where there are
                sessions not-allowed without one, session-lock-lost for one that isn't held.
        """
        self._check_enabled()
        if self._sessions is not None:
            if session is None:
                raise Refused(errors.NOT_ALLOWED, f"{self.name} has sessions: name one")
            self._sessions.check_held(session)
        else:
            session = None
        found = self._store.take_deferred(list(dict.fromkeys(sequences)), session)
        for message in found:
            if locks:
                self._outlet.lock(message, session)
            else:
                self._store.remove(message)
        return found

    def peek(self, start: int, count: int, session: str | None = None) -> list[Stored]:
        """Up to `count` messages with numbers from `start` on, in order, whatever their state.

        Active ones that have expired are not shown, deferred ones are: they expire when received.
        """
        self._check_enabled()
        now = self.clock.now()
        found: list[Stored] = []
        for message in in_order([self._store.messages, self._intake.scheduled], start):
            if len(found) >= count:
                break
            gone = message.lane is not None and (
                message.expires_at is not None and message.expires_at <= now
            )
            if not gone and (session is None or message.session_id == session):
                found.append(message)
        return found

    # --- settling ---

    def complete(self, token: bytes, session: str | None = None) -> None:
        """It is done with.

        Raises:
            Refused: of this and all that take a token: message-lock-lost, or session-lock-lost
                where there are sessions and the given one isn't held.
        """
        store = self._store
        message = store.locks.get(token)
        if message is None:
            raise self._outlet.lost(session)
        store.unlock(message)
        store.remove(message)

    def abandon(
        self, token: bytes, properties: dict[str, Any] | None = None, session: str | None = None
    ) -> None:
        """The attempt has failed: back to its place, or to the dead letters after the last."""
        message = self._unlock(token, properties, session)
        self._store.fail(message)
        self._outlet.flow()

    def release(self, token: bytes, session: str | None = None) -> None:
        """It was no attempt: back to its place, its count as it was."""
        message = self._unlock(token, None, session)
        self._store.back(message)
        self._outlet.flow()

    def defer(
        self, token: bytes, properties: dict[str, Any] | None = None, session: str | None = None
    ) -> None:
        """Set it aside, to be had by its sequence number alone."""
        self._store.defer(self._unlock(token, properties, session))

    def dead_letter(
        self,
        token: bytes,
        reason: str | None = None,
        description: str | None = None,
        properties: dict[str, Any] | None = None,
        session: str | None = None,
    ) -> None:
        """To the dead letters.

        Raises:
            Refused: also not-allowed, of a dead letter; it stays locked.
        """
        if self.dead_letters is None and token in self._store.locks:
            raise Refused(errors.NOT_ALLOWED, f"{self.name}: a dead letter can't be dead-lettered")
        message = self._unlock(token, properties, session)
        self._store.dead_letter(message, reason, description)

    def locked(self, token: bytes) -> Stored | None:
        """The message under this lock."""
        return self._store.locks.get(token)

    def renew(self, token: bytes) -> float:
        """The message's lock lasts anew, until the time returned.

        Raises:
            Refused: also not-allowed where there are sessions, whose locks are renewed instead.
        """
        if self._shared is None:
            raise Refused(errors.NOT_ALLOWED, f"{self.name} has sessions: renew the session's lock")
        message = self._store.locks.get(token)
        if message is None:
            raise self._shared.lost(None)
        return self._shared.renew(message)

    # --- sessions ---

    def accept(
        self, session: str | None, granted: Granted, refused: RefusedCall, timeout: float
    ) -> Waiting:
        """Lock a session, or with None the next that has messages and is not held.

        It raises nothing: `granted(session, until)` or `refused(error)` is called, once, possibly
        before this returns. Waiting for the next one takes up to `timeout` seconds.
        """
        if self._sessions is not None and self._enabled:
            return self._sessions.accept(session, granted, refused, timeout)
        if self._sessions is None:
            refused(Refused(errors.NOT_ALLOWED, f"{self.name} has no sessions"))
        else:
            refused(self._disabled())
        return Waiting(granted, refused, lambda _: None)

    def hold(self, session: str, consumer: Consumer) -> None:
        """The granted session is this consumer's; `ready` tells when it wants something.

        Raises:
            Refused: session-lock-lost: the lock has ended meanwhile.
        """
        self._by_session().hold(session, consumer)

    def close_session(self, session: str, consumer: Consumer | None) -> None:
        """Let go of it: what is unsettled goes back. A no-op for one that doesn't hold it.

        None is for a session that was granted and then not held.
        """
        self._by_session().close(session, consumer)

    def desert_session(self, session: str, consumer: Consumer) -> None:
        """The consumer is gone, the session stays locked until its lock ends."""
        self._by_session().desert(session, consumer)

    def renew_session(self, session: str) -> float:
        """The session's lock lasts anew, until the time returned.

        Raises:
            Refused: session-lock-lost.
        """
        return self._by_session().renew(session)

    def get_state(self, session: str) -> bytes | None:
        """The session's state; it need not be held."""
        return self._by_session().get_state(session)

    def set_state(self, session: str, state: bytes | None) -> None:
        """Set the session's state, or clear it with None; it need not be held."""
        self._by_session().set_state(session, state)

    def list_sessions(self, updated_since: float | None, skip: int, top: int) -> list[str]:
        """Sessions by name: with messages or state, or whose state was set after that time."""
        return self._by_session().names(updated_since)[skip : skip + top]

    # --- from outside ---

    def counts(self) -> Counts:
        """How many messages are where."""
        store, dead = self._store, self.dead_letters
        locked, deferred = len(store.locks), len(store.deferred)
        return Counts(
            active=len(store.messages) - locked - deferred,
            locked=locked,
            deferred=deferred,
            scheduled=len(self._intake.scheduled),
            dead_lettered=0 if dead is None else len(dead._store.messages),
        )

    def expire_locks(self) -> int:
        """End the lock of every message now, as if its time had come; of sessions, none."""
        return 0 if self._shared is None else self._shared.expire_locks()

    def expire_session_locks(self) -> int:
        """End the lock of every session now, as if its time had come."""
        return 0 if self._sessions is None else self._sessions.expire_locks()

    def set_enabled(self, enabled: bool) -> None:
        """Disabled, it neither takes nor gives anything. What is locked can be settled still."""
        self._enabled = self._intake.enabled = self._outlet.enabled = enabled
        self._outlet.flow()

    # --- parts ---

    def _unlock(
        self, token: bytes, properties: dict[str, Any] | None, session: str | None
    ) -> Stored:
        message = self._store.locks.get(token)
        if message is None:
            raise self._outlet.lost(session)
        self._store.unlock(message)
        if properties:
            message.properties.update(properties)
        return message

    def _by_session(self) -> Sessions:
        if self._sessions is None:
            raise Refused(errors.NOT_ALLOWED, f"{self.name} has no sessions")
        return self._sessions

    def _check_enabled(self) -> None:
        if not self._enabled:
            raise self._disabled()

    def _disabled(self) -> Refused:
        return Refused(errors.DISABLED, f"{self.name} is disabled")


class DeadLetters(Queue):
    """The dead-letter queue of another: nothing expires in it and no attempt is counted."""

    def __init__(self, of: Queue) -> None:
        settings = replace(of.settings, sessions=False, ttl=None, duplicate_window=None)
        super().__init__(f"{of.name}/$DeadLetterQueue", settings, of.clock, of.assumptions)

    def _make_dead_letters(self) -> DeadLetters | None:
        return None

    def send(self, messages: Sequence[Stored]) -> None:
        """Refused: messages come here by being dead-lettered."""
        raise self._closed()

    def schedule(self, messages: Sequence[Stored]) -> list[int]:
        """Refused, as `send`."""
        raise self._closed()

    def _closed(self) -> Refused:
        return Refused(errors.NOT_ALLOWED, f"{self.name}: nothing can be sent to dead letters")
