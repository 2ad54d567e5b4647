"""SIGTERM and SIGINT while a run is on: the first drains, the second ends the process at once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, Self

LEFT: Final = 3
"""The exit code when something had to be left to lock expiry (SPEC F6)."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal came before there was anything to drain."""


class Signals:
    """Takes both signals over for the length of a `with`, in the main thread.

    Not `loop.add_signal_handler`: that waits for the loop, which `ray.init` and a job's own code
    may keep busy, and a second signal must end even a process that hangs.

    `last`, if set, is called before the second signal ends the process; it must not block.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.last: Callable[[], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._came = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self.install()
        return self

    def __exit__(self, *ended: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For `ray.init`, which takes SIGTERM: afterwards it is ours again.

        Ray's handler raises SystemExit, which gets lost where it meets a callback of the
        interpreter; that a signal came is told by the interpreter all the same.

        Raises:
            Stopped: SIGTERM came.
        """
        read, write = os.pipe()
        for end in (read, write):
            os.set_blocking(end, False)
        wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        hook = sys.unraisablehook
        sys.unraisablehook = lambda lost: None if lost.exc_type is SystemExit else hook(lost)
        try:
            yield
        except SystemExit as error:
            self._came = True
            raise Stopped from error
        finally:
            sys.unraisablehook = hook
            signal.set_wakeup_fd(wakeup)
            self.install()
            os.write(write, b"\0")
            came = os.read(read, 4096)
            os.close(read)
            os.close(write)
        if signal.SIGTERM in came:
            self._came = True
            raise Stopped

    def install(self) -> None:
        """Take them over."""
        for number in _SIGNALS:
            signal.signal(number, self._on)

    def tell(self, loop: asyncio.AbstractEventLoop) -> None:
        """From now on the first signal sets `stop` on this loop, instead of raising `Stopped`."""
        self._loop = loop

    def _on(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - Python's call
        if self._came:
            os.write(2, b"\nqueue-runtime: a second signal: stopped at once\n")
            if self.last is not None:
                self.last()
            os._exit(LEFT)
        self._came = True
        if self._loop is None:
            raise Stopped
        self._loop.call_soon_threadsafe(self.stop.set)
