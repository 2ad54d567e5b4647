"""SQS keeps the contract at the project's own endpoint too, with either client, over a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

from tests.contract.aws.bench import SqsContract, declare
from tests.contract.suite import Bench, Wanted
from tests.sqs.endpoint import Endpoint

_WHY = "asked of ministack and moto: it is mostly waiting, and here only a choice is made"
_LONG = "test_the_largest_batch_and_one_more"


class OwnContract(SqsContract):
    """A queue of its own for each test, at an endpoint of its own: a choice of the contract."""

    chosen: ClassVar[str]
    soon = 0.5
    server = "own_endpoint"
    wrong: ClassVar = {}

    @pytest.fixture(autouse=True)
    def _at_the_server(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        part = request.function.__qualname__.partition(".")[0]
        if part != self.chosen or request.node.originalname == _LONG:
            pytest.skip(_WHY)
        monkeypatch.setenv("QR_TEST_KEY", "AKIDEXAMPLE")
        monkeypatch.setenv("QR_TEST_SECRET", "wJalrXUtnFEMI")

    @asynccontextmanager
    async def create(self, wanted: Wanted) -> AsyncIterator[Bench]:
        async with Endpoint() as sqs:
            self.address = sqs.url
            async with super().create(wanted) as bench:
                yield bench


class TestOwnFifo(OwnContract):
    """A FIFO queue, with the calls made by the SDK."""

    chosen = "SessionContract"
    fifo = True
    client = "sdk"
    declared = declare(fifo=True)


class TestOwnStandard(OwnContract):
    """A standard queue, with the calls made by this project's own client."""

    chosen = "SettlingContract"
    fifo = False
    declared = declare(fifo=False)
