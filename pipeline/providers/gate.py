"""The gate of a connection in one process: whether a call may start, and what its end says.

Every sender and receiver of the connection in this process goes through it. While all is well it
costs no call: nobody is asked before an operation, and of its end nobody is told but of failures,
and of successes while failures are counted anywhere.

In a cluster the breakers are the connection actor's (`ConnectionCalls`). The gate keeps a copy,
which the actor corrects whenever something changes, tells it how calls ended, in batches, and asks
it for the probe. Without an actor, and while it does not answer, the copy decides by itself: what
is known goes on from there, and the next actor is told of it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from pipeline.breaker import (
    BreakerPolicy,
    Breakers,
    Direction,
    State,
    Tally,
    Ticket,
    Told,
    Verdict,
    View,
    verdict_of,
)
from pipeline.errors import CircuitOpen, QueueError, Throttled

_log = logging.getLogger("queue_runtime.connection")
_ANSWER = 5.0
"""Seconds after which an actor that does not answer is done without."""
_REJOIN = 1.0
"""Seconds between two looks for an actor that was lost."""
_ASK_AGAIN = 0.05
"""Seconds between two questions for a probe, at least."""
_ALONE = 0
"""The epoch of a gate that decides by itself."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a connection's breakers.

    Args:
        epoch: whose knowledge it is: an actor's, which grows with each start of one.
        version: grows with each change within an epoch.
        views: the breakers.
    """

    epoch: int
    version: int
    views: Mapping[Direction, View]


class ConnectionCalls(Protocol):
    """The connection actor as the gates see it; any `QueueError`: it can't be had now."""

    async def watch(self, user: str, known: Known) -> Known:
        """Answer once there is more to know: at once to somebody who knows of another epoch."""

    async def tell(self, user: str, told: Sequence[Told]) -> Known:
        """Hear how calls ended."""

    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        """Give the probe, if it is to be had."""


@dataclass(frozen=True, slots=True)
class Pass:
    """The leave to make one call.

    Args:
        direction: what the call does.
        generation: of the breaker when the call began; None: its end says nothing.
        ticket: of a probe.
        epoch: who gave the ticket.
    """

    direction: Direction
    generation: int | None
    ticket: Ticket | None = None
    epoch: int = _ALONE


def changed(name: str, direction: Direction, state: State) -> tuple[str, str, str, str]:
    """What the log says of a breaker's new state."""
    said = state.replace("_", "-")
    return "connection %s: %s: the circuit breaker is %s", name, direction, said


class _Lane:
    """One direction, as it was shown last."""

    def __init__(self, direction: Direction) -> None:
        self.direction = direction
        self.show(View(), 0.0)

    def show(self, view: View, now: float) -> None:
        self.state = view.state
        self.closed = view.state is State.CLOSED
        self.counting = view.counting
        self.through = Pass(self.direction, view.generation)
        self.next = now + (view.pause if self.closed else view.wait)
        self.free = self.closed and not view.pause


class Gate:
    """The gate of one connection in one process.

    Args:
        name: the connection's.
        policy: when its breakers open and close.
        shared: the connection actor; None: this process is the only one.
        user: who this is, to the actor: the same over all its starts.
        patience: seconds that a call waits, at least, where the provider asked for patience.
    """

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy,
        shared: ConnectionCalls | None = None,
        user: str = "",
        patience: float = 10.0,
    ) -> None:
        self.name = name
        self._policy = policy
        self._shared = shared
        self._user = user
        self._patience = patience
        self._breakers = Breakers(policy)
        self._lanes = {direction: _Lane(direction) for direction in Direction}
        self._epoch = _ALONE
        self._version = 0
        self._told: list[Told] = []
        self._tallies: dict[Direction, tuple[int, Tally]] = {}
        self._news = asyncio.Event()
        self._watching: list[asyncio.Task[None]] = []
        self._telling: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[Ticket | None]] = set()

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Learn what is known, and go on learning it; a repeat does nothing."""
        if self._shared is None or self._watching:
            return
        try:
            async with asyncio.timeout(_ANSWER):
                self._join(await self._shared.watch(self._user, self._known()))
        except (QueueError, TimeoutError) as error:
            _log.warning("connection %s: its actor can't be had yet: %s", self.name, error)
        self._watching = [asyncio.ensure_future(self._watch(self._shared))]

    async def close(self) -> None:
        """Tell what is left to tell, and end; a repeat does nothing."""
        for task in (*self._asking, *([self._telling] if self._telling else [])):
            await asyncio.wait([task])
        for task in self._watching:
            task.cancel()
            await asyncio.wait([task])
        self._watching = []
        self._epoch = _ALONE

    def wake(self) -> None:
        """Let everybody who waits look again whether there is a reason to."""
        self._news.set()
        self._news = asyncio.Event()

    # ---------------------------------------------------------------- before and after a call

    def free(self, direction: Direction) -> Pass | None:
        """The leave to make a call, when nothing stands against it; else `enter`."""
        lane = self._lanes[direction]
        return lane.through if lane.free else None

    async def enter(
        self, direction: Direction, patience: float, ended: Callable[[], bool] = lambda: False
    ) -> Pass:
        """Wait for the leave to make a call.

        Args:
            direction: what the call does.
            patience: seconds to wait while the breaker is not closed.
            ended: says that there is no reason to wait any more; looked at when woken.

        Raises:
            CircuitOpen: the patience is over, and the breaker is not closed.
            Throttled: the patience is over, and the provider asked for more.
        """
        loop = asyncio.get_running_loop()
        lane = self._lanes[direction]
        now = start = loop.time()
        while not ended():
            if now >= lane.next:
                lane.free = lane.closed
                given = lane.through if lane.closed else await self._probe(lane)
                if given is not None:
                    return given
                now = loop.time()
            end = start + (max(patience, self._patience) if lane.closed else patience)
            if now >= end and now < lane.next:
                raise self._refusal(lane, lane.next - now)
            await self._change(min(lane.next, max(end, now)))
            now = loop.time()
        return Pass(direction, None)

    def leave(self, given: Pass, verdict: Verdict, retry_after: float | None = None) -> None:
        """The call that was made with this leave has ended."""
        lane = self._lanes[given.direction]
        if given.ticket is not None:
            if given.epoch == self._epoch:
                told = Told(given.direction, 0, None, given.ticket, verdict, retry_after)
                self._tell(told)
        elif verdict is Verdict.SLOW:
            self._tell(Told(given.direction, verdict=verdict, retry_after=retry_after))
        elif verdict is not Verdict.NOTHING and given.generation == lane.through.generation:
            failed = verdict is Verdict.FAILURE
            if failed or lane.counting:
                self._count(lane, failed=failed)

    def fail(self, given: Pass, error: BaseException) -> None:
        """The call that was made with this leave has ended with an error."""
        self.leave(given, verdict_of(error), getattr(error, "retry_after", None))

    def open(self, direction: Direction) -> CircuitOpen | None:
        """The error of a call in this direction that is not made, unless it is closed."""
        lane = self._lanes[direction]
        if lane.closed:
            return None
        return self._open(lane, max(lane.next - asyncio.get_running_loop().time(), 0.0))

    # ---------------------------------------------------------------- waiting

    async def _probe(self, lane: _Lane) -> Pass | None:
        ticket = await self._take(lane.direction)
        if ticket is not None:
            return Pass(lane.direction, ticket.generation, ticket, self._epoch)
        now = asyncio.get_running_loop().time()
        lane.next = max(lane.next, now + _ASK_AGAIN)
        return None

    async def _take(self, direction: Direction) -> Ticket | None:
        if self._shared is None or self._epoch == _ALONE:
            return self._take_alone(direction)
        asking = asyncio.ensure_future(self._ask(self._shared, direction))
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)
        try:
            return await asyncio.shield(asking)
        except asyncio.CancelledError:
            asking.add_done_callback(partial(self._give_back, direction, self._epoch))
            raise

    def _take_alone(self, direction: Direction) -> Ticket | None:
        now = asyncio.get_running_loop().time()
        ticket = self._breakers[direction].take(now)
        self._show(now)
        return ticket

    async def _ask(self, shared: ConnectionCalls, direction: Direction) -> Ticket | None:
        try:
            async with asyncio.timeout(_ANSWER):
                ticket, known = await shared.take(self._user, direction)
        except (QueueError, TimeoutError) as error:
            self._go_alone(shared, error)
            return None
        return ticket if self._learn(known) else None

    def _give_back(
        self, direction: Direction, epoch: int, asking: asyncio.Task[Ticket | None]
    ) -> None:
        ticket = None if asking.cancelled() else asking.result()
        if ticket is not None:
            self.leave(Pass(direction, ticket.generation, ticket, epoch), Verdict.NOTHING)

    async def _change(self, until: float) -> None:
        news = self._news
        try:
            async with asyncio.timeout_at(until):
                await news.wait()
        except TimeoutError:
            return

    def _refusal(self, lane: _Lane, left: float) -> QueueError:
        if lane.closed:
            return Throttled(
                f"connection {self.name}: the provider asked for patience: "
                f"the next {lane.direction} follows in {left:.1f} s",
                retry_after=left,
            )
        return self._open(lane, left)

    def _open(self, lane: _Lane, left: float) -> CircuitOpen:
        return CircuitOpen(
            f"connection {self.name}: {lane.direction}: the circuit breaker is "
            f"{lane.state.replace('_', '-')} after repeated failures: try again in {left:.1f} s, "
            "and look at the provider",
            retry_after=left,
        )

    # ---------------------------------------------------------------- telling

    def _count(self, lane: _Lane, *, failed: bool) -> None:
        generation = lane.through.generation or 0
        before, tally = self._tallies.get(lane.direction, (generation, Tally()))
        tally = tally if before == generation else Tally()
        lane.counting = True  # until we hear otherwise
        limit = self._policy.failures
        self._tallies[lane.direction] = generation, tally.add(failed=failed, limit=limit)
        self._send()

    def _tell(self, told: Told) -> None:
        self._told.append(told)
        self._send()

    def _send(self) -> None:
        if self._shared is None or self._epoch == _ALONE:
            self._hear(self._taken())
        elif self._telling is None:
            self._telling = asyncio.ensure_future(self._tell_all(self._shared))

    async def _tell_all(self, shared: ConnectionCalls) -> None:
        try:
            while told := self._taken():
                await self._tell_some(shared, told)
        finally:
            self._telling = None

    async def _tell_some(self, shared: ConnectionCalls, told: Sequence[Told]) -> None:
        if self._epoch == _ALONE:
            self._hear(told)
            return
        try:
            async with asyncio.timeout(_ANSWER):
                known = await shared.tell(self._user, told)
        except (QueueError, TimeoutError) as error:
            self._go_alone(shared, error)
            self._hear(told)
        else:
            self._learn(known)

    def _taken(self) -> list[Told]:
        told = self._told + [Told(one, *counted) for one, counted in self._tallies.items()]
        self._told, self._tallies = [], {}
        return told

    # ---------------------------------------------------------------- alone, and with others

    def _hear(self, told: Sequence[Told]) -> None:
        now = asyncio.get_running_loop().time()
        for one in told:
            self._breakers.hear(now, one)
        self._show(now)

    def _show(self, now: float) -> None:
        self._shown(self._breakers.views(now), now)

    def _shown(self, views: Mapping[Direction, View], now: float) -> None:
        for direction, view in views.items():
            lane = self._lanes[direction]
            if view.state is not lane.state:
                # In a cluster its actor says it for all.
                level = logging.WARNING if self._epoch == _ALONE else logging.DEBUG
                _log.log(level, *changed(self.name, direction, view.state))
            lane.show(view, now)
        self.wake()

    def _known(self) -> Known:
        now = asyncio.get_running_loop().time()
        return Known(self._epoch, self._version, self._breakers.views(now))

    async def _watch(self, shared: ConnectionCalls, pause: float = 0.0) -> None:
        while True:
            await asyncio.sleep(pause)
            known = self._known()
            try:
                answer = await shared.watch(self._user, known)
                self._join(answer)
                # Nothing new: somebody else of our name asks too, or too many ask. Let it be.
                same = (answer.epoch, answer.version) == (known.epoch, known.version)
                pause = _REJOIN if same else 0.0
            except QueueError as error:
                self._lose(error)
                pause = _REJOIN

    def _join(self, known: Known) -> None:
        if self._epoch != known.epoch:
            _log.debug("connection %s: its actor of epoch %d", self.name, known.epoch)
            self._epoch, self._version = known.epoch, 0
        self._learn(known)

    def _learn(self, known: Known) -> bool:
        """Take over what the actor knows; False when it is not the one we know."""
        if known.epoch != self._epoch:
            return False
        if known.version >= self._version:
            now = asyncio.get_running_loop().time()
            self._version = known.version
            self._breakers.mirror(now, known.views)
            self._shown(known.views, now)
        return True

    def _lose(self, error: BaseException) -> None:
        if self._epoch != _ALONE:
            said = "connection %s: its actor is lost, what is known goes on: %s"
            _log.warning(said, self.name, str(error) or type(error).__name__)
        self._epoch = _ALONE

    def _go_alone(self, shared: ConnectionCalls, error: BaseException) -> None:
        """The actor did not answer: look for it anew, for its old answer may never come."""
        self._lose(error)
        for task in self._watching:
            task.cancel()
        self._watching = [asyncio.ensure_future(self._watch(shared, _REJOIN))]
