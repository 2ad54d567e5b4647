"""The runtime's own receiver, router and handler on Service Bus sessions that fail."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from azure.servicebus import ServiceBusMessage

from pipeline import Context, handler
from pipeline.clock import SystemClock
from pipeline.config import AzureConnection, AzureQueue, MemoryQueue
from pipeline.handlers.api import Handler
from pipeline.providers.azure import AzureProvider
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.configured import Limits
from pipeline.retry import RetryPolicy
from pipeline.testing.flow import Flow, FlowSettings
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.queue import Queue

SESSIONS, EACH = 6, 25
NAMES = tuple(f"s{number}" for number in range(SESSIONS))


class Work:
    """A handler that fails at some messages at first, and notes in each session what it did.

    Args:
        failing: every so manieth message of a session fails twice.
        takes: seconds that a message takes.
    """

    def __init__(self, failing: int = 5, takes: float = 0.002) -> None:
        self.failing = failing
        self.takes = takes
        self.attempts: Counter[tuple[str, int]] = Counter()
        self.begun: dict[str, list[int]] = {}

    def handler(self) -> Handler:
        """It."""

        @handler(state=dict)
        async def work(body: bytes, state: dict, context: Context) -> None:  # type: ignore[type-arg]
            session, number = str(context.delivery.session), int(body)
            self.begun.setdefault(session, []).append(number)
            self.attempts[session, number] += 1
            await asyncio.sleep(self.takes)
            if number % self.failing == 0 and self.attempts[session, number] <= 2:
                raise RuntimeError("at first it fails")
            state.setdefault("done", []).append(number)

        return work


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, work: Work, names: Sequence[str] = NAMES, **settings: object
) -> AsyncIterator[tuple[ServiceBus, Queue, Flow]]:
    """Receivers, a router and handlers at a queue that has messages already."""
    async with ServiceBus(strict=True) as bus:
        queue = bus.queue("q", sessions=True, lock_seconds=20, max_delivery_count=100)
        monkeypatch.setenv("QR_TEST_BUS", bus.connection_string)
        connection = AzureConnection(connection_string="env:QR_TEST_BUS")  # type: ignore[arg-type]
        keys = AzureQueue(connection="main", name="q", fifo=True, lock=20.0)
        limits = Limits(30.0, 10.0, 30.0)
        sdk = Sdk("main", connection, limits)
        await sdk.start()
        out = sdk.sender(keys)
        for number in range(EACH):
            messages = [ServiceBusMessage(str(number), session_id=session) for session in names]
            for message in messages:
                await out.do("send", lambda sender, one=message: sender.send_messages(one), 10.0)
        await out.close()
        await sdk.close()
        flow = Flow(
            work.handler(),
            FlowSettings(
                queue=MemoryQueue(connection="x", fifo=True),
                retry=RetryPolicy(9, 0.05, 0.2, 2.0),
                **settings,  # type: ignore[arg-type]
            ),
            SystemClock(),
            name="q",
        )
        flow.provider = AzureProvider(  # type: ignore[assignment]
            "main", connection, {"q": keys}, limits, SystemClock()
        )
        async with flow:
            yield bus, queue, flow
        flow.check()
        assert not queue.counts().locked
        assert {note.rule.value[0] for note in bus.violations.noted} <= {13}


async def emptied(queue: Queue, flow: Flow, seconds: float = 60.0) -> None:
    """Return when nothing is left."""
    async with asyncio.timeout(seconds):
        while queue.counts().active or queue.counts().locked:
            flow.check()
            await asyncio.sleep(0.05)


def in_order(begun: list[int]) -> bool:
    """Whether no message was begun while one before it was not done: steps are by one at most."""
    return all(after <= before + 1 for before, after in itertools.pairwise(begun))


async def nothing(bus: ServiceBus, queue: Queue) -> None:
    """Heads fail, and messages come late and in pieces."""
    shape = bus.faults.shape
    shape.transfer_bytes, shape.split_transfers = 60, 0.002
    bus.faults.delay("deliver", 0.05, times=40, skip=10)


async def drops(bus: ServiceBus, queue: Queue) -> None:
    """Every connection ends, again and again."""
    for _ in range(4):
        await asyncio.sleep(0.8)
        bus.drop()


async def expiries(bus: ServiceBus, queue: Queue) -> None:
    """Every session's lock ends, again and again."""
    for _ in range(4):
        await asyncio.sleep(0.8)
        queue.expire_session_locks()


async def detaches(bus: ServiceBus, queue: Queue) -> None:
    """Links are ended by the service, in the middle of what they do."""
    bus.faults.drop("update-disposition", applied=True, skip=5)
    bus.faults.drop("update-disposition", applied=False, skip=9)
    for _ in range(3):
        await asyncio.sleep(0.8)
        bus.detach("q")


Trouble = Callable[[ServiceBus, Queue], Awaitable[None]]


@pytest.mark.spec("F3", "F2", "P12")
@pytest.mark.parametrize("trouble", [nothing, drops, expiries, detaches])
@pytest.mark.parametrize("hold", [60.0, 0.05], ids=["held", "given-back"])
@pytest.mark.parametrize("receivers", [1, 2])
async def test_every_session_is_handled_in_order(
    monkeypatch: pytest.MonkeyPatch, trouble: Trouble, hold: float, receivers: int
) -> None:
    """Each message is applied once, in order; a failing head is tried again before all others."""
    work = Work()
    settings = {"hold": hold, "receivers": receivers, "sessions": 3, "handlers": 2}
    async with running(monkeypatch, work, **settings) as (bus, queue, flow):
        await trouble(bus, queue)
        await emptied(queue, flow)
        states = await flow.states()
    assert queue.counts().dead_lettered == 0
    for number in range(SESSIONS):
        assert json.loads(states[f"s{number}"]) == {"done": list(range(EACH))}
        assert in_order(work.begun[f"s{number}"]), work.begun[f"s{number}"]


@pytest.mark.spec("M2", "F3", "F4")
@pytest.mark.parametrize("hold", [60.0, 0.05], ids=["held", "given-back"])
async def test_a_session_with_an_empty_name_has_order_and_state(
    monkeypatch: pytest.MonkeyPatch, hold: float
) -> None:
    """Other software may name one so: to the runtime it is a session as any other."""
    work = Work()
    settings = {"hold": hold, "sessions": 2, "routers": 2, "handlers": 2}
    async with running(monkeypatch, work, ("", "s"), **settings) as (_, queue, flow):
        await emptied(queue, flow)
        states = await flow.states()
    assert queue.counts().dead_lettered == 0
    for name in ("", "s"):
        assert json.loads(states[name]) == {"done": list(range(EACH))}
        assert in_order(work.begun[name])


@pytest.mark.spec("P13", "F3")
async def test_a_retry_holds_its_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """The failed message waits in the receiver: nothing is told to the service, nothing counts."""
    work = Work(failing=1, takes=0.0)
    async with running(monkeypatch, work, sessions=SESSIONS) as (_, queue, flow):
        await emptied(queue, flow)
        [receiver] = flow.receivers
        assert receiver.stats()["redelivered"] == 0
        assert receiver.stats()["received"] == SESSIONS * EACH
        assert receiver.stats()["retried"] == 2 * SESSIONS * EACH
