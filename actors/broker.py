"""The shell of the memory broker, and the way to it from other actors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import ray

from actors.calls import answer, end
from actors.process import tune
from pipeline.batch import MessageBatch
from pipeline.clock import SystemClock
from pipeline.config import MemoryQueue
from pipeline.message import Row
from pipeline.providers.memory import BrokerCalls, Counters, MemoryBroker
from pipeline.providers.memory.calls import (
    BrokerHolding,
    BrokerReceived,
    BrokerRenewed,
    BrokerSent,
)
from pipeline.providers.port import DeadLetter, Depth, Failures, Want

if TYPE_CHECKING:
    from ray.actor import ActorProxy


class BrokerActor:
    """The memory provider's queues, when a cluster shares them."""

    def __init__(self, queues: dict[str, MemoryQueue]) -> None:
        tune()
        self._broker = MemoryBroker(queues, SystemClock())

    @ray.method
    async def source(self, queue: str) -> str:
        """See `BrokerCalls`, as for every method here."""
        return await self._broker.source(queue)

    @ray.method
    async def send(self, queue: str, rows: Sequence[Row]) -> BrokerSent:
        """Take messages in."""
        return await self._broker.send(queue, rows)

    @ray.method
    async def cancel(self, queue: str, sequence: int) -> None:
        """Take back a scheduled message."""
        await self._broker.cancel(queue, sequence)

    @ray.method
    async def depth(self, queue: str) -> Depth:
        """How much a queue holds."""
        return await self._broker.depth(queue)

    @ray.method
    async def counters(self, queue: str) -> Counters:
        """What happened on a queue."""
        return await self._broker.counters(queue)

    @ray.method
    async def open_lane(self, queue: str, dead_letters: bool, owner: str) -> int:
        """A new lane."""
        return await self._broker.open_lane(queue, dead_letters, owner)

    @ray.method
    async def close_lane(self, lane: int) -> None:
        """Give back all it has in hand."""
        await self._broker.close_lane(lane)

    @ray.method
    async def receive(self, lane: int, want: Want, poll: int, after: int) -> BrokerReceived:
        """Messages, as soon as there are some."""
        return await self._broker.receive(lane, want, poll, after)

    @ray.method
    async def accept(self, lane: int, session: str | None, wait: float, poll: int) -> BrokerHolding:
        """Lock a session."""
        return await self._broker.accept(lane, session, wait, poll)

    @ray.method
    async def end_poll(self, lane: int, poll: int) -> None:
        """End a receive or accept whose caller was cancelled."""
        await self._broker.end_poll(lane, poll)

    @ray.method
    async def complete(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Delete them."""
        return await self._broker.complete(lane, receipts)

    @ray.method
    async def abandon(self, lane: int, receipts: Sequence[int], delay: float) -> Failures:
        """Deliver them again, counted."""
        return await self._broker.abandon(lane, receipts, delay)

    @ray.method
    async def release(self, lane: int, receipts: Sequence[int], delay: float) -> Failures:
        """Deliver them again."""
        return await self._broker.release(lane, receipts, delay)

    @ray.method
    async def dead_letter(
        self, lane: int, receipts: Sequence[int], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""
        return await self._broker.dead_letter(lane, receipts, reasons)

    @ray.method
    async def defer(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Set them aside."""
        return await self._broker.defer(lane, receipts)

    @ray.method
    async def receive_deferred(self, lane: int, sequences: Sequence[int]) -> BrokerReceived:
        """Bring messages that were set aside."""
        return await self._broker.receive_deferred(lane, sequences)

    @ray.method
    async def renew(self, lane: int, receipts: Sequence[int]) -> BrokerRenewed:
        """Prolong message locks."""
        return await self._broker.renew(lane, receipts)

    @ray.method
    async def peek(self, lane: int, count: int, after: int) -> MessageBatch:
        """Read without locking."""
        return await self._broker.peek(lane, count, after)

    @ray.method
    async def release_sessions(self, lane: int, holdings: Sequence[int]) -> Failures:
        """Give sessions back."""
        return await self._broker.release_sessions(lane, holdings)

    @ray.method
    async def renew_sessions(self, lane: int, holdings: Sequence[int]) -> BrokerRenewed:
        """Prolong session locks."""
        return await self._broker.renew_sessions(lane, holdings)

    @ray.method
    async def session_state(self, lane: int, holding: int) -> bytes | None:
        """The bytes kept with a held session."""
        return await self._broker.session_state(lane, holding)

    @ray.method
    async def set_session_state(self, lane: int, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session."""
        await self._broker.set_session_state(lane, holding, state)


class RemoteBroker(BrokerCalls):
    """A `BrokerActor` as `BrokerCalls`; it pickles, and so travels to every actor that needs it.

    Args:
        actor: the broker.
        own: whether it belongs to this run, and ends with it.
    """

    def __init__(self, actor: ActorProxy[BrokerActor], *, own: bool = False) -> None:
        self._actor = actor
        self._own = own

    def kill(self) -> None:
        """End the broker's process, and with it its queues, if it belongs to this run."""
        if self._own:
            end(self._actor)

    async def source(self, queue: str) -> str:
        """See `BrokerCalls`, as for every method here."""
        return await answer(self._actor.source.remote(queue))

    async def send(self, queue: str, rows: Sequence[Row]) -> BrokerSent:
        """Take messages in."""
        return await answer(self._actor.send.remote(queue, rows))

    async def cancel(self, queue: str, sequence: int) -> None:
        """Take back a scheduled message."""
        await answer(self._actor.cancel.remote(queue, sequence))

    async def depth(self, queue: str) -> Depth:
        """How much a queue holds."""
        return await answer(self._actor.depth.remote(queue))

    async def counters(self, queue: str) -> Counters:
        """What happened on a queue."""
        return await answer(self._actor.counters.remote(queue))

    async def open_lane(self, queue: str, dead_letters: bool = False, owner: str = "") -> int:
        """A new lane."""
        return await answer(self._actor.open_lane.remote(queue, dead_letters, owner))

    async def close_lane(self, lane: int) -> None:
        """Give back all it has in hand."""
        await answer(self._actor.close_lane.remote(lane))

    async def receive(self, lane: int, want: Want, poll: int = 0, after: int = 0) -> BrokerReceived:
        """Messages, as soon as there are some."""
        return await answer(self._actor.receive.remote(lane, want, poll, after))

    async def accept(
        self, lane: int, session: str | None, wait: float, poll: int = 0
    ) -> BrokerHolding:
        """Lock a session."""
        return await answer(self._actor.accept.remote(lane, session, wait, poll))

    async def end_poll(self, lane: int, poll: int) -> None:
        """End a receive or accept whose caller was cancelled."""
        await answer(self._actor.end_poll.remote(lane, poll))

    async def complete(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Delete them."""
        return await answer(self._actor.complete.remote(lane, receipts))

    async def abandon(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again, counted."""
        return await answer(self._actor.abandon.remote(lane, receipts, delay))

    async def release(self, lane: int, receipts: Sequence[int], delay: float = 0.0) -> Failures:
        """Deliver them again; of a group, nothing before the delay is over."""
        return await answer(self._actor.release.remote(lane, receipts, delay))

    async def dead_letter(
        self, lane: int, receipts: Sequence[int], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""
        return await answer(self._actor.dead_letter.remote(lane, receipts, reasons))

    async def defer(self, lane: int, receipts: Sequence[int]) -> Failures:
        """Set them aside."""
        return await answer(self._actor.defer.remote(lane, receipts))

    async def receive_deferred(self, lane: int, sequences: Sequence[int]) -> BrokerReceived:
        """Bring messages that were set aside."""
        return await answer(self._actor.receive_deferred.remote(lane, sequences))

    async def renew(self, lane: int, receipts: Sequence[int]) -> BrokerRenewed:
        """Prolong message locks."""
        return await answer(self._actor.renew.remote(lane, receipts))

    async def peek(self, lane: int, count: int, after: int = 0) -> MessageBatch:
        """Read without locking."""
        return await answer(self._actor.peek.remote(lane, count, after))

    async def release_sessions(self, lane: int, holdings: Sequence[int]) -> Failures:
        """Give sessions back."""
        return await answer(self._actor.release_sessions.remote(lane, holdings))

    async def renew_sessions(self, lane: int, holdings: Sequence[int]) -> BrokerRenewed:
        """Prolong session locks."""
        return await answer(self._actor.renew_sessions.remote(lane, holdings))

    async def session_state(self, lane: int, holding: int) -> bytes | None:
        """The bytes kept with a held session."""
        return await answer(self._actor.session_state.remote(lane, holding))

    async def set_session_state(self, lane: int, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session."""
        await answer(self._actor.set_session_state.remote(lane, holding, state))
