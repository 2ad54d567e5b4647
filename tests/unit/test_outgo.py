"""The way out of a receiver when a router dies, is replaced, or tells of a dead handler."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from pipeline.batch import MessageBatch
from pipeline.outcomes import Kind, Part
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, NoAnswer, ProcessDied
from pipeline.stages.outgo import Call, Outgo

TABLE = SlotTable.spread(2, 2)
NAMES = [
    next(f"s{n}" for n in range(99) if TABLE.router_of(f"s{n}") == router) for router in (0, 1)
]
"""A session of each router."""


@dataclass(frozen=True)
class Me:
    name: str = "receiver"
    epoch: int = 5
    by_id: bool = False


class Router:
    """A router that notes what comes and answers when a test says so, until it dies."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.runs: list[list[str]] = []
        self.dead = False
        self.silent = False
        self._open: list[asyncio.Future[Part]] = []

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        if self.dead:
            raise ProcessDied("killed")
        self.headers.append(header)
        self.runs.append(list(batch.provider_ids()))
        if self.silent:
            raise NoAnswer("lost")
        if not len(batch):
            return Part(last=True)
        self._open.append(asyncio.get_running_loop().create_future())
        return await self._open[-1]

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        if self.dead:
            raise ProcessDied("killed")
        return Part(last=True, void=True)

    async def say(self, **given: Any) -> None:
        """Answer the oldest open call."""
        self._open.pop(0).set_result(Part(last=True, **given))
        await settle()

    async def die(self) -> None:
        """Whoever waits learns it."""
        self.dead = True
        for answer in self._open:
            answer.set_exception(ProcessDied("killed"))
        self._open.clear()
        await settle()


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """A way out to two routers; what came back of each row, and which routers changed (and when:
    after so many rows had come back)."""

    def __init__(self) -> None:
        self.routers = [Router(), Router()]
        self.back: list[tuple[int, str]] = []
        self.changed: list[tuple[int, int]] = []
        self.errors: list[BaseException] = []
        self.outgo = Outgo(
            Me(), "q", self.routers, TABLE, self._apply, self._change, self.errors.append
        )
        self._sent = 0

    @property
    def router(self) -> Router:
        """Router 0."""
        return self.routers[0]

    def _change(self, router: int) -> None:
        self.changed.append((router, len(self.back)))

    def _apply(self, call: Call, part: Part) -> None:
        self.back += [(call.rows[at], "completed") for at in part.completed]
        self.back += [(call.rows[one.row], one.kind.name.lower()) for one in part.others]

    async def send(self, *sessions: str | None, **options: Any) -> None:
        """Send a batch with a row of each of these; their numbers count on from 0."""
        count = len(sessions)
        numbers = np.arange(self._sent, self._sent + count)
        self._sent += count
        self.outgo.send(batch_of(sessions, numbers), numbers, **options)
        await settle()

    async def replace(self) -> Router:
        """Router 0's follower is made known."""
        new = self.routers[0] = Router()
        await self.outgo.join(0, new)
        await settle()
        return new


def batch_of(sessions: Sequence[str | None], numbers: Sequence[int]) -> MessageBatch:
    return MessageBatch.from_columns(
        len(sessions),
        {
            "id": [str(number) for number in numbers],
            "session": list(sessions),
            "body": [b""] * len(sessions),
        },
    )


MINE, OTHER = NAMES


@pytest.mark.spec("F7", "F2")
async def test_a_dead_routers_rows_come_back_released() -> None:
    """Those without an outcome; the other router's are not touched."""
    rig = Rig()
    await rig.send(MINE, OTHER, MINE)
    await rig.send(MINE)
    await rig.router.say(completed=[0, 1])
    await rig.router.die()
    assert rig.back == [(0, "completed"), (2, "completed"), (3, "released")]
    await rig.routers[1].say(completed=[0])
    assert rig.back[3:] == [(1, "completed")]
    assert rig.errors == []


@pytest.mark.spec("F7", "F2")
async def test_a_call_that_never_came_comes_back_released() -> None:
    """Its rows were handled by nobody.

    Before they come back it is told of: what was sent since comes back too, and no session of that
    router may go on until it has. A call that only brought notes is no exception.
    """
    rig = Rig()
    rig.router.silent = True
    await rig.send(MINE, MINE)
    await asyncio.sleep(1)
    assert rig.back == [(0, "released"), (1, "released")]
    assert rig.changed == [(0, 0)]
    rig.outgo.lose(MINE, 3)
    await asyncio.sleep(1)
    assert rig.changed == [(0, 0), (0, 2)]


@pytest.mark.spec("F7", "F3")
async def test_what_is_sent_while_a_router_is_dead_comes_back_when_the_next_one_is_there() -> None:
    """In the order of its sending: the turns it was sent in may have ended with the old router."""
    rig = Rig()
    await rig.send(MINE)
    await rig.router.die()
    assert rig.back == [(0, "released")]
    await rig.send(MINE, OTHER)
    await rig.send(MINE)
    assert rig.back == [(0, "released")], "nothing comes back at once: nobody could take it"
    assert rig.routers[1].runs == [["2"]]
    new = await rig.replace()
    assert rig.back[1:] == [(1, "released"), (3, "released")]
    await rig.send(MINE)
    assert new.runs == [["4"]]
    head = new.headers[0]
    assert (head.caller, head.epoch, head.number, head.generation) == ("receiver", 5, 1, 0)


@pytest.mark.spec("F7", "F3")
async def test_joining_waits_until_the_old_routers_calls_have_ended() -> None:
    """Its death may be learned late: its rows come back before the new router gets any."""
    rig = Rig()
    old = rig.router
    await rig.send(MINE)
    joining = asyncio.ensure_future(rig.replace())
    await asyncio.sleep(100)
    assert not joining.done()
    await old.die()
    new = await joining
    assert rig.back == [(0, "released")]
    assert new.runs == []


@pytest.mark.spec("F7")
async def test_of_two_new_routers_that_wait_only_the_newest_gets_rows() -> None:
    """The older one has died since; it takes no rows, in whatever order the two waits end."""
    rig = Rig()
    old = rig.router
    await rig.send(MINE)
    first = asyncio.ensure_future(rig.replace())
    await settle()
    died_since = rig.router
    await rig.send(MINE)
    second = asyncio.ensure_future(rig.replace())
    await settle()
    await old.say(completed=[0])  # the first wait goes on to the later call, behind the second
    await old.die()
    await first
    await second
    await rig.send(MINE)
    assert died_since.runs == []
    assert rig.router.runs == [["2"]]


@pytest.mark.spec("F6", "F7")
async def test_from_a_drain_on_nothing_waits_for_a_new_router() -> None:
    """What waits comes back, and so does what is sent then; the way can be closed."""
    rig = Rig()
    await rig.router.die()
    await rig.send(MINE)
    assert rig.back == [(0, "released")], "the death is learned by it"
    await rig.send(MINE)
    assert rig.back == [(0, "released")]
    rig.outgo.stop()
    assert rig.back == [(0, "released"), (1, "released")]
    await rig.send(MINE)
    assert rig.back[2:] == [(2, "released")]
    await rig.outgo.close()


@pytest.mark.spec("F3", "F7")
async def test_a_generation_is_told_before_what_came_with_it_and_goes_with_the_next_call() -> None:
    """Once for each; a new router begins at 0 again."""
    rig = Rig()
    for _ in range(4):
        await rig.send(MINE)
    await rig.router.say(completed=[0])
    await rig.router.say(completed=[0], generation=2)
    await rig.router.say(completed=[0], generation=2)
    await rig.router.say(completed=[0], generation=1)
    assert rig.changed == [(0, 1)]
    await rig.send(MINE, OTHER)
    assert rig.router.headers[-1].generation == 2
    assert rig.routers[1].headers[-1].generation == 0
    await rig.router.die()
    new = await rig.replace()
    await rig.send(MINE)
    assert new.headers[-1].generation == 0
    await new.say(completed=[0], generation=1)
    assert rig.changed == [(0, 1), (0, 5)]


@pytest.mark.spec("F7", "P13")
async def test_notes_for_a_dead_router_are_kept_for_the_next_one() -> None:
    """Locks that ended and turns that are over, at once; with none, nothing is said."""
    rig = Rig()
    await rig.send(MINE)
    await rig.router.die()
    rig.outgo.lose(MINE, 3)
    for _ in range(300):
        rig.outgo.close_turns(MINE, 2)
    await settle()
    assert [head.lost for head in rig.routers[1].headers] == [((MINE, 3),)]
    new = await rig.replace()
    [head] = new.headers
    assert (head.lost, head.closed) == (((MINE, 3),), ((MINE, 2),) * 300)
    await new.die()
    await rig.send(MINE)
    newer = await rig.replace()
    assert newer.headers == []


@pytest.mark.spec("F7")
async def test_a_note_that_is_lost_with_its_router_costs_nothing() -> None:
    """It has no rows; by it the death is learned."""
    rig = Rig()
    rig.router.dead = True
    rig.outgo.lose(MINE, 3)
    await settle()
    await rig.send(MINE)
    assert (rig.back, rig.router.runs, rig.errors) == ([], [], [])
    await rig.replace()
    assert rig.back == [(0, "released")]


@pytest.mark.spec("H5", "F3")
async def test_rows_that_must_run_alone_say_so_to_every_router() -> None:
    """In their call's header, and what comes back of them is still known to be such."""
    rig = Rig()
    calls: list[tuple[bool, str]] = []
    rig.outgo._apply_part = lambda call, part: calls.extend(
        (call.alone, one.kind.name) for one in part.others
    )
    await rig.send(MINE, OTHER, alone=True)
    await rig.send(MINE)
    assert [head.alone for head in rig.router.headers] == [True, False]
    assert [head.alone for head in rig.routers[1].headers] == [True]
    await rig.router.die()
    assert calls == [(True, Kind.RELEASED.name), (False, Kind.RELEASED.name)]
