"""What every actor does to its own process before it begins, and says of it."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass

import ray

from pipeline.batch import allocate_with_process, import_what_columns_need

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameters of `mallopt`, as glibc's malloc.h numbers them."""
_KEEP = 128 << 20
"""Bytes of free memory that a process keeps: what is in hand at once, and as much again."""
_LARGEST = 32 << 20
"""Bytes of a piece that is kept like any other when it is free; glibc takes no more."""


@dataclass(frozen=True, slots=True)
class Process:
    """Where an actor runs.

    Args:
        node: Ray's id of the node.
        pid: the process's number there.
    """

    node: str
    pid: int


def process() -> Process:
    """Where this is."""
    return Process(ray.get_runtime_context().get_node_id(), os.getpid())


def tune() -> None:
    """Import what messages need, look for garbage seldom, keep memory that was free for a moment.

    Messages in hand live long enough to be looked at again and again, for nothing: what is on the
    data path makes no cycles.
    """
    import_what_columns_need()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    _keep_memory()


def _keep_memory() -> None:
    """Give batches the memory of those before them, not new pages that the kernel has to clear.

    Each batch takes some megabytes for a moment; to hand them back and to get others took a fifth
    of a message's time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEEP)
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        allocate_with_process()
