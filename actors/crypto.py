"""A crypto actor, which has keys and seals and opens whole batches; and the pool of them.

With `crypto.actors: 0` there are none: receivers and clients have the keys then, and do it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import ray

from actors.calls import answer
from actors.process import Process, process, tune
from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig
from pipeline.crypto.bodies import Bodies
from pipeline.errors import Timeout
from pipeline.stages.calls import NoAnswer, ProcessDied
from pipeline.stages.supervisor import Said
from pipeline.telemetry import log

if TYPE_CHECKING:
    from pipeline.crypto.rows import OpenedRows, PlainRows, SealedBodies, SealedRows

T = TypeVar("T")
_PAUSE = 0.2
"""Seconds until the pool is tried again when none of it answered: a dead one is being replaced."""


class CryptoActor:
    """Seals and opens; nobody else but its fellows has the keys."""

    def __init__(self, config: RuntimeConfig) -> None:
        self._config = config
        self._bodies: Bodies | None = None
        self._ready = asyncio.Event()
        self._error: str | None = None
        self._counts = {"batches": 0, "sealed": 0, "opened": 0}

    @ray.method
    async def start(self) -> Process:
        """Get the keys."""
        if self._bodies is None:
            from pipeline.crypto.open import open_bodies

            log.configure_actor(self._config.log.format, self._config.log.level)
            bodies = open_bodies(self._config.crypto, SystemClock(), self._fatal)
            await bodies.start()
            tune()
            self._bodies = bodies
            self._ready.set()
        return process()

    @ray.method
    async def open(self, rows: SealedRows, fresh: bool) -> OpenedRows:
        """See `Bodies`."""
        opened = await (await self._keys()).open(rows, fresh=fresh)
        self._counts["batches"] += 1
        self._counts["opened"] += opened.sealed
        return opened

    @ray.method
    async def seal(self, rows: PlainRows, from_start: bool) -> SealedBodies:
        """See `Bodies`."""
        sealed = await (await self._keys()).seal(rows, from_start=from_start)
        self._counts["batches"] += 1
        self._counts["sealed"] += len(rows) - len(sealed.errors)
        return sealed

    @ray.method(concurrency_group="control")
    async def stats(self) -> Said:
        """Counters, and why it can't go on, if it can't."""
        return Said(dict(self._counts), self._error)

    def _fatal(self, error: BaseException) -> None:
        self._error = self._error or f"{type(error).__name__}: {error}"

    async def _keys(self) -> Bodies:
        """What has the keys: who finds an actor by its name may do so before it does."""
        await self._ready.wait()
        if self._bodies is None:
            raise RuntimeError("a crypto actor is ready and has no keys")
        return self._bodies


class RemoteBodies(Bodies):
    """The pool as `Bodies`, by its actors' names: whoever has them now.

    A batch goes to the actor that has the fewest of this caller's; one that dies with it, or does
    not answer, leaves it to another. It pickles, and so travels to every actor that needs it.

    Args:
        names: the actors'.
        namespace: the run's.
        limit: seconds after which a send gives up; an opening waits for as long as it is wanted.
    """

    def __init__(self, names: Sequence[str], namespace: str, limit: float) -> None:
        self._names = tuple(names)
        self._namespace = namespace
        self._limit = limit
        self._actors: dict[str, Any] = {}
        self._under_way = dict.fromkeys(self._names, 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemoteBodies, (self._names, self._namespace, self._limit)

    async def start(self) -> None:
        """The pool starts by itself."""

    async def close(self) -> None:
        """The pool ends by itself."""

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        """See `Bodies`."""
        return await self._call(lambda actor: actor.open.remote(rows, fresh))

    async def seal(self, rows: PlainRows, *, from_start: bool) -> SealedBodies:
        """See `Bodies`."""
        try:
            async with asyncio.timeout(self._limit):
                return await self._call(lambda actor: actor.seal.remote(rows, from_start))
        except TimeoutError:
            from pipeline.crypto.rows import SealedBodies

            error = Timeout(f"no crypto actor sealed the body within {self._limit:g} s: not sent")
            return SealedBodies(rows.bodies, dict.fromkeys(range(len(rows)), error))

    async def _call(self, call: Callable[[Any], Awaitable[T]]) -> T:
        while True:
            # Of those with equally few the next one in turn.
            self._names = (*self._names[1:], self._names[0])
            for name in sorted(self._names, key=self._under_way.__getitem__):
                actor = self._actor(name)
                if actor is None:
                    continue
                self._under_way[name] += 1
                try:
                    return await answer(call(actor))
                except ProcessDied:
                    self._actors.pop(name, None)
                except NoAnswer:
                    pass
                finally:
                    self._under_way[name] -= 1
            await asyncio.sleep(_PAUSE)

    def _actor(self, name: str) -> Any:
        if name not in self._actors:
            try:
                self._actors[name] = ray.get_actor(name, namespace=self._namespace)
            except ValueError:  # it is being replaced
                return None
        return self._actors[name]
