"""Sessions when the service or the way to it fails: nothing is lost, and nothing overtakes."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pipeline.errors import (
    ConnectionFailed,
    MessageNotFound,
    PermissionDenied,
    QueueNotFound,
    SessionLockLost,
    Throttled,
    Timeout,
)
from pipeline.providers.azure.session import SessionReceipt
from tests.contract.azure.sessions_scene import Lane, Scene, bodies, scene, texts
from tests.servicebus.sdk import until


async def rest(lane: Lane, count: int) -> list[bytes]:
    """So many more messages, completed as they come; a session that was lost is opened again."""
    found: list[bytes] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            got = await lane.receive()
            failures = await lane.receiver.complete(got.receipts)
            found += [body for at, body in enumerate(bodies(got)) if at not in failures]
    return found


# --- the connection -------------------------------------------------------------------------------


async def drop(made: Scene) -> None:
    """TCP ends, without a word."""
    made.bus.drop()


async def detach(made: Scene) -> None:
    """The service ends the link."""
    made.bus.detach("q")


async def closed(made: Scene) -> None:
    """The service ends the connection."""
    made.bus.close_connections("amqp:connection:forced")


async def lost(made: Scene) -> None:
    """The lock ends."""
    made.queue.expire_session_locks()


@pytest.mark.spec("F3", "P13")
@pytest.mark.parametrize("happens", [drop, detach, closed, lost])
async def test_a_lost_session_is_accepted_again_in_order(
    monkeypatch: pytest.MonkeyPatch, happens: object
) -> None:
    """What was in hand is lost, and comes first in the next holding, which has a higher number."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(80))
        lane = made.lane()
        found, receipts = await lane.several(10, most=10)
        assert found == texts(range(10))
        assert await lane.receiver.complete(receipts[:3]) == {}
        first = lane.number("s")
        await happens(made)  # type: ignore[operator]
        await until(lambda: receipts[3].held.over)
        failures = await lane.receiver.complete(receipts)
        kinds = [type(failures[at]) for at in range(10)]
        assert kinds == [MessageNotFound] * 3 + [SessionLockLost] * 7
        renewed = await lane.receiver.renew_sessions([first])
        assert isinstance(renewed.failures[0], SessionLockLost)
        assert isinstance((await lane.receiver.release_sessions([first]))[0], SessionLockLost)
        assert await rest(lane, 77) == texts(range(3, 80))
        assert lane.number("s") > first


@pytest.mark.spec("F2", "F3")
@pytest.mark.parametrize("applied", [True, False])
async def test_a_connection_that_ends_in_a_settlement_leaves_it_unknown(
    monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    """Transient, and the session is lost: what was not completed comes again, in order."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(6))
        lane = made.lane()
        _, receipts = await lane.several(6)
        made.bus.faults.drop("update-disposition", applied=applied)
        failures = await lane.receiver.complete(receipts[:3])
        assert {type(error) for error in failures.values()} == {ConnectionFailed}
        again = await lane.receiver.complete(receipts)
        assert {type(error) for error in again.values()} == {SessionLockLost}
        first = 3 if applied else 0
        assert await rest(lane, 6 - first) == texts(range(first, 6))


@pytest.mark.spec("F2", "P6")
async def test_a_settlement_without_an_answer_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether it was done is unknown, so the session is given up: the rest comes again in order."""
    async with scene(monkeypatch, send=1.5) as made:
        await made.send("s", *range(6))
        lane = made.lane()
        _, receipts = await lane.several(6)
        made.bus.faults.swallow("update-disposition", applied=True)
        failures = await lane.receiver.complete(receipts[:2])
        assert {type(error) for error in failures.values()} == {Timeout}
        assert await rest(lane, 4) == texts(range(2, 6))


@pytest.mark.spec("P10")
async def test_a_busy_service_keeps_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Throttled`, and the same call works later."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(3))
        lane = made.lane()
        _, receipts = await lane.several(3)
        made.bus.faults.busy(1, "update-disposition")
        failures = await lane.receiver.complete(receipts)
        assert {type(error) for error in failures.values()} == {Throttled}
        made.bus.faults.busy(1, "renew-session-lock")
        renewed = await lane.receiver.renew_sessions(list(lane.held))
        assert isinstance(renewed.failures[0], Throttled)
        assert (await lane.receiver.renew_sessions(list(lane.held))).failures == {}
        assert await lane.receiver.complete(receipts) == {}


@pytest.mark.spec("F3")
async def test_locks_that_end_in_a_batch_split_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """One session's lock ends: what it had in the same call is lost, the others' is completed."""
    async with scene(monkeypatch) as made:
        for session in "ab":
            await made.send(session, f"{session}1", f"{session}2")
        lane = made.lane()
        found, receipts = await lane.several(4, new=2)
        [gone] = {one.held for one in receipts if one.held.session == "a"}
        made.queue._outlet._lose(made.queue._outlet._sessions["a"])
        await until(lambda: gone.over)
        failures = await lane.receiver.complete(receipts)
        lost_ones = {at for at, body in enumerate(found) if body.startswith(b"a")}
        assert set(failures) == lost_ones
        assert {type(error) for error in failures.values()} == {SessionLockLost}
        assert await rest(lane, 2) == [b"a1", b"a2"]


# --- accepts --------------------------------------------------------------------------------------


@pytest.mark.spec("P10", "P12")
async def test_accepts_that_fail_fail_the_receive(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the error of the table; when the service is well again, so is the receiver."""
    async with scene(monkeypatch) as made:
        await made.send("s", 1)
        lane = made.lane()
        faults = made.bus.faults
        for condition, kind in (
            ("amqp:unauthorized-access", PermissionDenied),
            ("amqp:not-found", QueueNotFound),
            ("com.microsoft:server-busy", Throttled),
        ):
            fault = faults.refuse("attach", condition, entity="q", times=None)
            with pytest.raises(kind):
                await lane.receive()
            faults.waiting.remove(fault)
        fault = faults.drop("attach", applied=False, entity="q", times=None)
        with pytest.raises(ConnectionFailed):
            await lane.receive()
        faults.waiting.remove(fault)
        assert await rest(lane, 1) == [b"1"]


@pytest.mark.spec("P12", "P6")
@pytest.mark.parametrize("silent", ["put-token", "attach"])
async def test_an_accept_without_an_answer_is_a_timeout(
    monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    """It is no empty queue; when the service answers again, so does the receiver."""
    async with scene(monkeypatch, connect=2.0) as made:
        await made.send("s", 1)
        lane = made.lane()
        fault = made.bus.faults.swallow(silent, times=None)
        with pytest.raises(Timeout):
            await lane.receive(wait=20.0)
        made.bus.faults.waiting.remove(fault)
        assert await rest(lane, 1) == [b"1"]


@pytest.mark.spec("P10", "P12", "R2")
@pytest.mark.parametrize("wait", [0.0, 0.4])
async def test_a_failure_is_told_until_an_accept_succeeds(
    monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    """Also by a receive that is too short to make one of its own: that is no empty queue."""
    async with scene(monkeypatch) as made:
        lane = made.lane()
        fault = made.bus.faults.drop("attach", applied=False, entity="q", times=None)
        for _ in range(8):
            with pytest.raises(ConnectionFailed):
                await lane.receive(wait=wait)
        made.bus.faults.waiting.remove(fault)
        with pytest.raises(ConnectionFailed):
            await lane.receive(wait=0.0)  # it makes no accept so soon after that
        await asyncio.sleep(1.0)
        assert bodies(await lane.receive(wait=wait)) == []
        await made.send("s", 1)
        assert await rest(lane, 1) == [b"1"]


@pytest.mark.spec("P12", "R2")
async def test_a_silent_service_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once an accept has timed out each receive says so, until one is answered: a breaker opens."""
    async with scene(monkeypatch, connect=1.0) as made:
        lane = made.lane()
        fault = made.bus.faults.swallow("attach", entity="q", times=None)
        with pytest.raises(Timeout):
            await lane.receive(wait=10.0)
        for _ in range(4):
            with pytest.raises(Timeout):
                await lane.receive(wait=0.5)
        made.bus.faults.waiting.remove(fault)
        await lane.receiver.release_sessions([(await lane.receiver.accept("t", 1.0)).number])
        assert bodies(await lane.receive(wait=0.0)) == []


@pytest.mark.spec("P12")
async def test_a_service_that_is_gone_is_connection_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens any more; held sessions end with it."""
    async with scene(monkeypatch) as made:
        await made.send("s", 1)
        lane = made.lane()
        got = await lane.receive()
        await made.bus.close()
        with pytest.raises(ConnectionFailed):
            await lane.receive()
        failures = await lane.receiver.complete(got.receipts)
        assert isinstance(failures[0], SessionLockLost)
        made.queue.expire_session_locks()


# --- order ----------------------------------------------------------------------------------------


@pytest.mark.spec("F3")
async def test_slow_and_torn_deliveries_come_whole_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In frames of 90 bytes that come one by one, every third message late."""
    async with scene(monkeypatch) as made:
        shape = made.bus.faults.shape
        shape.transfer_bytes, shape.split_transfers, shape.write_bytes = 90, 0.004, 37
        made.bus.faults.delay("deliver", 0.03, times=None, skip=2)
        for session in "ab":
            await made.send(session, *(f"{session}{number:02}" + "x" * 100 for number in range(20)))
        lane = made.lane()
        found: list[bytes] = []
        while len(found) < 40:
            got = await lane.receive(most=5, new=2, per_session=3)
            found += bodies(got)
            assert await lane.receiver.complete(got.receipts) == {}
        for session in "ab":
            mine = [body[:3].decode() for body in found if body.startswith(session.encode())]
            assert mine == [f"{session}{number:02}" for number in range(20)]


@pytest.mark.spec("F3")
async def test_a_message_that_comes_back_stops_its_session(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Put back at the service behind our back, below what is on its way: nothing overtakes it."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(60))
        lane = made.lane()
        _, receipts = await lane.several(10, most=10, per_session=10)
        made.queue.abandon(receipts[2].token.bytes, None, "s")
        found: list[bytes] = []
        more: list[SessionReceipt] = []
        with caplog.at_level(logging.WARNING):
            while "came behind" not in caplog.text:
                got = await lane.receive(new=0, wait=0.3)
                found, more = found + bodies(got), more + list(got.receipts)
        assert found == texts(range(10, 10 + len(found)))
        assert bodies(await lane.receive(new=0, wait=0.3)) == []
        failures = await lane.receiver.complete([*receipts, *more])
        assert list(failures) == [2]
        await until(lambda: receipts[0].held.over)
        assert (await rest(lane, 1))[0] == b"2"


@pytest.mark.spec("F3", "P14")
async def test_giving_back_again_and_again_keeps_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of each holding is completed; the next one begins with the first that was not."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(150))
        lanes = [made.lane(), made.lane()]
        done: list[bytes] = []
        for turn in range(8):
            lane = lanes[turn % 2]
            found, receipts = await lane.several(5)
            assert found == texts(range(len(done), len(done) + len(found)))
            keep = min(3 + turn, len(found))
            assert await lane.receiver.complete(receipts[:keep]) == {}
            done += found[:keep]
            assert await lane.receiver.release_sessions(list(lane.held)) == {}
            lane.held.clear()
        left = 150 - len(done)
        assert await rest(lanes[0], left) == texts(range(150 - left, 150))
