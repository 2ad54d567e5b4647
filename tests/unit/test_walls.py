"""The walls stand: what a unit test must not touch raises, and its loops cost no time."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable

import pytest
import ray

from pipeline.testing.virtual_loop import VirtualLoop
from tests.walls import WallError


def connect() -> None:
    """Reach for the network, without waiting for it if the wall is down."""
    with socket.socket() as outgoing:
        outgoing.setblocking(False)
        outgoing.connect(("127.0.0.1", 9))


def bind() -> None:
    """Listen where others could connect."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))


@pytest.mark.spec("T1")
@pytest.mark.parametrize(
    "reach_outside",
    [
        lambda: ray.init(address="local"),
        lambda: time.sleep(0),
        lambda: threading.Thread(target=print).start(),
        connect,
        bind,
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=0.1),
        lambda: socket.getaddrinfo("localhost", 80),
    ],
    ids=["ray", "sleep", "thread", "connect", "bind", "create_connection", "getaddrinfo"],
)
def test_reaching_outside_raises(reach_outside: Callable[[], object]) -> None:
    """Each way out of a unit test is closed, and says what to do instead."""
    with pytest.raises(WallError, match="a unit test must not"):
        reach_outside()


@pytest.mark.spec("T1")
async def test_an_async_test_runs_on_a_virtual_loop() -> None:
    """An hour's sleep ends an hour later by the loop's clock, and at once by ours."""
    loop = asyncio.get_running_loop()
    before = loop.time()
    await asyncio.sleep(3600)
    assert isinstance(loop, VirtualLoop)
    assert loop.time() - before == pytest.approx(3600)


@pytest.mark.spec("T1")
def test_asyncio_run_makes_a_virtual_loop() -> None:
    """A test that is not async and runs a coroutine gets virtual time too."""

    async def nap() -> asyncio.AbstractEventLoop:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop()

    assert isinstance(asyncio.run(nap()), VirtualLoop)


@pytest.mark.spec("T1")
def test_sleeping_on_a_real_loop_raises() -> None:
    """A loop that was made by hand and would wait is refused when something sleeps on it."""
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        with pytest.raises(WallError, match="on a real loop"):
            runner.run(asyncio.sleep(0.001))
        runner.run(asyncio.sleep(0))
