"""`python -m tests.simulation`: run seeds, and tell of each that breaks a law."""

from __future__ import annotations

import argparse
import sys
from time import perf_counter

from tests.simulation.bugs import BUGS, plant


def main() -> int:
    """Run what the arguments ask for; 1 when a law was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2_000, help="how many")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    parser.add_argument("--jobs", type=int, default=1, help="in how many processes")
    parser.add_argument("--first", action="store_true", help="stop at the first that fails")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--explain", action="store_true", help="all that happened in it")
    bugs = [bug.name for bug in BUGS]
    parser.add_argument(
        "--bug", choices=bugs, metavar="NAME", help="with this bug of bugs.py planted"
    )
    given = parser.parse_args()
    if given.bug is not None:
        plant(given.bug)
    # Only now: a bug must be planted before anything imports what it is planted into.
    from tests.simulation.campaign import failing, report

    if given.seed is not None:
        good, words = report(given.seed, explain=given.explain, bug=given.bug)
        sys.stdout.write(f"{words}\n")
        return int(not good)
    began = perf_counter()
    ran = failed = 0
    for seed in failing(range(given.start, given.start + given.seeds), given.jobs):
        ran += 1
        if seed is not None:
            failed += 1
            sys.stdout.write(f"{report(seed, shrunk=given.bug is None, bug=given.bug)[1]}\n\n")
            sys.stdout.flush()
            if given.first:
                break
    rate = ran / (perf_counter() - began)
    sys.stdout.write(f"{ran} seeds, {failed} failed, {rate:.1f} seeds/s\n")
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
