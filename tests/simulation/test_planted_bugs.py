"""What the simulation is worth: one law broken in one line is found within a few seeds."""

from __future__ import annotations

import re

import pytest

from tests.simulation.bugs import BUGS, Bug
from tests.simulation.test_simulation import simulation

WITHIN = 400
"""Seeds; those of the gate, which pass without the bug."""


@pytest.mark.spec("T6")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(bug: Bug) -> None:
    """One of the first seeds fails, and says which law it was."""
    seeds = ("--start", str(bug.start), "--seeds", str(WITHIN))
    done = simulation("--bug", bug.name, "--first", "--jobs", "2", *seeds)
    assert done.returncode == 1, f"{bug.law}: not found within {WITHIN} seeds\n{done.stdout}"
    assert re.search(r"^seed \d+: ", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.spec("T6")
def test_every_bug_can_still_be_planted() -> None:
    """The text that it replaces is there, once; a bug that can't be planted proves nothing."""
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 8
    for bug in BUGS:
        compile(bug.planted(), str(bug.path), "exec")
