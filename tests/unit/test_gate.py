"""The gates of a connection: alone, around one core, and when that core is gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from pipeline.breaker import State, Verdict
from pipeline.errors import CircuitOpen, ConnectionFailed, Throttled
from pipeline.providers.gate import Gate, Known, Pass
from tests.unit.gates import (
    BAD,
    GOOD,
    POLICY,
    RECEIVE,
    SEND,
    SETTLE,
    Way,
    calls,
    closing,
    core,
    gates,
)

pytestmark = pytest.mark.spec("R2")


def time() -> float:
    return asyncio.get_running_loop().time()


async def probe(gate: Gate, verdict: Verdict) -> float:
    """Wait for leave, call, and say when that was."""
    given = await gate.enter(RECEIVE, 300.0)
    at = time()
    gate.leave(given, verdict)
    await asyncio.sleep(0.01)
    return at


async def test_alone_it_opens_probes_and_closes() -> None:
    """Five failures in a row, 30 s, one probe at a time, three that work."""
    gate = Gate("main", POLICY)
    await gate.start()
    calls(gate, SEND, BAD, BAD, BAD, BAD, GOOD, BAD, BAD, BAD, BAD)
    assert gate.free(SEND) is not None
    calls(gate, SEND, BAD)
    assert gate.free(SEND) is None
    assert gate.free(RECEIVE) is not None, "another direction"
    with pytest.raises(CircuitOpen) as caught:
        await gate.enter(SEND, 0.0)
    assert caught.value.retry_after == pytest.approx(30.0)
    await asyncio.sleep(30.0)
    for _ in range(3):
        given = await gate.enter(SEND, 0.0)
        with pytest.raises(CircuitOpen, match="half-open"):
            await gate.enter(SEND, 0.0)
        gate.leave(given, GOOD)
    assert gate.free(SEND) is not None
    await gate.close()


async def test_a_late_report_changes_nothing() -> None:
    """A call of before it opened ends when it is closed again: it is not counted."""
    gate = Gate("main", POLICY)
    late = [gate.free(SEND) for _ in range(9)]
    calls(gate, SEND, *[BAD] * 5)
    await asyncio.sleep(30.0)
    for _ in range(3):
        gate.leave(await gate.enter(SEND, 0.0), GOOD)
    for given in late:
        assert given is not None
        gate.leave(given, BAD)
    assert gate.free(SEND) is not None


async def test_who_waits_for_leave_has_it_the_moment_there_is_one() -> None:
    """A receive that waits is woken by the closing, and gives up after its patience."""
    gate = Gate("main", POLICY)
    calls(gate, RECEIVE, *[BAD] * 5)
    start = time()
    with pytest.raises(CircuitOpen) as caught:
        await gate.enter(RECEIVE, 20.0)
    assert (time() - start, caught.value.retry_after) == (20.0, pytest.approx(10.0))
    waiting = [asyncio.ensure_future(gate.enter(RECEIVE, 60.0)) for _ in range(4)]
    for _ in range(3):
        await asyncio.sleep(10.1)
        [done] = [one for one in waiting if one.done()]
        waiting.remove(done)
        gate.leave(done.result(), GOOD)
    await asyncio.sleep(0)
    last = await waiting[0]
    assert (last.ticket, time()) == (None, pytest.approx(start + 50.3))


async def test_who_has_no_reason_to_wait_any_more_goes_on() -> None:
    """Woken, it looks again whether it was closed; the call then says what is the matter."""
    gate = Gate("main", POLICY)
    calls(gate, RECEIVE, *[BAD] * 5)
    closed = False
    waiting = asyncio.ensure_future(gate.enter(RECEIVE, 60.0, lambda: closed))
    await asyncio.sleep(1.0)
    closed = True
    gate.wake()
    assert await waiting == Pass(RECEIVE, None)
    gate.leave(await waiting, BAD)
    assert time() == 1.0


async def test_throttling_is_a_pause_for_all_and_no_failure() -> None:
    """Calls wait for what the provider asked, as long as a send may take; then they are refused."""
    gate = Gate("main", POLICY)
    for _ in range(9):
        given = await gate.enter(SEND, 0.0)
        gate.fail(given, Throttled("slow down", retry_after=2.0))
    assert time() == 16.0
    assert gate.open(SEND) is None
    gate.leave(await gate.enter(SEND, 0.0), Verdict.SLOW, 40.0)
    with pytest.raises(Throttled) as caught:
        await gate.enter(SEND, 0.0)
    assert (time(), caught.value.retry_after) == (28.0, pytest.approx(30.0))
    await asyncio.sleep(30.0)
    given = await gate.enter(SEND, 0.0)
    assert gate.free(SEND) is given, "nothing stands against it any more"


async def test_closed_it_costs_no_call() -> None:
    """A thousand calls that work are told to nobody."""
    way = Way()
    one, two = await gates(way, 2)
    calls(one, SEND, *[GOOD] * 1000)
    calls(two, SETTLE, *[GOOD] * 1000)
    await asyncio.sleep(60.0)
    assert way.calls == {"watch": 4}, "what is known, and what comes"
    await closing(one, two)


async def test_failures_in_a_row_are_counted_over_all_processes() -> None:
    """A success anywhere begins the row anew; the fifth opens it everywhere."""
    way = Way()
    made = await gates(way, 4)
    for gate in made:
        calls(gate, SEND, BAD)
        await asyncio.sleep(0.01)
    calls(made[2], SEND, GOOD)
    await asyncio.sleep(0.01)
    for gate in made:
        calls(gate, SEND, BAD)
        await asyncio.sleep(0.01)
    assert all(gate.free(SEND) for gate in made)
    calls(made[1], SEND, BAD)
    await asyncio.sleep(0.01)
    assert not any(gate.free(SEND) for gate in made)
    assert way.core.stats().paused == "the circuit breaker is open: send"
    assert way.core.stats().breakers["send"][0] == "open"
    assert way.core.stats().counts["users"] == 4
    await closing(*made)


async def test_results_go_together_with_those_that_came_meanwhile() -> None:
    """While one telling is under way the next ones gather."""
    way = Way()
    [gate] = await gates(way, 1)
    calls(gate, SEND, BAD, BAD, GOOD, BAD)
    calls(gate, RECEIVE, BAD)
    await asyncio.sleep(0.1)
    calls(gate, RECEIVE, BAD)
    await gate.close()
    assert way.calls["tell"] == 2
    assert way.core._breakers[SEND].view(0.0).failures == 1
    assert way.core._breakers[RECEIVE].view(0.0).failures == 2


async def test_one_probe_in_the_whole_cluster() -> None:
    """Of four that wait one calls; a failure keeps all waiting, three successes let all go."""
    way = Way()
    made = await gates(way, 4)
    calls(made[0], RECEIVE, *[BAD] * 5)
    await asyncio.sleep(0.01)
    at = await asyncio.gather(
        *(probe(gate, verdict) for gate, verdict in zip(made, [BAD, BAD, BAD, BAD], strict=True))
    )
    assert [round(each) for each in sorted(at)] == [30, 60, 90, 120]
    at = await asyncio.gather(*(probe(gate, GOOD) for gate in made))
    assert [round(each) for each in at] == [150] * 4
    assert all(gate.free(RECEIVE) for gate in made)
    assert way.core.stats().counts["opened"] == 5
    await closing(*made)


async def test_a_probe_whose_process_died_is_given_to_another() -> None:
    """After the longest time that a call may take."""
    way = Way()
    one, two = await gates(way, 2)
    calls(one, RECEIVE, *[BAD] * 5)
    await asyncio.sleep(0.01)
    lost = await one.enter(RECEIVE, 60.0)
    given = await two.enter(RECEIVE, 100.0)
    assert time() == pytest.approx(100.0, abs=0.1)
    one.leave(lost, GOOD)
    two.leave(given, GOOD)
    await asyncio.sleep(0.01)
    assert way.core._breakers[RECEIVE]._successes == 1, "the late one is not counted"
    await closing(one, two)


async def test_a_probe_that_nobody_waits_for_any_more_is_given_back() -> None:
    """Who is cancelled while it asks doesn't keep the probe."""
    way = Way()
    one, two = await gates(way, 2)
    calls(one, RECEIVE, *[BAD] * 5)
    await asyncio.sleep(30.1)
    asking = asyncio.ensure_future(one.enter(RECEIVE, 60.0))
    await asyncio.sleep(0.0005)
    asking.cancel()
    given = await two.enter(RECEIVE, 1.0)
    assert given.ticket is not None
    again = asyncio.ensure_future(one.enter(RECEIVE, 60.0))  # there is none to give back
    await asyncio.sleep(0.0005)
    again.cancel()
    await closing(one, two)


async def test_users_go_on_when_the_actor_dies_and_tell_the_next_one() -> None:
    """Open stays open, and is probed when its time has come; the replacement hears of it."""
    way = Way()
    one, two = await gates(way, 2)
    calls(one, SEND, *[BAD] * 5)
    await asyncio.sleep(10.0)
    way.die()
    await asyncio.sleep(1.0)
    assert not one.free(SEND)
    way.replace()
    await asyncio.sleep(2.0)
    assert way.core.stats().breakers["send"] == ("open", pytest.approx(SINCE, abs=0.1))
    assert not two.free(SEND)
    await asyncio.sleep(16.0)
    for gate in (one, two):
        with pytest.raises(CircuitOpen):
            await gate.enter(SEND, 0.0)
    given = await one.enter(SEND, 2.0)
    assert time() == pytest.approx(30.0, abs=0.1), "its time was kept"
    one.leave(given, GOOD)
    await closing(one, two)


SINCE = 1_700_000_000.0


async def test_without_an_actor_each_counts_for_itself() -> None:
    """Five failures in one process open it there, and its own probes close it."""
    way = Way()
    one, two = await gates(way, 2)
    await asyncio.sleep(0.01)
    calls(one, SEND, BAD, BAD)
    await asyncio.sleep(0.01)
    way.die()
    await asyncio.sleep(0.01)
    calls(one, SEND, BAD, BAD, BAD)
    assert not one.free(SEND), "what was known counts"
    assert two.free(SEND)
    given = await one.enter(SEND, 60.0)
    assert (given.ticket is not None, round(time())) == (True, 30)
    one.leave(given, GOOD)
    way.replace()
    await asyncio.sleep(2.0)
    assert way.core.stats().breakers["send"][0] == "half_open"
    assert not two.free(SEND), "now it knows too"
    one.leave(given, BAD)  # of another epoch: late
    await closing(one, two)


async def test_an_actor_that_is_silent_is_done_without(caplog: pytest.LogCaptureFixture) -> None:
    """After five seconds what was to be told is counted here; then it is looked for again."""
    way = Way()
    [gate] = await gates(way, 1)
    way.silent = True
    with caplog.at_level(logging.WARNING):
        calls(gate, SEND, *[BAD] * 5)
        await asyncio.sleep(5.1)
    assert not gate.free(SEND)
    assert [one.message for one in caplog.records] == [
        "connection main: its actor is lost, what is known goes on: TimeoutError",
        "connection main: send: the circuit breaker is open",
    ]
    way.replace()
    await asyncio.sleep(3600.0)
    await gate.close()


async def test_a_probe_is_not_waited_for_from_a_silent_actor() -> None:
    """Asked for a probe and silent: it is taken here."""
    way = Way()
    [gate] = await gates(way, 1)
    calls(gate, SEND, *[BAD] * 5)
    await asyncio.sleep(30.0)
    way.silent = True
    given = await gate.enter(SEND, 10.0)
    assert given.ticket is not None
    assert given.epoch == 0
    await gate.close()


async def test_what_gathers_while_an_actor_is_lost_is_counted_here() -> None:
    """A telling fails, and what came meanwhile is not told any more."""
    way = Way()
    [gate] = await gates(way, 1)
    way.silent = True
    calls(gate, SEND, BAD)
    await asyncio.sleep(1.0)
    calls(gate, SEND, BAD)
    await asyncio.sleep(5.0)
    assert gate._breakers[SEND].view(0.0).failures == 2
    await gate.close()


async def test_an_answer_of_another_actor_is_not_taken_for_ours() -> None:
    """Until it has been joined, and heard what is known, the new one is a stranger."""
    way = Way()
    [gate] = await gates(way, 1)
    calls(gate, SEND, *[BAD] * 5)
    await asyncio.sleep(30.0)
    way.core = core(7)  # at once, without a word
    with pytest.raises(CircuitOpen):
        await gate.enter(SEND, 0.02)
    calls(gate, RECEIVE, BAD)
    await asyncio.sleep(0.01)
    assert not gate.free(SEND)
    await gate.close()


async def test_a_start_without_an_actor_goes_on_alone() -> None:
    """There is none yet: the gate begins closed, and joins it when it comes."""
    way = Way()
    way.cut = True
    [gate] = await gates(way, 1)
    await gate.start()  # once
    assert gate.free(SEND)
    way.cut = False
    await asyncio.sleep(2.0)
    assert gate._epoch == 1
    await gate.close()
    await gate.close()


async def test_old_questions_are_answered_when_there_are_too_many() -> None:
    """A user that died leaves its question: a bounded number of them is kept."""
    way = core()
    known = await way.watch("x", Known(0, 0, {}))
    pending = [asyncio.ensure_future(way.watch(f"u{number}", known)) for number in range(500)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sum(one.done() for one in pending) == 100
    same = asyncio.ensure_future(way.watch("u499", known))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert pending[499].done(), "asked again by the same user"
    for one in (*pending, same):
        one.cancel()
    left: Any = await asyncio.gather(*pending, same, return_exceptions=True)
    assert way.stats().counts["users"] == 0, left
    assert (await way.watch("y", Known(1, 0, {}))).version == known.version, "it knows less"


async def test_two_of_one_name_do_not_answer_each_other_without_end() -> None:
    """A receiver that was taken for dead asks on beside the new one; both still hear what is."""
    way = Way()
    old, new = Gate("main", POLICY, way, "receiver-0"), Gate("main", POLICY, way, "receiver-0")
    await old.start()
    await new.start()
    await asyncio.sleep(60.0)
    assert way.calls["watch"] <= 130, "the one that is displaced waits a second"
    calls(new, SEND, *[BAD] * 5)
    await asyncio.sleep(1.1)
    assert old.open(SEND) is not None
    await closing(old, new)


async def test_an_older_answer_does_not_undo_a_newer_one() -> None:
    """Answers may overtake each other."""
    way = Way()
    [gate] = await gates(way, 1)
    before = gate._known()
    calls(gate, SEND, *[BAD] * 5)
    await asyncio.sleep(0.01)
    assert gate._learn(before)
    assert gate._lanes[SEND].state is State.OPEN
    await gate.close()


async def test_a_failing_probe_asked_of_a_dead_actor() -> None:
    """The actor is gone just when the probe is asked for."""
    way = Way()
    [gate] = await gates(way, 1)
    calls(gate, SEND, *[BAD] * 5)
    await asyncio.sleep(30.0)
    way.cut = True  # what waits for it does not hear of it
    given = await gate.enter(SEND, 1.0)
    gate.fail(given, ConnectionFailed("refused"))
    assert not gate.free(SEND)
    await gate.close()
