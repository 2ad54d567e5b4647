"""Many seeds, in one process or in several, and what is to be said of those that fail."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import get_context

from tests.simulation.run import simulate
from tests.simulation.shrink import shrink, told


def failing(seeds: range, jobs: int) -> Iterator[int | None]:
    """In their order: each seed that fails, and None for each that does not."""
    if jobs < 2:
        yield from map(_fails, seeds)
        return
    with get_context("fork").Pool(jobs) as pool:
        yield from pool.imap(_fails, seeds, chunksize=8)


def _fails(seed: int) -> int | None:
    return None if simulate(seed).broken is None else seed


def report(
    seed: int, *, shrunk: bool = True, explain: bool = False, bug: str | None = None
) -> tuple[bool, str]:
    """Whether a seed breaks no law, and what is to be said of it.

    Args:
        seed: which.
        shrunk: whether to look for the fewest faults with which it fails.
        explain: whether to tell all that happened, and of a seed that doesn't fail too.
        bug: which one is planted.
    """
    result = simulate(seed)
    good = result.broken is None
    if good and not explain:
        faults = len(result.struck)
        return True, f"seed {seed} breaks no law ({faults} faults, digest {result.digest})"
    if shrunk and not good:
        result = shrink(result)
    return good, told(result, events=len(result.events) if explain else 30, bug=bug)
