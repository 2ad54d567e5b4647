"""The native dialect: sessions that one lane holds exclusively, by a lock that expires."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from pipeline.errors import MessageNotFound
from pipeline.providers.memory.calls import BrokerHolding
from pipeline.providers.memory.lane import Lane
from pipeline.providers.memory.orders import Numbers, Picked
from pipeline.providers.memory.stored import Line, Stored
from pipeline.providers.port import Want

_FEW = 64


class Session(Line):
    """The messages of one session that wait, who holds it, and how many the holder has in hand."""

    __slots__ = ("deadline", "hand", "holding", "key", "lane", "out", "state")

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.lane: Lane | None = None
        self.holding = 0
        self.deadline = 0.0
        self.out = 0
        self.hand: list[int] = []  # the tokens of what is in hand, and of some that no longer is
        self.state: bytes | None = None

    def taken(self, lane: Lane, tokens: range) -> None:
        """These came into the holder's hand. Nothing is taken out of a list for each that ends."""
        if len(self.hand) > 2 * self.out + _FEW:
            self.hand = [token for token in self.hand if token in lane.hand]
        self.hand += tokens
        self.out += len(tokens)


class Sessions:
    """Free sessions are opened in turn; a held one's messages go to its holder alone.

    A free session that has no messages and keeps no state is forgotten.
    """

    def __init__(self, numbers: Numbers, lock: float) -> None:
        self._numbers = numbers
        self._lock = lock
        self._sessions: dict[str, Session] = {}
        self._free: OrderedDict[Session, None] = OrderedDict()  # those with messages that wait

    def add(self, records: Sequence[Stored]) -> None:
        """Put each at the end of its session."""
        for record in records:
            session = record.home = self.find(record.session)
            record.session = session.key  # one string for all of them
            session.append(record)
            if session.live == 1:
                self._offer(session)

    def pick(self, lane: Lane, want: Want, now: float) -> Picked:
        """Take what waits in the lane's sessions, then open free ones."""
        picked = Picked()
        room, budget = self._from_held(lane, want, picked)
        opened: list[BrokerHolding] = []
        new, each = want.new_sessions, want.per_session
        while self._free and new > 0 and room > 0 and budget > 0 and each > 0:
            session = next(iter(self._free))
            opened.append(self.open(session, lane, now))
            new -= 1
            taken, budget = self._take(session, lane, min(room, each), budget, picked)
            room -= taken
        picked.opened = tuple(opened)
        picked.others_wait = bool(self._free)
        return picked

    def _from_held(self, lane: Lane, want: Want, picked: Picked) -> tuple[int, int]:
        room, budget = want.messages, want.bytes
        for session in list(lane.ready):
            if room <= 0 or budget <= 0:
                break
            each = want.held.get(session.holding, 0)
            if each > 0:
                taken, budget = self._take(session, lane, min(room, each), budget, picked)
                room -= taken
        return room, budget

    def _take(
        self, session: Session, lane: Lane, room: int, budget: int, picked: Picked
    ) -> tuple[int, int]:
        first = self._numbers.token + len(picked.records)
        count, budget = session.take(room, budget, picked.records)
        session.taken(lane, range(first, first + count))
        picked.holdings += [session.holding] * count
        picked.deadlines += [session.deadline] * count
        if session.live:
            lane.ready.move_to_end(session)  # the next receive begins with another one
        else:
            del lane.ready[session]
        return count, budget

    def hold(self, records: list[Stored]) -> Picked:
        """Deferred messages of held sessions go into the holder's hand."""
        picked = Picked(records)
        for token, record in enumerate(records, self._numbers.token):
            session = record.home
            session.taken(session.lane, range(token, token + 1))
            picked.holdings.append(session.holding)
            picked.deadlines.append(session.deadline)
        return picked

    def settle(self, records: Sequence[Stored]) -> None:
        """They are in nobody's hand any more."""
        for record in records:
            record.home.out -= 1

    def put_back(self, records: list[Stored]) -> None:
        """Put each back into its session."""
        homes: dict[Session, list[Stored]] = {}
        for record in records:
            homes.setdefault(record.home, []).append(record)
        for session, own in homes.items():
            session.put_back(own)
            self._offer(session)

    def keep_back(self, record: Stored) -> None:
        """A session's message is never delayed: its session is given back, or held."""

    def go_on(self, record: Stored) -> None:
        """None was kept back."""

    def drop(self, record: Stored) -> None:
        """Pass over it."""
        session = record.home
        session.drop(record)
        if not session.live:
            self._withdraw(session)

    # What only this dialect has.

    def find(self, key: str) -> Session:
        """A session, whether it has messages or not."""
        session = self._sessions.get(key)
        if session is None:
            session = self._sessions[key] = Session(key)
        return session

    def first_free(self) -> Session | None:
        """The free session with messages that waited longest."""
        return next(iter(self._free), None)

    def open(self, session: Session, lane: Lane, now: float) -> BrokerHolding:
        """Lock a free session for a lane."""
        self._free.pop(session, None)
        session.lane = lane
        session.holding = self._numbers.next_holding()
        session.deadline = now + self._lock
        lane.sessions[session.holding] = session
        if session.live:
            lane.ready[session] = None
        return BrokerHolding(session.holding, session.key, self._lock)

    def let_go(self, session: Session, lane: Lane) -> dict[int, Stored]:
        """End a holding: what was in its hand, which the caller puts back."""
        hand = {token: lane.hand.pop(token) for token in session.hand if token in lane.hand}
        session.hand = []
        session.out = 0
        del lane.sessions[session.holding]
        lane.ready.pop(session, None)
        session.lane = None
        return hand

    def offer(self, session: Session) -> None:
        """After a holding ended and its messages were put back: free, or forgotten."""
        if session.live:
            self._free[session] = None
        else:
            self._withdraw(session)

    def renew(self, session: Session, lane: Lane, now: float) -> None:
        """Prolong a lock."""
        session.deadline = now + self._lock
        lane.sessions[session.holding] = lane.sessions.pop(session.holding)

    def home_of(self, record: Stored, lane: Lane) -> Session:
        """The session of a deferred message, which the lane must hold."""
        session = self._sessions.get(record.session)
        if session is None or session.lane is not lane:
            raise MessageNotFound(
                f"message {record.sequence} is deferred in session {record.session!r}, "
                "which this receiver does not hold: accept the session first"
            )
        return session

    def _offer(self, session: Session) -> None:
        if session.lane is None:
            self._free[session] = None
        else:
            session.lane.ready[session] = None

    def _withdraw(self, session: Session) -> None:
        self._free.pop(session, None)
        if session.lane is not None:
            session.lane.ready.pop(session, None)
        elif session.state is None:
            del self._sessions[session.key]
