"""The supervisor: what actors say, added up; when all is empty; the drain of all pipelines."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.errors import ConnectionFailed, ProviderError, QueueError, QueueNotFound
from pipeline.providers.port import Depth
from pipeline.stages.calls import ProcessDied
from pipeline.stages.drain import Limits
from pipeline.stages.supervisor import Figures, Parts, Said, Supervisor
from pipeline.telemetry.counters import Histogram


class Actor:
    """Says what it is told to, and does each step of a drain at once."""

    def __init__(self, name: str, said: Said | Exception, left: int = 0) -> None:
        self.name = name
        self.said = said
        self.left = left
        self.calls: list[str] = []

    async def stats(self) -> Said:
        if isinstance(self.said, Exception):
            raise self.said
        return self.said

    async def close(self) -> int:
        self.calls.append("close")
        return self.left

    def __getattr__(self, name: str) -> Any:
        async def step() -> None:
            self.calls.append(name)

        return step


def counts(**named: int) -> Said:
    return Said(named)


def parts(receivers: list[Any], handlers: list[Any] | None = None, *, exact: bool = True) -> Parts:
    return Parts("orders", exact, receivers, [Actor("r", counts(batches=1))], handlers or [])


async def depth_of(queue: str) -> Depth:
    return Depth(available=0, in_hand=0, scheduled=0)


def supervisor(pipelines: dict[str, Parts], depth: Any = depth_of) -> Supervisor:
    return Supervisor(pipelines, depth, Limits())


@pytest.mark.spec("O1", "O4")
async def test_a_look_adds_up_what_the_actors_say() -> None:
    """Counters by kind of actor, latencies merged, the queue's depth beside them."""
    times = Histogram()
    times.add([0.5])
    actors = [
        Actor("c0", Said({"received": 2}, latency=times.counts)),
        Actor("c1", Said({"received": 3, "settled": 1})),
    ]
    handlers = [Actor("h0", counts(handled=4)), Actor("h1", counts(handled=1))]
    look = await supervisor({"p": parts(actors, handlers)}).look()
    figures = look["p"]
    assert figures.receivers == {"received": 5, "settled": 1}
    assert figures.routers == {"batches": 1}
    assert figures.handlers == {"handled": 5}
    assert figures.latency.total == 1
    assert figures.depth.available == 0
    assert figures.errors == []


@pytest.mark.spec("F7", "P10")
async def test_errors_are_told_by_name() -> None:
    """An actor that can't go on, one that doesn't answer, a queue that can't be asked."""

    async def unreachable(queue: str) -> Depth:
        raise ConnectionFailed("refused")

    actors = [Actor("c0", Said({}, error="broke")), Actor("c1", ConnectionFailed("no answer"))]
    watcher = supervisor({"p": parts(actors)}, unreachable)
    look = await watcher.look()
    assert look["p"].errors == ["c0: broke"]
    assert look["p"].missing == ["c1: no answer", "queue orders: refused"]
    assert not watcher.empty(look), "what does not answer may hold anything"


@pytest.mark.spec("F7", "P10")
@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (QueueNotFound("no such queue"), True),
        (ProcessDied("its broker died"), True),
        (ProviderError("azure_service_bus", "Odd", "what is that?"), False),
    ],
    ids=["not there", "died", "odd"],
)
async def test_a_depth_that_can_t_be_had_ends_no_run_by_itself(
    error: QueueError, fatal: bool
) -> None:
    """But for what says that nothing can be received either; it isn't empty in any case."""

    async def refused(queue: str) -> Depth:
        raise error

    watcher = supervisor({"p": parts([Actor("c0", counts(empty_receives=9))])}, refused)
    look = await watcher.look()
    told = [f"queue orders: {error}"]
    assert (look["p"].errors, look["p"].missing) == ((told, []) if fatal else ([], told))
    assert not watcher.empty(look)


@pytest.mark.spec("F9")
@pytest.mark.parametrize(
    ("figures", "exact", "empty"),
    [
        (Figures(depth=Depth(available=0, in_hand=0, scheduled=0)), True, True),
        (Figures(depth=Depth(available=1, in_hand=0, scheduled=0)), True, False),
        (Figures(depth=Depth(available=0, in_hand=1, scheduled=0)), True, False),
        (Figures(depth=Depth(available=0, in_hand=0, scheduled=1)), True, False),
        (Figures(receivers={"in_hand": 1}), True, False),
        (Figures(handlers={"unsent": 1}), True, False),
        (Figures(), False, False),
        (Figures(idle=True), False, True),
        (Figures(idle=True, depth=Depth(available=1)), False, False),
        (Figures(idle=True, depth=Depth(oldest_age=0.1)), False, False),
        (Figures(idle=True, receivers={"in_hand": 1}), False, False),
    ],
)
def test_empty_is_empty_everywhere(figures: Figures, exact: bool, empty: bool) -> None:
    """By an exact depth, or, where that is a guess, by receives that brought nothing as well."""
    actors = [Actor("c0", counts()), Actor("c1", counts())]
    watcher = supervisor({"p": parts(actors, exact=exact), "q": parts([], exact=True)})
    quiet = Figures(depth=Depth(available=0, in_hand=0, scheduled=0))
    assert watcher.empty({"p": figures, "q": quiet}) == empty
    assert watcher.empty({"q": quiet})


@pytest.mark.spec("F9")
@pytest.mark.parametrize("empties", [(2, 3), (1, 9)], ids=["all", "not all"])
async def test_idle_is_who_asked_twice_for_nothing(empties: tuple[int, int]) -> None:
    """Every receiver, and not all of them together: one that is busy between two receives isn't."""
    actors = [Actor(f"c{at}", counts(empty_receives=each)) for at, each in enumerate(empties)]
    look = await supervisor({"p": parts(actors)}).look()
    assert look["p"].idle == (min(empties) > 1)


@pytest.mark.spec("F6", "F8")
async def test_every_pipeline_is_drained() -> None:
    """All at once; what is left adds up."""
    one, two = Actor("c0", counts(), left=2), Actor("c1", counts(), left=3)
    handler = Actor("h", counts())
    report = await supervisor({"p": parts([one], [handler]), "q": parts([two])}).drain()
    assert report.left == 5
    assert report.unknown == 0
    assert not report.clean
    assert report.steps[0] == "1 no new receive"
    assert handler.calls == ["drain", "idle", "close"]
    assert "stop_receiving" in one.calls
    assert "stop_receiving" in two.calls


@pytest.mark.spec("F1", "F7", "O4")
async def test_the_crypto_pool_is_watched_beside_the_pipelines() -> None:
    """What its actors count is added up; one that can't go on ends the run."""
    pool = [
        Actor("crypto:0", counts(opened=3)),
        Actor("crypto:1", Said({"opened": 4}, "TypeError: keys are not refreshed")),
    ]
    watcher = Supervisor({"p": parts([])}, depth_of, Limits(), pool=pool)
    await watcher.look()
    assert watcher.shared.counts == {"opened": 7}
    assert watcher.shared.errors == ["crypto:1: TypeError: keys are not refreshed"]
    await watcher.drain()


@pytest.mark.spec("R2", "O4")
async def test_connections_are_watched_beside_the_pipelines() -> None:
    """Their breakers are shown; an open one is a reason not to be ready, and no error."""
    said = Said({}, paused="the circuit breaker is open: send", breakers={"send": ("open", 7.0)})
    watcher = Supervisor(
        {"p": parts([])}, depth_of, Limits(), connections={"main": Actor("connection:main", said)}
    )
    await watcher.look()
    shown = watcher.shared
    assert shown.breakers == {"main": {"send": ("open", 7.0)}}
    assert shown.missing == ["connection:main: the circuit breaker is open: send"]
    assert (shown.errors, shown.replaced) == ([], 0)
    await watcher.drain()
