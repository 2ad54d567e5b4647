"""States that end, and states of another version of their type, in the handler core."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.errors import SerializationError
from pipeline.handlers.api import Context, Keeping, States, handler
from pipeline.handlers.run import StateCodec
from pipeline.outcomes import Reason
from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change
from tests.unit.handler_rig import Rig, now, rows


@dataclass
class Tally:
    count: int = 0


def counter(seen: list[int], **kept: Any) -> Any:
    @handler(state=Tally, **kept)
    async def count(body: str, tally: Tally, context: Context) -> None:
        seen.append(tally.count)
        tally.count += 1
        if body == "fail":
            raise ValueError(body)
        if body == "end":
            context.end_session()

    return count


@pytest.mark.spec("F4", "F11")
async def test_a_record_that_another_process_made_anew_is_not_taken_for_the_one_before() -> None:
    """It was deleted meanwhile, and has come to the same version: the state is read again."""
    seen: list[int] = []
    store = MemoryStore(now=now)
    async with Rig(counter(seen), store=store) as one, Rig(counter(seen), store=store) as other:
        assert await one.run(rows("a", "b")) == ["completed"] * 2
        store._records.clear()
        assert await other.run(rows("c", first=3, holding=2)) == ["completed"]
        assert (await one.record("s")).version == 1
        assert await one.run(rows("d", first=4, holding=3)) == ["completed"]
        assert seen == [0, 1, 0, 1]


# --- time to live ---------------------------------------------------------------------------------


@pytest.mark.spec("F4")
async def test_a_state_lives_so_long_after_its_session_s_last_commit() -> None:
    """Then the session starts anew, though the state is still in the handler's cache."""
    seen: list[int] = []
    async with Rig(counter(seen, ttl=60.0)) as rig:
        assert await rig.run(rows("a")) == ["completed"]
        await asyncio.sleep(59)
        assert await rig.run(rows("b", first=2)) == ["completed"]
        await asyncio.sleep(59)
        assert await rig.run(rows("c", first=3)) == ["completed"]
        await asyncio.sleep(61)
        assert await rig.run(rows("d", first=4)) == ["completed"]
        assert seen == [0, 1, 2, 0]
        assert await rig.run(rows("b", first=2, turn=1)) == ["completed"], "a repeat all the same"
        assert seen == [0, 1, 2, 0]


@pytest.mark.spec("F4")
async def test_a_failure_is_a_commit_as_well() -> None:
    """A session that waits for a retry keeps its state; where there is none, none comes."""
    seen: list[int] = []
    async with Rig(counter(seen, ttl=60.0)) as rig:
        await rig.run(rows("a"))
        await asyncio.sleep(50)
        assert (await rig.run(rows("fail", first=2)))[0].startswith("retry")
        await asyncio.sleep(50)
        await rig.run(rows("fail", first=2, turn=1))
        assert seen == [0, 1, 1]
        await asyncio.sleep(61)
        await rig.run(rows("b", first=2, turn=2))
        assert seen == [0, 1, 1, 0]
        await rig.run(rows("fail", session="new"))
        assert (await rig.record("new")).expires_at is None


@pytest.mark.spec("F4")
async def test_without_a_time_to_live_a_state_stays() -> None:
    """Until the handler ends it."""
    seen: list[int] = []
    async with Rig(counter(seen)) as rig:
        await rig.run(rows("a"))
        await asyncio.sleep(1e6)
        await rig.run(rows("end", first=2))
        assert (await rig.record("s")).state is None
        await rig.run(rows("b", first=3))
        assert seen == [0, 1, 0]


@pytest.mark.spec("F4", "H1")
async def test_a_batch_handler_s_states_end_as_well() -> None:
    """Each with its own session."""
    seen: list[int] = []

    @handler(state=Tally, batch=True, ttl=10.0)
    def count(states: States) -> None:
        for tally in states.values():
            seen.append(tally.count)
            tally.count += 1

    async with Rig(count) as rig:
        await rig.run(rows("a"))
        await asyncio.sleep(9)
        await rig.run(rows("b", first=2))
        await asyncio.sleep(11)
        await rig.run(rows("c", first=3))
        assert seen == [0, 1, 0]


# --- versions -------------------------------------------------------------------------------------


def renamed(old: dict[str, Any], version: int) -> dict[str, Any]:
    """From version 1, which called it `n`."""
    if version != 1:
        raise ValueError(f"no version {version}")
    return {"count": old["n"]}


async def written(store: MemoryStore, text: bytes, schema: int) -> None:
    """A state that an earlier handler wrote."""
    change = Change("s", 0, "src", state=text, writes_state=True, schema=schema)
    assert await store.commit([change]) == [None]


@pytest.mark.spec("F4")
async def test_an_older_state_is_migrated_and_written_with_the_new_version() -> None:
    """When its session's next message is handled."""
    seen: list[int] = []
    store = MemoryStore(now=now)
    await written(store, b'{"n":7}', 1)
    async with Rig(counter(seen, version=2, migrate=renamed), store=store) as rig:
        assert (await rig.run(rows("fail")))[0].startswith("retry")
        record = await rig.record("s")
        assert (record.state, record.schema) == (b'{"n":7}', 1), "a failed message changes nothing"
        assert await rig.run(rows("a", turn=1)) == ["completed"]
        record = await rig.record("s")
        assert (record.state, record.schema) == (b'{"count":8}', 2)
        assert await rig.run(rows("b", first=2)) == ["completed"]
        assert seen == [7, 7, 8]


@pytest.mark.spec("F4", "H5")
@pytest.mark.parametrize(
    ("schema", "kept", "told"),
    [
        (1, {"version": 2}, "written with version 1 and this handler's is 2: give @handler"),
        (3, {"version": 2, "migrate": renamed}, "written with version 3 and this handler knows 2"),
        (2, {"version": 3, "migrate": renamed}, "did not make it of version 2 (ValueError: no ver"),
        (1, {"version": 2, "migrate": lambda old, version: old["x"]}, "version 1 (KeyError: 'x')"),
        (1, {}, "raise @handler's version and give it a migrate"),
        (1, {"version": 2, "migrate": lambda old, version: [old]}, "1 validation error for Tally"),
        (1, {"version": 2, "migrate": lambda old, version: {"count": "x"}}, "valid integer"),
    ],
)
async def test_a_state_that_can_not_be_read_is_never_overwritten(
    schema: int, kept: dict[str, Any], told: str
) -> None:
    """Its message fails by the retry policy and ends as a dead letter that says why."""
    seen: list[int] = []
    store = MemoryStore(now=now)
    await written(store, b'{"n":7, "count":"x"}', schema)
    async with Rig(counter(seen, **kept), store=store) as rig:
        for turn in range(2):
            (word,) = await rig.run(rows("a", turn=turn))
            assert word.startswith("retry")
        _, others = await rig.call(rows("a", turn=2))
        assert others[0].reason == Reason.ATTEMPTS
        assert "the session's state can't be read" in others[0].description
        assert told in others[0].description
        record = await rig.record("s")
        assert (record.state, record.schema) == (b'{"n":7, "count":"x"}', schema)
    assert not seen


@pytest.mark.spec("F4")
def test_the_codec_reads_what_was_written_with_its_version_as_it_is() -> None:
    """The migration is asked for older ones alone."""
    codec = StateCodec(Tally, Keeping(None, 2, renamed))
    assert codec.load(b'{"count":1}', 2) == Tally(1)
    assert codec.load(b'{"n":1}', 1) == Tally(1)
    with pytest.raises(SerializationError, match="run the newer handler"):
        codec.load(b"{}", 3)
