"""Crypto actors that die, and those around them: the result is as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.flights import flying, sealed
from tests.faults.killing import kill

PLAN = [
    ("crypto", 0, "a batch taken in"),
    ("receiver", 0, "rows received"),
    ("crypto", 1, "opened, not answered"),
    ("handler", 0, "handled, not committed"),
    ("crypto", 0, "opened, not answered"),
    ("router", 1, "rows taken in"),
    ("crypto", 1, "a batch taken in"),
]


@pytest.mark.spec("F1", "F2", "F3", "F4", "F7", "T3")
@pytest.mark.timeout(300)
async def test_crypto_actors_are_killed_during_the_flights(
    fault_cluster: None, tmp_path: Path
) -> None:
    """A batch that one dies with is opened by the other; keys come back with the next one."""
    async with flying(tmp_path, "sealed", 60_000, place=sealed(tmp_path)) as (runtime, endings):
        for kind, number, moment in PLAN:
            await kill(runtime, kind, number, moment, tmp_path / "note")
        counts = (await runtime.refresh()).pipelines["flights"].receivers
        assert runtime.look.shared.replaced == sum(kind == "crypto" for kind, _, _ in PLAN)
        assert (counts["plain"], counts["refused"]) == (0, 0)
    assert endings[0].wrong == []
