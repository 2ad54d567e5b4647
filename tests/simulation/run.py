"""One run of the simulation: a seed, its faults, and what came of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from traceback import extract_tb
from typing import Any

from tests.simulation.faults import Fault, Schedule, draw
from tests.simulation.journal import Broken
from tests.simulation.plan import Plan, plan_of
from tests.simulation.processes import ProcessLoop
from tests.simulation.world import World


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run.

    Args:
        plan: what was to happen.
        faults: what was to go wrong.
        struck: what did go wrong, in order.
        broken: the law that was broken, if one was.
        digest: of everything that happened; equal for equal runs.
        events: what happened.
    """

    plan: Plan
    faults: tuple[Fault, ...]
    struck: tuple[Fault, ...]
    broken: Broken | None
    digest: str
    events: tuple[tuple[object, ...], ...]


def simulate(seed: int, faults: Sequence[Fault] | None = None) -> Result:
    """Run a seed, with its own faults or with others."""
    plan = plan_of(seed)
    if faults is None:
        faults = draw(seed, plan.receivers, plan.routers, plan.handlers)
    schedule = Schedule(faults)
    loop = ProcessLoop()
    broken: Broken | None = None
    with _quiet():
        try:
            world = World(plan, schedule, loop)
            loop.run_until_complete(_run(world))
        except Broken as error:
            broken = error
        except RuntimeError as error:  # the loop's: a deadlock
            broken = Broken("no deadlock", str(error))
        finally:
            loop.set_exception_handler(lambda *_: None)
            loop.bury()
            loop.close()
    events = tuple(world.journal.events)
    digest = blake2b(repr(events).encode(), digest_size=16).hexdigest()
    return Result(plan, tuple(faults), tuple(schedule.struck), broken, digest, events)


async def _run(world: World) -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ProcessLoop)
    loop.set_exception_handler(
        lambda _, context: world.journal.broken("no defects", _words(context))
    )
    try:
        await world.run()
    finally:
        world.journal.over = True
        loop.bury()  # here, where what is closed can still ask for the running loop


def _words(context: dict[str, Any]) -> str:
    """What the loop says of an exception that nobody caught: what, and where from."""
    error = context.get("exception")
    if error is None:
        return str(context.get("message"))
    where = [f"{Path(one.filename).name}:{one.lineno}" for one in extract_tb(error.__traceback__)]
    return f"{error!r} from {' '.join(where[-4:])}"


@contextmanager
def _quiet() -> Iterator[None]:
    """What the cores warn of is what the faults are for."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
