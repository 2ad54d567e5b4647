"""A provider behind its gate: what each operation does while the breaker is not closed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.breaker import State
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue, parse
from pipeline.errors import (
    CircuitOpen,
    Closed,
    ConnectionFailed,
    MessageTooLarge,
    SessionNotFound,
    Throttled,
)
from pipeline.handlers.api import handler
from pipeline.message import Message
from pipeline.providers.gate import Gate
from pipeline.providers.guarded import GuardedProvider, GuardedReceiver
from pipeline.providers.memory import MemoryBroker
from pipeline.providers.open import open_provider
from pipeline.providers.port import DeadLetter, Received, Receiver, Want
from pipeline.telemetry.log import TRACE  # with the level's name
from pipeline.testing.flow import Flow, FlowSettings
from tests.contract.memory.line import REFUSE, Line, Throttle
from tests.unit.gates import POLICY, RECEIVE, SEND, SETTLE, Way

pytestmark = pytest.mark.spec("R2")


def time() -> float:
    return asyncio.get_running_loop().time()


class Rig:
    """A provider at a bad line, with one sender and one receiver."""

    def __init__(self, provider: GuardedProvider, line: Line) -> None:
        self.provider = provider
        self.gate = provider._gate
        self.line = line
        self.sender: Any = None
        self.receiver: Any = None

    async def fail(self, direction: Any, times: int = 5) -> None:
        """So many calls of a direction that fail."""
        for _ in range(times):
            given = await self.gate.enter(direction, 0.0)
            self.gate.fail(given, ConnectionFailed("refused"))

    def state(self, direction: Any) -> State:
        return self.gate._lanes[direction].state


@asynccontextmanager
async def rig(**settings: Any) -> AsyncIterator[Rig]:
    config = parse(
        {
            "name": "guarded",
            "connections": {"main": {"provider": "memory"}},
            "queues": {"q": {"connection": "main", **settings}},
        }
    )
    clock = SeededClock(time)
    line = Line(MemoryBroker(config.queues, clock))
    made = Rig(open_provider(config, "main", broker=line, clock=clock), line)
    await made.provider.start()
    made.sender = await made.provider.sender("q")
    made.receiver = await made.provider.receiver("q")
    try:
        yield made
    finally:
        await made.provider.close()


def want(wait: float = 20.0) -> Want:
    return Want(messages=10, wait=wait, new_sessions=1)


@pytest.mark.spec("O3")
async def test_each_call_to_the_provider_is_told_of_at_the_level_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What it was, how long it took and how it ended; never a body."""
    caplog.set_level(TRACE, "queue_runtime.provider")
    async with rig() as at:
        at.line.plan("send", REFUSE)
        with pytest.raises(ConnectionFailed):
            await at.sender.send([Message(b"planted")])
        await at.sender.send([Message(b"planted")])
        received = await at.receiver.receive(want())
        await at.receiver.complete(received.receipts)
        told = [(one.levelname, one.getMessage()) for one in caplog.records]
        assert {level for level, _ in told} == {"TRACE"}
        assert [words.split(" after ")[0] for _, words in told] == [
            *["MemorySender.send"] * 2,
            "MemoryReceiver.receive",
            "MemoryReceiver.complete",
        ]
        assert "ConnectionFailed" in told[0][1]
        assert told[1][1].endswith("ms: done")
        assert "planted" not in caplog.text
        caplog.set_level(logging.DEBUG, "queue_runtime.provider")
        caplog.clear()
        await at.sender.send([Message(b"planted")])
        assert not caplog.records


async def test_a_providers_own_figures_are_handed_through() -> None:
    """The memory provider has none."""
    async with rig() as at:
        assert at.provider.figures() == at.provider._real.figures() == {}


async def test_sends_fail_fast_and_a_probe_lets_them_through_again() -> None:
    """Open, no send reaches the provider; after its time one does, and after three all do."""
    async with rig() as at:
        at.line.plan("send", *[REFUSE] * 5)
        for _ in range(5):
            with pytest.raises(ConnectionFailed):
                await at.sender.send([Message(b"x")])
        for _ in range(50):
            with pytest.raises(CircuitOpen):
                await at.sender.send([Message(b"x")])
        with pytest.raises(CircuitOpen):
            await at.sender.cancel(1)
        assert at.line.calls["send"] == 5
        assert await at.sender.send([]) == []
        await asyncio.sleep(30.0)
        for _ in range(3):
            assert at.state(SEND) is not State.CLOSED
            await at.sender.send([Message(b"x")])
        assert at.state(SEND) is State.CLOSED
        [sent] = await at.sender.send(
            [Message(b"x", not_before=datetime.fromtimestamp(SeededClock(time).now() + 60, UTC))]
        )
        await at.sender.cancel(sent.sequence)
        await at.sender.close()


async def test_a_message_that_can_not_be_sent_is_no_failure() -> None:
    """Too large: the service is there. Throttled: all wait."""
    async with rig(max_message_size=10) as at:
        for _ in range(9):
            [result] = await at.sender.send([Message(b"x" * 99)])
            assert isinstance(result, MessageTooLarge)
        assert at.state(SEND) is State.CLOSED
        at.line.plan("send", Throttle(3.0))
        with pytest.raises(Throttled):
            await at.sender.send([Message(b"x")])
        await at.sender.send([Message(b"x")])
        assert time() == 3.0


async def test_no_receive_starts_while_open_and_a_probe_waits_a_second() -> None:
    """It waits inside, as long as it would for a message; as a probe it waits a second."""
    async with rig() as at:
        await at.fail(RECEIVE)
        calls = at.line.calls["receive"]
        with pytest.raises(CircuitOpen) as caught:
            await at.receiver.receive(want())
        assert (time(), caught.value.retry_after) == (20.0, pytest.approx(10.0))
        assert at.line.calls["receive"] == calls
        assert at.provider.paused == (
            "connection main: receive: the circuit breaker is open after repeated failures: "
            "try again in 10.0 s, and look at the provider"
        )
        received = await at.receiver.receive(want())
        assert (time(), len(received.batch)) == (31.0, 0)
        for _ in range(2):
            await at.receiver.receive(want())
        assert (time(), at.provider.paused) == (33.0, None)
        await at.receiver.receive(want())
        assert time() == 53.0


async def test_a_cancelled_probe_is_no_failure() -> None:
    """It is given to the next at once."""
    async with rig() as at:
        await at.fail(RECEIVE)
        await asyncio.sleep(30.0)
        receiving = asyncio.ensure_future(at.receiver.receive(want()))
        await asyncio.sleep(0.5)
        receiving.cancel()
        await asyncio.wait([receiving])
        await at.receiver.receive(want())
        assert (time(), at.state(RECEIVE)) == (31.5, State.HALF_OPEN)


async def test_who_could_ask_for_more_is_not_kept_waiting_for_less() -> None:
    """The wait was ended while it waited for leave: its receive waits for no message."""
    async with rig() as at:
        at.gate.fail(await at.gate.enter(RECEIVE, 0.0), Throttled("slow", retry_after=5.0))
        receiving = asyncio.ensure_future(at.receiver.receive(want()))
        await asyncio.sleep(1.0)
        await at.receiver.end_wait()
        await receiving
        assert time() == 5.0
        await at.receiver.receive(want())
        assert time() == 25.0


@pytest.mark.parametrize("whose", ["receiver", "provider"])
async def test_a_receive_that_waits_for_leave_is_ended_by_the_closing(whose: str) -> None:
    """It raises Closed, as the port says."""
    async with rig() as at:
        await at.fail(RECEIVE)
        receiving = asyncio.ensure_future(at.receiver.receive(want()))
        await asyncio.sleep(1.0)
        await getattr(at, whose).close()
        with pytest.raises(Closed):
            await receiving
        assert time() == 1.0


async def test_depth_and_peek_are_refused_while_receives_are() -> None:
    """They are not counted: that they work says nothing for receives."""
    async with rig() as at:
        await at.fail(RECEIVE, 4)
        assert (await at.provider.depth("q")).available == 0
        assert (await at.provider.source("q")).startswith("memory:")
        assert at.provider.capabilities("q").provider == "memory"
        assert len(await at.receiver.peek(1)) == 0
        await at.fail(RECEIVE, 1)
        for call in (at.provider.depth("q"), at.receiver.peek(1), at.receiver.receive_deferred([])):
            with pytest.raises(CircuitOpen):
                await call


async def test_sessions_are_accepted_through_the_gate() -> None:
    """A probe that finds none in its second asks again, for what is left of the wait."""
    async with rig(fifo=True, sessions="native") as at:
        await at.fail(RECEIVE)
        with pytest.raises(CircuitOpen):
            await at.receiver.accept(None, 5.0)
        await asyncio.sleep(25.0)
        start = time()
        with pytest.raises(SessionNotFound):
            await at.receiver.accept(None, 8.0)
        assert (time() - start, at.state(RECEIVE)) == (8.0, State.CLOSED)
        holding = await at.receiver.accept("a", 1.0)
        await at.receiver.set_session_state(holding.number, b"x")
        assert await at.receiver.session_state(holding.number) == b"x"
        assert (await at.receiver.renew_sessions([holding.number])).failures == {}
        assert await at.receiver.release_sessions([holding.number]) == {}


async def test_settling_is_never_refused() -> None:
    """Open: a single one at a time, each tenth of the open time; who waits for long just goes."""
    async with rig() as at:
        await at.sender.send([Message(b"x") for _ in range(10)])
        receipts = list((await at.receiver.receive(want())).receipts)
        await at.fail(SETTLE)
        ends = []

        async def settle(call: Any) -> None:
            assert getattr(await call, "failures", {}) == {}
            ends.append(time())

        lane = at.receiver
        calls = [
            lane.complete(receipts[:1]),
            lane.release(receipts[1:2]),
            lane.dead_letter(receipts[2:3], [DeadLetter("rejected")]),
            lane.defer(receipts[3:4]),
            lane.renew(receipts[4:5]),
            lane.abandon(receipts[5:6]),
        ]
        await asyncio.gather(*(settle(call) for call in calls))
        assert ends == pytest.approx([3.0, 6.0, 9.0, 10.0, 10.0, 10.0])
        assert await lane.complete([]) == {}
        assert (await lane.renew([])).failures == {}
        assert time() == 10.0
        assert at.state(SETTLE) is State.OPEN
        await asyncio.sleep(20.0)
        for _ in range(3):
            await lane.renew(receipts[4:5])
        assert at.state(SETTLE) is State.CLOSED


async def test_deferred_messages_are_received_through_the_gate() -> None:
    """As any receive."""
    async with rig() as at:
        await at.sender.send([Message(b"x")])
        received = await at.receiver.receive(want())
        [sequence] = received.batch.values("sequence")
        await at.receiver.defer(received.receipts)
        assert len((await at.receiver.receive_deferred([sequence])).batch) == 1


class Down:
    """An endpoint that is down from 5 to 100 s, and counts what reaches it meanwhile."""

    def __init__(self, real: Receiver, reached: list[float]) -> None:
        self._real = real
        self._reached = reached

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def receive(self, want: Want) -> Received:
        await asyncio.sleep(0.01)
        if 5.0 <= time() < 100.0:
            self._reached.append(time())
            raise ConnectionFailed("refused")
        return await self._real.receive(want)


@handler
def content(body: str) -> None:
    """Is content."""


async def test_four_receivers_at_an_endpoint_that_goes_down(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Open, one call in 30 s reaches it from all four; back, everything is handled.

    None of them logs a line while it waits.
    """
    way, reached, gates = Way(), [], []

    def guarded(receiver: Receiver) -> Receiver:
        gates.append(Gate("main", POLICY, way, f"receiver-{len(gates)}"))
        down: Any = Down(receiver, reached)
        return GuardedReceiver(down, gates[-1], 10.0, lambda: False)

    queue = MemoryQueue(connection="main")
    settings = FlowSettings(queue=queue, receivers=4, wait=0.5, source=guarded)
    async with Flow(content, settings, SeededClock(time)) as flow:
        for gate in gates:
            await gate.start()
        await asyncio.sleep(10.0)
        with caplog.at_level(logging.WARNING, "queue_runtime.receive"):
            opened = len(reached)
            await flow.send([Message(b"x") for _ in range(50)])
            await asyncio.sleep(88.0)
            waited = [one for one in caplog.records if one.name == "queue_runtime.receive"]
        probes = [round(at) for at in reached[opened:]]
        await flow.settled()
        assert 5 <= opened <= 8, "those under way when it opened"
        assert probes == [35, 65, 95]
        assert len(waited) == opened + len(probes), "one line for each call that failed"
        assert sum(one.counts["completed"] for one in flow.receivers) == 50
    for gate in gates:
        await gate.close()
