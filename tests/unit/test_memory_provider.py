"""The memory provider: what the port promises, in front of a broker that may be far away."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pipeline.clock import SeededClock
from pipeline.errors import (
    Closed,
    ConnectionFailed,
    MessageNotFound,
    MessageTooLarge,
    QueueError,
    QueueFull,
    QueueNotFound,
    SessionLocked,
    SessionNotFound,
    Timeout,
    ValidationError,
)
from pipeline.message import Message
from pipeline.providers.memory import MemoryBroker, MemoryProvider
from pipeline.providers.memory.receiver import MAX_RECEIVE, MemoryReceiver
from pipeline.providers.memory.sender import MAX_SEND
from pipeline.providers.port import Count, DeadLetter, Depth, Sent, SessionSupport, Want
from pipeline.testing import VirtualLoop
from tests.unit.memory_rig import kinds, settings

PROVIDER = "pipeline.providers.memory.receiver"


class Line:
    """A way to a broker on which calls can be made to fail, or to take long.

    Args:
        broker: where the calls go.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.errors: dict[str, list[QueueError | None]] = {}
        self.before: dict[str, float] = {}
        self.after: dict[str, float] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(self.broker, name)

        async def call(*args: Any) -> Any:
            self.calls.append(name)
            await asyncio.sleep(self.before.get(name, 0))
            errors = self.errors.get(name)
            error = errors.pop(0) if errors else None
            if error is not None:
                raise error
            answer = await real(*args)
            await asyncio.sleep(self.after.get(name, 0))
            return answer

        return call


class Rig:
    """A broker, a line to it, and a provider at the end of the line."""

    def __init__(self, **given: Any) -> None:
        self.queues = {"q": settings(**given)}
        self.clock = SeededClock(asyncio.get_running_loop().time)
        self.broker = MemoryBroker(self.queues, self.clock)
        self.line = Line(self.broker)
        self.provider = MemoryProvider(self.line, self.queues)

    async def receiver(self, **given: Any) -> MemoryReceiver:
        """A receiver of the started provider."""
        await self.provider.start()
        return await self.provider.receiver("q", **given)

    async def send(self, *sessions: str | None) -> list[Sent | QueueError]:
        """Send one message a session."""
        await self.provider.start()
        sender = await self.provider.sender("q")
        return await sender.send([Message(b"x", session=session) for session in sessions])


def want(**given: Any) -> Want:
    """All there is, of new sessions too."""
    return Want(**{"messages": 100, "new_sessions": 10, **given})


@pytest.mark.spec("P2", "P11", "F8")
async def test_two_providers_of_one_broker_see_the_same_queue() -> None:
    """What one sends the other receives; deadlines are the loop's time."""
    rig = Rig(fifo=True, visibility=30.0)
    await rig.send("a", "a")
    other = MemoryProvider(rig.broker, rig.queues)
    await other.start()
    receiver = await other.receiver("q", partition=1)
    await asyncio.sleep(5)
    got = await receiver.receive(want())
    assert got.deadline == math.inf
    [holding] = got.opened
    assert (holding.session, holding.deadline) == ("a", pytest.approx(35))
    assert not got.others_wait
    assert await receiver.complete(got.receipts) == {}
    await asyncio.sleep(5)
    renewed = await receiver.renew_sessions([holding.number])
    assert (renewed.deadline, renewed.failures) == (pytest.approx(40), {})
    await receiver.set_session_state(holding.number, b"s")
    assert await receiver.session_state(holding.number) == b"s"
    assert await receiver.release_sessions([holding.number]) == {}
    assert await other.source("q") == await rig.provider.source("q")
    assert await other.depth("q") == Depth(0, 0, 0, 0, 0, None)
    assert (await other.counters("q")).completed == 2


@pytest.mark.spec("P2")
async def test_every_way_of_settling() -> None:
    """Each reaches the broker and brings its failures back by position."""
    rig = Rig(visibility=30.0)
    await rig.send(*[None] * 5)
    receiver = await rig.receiver()
    got = await receiver.receive(want())
    assert got.deadline == pytest.approx(30)
    first, second, third, fourth, fifth = got.receipts
    assert kinds(await receiver.complete([first, first])) == {1: "MessageNotFound"}
    assert kinds(await receiver.abandon([999, second])) == {0: "MessageNotFound"}
    assert kinds(await receiver.release([third, 999])) == {1: "MessageNotFound"}
    assert await receiver.dead_letter([fourth], [DeadLetter("r")]) == {}
    assert await receiver.defer([fifth]) == {}
    await asyncio.sleep(1)
    deferred = await receiver.receive_deferred([5])
    assert deferred.deadline == pytest.approx(31)
    await asyncio.sleep(1)
    renewed = await receiver.renew([*deferred.receipts, 999])
    assert renewed.deadline == pytest.approx(32)
    assert kinds(renewed.failures) == {1: "MessageNotFound"}
    assert (await receiver.peek(10, 2)).values("sequence") == [3, 5]
    assert await rig.provider.depth("q") == Depth(2, 1, 0, 0, 1, pytest.approx(2))
    dead = await rig.receiver(dead_letters=True)
    assert (await dead.receive(want())).batch.values("dead_letter_reason") == ["r"]


@pytest.mark.spec("P4", "P14")
@pytest.mark.parametrize("count", list(Count))
@pytest.mark.parametrize(
    ("sessions", "support"),
    [
        ("native", SessionSupport.NATIVE),
        ("groups", SessionSupport.EMULATED),
        ("none", SessionSupport.UNSUPPORTED),
    ],
)
async def test_capabilities_follow_the_dialect(
    sessions: str, support: SessionSupport, count: Count
) -> None:
    """They are known before anything is started, and so is that a queue isn't there."""
    rig = Rig(fifo=True, sessions=sessions, count=str(count), max_message_size=99)
    able = rig.provider.capabilities("q")
    on_receive = count is Count.ON_RECEIVE
    assert (able.provider, able.sessions, able.count) == ("memory", support, count)
    assert able.release_counts == on_receive
    assert able.abandon_delay == (on_receive and sessions == "none")
    assert able.session_state == (sessions == "native")
    assert able.max_message_size == 99
    assert not able.duplicate_detection
    assert Rig(duplicate_window=1.0).provider.capabilities("q").duplicate_detection
    with pytest.raises(QueueNotFound, match="names no queue 'x'; it names: q"):
        rig.provider.capabilities("x")
    with pytest.raises(QueueNotFound, match="it names: none"):
        MemoryProvider(rig.broker, {}).capabilities("q")


@pytest.mark.spec("P10")
async def test_starting_asks_the_broker_for_the_queues() -> None:
    """One that the broker lacks fails the start; it can be tried again; a repeat asks nothing."""
    rig = Rig()
    with pytest.raises(ValidationError, match="await start"):
        await rig.provider.depth("q")
    rig.line.errors["source"] = [ConnectionFailed("down")]
    with pytest.raises(ConnectionFailed):
        await rig.provider.start()
    await rig.provider.start()
    await rig.provider.start()
    assert rig.line.calls == ["source", "source"]
    with pytest.raises(QueueNotFound):
        await MemoryProvider(rig.broker, {"x": settings()}).start()
    for call in (rig.provider.sender, rig.provider.receiver, rig.provider.source):
        with pytest.raises(QueueNotFound):
            await call("x")
    with pytest.raises(QueueNotFound):
        await rig.provider.counters("x")
    with pytest.raises(QueueNotFound):
        await rig.provider.depth("x")


# Sending.


@pytest.mark.spec("P3", "P5")
async def test_a_message_over_the_limit_never_leaves() -> None:
    """`MessageTooLarge`, and those of its session behind it fail with it, unsent."""
    rig = Rig(fifo=True, max_message_size=4)
    await rig.provider.start()
    sender = await rig.provider.sender("q")
    bodies = ((b"1", "a"), (b"12345", "a"), (b"2", "a"), (b"3", "b"))
    results = await sender.send([Message(body, session=session) for body, session in bodies])
    assert [type(result) for result in results] == [Sent, MessageTooLarge, MessageTooLarge, Sent]
    assert results[1] is results[2]
    assert results[3] == Sent(2)
    results = await sender.send([Message(b"12345"), Message(b"1")])
    assert [type(result) for result in results] == [MessageTooLarge, ValidationError]


@pytest.mark.spec("P3")
async def test_an_unordered_queue_sends_those_behind_a_failure() -> None:
    """A session is data there."""
    rig = Rig(max_message_size=4)
    await rig.provider.start()
    sender = await rig.provider.sender("q")
    results = await sender.send([Message(b"12345", session="a"), Message(b"1", session="a")])
    assert [type(result) for result in results] == [MessageTooLarge, Sent]


@pytest.mark.spec("P3", "P5", "F3")
async def test_a_long_list_goes_in_parts_and_keeps_order_across_them() -> None:
    """What the broker refused in one part is not overtaken by the next."""
    rig = Rig(fifo=True, max_messages=MAX_SEND - 1)
    sessions = ["a"] * MAX_SEND + ["b", "a", "a"]
    results = await rig.send(*sessions)
    assert rig.line.calls.count("send") == 2
    assert all(isinstance(result, Sent) for result in results[: MAX_SEND - 1])
    assert all(isinstance(result, QueueFull) for result in results[MAX_SEND - 1 :])
    assert results[-1] is results[MAX_SEND - 1]
    assert await rig.send() == []


@pytest.mark.spec("P3", "F2")
async def test_a_part_that_fails_leaves_the_results_before_it() -> None:
    """The error is that of the rest; when nothing was sent before, it is raised."""
    rig = Rig()
    rig.line.errors["send"] = [None, ConnectionFailed("cut")]
    results = await rig.send(*[None] * (2 * MAX_SEND + 1))
    assert all(isinstance(result, Sent) for result in results[:MAX_SEND])
    assert all(isinstance(result, ConnectionFailed) for result in results[MAX_SEND:])
    assert len(results) == 2 * MAX_SEND + 1
    assert rig.line.calls.count("send") == 2
    rig.line.errors["send"] = [ConnectionFailed("down")]
    with pytest.raises(ConnectionFailed):
        await rig.send(None)


@pytest.mark.spec("P2", "P11")
async def test_duplicates_and_scheduled_messages_are_told() -> None:
    """A duplicate has no sequence; a scheduled one's takes it back."""
    rig = Rig(duplicate_window=60.0)
    await rig.provider.start()
    sender = await rig.provider.sender("q")
    results = await sender.send([Message(b"", id="a"), Message(b"", id="a")])
    assert results == [Sent(1), Sent(None, duplicate=True)]
    with pytest.raises(MessageNotFound):
        await sender.cancel(1)


# Waiting.


@pytest.mark.spec("P3", "P6")
async def test_a_receive_brings_at_most_the_maximum() -> None:
    """However many are wanted."""
    rig = Rig()
    await rig.send(*[None] * (MAX_RECEIVE + 1))
    receiver = await rig.receiver()
    assert len((await receiver.receive(want(messages=10**6))).receipts) == MAX_RECEIVE


@pytest.mark.spec("P2", "F2")
@pytest.mark.parametrize("after", [0.0, 3.0])
@pytest.mark.parametrize("sessions", ["native", "groups", "none"])
async def test_a_cancelled_receive_loses_and_leaks_nothing(sessions: str, after: float) -> None:
    """Also when the broker had answered already and the answer was still on its way."""
    rig = Rig(fifo=True, sessions=sessions)
    receiver, other = await rig.receiver(), await rig.receiver()
    rig.line.after["receive"] = after
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    await asyncio.sleep(1)
    if after:
        await rig.send("a", "a")
    await asyncio.sleep(1)
    polling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await polling
    await asyncio.sleep(after + 1)
    assert not receiver._background
    if not after:
        await rig.send("a", "a")
    got = await other.receive(want(wait=10))
    assert got.batch.values("sequence") == [1, 2]
    assert got.batch.values("delivery_count") == [1, 1]
    assert await other.complete(got.receipts) == {}


@pytest.mark.spec("P2")
async def test_a_wait_can_be_ended_and_the_next_one_not_with_it() -> None:
    """The pending receive returns empty at once; without one, nothing happens."""
    rig = Rig()
    receiver = await rig.receiver()
    loop = asyncio.get_running_loop()
    await receiver.end_wait()
    began = loop.time()
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    await asyncio.sleep(1)
    await receiver.end_wait()
    assert not len((await polling).batch)
    assert loop.time() - began < 2
    await receiver.end_wait()
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    await asyncio.sleep(1)
    await rig.send("a")
    assert len((await polling).batch) == 1


@pytest.mark.spec("P2", "F2")
async def test_a_cancelled_receive_gives_back_what_came_of_held_sessions() -> None:
    """The session stays with its holder; the messages come again."""
    rig = Rig(fifo=True)
    receiver = await rig.receiver()
    holding = await receiver.accept("a", 0)
    rig.line.after["receive"] = 3.0
    polling = asyncio.create_task(receiver.receive(want(wait=30, held={holding.number: 9})))
    await asyncio.sleep(1)
    await rig.send("a")
    await asyncio.sleep(1)
    polling.cancel()
    await asyncio.sleep(4)
    assert (await rig.provider.depth("q")).in_hand == 0
    got = await receiver.receive(want(held={holding.number: 9}))
    assert got.batch.values("holding") == [holding.number]


@pytest.mark.spec("P2", "F2")
@pytest.mark.parametrize("granted", [False, True])
async def test_a_cancelled_accept_leaks_no_session(granted: bool) -> None:
    """Whether it was still waiting, or granted and the answer on its way."""
    rig = Rig(fifo=True)
    receiver, other = await rig.receiver(), await rig.receiver()
    holding = await other.accept("a", 0)
    rig.line.after["accept"] = 3.0
    accepting = asyncio.create_task(receiver.accept("a", 30))
    await asyncio.sleep(1)
    if granted:
        await other.release_sessions([holding.number])
        await asyncio.sleep(1)
    accepting.cancel()
    await asyncio.sleep(4)
    assert not receiver._background
    if not granted:
        await other.release_sessions([holding.number])
    assert (await other.accept("a", 0)).session == "a"


@pytest.mark.spec("P6", "F2")
async def test_an_answer_that_never_comes_is_a_time_out() -> None:
    """Beyond the wait and the configured time; what it brings late is given back."""
    rig = Rig(fifo=True)
    await rig.send("a")
    receiver, other = await rig.receiver(), await rig.receiver()
    rig.line.after["receive"] = 45.0
    with pytest.raises(Timeout, match=r"within 32\.0 s|within 32 s"):
        await receiver.receive(want(wait=2))
    assert asyncio.get_running_loop().time() == pytest.approx(32)
    rig.line.after["receive"] = 0.0
    got = await other.receive(want(wait=60))
    assert asyncio.get_running_loop().time() == pytest.approx(45)
    assert got.batch.values("sequence") == [1]


@pytest.mark.spec("P6", "P10")
async def test_other_calls_are_bounded_too() -> None:
    """By the time a send may take; whether it was done is unknown."""
    rig = Rig()
    receiver = await rig.receiver()
    rig.line.before["complete"] = 60.0
    with pytest.raises(Timeout, match="no answer within 10"):
        await receiver.complete([1])
    assert asyncio.get_running_loop().time() == pytest.approx(10)


@pytest.mark.spec("P2", "P10")
async def test_what_could_not_be_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A line that is down, or a broker that never answers: the locks' end gives it back."""
    rig = Rig(fifo=True, visibility=60.0)
    await rig.send("a")
    receiver, other = await rig.receiver(), await rig.receiver()
    rig.line.after["receive"] = 5.0
    rig.line.errors["end_poll"] = [ConnectionFailed("down")]
    rig.line.errors["release"] = [ConnectionFailed("down")]
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    await asyncio.sleep(1)
    polling.cancel()
    with caplog.at_level(logging.WARNING, PROVIDER):
        await asyncio.sleep(5)
    assert "could not be ended" in caplog.text
    rig.line.after["receive"] = 0.0
    assert (await other.receive(want(wait=100))).batch.values("delivery_count") == [2]

    caplog.clear()
    rig.line.before["end_poll"] = 999.0
    polling = asyncio.create_task(receiver.receive(want(wait=99, new_sessions=0)))
    await asyncio.sleep(1)
    polling.cancel()
    with caplog.at_level(logging.WARNING, PROVIDER):
        await asyncio.sleep(31)
    assert "could not be ended" in caplog.text
    assert not receiver._background


@pytest.mark.spec("P10")
async def test_an_error_of_the_broker_is_the_receives() -> None:
    """As it is, nothing around it."""
    rig = Rig(fifo=True)
    receiver, other = await rig.receiver(), await rig.receiver()
    rig.line.errors["receive"] = [ConnectionFailed("cut")]
    with pytest.raises(ConnectionFailed):
        await receiver.receive(want())
    with pytest.raises(SessionNotFound):
        await receiver.accept(None, 1)
    await other.accept("a", 0)
    with pytest.raises(SessionLocked):
        await receiver.accept("a", 1)


# Closing.


@pytest.mark.spec("P2", "P10")
async def test_closing_gives_back_and_ends_all_calls() -> None:
    """It may be repeated, also at the same time; a pending receive raises `Closed`."""
    rig = Rig(fifo=True)
    await rig.send("a", "b")
    receiver, other = await rig.receiver(), await rig.receiver()
    await receiver.receive(want())
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    accepting = asyncio.create_task(receiver.accept(None, 30))
    await asyncio.sleep(1)
    rig.line.before["close_lane"] = 1.0
    await asyncio.gather(receiver.close(), receiver.close())
    await receiver.close()
    assert rig.line.calls.count("close_lane") == 1
    for pending in (polling, accepting):
        with pytest.raises(Closed):
            await pending
    assert len((await other.receive(want())).receipts) == 2
    calls = [
        receiver.receive(want()),
        receiver.accept(None, 0),
        receiver.complete([]),
        receiver.abandon([]),
        receiver.release([]),
        receiver.dead_letter([], []),
        receiver.defer([]),
        receiver.receive_deferred([]),
        receiver.renew([]),
        receiver.peek(1),
        receiver.release_sessions([]),
        receiver.renew_sessions([]),
        receiver.session_state(1),
        receiver.set_session_state(1, None),
    ]
    for call in calls:
        with pytest.raises(Closed, match="receiver of queue q"):
            await call


@pytest.mark.spec("P2")
async def test_closing_the_provider_closes_all_of_it() -> None:
    """Senders, receivers, itself; never started as well."""
    rig = Rig()
    await MemoryProvider(rig.broker, rig.queues).close()
    await rig.send(None)
    receiver, sender = await rig.receiver(), await rig.provider.sender("q")
    gone = await rig.provider.sender("q")
    await gone.close()
    await receiver.receive(want())
    await rig.provider.close()
    await rig.provider.close()
    assert (await rig.broker.depth("q")).in_hand == 0
    calls = [
        sender.send([]),
        gone.cancel(1),
        receiver.complete([]),
        rig.provider.start(),
        rig.provider.sender("q"),
        rig.provider.receiver("q"),
        rig.provider.source("q"),
        rig.provider.depth("q"),
        rig.provider.counters("q"),
    ]
    for call in calls:
        with pytest.raises(Closed):
            await call
    with pytest.raises(Closed):
        await _closed_before_start(rig)


async def _closed_before_start(rig: Rig) -> None:
    provider = MemoryProvider(rig.broker, rig.queues)
    await provider.close()
    await provider.start()


@pytest.mark.spec("P2", "F2")
async def test_an_answer_that_comes_after_closing_is_closed() -> None:
    """Its messages were given back with the lane."""
    rig = Rig()
    await rig.send(None)
    receiver, other = await rig.receiver(), await rig.receiver()
    rig.line.after["receive"] = 5.0
    polling = asyncio.create_task(receiver.receive(want()))
    await asyncio.sleep(1)
    await receiver.close()
    with pytest.raises(Closed):
        await polling
    rig.line.after["receive"] = 0.0
    assert len((await other.receive(want())).receipts) == 1


@pytest.mark.spec("P2", "F2")
async def test_closing_waits_for_cancelled_receives_to_end() -> None:
    """Nothing of this receiver runs on after it."""
    rig = Rig()
    receiver = await rig.receiver()
    rig.line.before["end_poll"] = 5.0
    polling = asyncio.create_task(receiver.receive(want(wait=30)))
    await asyncio.sleep(1)
    polling.cancel()
    await asyncio.sleep(0)
    await receiver.close()
    assert not receiver._background
    assert asyncio.get_running_loop().time() == pytest.approx(6)


@pytest.mark.spec("P2", "P10")
async def test_closing_survives_a_broker_that_is_gone(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged: the locks' end gives back what was in hand."""
    rig = Rig()
    receiver = await rig.receiver()
    rig.line.errors["close_lane"] = [ConnectionFailed("gone")]
    with caplog.at_level(logging.WARNING, PROVIDER):
        await rig.provider.close()
    assert "could not be closed" in caplog.text
    with pytest.raises(Closed):
        await receiver.complete([])


@pytest.mark.spec("P7")
def test_another_loop_is_told_what_to_do() -> None:
    """Every object belongs to the loop that started it, closing included."""
    home, abroad = VirtualLoop(), VirtualLoop()

    async def make() -> tuple[MemoryProvider, Any, MemoryReceiver]:
        rig = Rig()
        await rig.provider.start()
        return rig.provider, await rig.provider.sender("q"), await rig.receiver()

    provider, sender, receiver = home.run_until_complete(make())
    for call in (
        provider.start(),
        provider.depth("q"),
        provider.close(),
        sender.send([]),
        sender.close(),
        receiver.complete([]),
        receiver.receive(want()),
        receiver.close(),
    ):
        with pytest.raises(ValidationError, match="run_coroutine_threadsafe"):
            abroad.run_until_complete(call)
    home.run_until_complete(provider.close())
    home.close()
    abroad.close()
