"""The kill tests fail when a law is broken: each bug is planted in every handler's process."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.examples.flights import Flight, Tally, on_flight
from tests.faults.flights import Part, differences, flying
from tests.faults.killing import kill

EARLY = """
import asyncio

from pipeline.stages.handler import HandlerCore


async def early(self, stints):
    self._publish(stints)
    await asyncio.sleep({pause})
    await self._store.commit([stint.change for stint in stints if not stint.change.empty])


HandlerCore._commit = early
"""
"""What is published is settled so many seconds before it is committed."""

BUGS = {
    "the record of what was applied is not looked at": """
from pipeline.state.port import SessionRecord

SessionRecord.has = lambda *_: False
""",
    "outcomes are published before the commit": EARLY.format(pause=0.02),
}


@pytest.mark.spec("T3", "T6")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=["record", "commit"])
async def test_a_planted_bug_is_found(fault_cluster: None, tmp_path: Path, bug: str) -> None:
    """The same run with one line of the handler wrong does not come out right."""
    async with flying(tmp_path, "planted", 30_000, BUGS[bug]) as (runtime, endings):
        await kill(runtime, "handler", 0, "handled, not committed", tmp_path / "note")
        await kill(runtime, "handler", 1, "committed, no outcome", tmp_path / "note")
    assert endings[0].wrong != []


@pytest.mark.spec("T3")
async def test_each_figure_of_a_state_is_compared() -> None:
    """One flight twice in place of another one has the right count, and the wrong figures."""
    job = Part(3_000)
    flights = [Flight.model_validate_json(message.body) for message in job.messages()]
    states: dict[str, Tally] = {}
    for flight in flights:
        tally = states.setdefault(flight.tailnum or "spread-1", Tally())
        await on_flight.function(flight, tally, None)
    assert differences(job, states) == []
    states["N14228"].distance += 1
    [told] = differences(job, states)
    assert told.startswith("N14228: Tally(")
