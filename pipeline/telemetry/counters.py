"""Counters and latency quantiles that every core keeps and returns from `stats()`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

_STEPS = 8
_LOW = -20
_BUCKETS = 34 * _STEPS
_EDGES = 2.0 ** (_LOW + np.arange(1, _BUCKETS) / _STEPS)
"""Where one bucket ends and the next one begins."""


class Histogram:
    """Durations in buckets of a factor 2^(1/8): any quantile within 9 %, in fixed memory.

    Example:
        >>> times = Histogram()
        >>> times.add([0.010] * 99 + [1.0])
        >>> 0.009 < times.quantile(0.5) < 0.011
        True
    """

    __slots__ = ("counts", "total")

    def __init__(self, counts: Iterable[int] | None = None) -> None:
        self.counts = list(counts) if counts is not None else [0] * _BUCKETS
        self.total = sum(self.counts)

    def add(self, seconds: Sequence[float] | npt.NDArray[np.float64]) -> None:
        """Count durations."""
        counts = np.bincount(np.searchsorted(_EDGES, seconds, side="right"))
        for place in np.flatnonzero(counts).tolist():
            self.counts[place] += int(counts[place])
        self.total += len(seconds)

    def merge(self, other: Histogram) -> None:
        """Add another's counts."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def quantile(self, share: float) -> float:
        """The duration in seconds that this share (0 to 1) does not exceed; 0 when empty."""
        wanted = share * self.total
        seen = 0
        for place, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return float(2 ** (_LOW + (place + 0.5) / _STEPS))
        return 0.0


def add_up(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Sum counters of several actors by name.

    Example:
        >>> add_up([{"a": 1}, {"a": 2, "b": 3}])
        {'a': 3, 'b': 3}
    """
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total
