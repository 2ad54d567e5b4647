"""What a seed's run consists of: the cluster, the messages, and what the handler does with each."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import Literal

ATTEMPTS = 4
VISIBILITY = 30.0
GRACE = 10.0
"""Seconds that a sync handler has after its time-out, as H6 says."""
DIALECTS = ("native", "groups")
_UNORDERED = 5
"""Each so manieth seed is of a queue without sessions."""
_OPENED = 3
"""In each so manieth seed bodies have to be opened."""
KINDS = ("async", "async", "sync", "async batch", "sync batch")

_FATES = {
    "ok": 60,
    "slow": 14,  # longer than a part of a run
    "long": 4,  # long enough for its lock to need renewal
    "fails": 6,
    "retry": 4,
    "reject": 3,
    "hopeless": 2,
    "kills": 3,
    "poison": 1,
    "endless": 2,  # longer than its time-out: it is cancelled, or its process is killed
}
_NEVER = 1_000_000


@dataclass(frozen=True, slots=True)
class Fate:
    """What the handler does with a message.

    Args:
        kind: a key of the table above.
        times: for how many attempts it does that; later ones succeed.
        seconds: how long it takes, or asks to wait.
        sends: whether it sends a message on.
    """

    kind: str
    times: int
    seconds: float
    sends: bool

    def at(self, attempt: int) -> str:
        """What it does at this attempt."""
        return self.kind if attempt <= self.times else "ok"


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, before its faults.

    Args:
        seed: what it was drawn from.
        dialect: of the broker; "none" keeps no order.
        count: when the broker's delivery count grows.
        kind: of the handler.
        receivers: how many.
        routers: how many.
        handlers: how many.
        credit: of a receiver, in messages.
        batch_rows: the most rows of a batch.
        places: how many sessions a receiver holds; None: any number.
        wait: seconds of a receive.
        hold: seconds a session is kept for a retry.
        concurrency: sessions an async handler runs at once.
        fates: what happens to each message, by (session, position), in the order of sending.
        nameless: the sessions whose messages are sent without one: only where there is no order.
        timeout: seconds that a call of the handler may take.
        later: how many of them are sent while the run goes on.
        anew: whether the others have ended before, and the broker was made anew: its sequences
            begin at 1 again, and everything else has started anew, but for the store.
        pace: the longest that a call takes without any fault, in seconds.
        opens: whether bodies have to be opened, which takes time, and some keys come late.
    """

    seed: int
    dialect: str
    count: Literal["on_failure", "on_receive"]
    kind: str
    receivers: int
    routers: int
    handlers: int
    credit: int
    batch_rows: int
    places: int | None
    wait: float
    hold: float
    concurrency: int
    fates: dict[tuple[str, int], Fate]
    nameless: frozenset[str]
    timeout: float
    later: int
    anew: bool
    pace: float
    opens: bool

    @property
    def ordered(self) -> bool:
        """Whether each session's messages are handled in order."""
        return self.dialect != "none"

    def __str__(self) -> str:
        """One line."""
        sessions = len({session for session, _ in self.fates})
        return (
            f"{self.dialect} ({self.count}), {self.kind} handler, {self.receivers} receivers, "
            f"{self.routers} routers, {self.handlers} handlers, {len(self.fates)} messages of "
            f"{sessions} sessions{', sealed' if self.opens else ''}"
        )


def plan_of(seed: int) -> Plan:
    """The plan of a seed: every fifth has no order, else even ones native sessions, odd groups."""
    ordered = (seed + 1) % _UNORDERED != 0
    dice = random.Random(seed)
    handlers = dice.choice((1, 2, 2, 3))
    sessions = dice.randint(1, 4)
    positions: Counter[str] = Counter()
    fates: dict[tuple[str, int], Fate] = {}
    for _ in range(dice.randint(4, dice.choice((10, 20, 36)))):
        session = f"s{dice.randrange(sessions)}"
        fates[session, positions[session]] = _fate(dice)
        positions[session] += 1
    return Plan(
        seed=seed,
        dialect=DIALECTS[seed % 2] if ordered else "none",
        count="on_receive" if not ordered and seed % 2 else "on_failure",
        kind=dice.choice(KINDS),
        receivers=dice.randint(1, 2),
        routers=min(handlers, dice.randint(1, 2)),
        handlers=handlers,
        credit=dice.choice((4, 16, 200)),
        batch_rows=dice.choice((1, 3, 200)),
        places=dice.choice((None, 1, 2)),
        wait=dice.choice((5.0, 20.0)),
        hold=dice.choice((5.0, 60.0)),
        concurrency=dice.choice((1, 2, 64)),
        fates=fates,
        nameless=frozenset() if ordered else frozenset({"s0", "s2"}),
        timeout=dice.choice((50.0, 100.0)),
        later=dice.randint(0, len(fates)),
        anew=dice.random() < 0.15,
        pace=dice.choice((0.0, 0.002, 0.05)),
        opens=seed % _OPENED == _OPENED - 1,
    )


def _fate(dice: random.Random) -> Fate:
    kind = dice.choices(list(_FATES), list(_FATES.values()))[0]
    seconds = {"slow": 0.4, "long": 45.0, "retry": 40.0}.get(kind, 0.0) * dice.random()
    times = {
        "fails": dice.randint(1, 2),
        "retry": 1,
        "kills": 1,
        "endless": dice.choice((1, 2, _NEVER)),
    }.get(kind, _NEVER)
    return Fate(kind, times, seconds, sends=dice.random() < 0.2)
