"""What a bad line to the service does: the error, its time-out, how often it was tried."""

from __future__ import annotations

import pickle
from collections.abc import Awaitable, Callable

import pytest

from pipeline.errors import (
    ConnectionFailed,
    Throttled,
    Timeout,
)
from pipeline.message import Message
from tests.contract.memory.line import REFUSE, SILENCE, Throttle
from tests.contract.memory.scene import ORDERED, Make, Scene, failure, now, scene, settling


async def sending(at: Scene) -> Callable[[], Awaitable[object]]:
    return lambda: at.client.send("q", Message(b"x", session="s"))


async def receiving(at: Scene) -> Callable[[], Awaitable[object]]:
    return lambda: at.client.receive("q", wait=0)


async def accepting(at: Scene) -> Callable[[], Awaitable[object]]:
    return lambda: at.client.accept_session("q", "t", wait=0)


async def asking_depth(at: Scene) -> Callable[[], Awaitable[object]]:
    return lambda: at.client.depth("q")


async def peeking(at: Scene) -> Callable[[], Awaitable[object]]:
    return lambda: at.client.peek("q")


def holding(method: str, *args: object) -> Make:
    async def make(at: Scene) -> Callable[[], Awaitable[object]]:
        held = await at.client.accept_session("q", "s")
        return lambda: getattr(held, method)(*args)  # type: ignore[no-any-return]

    return make


OPERATIONS: dict[str, tuple[Make, float]] = {
    # the broker's method: how it is called, and after how many seconds it is a time-out
    "send": (sending, 10),
    "receive": (receiving, 30),
    "accept": (accepting, 30),
    "open_lane": (receiving, 10),
    "depth": (asking_depth, 10),
    "peek": (peeking, 10),
    "complete": (settling("complete"), 10),
    "abandon": (settling("abandon"), 10),
    "release": (settling("release"), 10),
    "dead_letter": (settling("dead_letter"), 10),
    "defer": (settling("defer"), 10),
    "renew_sessions": (settling("renew"), 10),
    "session_state": (holding("state"), 10),
    "set_session_state": (holding("set_state", b"x"), 10),
}


@pytest.mark.spec("P12", "R1", "P10")
@pytest.mark.parametrize("method", OPERATIONS)
async def test_a_refused_connection_is_tried_three_times(method: str) -> None:
    """Then it is `ConnectionFailed`, with the cause, and a note of how often it was tried."""
    make, _ = OPERATIONS[method]
    async with scene(**ORDERED) as at:
        call = await make(at)
        at.line.calls.clear()
        at.line.plan(method, REFUSE, REFUSE, REFUSE)
        error, seconds = await failure(call())
        assert type(error) is ConnectionFailed
        assert error.transient
        assert at.line.calls[method] == 3
        assert 0 < seconds <= 1 + 2, "two pauses with full jitter"
        assert any("tried 3 times" in note for note in error.__notes__)
        causes = (("ConnectionRefusedError", "[Errno 111] Connection refused; password=***"),)
        assert error.causes == causes
        assert pickle.loads(pickle.dumps(error)).causes == causes


@pytest.mark.spec("P12", "R1")
@pytest.mark.parametrize("method", OPERATIONS)
async def test_a_connection_that_comes_back_is_noticed_by_nobody(method: str) -> None:
    """Two refusals, and the third attempt works."""
    make, _ = OPERATIONS[method]
    async with scene(**ORDERED) as at:
        call = await make(at)
        at.line.calls.clear()
        at.line.plan(method, REFUSE, REFUSE)
        await call()
        assert at.line.calls[method] == 3


@pytest.mark.spec("P12", "P2", "P6", "R1")
@pytest.mark.parametrize("method", OPERATIONS)
async def test_an_answer_that_never_comes_is_a_time_out(method: str) -> None:
    """After the configured seconds, three times."""
    make, limit = OPERATIONS[method]
    async with scene(visibility=3600.0, **ORDERED) as at:
        call = await make(at)
        at.line.calls.clear()
        at.line.plan(method, SILENCE, SILENCE, SILENCE)
        error, seconds = await failure(call())
        assert type(error) is Timeout
        assert error.transient
        assert at.line.calls[method] == 3
        assert 3 * limit < seconds <= 3 * limit + 1 + 2


@pytest.mark.spec("P12", "R1")
@pytest.mark.parametrize("method", OPERATIONS)
async def test_throttling_is_waited_for_as_long_as_it_asks(method: str) -> None:
    """`retry_after` is the least pause, however small the jitter's."""
    make, _ = OPERATIONS[method]
    async with scene(**ORDERED) as at:
        call = await make(at)
        start = now()
        at.line.calls.clear()
        at.line.plan(method, Throttle(7.0), Throttle(None))
        await call()
        assert at.line.calls[method] == 3
        assert 7.0 <= now() - start <= 7.0 + 2


@pytest.mark.spec("P12", "R1")
async def test_a_throttling_beyond_our_patience_is_the_callers() -> None:
    """Asked to wait longer than the policy's maximum, it fails at once and says for how long."""
    async with scene(**ORDERED) as at:
        at.line.plan("send", Throttle(120.0))
        error, seconds = await failure(at.client.send("q", Message(b"x", session="s")))
        assert type(error) is Throttled
        assert (error.retry_after, seconds) == (120.0, 0)
