"""Rows by their numbers, side by side: what is done to thousands of them is done in C."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.errors import ValidationError

Rows: TypeAlias = npt.NDArray[np.int64]
"""Positions in a batch, or numbers in a ledger."""
Codes: TypeAlias = npt.NDArray[np.int32]
"""For each row, which of several things it belongs to: their positions in a list."""
NO_ROWS: Rows = np.empty(0, np.int64)


def mark(seen: npt.NDArray[np.bool_], rows: Rows) -> None:
    """Mark rows as seen.

    Raises:
        ValidationError: one of them was seen before, or is here twice; none is marked then.
    """
    if len(rows) == 1 and not seen[rows[0]]:
        seen[rows[0]] = True
        return
    if not seen[rows].any():
        before = np.count_nonzero(seen)
        seen[rows] = True
        if np.count_nonzero(seen) == before + len(rows):
            return
        seen[rows] = False
    again = seen[rows]
    again[np.setdiff1d(np.arange(len(rows)), np.unique(rows, return_index=True)[1])] = True
    raise ValidationError("outcome", "must come once a row", int(rows[again][0]))


def runs(keys: Rows) -> list[tuple[int, int, int]]:
    """Neighbours that are equal: for each run of them the key, where it begins and where it ends.

    Example:
        >>> runs(np.array([7, 7, 9]))
        [(7, 0, 2), (9, 2, 3)]
    """
    begins = np.flatnonzero(np.diff(keys, prepend=-1)).tolist()
    return [
        (int(keys[begin]), begin, end)
        for begin, end in zip(begins, [*begins[1:], len(keys)], strict=False)
    ]


def by_code(codes: Codes, count: int) -> list[list[int]]:
    """For each of `count` things the positions of its rows, ascending.

    Example:
        >>> by_code(np.array([1, 0, 1], np.int32), 3)
        [[1], [0, 2], []]
    """
    if count == 1:
        return [list(range(len(codes)))]
    rows = np.argsort(codes, kind="stable").tolist()
    ends = np.cumsum(np.bincount(codes, minlength=count)).tolist()
    return [rows[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
