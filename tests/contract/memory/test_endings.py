"""Starting, giving back, cancelling and closing over a bad line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SeededClock
from pipeline.config import parse
from pipeline.errors import (
    ConnectionFailed,
    MessageLockLost,
    SessionLockLost,
    SessionNotFound,
)
from pipeline.message import Message
from pipeline.providers.memory import MemoryBroker
from tests.contract.memory.line import REFUSE, SILENCE, Late, Line, Throttle
from tests.contract.memory.scene import GROUPS, ORDERED, failure, now, scene


@pytest.mark.spec("P12", "P2")
async def test_a_start_that_fails_can_be_repeated() -> None:
    """The error is the connection's; nothing is half open afterwards."""
    config = parse(
        {
            "name": "failures",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"q": {"connection": "main"}},
        }
    )
    clock = SeededClock(now)
    line = Line(MemoryBroker(config.queues, clock))
    client = QueueClient(config, brokers={"main": line}, clock=clock)
    line.plan("source", REFUSE, REFUSE, REFUSE)
    error, _ = await failure(client.start())
    assert type(error) is ConnectionFailed
    assert line.calls["source"] == 3
    await client.start()
    assert await client.receive("q", wait=0) == []
    await client.close()


@pytest.mark.spec("P12", "P14", "P10")
async def test_a_session_that_could_not_be_given_back_runs_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The message is settled, so its settling worked; the session is free when its lock ends."""
    async with scene(**ORDERED) as at:
        await at.send(b"1", b"2")
        [first] = await at.client.receive("q")
        at.line.plan("release_sessions", REFUSE, REFUSE, REFUSE)
        with caplog.at_level(logging.WARNING):
            assert await at.client.complete(first) == {}
        assert "was not given back" in caplog.text
        assert await at.other.receive("q", wait=5) == []
        [second] = await at.other.receive("q", wait=100)
        await at.other.complete(second)


@pytest.mark.spec("P12", "P10")
async def test_a_held_session_that_could_not_be_given_back_says_so() -> None:
    """`release` raises, and the session is free when its lock ends; a repeat is nothing."""
    async with scene(**ORDERED) as at:
        held = await at.client.accept_session("q", "s")
        at.line.plan("release_sessions", REFUSE, REFUSE, REFUSE)
        error, _ = await failure(held.release())
        assert type(error) is ConnectionFailed
        await held.release()
        async with await at.other.accept_session("q", "s", wait=100):
            pass


@pytest.mark.spec("P12", "P13")
@pytest.mark.parametrize("call", ["renew", "state", "receive", "renew a message"])
async def test_a_session_that_the_service_says_is_lost_is_lost(call: str) -> None:
    """Even if our clock still gives it time, because the answer was late; no call is made then."""
    async with scene(**ORDERED) as at:
        await at.send(b"1", b"2")
        at.line.plan("accept", Late(20))
        held = await at.client.accept_session("q", "s")  # ours until 80, the service's until 60
        [delivery] = await held.receive()
        await asyncio.sleep(45)
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "renew": held.renew,
            "state": held.state,
            "receive": lambda: held.receive(wait=0),
            "renew a message": lambda: at.client.renew(delivery),
        }
        if call == "receive":
            at.line.plan("receive", SessionLockLost("the service knows it"))
        error, _ = await failure(calls[call]())
        assert type(error) is SessionLockLost
        at.line.calls.clear()
        error, _ = await failure(held.complete(delivery))
        assert type(error) is MessageLockLost
        error, _ = await failure(held.set_state(b"x"))
        assert type(error) is SessionLockLost
        await held.release()
        assert set(at.line.calls) == {"close_lane"}


@pytest.mark.spec("P12", "P13", "P14")
@pytest.mark.parametrize("call", ["complete", "renew"])
async def test_a_message_that_the_service_says_is_lost_is_lost(call: str) -> None:
    """The same for a message's own lock."""
    async with scene(**GROUPS) as at:
        await at.send(b"1")
        at.line.plan("receive", Late(20))
        [delivery] = await at.client.receive("q")
        await asyncio.sleep(45)
        error, _ = await failure(getattr(at.client, call)(delivery))
        assert type(error) is MessageLockLost
        at.line.calls.clear()
        error, _ = await failure(at.client.complete(delivery))
        assert type(error) is MessageLockLost
        assert at.line.calls.total() == 0


@pytest.mark.spec("P12", "P14")
async def test_giving_back_a_session_that_the_service_says_is_lost_is_nothing() -> None:
    """It is given back already."""
    async with scene(**ORDERED) as at:
        at.line.plan("accept", Late(20))
        held = await at.client.accept_session("q", "s")
        await asyncio.sleep(45)
        await held.release()
        assert at.line.calls["release_sessions"] == 1


@pytest.mark.spec("P10", "P12")
async def test_what_cannot_be_finished_behind_a_cancelled_caller_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At ERROR: nobody else would hear of it."""
    async with scene(**ORDERED) as at:
        held = await at.client.accept_session("q", "s")
        at.line.plan("release_sessions", Throttle(5.0), REFUSE, REFUSE)
        releasing = asyncio.create_task(held.release())
        await asyncio.sleep(1)
        releasing.cancel()
        await asyncio.wait([releasing])
        await asyncio.sleep(30)
        [record] = [one for one in caplog.records if one.levelno == logging.ERROR]
        assert "could not finish" in record.getMessage()


@pytest.mark.spec("P2", "R1")
async def test_a_cancelled_call_does_not_sit_out_its_pause() -> None:
    """Cancelled between two attempts, it ends there."""
    async with scene(**ORDERED) as at:
        at.line.plan("send", Throttle(20.0))
        sending = asyncio.create_task(at.client.send("q", Message(b"x", session="s")))
        await asyncio.sleep(1)
        start = now()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert now() == start
        assert at.line.calls["send"] == 1
        assert await at.bodies() == []


@pytest.mark.spec("P2", "P12")
async def test_a_cancelled_caller_still_gives_its_session_back() -> None:
    """Settled, and cancelled while the session was given back: that is finished behind it."""
    async with scene(visibility=3600.0, **ORDERED) as at:
        await at.send(b"1", b"2")
        [first] = await at.client.receive("q")
        at.line.plan("release_sessions", Throttle(5.0))
        settling = asyncio.create_task(at.client.complete(first))
        await asyncio.sleep(1)
        settling.cancel()
        await asyncio.wait([settling])
        [second] = await at.other.receive("q", wait=10)
        await at.other.complete(second)


@pytest.mark.spec("P2", "P12")
async def test_closing_waits_for_what_a_cancelled_caller_left() -> None:
    """Then everything is given back."""
    async with scene(visibility=3600.0, **ORDERED) as at:
        await at.send(b"1", b"2")
        [first] = await at.client.receive("q")
        at.line.plan("release_sessions", Throttle(5.0))
        settling = asyncio.create_task(at.client.complete(first))
        await asyncio.sleep(1)
        settling.cancel()
        await at.client.close()
        [second] = await at.other.receive("q", wait=0)
        await at.other.complete(second)


@pytest.mark.spec("P2", "P12")
async def test_closing_ends_though_the_service_is_silent() -> None:
    """After the time-out of the call that closes a lane."""
    async with scene(**GROUPS) as at:
        await at.send(b"1")
        await at.client.receive("q")
        at.line.plan("close_lane", SILENCE)
        start = now()
        await at.client.close()
        assert now() - start <= 10
        [again] = await at.other.receive("q", wait=100)
        await at.other.complete(again)


@pytest.mark.spec("P2", "F5")
async def test_an_accept_that_brings_nothing_leaves_nothing_open() -> None:
    """Nor does a session that was given back: each closes the lane that was opened for it."""
    async with scene(**ORDERED) as at:
        for _ in range(3):
            error, _ = await failure(at.client.accept_session("q", wait=1))
            assert type(error) is SessionNotFound
            async with await at.client.accept_session("q", "s"):
                pass
        await asyncio.sleep(1)
        assert at.line.calls["open_lane"] == at.line.calls["close_lane"] == 6


@pytest.mark.spec("P2", "P14")
async def test_a_cancelled_receive_ends_at_the_broker_too() -> None:
    """It takes nothing to give back: a message that comes later is received, and counted, once."""
    async with scene(sessions="none", count="on_receive") as at:
        receiving = asyncio.create_task(at.client.receive("q", wait=30))
        await asyncio.sleep(1)
        receiving.cancel()
        await asyncio.sleep(1)
        await at.other.send("q", Message(b"1"))
        [delivery] = await at.other.receive("q")
        assert delivery.delivery_count == 1
        assert (await at.line.broker.counters("q")).received == 1
        await at.other.complete(delivery)
