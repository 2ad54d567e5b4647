"""Processes killed at their worst moments: nothing lost, nothing out of order, nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.flights import flying
from tests.faults.killing import kill

PLAN = [
    ("handler", 0, "while a row runs"),
    ("router", 0, "rows taken in"),
    ("receiver", 0, "rows received"),
    ("handler", 1, "handled, not committed"),
    ("router", 1, "outcomes known, not handed on"),
    ("receiver", 1, "outcomes known, not settled"),
    ("handler", 0, "committed, no outcome"),
    ("receiver", 0, "settled, not known to be"),
    ("router", 0, "outcomes known, not handed on"),
    ("handler", 1, "while a row runs"),
    ("router", 1, "rows taken in"),
    ("receiver", 1, "outcomes known, not settled"),
]
"""Four of each kind."""


@pytest.mark.spec("F2", "F3", "F4", "F7", "T3")
@pytest.mark.timeout(300)
async def test_processes_are_killed_during_the_flights(fault_cluster: None, tmp_path: Path) -> None:
    """Each with at least 100 rows in hand; the result is as if nothing had happened."""
    async with flying(tmp_path, "killed", 150_000) as (runtime, endings):
        for kind, number, moment in PLAN:
            await kill(runtime, kind, number, moment, tmp_path / "note")
    assert endings[0].wrong == []
    assert endings[0].replaced == len(PLAN)
