"""What every actor does to its own process before it begins."""

from __future__ import annotations

import gc


def tune() -> None:
    """Let the garbage collector look seldom, and never at what the imports made.

    Messages in hand live long enough to be looked at again and again: with the defaults the
    collector costs a tenth to a quarter of the time. Nothing on the data path makes cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
