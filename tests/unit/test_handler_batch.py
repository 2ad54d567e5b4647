"""The handler core with batch handlers (SPEC H1)."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import MessageBatch
from pipeline.errors import QueueError, QueueFull
from pipeline.handlers.api import Context, Reject, Retry, States, handler
from pipeline.message import Message
from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change
from pipeline.testing.virtual_loop import VirtualLoop
from tests.unit.handler_rig import Rig, now, rows, words


@dataclass
class Seen:
    bodies: list[str]

    def __init__(self, bodies: list[str] | None = None) -> None:
        self.bodies = bodies or []


class Script:
    """A batch handler that notes its calls, adds each row to its session's state, and obeys."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def obey(self, batch: MessageBatch, states: States | None, context: Context) -> Any:
        bodies = [row.body.decode() for row in batch]
        self.calls.append(bodies)
        results: list[Any] = []
        for at, row in enumerate(batch):
            body = bodies[at]
            if states is not None:
                states[row.session or row.id].bodies.append(body)
            if body.startswith("send"):
                context.send("out", Message(row.body), row=at)
            if body == "raise":
                raise ValueError("as told")
            if body == "unwritable" and states is not None:
                states[row.session or row.id].bodies = 5
            results.append(
                {"retry": Retry(7), "reject": Reject("no"), "error": OSError()}.get(body)
            )
        return results if any(results) else None

    def sync(self) -> Any:
        @handler(state=Seen, batch=True)
        def many(batch: MessageBatch, states: States, context: Context) -> Any:
            return self.obey(batch, states, context)

        return many

    def asynchronous(self) -> Any:
        @handler(state=Seen, batch=True)
        async def many(batch: MessageBatch, states: States, context: Context) -> Any:
            await asyncio.sleep(0)
            return self.obey(batch, states, context)

        return many

    def stateless(self) -> Any:
        @handler(batch=True)
        def many(batch: MessageBatch, context: Context) -> Any:
            return self.obey(batch, None, context)

        return many


BOTH = pytest.mark.parametrize("form", ["sync", "asynchronous"])


async def bodies_of(rig: Rig, key: str = "s") -> list[str]:
    state = (await rig.record(key)).state
    return [] if state is None else list(json.loads(state)["bodies"])


@BOTH
@pytest.mark.spec("H1", "F4")
async def test_all_sessions_of_a_call_are_one_batch(form: str) -> None:
    """None completes all; each session's state is its own."""
    script = Script()
    async with Rig(getattr(script, form)()) as rig:
        batch = rows("a", "b", "c", session=["s", "t", "s"])
        assert await rig.run(batch) == ["completed"] * 3
        assert len(script.calls) == 1
        assert await bodies_of(rig) == ["a", "c"]
        assert await bodies_of(rig, "t") == ["b"]


@BOTH
@pytest.mark.spec("H1", "F3")
async def test_the_first_row_that_is_not_completed_decides_for_those_behind(form: str) -> None:
    """They are released whatever was returned; good ones before it run again; others stand."""
    script = Script()
    async with Rig(getattr(script, form)()) as rig:
        batch = rows("a", "x", "retry", "b", "reject", session=["s", "t", "s", "s", "s"])
        assert await rig.run(batch) == [
            "completed",
            "completed",
            "retry 7",
            "released",
            "released",
        ]
        assert await bodies_of(rig) == ["a"]
        assert await bodies_of(rig, "t") == ["x"]
        assert script.calls[1:] == [["a"]], "the good prefix alone, once more"
        assert await rig.run(rows("ok", "b", first=3, turn=1)) == ["completed"] * 2
        assert await bodies_of(rig) == ["a", "ok", "b"]


@pytest.mark.spec("H1", "H3")
async def test_what_a_stopped_session_sent_is_dropped_and_sent_once() -> None:
    """The rerun of the good rows sends again; another session's sends stand."""
    script = Script()
    async with Rig(script.stateless()) as rig:
        batch = rows("send1", "send2", "retry", "send3", session=["s", "t", "s", "s"])
        assert await rig.run(batch) == ["completed", "completed", "retry 7", "released"]
        assert sorted(body for _, _, body in rig.target.taken) == [b"send1", b"send2"]
        assert len({id_ for _, id_, _ in rig.target.taken}) == 2


@pytest.mark.spec("H1")
async def test_without_state_and_sends_good_rows_need_no_second_run() -> None:
    """There is nothing to take back."""
    script = Script()
    async with Rig(script.stateless()) as rig:
        assert await rig.run(rows("a", "b", "retry", "c")) == [
            "completed",
            "completed",
            "retry 7",
            "released",
        ]
        assert len(script.calls) == 1


@BOTH
@pytest.mark.spec("H1", "H5")
async def test_a_batch_that_raises_is_halved_until_the_row_is_alone(form: str) -> None:
    """Only that row is an attempt; those behind it in its session come back; the rest is done."""
    script = Script()
    async with Rig(getattr(script, form)()) as rig:
        sessions = ["s", "t", "u", "s", "s", "t"]
        batch = rows("a", "b", "c", "raise", "d", "e", session=sessions)
        _, others = ended = await rig.call(batch)
        assert words(ended, 6)[:3] == ["completed"] * 3
        assert words(ended, 6)[4:] == ["released", "completed"]
        assert 0 < others[3].delay <= 1
        assert rig.core.stats()["failed"] == 1
        assert await bodies_of(rig) == ["a"]
        assert await bodies_of(rig, "t") == ["b", "e"]


@pytest.mark.spec("H1", "H5")
async def test_several_rows_may_raise_where_nothing_is_ordered() -> None:
    """Each is found; each counts for itself by the provider's count."""
    script = Script()
    async with Rig(script.stateless(), ordered=False) as rig:
        batch = rows("raise", "a", "raise", "b", session=None, delivery_count=[3, 1, 1, 1])
        _, others = ended = await rig.call(batch)
        assert words(ended, 4)[1] == words(ended, 4)[3] == "completed"
        assert others[0].reason
        assert others[2].delay > 0


@pytest.mark.spec("H1", "F4")
async def test_a_message_that_came_twice_is_not_given_twice_to_one_batch() -> None:
    """Without order its second delivery may wait beside the first: it is found in the record."""
    script = Script()
    async with Rig(script.stateless(), ordered=False) as rig:
        first = rig.call(rows("a", "b", session=None))
        again = rig.call(rows("b", "c", session=None, first=2, holding=2))
        assert words(await first, 2) == words(await again, 2) == ["completed"] * 2
        assert script.calls == [["a", "b", "c"]]
        assert rig.core.stats()["repeats"] == 1


@pytest.mark.spec("H1", "F4")
async def test_a_state_that_can_not_be_written_is_found_like_a_raise() -> None:
    """The row that put it there fails, not the first of its session."""
    script = Script()
    async with Rig(script.sync()) as rig:
        batch = rows("a", "b", "unwritable", "c", "x", session=["s", "s", "s", "s", "t"])
        ended = await rig.run(batch)
        assert ended[:2] == ["completed", "completed"]
        assert ended[2].startswith("retry")
        assert ended[3:] == ["released", "completed"]
        assert await bodies_of(rig) == ["a", "b"]


@pytest.mark.spec("H1", "F4")
async def test_a_state_that_can_not_be_read_fails_its_session_alone() -> None:
    """Its first row waits, those behind it come back, others run."""
    store = MemoryStore()
    await store.commit([Change("s", 0, "src", state=b"5", writes_state=True)])
    script = Script()
    async with Rig(script.sync(), store=store) as rig:
        ended = await rig.run(rows("a", "b", "x", session=["s", "s", "t"]))
        assert ended[0].startswith("retry")
        assert ended[1:] == ["released", "completed"]
        assert script.calls == [["x"]]
        ended = await rig.run(rows("a", turn=1))
        assert ended[0].startswith("retry"), "a batch of no rows is not run"


@pytest.mark.spec("H1", "H2")
@pytest.mark.parametrize(
    ("result", "ended"),
    [
        (None, ["completed", "completed"]),
        ([None, None], ["completed", "completed"]),
        ((None, Reject("no")), ["completed", "rejected"]),
        ([Retry(3), None], ["retry 3", "completed"]),
        (Retry(4), ["retry 4", "retry 4"]),
        (Reject("all"), ["rejected", "rejected"]),
    ],
)
async def test_results_of_a_batch(result: Any, ended: list[str]) -> None:
    """None, one for all, or a list with one a row."""

    @handler(batch=True)
    def many(batch: MessageBatch) -> Any:
        return result

    async with Rig(many) as rig:
        assert await rig.run(rows("a", "b", session=["s", "t"])) == ended


@pytest.mark.spec("H1", "H2")
@pytest.mark.parametrize("result", [[None], [None] * 3, "ok", 5, [True, True], {"a": 1}])
async def test_a_result_that_is_no_list_of_outcomes_is_a_failure(result: Any) -> None:
    """Of the handler, found row by row; nothing is completed that wasn't said to be."""

    @handler(batch=True)
    def many(batch: MessageBatch) -> Any:
        return result

    async with Rig(many, exceptions={QueueError: "reject"}) as rig:
        _, others = ended = await rig.call(rows("a", "b", session=["s", "t"]))
        if result == [None]:
            assert words(ended, 2) == ["completed", "completed"], "alone, one result is right"
        else:
            assert "batch handler" in json.loads(others[0].description)["message"]
            assert words(ended, 2) == ["rejected", "rejected"]


@pytest.mark.spec("H1", "H5")
async def test_a_batch_is_limited_in_rows_and_leaves_the_rest_for_the_next() -> None:
    """Rows over the limit stay in their sessions' order."""
    script = Script()
    async with Rig(script.sync(), batch_rows=3) as rig:
        batch = rows(*"abcdefgh", session=list("ssssttuv"))
        assert await rig.run(batch) == ["completed"] * 8
        assert all(len(call) <= 3 for call in script.calls)
        assert await bodies_of(rig) == list("abcd")
        assert await bodies_of(rig, "t") == list("ef")


@pytest.mark.spec("F4", "F6")
async def test_repeats_and_rows_of_a_drain_are_not_in_a_batch() -> None:
    """A repeat is completed without being seen."""
    script = Script()
    async with Rig(script.sync()) as rig:
        await rig.run(rows("a", "b"))
        assert await rig.run(rows("a", "b", "c", holding=2)) == ["completed"] * 3
        assert script.calls == [["a", "b"], ["c"]]
        call = rig.call(rows("d", first=4, holding=2))
        await rig.begun()
        await rig.core.drain()
        assert words(await call, 1) == ["released"]


@pytest.mark.spec("F4")
async def test_end_session_ends_the_states_of_the_batch() -> None:
    """The next batch starts anew."""

    @handler(state=Seen, batch=True)
    def many(batch: MessageBatch, states: States, context: Context) -> None:
        for row in batch:
            states[row.session or ""].bodies.append(row.body.decode())
        if batch[0].body == b"end":
            context.end_session()

    async with Rig(many) as rig:
        await rig.run(rows("a"))
        assert await rig.run(rows("end", first=2)) == ["completed"]
        assert (await rig.record("s")).state is None
        await rig.run(rows("b", first=3))
        assert await bodies_of(rig) == ["b"]


@pytest.mark.spec("H6", "H5")
async def test_a_batch_that_takes_too_long_is_found_row_by_row() -> None:
    """One call has the time-out of one message; the slow row alone is the attempt."""

    @handler(batch=True)
    async def many(batch: MessageBatch) -> None:
        if b"slow" in [row.body for row in batch]:
            await asyncio.sleep(1000)

    async with Rig(many, timeout=10) as rig:
        ended = await rig.run(rows("a", "slow", "b", session=list("stu")))
        assert [one[:5] for one in ended] == ["compl", "retry", "compl"]
        assert now() <= 31


@pytest.mark.spec("F6", "F3", "H5")
@pytest.mark.parametrize("first", ["ok", "raise"])
async def test_stop_running_gives_all_rows_of_a_batch_back(first: str) -> None:
    """No attempt, state undone; also when it is halving: the other half isn't begun any more."""
    calls: list[int] = []
    waits = asyncio.Event()

    @handler(state=Seen, batch=True)
    async def many(batch: MessageBatch, states: States) -> None:
        calls.append(len(batch))
        for row in batch:
            states[row.session or ""].bodies.append("x")
        if len(batch) == 4 and first == "raise":
            raise ValueError
        await waits.wait()

    async with Rig(many) as rig:
        call = rig.call(rows(*"abcd", session=list("sstu")))
        await asyncio.sleep(1)
        await rig.core.drain()
        await rig.core.stop_running()
        assert words(await call, 4) == ["released"] * 4
        assert calls == ([4, 2] if first == "raise" else [4])
        assert await rig.core.states() == {}
        assert rig.core.stats()["failed"] == 0


@pytest.mark.spec("F6", "F3")
async def test_a_prefix_cancelled_in_its_second_run_leaves_the_failed_row_uncounted() -> None:
    """The rows before it were not handled, so it may not fail or be dead-lettered before them."""

    @handler(state=Seen, batch=True)
    async def many(batch: MessageBatch, states: States) -> Any:
        if len(batch) == 2:
            return [None, Reject("no")]
        await asyncio.sleep(1000)
        return None

    async with Rig(many) as rig:
        call = rig.call(rows("a", "b"))
        await asyncio.sleep(1)
        await rig.core.drain()
        await rig.core.stop_running()
        assert words(await call, 2) == ["released", "released"]
        assert (await rig.record("s")).failure is None


@pytest.mark.spec("H3")
async def test_a_full_target_makes_the_sessions_rows_wait_uncounted() -> None:
    """From the row on whose message was not taken; the handler isn't run again for them."""
    script = Script()
    async with Rig(script.sync()) as rig:
        rig.target.errors = [QueueFull("full", retry_after=9)]
        assert await rig.run(rows("a", "send", "b")) == [
            "completed",
            "retry 9 uncounted",
            "retry 9 uncounted",
        ]
        assert await rig.run(rows("send", "b", first=2, turn=1)) == ["completed"] * 2
        assert len(script.calls) == 1
        assert [body for _, _, body in rig.target.taken] == [b"send"]


FATES = st.sampled_from(["a", "b", "raise", "retry", "reject", "error", "send", "unwritable"])


@pytest.mark.spec("H1", "F3", "F4")
@given(
    fates=st.lists(st.tuples(st.sampled_from("st"), FATES), min_size=1, max_size=8),
    form=st.sampled_from(["sync", "asynchronous"]),
    limit=st.sampled_from([2, 100]),
)
def test_each_session_is_handled_up_to_its_first_failure(
    fates: list[tuple[str, str]], form: str, limit: int
) -> None:
    """Whatever mix of rows: a completed prefix, one failed row, releases behind it; state alike."""

    async def scene() -> None:
        async with Rig(getattr(Script(), form)(), batch_rows=limit) as rig:
            batch = rows(*[fate for _, fate in fates], session=[name for name, _ in fates])
            ended = await rig.run(batch)
            sent = []
            for name in "st":
                mine = [
                    (fate, end)
                    for (one, fate), end in zip(fates, ended, strict=True)
                    if one == name
                ]
                bad = ("raise", "retry", "reject", "error", "unwritable")
                good = next((n for n, (fate, _) in enumerate(mine) if fate in bad), len(mine))
                assert all(end == "completed" for _, end in mine[:good])
                assert all(end == "released" for _, end in mine[good + 1 :])
                assert all(end not in ("completed", "released") for _, end in mine[good : good + 1])
                assert await bodies_of(rig, name) == [fate for fate, _ in mine[:good]]
                sent += [fate for fate, _ in mine[:good] if fate == "send"]
            assert len(rig.target.taken) == len(sent)
            assert not rig.errors

    loop = VirtualLoop()
    try:
        loop.run_until_complete(scene())
    finally:
        loop.close()
