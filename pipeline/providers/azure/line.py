"""One sender or receiver of the SDK on a connection of its own: one call at a time, none cut off.

The SDK's objects bear no second call at once, and a call of theirs that is cancelled may leave half
a frame on the wire. So each call runs in a task of its own, to its end, whatever becomes of who
asked for it; what it brings when nobody waits any more is given to `late`. After an error that may
have left the connection in a state nobody knows, the object is thrown away, and the next call makes
a new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pipeline.errors import (
    Closed,
    MessageLockLost,
    MessageNotFound,
    QueueFull,
    SessionLockLost,
    Throttled,
    Timeout,
)
from pipeline.providers.azure import chatter
from pipeline.providers.azure.errors import PROVIDER, from_exception

T = TypeVar("T")

_log = logging.getLogger("queue_runtime.servicebus")
_HARMLESS = (MessageLockLost, MessageNotFound, QueueFull, Throttled)
"""Refusals after which the connection is as good as before."""
_LEAVE = 5.0
"""Seconds that a goodbye may take."""
_STEP = 0.01
"""Seconds after which it is looked at again how far a connection has come."""


class Line:
    """Makes, calls and closes one object of the SDK (`handler`), and makes a new one after a loss.

    Args:
        make: makes the object; it connects nowhere.
        what: it, as errors call it.
        connect: seconds to connect.
        once: whether a lost one is not made anew: it was a session, and calls are then
            `SessionLockLost`.
    """

    def __init__(
        self, make: Callable[[], Any], what: str, connect: float, *, once: bool = False
    ) -> None:
        self._make = make
        self._what = what
        self._connect = connect
        self._once = once
        self._made = 0
        self._task: asyncio.Task[Any] | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._opening: Any = None
        self._connections: list[Any] = []
        self.closed = False
        self.handler: Any = None
        """The SDK's object, connected; None: there is none at the moment."""

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self._task is not None and not self._task.done()

    @property
    def lost(self) -> bool:
        """Whether it had an object and has it no more; with `once` for good."""
        return self._made > 0 and self.handler is None

    async def open(self) -> Any:
        """Connect, unless it is; returns the SDK's object.

        Raises:
            QueueError: it could not; with a session see `Sdk.receiver`.
        """
        return await self.do("connect", _itself, 0.0)

    async def do(
        self,
        action: str,
        call: Callable[[Any], Awaitable[T]],
        seconds: float,
        late: Callable[[T], object] | None = None,
    ) -> T:
        """Call the SDK's object, after the calls before this one.

        Args:
            action: what is done, for errors.
            call: makes the call, given the object.
            seconds: to wait for its answer; then `Timeout`, and the object is thrown away.
            late: takes what the call brings when nobody waits for it any more, because the wait was
                over or cancelled.

        Raises:
            QueueError: what the SDK raised, translated; `Closed` after `close`.
        """
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        if self.closed:
            raise Closed(f"the {self._what} was closed")
        task = asyncio.get_running_loop().create_task(self._run(action, call))
        self._task = task
        limit = seconds if self.handler is not None else seconds + self._connect
        try:
            done, _ = await asyncio.wait([task], timeout=limit)
        except asyncio.CancelledError:
            _to(task, late)
            raise
        if done:
            return task.result()
        _to(task, late)
        self._forget()
        self._task = None  # the next call does not wait for this one: it makes a new object
        raise Timeout(
            f"{PROVIDER}: {self._what}: {action}: no answer within {limit:g} s; whether it was "
            "done is unknown"
        )

    async def _run(self, action: str, call: Callable[[Any], Awaitable[T]]) -> T:
        chatter.claim()
        what = f"{self._what}: {action}"
        handler = self.handler
        try:
            if handler is None:
                handler = await self._opened()
            return await call(handler)
        except Exception as error:  # whatever an SDK raises is translated
            told = from_exception(what, error)
            if self.handler is handler and handler is not None and not isinstance(told, _HARMLESS):
                self._forget()
            if told is error:
                raise
            raise told from error

    async def _opened(self) -> Any:
        if self._once and self._made:
            raise SessionLockLost(f"{PROVIDER}: the {self._what}: its connection is gone")
        handler = self._opening = self._make()
        self._connections = _noted(handler)
        self._made += 1
        try:
            await handler.__aenter__()
        except BaseException:
            self._leave(handler, None)
            raise
        if self.closed or self._task is not asyncio.current_task():
            self._leave(handler, None)
            raise Closed(f"the {self._what} was closed, or given up, while it connected")
        self.handler = handler
        return handler

    # --- letting go -------------------------------------------------------------------------------

    def _forget(self) -> None:
        """Throw the object away; a call of it that is under way may end first."""
        handler, self.handler = self.handler, None
        if handler is not None:
            current = self._task if self._task is not asyncio.current_task() else None
            self._leave(handler, current)

    def _leave(self, handler: Any, after: asyncio.Task[Any] | None) -> None:
        loop = asyncio.get_running_loop()
        leaving = loop.create_task(self._goodbye(handler, self._connections, after))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)

    async def _goodbye(
        self, handler: Any, connections: list[Any], after: asyncio.Task[Any] | None
    ) -> None:
        chatter.claim()
        if after is not None:
            await asyncio.wait([after], timeout=_LEAVE)
        try:
            async with asyncio.timeout(_LEAVE):
                await handler.close()
        except Exception as error:  # noqa: BLE001 - it is gone either way
            _log.debug("closing the %s: %r", self._what, error)
        for wire in _wires_of(connections):
            await _hang_up(wire)

    async def withdraw(self) -> None:
        """Close; an accept that waits for its session is ended now, not when the service tells.

        The one call that is cancelled, once it has asked and writes nothing more: the SDK then
        closes what it has opened. Before that it can't be granted anything.
        """
        task, self.closed = self._task, True
        loop = asyncio.get_running_loop()
        end = loop.time() + _LEAVE
        while self.handler is None and task is not None and not task.done():
            if loop.time() >= end or _has_asked(self._opening):
                task.cancel()
            await asyncio.wait([task], timeout=_STEP)
        await self.close()

    async def close(self) -> None:
        """Let the call under way end, and close; any number of times."""
        self.closed = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=_LEAVE)
        self._forget()
        while self._leaving:
            await asyncio.wait(list(self._leaving))


def _has_asked(opening: Any) -> bool:
    """Whether an object that connects has its link, or waits for it."""
    return getattr(getattr(opening, "_handler", None), "_link", None) is not None


async def _itself(handler: Any) -> Any:
    return handler


def _noted(handler: Any) -> list[Any]:
    """The connections of an object, as it makes them: it forgets those that fail.

    They are looked at for their sockets alone, which the SDK leaves open where it could not connect
    and where the connection broke.
    """
    connections: list[Any] = []
    inner = getattr(handler, "_handler", None)
    owner: Any = handler if hasattr(handler, "_create_handler") else inner
    create = getattr(owner, "_create_handler", None)
    if create is not None:

        def noting(auth: Any) -> None:
            create(auth)
            _note(owner._handler, connections)  # noqa: SLF001 - what it has just made

        owner._create_handler = noting  # noqa: SLF001
    return connections


def _note(client: Any, connections: list[Any]) -> None:
    """Note a client's connection when it has been opened, or could not be."""
    open_it = getattr(client, "open_async", None)
    if open_it is None:
        return

    async def opening(*given: Any, **named: Any) -> Any:
        try:
            return await open_it(*given, **named)
        finally:
            connections.append(getattr(client, "_connection", None))

    client.open_async = opening


def _wires_of(connections: list[Any]) -> list[Any]:
    """What holds their sockets."""
    wires = [getattr(connection, "_transport", None) for connection in connections]
    return [wire for wire in wires if wire is not None]


async def _hang_up(wire: Any) -> None:
    """Close a socket."""
    # A WebSocket that never came about has a session of aiohttp's, and no socket to close first.
    for open_still in (wire, getattr(wire, "session", None)):
        if open_still is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_LEAVE):
                    await open_still.close()


def _to(task: asyncio.Task[T], late: Callable[[T], object] | None) -> None:
    """Give what a call brings, when it ends, to who takes it."""

    def ended(task: asyncio.Task[T]) -> None:
        if task.cancelled() or task.exception() is not None or late is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop may be closing
            late(task.result())

    task.add_done_callback(ended)
