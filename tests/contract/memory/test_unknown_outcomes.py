"""Answers that were lost or came late, and lists that failed in part: nothing is lost."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import (
    ConnectionFailed,
    MessageLockLost,
    MessageNotFound,
    Throttled,
)
from pipeline.message import Message
from pipeline.providers.memory.calls import BrokerRenewed
from pipeline.providers.port import Sent
from tests.contract.memory.line import CUT, MUTE, PASS, REFUSE, SILENCE, Answer, Late, Throttle
from tests.contract.memory.scene import GROUPS, ORDERED, failure, now, scene, settling

# --- cut in mid-call: the outcome is unknown ------------------------------------------------------


@pytest.mark.spec("P12", "P14")
@pytest.mark.parametrize("event", [CUT, MUTE])
@pytest.mark.parametrize("ending", ["complete", "abandon", "release", "dead_letter", "defer"])
async def test_a_settling_whose_answer_was_lost_is_repeated_and_works(
    ending: str, event: str
) -> None:
    """The repeat finds the message settled: that was us, and nobody is told of an error."""
    async with scene(**GROUPS) as at:
        call = await settling(ending)(at)
        at.line.calls.clear()
        at.line.plan(ending, event)
        assert await call() == {}
        assert at.line.calls[ending] == 2
        error, _ = await failure(call())
        assert type(error) is MessageNotFound


@pytest.mark.spec("P12", "P14")
async def test_a_settling_that_failed_leaves_the_message_in_hand() -> None:
    """It can be settled again, in any way, as long as the lock holds."""
    async with scene(**GROUPS) as at:
        await at.send(b"1")
        [delivery] = await at.client.receive("q")
        at.line.plan("complete", REFUSE, REFUSE, REFUSE)
        failures = await at.client.complete([delivery])
        assert [type(error) for error in failures.values()] == [ConnectionFailed]
        assert await at.client.renew(delivery) == {}
        assert await at.client.complete(delivery) == {}
        assert await at.bodies() == []


@pytest.mark.spec("P12", "P14")
async def test_another_ending_after_a_lost_answer_is_not_taken_for_the_first() -> None:
    """Abandoned, answer lost, then completed: that did not complete it, and the caller is told."""
    async with scene(**GROUPS) as at:
        await at.send(b"1")
        [delivery] = await at.client.receive("q")
        at.line.plan("abandon", CUT, REFUSE, REFUSE)
        error, _ = await failure(at.client.abandon(delivery))
        assert type(error) is ConnectionFailed
        error, _ = await failure(at.client.complete(delivery))
        assert type(error) is MessageNotFound
        [again] = await at.client.receive("q")
        await at.client.complete(again)


@pytest.mark.spec("P2", "P14")
@pytest.mark.parametrize("second", ["complete", "abandon"])
async def test_a_settling_that_was_cancelled_in_mid_call_can_be_repeated(second: str) -> None:
    """It had worked: the same again ends well, another ending is told that the message is gone."""
    async with scene(**ORDERED) as at:
        await at.send(b"1")
        [delivery] = await at.client.receive("q")
        at.line.plan("complete", Late(5))
        settling = asyncio.create_task(at.client.complete(delivery))
        await asyncio.sleep(1)
        error, _ = await failure(at.client.abandon(delivery))
        assert type(error) is MessageNotFound, "another call is at it"
        settling.cancel()
        await asyncio.wait([settling])
        assert settling.cancelled()
        if second == "complete":
            assert await at.client.complete(delivery) == {}
        else:
            error, _ = await failure(at.client.abandon(delivery))
            assert type(error) is MessageNotFound
        assert await at.bodies() == []


@pytest.mark.spec("P12", "P13", "R1")
async def test_a_renewal_that_fails_in_part_is_repeated_in_part() -> None:
    """Of two sessions one is renewed at the first call, the other at the second."""
    async with scene(**ORDERED) as at:
        await at.other.send_many("q", [Message(b"1", session="a"), Message(b"2", session="b")])
        found = await at.client.receive("q", 2)
        await asyncio.sleep(40)
        at.line.plan("renew_sessions", Answer(BrokerRenewed(60.0, {1: Throttled("slower")})))
        assert await at.client.renew(found) == {}
        assert at.line.calls["renew_sessions"] == 2
        await at.client.complete(found[1])


@pytest.mark.spec("P12", "F2")
async def test_a_receive_whose_answer_was_lost_loses_nothing() -> None:
    """The next one says that it did not arrive: what it brought comes again at once, in order."""
    async with scene(visibility=3600.0, **GROUPS) as at:
        await at.send(b"1", b"2")
        at.line.plan("receive", CUT)
        found = await at.client.receive("q", 2, wait=5)
        assert [one.body for one in found] == [b"1", b"2"]
        await at.client.complete(found)


@pytest.mark.spec("P12", "F2")
@pytest.mark.parametrize("settings", [ORDERED, GROUPS], ids=["native", "groups"])
async def test_a_receive_that_timed_out_gives_back_what_comes_late(
    settings: dict[str, Any],
) -> None:
    """The next one brings it; what comes late does no harm to that."""
    async with scene(visibility=3600.0, **settings) as at:
        await at.send(b"1")
        at.line.plan("receive", Late(40))
        [delivery] = await at.client.receive("q", wait=1)
        assert now() < 40
        await asyncio.sleep(60)
        await at.client.complete(delivery)
        assert await at.bodies() == []


@pytest.mark.spec("P12", "F2")
async def test_a_session_that_is_granted_too_late_is_given_back() -> None:
    """The accept timed out; whoever wants the session next gets it."""
    async with scene(visibility=3600.0, **ORDERED) as at:
        at.line.plan("accept", Late(40), REFUSE, REFUSE)
        error, seconds = await failure(at.client.accept_session("q", "s", wait=1))
        assert type(error) is ConnectionFailed
        assert seconds <= 31 + 3
        async with await at.other.accept_session("q", "s", wait=60):
            assert now() <= 41


@pytest.mark.spec("P12", "P11")
@pytest.mark.parametrize("window", [0.0, 60.0])
async def test_a_send_whose_answer_was_lost_is_repeated(window: float) -> None:
    """Where the queue detects duplicates that is one message, elsewhere two: at least once."""
    async with scene(duplicate_window=window, **GROUPS) as at:
        at.line.plan("send", CUT)
        sent = await at.client.send("q", Message(b"x", session="s"))
        assert sent.duplicate == (window > 0)
        assert await at.bodies() == [b"x"] * (1 if window else 2)


# --- many messages in one call --------------------------------------------------------------------


@pytest.mark.spec("P3", "F3", "P12")
async def test_a_session_that_failed_in_part_is_sent_again_in_order() -> None:
    """The messages of the failed session follow in their order; the others are not sent twice."""
    async with scene(**GROUPS) as at:
        at.line.plan("send", {"s": Throttled("slower")}, {"s": Throttled("slower")})
        messages = [
            Message(body, session=session)
            for body, session in [(b"s1", "s"), (b"t1", "t"), (b"s2", "s"), (b"s3", "s")]
        ]
        results = await at.client.send_many("q", messages)
        assert [type(result) for result in results] == [Sent] * 4
        assert await at.bodies() == [b"t1", b"s1", b"s2", b"s3"]
        assert at.line.calls["send"] == 3


@pytest.mark.spec("P3", "F3", "P12")
async def test_a_session_that_stays_refused_fails_whole_and_the_rest_goes() -> None:
    """Each message has its own result; nothing of the session was sent past the failure."""
    async with scene(**GROUPS) as at:
        at.line.plan("send", *[{"s": Throttled("slower")}] * 3)
        messages = [
            Message(body, session=session)
            for body, session in [(b"s1", "s"), (b"t1", "t"), (b"s2", "s")]
        ]
        results = await at.client.send_many("q", messages)
        assert [type(result) for result in results] == [Throttled, Sent, Throttled]
        assert await at.bodies() == [b"t1"]


@pytest.mark.spec("P3", "P12", "F2")
@pytest.mark.parametrize(
    "event", [REFUSE, SILENCE, Throttle(None)], ids=["refuse", "silence", "throttle"]
)
async def test_a_long_list_that_fails_half_way_is_not_sent_twice(event: object) -> None:
    """The batches before the failure were taken, and their results are kept."""
    async with scene(**GROUPS) as at:
        messages = [Message(b"%05d" % number, session="s") for number in range(5_000)]
        at.line.plan("send", PASS, event)
        results = await at.client.send_many("q", messages)
        assert all(isinstance(result, Sent) for result in results)
        assert await at.bodies() == [one.body for one in messages]


# --- what needs no call ---------------------------------------------------------------------------


@pytest.mark.spec("P14")
@pytest.mark.parametrize("settings", [ORDERED, GROUPS, {}], ids=["native", "groups", "none"])
async def test_settling_twice_or_too_late_is_answered_without_a_call(
    settings: dict[str, Any],
) -> None:
    """The client's own ledger knows."""
    async with scene(**settings) as at:
        await at.other.send_many("q", [Message(b"1", session="a"), Message(b"2", session="b")])
        done, late = await at.client.receive("q", 2)
        await at.client.complete(done)
        await asyncio.sleep(60)
        at.line.calls.clear()
        for delivery, kind in ((done, MessageNotFound), (late, MessageLockLost)):
            for call in (
                at.client.complete(delivery),
                at.client.abandon(delivery),
                at.client.release(delivery),
                at.client.dead_letter(delivery, "rejected"),
                at.client.defer(delivery),
                at.client.renew(delivery),
            ):
                error, _ = await failure(call)
                assert type(error) is kind
        assert at.line.calls.total() == 0
