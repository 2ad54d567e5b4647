"""State that outlives a run, on a real Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors.runtime import Runtime
from pipeline import Message, SerializationError
from pipeline.config import parse
from pipeline.state.port import Change
from pipeline.state.sqlite import SqliteStore

ROOT = str(Path(__file__).parents[2])


def runtime(**state: Any) -> Runtime:
    config = {
        "name": "kept",
        "connections": {"main": {"provider": "memory"}},
        "queues": {"first": {"connection": "main", "fifo": True}},
        "pipelines": {
            "one": {"queue": "first", "handler": "tests.cluster.work:in_order", "handlers": 2}
        },
        "state": state,
    }
    return Runtime(parse(config), path=[ROOT])


async def handled(run: Runtime, positions: range) -> dict[str, tuple[int, int]]:
    """Session to (messages counted, out of order) after these were handled."""
    async with run:
        await run.client.send_many(
            "first",
            [Message(str(at).encode(), session=f"s{one}") for at in positions for one in range(9)],
        )
        await run.until_empty()
        states = (await run.states())["one"]
    return {session: (seen.count, seen.out_of_order) for session, seen in states.items()}


@pytest.mark.spec("F4", "F9")
async def test_the_next_run_goes_on_with_the_state(ray_cluster: None, tmp_path: Path) -> None:
    """Two handlers share the file of two runs; a run that begins anew forgets it."""
    path = str(tmp_path / "x.sqlite")
    sessions = [f"s{one}" for one in range(9)]
    assert await handled(runtime(path=path), range(5)) == dict.fromkeys(sessions, (5, 0))
    assert await handled(runtime(path=path), range(5, 8)) == dict.fromkeys(sessions, (8, 0))
    anew = await handled(runtime(path=path, fresh=True), range(4))
    assert anew == dict.fromkeys(sessions, (4, 0))


@pytest.mark.spec("F4")
async def test_state_in_memory_ends_with_the_run(ray_cluster: None) -> None:
    """As the configuration says."""
    sessions = [f"s{one}" for one in range(9)]
    for _ in range(2):
        kept = await handled(runtime(store="memory"), range(3))
        assert kept == dict.fromkeys(sessions, (3, 0))


@pytest.mark.spec("F4", "P10")
async def test_a_state_that_can_not_be_read_is_told(ray_cluster: None, tmp_path: Path) -> None:
    """With its session: here it was written by a newer handler."""
    store = SqliteStore(tmp_path / "x.sqlite", "one", lambda: 1.7e9)
    await store.start()
    await store.commit([Change("s1", 0, "q", state=b"{}", writes_state=True, schema=2)])
    await store.close()
    async with runtime(path=str(tmp_path / "x.sqlite")) as run:
        with pytest.raises(
            SerializationError, match=r"session 's1' can't be read: .*newer handler"
        ):
            await run.states()
