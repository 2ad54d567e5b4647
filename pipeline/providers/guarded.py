"""A provider behind the gate of its connection: what every caller uses, whatever the provider.

It decides, per operation of the port, which direction it is, what it does while the breaker is not
closed, and what its end says:

* `receive` and `accept` wait for leave as long as they would for a message, then raise
  `CircuitOpen`; as probes they wait a second at most, because the others wait for their answer.
* `send` and `cancel` raise `CircuitOpen` at once.
* What settles and renews is never refused (a refused settle is a duplicate): it waits for its turn,
  one call at a time in the cluster, and is made without one when none comes in time.
* `depth` and `peek` raise `CircuitOpen` while receives do, and are not counted: that they work says
  nothing for receives.
* Making senders and receivers is neither refused nor counted.

It also tells, at the level TRACE, of each call to the provider how long it took and how it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.batch import MessageBatch
from pipeline.breaker import Direction, verdict_of_each
from pipeline.config.models import TRACE
from pipeline.errors import CircuitOpen, QueueError, SessionLocked, SessionNotFound, Throttled
from pipeline.message import Message
from pipeline.providers.gate import Gate, Pass
from pipeline.providers.port import (
    Capabilities,
    DeadLetter,
    Depth,
    Failures,
    Holding,
    Provider,
    Receipt,
    Received,
    Receiver,
    Renewed,
    Sender,
    Sent,
    Want,
)

T = TypeVar("T")
_log = logging.getLogger("queue_runtime.provider")
_PROBE_WAIT = 1.0
"""Seconds that a probe waits for a message or a session."""


class GuardedProvider:
    """A provider behind its gate (see `pipeline.providers.port.Provider`).

    Args:
        real: the provider.
        gate: its connection's gate in this process; it is started and closed with the provider.
        turn: seconds that a settlement waits for its turn.
    """

    def __init__(self, real: Provider, gate: Gate, *, turn: float) -> None:
        self._real = real
        self._gate = gate
        self._turn = turn
        self._closed = False

    @property
    def paused(self) -> str | None:
        """Why nothing is received, if that is the breaker's doing."""
        shut = self._gate.open(Direction.RECEIVE)
        return None if shut is None else str(shut)

    async def start(self) -> None:
        """Connect, and learn how the connection is."""
        await self._real.start()
        await self._gate.start()

    def capabilities(self, queue: str) -> Capabilities:
        """What that queue can do."""
        return self._real.capabilities(queue)

    async def source(self, queue: str) -> str:
        """Where its messages come from."""
        return await self._real.source(queue)

    async def sender(self, queue: str) -> GuardedSender:
        """A new sending side."""
        return GuardedSender(await self._real.sender(queue), self._gate)

    async def receiver(
        self, queue: str, *, partition: int = 0, dead_letters: bool = False, owner: str = ""
    ) -> GuardedReceiver:
        """A new receiving lane."""
        real = await self._real.receiver(
            queue, partition=partition, dead_letters=dead_letters, owner=owner
        )
        return GuardedReceiver(real, self._gate, self._turn, lambda: self._closed)

    async def depth(self, queue: str) -> Depth:
        """How much it holds now."""
        _refuse(self._gate)
        return await self._real.depth(queue)

    def figures(self) -> dict[str, int]:
        """Its counters."""
        return self._real.figures()

    async def close(self) -> None:
        """Close it, and then the gate: what its last calls say is still told."""
        self._closed = True
        self._gate.wake()
        await self._real.close()
        await self._gate.close()


class GuardedSender:
    """A sender behind the gate.

    Args:
        real: the sender.
        gate: its connection's.
    """

    def __init__(self, real: Sender, gate: Gate) -> None:
        self._real = real
        self._gate = gate

    async def send(self, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send many: one call, whatever becomes of each message."""
        if not messages:
            return await self._real.send(messages)  # nobody is asked for nothing
        given = await self._enter()
        results = await _judged(self._gate, given, self._real.send(messages))
        failed = [one for one in results if isinstance(one, QueueError)]
        _leave(self._gate, given, failed, len(results))
        return results

    async def cancel(self, sequence: int) -> None:
        """Take back a scheduled message."""
        given = await self._enter()
        await _judged(self._gate, given, self._real.cancel(sequence))
        _leave(self._gate, given)

    async def close(self) -> None:
        """End what is open."""
        await self._real.close()

    async def _enter(self) -> Pass:
        gate = self._gate
        return gate.free(Direction.SEND) or await gate.enter(Direction.SEND, 0.0)


class GuardedReceiver:
    """A receiver behind the gate.

    Args:
        real: the receiver.
        gate: its connection's.
        turn: seconds that a settlement waits for its turn.
        closed: whether its provider was closed.
    """

    def __init__(self, real: Receiver, gate: Gate, turn: float, closed: Callable[[], bool]) -> None:
        self._real = real
        self._gate = gate
        self._turn = turn
        self._provider_closed = closed
        self._closed = False
        self._receiving = False
        self._wait_ended = False

    # ---------------------------------------------------------------- receiving

    async def receive(self, want: Want) -> Received:
        """Bring messages; `CircuitOpen` when there was no leave to ask for them."""
        given = self._gate.free(Direction.RECEIVE)
        if given is None:
            given, want = await self._enter_later(want)
        received = await _judged(self._gate, given, self._real.receive(want))
        _leave(self._gate, given)
        return received

    async def _enter_later(self, want: Want) -> tuple[Pass, Want]:
        self._wait_ended = False
        self._receiving = True
        try:
            given = await self._gate.enter(Direction.RECEIVE, want.wait, self._ended)
        finally:
            self._receiving = False
        longest = 0.0 if self._wait_ended else want.wait if not given.ticket else _PROBE_WAIT
        return given, replace(want, wait=min(want.wait, longest))

    async def end_wait(self) -> None:
        """Let a pending receive return; one that waits for leave will not wait for messages."""
        self._wait_ended = self._receiving
        await self._real.end_wait()

    async def accept(self, session: str | None, wait: float) -> Holding:
        """Lock one session; `CircuitOpen` when there was no leave to ask for it."""
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while True:
            gate, left = self._gate, end - loop.time()
            given = gate.free(Direction.RECEIVE)
            if given is None:
                given = await gate.enter(Direction.RECEIVE, max(left, 0.0), self._ended)
                left = end - loop.time()
            longest = max(min(left, _PROBE_WAIT), 0.0) if given.ticket else max(left, 0.0)
            try:
                holding = await _judged(gate, given, self._real.accept(session, longest))
            except (SessionLocked, SessionNotFound):
                if longest == max(left, 0.0):
                    raise
                continue  # it was cut short
            _leave(gate, given)
            return holding

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:
        """Bring messages that were set aside."""
        given = self._gate.free(Direction.RECEIVE)
        given = given or await self._gate.enter(Direction.RECEIVE, 0.0, self._ended)
        received = await _judged(self._gate, given, self._real.receive_deferred(sequences))
        _leave(self._gate, given)
        return received

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Read without locking."""
        _refuse(self._gate)
        return await self._real.peek(count, after)

    # ---------------------------------------------------------------- settling and renewing

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """Delete them."""
        return await self._settle(len(receipts), lambda: self._real.complete(receipts))

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Deliver them again, counted."""
        return await self._settle(len(receipts), lambda: self._real.abandon(receipts, delay))

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Deliver them again."""
        return await self._settle(len(receipts), lambda: self._real.release(receipts, delay))

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead letters."""
        return await self._settle(len(receipts), lambda: self._real.dead_letter(receipts, reasons))

    async def defer(self, receipts: Sequence[Receipt]) -> Failures:
        """Set them aside."""
        return await self._settle(len(receipts), lambda: self._real.defer(receipts))

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:
        """Give sessions back."""
        return await self._settle(len(holdings), lambda: self._real.release_sessions(holdings))

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks."""
        return await self._renew(len(receipts), lambda: self._real.renew(receipts))

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:
        """Prolong session locks."""
        return await self._renew(len(holdings), lambda: self._real.renew_sessions(holdings))

    async def session_state(self, holding: int) -> bytes | None:
        """The bytes kept with a held session."""
        given = await self._turn_to_settle()
        state = await _judged(self._gate, given, self._real.session_state(holding))
        _leave(self._gate, given)
        return state

    async def set_session_state(self, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session."""
        given = await self._turn_to_settle()
        await _judged(self._gate, given, self._real.set_session_state(holding, state))
        _leave(self._gate, given)

    async def close(self) -> None:
        """End what is open; what waits for leave goes on and hears that it is closed."""
        self._closed = True
        self._gate.wake()
        await self._real.close()

    async def _settle(self, count: int, call: Callable[[], Awaitable[Failures]]) -> Failures:
        if not count:
            return await call()  # nobody is asked for nothing
        given = self._gate.free(Direction.SETTLE) or await self._turn_to_settle()
        failures = await _judged(self._gate, given, call())
        _leave(self._gate, given, list(failures.values()), count)
        return failures

    async def _renew(self, count: int, call: Callable[[], Awaitable[Renewed]]) -> Renewed:
        if not count:
            return await call()
        given = self._gate.free(Direction.SETTLE) or await self._turn_to_settle()
        renewed = await _judged(self._gate, given, call())
        _leave(self._gate, given, list(renewed.failures.values()), count)
        return renewed

    async def _turn_to_settle(self) -> Pass:
        try:
            return await self._gate.enter(Direction.SETTLE, self._turn, self._ended)
        except (CircuitOpen, Throttled):
            return Pass(Direction.SETTLE, None)

    def _ended(self) -> bool:
        return self._closed or self._provider_closed()


async def _judged(gate: Gate, given: Pass, call: Awaitable[T]) -> T:
    """Make a call; its error is told to the gate, its result is the caller's to judge."""
    began = asyncio.get_running_loop().time()
    try:
        result = await call
    except BaseException as error:
        _trace(call, began, f"{type(error).__name__}: {error}")
        gate.fail(given, error)
        raise
    _trace(call, began, "done")
    return result


def _trace(call: Awaitable[Any], began: float, end: str) -> None:
    """Tell of a call that is over; never of what it carried."""
    if _log.isEnabledFor(TRACE):
        took = (asyncio.get_running_loop().time() - began) * 1000
        name = getattr(call, "__qualname__", type(call).__name__)
        _log.log(TRACE, "%s after %.1f ms: %s", name, took, end)


def _leave(gate: Gate, given: Pass, failed: Sequence[QueueError] = (), count: int = 1) -> None:
    asked = [one.retry_after for one in failed if isinstance(one, Throttled) and one.retry_after]
    gate.leave(given, verdict_of_each(failed, count), max(asked, default=None))


def _refuse(gate: Gate) -> None:
    shut = gate.open(Direction.RECEIVE)
    if shut is not None:
        raise shut
