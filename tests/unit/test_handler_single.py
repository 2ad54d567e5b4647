"""The handler core with handlers of single messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.errors import (
    Closed,
    HandlerTimeout,
    ProviderError,
    QueueError,
    QueueFull,
    StateConflict,
)
from pipeline.handlers.api import Context, Reject, Retry, handler
from pipeline.message import Message
from pipeline.outcomes import Part, Reason
from pipeline.stages.calls import Header
from pipeline.stages.workers import InlineHands
from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change, SessionRecord
from tests.unit.handler_rig import Rig, now, rows, words


@dataclass
class Tally:
    count: int = 0


class Flight(BaseModel):
    tail: str


def obey(body: str) -> None:
    """Do what the body says."""
    if body.startswith("retry"):
        raise Retry(float(body[5:] or 5))
    if body == "reject":
        raise Reject("as told")
    if body == "raise":
        raise ValueError("as told")


def sync_counter(seen: list[str]) -> Any:
    @handler(state=Tally)
    def count(body: str, tally: Tally, context: Context) -> None:
        seen.append(body)
        tally.count += 1
        obey(body)

    return count


def async_counter(seen: list[str]) -> Any:
    @handler(state=Tally)
    async def count(body: str, tally: Tally, context: Context) -> None:
        seen.append(body)
        tally.count += 1
        await asyncio.sleep(0)
        obey(body)

    return count


BOTH = pytest.mark.parametrize("make", [sync_counter, async_counter], ids=["sync", "async"])


async def state_of(rig: Rig, key: str = "s") -> Any:
    state = (await rig.record(key)).state
    return None if state is None else json.loads(state)


# --- results --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.spec("H1", "H2", "F4")
async def test_rows_of_a_session_are_handled_in_order(make: Any) -> None:
    """One at a time; the state is committed with the record of what was applied."""
    seen: list[str] = []
    async with Rig(make(seen)) as rig:
        assert await rig.run(rows("a", "b", "c")) == ["completed"] * 3
        assert seen == ["a", "b", "c"]
        assert await state_of(rig) == {"count": 3}
        record = await rig.record("s")
        assert all(record.has("src", (n, f"m{n}")) for n in (1, 2, 3))
        assert await rig.run(rows("d", first=4)) == ["completed"]
        assert await state_of(rig) == {"count": 4}
        assert rig.core.stats()["handled"] == 4
        assert await rig.core.states() == {"s": b'{"count":4}'}


@BOTH
@pytest.mark.spec("H2", "F3")
async def test_the_first_row_that_is_not_completed_stops_its_session(make: Any) -> None:
    """Those behind it come back unhandled; what stood before it counts; others go on."""
    seen: list[str] = []
    async with Rig(make(seen)) as rig:
        batch = rows("a", "retry7", "b", "x", session=["s", "s", "s", "t"])
        assert await rig.run(batch) == ["completed", "retry 7", "released", "completed"]
        assert "b" not in seen
        assert await state_of(rig) == {"count": 1}, "what the failed run changed is undone"
        # Late rows of the stopped turn come back too; the next turn begins with the failed one.
        assert await rig.run(rows("c", first=5)) == ["released"]
        again = rows("ok", "b", "c", first=2, turn=1)
        assert await rig.run(again) == ["completed"] * 3
        assert await state_of(rig) == {"count": 4}


@BOTH
@pytest.mark.spec("H2", "R3")
async def test_reject_and_invalid_bodies_are_dead_letters_at_once(make: Any) -> None:
    """With reason and description; the verdict is kept, so a repeat ends the same, unhandled."""
    seen: list[str] = []
    async with Rig(make(seen)) as rig:
        _, others = await rig.call(rows("reject"))
        assert others[0].reason == "rejected"
        facts = json.loads(others[0].description)
        assert (facts["reason"], facts["attempts"]) == ("as told", 1)
        _, again = await rig.call(rows("reject", holding=2))
        assert again[0].description == others[0].description
        assert seen == ["reject"]
        batch = rows("ok", first=2, turn=0, holding=3)
        assert await rig.run(batch) == ["completed"]
        batch = batch.with_columns(body=[b"\xff"], sequence=[3], id=["m3"])
        _, others = await rig.call(batch)
        assert others[0].reason == "invalid_body"
        assert json.loads(others[0].description)["error"] == "UnicodeDecodeError"


@pytest.mark.spec("M3")
async def test_a_model_that_does_not_validate_is_dead_lettered() -> None:
    """With the validation error; the handler never runs."""

    @handler
    async def on_flight(flight: Flight) -> None:
        raise AssertionError

    async with Rig(on_flight, ordered=False) as rig:
        _, others = await rig.call(rows("{}", session=None))
        assert others[0].reason == "invalid_body"
        assert "tail" in json.loads(others[0].description)["message"]


# --- attempts -------------------------------------------------------------------------------------


@BOTH
@pytest.mark.spec("H5")
async def test_ordered_attempts_are_counted_with_the_session(make: Any) -> None:
    """The provider's count never decides; the delay doubles; the last attempt is a dead letter."""
    seen: list[str] = []
    async with Rig(make(seen)) as rig:
        delays = []
        for turn in range(2):
            _, others = await rig.call(rows("raise", turn=turn, delivery_count=[50]))
            delays.append(others[0].delay)
            await asyncio.sleep(others[0].delay)
        assert 0.5 <= delays[0] <= 1 <= delays[1] <= 2
        record = await rig.record("s")
        assert record.failure is not None
        assert record.failure.attempts == 2
        _, others = await rig.call(rows("raise", turn=2))
        assert others[0].reason == Reason.ATTEMPTS
        facts = json.loads(others[0].description)
        assert facts["attempts"] == 3
        assert facts["first_failure"] < facts["last_failure"]
        assert await rig.run(rows("ok", first=2, turn=3)) == ["completed"]
        assert (await rig.record("s")).failure is None
        assert rig.core.stats()["failed"] == 3


@pytest.mark.spec("H5")
async def test_unordered_attempts_are_the_providers_count_and_this_deliverys_failures() -> None:
    """Nothing is kept for a failure; neighbours go on."""
    seen: list[tuple[str, int]] = []

    @handler
    async def one(body: str, context: Context) -> None:
        seen.append((body, context.attempt))
        obey(body)

    async with Rig(one, ordered=False) as rig:
        batch = rows(
            "raise", "raise", "ok", session=None, delivery_count=[1, 2, 1], failures=[0, 1, 1]
        )
        _, others = await rig.call(batch)
        assert sorted(seen) == [("ok", 2), ("raise", 1), ("raise", 3)]
        assert 0 < others[0].delay <= 1
        assert json.loads(others[1].description)["attempts"] == 3
        assert (await rig.record("m1")).failure is None
        assert rig.core.stats()["waiting"] == 0


@pytest.mark.spec("H5")
async def test_exceptions_may_be_rejected_at_once() -> None:
    """By kind, subclasses too."""
    async with Rig(sync_counter([]), exceptions={Exception: "reject"}) as rig:
        _, others = await rig.call(rows("raise"))
        assert others[0].reason == "rejected"
        assert json.loads(others[0].description)["error"] == "ValueError"


@pytest.mark.spec("H5")
async def test_a_row_that_comes_before_its_delay_is_over_waits_uncounted() -> None:
    """Given back and received again, it waits for the rest; in its own holding it just runs."""
    seen: list[str] = []
    async with Rig(sync_counter(seen)) as rig:
        assert await rig.run(rows("retry100")) == ["retry 100"]
        await asyncio.sleep(40)
        assert await rig.run(rows("ok", "b", holding=2)) == ["retry 60 uncounted", "released"]
        assert seen == ["retry100"]
        await asyncio.sleep(60)
        assert await rig.run(rows("ok", "b", holding=2, turn=1)) == ["completed"] * 2


@pytest.mark.spec("H5")
async def test_an_earlier_message_than_the_failed_one_starts_at_its_own_first_attempt() -> None:
    """A failure counts for its message alone."""
    attempts: list[int] = []

    @handler
    def one(body: str, context: Context) -> None:
        attempts.append(context.attempt)
        obey(body)

    async with Rig(one) as rig:
        await rig.run(rows("raise", first=5))
        await rig.run(rows("raise", first=4, turn=1))
        await rig.run(rows("raise", first=4, turn=2))
        assert attempts == [1, 1, 2]


# --- time -----------------------------------------------------------------------------------------


@pytest.mark.spec("H6", "H5")
async def test_an_async_handler_that_takes_too_long_is_an_attempt() -> None:
    """It is cancelled; the error says after how long. A TimeoutError of its own is its own."""

    @handler
    async def slow(body: str) -> None:
        if body == "own":
            raise TimeoutError("mine")
        await asyncio.sleep(100)

    async with Rig(slow, timeout=10, exceptions={HandlerTimeout: "reject"}) as rig:
        _, others = await rig.call(rows("x"))
        assert now() == pytest.approx(10, abs=0.1)
        facts = json.loads(others[0].description)
        assert facts["error"] == "HandlerTimeout"
        assert "10" in facts["message"]
        ended = words(await rig.call(rows("own", session="t")), 1)
        assert ended[0].startswith("retry")


@pytest.mark.spec("H2")
async def test_a_handler_that_raises_cancelled_or_exits_has_failed() -> None:
    """Whatever user code raises is an attempt, not the end of the actor."""

    @handler
    async def one(body: str) -> None:
        raise {"cancel": asyncio.CancelledError, "exit": SystemExit}[body]

    @handler
    def two(body: str) -> None:
        raise SystemExit

    async with Rig(one) as rig:
        batch = rows("cancel", "exit", session=["a", "b"])
        assert all(end.startswith("retry") for end in await rig.run(batch))
        assert rig.errors == []
    async with Rig(two) as rig:
        assert (await rig.run(rows("x")))[0].startswith("retry")


@pytest.mark.spec("F2", "H6")
async def test_slow_sessions_hold_back_nobody_else() -> None:
    """Outcomes go back in parts; up to `concurrency` sessions run at once."""

    @handler
    async def one(body: str) -> None:
        await asyncio.sleep(float(body))

    async with Rig(one, concurrency=2) as rig:
        batch = rows("100", "0", "0", "0", session=["a", "b", "c", "d"])
        part = await rig.core.run(Header("router", 1, 1, "src"), batch)
        assert (now(), list(part.completed), part.last) == (0.05, [1, 2, 3], False)
        assert rig.core.stats()["running"] == 1
        part = await rig.core.more("router", 1, 1, 1)
        assert (now(), list(part.completed), part.last) == (100, [0], True)
        with pytest.raises(Closed, match="part 2 of a call"):
            await rig.core.more("router", 1, 1, 2)


@pytest.mark.spec("F2")
async def test_a_sync_handler_gives_way_after_a_while() -> None:
    """What a stretch of work leaves over is handled in the next; nothing is left behind."""
    clock = iter(range(10_000))
    async with Rig(sync_counter([]), clock=lambda: next(clock) * 0.02) as rig:
        batch = rows(*"abcdefgh", session=list("ssssttuv"))
        assert await rig.run(batch) == ["completed"] * 8
        assert rig.core.stats()["waiting"] == 0


@pytest.mark.spec("H6")
async def test_a_sync_handler_has_its_threads() -> None:
    """The lanes are shared among the free threads."""
    jobs: list[int] = []
    hands = InlineHands()

    async with Rig(sync_counter([]), threads=4) as rig:
        plain = hands.on_thread
        rig.core._hands.on_thread = lambda job: (jobs.append(1), plain(job))  # type: ignore[method-assign, func-returns-value]
        batch = rows(*"abcdefgh", session=list("abcdefgh"))
        assert await rig.run(batch) == ["completed"] * 8
        assert len(jobs) == 4


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.spec("F4")
async def test_end_session_deletes_the_state() -> None:
    """With the message that ended it; the next one starts anew, in the same call too."""

    @handler(state=Tally)
    def count(body: str, tally: Tally, context: Context) -> None:
        tally.count += 1
        if body == "end":
            context.end_session()

    async with Rig(count) as rig:
        assert await rig.run(rows("a", "end")) == ["completed"] * 2
        assert await state_of(rig) is None
        assert await rig.run(rows("a", "end", "b", first=3)) == ["completed"] * 3
        assert await state_of(rig) == {"count": 1}


@pytest.mark.spec("F4", "H5")
async def test_a_state_that_can_not_be_written_is_a_failure() -> None:
    """Nothing of that run is kept; the session's earlier state is."""

    @handler(state=Tally)
    def count(body: str, tally: Tally) -> None:
        tally.count = int(body) if body.isdigit() else body  # type: ignore[assignment]

    async with Rig(count, exceptions={QueueError: "reject"}) as rig:
        _, others = await rig.call(rows("1", "x", "2"))
        assert json.loads(others[1].description)["error"] == "SerializationError"
        assert await state_of(rig) == {"count": 1}


@pytest.mark.spec("F4", "H5")
async def test_a_state_that_can_not_be_read_is_a_failure() -> None:
    """A type that changed its fields: the message waits or is dead-lettered, nothing dies."""
    store = MemoryStore()
    await store.commit([Change("s", 0, "src", state=b'{"count": "x"}', writes_state=True)])
    async with Rig(sync_counter([]), store=store) as rig:
        assert (await rig.run(rows("a")))[0].startswith("retry")
        assert rig.errors == []
        assert (await rig.record("s")).state == b'{"count": "x"}'


@pytest.mark.spec("F4", "F5")
async def test_few_states_are_kept_read_and_all_are_right() -> None:
    """Beyond the limit a state is read from the store again."""
    async with Rig(sync_counter([]), states=2) as rig:
        for turn in range(3):
            batch = rows(*"abcd", session=list("abcd"), first=1 + 4 * turn)
            assert await rig.run(batch) == ["completed"] * 4
        assert await rig.core.states() == dict.fromkeys("abcd", b'{"count":3}')
        assert len(rig.core._cached) == 2


@pytest.mark.spec("F4")
async def test_a_message_without_a_session_has_a_state_of_its_own() -> None:
    """It is handled beside those that have one."""
    seen: list[str] = []
    async with Rig(sync_counter(seen)) as rig:
        batch = rows("a", "b", "c", session=["s", None, None])
        assert await rig.run(batch) == ["completed"] * 3
        assert await rig.core.states() == {
            "s": b'{"count":1}',
            "m2": b'{"count":1}',
            "m3": b'{"count":1}',
        }


# --- repeats --------------------------------------------------------------------------------------


@BOTH
@pytest.mark.spec("F4")
async def test_a_message_already_applied_is_not_handled_again(make: Any) -> None:
    """It is completed; one with a lower sequence that wasn't applied is handled and warned of."""
    seen: list[str] = []
    async with Rig(make(seen)) as rig:
        await rig.run(rows("a", "b"))
        assert await rig.run(rows("a", "b", "c", holding=2)) == ["completed"] * 3
        assert seen == ["a", "b", "c"]
        assert rig.core.stats()["repeats"] == 2
        other = rows("z", holding=3, id=["anew"])
        assert await rig.run(other) == ["completed"]
        assert rig.core.stats()["unexpected_sequences"] == 1
        assert seen[-1] == "z"


@pytest.mark.spec("F4", "F3")
async def test_a_message_that_comes_again_while_it_runs_is_applied_once() -> None:
    """Its lock was lost and the same handler got it again: the second run would count twice."""
    seen: list[str] = []
    going = asyncio.Event()

    @handler(state=Tally)
    async def count(body: str, tally: Tally) -> None:
        seen.append(body)
        tally.count += 1
        await going.wait()

    async with Rig(count, clock=lambda: 0.0) as rig:
        first = rig.call(rows("a", "b"))
        await asyncio.sleep(1)
        second = rig.call(rows("a", "b", holding=2))
        await asyncio.sleep(1)
        going.set()
        assert words(await first, 2) == ["completed", "released"], "older rows are refused"
        assert words(await second, 2) == ["completed", "completed"]
        assert seen == ["a", "b"]
        assert await state_of(rig) == {"count": 2}


@pytest.mark.spec("F3")
async def test_rows_of_an_older_holding_or_turn_are_refused() -> None:
    """Once a newer one began here."""
    seen: list[str] = []
    async with Rig(sync_counter(seen)) as rig:
        assert await rig.run(rows("retry", first=3, holding=2, turn=1)) == ["retry 5"]
        assert await rig.run(rows("b", holding=1, turn=5)) == ["released"]
        assert await rig.run(rows("b", holding=2, turn=0)) == ["released"]
        assert await rig.run(rows("ok", first=3, holding=2, turn=2)) == ["completed"]
        assert seen == ["retry", "ok"]


# --- sends ----------------------------------------------------------------------------------------


def sender(seen: list[str]) -> Any:
    @handler
    def send(body: str, context: Context) -> None:
        seen.append(body)
        for number, word_ in enumerate(body.split()):
            context.send(f"out{number % 2}", Message(word_.encode()))
        obey(body)

    return send


@pytest.mark.spec("H3")
async def test_sends_leave_in_order_with_ids_of_their_cause() -> None:
    """After the commit; runs to one queue go together; equal causes have equal ids."""
    taken = []
    for _ in range(2):
        async with Rig(sender([])) as rig:
            assert await rig.run(rows("a b", "c")) == ["completed"] * 2
            assert [(queue, body) for queue, _, body in rig.target.taken] == [
                ("out0", b"a"),
                ("out1", b"b"),
                ("out0", b"c"),
            ]
            assert rig.core.stats()["sent"] == 3
            assert (await rig.record("s")).outbox == []
            taken.append([id_ for _, id_, _ in rig.target.taken])
    assert taken[0] == taken[1]
    assert len(set(taken[0])) == 3


@pytest.mark.spec("H3", "H2")
async def test_a_failed_run_sends_nothing() -> None:
    """What it meant to send goes with it."""
    async with Rig(sender([])) as rig:
        assert (await rig.run(rows("raise")))[0].startswith("retry")
        assert rig.target.taken == []


@pytest.mark.spec("H3", "H5", "F4")
@pytest.mark.parametrize(
    "error",
    [QueueFull("full", retry_after=20), QueueFull("whole call", retry_after=20)],
    ids=["message", "call"],
)
async def test_a_full_target_is_a_retry_that_does_not_run_the_handler_again(
    error: QueueFull,
) -> None:
    """Uncounted, after as long as the target asks; what was sent isn't sent twice."""
    seen: list[str] = []
    async with Rig(sender(seen)) as rig:
        rig.target.errors = []
        batch = rows("a", "b b2", "c")

        async def refuse_second(queue: str, messages: Sequence[Message]) -> Any:
            if messages[0].body == b"b2" and not refused:
                refused.append(1)
                rig.target.errors = [error]
            return await Target_send(queue, messages)

        refused: list[int] = []
        Target_send = rig.target.send  # noqa: N806
        rig.core._outbox._send = refuse_second
        ended = await rig.run(batch)
        assert ended == ["completed", "retry 20 uncounted", "retry 20 uncounted"]
        assert rig.core.stats()["unsent"] == 1
        assert seen == ["a", "b b2", "c"]
        await asyncio.sleep(20)
        again = rows("b b2", "c", "d", first=2, turn=1)
        assert await rig.run(again) == ["completed"] * 3
        assert seen == ["a", "b b2", "c", "d"]
        assert [body for _, _, body in rig.target.taken] == [b"a", b"b", b"b2", b"c", b"d"]
        assert rig.core.stats()["unsent"] == 0


@pytest.mark.spec("H3")
async def test_a_target_that_stays_full_is_asked_less_and_less() -> None:
    """The delay grows with each try, and starts small again after one that worked."""
    async with Rig(sender([])) as rig:
        delays = []
        for turn in range(6):
            rig.target.errors = [QueueFull("full")]
            _, others = await rig.call(rows("a", turn=turn))
            delays.append(others[0].delay)
        assert delays == sorted(delays)
        assert delays[-1] >= 16
        assert await rig.run(rows("a", turn=9)) == ["completed"]


@pytest.mark.spec("H3")
async def test_a_handler_without_a_way_to_send_keeps_what_it_sends() -> None:
    """The rows wait; nothing is lost silently."""
    async with Rig(sender([]), send=False, ordered=False) as rig:
        _, others = await rig.call(rows("a", session=None))
        assert not others[0].counted
        assert len((await rig.record("m1")).outbox) == 1


@pytest.mark.spec("H3", "F5")
async def test_what_another_handler_may_send_does_not_count_as_unsent_here() -> None:
    """Without order the message may go to another handler next; this one never hears of it."""
    async with Rig(sender([]), ordered=False) as rig:
        rig.target.errors = [QueueFull("full")]
        _, others = await rig.call(rows("a", session=None))
        assert not others[0].counted
        assert rig.core.stats()["unsent"] == 0
        assert await rig.run(rows("a", session=None)) == ["completed"]
        assert [body for _, _, body in rig.target.taken] == [b"a"]


@pytest.mark.spec("P10", "H3")
async def test_a_defect_while_sending_is_told() -> None:
    """A task that dies is never silence."""
    async with Rig(sender([])) as rig:
        rig.target.errors = [ValueError("a defect")]
        call = rig.call(rows("a"))
        await asyncio.sleep(1)
        assert [str(error) for error in rig.errors] == ["a defect"]
        call.cancel()


# --- the store ------------------------------------------------------------------------------------


class Refusing(MemoryStore):
    """Refuses the next commits."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[Exception] = []
        self.broken: Exception | None = None

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        if self.errors:
            raise self.errors.pop(0)
        return await super().commit(changes)

    async def load(
        self, keys: Sequence[str], holdings: Sequence[int] | None = None
    ) -> list[SessionRecord]:
        if self.broken is not None:
            raise self.broken
        return await super().load(keys, holdings)


@BOTH
@pytest.mark.spec("F4", "H5", "F3")
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_refused_commit_releases_its_rows(make: Any, ordered: bool) -> None:
    """Nothing happened: no attempt, no state; the rows come again and are handled then."""
    seen: list[str] = []
    store = Refusing()
    async with Rig(make(seen), store=store, ordered=ordered) as rig:
        store.errors = [StateConflict("another handler wrote it")]
        assert await rig.run(rows("a", "b", "raise")) == ["released"] * 3
        assert await state_of(rig) is None
        assert (await rig.record("s")).failure is None
        assert await rig.run(rows("a", "b", turn=1)) == ["completed"] * 2
        assert await state_of(rig) == {"count": 2}


@BOTH
@pytest.mark.spec("F4", "H5", "T3")
@pytest.mark.parametrize("ordered", [True, False])
async def test_a_store_that_does_not_work_is_waited_for(make: Any, ordered: bool) -> None:
    """Nothing begins and nothing is given up meanwhile; it says so; then all goes on."""
    seen: list[str] = []
    store = Refusing()
    async with Rig(make(seen), store=store, ordered=ordered) as rig:
        store.broken = full = ProviderError(
            "sqlite", "SQLITE_FULL", "the disk is full", transient=True
        )
        assert full.transient
        call = rig.call(rows("a", "b"))
        await asyncio.sleep(30)
        assert (seen, call.done(), rig.core.paused) == ([], False, str(full))
        store.errors, store.broken = [full] * 3, None
        assert words(await call, 2) == ["completed"] * 2
        assert (seen, store.errors, rig.core.paused) == (["a", "b"], [], None)
        assert rig.core.stats()["handled"] == 2


@pytest.mark.spec("F4", "F6", "T3")
async def test_a_drain_does_not_wait_for_a_store() -> None:
    """What it can't read or write comes back: none of it was handled, as far as anybody knows."""
    full = ProviderError("sqlite", "SQLITE_FULL", "the disk is full", transient=True)
    for reading in (True, False):
        store = Refusing()
        async with Rig(sync_counter([]), store=store) as rig:
            store.broken = full if reading else None
            store.errors = [full] * 100
            call = rig.call(rows("a", "b", session=["s", "t"]))
            await asyncio.sleep(10)
            await rig.core.drain()
            assert words(await call, 2) == ["released"] * 2
            assert (rig.core.busy, rig.errors) == (0, [])


@pytest.mark.spec("F4", "H3", "F6", "T3")
async def test_a_drain_does_not_wait_to_learn_what_is_to_be_sent() -> None:
    """The state is kept, what was sent isn't known to be gone: the row is not completed."""

    class Breaking(Refusing):
        async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
            answers = await super().commit(changes)
            self.broken = ProviderError("sqlite", "SQLITE_IOERR", "it broke", transient=True)
            return answers

    @handler
    def pass_on(body: str, context: Context) -> None:
        context.send("out", Message(body.encode()))

    store = Breaking()
    async with Rig(pass_on, store=store) as rig:
        call = rig.call(rows("a"))
        await asyncio.sleep(10)
        assert not call.done()
        await rig.core.drain()
        assert words(await call, 1) == ["retry 0 uncounted"]
        assert rig.target.taken == []
        store.broken = None
        assert len((await rig.record("s")).outbox) == 1, "it goes out before the row is completed"


@pytest.mark.spec("F3", "F4")
async def test_a_handler_that_lost_its_session_can_not_commit() -> None:
    """Another one wrote in the meantime: its rows are released, the other's state stands."""
    store = MemoryStore()
    going = asyncio.Event()

    @handler(state=Tally)
    async def count(body: str, tally: Tally) -> None:
        tally.count += 1
        await going.wait()

    async with Rig(count, store=store) as rig:
        call = rig.call(rows("a"))
        await asyncio.sleep(1)
        change = Change("s", 0, "src", [(1, "m1")], state=b'{"count":9}', writes_state=True)
        assert await store.commit([change]) == [None]
        going.set()
        assert words(await call, 1) == ["released"]
        assert await state_of(rig) == {"count": 9}
        assert await rig.run(rows("a", "b", turn=1)) == ["completed"] * 2
        assert await state_of(rig) == {"count": 10}


@pytest.mark.spec("P10")
async def test_a_store_that_breaks_is_told() -> None:
    """A handler that can't go on says so."""
    store = Refusing()
    async with Rig(sync_counter([]), store=store) as rig:
        store.broken = RuntimeError("a defect")
        call = rig.call(rows("a"))
        await asyncio.sleep(1)
        assert [str(error) for error in rig.errors] == ["a defect"]
        call.cancel()


@pytest.mark.spec("P10")
@BOTH
@pytest.mark.parametrize("told", [True, False])
async def test_a_defect_of_the_runtime_is_told(make: Any, told: bool) -> None:
    """Here: a verdict that raises; sync and async handlers alike."""
    async with Rig(make([])) as rig:
        if not told:
            rig.core._fatal = None

        def broken(result: Any, attempt: int) -> None:
            raise RuntimeError("a defect")

        rig.core._runner.verdict = broken  # type: ignore[assignment, method-assign]
        call = rig.call(rows("a"))
        await asyncio.sleep(1)
        assert [str(error) for error in rig.errors] == ["a defect"] * told
        call.cancel()


@pytest.mark.spec("P10")
async def test_a_loop_that_dies_unheard_still_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody to tell: the log has it."""
    store = Refusing()
    async with Rig(sync_counter([]), store=store) as rig:
        rig.core._fatal = None
        store.broken = RuntimeError("a defect")
        call = rig.call(rows("a"))
        await asyncio.sleep(1)
        assert "can't go on" in caplog.text
        call.cancel()


# --- calls, locks, stops --------------------------------------------------------------------------


@pytest.mark.spec("F3")
async def test_calls_are_taken_in_by_their_numbers() -> None:
    """Whatever order they come in; a repeat has the same answer; an empty call is answered."""
    seen: list[str] = []
    async with Rig(sync_counter(seen)) as rig:
        late = asyncio.ensure_future(
            rig.core.run(Header("router", 1, 2, "src"), rows("b", first=2))
        )
        await asyncio.sleep(1)
        await rig.core.run(Header("router", 1, 1, "src"), rows("a"))
        await late
        assert seen == ["a", "b"]
        again = await rig.core.run(Header("router", 1, 1, "src"), rows("a"))
        assert (list(again.completed), seen) == ([0], ["a", "b"])
        assert await rig.core.run(Header("router", 1, 3, "src"), rows()) == Part(last=True)


@pytest.mark.spec("P13", "F2")
async def test_rows_whose_lock_was_lost_are_not_begun() -> None:
    """The running one's context is told; those behind it come back; another holding goes on."""
    seen: list[tuple[str, bool]] = []
    going = asyncio.Event()

    @handler
    async def watch(body: str, context: Context) -> None:
        await going.wait()
        seen.append((body, context.lock_lost))

    async with Rig(watch, clock=lambda: 0.0) as rig:
        call = rig.call(rows("a", "b"))
        await asyncio.sleep(1)
        other = rig.call(rows("x", session="t"), lost=(("s", 1), ("unknown", 1)))
        await asyncio.sleep(1)
        going.set()
        assert words(await call, 2) == ["completed", "released"]
        assert words(await other, 1) == ["completed"]
        assert ("a", True) in seen
        assert await rig.run(rows("b", first=2, holding=2)) == ["completed"]
        assert seen[-1] == ("b", False)
        assert rig.core.signals._lost == {}, "nothing is kept of what is over"


@pytest.mark.spec("F5")
async def test_sessions_leave_nothing_behind() -> None:
    """A lane goes with its last row; one that is stopped goes when its holding is over."""
    async with Rig(sync_counter([]), ordered=True) as rig:
        await rig.run(rows("a", "b", "retry", session=["s", "t", "u"]))
        assert set(rig.core._lanes) == {"u"}, "it has to remember that its turn is stopped"
        await rig.run(rows("x", session="s", first=9), closed=(("u", 0), ("nobody", 5)))
        assert set(rig.core._lanes) == {"u"}, "an older holding is over, not this one"
        await rig.run(rows("y", session="s", first=10), closed=(("u", 1),))
        assert rig.core._lanes == {}
        assert rig.core._reception.open == 0


@pytest.mark.spec("F6")
async def test_drain_releases_what_has_not_begun() -> None:
    """The running row may finish; those behind it, elsewhere and in later calls come back."""
    going = asyncio.Event()

    @handler
    async def wait(body: str) -> None:
        await going.wait()

    async with Rig(wait, concurrency=1, clock=lambda: 0.0) as rig:
        call = rig.call(rows("a", "b", "c", session=["s", "s", "t"]))
        await asyncio.sleep(1)
        await rig.core.drain()
        later = rig.call(rows("d", "e", session=["s", "v"], first=4))
        await asyncio.sleep(1)
        assert rig.core.stats()["running"] == 1
        going.set()
        assert words(await call, 3) == ["completed", "released", "released"]
        assert words(await later, 2) == ["released", "released"]
        assert rig.core._lanes == {}


@pytest.mark.spec("F6")
async def test_drain_reaches_rows_that_are_just_being_begun() -> None:
    """A worker that has not called the handler yet calls it no more."""
    seen: list[str] = []
    async with Rig(sync_counter(seen)) as rig:
        call = rig.call(rows("a", "b"))
        await rig.begun()
        await rig.core.drain()
        assert words(await call, 2) == ["released"] * 2
        assert seen == []


@pytest.mark.spec("F6", "H5")
async def test_stop_running_cancels_async_handlers_without_an_attempt() -> None:
    """Their rows and those behind come back, their state is undone; a sync one is told."""
    told: list[bool] = []

    @handler(state=Tally)
    async def wait(body: str, tally: Tally, context: Context) -> None:
        tally.count += 1
        if body == "forever":
            try:
                await asyncio.sleep(10_000)
            finally:
                told.append(context.stopping)

    async with Rig(wait, clock=lambda: 0.0) as rig:
        call = rig.call(rows("ok", "forever", "c"))
        await asyncio.sleep(1)
        await rig.core.stop_running()
        assert words(await call, 3) == ["completed", "released", "released"]
        assert told == [True]
        assert await state_of(rig) == {"count": 1}
        assert rig.core.stats()["failed"] == 0
        assert (await rig.record("s")).failure is None


@pytest.mark.spec("F6")
async def test_a_task_cancelled_before_it_began_gives_its_rows_back() -> None:
    """During a drain: it never ran, so nothing was handled."""
    seen: list[str] = []
    async with Rig(async_counter(seen)) as rig:
        call = rig.call(rows("a"))
        await rig.begun(lambda: rig.core._running)
        await rig.core.drain()
        await rig.core.stop_running()
        assert words(await call, 1) == ["released"]
        assert seen == []


# --- life -----------------------------------------------------------------------------------------


@pytest.mark.spec("H1")
async def test_a_handler_classs_start_and_close_are_called_once() -> None:
    """Sync or async; start before the first row, close after everything was sent."""
    events: list[str] = []

    @handler
    class Async:
        async def start(self) -> None:
            events.append("start")

        async def close(self) -> None:
            events.append("close")

        def __call__(self, body: str, context: Context) -> None:
            events.append(body)
            context.send("out", Message(b"x"))

    @handler
    class Sync:
        def start(self) -> None:
            events.append("sync start")

        def __call__(self, body: str) -> None: ...

    rig = Rig(Async)
    await rig.core.start()
    await rig.core.start()
    slow = rig.target.send

    async def send(queue: str, messages: Sequence[Message]) -> Any:
        await asyncio.sleep(5)
        events.append("sent")
        return await slow(queue, messages)

    rig.core._outbox._send = send
    call = rig.call(rows("a"))
    await asyncio.sleep(1)
    await rig.core.close()
    await rig.core.close()
    await call
    assert events == ["start", "a", "sent", "close"]
    async with Rig(Sync):
        assert events[-1] == "sync start"


async def test_states_of_a_handler_without_any() -> None:
    """An empty mapping."""

    @handler
    def nothing(body: str) -> None: ...

    async with Rig(nothing) as rig:
        assert await rig.run(rows("a")) == ["completed"]
        assert await rig.core.states() == {}


@pytest.mark.spec("F4", "F2")
async def test_of_several_changes_only_those_that_can_be_had_later_are_committed_again() -> None:
    """What was committed stays, what was refused comes back, and nothing is written twice."""
    full = ProviderError("sqlite", "SQLITE_BUSY", "the database is locked", transient=True)
    asked: list[list[str]] = []

    class Partly(MemoryStore):
        async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
            asked.append([change.key for change in changes])
            refusals = {"s": StateConflict("another wrote"), "t": full} if len(asked) < 3 else {}
            good = [change for change in changes if change.key not in refusals]
            await super().commit(good)
            return [refusals.get(change.key) for change in changes]

    async with Rig(sync_counter([]), store=Partly()) as rig:
        batch = rows("a", "b", "c", session=["s", "t", "u"])
        assert await rig.run(batch) == ["released", "completed", "completed"]
        assert asked == [["s", "t", "u"], ["t"], ["t"]]
        assert rig.core.paused is None
        assert await rig.core.states() == dict.fromkeys("tu", b'{"count":1}')
