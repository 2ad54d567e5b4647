"""The drain, step by step, with parts that hang, fail and die."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.errors import ConnectionFailed
from pipeline.stages.calls import NoAnswer, ProcessDied
from pipeline.stages.drain import Drained, Limits, drain

LIMITS = Limits()


def now() -> float:
    return asyncio.get_running_loop().time()


class Part:
    """Any actor; `faults` says which of its methods hang or fail."""

    def __init__(self, name: str, journal: list[str], **faults: Any) -> None:
        self.name = name
        self.journal = journal
        self.faults = faults
        self.busy = faults.pop("busy", 0.0)
        self.left = faults.pop("left", 0)
        self.unknown = asyncio.Event()
        if not faults.pop("unknown", False):
            self.unknown.set()

    async def _do(self, method: str) -> None:
        self.journal.append(f"{self.name}.{method}")
        fault = self.faults.get(method)
        if fault == "hangs":
            await asyncio.Event().wait()
        if fault is not None:
            raise fault

    async def stop_receiving(self) -> None:
        await self._do("stop_receiving")

    async def drain(self) -> None:
        await self._do("drain")

    async def idle(self) -> None:
        await self._do("idle")
        await asyncio.sleep(max(0.0, self.busy - now()))
        await self.unknown.wait()

    async def nothing_runs(self) -> None:
        await self._do("nothing_runs")
        self.unknown.set()

    async def stop_running(self) -> None:
        await self._do("stop_running")

    async def kill(self) -> None:
        await self._do("kill")

    async def close(self) -> int:
        await self._do("close")
        return self.left


def without_looks(journal: list[str]) -> list[str]:
    """What was done, without the waiting for it."""
    return [step for step in journal if not step.endswith((".idle", ".nothing_runs"))]


async def drained(receiver: Part, router: Part, handler: Part) -> Drained:
    return await drain([receiver], [router], [handler], LIMITS)


@pytest.mark.spec("F6")
async def test_the_steps_stand_in_the_order_of_the_specification() -> None:
    """Workers stop before the receivers that keep their locks alive."""
    journal: list[str] = []
    report = await drained(Part("c", journal), Part("r", journal), Part("h", journal))
    assert without_looks(journal) == [
        "c.stop_receiving",
        "r.drain",
        "h.drain",
        "c.close",
        "h.close",
    ]
    assert [step[0] for step in report.steps] == list("123556")
    assert report.clean
    assert (report.left, report.killed, report.errors) == (0, 0, [])
    assert now() == 0


@pytest.mark.spec("F6")
async def test_running_messages_may_finish() -> None:
    """For 30 s; then nothing is cancelled."""
    journal: list[str] = []
    report = await drained(Part("c", journal, busy=29), Part("r", journal), Part("h", journal))
    assert "h.stop_running" not in journal
    assert now() == 29
    assert report.clean


@pytest.mark.spec("F6")
async def test_what_still_runs_is_cancelled() -> None:
    """After 30 s; what ends within 10 s of that is no reason to kill."""
    journal: list[str] = []
    report = await drained(Part("c", journal, busy=35), Part("r", journal), Part("h", journal))
    assert without_looks(journal[3:]) == ["h.stop_running", "c.close", "h.close"]
    assert [step[0] for step in report.steps] == list("12344556")
    assert report.clean


@pytest.mark.spec("F6")
async def test_what_does_not_end_is_killed() -> None:
    """After 10 s more; then sessions are given back, and the report says what was left."""
    journal: list[str] = []
    receiver = Part("c", journal, busy=1000, left=3)
    report = await drained(receiver, Part("r", journal), Part("h", journal))
    assert without_looks(journal[3:]) == ["h.stop_running", "h.kill", "c.close"]
    assert now() == 45
    assert (report.left, report.killed, report.clean) == (3, 1, False)


@pytest.mark.spec("F6", "F3")
async def test_what_a_dead_router_had_is_given_back_once_no_handler_runs_anything() -> None:
    """Not before: a handler may have it in hand. Then nobody is cancelled or killed for it."""
    journal: list[str] = []
    receiver, handler = Part("c", journal, unknown=True), Part("h", journal, busy=20)
    report = await drained(receiver, Part("r", journal), handler)
    assert journal[3:] == ["c.idle", "h.idle", "c.nothing_runs", "c.close", "h.close"]
    assert now() == 20
    assert report.clean


@pytest.mark.spec("F6", "F3", "F7")
@pytest.mark.parametrize(("gone", "end"), [(ProcessDied("x"), 0), (NoAnswer("x"), 45)], ids=str)
async def test_a_handler_that_cannot_be_asked_may_run_something(gone: Any, end: float) -> None:
    """Unless its process is dead; who says nothing is killed before anything is given back."""
    journal: list[str] = []
    receiver = Part("c", journal, unknown=True)
    report = await drained(receiver, Part("r", journal), Part("h", journal, idle=gone))
    assert ("h.kill" in journal) == (end > 0)
    assert report.left == 0
    assert now() == end


@pytest.mark.spec("F6", "F7")
@pytest.mark.parametrize("method", ["stop_receiving", "idle", "close"])
@pytest.mark.parametrize("fault", ["hangs", ConnectionFailed("gone")], ids=["hangs", "fails"])
async def test_a_receiver_that_hangs_or_is_gone_holds_up_no_other(method: str, fault: Any) -> None:
    """Every other part goes through all its steps, in bounded time, and the error is told."""
    journal: list[str] = []
    bad, good = Part("bad", journal, **{method: fault}), Part("good", journal, left=1)
    handler = Part("h", journal)
    report = await drain([bad, good], [], [handler], LIMITS)
    for step in ("good.stop_receiving", "h.drain", "good.idle", "good.close"):
        assert step in journal
    assert now() <= 60
    assert report.left == 1
    assert not report.clean
    assert bool(report.errors) == ((method, fault) != ("idle", "hangs"))
    assert report.unknown == (method == "close")


@pytest.mark.spec("F6", "P10")
async def test_a_receiver_that_does_not_say_what_it_left_is_no_clean_end() -> None:
    """Nobody knows what it had in hand: that is left to lock expiry."""
    report = await drain([Part("c", [], close="hangs")], [], [], LIMITS)
    assert (report.left, report.unknown, report.clean) == (0, 1, False)
    assert report.errors == ["5 sessions are given back: TimeoutError: "]


@pytest.mark.spec("F6", "F7")
@pytest.mark.parametrize("method", ["drain", "stop_running", "kill", "close"])
@pytest.mark.parametrize("fault", ["hangs", OSError("gone")], ids=["hangs", "fails"])
async def test_a_handler_that_hangs_or_is_gone_is_not_waited_for(method: str, fault: Any) -> None:
    """The receivers give back whatever it does."""
    journal: list[str] = []
    busy = 1000 if method in ("stop_running", "kill") else 0
    receiver = Part("c", journal, busy=busy)
    handler = Part("h", journal, **{method: fault})
    report = await drain([receiver], [Part("r", journal, drain=fault)], [handler], LIMITS)
    assert "c.close" in journal
    assert report.errors
    assert report.steps[-1] == "6 report"
    assert now() <= 80


@pytest.mark.spec("F6")
async def test_a_drain_that_is_cancelled_ends() -> None:
    """A second signal stops at once: no step swallows it."""
    task = asyncio.ensure_future(drain([Part("c", [], stop_receiving="hangs")], [], [], LIMITS))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
