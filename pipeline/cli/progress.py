"""What a run shows while it works: one live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from actors.runtime import Look

_PLAIN = 2.0
"""Seconds between two plain lines."""


class Progress:
    """Writes to standard error, so that standard output has the results alone."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._last: tuple[float, int] | None = None
        self._shown = 0.0
        self._width = 0

    def show(self, look: Look) -> None:
        """Show the figures, if it is time."""
        completed = look.total("receivers", "completed")
        if self._last is None:
            self._last = (look.at, completed)
            return
        since = look.at - self._last[0]
        if since <= 0 or (not self._live and look.at - self._shown < _PLAIN):
            return
        line = describe(look, (completed - self._last[1]) / since)
        self._last = (look.at, completed)
        self._shown = look.at
        if self._live:
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def end(self) -> None:
        """Leave the live line."""
        if self._live and self._width:
            sys.stderr.write("\n")
            self._width = 0


def describe(look: Look, rate: float) -> str:
    """The figures in one line."""
    depths: list[Any] = [figures.depth.available for figures in look.pipelines.values()]
    backlog = "?" if None in depths else f"{sum(depths):,}"
    return (
        f"{look.total('receivers', 'completed'):,} completed ({rate:,.0f}/s), "
        f"backlog {backlog}, in flight {look.total('receivers', 'in_hand'):,}, "
        f"failed {look.total('handlers', 'failed'):,}, "
        f"dead-lettered {look.total('receivers', 'dead_lettered'):,}"
    )
