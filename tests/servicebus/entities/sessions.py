"""The outlet of a queue with sessions: a line for each, held by one receiver at a time.

It owns sessions: their locks, their state, who holds them and who waits for the next free one. A
message's lock is its session's: it has a token of its own, but ends with the session's lock.
"""

from __future__ import annotations

from collections import OrderedDict

from tests.servicebus.entities import errors
from tests.servicebus.entities.consumer import Consumer
from tests.servicebus.entities.deadlines import Deadlines
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.session import Granted, RefusedCall, Session, Waiting
from tests.servicebus.entities.store import Store
from tests.servicebus.entities.stored import Stored


class Sessions:
    """See the module.

    Args:
        store: whose messages go out here.

    Attributes:
        enabled: whether anything is delivered or granted.
    """

    def __init__(self, store: Store) -> None:
        self.enabled = store.settings.enabled
        self._store = store
        self._sessions: dict[str, Session] = {}
        # Not held, with messages available; the one that has been so for longest first.
        self._free: OrderedDict[str, Session] = OrderedDict()
        self._waiting: OrderedDict[Waiting, None] = OrderedDict()
        # Held ones that may have something to deliver, and whether their receivers waited for it.
        self._stirred: dict[Session, bool] = {}
        self._flowing = False
        self._grants: dict[int, Session] = {}
        self._last_grant = 0
        self._locks = Deadlines(store.clock, self._grants, self._expire_due)

    # --- who holds which ---

    def accept(
        self, name: str | None, granted: Granted, refused: RefusedCall, timeout: float
    ) -> Waiting:
        """Lock the session, or the next free one; exactly one of the two is called."""
        waiting = Waiting(granted, refused, self._forget_waiting)
        self._store.expire_overdue()
        if name is None:
            self._waiting[waiting] = None
            self.flow()
            if waiting in self._waiting:
                when = self._store.clock.now() + timeout
                waiting.timer = self._store.clock.at(when, lambda: self._time_out(waiting))
            return waiting
        session = self._session(name)
        if session.grant:
            refused(
                Refused(
                    errors.SESSION_HELD, f"{self._store.name}: session {name!r} is held by another"
                )
            )
        else:
            self._grant(session, waiting)
        return waiting

    def hold(self, name: str, consumer: Consumer) -> None:
        """The granted session's messages go to this one."""
        self._held(name).consumer = consumer

    def close(self, name: str, consumer: Consumer | None) -> None:
        """Let go of it; a no-op for who doesn't hold it."""
        session = self._sessions.get(name)
        if session is None or not session.grant or session.consumer is not consumer:
            return
        self._end(session, failed=self._store.assumptions.session_close_counts)
        self.flow()

    def desert(self, name: str, consumer: Consumer) -> None:
        """The receiver is gone, its lock is not."""
        session = self._sessions.get(name)
        if session is not None and session.consumer is consumer:
            session.consumer = None

    def renew(self, name: str) -> float:
        """Its lock lasts anew. Its deadline is moved when it comes due, not now."""
        session = self._held(name)
        self._extend(session)
        return session.locked_until

    def lost(self, name: str | None) -> Refused:
        """The error for a token that is no lock."""
        session = self._sessions.get(name) if name is not None else None
        if session is not None and session.grant:
            return Refused(
                errors.LOCK_LOST, f"{self._store.name}: the message is settled or was put back"
            )
        return Refused(
            errors.SESSION_LOST, f"{self._store.name}: the lock of session {name!r} has ended"
        )

    def expire_locks(self) -> int:
        """End every session's lock now, even of those whose receivers wait."""
        ended = 0
        for grant in list(self._grants):
            # The one before may have been told, and may have closed this one too.
            session = self._grants.get(grant)
            if session is not None:
                self._lose(session)
                ended += 1
        self.flow()
        return ended

    # --- state ---

    def get_state(self, name: str) -> bytes | None:
        """What was set last."""
        session = self._sessions.get(name)
        return None if session is None else session.state

    def set_state(self, name: str, state: bytes | None) -> None:
        """Keep it with the session, which then exists without messages too."""
        session = self._session(name)
        session.state = state
        session.updated_at = self._store.clock.now()
        self._forget_empty(session)

    def names(self, updated_since: float | None) -> list[str]:
        """Of those with messages or state; or of those whose state was set after that time."""
        return sorted(
            session.name
            for session in self._sessions.values()
            if (
                session.messages or session.state is not None
                if updated_since is None
                else session.updated_at is not None and session.updated_at > updated_since
            )
        )

    # --- delivery ---

    def ready(self, consumer: Consumer) -> None:
        """It has more credit than before."""
        name = consumer.session
        session = self._sessions.get(name) if name is not None else None
        if session is not None and session.consumer is consumer:
            self._stirred.setdefault(session, False)
            self.flow()

    def flow(self) -> None:
        """Deliver and grant as long as there is something to."""
        if self._flowing or not self.enabled:
            return
        self._flowing = True
        try:
            while self._stirred or (self._waiting and self._free):
                stirred, self._stirred = self._stirred, {}
                for session, waited in stirred.items():
                    self._deliver(session, waited)
                if self._waiting and self._free:
                    self._grant_next()
        finally:
            self._flowing = False

    def _deliver(self, session: Session, waited: bool) -> None:
        lane, store, locked = session.lane, self._store, session.locked
        consumer = session.consumer
        if consumer is None:
            return
        now = store.clock.now()
        if (
            waited
            and lane
            and consumer.wanted() > 0
            and store.assumptions.pending_receive_keeps_session
        ):
            self._extend(session)
        # It may close the session, or lose it, from inside `deliver`.
        while session.consumer is consumer and consumer.wanted() > 0:
            message = lane.take()
            if message is None:
                return
            if message.expires_at is not None and store.expired(message, now):
                continue
            if consumer.locks:
                locked[store.lock(message, session.locked_until)] = message
            else:
                store.remove(message)
            consumer.deliver(message)

    def _grant_next(self) -> None:
        session = self._free.popitem(last=False)[1]
        now = self._store.clock.now()
        # Timers may be late: it is free only if something in it has not expired.
        while (first := session.lane.first()) is not None:
            if first.expires_at is None or first.expires_at > now:
                waiting = self._waiting.popitem(last=False)[0]
                if waiting.timer is not None:
                    waiting.timer.cancel()
                self._grant(session, waiting)
                return
            session.lane.discard(first)
            self._store.expired(first, now)

    def _grant(self, session: Session, waiting: Waiting) -> None:
        self._last_grant = session.grant = self._last_grant + 1
        self._grants[session.grant] = session
        self._free.pop(session.name, None)
        self._extend(session)
        self._locks.add(session.locked_until, session.grant)
        waiting.granted(session.name, session.locked_until)

    # --- of the store ---

    def enter(self, messages: list[Stored]) -> None:
        """They are new and available."""
        for message in messages:
            assert message.session_id is not None
            self._session(message.session_id).messages += 1
            self.put(message)

    def put(self, message: Stored) -> None:
        """It is available again."""
        session = self._of(message)
        session.lane.put(message)
        if session.grant:
            self._stirred[session] = True
        elif session.name not in self._free:
            self._free[session.name] = session

    def discard(self, message: Stored) -> None:
        """It is not to be delivered."""
        session = self._of(message)
        session.lane.discard(message)
        if not session.lane:
            self._free.pop(session.name, None)

    def unlocked(self, message: Stored) -> None:
        """One less that the session's holder has."""
        assert message.token is not None
        del self._of(message).locked[message.token]

    def left(self, message: Stored) -> None:
        """One less in its session."""
        session = self._of(message)
        session.messages -= 1
        self._forget_empty(session)

    def listened(self) -> bool:
        """Whether anybody receives here."""
        return bool(self._grants or self._waiting)

    def lock(self, message: Stored, name: str | None) -> None:
        """Lock one that isn't delivered by the line, for the holder of its session."""
        session = self._held(name)
        session.locked[self._store.lock(message, session.locked_until)] = message

    def check_held(self, name: str) -> None:
        """Raises Refused, session-lock-lost, when it isn't."""
        self._held(name)

    # --- locks ---

    def _expire_due(self, grants: list[int]) -> None:
        now = self._store.clock.now()
        for grant in grants:
            session = self._grants.get(grant)
            if session is None:
                continue
            if (
                session.locked_until <= now
                and self._store.assumptions.pending_receive_keeps_session
                and session.consumer is not None
                and session.consumer.wanted() > 0
            ):
                self._extend(session)
            if session.locked_until > now:
                self._locks.add(session.locked_until, grant)
            else:
                self._lose(session)
        self.flow()

    def _lose(self, session: Session) -> None:
        consumer = session.consumer
        self._end(session, failed=True)
        if consumer is not None:
            consumer.lost(
                Refused(
                    errors.SESSION_LOST,
                    f"{self._store.name}: the lock of session {session.name!r} has ended",
                )
            )

    def _end(self, session: Session, *, failed: bool) -> None:
        del self._grants[session.grant]
        session.grant = 0
        session.consumer = None
        store = self._store
        # All are back in their places before the session is granted again: whoever gets a dead
        # letter may call into this queue.
        flowing, self._flowing = self._flowing, True
        try:
            for message in list(session.locked.values()):
                store.unlock(message)
                if failed:
                    store.fail(message)
                else:
                    store.back(message)
        finally:
            self._flowing = flowing
        if session.lane and session.name not in self._free:
            self._free[session.name] = session
        self._forget_empty(session)

    def _extend(self, session: Session) -> None:
        session.locked_until = self._store.clock.now() + self._store.settings.lock_seconds

    def _held(self, name: str | None) -> Session:
        session = self._sessions.get(name) if name is not None else None
        if session is None or not session.grant:
            raise self.lost(name)
        return session

    # --- sessions come and go ---

    def _session(self, name: str) -> Session:
        session = self._sessions.get(name)
        if session is None:
            session = self._sessions[name] = Session(name)
        return session

    def _of(self, message: Stored) -> Session:
        assert message.session_id is not None
        return self._sessions[message.session_id]

    def _forget_empty(self, session: Session) -> None:
        if not session.messages and session.state is None and not session.grant:
            self._sessions.pop(session.name, None)
            self._free.pop(session.name, None)

    # --- waiting ---

    def _forget_waiting(self, waiting: Waiting) -> None:
        if waiting in self._waiting:
            del self._waiting[waiting]
            if waiting.timer is not None:
                waiting.timer.cancel()

    def _time_out(self, waiting: Waiting) -> None:
        # Its timer is cancelled when it is granted something or wants no more.
        del self._waiting[waiting]
        waiting.refused(
            Refused(errors.TIMEOUT, f"{self._store.name}: no session came free in time")
        )
