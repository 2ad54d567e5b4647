"""Faults: what goes wrong where, as a list that is drawn from a seed and can be read.

A fault names a place and a number: the n-th step of a process (a step is one resumption of a task
or one callback of it, so a process can be struck at every await), or the n-th call on a way. A run
follows from its seed and its faults alone.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

STEPS = {
    "kill": "it is killed, and replaced {seconds:.2f} s later",
    "part": "it is taken for dead and replaced, but goes on for {seconds:.2f} s",
    "stall": "it stands still for {seconds:.2f} s",
    "leave": "it is drained and ends, and another one follows {seconds:.2f} s later",
}
"""What may happen to a process at one of its steps; only receivers leave."""

CALLS = {
    "lose": "never arrives; its caller hears that there is no answer",
    "late": "is answered for by nobody, and arrives {seconds:.2f} s later",
    "deaf": "is carried out, but its answer is lost",
    "slow": "takes {seconds:.2f} s more",
    "twice": "arrives twice, {seconds:.2f} s apart",
}
"""What may happen to a call between two processes; of slow ones every second is slow to answer."""

SERVICES = {
    "refuse": "fails before anything is done",
    "fail": "fails although it is done",
    "slow": "takes {seconds:.2f} s more",
    "cut": "fails, and all calls of that process to it for {seconds:.2f} s",
}
"""What may happen to a call of a process to the broker, the store or a target queue."""

_SECONDS = {
    "kill": (0.0, 3.0),
    "part": (0.0, 40.0),
    "stall": (0.1, 45.0),
    "leave": (0.0, 3.0),
    "late": (0.0, 5.0),
    "slow": (0.0, 12.0),
    "twice": (0.0, 3.0),
    "cut": (1.0, 45.0),
}
_BROKER = (
    "receive",
    "complete",
    "dead_letter",
    "release",
    "release_sessions",
    "renew",
    "renew_sessions",
    "end_poll",
    "close_lane",
)
EVERYTHING = "everything"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that goes wrong.

    Args:
        where: a process ("handler 0") or a way ("router 0 > handler 1", "handler 0 > store: load").
        at: at which of its steps or calls, 1 the first.
        kind: a key of STEPS, CALLS or SERVICES.
        seconds: how long it lasts, where that means something.
    """

    where: str
    at: int
    kind: str
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line of a schedule."""
        if self.kind in STEPS and ">" not in self.where:
            return f"step {self.at} of {self.where}: " + STEPS[self.kind].format(
                seconds=self.seconds
            )
        words = (CALLS | SERVICES)[self.kind].format(seconds=self.seconds)
        return f"call {self.at} {self.where}: it {words}"


def draw(seed: int, receivers: int, routers: int, handlers: int) -> tuple[Fault, ...]:
    """The faults of a seed, for a cluster of this size."""
    dice = random.Random(seed * 31 + 7)
    slots = (
        ["connection 0"]
        + [f"receiver {at}" for at in range(receivers)]
        + [f"router {at}" for at in range(routers)]
        + [f"handler {at}" for at in range(handlers)]
    )
    lines = (
        [f"receiver {one} > router {two}" for one in range(receivers) for two in range(routers)]
        + [f"router {one % routers} > handler {one}" for one in range(handlers)]
        + [f"receiver {one} > connection 0" for one in range(receivers)]
    )
    found = [
        _one(dice, slots, lines, receivers, handlers)
        for _ in range(dice.choice((0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 8, 10)))
    ]
    return tuple(sorted({(fault.where, fault.at): fault for fault in found}.values()))


def _one(
    dice: random.Random, slots: Sequence[str], lines: Sequence[str], receivers: int, handlers: int
) -> Fault:
    what = dice.choices(("step", "call", "broker", "store", "out"), (40, 32, 16, 9, 3))[0]
    if what == "step":
        where, kinds = dice.choice((*slots, *slots, EVERYTHING)), tuple(STEPS)
        at = _number(dice, 400)
        if not where.startswith("receiver"):
            kinds = tuple(kind for kind in kinds if kind != "leave")
        if where == EVERYTHING:
            kinds = ("kill",)
    elif what == "call":
        where, kinds, at = dice.choice(lines), tuple(CALLS), _number(dice, 40)
    else:
        kinds = tuple(SERVICES)
        if what == "broker":
            where = f"receiver {dice.randrange(receivers)} > broker: {dice.choice(_BROKER)}"
        elif what == "store":
            where = f"handler {dice.randrange(handlers)} > store: {dice.choice(('load', 'commit'))}"
        else:
            where = f"handler {dice.randrange(handlers)} > target: send"
        at = _number(dice, 16)
    kind = dice.choice(kinds)
    low, high = _SECONDS.get(kind, (0.0, 0.0))
    # Mostly short, so that it meets what is going on; now and then longer than a lock lasts.
    return Fault(where, at, kind, round(low + (high - low) * dice.random() ** 3, 3))


def _number(dice: random.Random, most: int) -> int:
    """Early ones as likely as late ones: a run is often shorter than it could be."""
    return max(1, round(most ** dice.random()))


@dataclass
class Schedule:
    """The faults of one run, and which of them came to pass.

    Args:
        faults: what is to go wrong.
    """

    faults: Iterable[Fault]
    struck: list[Fault] = field(default_factory=list)
    over: bool = False
    _by_place: dict[str, dict[int, Fault]] = field(default_factory=lambda: defaultdict(dict))
    _numbers: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for fault in self.faults:
            self._by_place[fault.where][fault.at] = fault

    def steps(self, where: str) -> dict[int, Fault]:
        """What is to happen at which steps of a process."""
        return self._by_place.get(where, {})

    def next_call(self, where: str) -> tuple[int, Fault | None]:
        """The number of the call that is being made on a way, and what happens to it."""
        self._numbers[where] += 1
        number = self._numbers[where]
        fault = self._by_place.get(where, {}).get(number)
        if fault is None or self.over:
            return number, None
        self.struck.append(fault)
        return number, fault
