"""Progress on standard error: one live line on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import shutil
import threading
from collections import deque
from dataclasses import dataclass
from typing import Final, TextIO

_WINDOW: Final = 2.0
"""Seconds that a rate is measured over."""

_EVERY: Final = 2.0
"""Seconds between two plain lines."""

_UNCHANGED: Final = 10.0
"""Seconds between two plain lines that say the same."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a run is.

    Args:
        at: seconds since it began.
        done: messages settled for good.
        backlog: messages that wait in the queues; None where that isn't known.
        in_flight: messages received and not settled.
        failures: attempts that failed.
    """

    at: float
    done: int
    backlog: int | None
    in_flight: int
    failures: int


class LiveStream:
    """A terminal with a line at its end that is drawn anew, below whatever else is written.

    Stands in for `sys.stderr`, so that logs don't run into the line.

    Args:
        stream: the terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()  # Ray forwards what workers print from a thread of its own
        self._drawn = False
        self._at_start = True

    def write(self, text: str) -> int:
        """Write text in place of the line, which the next `draw` brings back."""
        with self._lock:
            self._clear()
            self._stream.write(text)
            self._at_start = text.endswith("\n") if text else self._at_start
            self._stream.flush()
        return len(text)

    def draw(self, line: str) -> None:
        """Show this line, cut to the terminal's width."""
        with self._lock:
            if self._at_start:
                width = shutil.get_terminal_size().columns
                self._clear()
                self._stream.write(line[: width - 1])
                self._stream.flush()
                self._drawn = True

    def end(self) -> None:
        """Take the line away."""
        with self._lock:
            self._clear()
            self._stream.flush()

    def flush(self) -> None:
        """Nothing is held back."""

    def isatty(self) -> bool:
        """It is one."""
        return True

    def fileno(self) -> int:
        """The terminal's."""
        return self._stream.fileno()

    def _clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._drawn = False


class Progress:
    """Says how far a run is.

    Args:
        name: the run's.
        stream: where to.
        live: draws the line on this terminal, if given, instead of writing lines.
    """

    def __init__(self, name: str, stream: TextIO, live: LiveStream | None = None) -> None:
        self._name = name
        self._stream = stream
        self._live = live
        self._moments: deque[Moment] = deque()
        self._told: Moment | None = None

    def show(self, moment: Moment) -> None:
        """The run is so far now."""
        moments = self._moments
        moments.append(moment)
        while len(moments) > 2 and moments[1].at <= moment.at - _WINDOW:
            moments.popleft()
        if self._live is not None:
            self._live.draw(self._line(moment))
        elif self._due(moment):
            self._told = moment
            self._stream.write(f"{self._line(moment)}\n")
            self._stream.flush()

    def _due(self, moment: Moment) -> bool:
        told = self._told
        if told is None:
            return moment.at >= _EVERY
        same = (moment.done, moment.backlog, moment.failures) == (
            told.done,
            told.backlog,
            told.failures,
        )
        return moment.at - told.at >= (_UNCHANGED if same else _EVERY)

    def _line(self, moment: Moment) -> str:
        first = self._moments[0]
        passed = moment.at - first.at
        rate = (moment.done - first.done) / passed if passed > 0 else 0.0
        backlog = "?" if moment.backlog is None else f"{moment.backlog:,}"
        return (
            f"{self._name} {moment.at:.0f} s: {moment.done:,} done, {rate:,.0f}/s, "
            f"backlog {backlog}, in flight {moment.in_flight:,}, failures {moment.failures:,}"
        )
