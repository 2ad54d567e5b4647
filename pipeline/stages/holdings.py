"""The sessions a receiver holds: which, how much of each is in hand, and how much more may come.

It owns the bookkeeping of `Turns` objects; it calls nobody. NATIVE sessions are held until they are
given back; a group is held while messages of it are in hand.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.ledger import SETTLING, Lot
from pipeline.providers.port import Holding
from pipeline.rows import by_code
from pipeline.slots import SLOTS, slot_of
from pipeline.turns import Stretch, Turns


class Holdings:
    """A receiver's sessions.

    Args:
        native: whether sessions are held at the provider.
        credit: the receiver's credit in messages: a session may have a quarter of it, a slot half.
        most: how many sessions are held at once.
        idle: seconds an empty session is kept while places run short.
        busy: seconds after which a session that is never empty is given up to others.
    """

    def __init__(self, native: bool, credit: int, most: int, idle: float, busy: float) -> None:
        self.native = native
        self.share = max(1, credit // 4)
        self._slot_share = max(1, credit // 2)
        self._most = most
        self._idle = idle
        self._busy = busy
        self._sessions: dict[str, Turns] = {}
        self._held: dict[int, Turns] = {}
        self._rooms: dict[int, int] = {}
        self._slot_rows = [0] * SLOTS
        self.grew = False
        """NATIVE: a receive may ask for something that it could not when this was last set False:
        a session or a slot has room again, or a place came free or can be made."""

    def __iter__(self) -> Iterator[Turns]:
        return iter(list(self._sessions.values()))

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, turns: Turns) -> bool:
        return self._sessions.get(turns.session) is turns

    def find(self, session: str) -> Turns | None:
        """The session, if it is here."""
        return self._sessions.get(session)

    def held(self, holding: int) -> Turns:
        """NATIVE: the session of a holding, which is still held."""
        return self._held[holding]

    def holds(self, holding: int) -> bool:
        """NATIVE: whether the session of this holding is still held."""
        return holding in self._held

    def open(self, holding: Holding, now: float) -> None:
        """NATIVE: a session was opened."""
        turns = self.enter(holding.session, holding.number)
        turns.idle_since = turns.opened_at = now
        self._held[holding.number] = turns
        self.measure(turns)

    def enter(self, session: str, holding: int) -> Turns:
        """A new holding of a session; an older one is lost before."""
        turns = self._sessions[session] = Turns(session, holding, slot_of(session))
        return turns

    def drop(self, turns: Turns) -> None:
        """Forget a session: it is given back, lost, or empty."""
        if turns in self:
            del self._sessions[turns.session]
        if self._held.get(turns.holding) is turns:
            self.grew = self.grew or self._full
            del self._held[turns.holding]
        self._rooms.pop(turns.holding, None)

    def join(self, lot: Lot) -> None:
        """The rows of a receive came in; those of a stopped session wait, all others go out."""
        by_session = by_code(lot.codes, len(lot.sessions))
        for turns, places in zip(lot.sessions, by_session, strict=True):
            turns.stretches.append(Stretch(lot, places))
            turns.held += len(places)
            if not turns.stopped:
                turns.out += len(places)
            turns.top = int(lot.sequences[places[-1]])
            self._slot_rows[turns.slot] += len(places)
            self.measure(turns)

    def leave(self, turns: Turns, rows: int) -> None:
        """Rows of the session have come to their end."""
        turns.held -= rows
        before = self._slot_rows[turns.slot]
        self._slot_rows[turns.slot] = before - rows
        if self.native and before > self._slot_share >= before - rows:
            self.grew = True

    def settle(self, turns: Turns, now: float) -> None:
        """Rows of the session have ended: see what is confirmed, and how much more may come."""
        stretches = turns.stretches
        turns.settled_below = turns.top + 1
        while stretches:
            stretch = stretches[0]
            states, places, at = stretch.lot.states, stretch.places, stretch.next
            while at < len(places) and states[places[at]] > SETTLING:
                at += 1
            stretch.next = at
            if at < len(places):
                turns.settled_below = int(stretch.lot.sequences[places[at]])
                break
            stretches.popleft()
        if not turns.held:
            turns.idle_since = now
        self.measure(turns)

    def measure(self, turns: Turns) -> None:
        """NATIVE: how many more of a session may come."""
        if not self.native:
            return
        room = 0 if turns.stopped or turns.yields else self.share - turns.held
        # One that was full gets more when a quarter is free, not a row a receive.
        if room * 4 >= self.share and turns.holding in self._held:
            self.grew = self.grew or turns.holding not in self._rooms
            self._rooms[turns.holding] = room
        else:
            self._rooms.pop(turns.holding, None)
        if self._full and (turns.stopped or not (turns.held or self._idle)):
            self.grew = True  # it leaves its place, or can be let go of

    def rooms(self) -> dict[int, int]:
        """NATIVE: holding to how many more of it may come; sessions of a full slot get none."""
        full = {slot for slot, rows in enumerate(self._slot_rows) if rows > self._slot_share}
        if not full:
            return dict(self._rooms)
        return {
            holding: room
            for holding, room in self._rooms.items()
            if self._held[holding].slot not in full
        }

    @property
    def _full(self) -> bool:
        return len(self._held) >= self._most

    @property
    def places(self) -> int:
        """How many more sessions may be opened; any number where they aren't held."""
        if not self.native:
            return 1
        held = len(self._held)
        waiting = sum(turns.stopped for turns in self._held.values())
        # A session that waits for its retry leaves its place to another one (at most 4 N in all).
        return max(0, min(self._most - held + waiting, 4 * self._most - held))

    def empty(self) -> list[Turns]:
        """NATIVE: the held sessions of which nothing is in hand."""
        return [turns for turns in self._held.values() if not turns.held]

    def to_release(self, now: float, *, others_wait: bool) -> list[Turns]:
        """NATIVE: when places run short, what to let go of: empty ones, or busy for too long."""
        if not self.native or self.places > self._most // 4 or (self._idle and not others_wait):
            return [turns for turns in self.empty() if turns.yields]
        for turns in self._held.values():
            if others_wait and now - turns.opened_at >= self._busy and not turns.stopped:
                turns.yields = True
                self.measure(turns)
        return [
            turns for turns in self.empty() if turns.yields or now - turns.idle_since >= self._idle
        ]
