"""What every actor does to its own process before it begins."""

from __future__ import annotations

import gc


def tune() -> None:
    """Let the garbage collector look seldom, and never at what the imports made.

    Messages in hand live long enough to be looked at again and again, for nothing: what is on the
    data path makes no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
