"""The simulation: seeded faults against the real cores, and whether it can be trusted itself."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.simulation.faults import CALLS, SERVICES, STEPS, Fault, draw
from tests.simulation.journal import Broken
from tests.simulation.plan import KINDS, Plan, plan_of
from tests.simulation.run import Result, simulate
from tests.simulation.shrink import shrink, told

SEEDS = 20_000 if os.environ.get("QR_SOAK") else 2_000
HERE = 60


def simulation(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process of its own: its own imports, and no coverage to slow it down."""
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *arguments],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.spec("T6", "F2", "F3", "F4", "F5", "F7", "H5", "H6")
@pytest.mark.timeout(3_600)
def test_no_seed_breaks_a_law() -> None:
    """Nothing is lost, out of order, done twice or counted wrongly, whatever goes wrong."""
    jobs = str(os.cpu_count() or 1)
    done = simulation("--seeds", str(SEEDS), "--jobs", jobs)
    assert done.returncode == 0, done.stdout


@pytest.mark.spec("T6")
@pytest.mark.parametrize("half", [0, 1], ids=["even", "odd"])
def test_a_few_seeds_here(half: int) -> None:
    """The same in this process, where a debugger and the coverage see it."""
    for seed in range(half, HERE, 2):
        result = simulate(seed)
        assert result.broken is None, told(result)


@pytest.mark.spec("T6", "F4", "F5")
@pytest.mark.parametrize("seed", [64, 1_149, 10_184])
def test_what_a_seed_has_found_is_mended(seed: int) -> None:
    """All without order: a message twice in a batch, refused rows sent round and round, a count of
    what is unsent that nobody took back."""
    result = simulate(seed)
    assert result.broken is None, told(result)


@pytest.mark.spec("T6")
def test_a_seed_repeats_exactly() -> None:
    """In another process, with other hashes, the same things happen at the same times."""
    seeds = (1, 3, 8, 9, 14, 21)
    here = [simulate(seed).digest for seed in seeds]
    assert [simulate(seed).digest for seed in seeds] == here
    for seed, digest in zip(seeds, here, strict=True):
        there = simulation("--seed", str(seed), PYTHONHASHSEED=str(seed))
        assert digest in there.stdout, there.stdout


@pytest.mark.spec("T6")
def test_every_kind_of_fault_is_drawn_and_strikes() -> None:
    """No fault is on paper only."""
    drawn = {fault.kind for seed in range(300) for fault in draw(seed, 2, 2, 3)}
    assert drawn == STEPS.keys() | CALLS.keys() | SERVICES.keys()
    struck = {fault.kind for seed in range(HERE) for fault in simulate(seed).struck}
    assert len(struck) >= len(drawn) - 2


@pytest.mark.spec("T6", "H6")
def test_every_kind_of_queue_and_of_handler_is_drawn() -> None:
    """A fifth is without order; where a call never ends, it is cancelled or its process killed."""
    plans = [plan_of(seed) for seed in range(1_000)]
    assert Counter((plan.dialect, plan.count) for plan in plans) == {
        ("native", "on_failure"): 400,
        ("groups", "on_failure"): 400,
        ("none", "on_failure"): 100,
        ("none", "on_receive"): 100,
    }
    drawn = {(plan.ordered, plan.kind) for plan in plans if _endless(plan)}
    assert drawn == {(ordered, kind) for ordered in (True, False) for kind in KINDS}
    late = next(plan for plan in plans if plan.kind == "sync" and _endless(plan))
    assert "timed out" in {event[1] for event in simulate(late.seed, ()).events}


def _endless(plan: Plan) -> bool:
    return any(fate.kind == "endless" for fate in plan.fates.values())


def result_of(faults: Sequence[Fault], *needed: Fault) -> Result:
    """A run that breaks a law when all the needed faults are there."""
    fails = all(any(one.where == fault.where for one in faults) for fault in needed)
    broken = Broken("order", "out of it") if fails else None
    return Result(plan_of(0), tuple(faults), tuple(faults), broken, "", ((0.5, "begin", "s0"),))


@pytest.mark.spec("T6")
def test_a_failing_schedule_is_shrunk_to_what_matters() -> None:
    """Of many faults the two that make it fail are left, and last no longer than they must."""
    faults = [Fault(f"handler {at}", at + 1, "stall", 20.0) for at in range(11)]
    needed = faults[3], faults[8]
    least = shrink(result_of(faults, *needed), lambda _, some: result_of(some, *needed))
    assert [fault.where for fault in least.faults] == ["handler 3", "handler 8"]
    assert {fault.seconds for fault in least.faults} == {0.0}


@pytest.mark.spec("T6")
def test_a_failing_run_can_be_read() -> None:
    """Seed, law, faults in words, what happened last, and the command that repeats it."""
    faults = [Fault("handler 0", 212, "kill", 1.0), Fault("receiver 0 > router 0", 17, "deaf")]
    text = told(result_of(faults, *faults))
    assert "seed 0: order: out of it" in text
    assert "step 212 of handler 0: it is killed, and replaced 1.00 s later" in text
    assert "call 17 receiver 0 > router 0: it is carried out, but its answer is lost" in text
    assert "0.5000  begin s0" in text
    assert text.endswith("again: python -m tests.simulation --seed 0")
    struck = replace(result_of(faults, *faults), struck=tuple(faults[:1]))
    assert "1 faults:" in told(struck), "only those that came to pass are told"


@pytest.mark.spec("T6")
def test_a_run_with_a_bug_says_how_to_have_it_again() -> None:
    """With its bug; a bug that there isn't is told, and those that there are."""
    done = simulation("--bug", "later rows go on", "--first", "--seeds", "40")
    found = re.search(r"again: python -m tests.simulation (.*)$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    assert simulation(*shlex.split(found[1])).stdout.startswith("seed ")
    assert "--bug 'later rows go on'" in found[1]
    done = simulation("--bug", "none", "--seed", "1")
    assert done.returncode == 2
    assert "invalid choice: 'none'" in done.stdout
    assert "later rows go on" in done.stdout
