"""The supervisor replaces actors that are dead, silent or stuck, and says so meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest

from pipeline.errors import ConfigurationError, ConnectionFailed, Timeout
from pipeline.providers.port import Depth
from pipeline.stages.calls import NoAnswer, ProcessDied
from pipeline.stages.drain import Limits
from pipeline.stages.supervisor import Figures, Parts, Said, Supervisor
from pipeline.telemetry.counters import Histogram

SILENT = "never answers"


def now() -> float:
    return asyncio.get_running_loop().time()


class Place:
    """The place of an actor: says `said`; what its replacement does, and when, is told before."""

    def __init__(self, name: str, said: Said | Exception | str) -> None:
        self.name = name
        self.said = said
        self.next: Said | Exception | str = Said()
        self.fails: list[Exception] = []
        self.takes = 0.0
        self.journal: list[Any] = []
        self.asked = 0

    async def stats(self) -> Said:
        self.asked += 1
        if self.said == SILENT:
            await asyncio.Event().wait()
        if isinstance(self.said, Exception):
            raise self.said
        assert isinstance(self.said, Said)
        return self.said

    async def replace(self) -> None:
        self.journal.append(("replace", now()))
        await asyncio.sleep(self.takes)
        if self.fails:
            raise self.fails.pop(0)
        self.said = self.next

    async def blame(self, rows: Sequence[tuple[int, int]]) -> None:
        self.journal.append(("blame", tuple(rows)))

    async def close(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        async def step() -> None: ...

        return step


async def no_depth(queue: str) -> Depth:
    return Depth(available=0, in_hand=0, scheduled=0)


class Rig:
    """A supervisor of one pipeline with a receiver, a router and a handler."""

    def __init__(self, answer: float = 30.0) -> None:
        self.receiver = Place("receiver", Said({"received": 1}))
        self.router = Place("router", Said({"calls": 1}))
        self.handler = Place("handler", Said({"handled": 1}))
        self.supervisor = Supervisor(
            {"p": Parts("q", True, [self.receiver], [self.router], [self.handler])},
            no_depth,
            Limits(),
            answer,
        )

    @property
    def places(self) -> list[Place]:
        return [self.receiver, self.router, self.handler]

    async def look(self) -> Figures:
        """One look, and some time for what it began."""
        figures = (await self.supervisor.look())["p"]
        await asyncio.sleep(0.001)
        return figures

    def empty(self, figures: Figures) -> bool:
        return self.supervisor.empty({"p": figures})


KINDS = pytest.mark.parametrize("kind", ["receiver", "router", "handler"])


@KINDS
@pytest.mark.spec("F7")
async def test_a_dead_actor_is_replaced_once(kind: str) -> None:
    """However often it is looked at meanwhile; it is not asked, and nothing is taken for empty."""
    rig = Rig()
    place = getattr(rig, kind)
    place.said, place.takes = ProcessDied("the actor is gone"), 10.0
    assert rig.empty(Figures(depth=await no_depth("q")))
    for _ in range(3):
        figures = await rig.look()
        assert figures.missing == [f"{kind}: is being replaced: the actor is gone"]
        assert (figures.errors, figures.replaced) == ([], 0)
        assert not rig.empty(figures)
        await asyncio.sleep(1)
    assert place.asked == 1
    await asyncio.sleep(10)
    figures = await rig.look()
    assert (figures.missing, figures.replaced) == ([], 1)
    assert rig.empty(figures)
    assert len(place.journal) == 1
    assert [other.journal for other in rig.places if other is not place] == [[], []]


@pytest.mark.spec("F7", "O1")
async def test_what_a_dead_actor_counted_counts_on() -> None:
    """Counters and latencies add up over its followers; what it had in hand ended with it."""
    rig = Rig()
    first, second = Histogram(), Histogram()
    first.add([0.5, 0.5])
    second.add([2.0])
    gauges = dict.fromkeys(("in_hand", "bytes_in_hand", "sessions", "waiting", "empty_receives"), 9)
    handlers = {"running": 4, "unsent": 3, "waiting": 2}
    rig.receiver.said = Said({"received": 5, "completed": 4} | gauges, latency=first.counts)
    rig.handler.said = Said({"handled": 7} | handlers)
    figures = await rig.look()
    assert figures.receivers == {"received": 5, "completed": 4} | gauges
    for place in (rig.receiver, rig.handler):
        place.said, place.takes = ProcessDied("gone"), 1.0
    rig.receiver.next = Said({"received": 2, "in_hand": 1}, latency=second.counts)
    rig.handler.next = Said({"handled": 1, "running": 1})
    # While nobody is there the counters stand still.
    figures = await rig.look()
    assert figures.receivers == {"received": 5, "completed": 4}
    assert figures.handlers == {"handled": 7}
    assert figures.latency.total == 2
    await asyncio.sleep(2)
    figures = await rig.look()
    assert figures.receivers == {"received": 7, "completed": 4, "in_hand": 1}
    assert figures.handlers == {"handled": 8, "running": 1}
    assert figures.latency.total == 3
    # And over a second death.
    rig.receiver.said = ProcessDied("gone")
    await rig.look()
    await asyncio.sleep(2)
    figures = await rig.look()
    assert figures.receivers == {"received": 9, "completed": 4, "in_hand": 1}
    assert (figures.latency.total, figures.replaced) == (4, 3)


@KINDS
@pytest.mark.spec("F7", "P10")
@pytest.mark.parametrize("how", [SILENT, NoAnswer("no answer")], ids=["silent", "unreachable"])
async def test_an_actor_that_is_silent_for_too_long_is_replaced(kind: str, how: Any) -> None:
    """Until then it is only said to be missing, and it may come back."""
    rig = Rig(answer=10.0)
    place = getattr(rig, kind)
    await rig.look()
    place.said, place.takes = how, 1.0
    began = now()
    while not place.journal:
        figures = await rig.look()
        assert figures.missing[0].startswith(f"{kind}: ")
        assert not rig.empty(figures)
        await asyncio.sleep(1)
    assert 10 <= place.journal[0][1] - began < 13
    figures = await rig.look()
    assert figures.missing == []
    assert (figures.replaced, len(place.journal)) == (1, 1)


@pytest.mark.spec("F7")
async def test_an_actor_that_answers_late_is_not_replaced() -> None:
    """One question is open at a time; its answer begins the patience anew."""
    rig = Rig(answer=10.0)
    rig.handler.said = NoAnswer("away")
    for _ in range(20):
        await rig.look()
        await asyncio.sleep(0.4)
    rig.handler.said = Said({"handled": 2})
    figures = await rig.look()
    assert (figures.missing, figures.handlers) == ([], {"handled": 2})
    rig.handler.said = SILENT
    asked = rig.handler.asked
    for _ in range(5):
        figures = await rig.look()
    assert figures.missing == ["handler: does not answer"]
    assert figures.handlers == {"handled": 2}, "what it said last"
    assert rig.handler.asked == asked + 1
    assert rig.handler.journal == []


@pytest.mark.spec("F7")
async def test_a_replacement_has_a_patience_of_its_own() -> None:
    """It may need as long for its first answer as the one before it had for its last."""
    rig = Rig(answer=10.0)
    await rig.look()
    rig.handler.said = rig.handler.next = NoAnswer("away")
    while len(rig.handler.journal) < 3:
        await rig.look()
        await asyncio.sleep(1)
    times = [at for _, at in rig.handler.journal]
    assert all(after - before >= 10 for before, after in pairwise(times))


@pytest.mark.spec("F7")
async def test_a_look_at_a_crew_that_is_all_dead_waits_for_nobody() -> None:
    """All are being replaced: nobody is asked, all are missing, and they come back."""
    rig = Rig()
    for place in rig.places:
        place.said, place.takes = ProcessDied("gone"), 5.0
    await rig.look()
    began = now()
    figures = (await rig.supervisor.look())["p"]
    assert now() == began
    assert [told.split(":")[0] for told in figures.missing] == ["receiver", "router", "handler"]
    await asyncio.sleep(6)
    figures = await rig.look()
    assert (figures.missing, figures.replaced) == ([], 3)


@pytest.mark.spec("H6", "H5", "F7")
async def test_rows_that_ran_for_too_long_are_blamed_before_their_process_is_ended() -> None:
    """Who will miss them has to know which they were, also when it is tried again."""
    rig = Rig()
    rig.handler.said = Said({"handled": 1}, overdue=[(1, 4, 2)])
    rig.handler.fails = [Timeout("no room")]
    figures = await rig.look()
    assert figures.missing == [
        "handler: is being replaced: it ran a message for longer than its time-out"
    ]
    await asyncio.sleep(5)
    assert [step[0] for step in rig.handler.journal] == ["blame", "replace"] * 2
    assert rig.handler.journal[0][1] == ((1, 4, 2),)
    assert (await rig.look()).replaced == 1


@pytest.mark.spec("F7")
async def test_nobody_is_blamed_for_a_death() -> None:
    """What a dead process had in hand its router knows."""
    rig = Rig()
    rig.handler.said = ProcessDied("gone")
    await rig.look()
    assert [step[0] for step in rig.handler.journal] == ["replace"]


@pytest.mark.spec("F7", "R1")
async def test_a_replacement_that_can_not_be_had_is_tried_again() -> None:
    """With pauses that double up to half a minute, for as long as it takes."""
    rig = Rig()
    rig.router.said = ProcessDied("gone")
    rig.router.fails = [Timeout("no CPU"), ConnectionFailed("x"), *[ProcessDied("again")] * 6]
    await rig.look()
    for _ in range(200):
        figures = await rig.look()
        if not figures.missing:
            break
        assert figures.errors == []
        await asyncio.sleep(1)
    times = [at for _, at in rig.router.journal]
    pauses = [after - before for before, after in pairwise(times)]
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 30, 30, 30])
    assert figures.replaced == 1


@pytest.mark.spec("F7", "P10")
@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ConfigurationError("no such module"), "ConfigurationError: no such module"),
        (RuntimeError("a defect"), "RuntimeError: a defect"),
    ],
    ids=["configuration", "defect"],
)
async def test_a_replacement_that_can_never_be_had_is_an_error(error: Exception, told: str) -> None:
    """A defect is not tried again, a configuration for a minute; and nothing counts as empty."""
    rig = Rig()
    rig.handler.said, rig.handler.fails = ProcessDied("gone"), [error] * 9
    await rig.look()
    await asyncio.sleep(100)
    figures = await rig.look()
    assert figures.errors == [f"handler: can't be replaced: {told}"]
    assert not rig.empty(figures)
    assert len(rig.handler.journal) == (7 if isinstance(error, ConfigurationError) else 1)
    await rig.supervisor.drain()


@pytest.mark.spec("C6", "F7")
async def test_a_configuration_that_is_wrong_for_a_moment_ends_no_run() -> None:
    """As where the file of keys is being replaced when an actor dies."""
    rig = Rig()
    error = ConfigurationError("there is no key set yet")
    rig.handler.said, rig.handler.fails = ProcessDied("gone"), [error] * 3
    await rig.look()
    await asyncio.sleep(20)
    figures = await rig.look()
    assert (figures.errors, figures.replaced) == ([], 1)
    await rig.supervisor.drain()


@pytest.mark.spec("F7", "P10")
async def test_an_actor_that_waits_for_its_store_is_missing() -> None:
    """It is not replaced: another one would wait as well."""
    rig = Rig(answer=5.0)
    rig.handler.said = Said({}, paused="the disk is full")
    for _ in range(10):
        figures = await rig.look()
        assert (figures.missing, figures.errors) == (["handler: the disk is full"], [])
        assert not rig.empty(figures)
        await asyncio.sleep(1)
    assert rig.handler.journal == []


@pytest.mark.spec("F7", "P11")
async def test_a_broker_that_is_gone_is_an_error_and_one_that_does_not_answer_is_not() -> None:
    """The queue's depth is asked of it: what it held is lost, or not known for now."""
    rig = Rig()
    errors: list[Exception] = [
        ProcessDied("killed"),
        ConfigurationError("no queue"),
        NoAnswer("away"),
    ]

    async def depth(queue: str) -> Depth:
        raise errors.pop(0)

    rig.supervisor._depth = depth
    for told in ("killed", "no queue"):
        figures = await rig.look()
        assert (figures.errors, figures.missing) == ([f"queue q: {told}"], [])
    figures = await rig.look()
    assert (figures.errors, figures.missing) == ([], ["queue q: away"])


@pytest.mark.spec("F6", "F7")
@pytest.mark.parametrize("when", ["before", "while", "silent"])
async def test_from_a_drain_on_nobody_is_replaced(when: str) -> None:
    """Not who dies then, and a replacement that is on its way is given up."""
    rig = Rig(answer=3.0)
    rig.handler.takes = 10.0
    await rig.look()
    rig.handler.said = SILENT if when == "silent" else ProcessDied("gone")
    if when != "before":
        await rig.look()
    await rig.supervisor.drain()
    replacing = len(rig.handler.journal)
    assert replacing == (when == "while")
    for _ in range(10):
        figures = await rig.look()
        await asyncio.sleep(1)
    assert len(rig.handler.journal) == replacing
    assert figures.replaced == 0
