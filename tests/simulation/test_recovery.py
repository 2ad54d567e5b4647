"""Processes that die in the middle of the flow: what comes of the rows they had."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.handlers.api import Context, Handler, Retry, handler
from pipeline.ledger import Ledger
from pipeline.message import Message
from pipeline.providers.port import Want
from pipeline.retry import RetryPolicy
from pipeline.slots import SlotTable
from pipeline.stages.again import Again
from pipeline.state.memory import MemoryStore
from pipeline.testing.flow import FlowSettings
from pipeline.turns import Held
from tests.simulation.crew import Crew

NATIVE: dict[str, Any] = {"fifo": True, "sessions": "native"}
GROUPS: dict[str, Any] = {"fifo": True, "sessions": "groups"}
UNORDERED: list[dict[str, Any]] = [{}, {"count": "on_receive"}]
ALL = [NATIVE, GROUPS, *UNORDERED]
every_queue = pytest.mark.parametrize("queue", ALL, ids=str)


def now() -> float:
    return asyncio.get_running_loop().time()


def crew_of(function: Handler, queue: dict[str, Any], **settings: Any) -> Crew:
    """One whose handlers keep what they have written, unless `store_of` says otherwise."""
    stores: defaultdict[int, MemoryStore] = defaultdict(MemoryStore)
    given: dict[str, Any] = {
        "store_of": stores.__getitem__,
        "retry": RetryPolicy(3, 1.0, 10.0, 2.0, jitter="half"),
    } | settings
    return Crew(
        function,
        FlowSettings(queue=MemoryQueue(connection="m", **queue), **given),
        SeededClock(asyncio.get_running_loop().time, 1),
    )


async def send(crew: Crew, *bodies: str) -> None:
    """Send bodies; what stands before the colon is the session."""
    await crew.flow.send([Message(body.encode(), session=body.split(":")[0]) for body in bodies])


def numbered(sessions: list[str], first: int, count: int) -> list[str]:
    """So many bodies of each session, one session after the other in turn."""
    return [f"{name}:{number:02}" for number in range(first, first + count) for name in sessions]


def of(log: list[str], session: str) -> list[str]:
    """What was handled of a session."""
    return [body for body in log if body.startswith(f"{session}:")]


async def dead_letters(crew: Crew) -> dict[str, dict[str, Any]]:
    """Body to what is said of it, with its reason."""
    broker = crew.flow.broker
    lane = await broker.open_lane("queue", dead_letters=True)
    got = await broker.receive(lane, Want(messages=100, new_sessions=100))
    return {
        delivery.body.decode(): json.loads(delivery.dead_letter_description or "{}")
        | {"reason": delivery.dead_letter_reason}
        for delivery in got.batch
    }


async def settled(crew: Crew, *, completed: int, dead: int = 0) -> None:
    """Wait for the end: every message has one, none was lost or given back on the way."""
    async with asyncio.timeout(2_000):
        await crew.flow.settled()
    counters = await crew.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (completed, dead)
    assert (counters.lock_lost, counters.abandoned) == (0, 0)


# --- routers --------------------------------------------------------------------------------------


def per_router(count: int) -> list[list[str]]:
    """So many sessions of each of two routers."""
    table = SlotTable.spread(2, 2)
    names = [f"s{number}" for number in range(100)]
    return [[name for name in names if table.router_of(name) == at][:count] for at in (0, 1)]


@pytest.mark.spec("F7", "F2", "F3")
@every_queue
async def test_a_dead_routers_rows_go_to_the_next_one_in_order(queue: dict[str, Any]) -> None:
    """What its handlers had is not handled twice; what was sent meanwhile waits its turn."""
    log: list[str] = []

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(0.2)
        log.append(body)

    crew = crew_of(slow, queue, routers=2, handlers=2, batch_rows=3)
    mine, others = per_router(2)
    sessions = [*mine, *others]
    await send(crew, *numbered(sessions, 0, 10))
    async with crew:
        await asyncio.sleep(0.5)
        crew.kill_router(0)
        await send(crew, *numbered(sessions, 10, 5))
        await asyncio.sleep(30)
        way = crew.flow.receivers[0]._outgo._ways[0]
        assert way.line.dead
        assert way.waiting != []
        if queue.get("fifo"):
            assert [len(of(log, name)) for name in others] == [15, 15]
            assert all(len(of(log, name)) < 15 for name in mine)
        await crew.replace_router(0)
        assert way.waiting == []
        await settled(crew, completed=60)
    assert sorted(log) == sorted(numbered(sessions, 0, 15))
    if queue.get("fifo"):
        for name in sessions:
            assert of(log, name) == numbered([name], 0, 15)


@pytest.mark.spec("F7", "F6", "F2")
@every_queue
async def test_a_drain_while_a_router_is_dead_gives_everything_back(queue: dict[str, Any]) -> None:
    """Nothing waits for a router that will not come, and nothing stays locked."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(1000)

    crew = crew_of(slow, queue)
    await send(crew, *numbered(["a", "b"], 0, 10))
    await crew.flow.start()
    await asyncio.sleep(1)
    crew.kill_router(0)
    await send(crew, *numbered(["a", "b"], 10, 10))
    await asyncio.sleep(1)
    assert crew.flow.receivers[0].stats()["in_hand"] > 0
    assert await crew.flow.close() == 0
    depth = await crew.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (40, 0)


@pytest.mark.spec("F3", "F6", "F7")
@pytest.mark.parametrize("queue", [NATIVE, GROUPS], ids=str)
async def test_what_a_dead_routers_handler_runs_is_not_given_back_before_it_ends(
    queue: dict[str, Any],
) -> None:
    """Somebody else could get it meanwhile; what has not begun at all is given back at once."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(20)

    crew = crew_of(slow, queue, handlers=1)
    await send(crew, *numbered(["a"], 0, 3))
    await crew.flow.start()
    await asyncio.sleep(1)
    crew.kill_router(0)
    await asyncio.sleep(1)
    await send(crew, *numbered(["b"], 0, 3))
    await asyncio.sleep(1)
    [receiver], [one] = crew.flow.receivers, crew.flow.handlers
    await receiver.stop_receiving()
    await one.drain()
    await asyncio.sleep(10)
    depth = await crew.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (3, 3)
    await one.idle()
    assert now() > 19
    await receiver.nothing_runs()
    await receiver.idle()
    depth = await crew.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (6, 0)
    assert await crew.flow.close() == 0


@pytest.mark.spec("F3", "F6", "F7")
async def test_what_a_dead_router_had_is_finished_where_another_one_comes() -> None:
    """A receiver that ends alone waits for the handler to tell, and all it had is settled."""
    log: list[str] = []

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(5)
        log.append(body)

    crew = crew_of(slow, NATIVE, handlers=1)
    await send(crew, *numbered(["a"], 0, 3))
    await crew.flow.start()
    await asyncio.sleep(1)
    crew.kill_router(0)
    [receiver] = crew.flow.receivers
    await receiver.stop_receiving()
    await asyncio.sleep(10)
    assert receiver.stats()["in_hand"] == 3
    await crew.replace_router(0)
    await receiver.idle()
    assert log[0] == "a:00"
    assert log == sorted(set(log))
    depth = await crew.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (3 - len(log), 0)
    await crew.flow.close()


@pytest.mark.spec("F7", "F3", "H5")
async def test_a_row_that_failed_at_the_dead_routers_handler_is_still_the_first() -> None:
    """Its failure is in the record, its outcome was lost: it runs again, as the second attempt."""
    log: list[tuple[str, int]] = []

    @handler
    async def fails(body: str, context: Context) -> Any:
        await asyncio.sleep(1)
        log.append((body, context.attempt))
        return Retry(5.0) if body == "s:00" and context.attempt == 1 else None

    crew = crew_of(fails, NATIVE)
    await send(crew, *numbered(["s"], 0, 3))
    async with crew:
        await asyncio.sleep(0.5)
        crew.kill_router(0)
        await asyncio.sleep(3)
        assert log == [("s:00", 1)]
        await crew.replace_router(0)
        await settled(crew, completed=3)
    assert log[1:] == [("s:00", 2), ("s:01", 1), ("s:02", 1)]


# --- handlers -------------------------------------------------------------------------------------


def killing(
    log: list[tuple[str, int]], crew: Callable[[], Crew], when: Callable[[str, int], bool]
) -> Handler:
    """A handler whose process dies of some messages, at some attempts."""
    falls: set[asyncio.Task[None]] = set()

    @handler
    async def kills(body: str, context: Context) -> None:
        log.append((body, context.attempt))
        if when(body, context.attempt):
            fall = asyncio.ensure_future(crew().fall(0))
            falls.add(fall)
            await asyncio.sleep(1000)
        await asyncio.sleep(0.1)

    return kills


@pytest.mark.spec("H5", "F7", "F2", "F3")
@pytest.mark.parametrize("forgets", [False, True], ids=["record known", "record lost"])
@every_queue
async def test_a_message_that_kills_its_process_is_found_and_ends_as_a_dead_letter(
    queue: dict[str, Any], forgets: bool
) -> None:
    """After three deaths that were its alone; all others are completed, on their first attempt."""
    log: list[tuple[str, int]] = []
    made = {"store_of": lambda _: MemoryStore()} if forgets else {}
    crew = crew_of(
        killing(log, lambda: crew, lambda body, _: body == "b:02"),
        queue,
        messages=64,
        **made,
    )
    sessions = ["a", "b", "c"]
    await send(crew, *numbered(sessions, 0, 6))
    async with crew:
        await settled(crew, completed=17, dead=1)
        assert crew.flow.receivers[0].stats()["dead_lettered"] == 1
        letters = await dead_letters(crew)
    assert list(letters) == ["b:02"]
    about = letters["b:02"]
    assert (about["reason"], about["error"], about["attempts"]) == (
        "attempts_exhausted",
        "HandlerDied",
        3,
    )
    assert crew.deaths >= 3
    assert {attempt for body, attempt in log if body != "b:02"} == {1}
    assert [attempt for body, attempt in log if body == "b:02"][-1] == 3
    if queue.get("fifo"):
        seen = list(dict.fromkeys(body for body, _ in log))
        for name in sessions:
            assert of(seen, name) == numbered([name], 0, 6)


@pytest.mark.spec("H5", "F7")
@every_queue
async def test_one_death_is_one_attempt_of_the_message_that_was_alone(
    queue: dict[str, Any],
) -> None:
    """The only one in hand: its second attempt completes it."""
    log: list[tuple[str, int]] = []
    crew = crew_of(killing(log, lambda: crew, lambda _, attempt: attempt == 1), queue)
    await send(crew, "a:00")
    async with crew:
        await settled(crew, completed=1)
    assert log == [("a:00", 1), ("a:00", 2)]


@pytest.mark.spec("H5", "F7")
async def test_after_a_death_the_rows_in_hand_run_one_by_one() -> None:
    """In calls of one row that say so; those that come later go together again."""
    log: list[tuple[str, int]] = []
    crew = crew_of(
        killing(log, lambda: crew, lambda body, _: body == "a:00" and not crew.deaths), NATIVE
    )
    await send(crew, *numbered(["a", "b", "c"], 0, 1))
    async with crew:
        await asyncio.sleep(0.05)
        old = crew.line(crew.flow.handlers[0])
        await asyncio.sleep(5)
        new = crew.line(crew.flow.handlers[0])
        await send(crew, *numbered(["a", "b", "c"], 1, 1))
        await settled(crew, completed=6)
    assert [header.alone for header in old.headers] == [False]
    assert [header.alone for header in new.headers] == [True, True, True, False]


@pytest.mark.spec("F3", "F7")
async def test_a_handlers_death_stops_the_sessions_with_rows_at_its_router() -> None:
    """They go on in a new turn; those of another router, or with nothing out, in their old one."""
    fences: defaultdict[str, list[int]] = defaultdict(list)

    @handler
    async def slow(body: str, context: Context) -> None:
        await asyncio.sleep(0.5)
        fences[body.split(":")[0]].append(context.fence)

    # Handlers 0 and 2 are router 0's, handler 1 is router 1's.
    crew = crew_of(slow, NATIVE, routers=2, handlers=3)
    names = [f"s{number}" for number in range(200)]
    dead, beside, far, idle = (
        [name for name in names if crew.table.handler_of(name) == at][nth]
        for at, nth in ((0, 0), (2, 0), (1, 0), (2, 1))
    )
    busy = [dead, beside, far]
    await send(crew, f"{idle}:00")
    async with crew:
        await asyncio.sleep(1)
        await send(crew, *numbered(busy, 0, 4))
        await asyncio.sleep(0.7)
        crew.kill_handler(0)
        await asyncio.sleep(0.1)
        await send(crew, *numbered(busy, 4, 2))
        await send(crew, f"{idle}:01")
        await asyncio.sleep(5)
        await crew.replace_handler(0)
        await settled(crew, completed=20)
    turns = {name: [fence - fences[name][0] for fence in fences[name]] for name in fences}
    assert turns[far] == [0] * 6
    assert turns[idle] in ([0, 0], [1, 0])
    assert sorted(set(turns[beside])) == [0, 1]
    assert sorted(set(turns[dead])) == [0, 1]
    assert all(turns[name] == sorted(turns[name]) for name in turns)


@pytest.mark.spec("F6", "F7", "F2")
@every_queue
async def test_a_drain_while_a_handler_is_dead_gives_everything_back(queue: dict[str, Any]) -> None:
    """What waits for its follower at the router comes back, and nothing is counted."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(1000)

    crew = crew_of(slow, queue)
    await send(crew, *numbered(["a", "b"], 0, 10))
    await crew.flow.start()
    await asyncio.sleep(1)
    crew.kill_handler(0)
    await asyncio.sleep(1)
    assert crew.flow.routers[0].stats()["waiting"] == 20
    assert await crew.flow.close() == 0
    depth = await crew.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (20, 0)
    assert (await crew.flow.broker.counters("queue")).abandoned == 0


# --- receivers ------------------------------------------------------------------------------------


@pytest.mark.spec("F7", "F2", "F3", "F4")
@pytest.mark.parametrize("queue", [NATIVE, GROUPS], ids=str)
async def test_what_a_dead_receiver_had_comes_again_and_is_not_applied_twice(
    queue: dict[str, Any],
) -> None:
    """Its locks end; the handlers know what they applied, and its follower begins at call 1."""

    @handler(state=list)
    async def slow(body: str, state: list[str]) -> None:
        await asyncio.sleep(0.2)
        state.append(body)

    crew = crew_of(slow, queue | {"visibility": 30.0})
    await send(crew, *numbered(["a", "b"], 0, 10))
    async with crew:
        await asyncio.sleep(0.5)
        crew.kill_receiver(0)
        await asyncio.sleep(1)
        await crew.replace_receiver(0)
        await crew.flow.settled()
        states = await crew.flow.states()
        counters = await crew.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (20, 0)
    assert {name: json.loads(state) for name, state in states.items()} == {
        name: numbered([name], 0, 10) for name in ("a", "b")
    }


# --- the rows that go out again -------------------------------------------------------------------


class Sends:
    """Rows on their way out, as `Again` sends them."""

    def __init__(self, count: int) -> None:
        self.sent: list[tuple[list[int], bool, list[int]]] = []
        ledger = Ledger()
        lot = ledger.admit(
            list(range(count)),
            (),
            np.zeros(count, np.int32),
            np.arange(count),
            np.ones(count, np.int32),
            np.zeros(count),
            [str(number) for number in range(count)],
            1,
        )
        self.base = lot.base
        self.batch = MessageBatch.from_columns(
            count, {"id": [str(number) for number in range(count)], "body": [b""] * count}
        )
        self.again = Again(ledger, lambda row: True, self._send, lambda rows: None)

    def _send(self, batch: MessageBatch, rows: Any, *, alone: bool) -> None:
        places = [row - self.base for row in rows]
        self.sent.append((places, alone, list(batch.values("failures"))))

    def held(self, place: int, failures: int = 0, *, alone: bool = False) -> Held:
        return Held(place, self.base + place, self.batch, place, failures, alone)


@pytest.mark.spec("H5", "F3")
async def test_what_stands_before_a_row_that_must_run_alone_runs_alone_too() -> None:
    """Of its session; what stands behind it, and other sessions' rows, go together after that."""
    sends = Sends(6)
    held = sends.held
    sends.again.now([held(0), held(1)], 1)
    sends.again.now([held(2), held(3, 2, alone=True), held(4)], 1)
    sends.again.now([held(5, alone=True)], 0)
    await asyncio.sleep(1)
    assert sends.sent == [([2, 3, 5], True, [0, 2, 0]), ([0, 1, 4], False, [0, 0, 0])]


@pytest.mark.spec("H5")
async def test_counted_deaths_travel_with_a_row_that_waits() -> None:
    """And one that was taken or forgotten meanwhile does not go."""
    sends = Sends(3)
    for place in range(3):
        sends.again.later(sends.held(place, place + 1, alone=place == 0), 5.0)
    assert len(sends.again) == 3
    assert sends.again.forget(sends.base + 1)
    assert not sends.again.forget(sends.base + 1)
    await asyncio.sleep(10)
    assert sends.sent == [([0], True, [1]), ([2], False, [3])]
    sends.again.later(sends.held(1), 5.0)
    assert sends.again.take() == [sends.base + 1]
    await asyncio.sleep(10)
    assert len(sends.sent) == 2
