"""The handler's part in deaths: attempts that ended with a process, late rows, old turns."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest

from pipeline.batch import MessageBatch
from pipeline.handlers.api import Context, Retry, handler
from pipeline.outcomes import Reason
from pipeline.stages.calls import Header
from pipeline.state.memory import MemoryStore
from tests.unit.handler_rig import POLICY, Rig, now, rows, word, words

MOST = POLICY.max_attempts


def noting(seen: list[tuple[str, int]]) -> Any:
    """A handler that notes bodies and attempts; a body `retry` fails."""

    @handler
    async def note(body: str, context: Context) -> Any:
        seen.append((body, context.attempt))
        return Retry(1.0) if body == "retry" else None

    return note


def noting_batch(seen: list[tuple[str, int]]) -> Any:
    """The same for a batch; the attempt is the first row's."""

    @handler(batch=True)
    def note(rows: MessageBatch, context: Context) -> Any:
        seen.extend((body.decode(), context.attempt) for body in rows.values("body"))
        return [Retry(1.0) if body == b"retry" else None for body in rows.values("body")]

    return note


KINDS = pytest.mark.parametrize("make", [noting, noting_batch], ids=["single", "batch"])


async def failed(rig: Rig, batch: MessageBatch) -> tuple[str, dict[str, Any]]:
    """How the first row of a call ended, and its dead letter's description."""
    _, others = await rig.call(batch)
    description = others[0].description
    return word(others[0]).split()[0], json.loads(description) if description else {}


# --- attempts -------------------------------------------------------------------------------------


@KINDS
@pytest.mark.spec("H5", "F7")
async def test_each_death_is_an_attempt_and_the_last_one_a_dead_letter(make: Any) -> None:
    """A row that its process died of waits as one that failed; after the last it is not begun."""
    seen: list[tuple[str, int]] = []
    store = MemoryStore()
    for deaths in range(1, MOST):
        async with Rig(make(seen), store=store) as rig:
            how, _ = await failed(rig, rows("x", "y", failures=[deaths, 0], turn=deaths))
            assert (how, seen) == ("retry", []), "it waits first"
    async with Rig(make(seen), store=store) as rig:
        how, facts = await failed(rig, rows("x", "y", failures=[MOST, 0], turn=MOST))
        assert how == Reason.ATTEMPTS
        assert (facts["error"], facts["attempts"]) == ("HandlerDied", MOST)
        assert "ended while it ran this message" in facts["message"]
        assert facts["first_failure"] <= facts["last_failure"]
        assert rig.core.stats()["failed"] == 1
        # The row behind it is no attempt of anybody.
        assert await rig.run(rows("y", first=2, turn=MOST + 1)) == ["completed"]
        assert seen == [("y", 1)]


@KINDS
@pytest.mark.spec("H5", "F7")
async def test_after_its_wait_a_row_that_died_runs_as_the_next_attempt(make: Any) -> None:
    """The same death is not counted again, and once it is completed none is left."""
    seen: list[tuple[str, int]] = []
    async with Rig(make(seen)) as rig:
        assert (await failed(rig, rows("x", failures=[2])))[0] == "retry"
        assert await rig.run(rows("x", failures=[2], turn=1)) == ["completed"]
        assert seen == [("x", 3)]
        assert (await rig.record("s")).failure is None


@KINDS
@pytest.mark.spec("H5", "F7")
async def test_a_death_is_counted_behind_rows_that_were_not_applied_either(make: Any) -> None:
    """Once one row of a session was looked up, those behind it need not be; this one has to."""
    seen: list[tuple[str, int]] = []
    async with Rig(make(seen)) as rig:
        ended = await rig.run(rows("x", "y", "z", failures=[0, 1, 0]))
        assert [how.split()[0] for how in ended] == ["completed", "retry", "released"]
        assert seen == [("x", 1)]


@pytest.mark.spec("H5", "F7")
async def test_deaths_are_counted_once_whether_the_record_is_known_or_lost() -> None:
    """Those of one holding come with the row; the record says how many of them it knows."""
    seen: list[tuple[str, int]] = []
    store = MemoryStore()

    async def attempts(turn: int, deaths: int) -> tuple[str, int]:
        """A new process, with the store or without it."""
        async with Rig(noting(seen), store=store, retry=POLICY.__class__(9, 1.0, 1.0, 2.0)) as rig:
            how, _ = await failed(rig, rows("retry", failures=[deaths], turn=turn))
            failure = (await rig.record("s")).failure
            assert failure is not None
            assert failure.deaths == deaths
            return how, failure.attempts

    assert await attempts(0, 0) == ("retry", 1)
    assert await attempts(1, 1) == ("retry", 2), "one more, by the death"
    assert seen == [("retry", 1)]
    assert await attempts(2, 1) == ("retry", 3), "the death is known: it runs, and fails"
    assert seen[1:] == [("retry", 3)]
    assert await attempts(3, 3) == ("retry", 5), "two deaths of which nobody could write"
    assert seen[2:] == []
    store = MemoryStore()
    assert await attempts(4, 4) == ("retry", 4), "with the record lost, the deaths are what is left"
    assert await attempts(5, 4) == ("retry", 5)


@pytest.mark.spec("H5", "F7")
async def test_another_holding_counts_its_deaths_from_nothing() -> None:
    """The attempts of the one before count on; so do they past another message's failure."""
    seen: list[tuple[str, int]] = []
    async with Rig(noting(seen), retry=POLICY.__class__(9, 0.0, 0.0, 1.0)) as rig:
        await failed(rig, rows("retry", failures=[2]))
        record = await rig.record("s")
        assert record.failure is not None
        assert (record.failure.attempts, record.failure.deaths) == (2, 2)
        await failed(rig, rows("retry", holding=2, failures=[1]))
        record = await rig.record("s")
        assert record.failure is not None
        assert (record.failure.attempts, record.failure.deaths) == (3, 1)
        # Given back and received again: no death of this holding is known, so it just runs.
        await asyncio.sleep(10)
        await failed(rig, rows("retry", holding=3))
        assert seen == [("retry", 4)]
        # Another message is on its first attempt, whatever failed before.
        await failed(rig, rows("retry", first=5, holding=3, turn=1, failures=[1]))
        record = await rig.record("s")
        assert record.failure is not None
        assert (record.failure.sequence, record.failure.attempts) == (5, 1)
        assert seen == [("retry", 4)]


@KINDS
@pytest.mark.spec("H5", "F7")
async def test_without_order_deaths_count_beside_the_providers_count(make: Any) -> None:
    """Nothing is kept: below the last attempt a row just runs; past it, it is a dead letter."""
    seen: list[tuple[str, int]] = []
    async with Rig(make(seen), ordered=False) as rig:
        batch = rows("x", session=None, failures=[MOST - 1])
        assert await rig.run(batch) == ["completed"]
        assert seen == [("x", MOST)]
        batch = rows("x", "y", session=None, first=5, failures=[MOST, 0])
        _, others = await rig.call(batch)
        assert word(others[0]) == Reason.ATTEMPTS
        facts = json.loads(others[0].description)
        assert (facts["error"], facts["attempts"]) == ("HandlerDied", MOST)
        assert list(others) == [0]
        assert [body for body, _ in seen] == ["x", "y"]
        assert (await rig.record("m5")).failure is None


@pytest.mark.spec("H5", "F4")
async def test_a_row_that_was_applied_before_its_process_died_is_completed() -> None:
    """The record decides first: it is a repeat, not a death, and not run again."""
    seen: list[tuple[str, int]] = []
    async with Rig(noting(seen)) as rig:
        assert await rig.run(rows("a", "b")) == ["completed"] * 2
        again = rows("a", "b", "c", failures=[1, 0, 0], turn=1)
        assert await rig.run(again) == ["completed"] * 3
        assert seen == [("a", 1), ("b", 1), ("c", 1)]
        assert rig.core.stats()["repeats"] == 2
        assert rig.core.stats()["failed"] == 0


# --- old turns ------------------------------------------------------------------------------------


@pytest.mark.spec("F3", "F7")
async def test_rows_of_an_older_turn_are_not_begun_when_a_newer_one_waits() -> None:
    """The router that sent them is dead and its receiver has sent them anew, in the next turn."""
    seen: list[str] = []
    gate = asyncio.Event()

    @handler
    async def slow(body: str) -> None:
        seen.append(body)
        if body == "a":
            await gate.wait()

    async with Rig(slow, timeout=1000) as rig:
        old = rig.call(rows("a", "b", "c"))
        await rig.begun(lambda: seen)
        new = rig.call(rows("a", "b", "c", turn=1))
        await asyncio.sleep(1)
        gate.set()
        completed, others = await old
        assert completed == [0]
        assert [word(others[row]) for row in (1, 2)] == ["released"] * 2
        completed, others = await new
        assert (completed, others) == ([0, 1, 2], {})
        assert seen == ["a", "b", "c"]
        assert rig.core.stats()["repeats"] == 1


@pytest.mark.spec("F3", "F7")
async def test_rows_of_an_older_holding_are_not_begun_when_a_newer_one_waits() -> None:
    """The receiver that sent them is dead; a higher turn of an older holding is older."""
    seen: list[str] = []
    gate = asyncio.Event()

    @handler
    async def slow(body: str) -> None:
        seen.append(body)
        if body == "a":
            await gate.wait()

    async with Rig(slow, timeout=1000) as rig:
        old = rig.call(rows("a", "b", turn=7))
        await rig.begun(lambda: seen)
        new = rig.call(rows("b", "c", first=2, holding=2))
        await asyncio.sleep(1)
        gate.set()
        completed, others = await old
        assert (completed, [word(others[1])]) == ([0], ["released"])
        assert (await new)[0] == [0, 1]
        assert seen == ["a", "b", "c"]


@pytest.mark.spec("F3", "F7")
async def test_a_new_router_does_not_wait_for_the_old_ones_rows() -> None:
    """A new epoch begins with call 1; of the old one nothing is answered any more."""
    gate = asyncio.Event()
    seen: list[str] = []

    @handler
    async def slow(body: str) -> None:
        seen.append(body)
        await gate.wait()

    async with Rig(slow, timeout=1000) as rig:
        old = asyncio.ensure_future(rig.core.run(Header("router", 1, 1, "src"), rows("a")))
        await rig.begun(lambda: seen)
        new = asyncio.ensure_future(rig.core.run(Header("router", 2, 1, "src"), rows("a", turn=1)))
        gate.set()
        part = await new
        assert (list(part.completed), part.last) == ([0], True)
        assert seen == ["a"]
        assert list((await old).completed) == [0]


# --- time -----------------------------------------------------------------------------------------


class Watch:
    """A clock for threads that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.spec("H6", "F7")
async def test_a_sync_handler_past_its_time_out_is_told_and_ten_seconds_later_overdue() -> None:
    """Only the row that runs is: not those behind it, of its session or of others."""
    watch, told = Watch(), []

    @handler
    def slow(body: str, context: Context) -> None:
        if body != "slow":
            return
        for at in (0.0, 30.0, 30.5, 40.0, 40.5):
            watch.now = at
            told.append((at, context.stopping, rig.core.overdue()))
        watch.now = 0.0

    async with Rig(slow, timeout=30, clock=watch) as rig:
        batch = rows("a", "slow", "b", "c", session=["s", "t", "t", "u"])
        assert await rig.run(rows("z", session="z")) == ["completed"]
        assert await rig.run(batch) == ["completed"] * 4
        assert told == [
            (0.0, False, []),
            (30.0, False, []),
            (30.5, True, []),
            (40.0, True, []),
            (40.5, True, [(1, 2, 1)]),
        ]
        watch.now = 1000.0
        assert rig.core.overdue() == []
        assert not rig.core.signals.late(), "nothing runs on this thread"


@pytest.mark.spec("H6", "F7")
async def test_a_sync_batch_past_its_time_out_is_overdue_with_all_its_rows() -> None:
    """Of every call that they came with; which of them it was will be found out."""
    watch, told = Watch(), []

    @handler(batch=True)
    def slow(rows: MessageBatch, context: Context) -> None:
        if len(rows) < 3:
            return
        watch.now += 30.5
        told.append((context.stopping, rig.core.overdue()))
        watch.now += 10
        told.append((context.stopping, sorted(rig.core.overdue())))

    async with Rig(slow, timeout=30, clock=watch) as rig:
        first = rig.call(rows("a", "b", session=["s", "t"]))
        second = rig.call(rows("c", session="u"))
        await first
        await second
        if not told:
            third = rig.call(rows("a", "b", "c", first=7, session=["s", "t", "u"]))
            await third
        assert told[0] == (True, [])
        assert told[1][0]
        assert {row for *_, row in told[1][1]} <= {0, 1, 2}
        assert len(told[1][1]) == 3
        assert rig.core.overdue() == []


@pytest.mark.spec("H6")
async def test_an_async_handler_that_is_cancelled_is_not_overdue() -> None:
    """It ends at its time-out: its process need not."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(1000)

    async with Rig(slow, timeout=30) as rig:
        call = rig.call(rows("a"))
        await rig.begun(lambda: rig.core._running)
        assert rig.core.overdue() == [], "it has not begun"
        for _ in range(100):
            await asyncio.sleep(1)
            assert rig.core.overdue() == []
        await rig.core.stop_running()
        await call


@pytest.mark.spec("H6", "F7")
async def test_an_async_handler_that_goes_on_after_its_time_out_is_overdue() -> None:
    """Ten seconds later, as a sync one: what it runs, not what others do or what is behind it."""
    seen: list[str] = []
    gate = asyncio.Event()

    @handler
    async def stubborn(body: str) -> None:
        seen.append(body)
        while body == "stubborn" and not gate.is_set():
            with suppress(asyncio.CancelledError):
                await gate.wait()

    async with Rig(stubborn, timeout=30) as rig:
        call = rig.call(rows("a", "stubborn", "b", session=["s", "t", "t"]))
        await rig.begun(lambda: "stubborn" in seen)
        assert rig.core.overdue() == []
        await asyncio.sleep(40)
        assert rig.core.overdue() == []
        await asyncio.sleep(1)
        assert rig.core.overdue() == [(1, 1, 1)]
        gate.set()
        await call
        assert rig.core.overdue() == []


@pytest.mark.spec("H6", "H1")
async def test_the_calls_of_an_async_batch_are_timed_one_by_one() -> None:
    """Each half that is run again has its own time."""

    @handler(batch=True)
    async def fails(rows: MessageBatch) -> None:
        await asyncio.sleep(25)
        if len(rows) > 1:
            raise ValueError

    async with Rig(fails, timeout=30) as rig:
        call = rig.call(rows("a", "b", session=["s", "t"]))
        while not call.done():
            await asyncio.sleep(1)
            assert rig.core.overdue() == []
        assert words(await call, 2) == ["completed"] * 2
        assert now() >= 75


# --- fence ----------------------------------------------------------------------------------------


@pytest.mark.spec("F3")
async def test_the_fence_grows_with_each_possession_and_each_turn() -> None:
    """A retry and a redelivery have higher ones; the rows of one turn share theirs."""
    fences: list[int] = []

    @handler
    async def note(body: str, context: Context) -> None:
        fences.append(context.fence)

    async with Rig(note) as rig:
        sequence = 1
        for holding in (1, 2, 170_000_000_000_000):
            for turn in (0, 1, 4095, 5000):
                batch = rows("x", "y", first=sequence, holding=holding, turn=turn)
                assert await rig.run(batch) == ["completed"] * 2
                sequence += 2
    assert fences == sorted(fences)
    pairs = list(zip(fences[::2], fences[1::2], strict=True))
    assert all(one == other for one, other in pairs)
    # Past thousands of turns of one possession its fence stands still; the next one's is higher.
    assert len({one for one, _ in pairs}) == 9
    assert max(fences) < 2**63
