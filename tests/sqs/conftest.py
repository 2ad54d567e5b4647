"""An endpoint whose time stands still, a client at it, and a queue of each kind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, client


@pytest.fixture
def clock() -> MovableClock:
    return MovableClock()


@pytest.fixture
async def endpoint(clock: MovableClock) -> AsyncIterator[Endpoint]:
    async with Endpoint(clock=clock) as endpoint:
        yield endpoint


@pytest.fixture
async def sqs(endpoint: Endpoint) -> AsyncIterator[Any]:
    async with client(endpoint.url) as made:
        yield made


@pytest.fixture
def standard(endpoint: Endpoint, sqs: Any) -> At:
    return At(sqs, endpoint.create("standard"))


@pytest.fixture
def fifo(endpoint: Endpoint, sqs: Any) -> At:
    return At(sqs, endpoint.create("ordered.fifo"))
