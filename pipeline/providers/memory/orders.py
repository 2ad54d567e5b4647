"""What is delivered next: the unordered dialect and the groups dialect (as SQS FIFO).

An order keeps the messages that wait and says which of them one receive brings. The messages in a
lane's hand, their locks and their counts are `BrokerQueue`'s. The native dialect is `sessions`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.providers.memory.calls import BrokerHolding
from pipeline.providers.memory.stored import Line, Stored
from pipeline.providers.port import Want

if TYPE_CHECKING:
    from pipeline.providers.memory.lane import Lane


class Numbers:
    """The broker's counters, one for all its queues: tokens of locks, and holdings.

    Args:
        token: the next lock's token.
        holding: the next holding's number; it grows on over a later broker's start, because what
            was fenced with it is kept elsewhere (SPEC F3).
    """

    __slots__ = ("holding", "token")

    def __init__(self, holding: int = 1) -> None:
        self.token = 1
        self.holding = holding

    def next_holding(self) -> int:
        """A number higher than all before."""
        number = self.holding
        self.holding = number + 1
        return number


@dataclass(slots=True)
class Picked:
    """What one receive brings.

    Args:
        records: the messages, of each session in ascending sequence.
        holdings: each one's holding.
        deadlines: native: `loop.time()` at which each one's session lock ends; else empty.
        opened: native: the sessions that this receive opened.
        others_wait: native: whether free sessions have messages.
    """

    records: list[Stored] = field(default_factory=list)
    holdings: list[int] = field(default_factory=list)
    deadlines: list[float] = field(default_factory=list)
    opened: tuple[BrokerHolding, ...] = ()
    others_wait: bool = False


class Order(Protocol):
    """The messages of a queue that wait, and in which order they go."""

    def add(self, records: Sequence[Stored]) -> None:
        """Messages come in, each behind all others of its session."""

    def pick(self, lane: Lane, want: Want, now: float) -> Picked:
        """Take what one receive may have; nothing: no records."""

    def hold(self, records: list[Stored]) -> Picked:
        """Deferred messages go into a lane's hand."""

    def settle(self, records: Sequence[Stored]) -> None:
        """These left the hand they were in; those that wait again were put back before."""

    def put_back(self, records: list[Stored]) -> None:
        """These wait again, where their sequence belongs."""

    def keep_back(self, record: Stored) -> None:
        """This one leaves a hand and waits for its time: what it would have blocked stays so."""

    def go_on(self, record: Stored) -> None:
        """It waits no longer: its time came, and it was put back, or it ended."""

    def drop(self, record: Stored) -> None:
        """This one, which waits, ends."""


class Unordered:
    """Messages come in the order of their sending, those given back in front."""

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._line = Line()

    def add(self, records: Sequence[Stored]) -> None:
        """Put them at the end."""
        for record in records:
            self._line.append(record)

    def pick(self, lane: Lane, want: Want, now: float) -> Picked:  # noqa: ARG002
        """Take from the front."""
        records: list[Stored] = []
        self._line.take(want.messages, want.bytes, records)
        return self.hold(records)

    def hold(self, records: list[Stored]) -> Picked:
        """Their holding is a number that grows with each receive."""
        return Picked(records, _one_holding(self._numbers, records))

    def settle(self, records: Sequence[Stored]) -> None:
        """Nothing waits for another."""

    def put_back(self, records: list[Stored]) -> None:
        """Put them in front."""
        self._line.put_first(records)

    def keep_back(self, record: Stored) -> None:
        """It blocks nobody."""

    def go_on(self, record: Stored) -> None:
        """Nobody waited for it."""

    def drop(self, record: Stored) -> None:
        """Pass over it."""
        self._line.drop(record)


class Group(Line):
    """The messages of one group that wait, and how many are in hand."""

    __slots__ = ("key", "out")

    def __init__(self, key: str) -> None:
        super().__init__()
        self.key = key
        self.out = 0


class Groups:
    """A group is blocked while one of its messages is in hand; groups come round in turn.

    A group of which nothing waits and nothing is in hand is forgotten.
    """

    def __init__(self, numbers: Numbers) -> None:
        self._numbers = numbers
        self._groups: dict[str, Group] = {}
        self._ready: OrderedDict[Group, None] = OrderedDict()

    def add(self, records: Sequence[Stored]) -> None:
        """Put each at the end of its group."""
        for record in records:
            group = record.home = self._find(record.session)
            group.append(record)
            if group.live == 1 and not group.out:
                self._ready[group] = None

    def pick(self, lane: Lane, want: Want, now: float) -> Picked:  # noqa: ARG002
        """Take up to `want.per_session` of each group, those first that waited longest."""
        room, budget, each = want.messages, want.bytes, want.per_session
        records: list[Stored] = []
        while self._ready and room > 0 and budget > 0 and each > 0:
            group, _ = self._ready.popitem(last=False)
            taken, budget = group.take(min(room, each), budget, records)
            group.out = taken
            room -= taken
        return Picked(records, _one_holding(self._numbers, records))

    def hold(self, records: list[Stored]) -> Picked:
        """Their groups are blocked."""
        for record in records:
            group = record.home = self._find(record.session)
            group.out += 1
            self._ready.pop(group, None)
        return Picked(records, _one_holding(self._numbers, records))

    def settle(self, records: Sequence[Stored]) -> None:
        """A group of which nothing is in hand any more goes on."""
        for record in records:
            group = record.home
            group.out -= 1
            if not group.out:
                self._unblock(group)

    def put_back(self, records: list[Stored]) -> None:
        """Put each back into its group, which is blocked until all that was in hand is settled."""
        homes: dict[Group, list[Stored]] = {}
        for record in records:
            homes.setdefault(record.home, []).append(record)
        for group, own in homes.items():
            group.put_back(own)

    def keep_back(self, record: Stored) -> None:
        """Its group stays blocked, as if it were still in hand."""
        record.home.out += 1

    def go_on(self, record: Stored) -> None:
        """Its group goes on, unless another one blocks it."""
        self.settle([record])

    def drop(self, record: Stored) -> None:
        """Pass over it."""
        group = record.home
        group.drop(record)
        if not group.live and not group.out:
            self._unblock(group)

    def _find(self, key: str) -> Group:
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
        return group

    def _unblock(self, group: Group) -> None:
        if group.live:
            self._ready[group] = None
        else:
            self._ready.pop(group, None)
            del self._groups[group.key]


def _one_holding(numbers: Numbers, records: Sequence[Stored]) -> list[int]:
    return [numbers.next_holding()] * len(records) if records else []
