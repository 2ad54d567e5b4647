"""`python -m tests.simulation`: run seeds, and tell of each that breaks a law.

--seeds N       how many
--start S       the first one
--jobs J        processes to run them in
--seed K        this one alone; with --explain everything that happened in it
--bug NAME      with a planted bug (see bugs.py)
--first         stop at the first one that fails
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from time import perf_counter

from tests.simulation.run import Result, simulate
from tests.simulation.shrink import shrink, told


def main() -> int:
    """Run what the arguments ask for; 1 when a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seeds", type=int, default=2_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--explain", action="store_true")
    parser.add_argument("--bug")
    parser.add_argument("--first", action="store_true")
    given = parser.parse_args()
    if given.bug is not None:
        from tests.simulation.bugs import plant

        plant(given.bug)
    if given.seed is not None:
        return _one(given.seed, explain=given.explain)
    began = perf_counter()
    ran = failed = 0
    for seed in _failing(range(given.start, given.start + given.seeds), given.jobs):
        ran += 1
        if seed is not None:
            failed += 1
            print(told(shrink(simulate(seed))), "\n", flush=True)
            if given.first:
                break
    took = perf_counter() - began
    print(f"{ran} seeds, {failed} failed, {ran / took:.1f} seeds/s")
    return min(failed, 1)


def _failing(seeds: range, jobs: int) -> Iterator[int | None]:
    """Each seed that fails, and None for each that does not."""
    if jobs < 2:
        yield from map(fails, seeds)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(fails, seeds, chunksize=32)


def fails(seed: int) -> int | None:
    """The seed, if it breaks a law."""
    return None if simulate(seed).broken is None else seed


def _one(seed: int, *, explain: bool) -> int:
    result: Result = simulate(seed)
    if result.broken is not None:
        result = shrink(result)
    if result.broken is None and not explain:
        print(f"seed {seed} breaks no law ({len(result.struck)} faults, digest {result.digest})")
        return 0
    print(told(result, events=len(result.events) if explain else 30))
    return 0 if result.broken is None else 1


if __name__ == "__main__":
    sys.exit(main())
