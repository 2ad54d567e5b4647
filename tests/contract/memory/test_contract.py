"""The memory provider, in each of its dialects and with either way of counting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, ClassVar

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SeededClock
from pipeline.config import parse
from pipeline.providers.memory import MemoryBroker, MemoryProvider
from pipeline.providers.port import Capabilities, Count, SessionSupport
from tests.contract.suite import Bench, ProviderContract, Wanted, contract_tests, lacking

_numbers = count(1)


def declare(sessions: SessionSupport, counting: Count) -> Capabilities:
    """The memory provider's row of the capability table (SPEC P4, P14)."""
    on_receive = counting is Count.ON_RECEIVE
    return Capabilities(
        provider="memory",
        sessions=sessions,
        count=counting,
        release_counts=on_receive,
        abandon_delay=on_receive and sessions is SessionSupport.UNSUPPORTED,
        group_delay=sessions is SessionSupport.EMULATED,
        single_release=True,
        session_state=sessions is SessionSupport.NATIVE,
        scheduling=True,
        cancel_scheduled=True,
        defer=True,
        peek=True,
        duplicate_detection=True,
        exact_depth=True,
        bounds_sessions=True,
        max_receive=16_384,
        max_message_size=1_048_576,
        held_sessions=8_192,
        session_idle=0.0,
    )


class MemoryContract(ProviderContract):
    """A broker for each test, shared by its clients as by the processes of a job."""

    settings: ClassVar[Mapping[str, Any]]

    @asynccontextmanager
    async def create(self, wanted: Wanted) -> AsyncIterator[Bench]:
        name = f"contract-{next(_numbers)}"
        queue: dict[str, Any] = {
            "connection": "main",
            "sessionless": wanted.sessionless,
            "max_deliveries": wanted.max_deliveries,
            "time_to_live": wanted.time_to_live,
            "on_expiry": wanted.on_expiry,
            "duplicate_window": wanted.duplicate_window,
            "visibility": wanted.lock or 3600.0,
            **self.settings,
        }
        if wanted.max_messages is not None:
            queue["max_messages"] = wanted.max_messages
        config = parse(
            {
                "name": "contract",
                "connections": {"main": {"provider": "memory"}},
                "queues": {name: queue},
            }
        )
        clock = SeededClock(asyncio.get_running_loop().time)
        broker = MemoryBroker(config.queues, clock)
        yield Bench(
            name,
            lambda: QueueClient(config, brokers={"main": broker}, clock=clock),
            clock,
            lambda: MemoryProvider(broker, config.queues),
        )


class TestMemoryNative(MemoryContract):
    """Sessions are accepted and locked, as on Azure."""

    settings: ClassVar = {"fifo": True, "sessions": "native", "count": "on_failure"}
    declared = declare(SessionSupport.NATIVE, Count.ON_FAILURE)


class TestMemoryNativeOnReceive(MemoryContract):
    """The same, counted at every receive."""

    settings: ClassVar = {"fifo": True, "sessions": "native", "count": "on_receive"}
    declared = declare(SessionSupport.NATIVE, Count.ON_RECEIVE)


class TestMemoryGroups(MemoryContract):
    """A group is blocked while one of its messages is in flight, as on SQS FIFO."""

    settings: ClassVar = {"fifo": True, "sessions": "groups", "count": "on_receive"}
    declared = declare(SessionSupport.EMULATED, Count.ON_RECEIVE)


class TestMemoryGroupsOnFailure(MemoryContract):
    """The same, counted at failures."""

    settings: ClassVar = {"fifo": True, "sessions": "groups", "count": "on_failure"}
    declared = declare(SessionSupport.EMULATED, Count.ON_FAILURE)


class TestMemoryNone(MemoryContract):
    """No sessions, counted at failures, as on Azure without them."""

    settings: ClassVar = {"sessions": "none", "count": "on_failure"}
    declared = declare(SessionSupport.UNSUPPORTED, Count.ON_FAILURE)


class TestMemoryNoneOnReceive(MemoryContract):
    """No sessions, counted at every receive, as on SQS standard."""

    settings: ClassVar = {"sessions": "none", "count": "on_receive"}
    declared = declare(SessionSupport.UNSUPPORTED, Count.ON_RECEIVE)


@pytest.mark.spec("P11", "P12")
def test_memory_skips_nothing_in_at_least_one_dialect() -> None:
    """No test of the contract goes without being run: a dialect has what it needs."""
    dialects = MemoryContract.__subclasses__()
    unrun = [
        name
        for name, test in contract_tests(ProviderContract).items()
        if all(lacking(test, dialect.declared) for dialect in dialects)
    ]
    assert unrun == []
