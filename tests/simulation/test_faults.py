"""Faults at the provider and in time: what the receiver does about them, in the whole flow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.errors import (
    ConnectionFailed,
    MessageLockLost,
    PermissionDenied,
    SessionLockLost,
    ValidationError,
)
from pipeline.handlers.api import Context, Handler, Reject, Retry, handler
from pipeline.ledger import Ledger
from pipeline.message import Message
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.providers.memory import MemoryProvider
from pipeline.providers.port import Receiver, Renewed
from pipeline.retry import RetryPolicy
from pipeline.slots import SlotTable, slot_of
from pipeline.stages.again import Again
from pipeline.stages.calls import Header
from pipeline.stages.router import RouterCore, RouterSettings
from pipeline.testing.flow import Flow, FlowSettings
from pipeline.testing.virtual_loop import VirtualLoop
from pipeline.turns import Held


class Faulty:
    """A provider's receiver that answers some calls with errors instead of making them."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.faults: dict[str, list[Exception | None]] = {}
        self.raises: set[str] = {"receive"}
        self.lies: set[str] = set()
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._inner, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            fault = self.faults[name].pop(0) if self.faults.get(name) else None
            if name in self.lies:
                return Renewed(asyncio.get_running_loop().time() + 1_000)
            if fault is None:
                return await made(*arguments, **named)
            if name in self.raises:
                raise fault
            if name.startswith("renew"):
                return Renewed(0.0, dict.fromkeys(range(len(arguments[0])), fault))
            return dict.fromkeys(range(len(arguments[0])), fault)

        return call


class Bench:
    """One flow with a faulty provider."""

    def __init__(self, function: Handler, queue: dict[str, Any], **settings: Any) -> None:
        self.faulty: list[Faulty] = []
        loop = asyncio.get_running_loop()
        self.queue = MemoryQueue(connection="m", **queue)
        self.flow = Flow(
            function,
            FlowSettings(
                queue=self.queue,
                source=self._wrap,
                retry=RetryPolicy(3, 1.0, 10.0, 2.0, jitter="half"),
                **settings,
            ),
            SeededClock(loop.time, 1),
        )

    def _wrap(self, inner: Receiver) -> Any:
        self.faulty.append(Faulty(inner))
        return self.faulty[-1]

    @property
    def counts(self) -> dict[str, int]:
        return self.flow.receivers[0].stats()

    async def send(self, *bodies: str, session: str | None = "s") -> None:
        await self.flow.send([Message(body.encode(), session=session) for body in bodies])


ORDERED = [{"fifo": True, "sessions": "native"}, {"fifo": True, "sessions": "groups"}]
ALL = [*ORDERED, {}, {"count": "on_receive"}]


def first_attempts_fail(log: list[tuple[str, int]]) -> Handler:
    @handler
    async def fails(body: str, context: Context) -> Any:
        log.append((body, context.attempt))
        return Retry(2.0) if body.startswith("bad") and context.attempt < 3 else None

    return fails


@pytest.mark.spec("H5", "P14", "F2")
@pytest.mark.parametrize("queue", ALL, ids=str)
async def test_a_failing_message_is_tried_again_after_its_delay(queue: dict[str, Any]) -> None:
    """Two attempts fail; the third completes, two delays later; others are not held up."""
    log: list[tuple[str, int]] = []
    bench = Bench(first_attempts_fail(log), queue)
    await bench.send("bad", session="s")
    await bench.send("good", session="other")
    async with bench.flow:
        await bench.flow.settled()
        assert asyncio.get_running_loop().time() >= 4.0
    assert [entry for entry in log if entry[0] == "bad"] == [("bad", 1), ("bad", 2), ("bad", 3)]
    counters = await bench.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (2, 0)
    assert bool(counters.abandoned) is (queue == {"count": "on_receive"})


@pytest.mark.spec("H5")
@pytest.mark.parametrize("queue", ALL, ids=str)
async def test_the_last_attempt_dead_letters(queue: dict[str, Any]) -> None:
    """A message that fails at every attempt is dead-lettered after the third."""

    @handler
    async def never(body: str) -> None:
        raise OSError(body)

    bench = Bench(never, queue)
    await bench.send("x")
    async with bench.flow:
        await bench.flow.settled()
    counters = await bench.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (0, 1)


@pytest.mark.spec("P13", "F2", "F3")
@pytest.mark.parametrize("queue", [*ORDERED, {}], ids=str)
@pytest.mark.parametrize("when", ["running", "waiting"])
async def test_a_lost_lock_is_told_and_the_message_comes_again(
    queue: dict[str, Any], when: str
) -> None:
    """The running handler learns it, its settle is refused, and the provider delivers again."""
    lost: list[bool] = []

    @handler
    async def slow(body: str, context: Context) -> Any:
        if len(lost) == 0 and when == "waiting":
            lost.append(True)
            return Retry(50.0)
        await asyncio.sleep(40 if len(lost) < 2 else 0)
        lost.append(context.lock_lost)
        return None

    bench = Bench(slow, queue | {"visibility": 30.0})
    await bench.send("a", "b")
    async with bench.flow:
        (faulty,) = bench.faulty
        error = (
            SessionLockLost("gone") if queue.get("sessions") == "native" else MessageLockLost("")
        )
        faulty.faults["renew_sessions"] = faulty.faults["renew"] = [error]
        await asyncio.sleep(16)
        assert "renew" in "".join(faulty.calls)
        await bench.flow.settled()
        assert bench.counts["lost"] >= 1
    assert True in lost
    counters = await bench.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (2, 0)
    bench.flow.check()


@pytest.mark.spec("P13")
@pytest.mark.parametrize("queue", [ORDERED[1], {}], ids=str)
async def test_nothing_is_renewed_of_rows_that_are_lost(queue: dict[str, Any]) -> None:
    """Their handler goes on for long; SQS knows no time to which nothing at all is locked."""
    asked: list[int] = []

    @handler
    async def slow(body: str, context: Context) -> None:
        await asyncio.sleep(0 if context.lock_lost or len(asked) > 1 else 200)

    async def renew(receipts: Sequence[Any]) -> Renewed:
        asked.append(len(receipts))
        if len(asked) > 20:
            raise ZeroDivisionError("without end")
        lost = {0: MessageLockLost("gone")} if len(asked) == 1 else {}
        return Renewed(asyncio.get_running_loop().time() + (30 if receipts else 0), lost)

    bench = Bench(slow, queue | {"visibility": 30.0})
    await bench.send("a")
    async with bench.flow:
        bench.faulty[0].renew = renew  # type: ignore[method-assign]
        await asyncio.sleep(150)
        assert 0 not in asked
        await bench.flow.settled()


@pytest.mark.spec("P13")
@pytest.mark.parametrize("queue", [*ORDERED, {}], ids=str)
async def test_a_renewal_that_fails_for_a_moment_is_tried_again(queue: dict[str, Any]) -> None:
    """A transient error costs nothing while the lock lasts."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(100)

    bench = Bench(slow, queue | {"visibility": 30.0})
    await bench.send("a")
    async with bench.flow:
        (faulty,) = bench.faulty
        for name in ("renew", "renew_sessions"):
            faulty.faults[name] = [ConnectionFailed("no"), None, ConnectionFailed("no")]
        await bench.flow.settled()
        assert bench.counts["lost"] == 0
    assert (await bench.flow.broker.counters("queue")).completed == 1


@pytest.mark.spec("R1", "F2")
async def test_a_receive_that_fails_is_made_again() -> None:
    """Transient errors of a receive are waited out."""
    bench = Bench(first_attempts_fail([]), ORDERED[0])
    await bench.send("a")
    async with bench.flow:
        bench.faulty[0].faults["receive"] = [ConnectionFailed("x"), ConnectionFailed("y")]
        await bench.flow.settled()
    assert (await bench.flow.broker.counters("queue")).completed == 1
    bench.flow.check()


@pytest.mark.spec("P10")
async def test_a_receive_that_can_not_work_is_told() -> None:
    """An error that no repeat can mend is not silence: the receiver says it can't go on."""
    bench = Bench(first_attempts_fail([]), ORDERED[0], wait=1.0)
    async with bench.flow:
        bench.faulty[0].faults["receive"] = [PermissionDenied("Listen is needed")]
        await asyncio.sleep(5)
        with pytest.raises(PermissionDenied):
            bench.flow.check()


@pytest.mark.spec("P10", "F2")
async def test_a_settlement_that_ends_with_a_defect_is_told() -> None:
    """Its rows would otherwise wait for ever without a word."""

    async def broken(*_: object) -> dict[int, Exception]:
        raise ZeroDivisionError

    bench = Bench(first_attempts_fail([]), ORDERED[0])
    await bench.send("a")
    async with bench.flow:
        bench.faulty[0].complete = broken  # type: ignore[method-assign]
        await asyncio.sleep(5)
        with pytest.raises(ZeroDivisionError):
            bench.flow.check()


@pytest.mark.spec("F2")
@pytest.mark.parametrize("queue", [*ORDERED, {}], ids=str)
async def test_a_settlement_that_fails_for_a_moment_is_made_again(queue: dict[str, Any]) -> None:
    """Completing is tried again until it is confirmed; the handler runs once."""
    log: list[tuple[str, int]] = []
    bench = Bench(first_attempts_fail(log), queue)
    await bench.send("a", "b")
    async with bench.flow:
        bench.faulty[0].faults["complete"] = [ConnectionFailed("x"), ConnectionFailed("y")]
        await bench.flow.settled()
    assert sorted(log) == [("a", 1), ("b", 1)]
    assert (await bench.flow.broker.counters("queue")).completed == 2


@pytest.mark.spec("F2", "F4")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_a_settlement_that_comes_too_late_applies_nothing_twice(
    queue: dict[str, Any],
) -> None:
    """The lock is gone when it is completed: it comes again and is completed without a run."""
    runs: list[str] = []

    @handler(state=dict)
    async def once(body: str, state: dict[str, int]) -> None:
        runs.append(body)
        state[body] = state.get(body, 0) + 1

    bench = Bench(once, queue | {"visibility": 20.0})
    await bench.send("a")
    async with bench.flow:
        bench.faulty[0].faults["complete"] = [MessageLockLost("too late")]
        await bench.flow.settled()
        states = await bench.flow.states()
    assert runs == ["a"]
    assert states == {"s": b'{"a":1}'}


@pytest.mark.spec("H4", "F3")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_the_session_waits_until_its_dead_letter_is_confirmed(queue: dict[str, Any]) -> None:
    """While the dead-letter queue can't be reached nothing later of the session is handled."""
    log: list[tuple[str, float]] = []

    @handler
    async def picky(body: str) -> Any:
        log.append((body, asyncio.get_running_loop().time()))
        return Reject("no") if body == "bad" else None

    bench = Bench(picky, queue)
    await bench.send("bad", "good")
    async with bench.flow:
        bench.faulty[0].faults["dead_letter"] = [ConnectionFailed("x"), PermissionDenied("y")] * 4
        await bench.flow.settled()
        calls = bench.faulty[0].calls
    assert [body for body, _ in log] == ["bad", "good"]
    assert calls.count("dead_letter") == 9
    assert log[1][1] > log[0][1] + 1
    counters = await bench.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (1, 1)


@pytest.mark.spec("F6", "R3", "H4")
@pytest.mark.parametrize("queue", ALL, ids=str)
async def test_a_drain_gives_back_what_can_not_be_dead_lettered(queue: dict[str, Any]) -> None:
    """At once: the message stays in the queue, in front of those behind it, and nothing is lost."""
    log: list[str] = []

    @handler
    async def picky(body: str) -> Any:
        log.append(body)
        return Reject("no") if body == "bad" else None

    bench = Bench(picky, queue)
    await bench.send("bad", "good", session=None if not queue.get("fifo") else "s")
    await bench.flow.start()
    bench.faulty[0].faults["dead_letter"] = [PermissionDenied("no")] * 1_000
    await asyncio.sleep(100)
    before = asyncio.get_running_loop().time()
    assert await bench.flow.close() == 0, "nothing is left to lock expiry"
    assert asyncio.get_running_loop().time() < before + 1
    again = Bench(picky, queue)
    again.flow.broker = bench.flow.broker
    again.flow.provider = MemoryProvider(bench.flow.broker, {"queue": again.queue})
    async with again.flow:
        await again.flow.settled()
    counters = await bench.flow.broker.counters("queue")
    assert (counters.completed, counters.dead_lettered) == (1, 1)
    if queue.get("fifo"):
        assert [body for body in log if body == "good"] == log[-1:]


@pytest.mark.spec("F6", "F7", "R3")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_what_a_drain_does_not_dead_letter_goes_out_whole_where_it_has_to(
    queue: dict[str, Any],
) -> None:
    """Where a handler may run a row of its session, that is not given back: all of it goes out."""
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))

    @handler
    async def picky(body: str) -> Any:
        return Reject("no") if body == "bad" else None

    bench = Bench(picky, queue)
    await bench.send("bad", "good")
    await bench.flow.start()
    bench.faulty[0].faults["dead_letter"] = [PermissionDenied("no")] * 1_000
    await asyncio.sleep(100)
    [receiver] = bench.flow.receivers
    [turns] = receiver._holdings
    sent: list[str] = []
    go = receiver._outgo.send
    receiver._again._send = lambda batch, rows, **more: (
        sent.extend(body.decode() for body in batch.values("body")),
        go(batch, rows, **more),
    )
    turns.unknown = True  # as after a router's death
    receiver._unknown.add(turns)
    await receiver.stop_receiving()
    await asyncio.sleep(0.1)
    assert sent == ["bad", "good"]
    await receiver.nothing_runs()
    assert await bench.flow.close() == 0
    assert errors == []
    assert (await bench.flow.broker.depth("queue")).in_hand == 0


@pytest.mark.spec("F3")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_a_session_is_given_back_when_its_retry_is_far_away(queue: dict[str, Any]) -> None:
    """Past `hold` the session is given back; the delay is kept all the same, and the order."""
    log: list[tuple[str, float]] = []

    @handler
    async def later(body: str, context: Context) -> Any:
        log.append((body, asyncio.get_running_loop().time()))
        return Retry(100.0) if body == "a" and context.attempt == 1 else None

    bench = Bench(later, queue, hold=15.0)
    await bench.send("a", "b")
    async with bench.flow:
        await bench.flow.settled()
        assert bench.counts["released"] > 0
        if queue["sessions"] == "groups":
            assert bench.counts["received"] == 4, "it waits at the broker: each came once more"
    assert [body for body, _ in log] == ["a", "a", "b"]
    assert log[1][1] >= log[0][1] + 99
    assert (await bench.flow.broker.counters("queue")).completed == 2


@pytest.mark.spec("P13", "F3")
async def test_what_waits_is_given_back_before_its_lock_can_not_be_renewed() -> None:
    """Whether it waits then, or would wait soon after; nothing is lost, and the order stays."""
    log: list[str] = []

    @handler
    async def later(body: str, context: Context) -> Any:
        log.append(body)
        if body == "slow 1" and context.attempt == 1:
            await asyncio.sleep(100)
        return Retry(300.0) if body.endswith("1") and context.attempt == 1 else None

    bench = Bench(later, {"fifo": True, "sessions": "groups", "visibility": 30.0}, hold=1000.0)
    real = bench.flow.provider.capabilities
    bench.flow.provider.capabilities = lambda queue: replace(real(queue), max_lock=120.0)  # type: ignore[method-assign]
    await bench.send("slow 1", "slow 2", session="slow")
    await bench.send("far 1", "far 2", session="far")
    async with bench.flow:
        await asyncio.sleep(95)
        assert bench.counts["released"] == 2, "the slow one still runs"
        await asyncio.sleep(20)
        assert bench.counts["released"] == 4
        await bench.flow.settled()
        assert bench.counts["lost"] == 0
        assert bench.counts["received"] == 8
    for session in ("slow", "far"):
        own = [body for body in log if body.startswith(session)]
        assert own == [f"{session} 1", f"{session} 1", f"{session} 2"]


@pytest.mark.spec("F6", "F2")
@pytest.mark.parametrize("queue", ALL, ids=str)
async def test_what_waits_for_a_retry_is_given_back_by_a_drain(queue: dict[str, Any]) -> None:
    """Nothing stays locked: every message is available at once after the drain."""
    log: list[tuple[str, int]] = []

    @handler
    async def fails(body: str) -> Any:
        log.append((body, 1))
        return Retry(50.0)

    bench = Bench(fails, queue)
    await bench.send("a", "b")
    await bench.flow.start()
    await asyncio.sleep(1)
    assert await bench.flow.close() == 0
    depth = await bench.flow.broker.depth("queue")
    assert depth.in_hand == 0
    assert (depth.available or 0) + (depth.scheduled or 0) == 2


@pytest.mark.spec("F6", "F2")
@pytest.mark.parametrize("queue", ALL, ids=str)
async def test_a_drain_in_the_middle_gives_back_what_has_not_begun(queue: dict[str, Any]) -> None:
    """A running message is cancelled, all others come back, none is lost or settled twice."""

    @handler
    async def slow(body: str) -> None:
        await asyncio.sleep(1000)

    bench = Bench(slow, queue, concurrency=2, batch_rows=3)
    await bench.send(*[str(number) for number in range(40)])
    await bench.flow.start()
    await asyncio.sleep(1)
    assert await bench.flow.close() == 0
    depth = await bench.flow.broker.depth("queue")
    assert (depth.available, depth.in_hand) == (40, 0)


@pytest.mark.spec("F5")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_a_hot_session_has_at_most_a_quarter_of_the_credit(queue: dict[str, Any]) -> None:
    """A session whose messages don't end leaves three quarters to the others."""
    release = asyncio.Event()

    @handler
    async def hot(body: str) -> None:
        if body.startswith("hot"):
            await release.wait()

    bench = Bench(hot, queue, messages=40, batch_rows=40)
    await bench.send(*[f"hot{number}" for number in range(100)], session="hot")
    for number in range(30):
        await bench.send("cool", session=f"cool-{number}")
    async with bench.flow:
        await asyncio.sleep(30)
        assert bench.counts["in_hand"] == 10
        assert bench.counts["completed"] == 30
        release.set()
        await bench.flow.settled()


@pytest.mark.spec("F5")
async def test_native_sessions_rotate_when_places_run_short() -> None:
    """With two places, forty sessions all get their turn."""
    bench = Bench(first_attempts_fail([]), ORDERED[0], sessions=2)
    for number in range(40):
        await bench.send("x", "y", session=f"s{number}")
    async with bench.flow:
        await bench.flow.settled()
    assert (await bench.flow.broker.counters("queue")).completed == 80


@pytest.mark.spec("F5")
async def test_a_session_that_is_never_empty_is_given_up_to_others() -> None:
    """After a minute of a busy session, one that waits gets the only place."""
    log: list[str] = []

    @handler
    async def work(body: str) -> None:
        await asyncio.sleep(1)
        log.append(body)

    bench = Bench(work, ORDERED[0], sessions=1, messages=8)
    await bench.send(*["hot"] * 200, session="hot")
    await bench.send("cool", session="cool")
    async with bench.flow:
        await bench.flow.settled()
    assert 50 < log.index("cool") < 150


@pytest.mark.spec("F5")
async def test_a_full_slot_holds_back_its_own_sessions_only() -> None:
    """Half of the credit for one slot; sessions of another slot go on."""
    slot = slot_of("s0")
    same = [f"s{n}" for n in range(2_000) if slot_of(f"s{n}") == slot][:4]
    other = next(f"s{n}" for n in range(2_000) if slot_of(f"s{n}") != slot)
    release = asyncio.Event()

    @handler
    async def hot(body: str) -> None:
        if body == "hot":
            await release.wait()

    bench = Bench(hot, ORDERED[0], messages=40, batch_rows=10)
    for session in same[:3]:
        await bench.send(*["hot"] * 9, session=session)
    async with bench.flow:
        await asyncio.sleep(5)
        await bench.send("hot", session=same[0])
        await bench.send(*["cool"] * 5, session=other)
        await asyncio.sleep(60)
        assert bench.counts["completed"] == 5
        assert bench.counts["in_hand"] == 27
        release.set()
        await bench.flow.settled()


@pytest.mark.spec("P13", "F3", "F4")
@pytest.mark.parametrize("queue", ORDERED, ids=str)
async def test_a_lock_that_was_lost_in_silence_does_no_harm(queue: dict[str, Any]) -> None:
    """The provider delivers anew while the old run goes on: one effect, in order."""
    runs: list[str] = []

    @handler(state=dict)
    async def slow(body: str, state: dict[str, int]) -> None:
        runs.append(body)
        await asyncio.sleep(30)
        state[body] = state.get(body, 0) + 1

    bench = Bench(slow, queue | {"visibility": 10.0})
    await bench.send("a", "b")
    async with bench.flow:
        bench.faulty[0].lies = {"renew", "renew_sessions"}
        await asyncio.sleep(15)
        bench.faulty[0].lies = set()
        await bench.flow.settled()
        states = await bench.flow.states()
        assert bench.counts["lost"] >= 2
    assert runs == ["a", "b"]
    assert states == {"s": b'{"a":1,"b":1}'}


@pytest.mark.spec("P13")
@pytest.mark.parametrize("queue", [*ORDERED, {}], ids=str)
async def test_a_lock_that_can_not_be_renewed_in_time_is_lost(queue: dict[str, Any]) -> None:
    """Transient errors until the deadline: the rows are lost, and come again."""

    @handler(state=dict) if queue else handler
    async def slow(body: str) -> None:
        await asyncio.sleep(45)

    bench = Bench(slow, queue | {"visibility": 30.0})
    await bench.send("a")
    async with bench.flow:
        for name in ("renew", "renew_sessions"):
            bench.faulty[0].faults[name] = [ConnectionFailed("no")] * 40
        await asyncio.sleep(100)
        for name in ("renew", "renew_sessions"):
            bench.faulty[0].faults[name] = []
        await bench.flow.settled()
        assert bench.counts["lost"] >= 1
    assert (await bench.flow.broker.counters("queue")).completed == 1


@pytest.mark.spec("F2")
async def test_a_call_that_fails_as_a_whole_is_made_again() -> None:
    """An error raised, not answered, for a settlement and for giving sessions back."""
    bench = Bench(first_attempts_fail([]), ORDERED[0], sessions=2)
    for number in range(12):
        await bench.send("x", session=f"s{number}")
    async with bench.flow:
        faulty = bench.faulty[0]
        faulty.raises |= {"complete", "release_sessions"}
        faulty.faults["complete"] = [ConnectionFailed("x")]
        faulty.faults["release_sessions"] = [ConnectionFailed("x")]
        await asyncio.sleep(1)
        faulty.raises = set()
        faulty.faults["release_sessions"] = [SessionLockLost("x")]
        for number in range(12):
            await bench.send("x", session=f"t{number}")
        await asyncio.sleep(400)
        await bench.flow.settled()
    assert (await bench.flow.broker.counters("queue")).completed == 24


@pytest.mark.spec("P13", "F2")
async def test_a_settlement_ends_when_its_lock_does() -> None:
    """Completing fails until the lock is lost: then it is given up, and the message comes again."""
    bench = Bench(first_attempts_fail([]), {"visibility": 30.0})
    await bench.send("x")
    async with bench.flow:
        bench.faulty[0].faults["complete"] = [ConnectionFailed("no")] * 6
        bench.faulty[0].faults["renew"] = [MessageLockLost("gone")]
        await bench.flow.settled()
        assert bench.counts["lost"] == 1
    assert (await bench.flow.broker.counters("queue")).completed == 1


@pytest.mark.spec("F6")
async def test_what_is_being_settled_is_waited_for_by_a_drain() -> None:
    """A message completed while the receiver stops is settled before it closes."""

    @handler
    async def work(body: str) -> None:
        await asyncio.sleep(0.5)

    bench = Bench(work, ORDERED[1])
    await bench.send("x")
    await bench.flow.start()
    await asyncio.sleep(0.1)
    receiver = bench.flow.receivers[0]
    bench.faulty[0].faults["complete"] = [ConnectionFailed("no")] * 3
    await receiver.stop_receiving()
    await asyncio.sleep(0.5)
    assert await receiver.close() == 0
    assert await bench.flow.close() == 0
    assert (await bench.flow.broker.counters("queue")).completed == 1


@pytest.mark.spec("T6")
def test_a_deadlock_and_a_runaway_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing ready and no timer, or a clock that never stops moving, does not hang."""

    async def stuck() -> None:
        await asyncio.get_running_loop().create_future()

    async def runs_away() -> None:
        for _ in range(1_000):
            await asyncio.sleep(1)

    monkeypatch.setattr("pipeline.testing.virtual_loop.MAX_JUMPS", 5)
    for work, match in ((stuck(), "deadlock"), (runs_away(), "runaway")):
        loop = VirtualLoop()
        task = loop.create_task(work)
        with pytest.raises(RuntimeError, match=match):
            loop.run_until_complete(task)
        monkeypatch.setattr("pipeline.testing.virtual_loop.MAX_JUMPS", 10_000)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        monkeypatch.setattr("pipeline.testing.virtual_loop.MAX_JUMPS", 5)
        loop.close()


@pytest.mark.spec("P10")
async def test_a_defect_in_settling_is_no_silence(caplog: pytest.LogCaptureFixture) -> None:
    """An error that is not ours is logged; the message stays in hand, to be lost in time."""
    bench = Bench(first_attempts_fail([]), {})
    await bench.send("x")
    await bench.flow.start()
    bench.faulty[0].raises.add("complete")
    bench.faulty[0].faults["complete"] = [RuntimeError("a defect")]
    await asyncio.sleep(1)
    assert await bench.flow.close() == 1
    assert "a defect" in caplog.text


@pytest.mark.spec("F5")
async def test_stops_are_forgotten_when_their_sessions_end() -> None:
    """Hundreds of sessions that failed once leave nothing behind in the handlers."""
    bench = Bench(first_attempts_fail([]), ORDERED[1])
    for number in range(600):
        await bench.send("bad", session=f"s{number}")
    async with bench.flow:
        await bench.flow.settled()
        await asyncio.sleep(1)
        assert len(bench.flow.handlers[0]._lanes) < 256


@pytest.mark.spec("O3")
@pytest.mark.parametrize("queue", [ORDERED[0], {}], ids=str)
async def test_debug_tells_how_each_message_ended(
    queue: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """One line a delivery, without its body."""
    caplog.set_level("DEBUG", "queue_runtime.receive")
    bench = Bench(first_attempts_fail([]), queue)
    await bench.send("secret-body")
    async with bench.flow:
        await bench.flow.settled()
    assert "sequence 1 completed after" in caplog.text
    assert "secret-body" not in caplog.text


async def test_starting_and_closing_twice_is_once() -> None:
    """`start` and `close` are idempotent."""
    bench = Bench(first_attempts_fail([]), ORDERED[0])
    async with bench.flow:
        await bench.flow.receivers[0].start()
        bench.flow.receivers[0]._locks.renewer.start()
        await bench.flow.receivers[0].close()


class Deaf:
    """A handler that takes runs and never answers, or answers as told."""

    def __init__(self, answer: Callable[[int], Part] | None = None) -> None:
        self.runs: list[MessageBatch] = []
        self._answer = answer

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        self.runs.append(batch)
        if self._answer is None:
            await asyncio.get_running_loop().create_future()
        assert self._answer is not None
        return self._answer(len(batch))

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        raise AssertionError


def rows(*pairs: tuple[str, int]) -> MessageBatch:
    return MessageBatch.from_columns(
        len(pairs),
        {
            "id": [f"{session}-{holding}-{at}" for at, (session, holding) in enumerate(pairs)],
            "session": [session for session, _ in pairs],
            "holding": [holding for _, holding in pairs],
            "sequence": list(range(len(pairs))),
            "body": [b""] * len(pairs),
        },
    )


def router(handlers: Sequence[Deaf], errors: list[BaseException]) -> RouterCore:
    return RouterCore(
        RouterSettings(name="r", epoch=1, batch_rows=4, batch_bytes=10**6),
        dict(enumerate(handlers)),
        SlotTable.spread(len(handlers), 1),
        errors.append,
    )


@pytest.mark.spec("F3")
async def test_rows_of_an_older_holding_are_refused_at_the_router() -> None:
    """What waits there of an older holding comes back when a newer one of its session arrives."""
    deaf = Deaf()
    core = router([deaf], [])
    tasks = []
    for number, batch in enumerate(
        [rows(("x", 1)), rows(("x", 1)), rows(("a", 1), ("b", 1), ("a", 1)), rows(("a", 2))], 1
    ):
        tasks.append(asyncio.ensure_future(core.run(Header("c", 1, number, "q"), batch)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    part = await tasks[2]
    assert sorted(outcome.row for outcome in part.others) == [0, 2]
    assert not part.last
    assert core.stats()["waiting"] == 2
    await core.drain()
    rest = await core.more("c", 1, 3, 1)
    assert [outcome.row for outcome in rest.others] == [1]
    assert rest.last
    late = await core.run(Header("c", 1, 5, "q"), rows(("z", 1)))
    assert len(late.others) == 1
    for task in (*tasks, *core._ways[0]._line._open.values()):
        task.cancel()
    await core.close()


@pytest.mark.spec("F1")
async def test_what_waits_for_a_busy_handler_goes_as_one_run() -> None:
    """Calls that come while two runs are unanswered grow into one, and find their callers again."""
    answers: list[asyncio.Future[None]] = []

    class Busy(Deaf):
        async def run(self, header: Header, batch: MessageBatch) -> Part:
            self.runs.append(batch)
            answers.append(asyncio.get_running_loop().create_future())
            await answers[-1]
            others = [Outcome(len(batch) - 1, Kind.RELEASED)] if len(batch) > 2 else []
            return Part(list(range(len(batch) - len(others))), others, last=True)

    busy = Busy()
    core = router([busy], [])
    batches = [rows(("a", 1)), rows(("b", 1)), rows(("c", 1)), rows(("d", 1), ("e", 1)), nameless()]
    tasks = []
    for number, batch in enumerate(batches, 1):
        tasks.append(asyncio.ensure_future(core.run(Header("c", 1, number, "q"), batch)))
        await asyncio.sleep(0.01)
    answers[0].set_result(None)
    await asyncio.sleep(0.01)
    answers[1].set_result(None)
    answers[2].set_result(None)
    parts = await asyncio.gather(*tasks)
    assert [len(batch) for batch in busy.runs] == [1, 1, 4]
    assert [list(part.completed) for part in parts] == [[0], [0], [0], [0, 1], []]
    assert [outcome.row for outcome in parts[4].others] == [0]
    await core.close()


def nameless() -> MessageBatch:
    return MessageBatch.from_columns(1, {"id": ["n"], "body": [b""]})


@pytest.mark.spec("F6")
async def test_a_receiver_whose_handlers_are_gone_can_be_closed() -> None:
    """Calls that nobody will answer are abandoned; what they had is left to lock expiry."""
    bench = Bench(
        first_attempts_fail([]),
        ORDERED[0],
        wire=lambda core: Deaf() if isinstance(core, RouterCore) else core,
    )
    await bench.send("a", "b")
    await bench.flow.start()
    await asyncio.sleep(1)
    assert await bench.flow.close() == 2


async def test_a_row_whose_lock_ended_does_not_go_out_again() -> None:
    """Between the decision and the sending the lock may end."""
    lost: list[int] = []
    again = Again(Ledger(), lambda row: False, lambda batch, rows: None, lost.extend)
    again.now([Held(1, 7, rows(("a", 1)), 0)], 1)
    await asyncio.sleep(1)
    assert lost == [7]


@pytest.mark.spec("F2")
async def test_a_handler_that_leaves_a_row_without_an_outcome_is_found_out() -> None:
    """A missing outcome is an error of the flow, never silence."""
    errors: list[BaseException] = []
    core = router([Deaf(lambda count: Part(completed=[0], last=True))], errors)
    call = asyncio.ensure_future(core.run(Header("c", 1, 1, "q"), rows(("a", 1), ("a", 1))))
    await asyncio.sleep(1)
    assert isinstance(errors[0], ValidationError)
    call.cancel()


@pytest.mark.spec("F2")
@pytest.mark.parametrize(
    "answer",
    [
        lambda count: Part(completed=[0], last=True),
        lambda count: Part(completed=np.array([0, 0, 1]), last=True),
    ],
    ids=["missing", "twice"],
)
async def test_a_router_that_miscounts_is_found_out(answer: Callable[[int], Part]) -> None:
    """The receiver checks too: none missing, none twice."""
    bench = Bench(
        first_attempts_fail([]),
        ORDERED[0],
        wire=lambda core: Deaf(answer) if isinstance(core, RouterCore) else core,
    )
    await bench.send("a", "b")
    await bench.flow.start()
    await asyncio.sleep(1)
    with pytest.raises(ValidationError):
        bench.flow.check()
