"""A flow whose processes die and are replaced, and whose lines lose calls, answers, or both.

What a real crew does over Ray, done to the cores of one `Flow`: a dead core answers no call and
makes none, whoever waits for its answer learns of the death, and its follower is made known to its
neighbours.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

from pipeline.batch import MessageBatch
from pipeline.outcomes import Part
from pipeline.providers.port import Receiver
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, NoAnswer, ProcessDied, RunCalls
from pipeline.stages.handler import HandlerCore
from pipeline.stages.receiver import ReceiverCore
from pipeline.stages.router import RouterCore
from pipeline.stages.workers import InlineHands
from pipeline.testing.flow import Flow, FlowSettings, Wire

T = TypeVar("T")


class Line(Wire):
    """Calls to one core's process, which may die.

    Args:
        core: who is called.
        trouble: decides of each call how it fares; None: well, until the process dies.
    """

    def __init__(self, core: RunCalls, trouble: Trouble | None = None) -> None:
        super().__init__(core)
        self._trouble = trouble
        self._death: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.headers: list[Header] = []
        """Of the calls with rows."""

    def die(self) -> None:
        """The process is dead: calls that are open end with it."""
        if not self._death.done():
            self._death.set_result(None)

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        if len(batch):
            self.headers.append(header)
        return await self._carry(lambda: super(Line, self).run(header, batch))

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        return await self._carry(lambda: super(Line, self).more(caller, epoch, number, part))

    async def _carry(self, call: Callable[[], Awaitable[Part]]) -> Part:
        if self._death.done():
            raise ProcessDied("dead")
        # A task of its own: the call goes on when its caller dies.
        work = self._trouble.do(call) if self._trouble is not None else call()
        task = asyncio.ensure_future(work)
        await asyncio.wait([task, self._death], return_when=asyncio.FIRST_COMPLETED)
        if self._death.done():
            task.cancel()
            raise ProcessDied("dead")
        return task.result()


class Trouble:
    """Lines on which calls come late and in another order, and sometimes not at all.

    Args:
        chance: decides.
        share: of the calls, how many fare badly.
    """

    def __init__(self, chance: random.Random, share: float) -> None:
        self._chance = chance
        self._share = share
        self.lost = 0
        self._late: set[asyncio.Future[Any]] = set()

    async def do(self, call: Callable[[], Awaitable[Part]]) -> Part:
        """Make a call, or lose it, or its answer, or have it come after it was given up."""
        chance = self._chance
        await asyncio.sleep(chance.choice((0, 0, 0.001, 0.02)))
        if chance.random() >= self._share:
            return await call()
        self.lost += 1
        fate = chance.choice(("never comes", "answer lost", "comes late"))
        if fate == "answer lost":
            await call()
        if fate == "comes late":
            late = asyncio.ensure_future(self._later(call))
            self._late.add(late)
            late.add_done_callback(self._over)
        raise NoAnswer(fate)

    async def _later(self, call: Callable[[], Awaitable[Part]]) -> Part:
        await asyncio.sleep(self._chance.choice((0.1, 0.6, 2.0)))
        return await call()

    def _over(self, late: asyncio.Future[Any]) -> None:
        self._late.discard(late)
        if not late.cancelled():
            late.exception()  # nobody hears of it


class Source:
    """A receiver's side of the provider; of a dead receiver no call comes to an end."""

    def __init__(self, inner: Receiver) -> None:
        self._inner = inner
        self.dead = False

    def __getattr__(self, name: str) -> Any:
        made = getattr(self._inner, name)

        async def call(*arguments: Any, **named: Any) -> Any:
            if not self.dead:
                answer = await made(*arguments, **named)
            if self.dead:
                await asyncio.get_running_loop().create_future()
            return answer

        return call


class Crew:
    """A flow, and the deaths of its processes.

    Args:
        handler: the user's.
        settings: how large; its `wire` and `source` are set here.
        clock: calendar time and chance.
        trouble: what befalls calls.
    """

    def __init__(
        self,
        handler: Any,
        settings: FlowSettings,
        clock: Any,
        trouble: Trouble | None = None,
        **flow: Any,
    ) -> None:
        self._trouble = trouble
        self.lines: dict[int, Line] = {}
        self._sources: list[Source] = []
        settings.wire = self.line
        settings.source = self._source
        self.settings = settings
        self.flow = Flow(handler, settings, clock, **flow)
        self.table = SlotTable.spread(settings.handlers, settings.routers)
        self.epoch = 1
        self.deaths = 0

    def line(self, core: RunCalls) -> Line:
        """The line to a core: one, whoever calls it."""
        return self.lines.setdefault(id(core), Line(core, self._trouble))

    def _source(self, inner: Receiver) -> Any:
        self._sources.append(Source(inner))
        return self._sources[-1]

    async def __aenter__(self) -> Crew:
        await self.flow.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.flow.close()

    # ---------------------------------------------------------------- handlers

    async def fall(self, number: int, *, after: float = 1.0) -> None:
        """A handler dies, and some time later there is another one."""
        self.kill_handler(number)
        await asyncio.sleep(after)
        await self.replace_handler(number)

    def kill_handler(self, number: int) -> None:
        """Its user code stops where it is, nothing of it is committed or answered any more."""
        self.deaths += 1
        core = self.flow.handlers[number]
        self.line(core).die()
        core._here.draining = core.signals.stopping = True
        for task in (*core._tasks, *core._running, *core._sends):
            task.cancel()
        core._ready.clear()

    async def replace_handler(self, number: int) -> None:
        """A new one is made known to its router."""
        flow, old = self.flow, self.flow.handlers[number]
        core = HandlerCore(
            old._settings,
            flow._handler,
            self.settings.store_of(number),
            InlineHands(),
            flow._clock,
            asyncio.get_running_loop().time,
            flow._outgoing,
            flow._send,
            flow.errors.append,
        )
        await core.start()
        flow.handlers[number] = core
        await flow.routers[self.table.routers[number]].join(number, self.line(core))

    # ---------------------------------------------------------------- routers

    def kill_router(self, number: int) -> None:
        """What it sent goes on to the handlers; nobody hears what came of it."""
        self.deaths += 1
        core = self.flow.routers[number]
        self.line(core).die()
        for way in core._ways.values():
            abandon(way._line)
            way._line.dead = True

    async def replace_router(self, number: int) -> None:
        """A new one, with those handlers that are there, is made known to the receivers."""
        flow, self.epoch = self.flow, self.epoch + 1
        old = flow.routers[number]
        core = RouterCore(
            replace(next(iter(old._ways.values()))._settings, epoch=self.epoch),
            {at: self.line(flow.handlers[at]) for at in old._ways},
            self.table,
            flow.errors.append,
        )
        flow.routers[number] = core
        for receiver in flow.receivers:
            await receiver.join(number, self.line(core))

    # ---------------------------------------------------------------- receivers

    def kill_receiver(self, number: int) -> None:
        """What it had in hand stays locked until the locks end."""
        self.deaths += 1
        core = self.flow.receivers[number]
        self._sources[number].dead = True
        core._fetching.cancel()  # type: ignore[union-attr]
        for way in core._outgo._ways:
            abandon(way.line)
            way.line.dead = True

    async def replace_receiver(self, number: int) -> None:
        """A new one, in a new epoch."""
        flow, self.epoch = self.flow, self.epoch + 1
        old = flow.receivers[number]
        made = self._source(await flow.provider.receiver(flow.name, partition=number))
        self._sources[number] = self._sources.pop()
        core = ReceiverCore(
            replace(old._settings, epoch=self.epoch),
            made,
            old._can,
            await flow.provider.source(flow.name),
            [self.line(router) for router in flow.routers],
            self.table,
            flow._clock,
            flow.errors.append,
        )
        flow.receivers[number] = core
        await core.start()


def abandon(line: Any) -> None:
    """Nobody waits for the answers of these calls any more."""
    for task in line._open.values():
        task.cancel()
