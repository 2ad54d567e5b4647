"""What every object of the provider checks before a call: still open, and on its own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from pipeline.errors import Closed, Timeout, ValidationError

T = TypeVar("T")


class Guard:
    """Lets calls through while the object is open, on the event loop it belongs to.

    Args:
        what: the object, as errors call it.
        timeout: seconds that a call may take which waits for nothing but its answer.
    """

    def __init__(self, what: str, timeout: float) -> None:
        self.closed = False
        self._what = what
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Belong to the running loop."""
        self._loop = asyncio.get_running_loop()

    def check(self) -> asyncio.AbstractEventLoop:
        """The loop, or the reason why this call can't be made."""
        if self.closed:
            raise Closed(f"{self._what} was closed: make a new one")
        if self._loop is None:
            raise ValidationError(self._what, "must be started before it is used: await start()")
        self._check_loop()
        return self._loop

    def close(self) -> None:
        """Let no more calls through."""
        if self._loop is not None:
            self._check_loop()
        self.closed = True

    def _check_loop(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise ValidationError(
                self._what,
                "belongs to the event loop that started it: call it there "
                "(asyncio.run_coroutine_threadsafe from another thread), or make one in this loop",
                "a call from another loop",
            )

    async def bounded(self, call: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """What the call answers, or `Timeout`."""
        limit = self._timeout if seconds is None else seconds
        try:
            async with asyncio.timeout(limit):
                return await call
        except TimeoutError as error:
            raise Timeout(
                f"{self._what}: no answer within {limit} s; whether it was done is unknown"
            ) from error
