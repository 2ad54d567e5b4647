"""From a failing run to the fewest faults that still break the same law, and how to tell of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from tests.simulation.faults import Fault
from tests.simulation.run import Result, simulate

_EVENTS = 30
Run: TypeAlias = Callable[[int, Sequence[Fault]], Result]


def shrink(result: Result, run: Run = simulate) -> Result:
    """The run with as few and as short faults as break the same law.

    Args:
        result: of a run that broke one.
        run: runs a seed with other faults.
    """
    best = _fewer(result, run)
    for at in range(len(best.faults)):
        for seconds in (0.0, 0.1, 1.0):
            fault = best.faults[at]
            if seconds >= fault.seconds:
                break
            faults = [*best.faults[:at], replace(fault, seconds=seconds), *best.faults[at + 1 :]]
            found = _still(run, best, faults)
            if found is not None:
                best = found
                break
    return best


def _fewer(result: Result, run: Run) -> Result:
    """Leave faults out: half of them at once, then fewer, down to one by one."""
    best = _still(run, result, [one for one in result.faults if one in result.struck]) or result
    size = max(1, len(best.faults) // 2)
    while True:
        at, before = 0, len(best.faults)
        while at < len(best.faults):
            found = _still(run, best, [*best.faults[:at], *best.faults[at + size :]])
            if found is None:
                at += size
            else:
                best = found
        if size == 1 and len(best.faults) == before:
            return best
        size = max(1, size // 2)


def _still(run: Run, result: Result, faults: Sequence[Fault]) -> Result | None:
    """The run with these faults, if it breaks the same law."""
    found = run(result.plan.seed, faults)
    if found.broken is None or result.broken is None or found.broken.law != result.broken.law:
        return None
    return found


def told(result: Result, *, events: int = _EVENTS, bug: str | None = None) -> str:
    """What a failing run was, as one reads it."""
    again = f"python -m tests.simulation --seed {result.plan.seed}"
    if bug is not None:
        again += f" --bug {shlex.quote(bug)}"
    lines = [
        f"seed {result.plan.seed}: {result.broken or 'breaks no law'}",
        f"  {result.plan}",
        f"  {len(result.struck) or 'no'} faults:",
        *(f"    {fault}" for fault in result.struck),
        f"  the last of what happened ({again} --explain: all):",
        *(f"    {event[0]:10.4f}  {_words(event[1:])}" for event in result.events[-events:]),
        f"  again: {again}",
    ]
    return "\n".join(lines)


def _words(event: Sequence[object]) -> str:
    return " ".join(str(one) for one in event)
