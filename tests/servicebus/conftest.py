"""A namespace that runs, another one whose time stands still, and the SDK's client of each."""

from __future__ import annotations

import gc
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from azure.servicebus.aio import ServiceBusClient

    from tests.servicebus.bus import ServiceBus

# The SDK and aiohttp are imported by the fixtures that need them: the codec's tests do without.


def accused_of_nothing(bus: ServiceBus) -> None:
    """Strict mode has found the SDK to break the one rule that it is known to break.

    It detaches `$cbs` and `$management` after it has ended their session.
    """
    others = [each for each in bus.violations.noted if each.rule is not Rule.UNMAPPED]
    assert others == [], "\n".join(map(str, others))


@pytest.fixture
def clock() -> ManualClock:
    """Begins now: the SDK compares the end of a lock with the machine's time."""
    return ManualClock(datetime.now(UTC).timestamp())


@pytest.fixture
async def bus() -> AsyncIterator[ServiceBus]:
    """Runs on the machine's time."""
    from tests.servicebus.bus import ServiceBus

    async with ServiceBus(strict=True) as made:
        yield made
    accused_of_nothing(made)


@pytest.fixture
async def client(bus: ServiceBus) -> AsyncIterator[ServiceBusClient]:
    from tests.servicebus.sdk import connect

    async with connect(bus) as made:
        yield made


@pytest.fixture
async def still_bus(clock: ManualClock) -> AsyncIterator[ServiceBus]:
    """Runs on `clock`, which stands still until the test moves it."""
    from tests.servicebus.bus import ServiceBus

    async with ServiceBus(clock=clock, strict=True) as made:
        yield made
    accused_of_nothing(made)


@pytest.fixture
async def still_client(still_bus: ServiceBus) -> AsyncIterator[ServiceBusClient]:
    from tests.servicebus.sdk import connect

    async with connect(still_bus) as made:
        yield made


@pytest.fixture
def sdk_leaks() -> Iterator[None]:
    """What the SDK has not closed is found before the next test; see `BREAKING` in sdk.py."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
