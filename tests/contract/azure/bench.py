"""Queues for the contract at our own Service Bus server, over sockets, in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar, cast
from uuid import uuid4

import pytest

from pipeline.client import QueueClient
from pipeline.clock import SystemClock
from pipeline.config import parse
from pipeline.providers.azure import AzureProvider
from pipeline.providers.open import open_provider
from pipeline.providers.port import Capabilities, Count, SessionSupport
from tests.contract.suite import Bench, ProviderContract, Wanted
from tests.servicebus.bus import ServiceBus
from tests.servicebus.strict import Rule

STRING = "QR_TEST_SERVICE_BUS"
"""The variable that holds the connection string."""
MOST = 262_144


def declare(*, sessions: bool) -> Capabilities:
    """Service Bus's row of the capability table (SPEC P4, P14)."""
    return Capabilities(
        provider="azure_service_bus",
        sessions=SessionSupport.NATIVE if sessions else SessionSupport.UNSUPPORTED,
        count=Count.ON_FAILURE,
        release_counts=False,
        abandon_delay=False,
        group_delay=False,
        single_release=not sessions,
        session_state=sessions,
        scheduling=True,
        cancel_scheduled=True,
        defer=True,
        peek=True,
        duplicate_detection=True,
        exact_depth=False,
        bounds_sessions=True,
        max_receive=1_024,
        max_message_size=MOST,
        held_sessions=8,
        session_idle=0.25,
        max_wait=2.0,
    )


def configured(queue: str, **keys: Any) -> dict[str, Any]:
    """A configuration of one queue at a server whose connection string is in `STRING`."""
    return {
        "name": "contract",
        "connections": {
            "main": {"provider": "azure_service_bus", "connection_string": f"env:{STRING}"}
        },
        "queues": {queue: {"connection": "main", **keys}},
    }


class ServiceBusContract(ProviderContract):
    """A queue of its own for each test, at a server of its own."""

    sessions: ClassVar[bool]
    soon = 1.0
    lock = 8.0  # long beside what a busy machine may stand still for
    bounded = False
    takes_over = False
    tells_duplicates = False

    @asynccontextmanager
    async def create(self, wanted: Wanted) -> AsyncIterator[Bench]:
        name = f"contract-{uuid4().hex}"
        lock = wanted.lock or 60.0
        async with ServiceBus(strict=True) as bus:
            bus.queue(
                name,
                lock_seconds=lock,
                sessions=self.sessions,
                max_delivery_count=wanted.max_deliveries or 10,
                ttl=wanted.time_to_live,
                dead_letter_on_expiry=wanted.on_expiry == "dead_letter",
                duplicate_window=wanted.duplicate_window or None,
                max_message_bytes=MOST,
            )
            keys = {
                "fifo": self.sessions,
                "sessionless": wanted.sessionless,
                "lock": lock,
                "max_delivery_count": wanted.max_deliveries or 10,
                "duplicate_detection": wanted.duplicate_window > 0,
            }
            with pytest.MonkeyPatch.context() as environment:
                environment.setenv(STRING, bus.connection_string)
                config = parse(configured(name, **keys))
                clock = SystemClock()
                yield Bench(
                    name,
                    lambda: QueueClient(config, clock=clock),
                    clock,
                    lambda: cast(AzureProvider, open_provider(config, "main", clock=clock)),
                )
            broken = broken_rules(bus)
            assert broken == [], broken


def broken_rules(bus: ServiceBus) -> list[str]:
    """What the adapter did against the protocol, but for what the SDK does by itself."""
    return [str(one) for one in bus.violations.noted if one.rule is not Rule.UNMAPPED]
