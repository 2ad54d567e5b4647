"""The memory broker: the calls that a provider makes, by queue and by lane.

What is decided is `BrokerQueue`'s, who waits is `Served`'s. The broker runs on one event loop and
uses neither threads nor Ray; `actors.broker` puts it into an actor of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.errors import Closed, QueueNotFound, SessionLocked, SessionNotFound
from pipeline.message import Row
from pipeline.providers.memory.calls import (
    BrokerHolding,
    BrokerReceived,
    BrokerRenewed,
    BrokerSent,
    Counters,
)
from pipeline.providers.memory.lane import Lane
from pipeline.providers.memory.orders import Numbers
from pipeline.providers.memory.queue import BrokerQueue, Taken
from pipeline.providers.memory.settings import QueueSettings, rules_of
from pipeline.providers.memory.waiting import Attempt, Moment, Served
from pipeline.providers.port import DeadLetter, Depth, Failures, Want

_HOLDINGS = 100_000
"""Holdings a second, at most, over a broker's life: the next one's start counts on above them."""


class MemoryBroker:
    """A message broker in memory: locks, sessions, counts, dead letters, bounds (SPEC P11).

    It answers the calls of `BrokerCalls`, on the event loop that first called it. Losing it loses
    its queues.

    Args:
        queues: settings by queue name.
        clock: calendar time and ids.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> from pipeline.config import MemoryQueue
        >>> from pipeline.message import Message, to_row
        >>> from pipeline.providers.port import Want
        >>> orders = MemoryQueue(connection="main", fifo=True)
        >>> broker = MemoryBroker({"orders": orders}, SystemClock())
        >>> sent = await broker.send("orders", [to_row(Message(b"hello", session="s"))])
        >>> lane = await broker.open_lane("orders")
        >>> got = await broker.receive(lane, Want(messages=10, new_sessions=1))
        >>> got.batch.values("body"), await broker.complete(lane, got.receipts)
        ([b'hello'], {})
    """

    def __init__(self, queues: Mapping[str, QueueSettings], clock: Clock) -> None:
        self._id = clock.new_id()
        numbers = Numbers(1 + int(clock.now() * _HOLDINGS))
        self._queues = {
            name: Served(BrokerQueue(rules_of(name, settings), numbers), clock)
            for name, settings in queues.items()
        }
        self._lanes: dict[int, tuple[Lane, BrokerQueue, Served]] = {}
        self._owned: dict[tuple[BrokerQueue, str], int] = {}
        self._opened = 0

    # Queues.

    async def source(self, queue: str) -> str:
        """Where the messages come from: another broker has another id."""
        self._served(queue)
        return f"memory:{self._id}/{queue}"

    async def send(self, queue: str, rows: Sequence[Row]) -> BrokerSent:
        """Take messages in."""
        served = self._served(queue)
        return served.do(lambda at: served.queue.send(rows, at.now, at.wall))

    async def cancel(self, queue: str, sequence: int) -> None:
        """Take back a scheduled message, or `MessageNotFound`."""
        served = self._served(queue)
        served.do(lambda _: served.queue.store.cancel(sequence))

    async def depth(self, queue: str) -> Depth:
        """How much a queue holds."""
        served = self._served(queue)
        return served.do(lambda at: served.queue.depth(at.wall))

    async def counters(self, queue: str) -> Counters:
        """What happened on a queue."""
        served = self._served(queue)
        return served.do(lambda _: replace(served.queue.store.counters))

    # Lanes.

    async def open_lane(self, queue: str, dead_letters: bool = False, owner: str = "") -> int:
        """A new lane of a queue, or of its dead letters; the owner's last one is closed."""
        served = self._served(queue)
        part = served.queue.dead if dead_letters and served.queue.dead else served.queue
        self._opened += 1
        if owner:
            await self.close_lane(self._owned.get((part, owner), 0))
            self._owned[part, owner] = self._opened
        lane = Lane(self._opened)
        part.join(lane)
        self._lanes[lane.number] = (lane, part, served)
        return lane.number

    async def close_lane(self, lane: int) -> None:
        """Give back all it has in hand; its pending polls raise `Closed`. A repeat does nothing."""
        if lane in self._lanes:
            hand, queue, served = self._lanes.pop(lane)
            self._owned = {owner: one for owner, one in self._owned.items() if one != lane}
            served.end_all(hand, _closed(lane))
            served.do(lambda at: queue.close(hand, at.now))

    async def receive(self, lane: int, want: Want, poll: int = 0, after: int = 0) -> BrokerReceived:
        """Messages, as soon as there are some; none when the wait is over or the poll ended.

        What the lane's last receive brought is given back before if its answer did not arrive.
        """
        hand, queue, served = self._lane(lane)
        if poll and hand.brought is not None and hand.brought[0] > after:
            _, lost = hand.brought
            hand.brought = None
            served.do(lambda at: queue.give_back(hand, lost, at.now))

        def attempt(at: Moment) -> Taken | None:
            return queue.take(hand, want, at.now, at.wall)

        def undo(taken: Taken) -> Attempt[object]:
            return lambda at: queue.give_back(hand, taken, at.now)

        taken = await served.first(hand, poll, want.wait, attempt, undo)
        if poll and taken is not None:
            hand.brought = (poll, taken)
        return queue.received(taken)

    async def accept(
        self, lane: int, session: str | None, wait: float, poll: int = 0
    ) -> BrokerHolding:
        """Lock a session: a named one, or the free one with messages that waited longest."""
        hand, queue, served = self._lane(lane)

        def attempt(at: Moment) -> BrokerHolding | None:
            return queue.accept(hand, session, at.now)

        def undo(holding: BrokerHolding) -> Attempt[object]:
            return lambda at: queue.release_sessions(hand, [holding.number], at.now)

        holding = await served.first(hand, poll, wait, attempt, undo)
        if holding is not None:
            return holding
        where = f"queue {queue.rules.name}"
        if session is None:
            raise SessionNotFound(f"no free session of {where} had messages within {wait} s")
        raise SessionLocked(f"session {session!r} of {where} was still held after {wait} s")

    async def end_poll(self, lane: int, poll: int) -> None:
        """Its caller was cancelled: make it return at once with what it has."""
        if lane in self._lanes:
            hand, _, served = self._lanes[lane]
            served.end_poll(hand, poll)

    async def receive_deferred(self, lane: int, sequences: Sequence[int]) -> BrokerReceived:
        """Bring messages that were set aside; `MessageNotFound` if one isn't there."""
        hand, queue, served = self._lane(lane)
        return queue.received(
            served.do(lambda at: queue.take_deferred(hand, sequences, at.now, at.wall))
        )

    async def peek(self, lane: int, count: int, after: int = 0) -> MessageBatch:
        """Read without locking."""
        _, queue, served = self._lane(lane)
        return served.do(lambda _: queue.store.peek(count, after))

    # Settling.

    async def complete(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Delete them."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda _: queue.complete(hand, receipts))

    async def abandon(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again, counted."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda at: queue.abandon(hand, receipts, delay, at.now))

    async def release(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again; of a group, nothing before the delay is over."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda at: queue.release(hand, receipts, at.now, delay))

    async def dead_letter(
        self, lane: int, receipts: Sequence[int], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda _: queue.dead_letter(hand, receipts, reasons))

    async def defer(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Set them aside."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda at: queue.defer(hand, receipts, at.now))

    async def renew(self, lane: int, receipts: Sequence[int]) -> BrokerRenewed:
        """Prolong message locks."""
        hand, queue, served = self._lane(lane)
        failures = served.do(lambda at: queue.renew(hand, receipts, at.now))
        return BrokerRenewed(queue.rules.lock, failures)

    # Sessions.

    async def release_sessions(self, lane: int, holdings: Sequence[int]) -> Failures:
        """Give sessions back."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda at: queue.release_sessions(hand, holdings, at.now))

    async def renew_sessions(self, lane: int, holdings: Sequence[int]) -> BrokerRenewed:
        """Prolong session locks."""
        hand, queue, served = self._lane(lane)
        failures = served.do(lambda at: queue.renew_sessions(hand, holdings, at.now))
        return BrokerRenewed(queue.rules.lock, failures)

    async def session_state(self, lane: int, holding: int) -> bytes | None:
        """The bytes kept with a held session."""
        hand, queue, served = self._lane(lane)
        return served.do(lambda _: queue.held(hand, holding, "session_state").state)

    async def set_session_state(self, lane: int, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session."""
        hand, queue, served = self._lane(lane)
        session = served.do(lambda _: queue.held(hand, holding, "set_session_state"))
        session.state = state

    def _served(self, queue: str) -> Served:
        served = self._queues.get(queue)
        if served is None:
            known = ", ".join(sorted(self._queues)) or "none"
            raise QueueNotFound(f"the memory broker has no queue {queue!r}; it has: {known}")
        return served

    def _lane(self, lane: int) -> tuple[Lane, BrokerQueue, Served]:
        found = self._lanes.get(lane)
        if found is None:
            raise _closed(lane)
        return found


def _closed(lane: int) -> Closed:
    return Closed(f"lane {lane} was closed, or is another broker's: open a new one")
