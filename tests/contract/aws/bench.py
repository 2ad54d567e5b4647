"""Queues for the contract at a server that speaks SQS."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, cast
from uuid import uuid4

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SystemClock
from pipeline.config import AwsConnection, parse
from pipeline.errors import QueueNotFound
from pipeline.providers.aws import AwsProvider
from pipeline.providers.aws.sdk import Sdk
from pipeline.providers.configured import Limits
from pipeline.providers.open import open_provider
from pipeline.providers.port import Capabilities, Count, SessionSupport
from tests.contract.suite import Bench, ProviderContract, Wanted

KEYS = {"access_key_id": "env:QR_TEST_KEY", "secret_access_key": "env:QR_TEST_SECRET"}

POLL = 1.0
"""Seconds that a receive waits at SQS."""


def declare(*, fifo: bool) -> Capabilities:
    """SQS's row of the capability table (SPEC P4, P14)."""
    return Capabilities(
        provider="aws_sqs",
        sessions=SessionSupport.EMULATED if fifo else SessionSupport.UNSUPPORTED,
        count=Count.ON_RECEIVE,
        release_counts=True,
        abandon_delay=not fifo,
        group_delay=fifo,
        single_release=True,
        session_state=False,
        scheduling=not fifo,
        cancel_scheduled=False,
        defer=False,
        peek=False,
        duplicate_detection=fifo,
        exact_depth=False,
        bounds_sessions=True,
        max_receive=8_192,
        max_message_size=1_048_576,
        max_wait=POLL,
        max_lock=43_200.0,
    )


def several_at_once(test: Callable[..., Any]) -> bool:
    """Whether a test has two clients, or two calls at once."""
    text = inspect.getsource(test)
    return any(word in text for word in ("another(", "_providers(", "create_task", "TaskGroup"))


def connection(address: str, **more: Any) -> dict[str, Any]:
    """A connection to a server of ours."""
    return {"provider": "aws_sqs", "region": "us-east-1", "endpoint": address, **KEYS, **more}


class SqsContract(ProviderContract):
    """A queue of its own for each test, at one server."""

    fifo: ClassVar[bool]
    client: ClassVar[str] = "lean"
    server: ClassVar[str]
    wrong: ClassVar[dict[str, str]] = {}
    one_at_a_time: ClassVar[bool] = False
    soon = 1.0
    lock = 8.0  # long beside what a busy machine may stand still for
    bounded = False
    keeps_reasons = False
    takes_over = False
    tells_duplicates = False
    fixed_window = True
    address: str

    @pytest.fixture(autouse=True)
    def _at_the_server(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = request.node.originalname
        wrong = self.wrong.get(name, "")
        if self.one_at_a_time and several_at_once(request.function):
            wrong = "its receive takes no lock, so two at once may both get a message, or none"
        if wrong:
            pytest.skip(f"{self.server.removesuffix('_server')} is wrong about SQS: {wrong}")
        monkeypatch.setenv("QR_TEST_KEY", "AKIDEXAMPLE")
        monkeypatch.setenv("QR_TEST_SECRET", "wJalrXUtnFEMI")
        self.address = request.getfixturevalue(self.server)

    def connection(self) -> dict[str, Any]:
        """The way to the server."""
        return connection(self.address, client=self.client)

    @asynccontextmanager
    async def create(self, wanted: Wanted) -> AsyncIterator[Bench]:
        if wanted.duplicate_window and not self.fifo:
            pytest.skip("SQS standard queues detect no duplicates")
        name = f"contract-{uuid4().hex}" + (".fifo" if self.fifo else "")
        config = parse(
            {
                "name": "contract",
                "connections": {"main": self.connection()},
                "queues": {
                    name: {
                        "connection": "main",
                        "fifo": self.fifo,
                        "sessionless": wanted.sessionless,
                        "time_to_live": wanted.time_to_live,
                        "on_expiry": wanted.on_expiry,
                        "visibility": wanted.lock or 300.0,
                        "poll": POLL,
                        "create": True,
                    }
                },
            }
        )
        clock = SystemClock()
        admin = Sdk("main", cast(AwsConnection, config.connections["main"]), Limits(5, 10, 10))
        await admin.start()
        if wanted.max_deliveries is not None:
            await self._redrive(admin, name, wanted.max_deliveries)
        try:
            yield Bench(
                name,
                lambda: QueueClient(config, clock=clock),
                clock,
                lambda: cast(AwsProvider, open_provider(config, "main", clock=clock)),
            )
        finally:
            for each in (name, dead_name(name)):
                with suppress(QueueNotFound):
                    found = await admin.ask("get_queue_url", QueueName=each)
                    await admin.ask("delete_queue", QueueUrl=found["QueueUrl"])
            await admin.close()

    async def _redrive(self, admin: Sdk, name: str, most: int) -> None:
        """Make both queues, with a redrive policy."""
        fifo = {"FifoQueue": "true"} if self.fifo else {}
        dead = await admin.ask("create_queue", QueueName=dead_name(name), Attributes=fifo)
        read = await admin.ask(
            "get_queue_attributes", QueueUrl=dead["QueueUrl"], AttributeNames=["QueueArn"]
        )
        arn = read["Attributes"]["QueueArn"]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(most)})
        await admin.ask(
            "create_queue", QueueName=name, Attributes={**fifo, "RedrivePolicy": policy}
        )


def dead_name(name: str) -> str:
    """What its dead-letter queue is called when nobody says."""
    stem = name.removesuffix(".fifo")
    return stem + "-dlq" + name[len(stem) :]
