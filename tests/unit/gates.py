"""Gates, a connection's core, and the ways between them, which can be cut or go silent."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from pipeline.breaker import BreakerPolicy, Direction, Ticket, Told, Verdict
from pipeline.clock import SeededClock
from pipeline.errors import ConnectionFailed
from pipeline.providers.gate import ConnectionCalls, Gate, Known
from pipeline.stages.connection import ConnectionCore

POLICY = BreakerPolicy()


def core(epoch: int = 1) -> ConnectionCore:
    clock = SeededClock(asyncio.get_running_loop().time)
    return ConnectionCore("main", POLICY, epoch, clock)


class Way(ConnectionCalls):
    """The way of all gates to whoever is the connection actor now."""

    def __init__(self) -> None:
        self.core = core()
        self.calls: Counter[str] = Counter()
        self.cut = False
        self.silent = False
        self._pending: set[asyncio.Future[Any]] = set()

    def die(self) -> None:
        """The actor is dead: what waits for it is answered with that."""
        self.cut = True
        for pending in list(self._pending):
            pending.cancel()

    def replace(self) -> None:
        """A new actor is there."""
        self.core, self.cut, self.silent = core(2), False, False

    async def watch(self, user: str, known: Known) -> Known:
        return await self._call("watch", self.core.watch(user, known))

    async def tell(self, user: str, told: Sequence[Told]) -> Known:
        return await self._call("tell", self.core.tell(user, told))

    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        return await self._call("take", self.core.take(user, direction))

    async def _call(self, name: str, call: Any) -> Any:
        self.calls[name] += 1
        if self.cut:
            call.close()
            raise ConnectionFailed("the actor is gone")
        if self.silent:
            call.close()
            await asyncio.sleep(3600)
        pending = asyncio.ensure_future(call)
        self._pending.add(pending)
        try:
            await asyncio.sleep(0.001)
            return await pending
        except asyncio.CancelledError:
            if self.cut:
                raise ConnectionFailed("the actor is gone") from None
            raise
        finally:
            self._pending.discard(pending)
            pending.cancel()


async def gates(way: ConnectionCalls, count: int) -> list[Gate]:
    made = [Gate("main", POLICY, way, f"user-{number}") for number in range(count)]
    for gate in made:
        await gate.start()
    return made


def calls(gate: Gate, direction: Direction, *verdicts: Verdict) -> None:
    """Calls that were made freely, one after the other."""
    for verdict in verdicts:
        given = gate.free(direction)
        if given is not None:
            gate.leave(given, verdict)


async def closing(*made: Gate) -> None:
    for gate in made:
        await gate.close()


BAD, GOOD = Verdict.FAILURE, Verdict.SUCCESS
SEND, RECEIVE, SETTLE = Direction.SEND, Direction.RECEIVE, Direction.SETTLE
