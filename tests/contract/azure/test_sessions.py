"""Sessions of one receiver: how they are come by, what they bring, and how they are given back."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import (
    Closed,
    MessageNotFound,
    SessionLocked,
    SessionLockLost,
    SessionNotFound,
    Unsupported,
)
from pipeline.providers.port import DeadLetter
from tests.contract.azure.sessions_scene import SOON, bodies, scene, texts
from tests.servicebus.sdk import until


@pytest.mark.spec("F3", "P2")
async def test_a_receive_opens_sessions_and_brings_them_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many as were asked for, side by side; each with its messages, ascending."""
    async with scene(monkeypatch) as made:
        for number in range(6):
            for session in "abc":
                await made.send(session, f"{session}{number}")
        lane = made.lane()
        found, receipts = await lane.several(18, new=3)
        for session in "abc":
            mine = [body for body in found if body.startswith(session.encode())]
            assert mine == [f"{session}{number}".encode() for number in range(6)]
        assert sorted(lane.held.values()) == ["a", "b", "c"]
        assert len({receipt.held.number for receipt in receipts}) == 3
        assert await lane.receiver.complete(receipts) == {}
        assert made.counted() == (0, 0)


@pytest.mark.spec("F5")
async def test_a_session_brings_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a session that was not named nothing comes; `per_session` bounds a new one."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(20))
        lane = made.lane()
        got = await lane.receive(per_session=3)
        found = bodies(got)
        while len(found) < 3:
            found += bodies(await lane.receive(held={lane.number("s"): 3 - len(found)}))
        assert found == texts(range(3))
        assert bodies(await lane.receive(new=0, held={}, wait=0.5)) == []
        assert bodies(await lane.receive(new=0, held={lane.number("s"): 0}, wait=0.5)) == []
        found, _ = await lane.several(17)
        assert found == texts(range(3, 20))


@pytest.mark.spec("P14", "F3")
async def test_a_session_that_is_given_back_comes_again_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All that was in hand or on its way, uncounted, to whoever accepts it next; at once."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(100))
        lane = made.lane()
        _, receipts = await lane.several(10, most=10)
        assert await lane.receiver.complete(receipts[:4]) == {}
        first = lane.number("s")
        assert await lane.receiver.release_sessions([first]) == {}
        assert made.counted() == (96, 0)
        lane.held.clear()
        failures = await lane.receiver.complete(receipts[4:5])
        assert isinstance(failures[0], MessageNotFound)
        other = made.lane()
        got = await other.receive()
        assert got.batch.values("delivery_count")[0] == 1
        assert got.opened[0].number > first
        rest = bodies(got)
        rest += (await other.several(96 - len(rest)))[0]
        assert rest == texts(range(4, 100))
        again = await lane.receiver.release_sessions([first])
        assert isinstance(again[0], SessionNotFound)


@pytest.mark.spec("P14", "F3")
@pytest.mark.parametrize("ending", ["abandon", "release"])
async def test_what_is_given_back_alone_is_not_overtaken(
    monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """No more comes of its session, which stays held; given back, it comes first."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(5))
        lane = made.lane()
        _, [first, second] = await lane.several(2, most=2, per_session=2)
        assert await getattr(lane.receiver, ending)([first]) == {}
        assert bodies(await lane.receive(new=0, wait=1)) == []
        assert await lane.receiver.complete([second]) == {}
        failures = await lane.receiver.complete([first])
        assert isinstance(failures[0], MessageNotFound)
        number = lane.number("s")
        await lane.receiver.set_session_state(number, b"kept")
        assert await lane.receiver.session_state(number) == b"kept"
        await lane.receiver.release_sessions([number])
        lane.held.clear()
        got = await lane.receive()
        counts = got.batch.values("delivery_count")
        assert counts[0] == (2 if ending == "abandon" else 1)
        found = bodies(got)
        found += (await lane.several(4 - len(found)))[0]
        assert found == texts([0, 2, 3, 4])


@pytest.mark.spec("P2", "P3")
async def test_each_message_is_settled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeat is `MessageNotFound` without a call; many calls at once share requests."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(40))
        lane = made.lane()
        _, receipts = await lane.several(40)
        calls = [lane.receiver.complete([receipt]) for receipt in receipts[:30]]
        assert await asyncio.gather(*calls) == [{}] * 30
        reasons = [DeadLetter("rejected", "no")] * 4 + [DeadLetter("expired", "old")]
        assert await lane.receiver.dead_letter(receipts[30:35], reasons) == {}
        failures = await lane.receiver.complete(receipts)
        assert {at: type(error) for at, error in failures.items()} == dict.fromkeys(
            range(35), MessageNotFound
        )
        assert made.counted() == (0, 0)
        assert made.queue.counts().dead_lettered == 5


@pytest.mark.spec("P2")
async def test_what_is_set_aside_comes_by_its_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its session only; given back it is aside again."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(3))
        lane = made.lane()
        got = await lane.receive(1, per_session=1)
        [sequence] = got.batch.values("sequence")
        assert await lane.receiver.defer(got.receipts) == {}
        back = await lane.receiver.receive_deferred([sequence])
        assert bodies(back) == [b"0"]
        await lane.receiver.release_sessions(list(lane.held))
        lane.held.clear()
        with pytest.raises(MessageNotFound):
            await lane.receiver.receive_deferred([sequence])
        found, receipts = await lane.several(2)
        assert found == [b"1", b"2"]
        back = await lane.receiver.receive_deferred([sequence])
        assert await lane.receiver.complete([*receipts, *back.receipts]) == {}


@pytest.mark.spec("P2")
async def test_what_a_session_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Unsupported`, and the message stays in hand."""
    async with scene(monkeypatch) as made:
        await made.send("s", 0)
        lane = made.lane()
        got = await lane.receive()
        for call in (
            lane.receiver.abandon(got.receipts, 5.0),
            lane.receiver.release(got.receipts, 5.0),
            lane.receiver.renew(got.receipts),
            lane.receiver.peek(1),
        ):
            with pytest.raises(Unsupported):
                await call
        assert await lane.receiver.complete(got.receipts) == {}


# --- accepts --------------------------------------------------------------------------------------


@pytest.mark.spec("P2")
async def test_an_accept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`SessionLocked` and `SessionNotFound` when the wait is over; free, it is granted."""
    async with scene(monkeypatch) as made:
        lane, other = made.lane(), made.lane()
        holding = await lane.receiver.accept("s", SOON)
        with pytest.raises(SessionLocked):
            await other.receiver.accept("s", 1.0)
        with pytest.raises(SessionNotFound):
            await other.receiver.accept(None, 1.0)
        waiting = asyncio.create_task(other.receiver.accept("s", 20.0))
        await asyncio.sleep(1)
        await lane.receiver.release_sessions([holding.number])
        theirs = await waiting
        assert theirs.session == "s"
        assert theirs.number > holding.number
        with pytest.raises(SessionNotFound):
            await lane.receiver.renew_sessions([1]) and await lane.receiver.session_state(1)


@pytest.mark.spec("P2")
@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.2, 0.3, 0.45, 0.52, 0.6, 1.0])
@pytest.mark.parametrize("named", [True, False], ids=["named", "next"])
async def test_a_cancelled_accept_leaves_nothing_locked(
    monkeypatch: pytest.MonkeyPatch, seconds: float, named: bool
) -> None:
    """Cancelled at whatever moment: what was granted late is closed, and so is the connection."""
    async with scene(monkeypatch) as made:
        await made.send("s", 0)
        lane, other = made.lane(), made.lane()
        before = len(made.bus.connections)
        accepting = asyncio.create_task(lane.receiver.accept("s" if named else None, 20.0))
        await asyncio.sleep(seconds)
        accepting.cancel()
        try:
            holding = await accepting
        except asyncio.CancelledError:
            pass
        else:
            await lane.receiver.release_sessions([holding.number])
        holding = await other.receiver.accept("s", SOON)
        await until(lambda: len(made.bus.connections) == before + 1)
        await other.receiver.release_sessions([holding.number])


@pytest.mark.spec("P2")
async def test_an_accept_granted_late_is_given_back_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The service grants it, and its answer comes after the cancelling."""
    async with scene(monkeypatch) as made:
        await made.send("s", 0)
        lane, other = made.lane(), made.lane()
        fault = made.bus.faults.delay("accept", 1.0)
        accepting = asyncio.create_task(lane.receiver.accept(None, 20.0))
        await until(lambda: fault.met)
        accepting.cancel()
        holding = await other.receiver.accept("s", 0.9)
        assert holding.session == "s"


@pytest.mark.spec("P4", "M2", "F3")
async def test_a_session_with_an_empty_name_is_one_as_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other software may name it so: it is received in order, renewed, kept and given back."""
    async with scene(monkeypatch) as made:
        await made.send("", 1, 2, 3)
        lane = made.lane()
        found, receipts = await lane.several(3)
        assert found == texts([1, 2, 3])
        number = lane.number("")
        assert (await lane.receiver.renew_sessions([number])).failures == {}
        await lane.receiver.set_session_state(number, b"kept")
        assert await lane.receiver.complete(receipts[:1]) == {}
        assert await lane.receiver.release_sessions([number]) == {}
        holding = await lane.receiver.accept("", SOON)
        assert holding.session == ""
        assert await lane.receiver.session_state(holding.number) == b"kept"
        got = await lane.receive(new=0, held={holding.number: 10})
        assert set(got.batch.values("session")) == {""}
        assert await lane.receiver.complete(got.receipts) == {}


@pytest.mark.spec("P2", "F6")
@pytest.mark.parametrize("seconds", [0.0, 0.3, 0.55, 1.0])
async def test_a_cancelled_receive_takes_no_session(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """Whatever was being accepted for it is free at once."""
    async with scene(monkeypatch) as made:
        lane, other = made.lane(), made.lane()
        receiving = asyncio.create_task(lane.receive(new=3, wait=20.0))
        await asyncio.sleep(seconds)
        await made.send("s", 0)
        receiving.cancel()
        try:
            got = bodies(await receiving)
        except asyncio.CancelledError:
            got = []
        if got:
            await lane.receiver.release_sessions(list(lane.held))
        assert bodies(await other.receive()) == [b"0"]


@pytest.mark.spec("P2")
async def test_sessions_nobody_is_told_of_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receive that asked for many and returned with one leaves the others to other receivers."""
    async with scene(monkeypatch) as made:
        lane, other = made.lane(), made.lane()
        receiving = asyncio.create_task(lane.receive(new=4, wait=20.0))
        await asyncio.sleep(1.0)
        for session in "abcd":
            await made.send(session, session)
        found = bodies(await receiving)
        rest: list[bytes] = []
        while len(found) + len(rest) < 4:
            rest += bodies(await other.receive(new=4))
        assert sorted(found + rest) == [b"a", b"b", b"c", b"d"]


@pytest.mark.spec("P4", "F3")
async def test_with_every_place_taken_it_tells_whether_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One accept goes on; what it is granted is opened when there is a place for it."""
    async with scene(monkeypatch) as made:
        await made.send("a", 1)
        lane = made.lane()
        got = await lane.receive(new=1)
        assert not got.others_wait
        await made.send("b", 2)
        async with asyncio.timeout(20):
            while not (await lane.receive(new=0, wait=0.5)).others_wait:
                pass
        await lane.receiver.complete(got.receipts)
        await lane.receiver.release_sessions(list(lane.held))
        lane.held.clear()
        found = await lane.receive(new=1)
        assert bodies(found) == [b"2"]
        assert [one.session for one in found.opened] == ["b"]


@pytest.mark.spec("P4")
async def test_a_spare_session_is_left_to_who_has_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A receiver that is full does not keep what another could handle."""
    async with scene(monkeypatch) as made:
        await made.send("a", 1)
        full, other = made.lane(), made.lane()
        await full.receive(new=1)
        stop = asyncio.Event()

        async def busy() -> None:
            while not stop.is_set():
                await full.receive(new=0, wait=0.5)

        working = asyncio.create_task(busy())
        await made.send("b", 2)
        await asyncio.sleep(1.5)
        assert bodies(await other.receive(wait=10.0)) == [b"2"]
        stop.set()
        await working


@pytest.mark.spec("F5", "F3")
async def test_what_waits_of_one_session_keeps_no_other_from_coming(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither a spare one's messages, nor those of one that may bring no more for now."""
    async with scene(monkeypatch) as made:
        for session in "ab":
            await made.send(session, *(f"{session}{number}" for number in range(30)))
        lane = made.lane()
        first = await lane.receive(5, new=1, per_session=5)
        [name] = lane.held.values()
        number = lane.number(name)
        async with asyncio.timeout(20):
            while not (await lane.receive(5, new=0, wait=0.5, held={})).others_wait:
                pass
        found = bodies(first)
        while len(found) < 30:
            found += bodies(await lane.receive(5, new=0, held={number: 5}))
        assert found == [f"{name}{number}".encode() for number in range(30)]
        both = await lane.receive(5, new=1, per_session=5, held={})
        assert bodies(both)[0] != found[0]


# --- waiting and ending ---------------------------------------------------------------------------


@pytest.mark.spec("P2")
async def test_a_wait_can_be_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It returns empty-handed; nothing is lost by it."""
    async with scene(monkeypatch) as made:
        lane = made.lane()
        receiving = asyncio.create_task(lane.receive(new=2, wait=60.0))
        await asyncio.sleep(0.2)
        await lane.receiver.end_wait()
        assert bodies(await receiving) == []
        await made.send("s", 1)
        assert bodies(await lane.receive(new=2)) == [b"1"]


@pytest.mark.spec("P2")
async def test_a_receive_without_a_wait_asks_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes as long as one accept."""
    async with scene(monkeypatch) as made:
        lane = made.lane()
        assert bodies(await lane.receive(wait=0.0)) == []
        await made.send("s", 1)
        assert bodies(await lane.receive(wait=0.0)) == [b"1"]


@pytest.mark.spec("P2", "F2")
async def test_closing_gives_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that wait raise `Closed`; the sessions are free at once, in order."""
    async with scene(monkeypatch) as made:
        await made.send("s", *range(5))
        lane, other = made.lane(), made.lane()
        await lane.several(2, most=2)
        receiving = asyncio.create_task(lane.receive(new=2, wait=60.0, held={}))
        accepting = asyncio.create_task(lane.receiver.accept("s", 60.0))
        await asyncio.sleep(1.0)
        await asyncio.gather(lane.receiver.close(), lane.receiver.close())
        for waiting in (receiving, accepting):
            with pytest.raises(Closed):
                await waiting
        with pytest.raises(Closed):
            await lane.receive()
        assert made.counted() == (5, 0)
        assert (await other.several(5))[0] == texts(range(5))


# --- locks ----------------------------------------------------------------------------------------


@pytest.mark.spec("P13", "P14")
async def test_a_session_that_nobody_renews_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages in hand count as failed, the others don't; all comes again in order."""
    async with scene(monkeypatch, lock=4.0) as made:
        await made.send("s", *range(4))
        lane, other = made.lane(), made.lane()
        _, receipts = await lane.several(2, most=2, per_session=2)
        number = lane.number("s")
        await asyncio.sleep(4.5)
        failures = await lane.receiver.complete(receipts)
        assert {type(error) for error in failures.values()} == {SessionLockLost}
        with pytest.raises(SessionLockLost):
            await lane.receiver.session_state(number)
        renewed = await lane.receiver.renew_sessions([number])
        assert isinstance(renewed.failures[0], SessionLockLost)
        got = await other.receive()
        assert got.opened[0].number > number
        found, counts = bodies(got), got.batch.values("delivery_count")
        while len(found) < 4:
            got = await other.receive()
            found, counts = found + bodies(got), counts + got.batch.values("delivery_count")
        assert found == texts(range(4))
        assert counts == [2, 2, 1, 1]


@pytest.mark.spec("P13")
async def test_a_session_is_locked_as_long_as_the_entity_has_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is configured: from the start, and when it is renewed; what differs is told once."""
    async with scene(monkeypatch, lock=8.0, told=60.0) as made:
        lane, now = made.lane(), asyncio.get_running_loop().time
        holding = await lane.receiver.accept("s", SOON)
        assert 4.0 < holding.deadline - now() <= 8.0
        renewed = await lane.receiver.renew_sessions([holding.number])
        assert (renewed.failures, 4.0 < renewed.deadline - now() <= 8.0) == ({}, True)
        assert caplog.text.count("Make it what the queue has") == 1


@pytest.mark.spec("P13")
async def test_a_renewed_session_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with nothing wanted of it, and while messages come."""
    async with scene(monkeypatch, lock=4.0) as made:
        await made.send("s", *range(4))
        lane = made.lane()
        _, receipts = await lane.several(2, most=2, per_session=2)
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(2.5)
            renewed = await lane.receiver.renew_sessions(list(lane.held))
            assert not renewed.failures
            assert 3.0 < renewed.deadline - loop.time() <= 4.0
        assert await lane.receiver.complete(receipts) == {}
        assert (await lane.several(2))[0] == texts([2, 3])
