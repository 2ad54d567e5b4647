"""The kill tests on Service Bus sessions, and what the service itself does to a run.

The server is in the test's own process, so that it can be told what goes wrong; the actors come to
it over sockets. Nothing lost, no session out of order, nothing applied twice: the whole state is
compared with the file.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from actors.runtime import Runtime
from tests.contract.azure.bench import broken_rules
from tests.faults.flights import Ending, flying, service_bus
from tests.faults.killing import kill
from tests.faults.test_planted import EARLY
from tests.servicebus.assumptions import Assumptions
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Counts
from tests.servicebus.faults import Fault

COUNT = 2_000
PLAN = [
    ("receiver", 0, "rows received"),
    ("handler", 0, "handled, not committed"),
    ("router", 0, "outcomes known, not handed on"),
    ("receiver", 1, "outcomes known, not settled"),
    ("handler", 1, "committed, no outcome"),
]
"""Receivers above all: they hold the sessions."""
LEAST = 50
"""Messages that are locked when something is done to them."""
_LOOK = 0.02


class Flying:
    """A run at a server that can be told what goes wrong.

    Args:
        bus: the server.
        queue: its queue of flights.
        runtime: the run.
    """

    def __init__(self, bus: ServiceBus, queue: Queue, runtime: Runtime) -> None:
        self.bus = bus
        self.queue = queue
        self.runtime = runtime
        self._seen = 0

    async def in_hand(self) -> None:
        """Wait until new messages come in, and receivers have enough locked, of their sessions."""
        intake = self.queue._intake
        await self._until(lambda: intake.last > self._seen and self.queue.counts().locked >= LEAST)
        self._seen = intake.last

    async def met(self, *faults: Fault) -> None:
        """Wait until each fault has happened as often as it was to."""
        await self._until(lambda: all(fault.met == fault.times for fault in faults))

    async def _until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():  # noqa: ASYNC110 - the server tells nobody
                await asyncio.sleep(_LOOK)


@asynccontextmanager
async def flown(
    directory: Path,
    name: str,
    count: int = COUNT,
    portion: int = 300,
    bug: str = "",
    assumptions: Assumptions | None = None,
) -> AsyncIterator[tuple[Flying, list[Ending]]]:
    """Flights through a server of their own; after the block they have ended, and are judged."""
    async with ServiceBus(strict=True, assumptions=assumptions) as bus:
        queue = bus.queue(
            "flights",
            sessions=True,
            lock_seconds=5.0,
            max_delivery_count=100,
            duplicate_window=600.0,
        )
        place = service_bus(bus.connection_string, directory, portion)
        async with flying(directory, name, count, bug, place) as (runtime, endings):
            yield Flying(bus, queue, runtime), endings
        assert queue.counts() == Counts(0, 0, 0, 0, 0)
        assert broken_rules(bus) == []


@pytest.mark.spec("F2", "F3", "F4", "F7", "T3", "P14")
@pytest.mark.timeout(180)
async def test_processes_are_killed_during_the_flights(fault_cluster: None, tmp_path: Path) -> None:
    """A dead receiver's sessions stay locked, as the service may keep them, until the locks end."""
    keeps = Assumptions(lost_connection_frees_session=False)
    async with flown(tmp_path, "killed-bus", assumptions=keeps) as (flight, endings):
        for kind, number, moment in PLAN:
            await kill(flight.runtime, kind, number, moment, tmp_path / "note", LEAST)
    assert endings[0].wrong == []
    assert endings[0].replaced == len(PLAN)


async def _connections_drop(flight: Flying) -> None:
    """All of them: receivers', the sender's, those that wait for a session."""
    assert flight.bus.drop() > 0


async def _connections_are_closed(flight: Flying) -> None:
    assert flight.bus.close_connections("amqp:connection:forced") > 0


async def _links_are_detached(flight: Flying) -> None:
    assert flight.bus.detach("flights") > 0


async def _session_locks_end(flight: Flying) -> None:
    """In mid-batch: what is handled now can't be settled, and is handed to others meanwhile."""
    assert flight.queue.expire_session_locks() > 0


async def _a_connection_drops_at_its_settlements(flight: Flying) -> None:
    """Once before they took effect, and once behind that: nobody is told which."""
    faults = flight.bus.faults
    await flight.met(
        faults.drop("update-disposition", applied=False),
        faults.drop("update-disposition", applied=True),
    )


async def _a_connection_drops_at_its_sends(flight: Flying) -> None:
    """The list is sent again, in order, and is in the queue once."""
    faults = flight.bus.faults
    await flight.met(faults.drop("send", applied=False), faults.drop("send", applied=True))


async def _the_service_is_busy(flight: Flying) -> None:
    faults = flight.bus.faults
    await flight.met(
        faults.busy(3, "update-disposition"), faults.busy(1, "send"), faults.busy(2, "accept")
    )


async def _answers_never_come(flight: Flying) -> None:
    """What was settled, renewed or sent is unknown when the time for it is over."""
    faults = flight.bus.faults
    await flight.met(
        faults.swallow("update-disposition", applied=True),
        faults.swallow("renew-session-lock", applied=False),
        faults.swallow("send", applied=True),
    )


TROUBLE: list[Callable[[Flying], Awaitable[None]]] = [
    _connections_drop,
    _links_are_detached,
    _session_locks_end,
    _a_connection_drops_at_its_settlements,
    _a_connection_drops_at_its_sends,
    _the_service_is_busy,
    _connections_are_closed,
    _session_locks_end,
    _answers_never_come,
]
"""The last one is not cut short by another."""


@pytest.mark.spec("F2", "F3", "F4", "T3", "P10", "P14", "R1")
@pytest.mark.timeout(180)
async def test_the_service_fails_during_the_flights(fault_cluster: None, tmp_path: Path) -> None:
    """No process dies of it."""
    async with flown(tmp_path, "failed-bus") as (flight, endings):
        for strike in TROUBLE:
            await flight.in_hand()
            await strike(flight)
    assert endings[0].wrong == []
    assert endings[0].replaced == 0


@pytest.mark.spec("T3", "T6")
@pytest.mark.timeout(180)
async def test_a_planted_bug_is_found(fault_cluster: None, tmp_path: Path) -> None:
    """Outcomes that are published before the commit are completed at Service Bus, and lost."""
    early = EARLY.format(pause=0.2)
    async with flown(tmp_path, "planted-bus", 300, 50, early) as (flight, endings):
        await kill(flight.runtime, "handler", 0, "handled, not committed", tmp_path / "note", 1)
    assert endings[0].wrong != []
