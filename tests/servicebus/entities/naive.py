"""A queue as a list: what the entities are compared with.

It knows the rules and nothing else: every question goes through all messages, every event is looked
for among all. It is told what is asked of the queue before the queue is, and of each delivery,
which it checks: the right message, to one who may have it, not locked.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.servicebus.entities.rig import Receiver
from tests.servicebus.entities.stored import Stored

LOCK_SECONDS = 10.1
MAX_DELIVERIES = 3


@dataclass
class Note:
    """One message.

    Args:
        where: active, scheduled, locked, deferred, dead or gone.
        home: where it goes when its lock ends: active or deferred.
    """

    body: str
    session: str
    number: int
    ttl: float | None
    scheduled_for: float | None
    where: str
    home: str = "active"
    count: int = 0
    expires: float | None = None
    until: float = 0.0
    token: bytes | None = None

    @property
    def row(self) -> tuple[str, int, int]:
        """What peeking shows of it."""
        return self.body, self.number, self.count


class Naive:
    """See the module.

    Args:
        by_session: whether the queue has sessions.
    """

    def __init__(self, *, by_session: bool) -> None:
        self.by_session = by_session
        self.notes: list[Note] = []
        self.last = 0
        # Sessions that are held: until when.
        self.held: dict[str, float] = {}

    # --- what is asked ---

    def send(
        self, body: str, session: str, ttl: float | None, scheduled_for: float | None, now: float
    ) -> None:
        self.last += 1
        note = Note(body, session, self.last, ttl, scheduled_for, "scheduled")
        self.notes.append(note)
        if scheduled_for is None or scheduled_for <= now:
            self._activate(note, now)

    def cancel(self, number: int) -> bool:
        found = [note for note in self.where("scheduled") if note.number == number]
        for note in found:
            note.where = "gone"
        return bool(found)

    def settle(self, token: bytes, how: str, now: float) -> bool:
        """Whether there is such a lock."""
        found = [note for note in self.where("locked") if note.token == token]
        for note in found:
            if how == "complete":
                note.where = "gone"
            elif how == "defer":
                note.where = note.home = "deferred"
            elif how == "dead_letter":
                note.where = "dead"
            elif how == "renew":
                note.until = now + LOCK_SECONDS
                continue
            else:
                self._back(note, now, failed=how == "abandon")
            note.token = None
        return bool(found)

    def receive_deferred(self, number: int, session: str, now: float) -> Note | None:
        for note in self.where("deferred"):
            if note.number == number and (not self.by_session or note.session == session):
                if note.expires is not None and note.expires <= now:
                    note.where = "dead"
                    return None
                self._lock(note, now)
                return note
        return None

    def hold(self, session: str, now: float) -> None:
        assert session not in self.held
        self.held[session] = now + LOCK_SECONDS

    def close(self, session: str, now: float, *, failed: bool = False) -> None:
        del self.held[session]
        for note in self.where("locked"):
            if note.session == session:
                self._back(note, now, failed=failed)

    # --- what happens ---

    def delivered(self, message: Stored, to: Receiver, now: float) -> Note:
        """It has been: to a consumer that holds its session, if there are any."""
        line = [
            note
            for note in self.where("active")
            if not self.by_session or note.session == to.session
        ]
        assert line, "nothing was there to be delivered"
        note = min(line, key=lambda note: note.number)
        assert (message.bare.decode(), message.sequence, message.delivery_count) == note.row
        if self.by_session:
            assert message.session_id == to.session
            assert to.session in self.held
        if to.locks:
            self._lock(note, now)
            note.token = message.token
            assert message.locked_until == note.until
        else:
            note.where = "gone"
        return note

    def pass_time(self, now: float) -> None:
        """Everything up to now, in the order of its times."""
        while (when := self._next_event()) is not None and when <= now:
            self._end_locks(when)
            due = [note for note in self.where("scheduled") if note.scheduled_for == when]
            for note in sorted(due, key=lambda note: note.number):
                self.last += 1
                note.number = self.last
                self._activate(note, when)
            for note in self.where("active"):
                if note.expires == when:
                    note.where = "dead"

    def _end_locks(self, when: float) -> None:
        for session, until in list(self.held.items()):
            if until == when:
                self.close(session, when, failed=True)
        for note in [] if self.by_session else self.where("locked"):
            if note.until == when:
                self._back(note, when, failed=True)

    def _next_event(self) -> float | None:
        times = list(self.held.values())
        times += [note.scheduled_for or 0.0 for note in self.where("scheduled")]
        times += [note.expires for note in self.where("active") if note.expires is not None]
        if not self.by_session:
            times += [note.until for note in self.where("locked")]
        return min(times, default=None)

    # --- what is there ---

    def where(self, *places: str) -> list[Note]:
        return [note for note in self.notes if note.where in places]

    def rows(self, *places: str) -> list[tuple[str, int, int]]:
        """As peeking shows them."""
        notes = sorted(self.where(*places), key=lambda note: note.number)
        return [note.row for note in notes]

    def free_sessions(self) -> set[str]:
        return {note.session for note in self.where("active")} - set(self.held)

    def _activate(self, note: Note, now: float) -> None:
        note.where = "active"
        note.expires = None if note.ttl is None else now + note.ttl

    def _lock(self, note: Note, now: float) -> None:
        note.where = "locked"
        note.until = self.held[note.session] if self.by_session else now + LOCK_SECONDS

    def _back(self, note: Note, now: float, *, failed: bool) -> None:
        note.token = None
        note.count += failed
        note.where = note.home
        expired = note.expires is not None and note.expires <= now
        if (failed and note.count >= MAX_DELIVERIES) or (note.home == "active" and expired):
            note.where = "dead"
