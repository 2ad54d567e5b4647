"""The kill tests on SQS FIFO: nothing lost, no group out of order, nothing applied twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.flights import Place, flying, sqs
from tests.faults.killing import kill
from tests.faults.test_planted import EARLY
from tests.sqs.servers import ministack

COUNT = 2_000
PLAN = [
    ("handler", 0, "handled, not committed"),
    ("router", 0, "outcomes known, not handed on"),
    ("receiver", 0, "outcomes known, not settled"),
]
"""One of each kind."""


@pytest.fixture
def place(fault_cluster: None, tmp_path: Path) -> Iterator[Place]:
    """A queue at ministack that is nobody else's."""
    with ministack() as endpoint:
        yield sqs(endpoint, tmp_path)


@pytest.mark.spec("F2", "F3", "F4", "F7", "T3")
@pytest.mark.timeout(180)
async def test_processes_are_killed_during_the_flights(place: Place, tmp_path: Path) -> None:
    """Each with at least 100 rows in hand; at the end the queue is empty, nothing is in flight."""
    async with flying(tmp_path, "killed-sqs", COUNT, place=place) as (runtime, endings):
        for kind, number, moment in PLAN:
            await kill(runtime, kind, number, moment, tmp_path / "note")
    assert endings[0].wrong == []
    assert endings[0].replaced == len(PLAN)


@pytest.mark.spec("T3", "T6")
@pytest.mark.timeout(180)
async def test_a_planted_bug_is_found(place: Place, tmp_path: Path) -> None:
    """Outcomes that are published before the commit are deleted at SQS, and lost."""
    early = EARLY.format(pause=0.2)
    async with flying(tmp_path, "planted-sqs", COUNT, early, place) as (runtime, endings):
        await kill(runtime, "handler", 0, "handled, not committed", tmp_path / "note", 1)
    assert endings[0].wrong != []
