"""The core of `ConnectionActor`: the circuit breakers of one connection, shared by all who use it.

It owns the breakers, and the answers that its users wait for: each has one question pending, what
has changed, and is answered the moment something does. It makes no call itself, and holds nothing
that its users don't know: when it dies they go on from that, and tell it to the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from pipeline.breaker import BreakerPolicy, Breakers, Direction, State, Ticket, Told, View
from pipeline.clock import Clock
from pipeline.providers.gate import Known, changed
from pipeline.stages.supervisor import Said

_log = logging.getLogger("queue_runtime.connection")
_WATCHING = 400
"""So many questions may be pending; the oldest is answered then, and asked again by who lives."""


class ConnectionCore:
    """The core of `ConnectionActor` (see `ConnectionCalls`).

    Args:
        name: the connection's.
        policy: when its breakers open and close.
        epoch: grows with each start of it.
        clock: the calendar, for since when a breaker is open.
    """

    def __init__(self, name: str, policy: BreakerPolicy, epoch: int, clock: Clock) -> None:
        self._name = name
        self._epoch = epoch
        self._clock = clock
        self._version = 1
        self._breakers = Breakers(policy)
        self._states = dict.fromkeys(Direction, State.CLOSED)
        self._since: dict[Direction, float] = {}
        self._watching: dict[str, asyncio.Future[None]] = {}
        self._told = 0
        self._opened = 0

    async def watch(self, user: str, known: Known) -> Known:
        """Answer once there is more to know than somebody knows; hear what a new user knows."""
        now = _time()
        if known.epoch != self._epoch:
            if self._breakers.adopt(now, known.views):
                self._changed(now)
            return self._known(now)
        if known.version >= self._version:
            await self._change(user)
        return self._known(_time())

    async def tell(self, user: str, told: Sequence[Told]) -> Known:  # noqa: ARG002 - as in the port
        """Hear how calls ended."""
        now = _time()
        self._told += len(told)
        news = [self._breakers.hear(now, one) for one in told]
        if any(news):
            self._changed(now)
        return self._known(now)

    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        """Give the probe, if it is to be had."""
        now = _time()
        ticket = self._breakers[direction].take(now)
        if ticket is not None:
            _log.debug("connection %s: %s: %s probes", self._name, direction, user)
            self._changed(now)
        return ticket, self._known(now)

    def stats(self) -> Said:
        """How its breakers are, and why calls are not made, if they aren't; from any thread."""
        states, since = dict(self._states), dict(self._since)
        shut = [one for one, state in states.items() if state is not State.CLOSED]
        return Said(
            {"told": self._told, "opened": self._opened, "users": len(self._watching)},
            paused=f"the circuit breaker is open: {', '.join(shut)}" if shut else None,
            breakers={str(one): (str(state), since.get(one)) for one, state in states.items()},
        )

    def _known(self, now: float) -> Known:
        return Known(self._epoch, self._version, self._breakers.views(now))

    async def _change(self, user: str) -> None:
        surplus = max(len(self._watching) - _WATCHING + 1, 0)
        for stale in (user, *list(self._watching)[:surplus]):
            self._answer(stale)
        mine = self._watching[user] = asyncio.get_running_loop().create_future()
        try:
            await mine
        finally:
            if self._watching.get(user) is mine:
                del self._watching[user]

    def _answer(self, user: str) -> None:
        waiting = self._watching.pop(user, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def _changed(self, now: float) -> None:
        self._version += 1
        for direction, view in self._breakers.views(now).items():
            if view.state is not self._states[direction]:
                self._turn(direction, view)
        for user in list(self._watching):
            self._answer(user)

    def _turn(self, direction: Direction, view: View) -> None:
        self._states[direction] = view.state
        if view.state is State.CLOSED:
            self._since.pop(direction, None)
        else:
            self._since.setdefault(direction, self._clock.now() - view.age)
        self._opened += view.state is State.OPEN
        _log.warning(*changed(self._name, direction, view.state))


def _time() -> float:
    return asyncio.get_running_loop().time()
