"""A disk that is full: the run waits, says why, loses nothing, and goes on when there is room."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from typing import Any

import pytest

from pipeline import Message
from tests.faults.test_attempts import runtime


def limit_files(_: Any, size: int | None) -> None:
    """In an actor's process: no file may grow beyond this size; None: any may again."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


@pytest.mark.spec("T3", "F4", "F2")
@pytest.mark.timeout(180)
async def test_a_full_disk_pauses_the_run(fault_cluster: None, tmp_path: Path) -> None:
    """Nothing is completed that isn't kept; then everything is, once."""
    one = runtime(tmp_path, "poisoned")
    messages = [Message(str(n).encode(), session=f"s{s}") for n in range(50) for s in range(20)]
    async with one:
        await one.client.send_many("q", messages[:100])
        await one.until_empty()
        [place] = one._actors["p"].handlers
        await place.actor.__ray_call__.remote(limit_files, 1_000)
        await one.client.send_many("q", messages[100:])
        async with asyncio.timeout(60):
            while not any("sqlite" in why for why in one.look.missing):
                await one.next_look()
        assert (await one.totals()).completed == 100
        assert not one._public()["ready"]
        assert "sqlite" in one._public()["reason"]
        await place.actor.__ray_call__.remote(limit_files, None)
        await one.until_empty()
        totals = await one.totals()
        states = (await one.states())["p"]
        replaced = one.look.pipelines["p"].replaced
    assert (totals.completed, totals.dead_lettered, replaced) == (1_000, 0, 0)
    expected = {str(n): 1 for n in range(50)} | {"attempts": 1}
    assert all(state == expected for state in states.values())
    assert len(states) == 20
