"""The walls around unit tests and the simulation, and the virtual loop that makes them bearable.

A directory is walled when its conftest imports `walls` and `pytest_asyncio_loop_factories` from
here. Inside, Ray, threads, sleeping and the network raise, and every event loop is a VirtualLoop:
those of `async def` tests and fixtures, and those that `asyncio.run` makes in tests that are not
async. A test that needs a real one of these belongs in tests/contract, tests/cli or tests/cluster.
"""

from __future__ import annotations

import asyncio
import importlib.util
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

import pytest


class WallError(BaseException):
    """A walled test reached outside.

    Not an Exception: code that survives any failure, as much of ours must, would otherwise survive
    this one too and the test would pass.
    """


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook: which event loops the `async def` tests of a directory run on."""
    return {"virtual": virtual_loop}


def virtual_loop() -> asyncio.AbstractEventLoop:
    """A new VirtualLoop.

    Imported here and not above: `pipeline.testing` brings in most of the library, and a test of one
    module without a loop should run whatever state the others are in.
    """
    from pipeline.testing.virtual_loop import VirtualLoop

    return VirtualLoop()


@pytest.fixture(autouse=True)
def walls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Ray, threads, sleeping and the network raise for the length of a test."""
    if importlib.util.find_spec("ray"):
        monkeypatch.setattr("ray.init", _refusal("start Ray", "use tests/cluster"))
    monkeypatch.setattr(time, "sleep", _refusal("sleep", "await asyncio.sleep, virtual here"))
    monkeypatch.setattr(asyncio, "sleep", _virtual_sleep)
    # What asyncio.run and asyncio.Runner call when they are given no factory.
    monkeypatch.setattr(asyncio.events, "new_event_loop", virtual_loop)
    monkeypatch.setattr(asyncio, "new_event_loop", virtual_loop)
    monkeypatch.setattr(
        threading.Thread,
        "start",
        _refusal("start a thread", "pass an executor that runs in place, or use tests/contract"),
    )
    for name in ("connect", "connect_ex", "bind"):
        monkeypatch.setattr(socket.socket, name, _local_only(name))
    for name in ("create_connection", "create_server", "getaddrinfo"):
        monkeypatch.setattr(socket, name, _refusal(f"call socket.{name}", _NO_NETWORK))


_NO_NETWORK = "the memory broker needs no network; real sockets belong in tests/contract"
_real_sleep = asyncio.sleep


def _refusal(what: str, instead: str) -> Callable[..., NoReturn]:
    def refuse(*args: object, **kwargs: object) -> NoReturn:
        raise WallError(f"a unit test must not {what}: {instead}")

    return refuse


def _local_only(name: str) -> Callable[..., Any]:
    """The socket's own method for Unix sockets, which stay on the machine; a refusal for others."""
    real = getattr(socket.socket, name)

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX:
            raise WallError(f"a unit test must not {name} a socket to {address!r}: {_NO_NETWORK}")
        return real(self, address)

    return guarded


async def _virtual_sleep(delay: float, result: Any = None) -> Any:
    from pipeline.testing.virtual_loop import VirtualLoop

    if delay > 0 and not isinstance(asyncio.get_running_loop(), VirtualLoop):
        raise WallError(f"a unit test must not sleep {delay} s on a real loop: use VirtualLoop")
    return await _real_sleep(delay, result)
