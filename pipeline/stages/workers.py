"""Where user code runs, and the two drivers that feed a stint's calls to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pipeline.errors import HandlerTimeout
from pipeline.handlers.api import Signals
from pipeline.handlers.run import Raised
from pipeline.stages.stints import STOPPED, Calls


class Hands(Protocol):
    """Where user code runs: never on the thread that answers the caller (DESIGN law 2)."""

    def on_thread(self, job: Callable[[], None]) -> None:
        """Run a job on a thread of the pool."""

    def spawn(self, job: Callable[[], None]) -> None:
        """Run a job, which starts tasks, on the loop that async handlers have for themselves."""

    async def on_user_loop(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run a coroutine on that loop and wait for it."""

    def notify(self, callback: Callable[[], None]) -> None:
        """From any thread: call back soon on the core's own loop."""


class InlineHands:
    """Everything on the one running loop: for tests and simulations, which have no threads."""

    def on_thread(self, job: Callable[[], None]) -> None:
        """Run it in the next pass of the loop."""
        asyncio.get_running_loop().call_soon(job)

    def spawn(self, job: Callable[[], None]) -> None:
        """Run it in the next pass of the loop."""
        asyncio.get_running_loop().call_soon(job)

    async def on_user_loop(self, work: Callable[[], Awaitable[Any]]) -> None:
        """Run it here."""
        await work()

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back at once."""
        callback()


def drive_sync(calls: Calls, function: Callable[..., Any]) -> None:
    """Make a stint's calls of a sync handler, on this thread."""
    try:
        arguments = next(calls)
        while True:
            try:
                result = function(*arguments)
            except BaseException as error:  # noqa: BLE001 - user code may raise anything
                result = Raised(error)
            arguments = calls.send(result)
    except StopIteration:
        return


async def drive_async(
    calls: Calls, function: Callable[..., Any], timeout: float, signals: Signals
) -> None:
    """Make a stint's calls of an async handler, on this loop."""
    try:
        arguments = next(calls)
        while True:
            arguments = calls.send(await _call(function, arguments, timeout, signals))
    except StopIteration:
        return


async def _call(
    function: Callable[..., Any], arguments: tuple[Any, ...], timeout: float, signals: Signals
) -> Any:
    try:
        async with asyncio.timeout(timeout) as limit:
            return await function(*arguments)
    except asyncio.CancelledError as error:
        return STOPPED if signals.stopping else Raised(error)
    except BaseException as error:  # noqa: BLE001 - user code may raise anything
        if limit.expired() and isinstance(error, TimeoutError):
            late = HandlerTimeout(f"the handler ran longer than {timeout} s")
            late.__cause__ = error
            return Raised(late)
        return Raised(error)
