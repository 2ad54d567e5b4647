"""The benchmarks still run: small ones, of which no figure is looked at."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.benchmarks import azure, engine, sealed
from tests.benchmarks.bus import served
from tests.benchmarks.one_receiver import Span
from tests.benchmarks.ours import ROOT, Case, ours


@pytest.mark.spec("T5")
async def test_each_of_the_three_is_measured(ray_cluster: None) -> None:
    """One call a message, the bare wire and the engine, by the very code that `make bench` runs."""
    naive = (engine.NaiveReceiver, engine.NaiveRouter, engine.NaiveHandler)
    bare = (engine.BareReceiver, engine.BareRouter, engine.BareHandler)
    for classes, count in ((naive, 40), (bare, 4 * engine.BARE_ROWS)):
        rate, spent = await engine.three_hops(*classes, count)
        assert rate > 0
        assert spent > 0
    result = await ours(Case(count=2_000, sessions=20))
    assert set(result.cpu) == {"broker", "receiver", "router", "handlers"}
    assert result.rows >= 1


@pytest.mark.spec("T5", "C1")
async def test_sealed_bodies_are_measured_beside_plain_ones(ray_cluster: None) -> None:
    """Opened by the receiver, and by a pool of one and of two."""
    results = [one async for one in sealed.measure(count=2_000, rounds=1)]
    assert [one["opened_by"] for one in results] == [
        "nobody: plain",
        "receiver",
        "pool of 1",
        "pool of 2",
    ]
    assert all(one["messages_per_second"] > 0 for one in results)
    assert "crypto" in results[-1]["cpu_us_by_actor"]


@pytest.mark.spec("T5")
def test_the_profile_books_each_sample() -> None:
    """In a process of its own, without a Ray."""
    command = [sys.executable, "-m", "tests.benchmarks.profile", "2000"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    assert sum(result["steps"].values()) == pytest.approx(result["cpu_us_per_message"], rel=0.2)


@pytest.mark.spec("T5")
async def test_the_receiver_at_service_bus_is_measured() -> None:
    """Beside the SDK's loops, without sessions and with, and through short sessions; no Ray."""
    span = Span(warm=0.0, measured=0.5)
    async with served() as bus:
        await bus.tell("delay", 0.001)
        for sessions in (0, 2):
            for gathered in (False, True):
                rate, spent = await azure.bare(bus, sessions, span, gathered=gathered)
                assert rate > 0
                assert spent > 0
            rate, spent = await azure.ours(bus, sessions, span)
            assert rate > 0
            assert spent > 0
        assert (await azure.short_sessions(bus, held=4, count=8))["sessions"] == 8
