"""A cluster in one thread: processes of the real cores, and a supervisor that replaces them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.breaker import BreakerPolicy
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.errors import QueueError
from pipeline.message import Message, to_row
from pipeline.names import QueueName
from pipeline.providers.gate import Gate
from pipeline.providers.guarded import GuardedProvider
from pipeline.providers.memory import MemoryBroker, MemoryProvider
from pipeline.retry import RetryPolicy
from pipeline.slots import SlotTable
from pipeline.stages.calls import ProcessDied
from pipeline.stages.connection import ConnectionCore
from pipeline.stages.handler import HandlerCore, HandlerSettings
from pipeline.stages.receiver import ReceiverCore, ReceiverSettings
from pipeline.stages.router import RouterCore, RouterSettings
from pipeline.stages.workers import InlineHands
from pipeline.state.memory import MemoryStore
from tests.simulation.chance import chance, stream
from tests.simulation.ending import QUEUE, drained
from tests.simulation.faults import EVERYTHING, Fault, Schedule
from tests.simulation.journal import Broken, Journal
from tests.simulation.opening import LateOpener
from tests.simulation.plan import ATTEMPTS, GRACE, VISIBILITY, Plan
from tests.simulation.processes import NOBODY, Process, ProcessLoop, Slot
from tests.simulation.unordered import UnorderedJournal
from tests.simulation.watching import WatchOver
from tests.simulation.wire import (
    FarBroker,
    FarConnection,
    FarStore,
    Link,
    Target,
    world_delay,
)
from tests.simulation.work import handler_of

_MOST_SECONDS = 4_000.0
"""Until every message has ended; far more than the faults and retries of a plan can take."""
_MOST_STEPS = 40_000
_BYTES = 1 << 20
_BREAKER = BreakerPolicy(failures=2, open=5.0, successes=2, probe=20.0)
_PATIENCE = 5.0
"""Seconds that a settlement waits for its turn while the breaker is open."""


class World:
    """One run.

    Args:
        plan: what is to happen.
        schedule: what is to go wrong.
        loop: where.
    """

    def __init__(self, plan: Plan, schedule: Schedule, loop: ProcessLoop) -> None:
        self.plan = plan
        self.schedule = schedule
        self.cut_until: dict[str, float] = {}
        self.delay = world_delay(plan.seed, plan.pace)
        self._loop = loop
        self._end: asyncio.Future[None] = loop.create_future()
        kind = Journal if plan.ordered else UnorderedJournal
        self.journal: Journal = kind(plan, loop.time, self._tell)
        queue = MemoryQueue(
            connection="m",
            fifo=plan.ordered,
            sessions=plan.dialect,
            count=plan.count,
            visibility=VISIBILITY,
        )
        self._queues = {QUEUE: queue}
        self.broker = MemoryBroker(self._queues, self._clock("broker"))
        self.store = MemoryStore(now=self._clock("store").now)
        self.table = SlotTable.spread(plan.handlers, plan.routers)
        self._handler = handler_of(plan.kind, self.journal, self._kill_itself, self._hold)
        self._retry = RetryPolicy(ATTEMPTS, 0.5, 5.0, 2.0, jitter="half")
        self._links: dict[tuple[Process, Process], Link] = {}
        self._everything_at = min(schedule.steps(EVERYTHING), default=0)
        self._steps = 0
        self.connections = self._slots("connection", 1)
        self.handlers = self._slots("handler", plan.handlers)
        self.routers = self._slots("router", plan.routers)
        self.receivers = self._slots("receiver", plan.receivers)
        self._watch_over = WatchOver(self)

    def _slots(self, role: str, count: int) -> list[Slot]:
        return [
            Slot(role, number, self.schedule.steps(f"{role} {number}")) for number in range(count)
        ]

    def _clock(self, name: str) -> SeededClock:
        return SeededClock(self._loop.time, stream(name) + self.plan.seed)

    def _tell(self, broken: Broken) -> None:
        if not self._end.done():
            self._end.set_exception(broken)

    @property
    def slots(self) -> list[Slot]:
        """Every place."""
        return [*self.connections, *self.handlers, *self.routers, *self.receivers]

    @property
    def connection(self) -> Process | None:
        """The process with the connection's breakers, unless it is being replaced."""
        [slot] = self.connections
        return slot.here if slot.standing else None

    # ---------------------------------------------------------------- from begin to end

    async def run(self) -> None:
        """Send, handle, and look at what is left.

        Raises:
            Broken: a law was broken.
        """
        fates = list(self.plan.fates)
        early, later = fates[: -self.plan.later or None], fates[len(fates) - self.plan.later :]
        await self._send(early)
        for slot in self.slots:
            await self._make(slot)
        if self.plan.anew:
            await self._settled()
            self._make_anew()
            await self._send(later)
        else:
            await asyncio.sleep(1.0)
            await self._send(later)
        await self._settled()
        self.schedule.over = True
        # What the last faults left comes to its end, and so does what never ends by itself.
        await asyncio.sleep(45.0 + self.plan.timeout + GRACE)
        await drained(self)
        if self._end.done():
            await self._end

    def _make_anew(self) -> None:
        """Another broker takes the place of the one that is empty, and all processes start anew."""
        self.broker = MemoryBroker(self._queues, self._clock("broker made anew"))
        for slot in self.slots:
            if slot.standing:
                self._lose(slot.here, back=0.1)

    async def _send(self, places: list[tuple[str, int]]) -> None:
        rows = [
            to_row(
                Message(
                    f"{session}:{position}".encode(),
                    id=f"m-{session}-{position}",
                    session=None if session in self.plan.nameless else session,
                )
            )
            for session, position in places
        ]
        sent = await self.broker.send(QUEUE, rows)
        self.journal.sent(await self.broker.source(QUEUE), places, sent.sequences)

    async def _settled(self) -> None:
        """Wait until every message that was sent has ended."""
        end = self._loop.time() + _MOST_SECONDS
        while not self.journal.finished:
            await asyncio.wait([self._end], timeout=1.0)
            if self._loop.time() > end:
                self.journal.broken("every message ends", self._missing())
            if self._end.done():
                await self._end

    def _missing(self) -> str:
        journal = self.journal
        left = [
            f"{session}:{position}"
            for session, position in journal.places.values()
            if (session, position) not in journal.completed
            and (session, position) not in journal.dead
        ]
        return f"{', '.join(left)} did not end within {_MOST_SECONDS} s"

    # ---------------------------------------------------------------- the supervisor

    async def _make(self, slot: Slot) -> None:
        """Put a new process in a place, and tell those who call it."""
        process = Process(slot, self._strike, self._watch)
        broker = self.broker
        makers = {
            "connection": self._connect,
            "handler": self._handle,
            "router": self._route,
            "receiver": self._receive,
        }
        await makers[slot.role](slot, process)
        if process.dead:
            return
        slot.process, slot.standing = process, True
        self.journal.note("made", process.name)
        if self.broker is not broker:
            self._lose(process, back=0.1)  # it was made for a broker that is no more
            return
        for caller in self._callers(slot):
            if caller.process is not None and not caller.process.dead:
                self._join(caller.process, process)

    def _callers(self, slot: Slot) -> list[Slot]:
        if slot.role == "handler":
            return [self.routers[self.table.routers[slot.number]]]
        return self.receivers if slot.role == "router" else []

    def _join(self, caller: Process, callee: Process) -> None:
        link = self.link(caller, callee)
        caller.call_soon(lambda: _beside(caller.core.join(callee.slot.number, link)))

    def link(self, caller: Process, callee: Process) -> Link:
        """The way from one process to another."""
        key = (caller, callee)
        return self._links.get(key) or self._links.setdefault(key, Link(self, caller, callee))

    async def _connect(self, slot: Slot, process: Process) -> None:
        clock = self._clock(process.name)
        process.core = process.now(ConnectionCore, "m", _BREAKER, slot.incarnations, clock)

    async def _handle(self, slot: Slot, process: Process) -> None:
        plan = self.plan
        settings = HandlerSettings(
            queue=QueueName(QUEUE),
            ordered=plan.ordered,
            retry=self._retry,
            timeout=plan.timeout,
            concurrency=plan.concurrency,
            batch_rows=plan.batch_rows,
        )
        process.core = process.now(
            HandlerCore,
            settings,
            self._handler,
            FarStore(self, process),
            InlineHands(),
            self._clock(process.name),
            self._loop.time,
            None,
            Target(self, process),
            self._fatal(process),
        )
        await self.within(process, process.core.start())

    async def _route(self, slot: Slot, process: Process) -> None:
        links = {
            number: self.link(process, self.handlers[number].here)
            for number, router in enumerate(self.table.routers)
            if router == slot.number
        }
        settings = RouterSettings(
            name=slot.name,
            epoch=slot.incarnations,
            batch_rows=self.plan.batch_rows,
            batch_bytes=_BYTES,
        )
        process.core = process.now(RouterCore, settings, links, self.table, self._fatal(process))
        process.now(process.core.greet)

    async def _receive(self, slot: Slot, process: Process) -> None:
        plan = self.plan
        gate = Gate("m", _BREAKER, FarConnection(self, process), slot.name, _PATIENCE)
        real = MemoryProvider(FarBroker(self, process), self._queues)
        provider = GuardedProvider(real, gate, turn=_PATIENCE)
        await self._trying(process, provider.start)
        source = await self._trying(process, lambda: self._lane(provider, slot))
        origin = await self._trying(process, lambda: provider.source(QUEUE))
        settings = ReceiverSettings(
            name=slot.name,
            epoch=slot.incarnations,
            ordered=plan.ordered,
            messages=plan.credit,
            bytes=_BYTES,
            batch_rows=plan.batch_rows,
            batch_bytes=_BYTES,
            wait=plan.wait,
            hold=plan.hold,
            sessions=plan.places,
        )
        process.core = process.now(
            ReceiverCore,
            settings,
            source,
            provider.capabilities(QUEUE),
            origin,
            [self.link(process, router.here) for router in self.routers],
            self.table,
            self._clock(process.name),
            self._fatal(process),
            LateOpener(plan.seed, process.name) if plan.opens else None,
        )
        await self.within(process, process.core.start())

    def _lane(self, provider: GuardedProvider, slot: Slot) -> Awaitable[Any]:
        return provider.receiver(QUEUE, partition=slot.number, owner=slot.name)

    async def _trying(self, process: Process, call: Callable[[], Awaitable[Any]]) -> Any:
        """What a shell does at its start: again, until it can be done."""
        while True:
            try:
                return await self.within(process, call())
            except QueueError as error:
                if not error.transient:
                    raise
                await asyncio.sleep(1.0)

    async def within(self, process: Process, work: Awaitable[Any]) -> Any:
        """Run a coroutine in a process, and wait for it."""
        return await process.spawn(_awaited(work))

    def _fatal(self, process: Process) -> Callable[[BaseException], None]:
        def fatal(error: BaseException) -> None:
            if not process.gone:
                self.journal.broken("no defects", f"{process.name} can't go on: {error!r}")

        return fatal

    # ---------------------------------------------------------------- faults

    def _strike(self, process: Process, fault: Fault) -> None:
        if self.schedule.over:
            return
        self.schedule.struck.append(fault)
        self.journal.note("fault", str(fault))
        if fault.kind == "stall":
            process.stand_still(fault.seconds)
        elif fault.kind == "leave":
            self._loop.create_task(self._leave(process, fault.seconds), context=NOBODY.copy())
        elif fault.kind == "kill":
            self._lose(process, back=fault.seconds)
        else:
            self._lose(process, back=0.1, lingers=fault.seconds)

    async def _leave(self, process: Process, back: float) -> None:
        """A receiver ends in order while all else goes on, as where there are to be fewer."""
        core = process.core
        if core is None or process.gone:
            return
        await process.spawn(core.stop_receiving())
        await process.spawn(core.idle())
        left = await process.spawn(core.close())
        if left:
            self.journal.broken("nothing is left", f"{process.name} leaves with {left} rows")
        if not process.gone:
            self._lose(process, back=back)

    def _kill_itself(self, process: Process) -> None:
        """User code ends its process."""
        self._lose(process, back=0.5)

    def _hold(self, process: Process) -> None:
        """User code does not end."""
        self._watch_over.begin()
        self._loop.hold(process)

    def end_late(self, process: Process) -> None:
        """A process is killed for what it runs, and replaced."""
        process.late = True
        self.journal.timed_out(process)
        self._lose(process, back=0.5)

    def _lose(self, process: Process, *, back: float, lingers: float = 0.0) -> None:
        """A process dies, now or (taken for dead now) later; another one follows."""
        if process.dead:
            return
        was_known, slot = process.zombie, process.slot
        if lingers:
            process.zombie = True
            self._loop.call_later(lingers, self._lose_for_good, process, context=NOBODY)
        else:
            process.dead = True
        if was_known:
            self.journal.died(process)
            return
        slot.standing = False
        self.journal.died(process)
        heard = 0.3 * chance(self.plan.seed, stream(process.name), 0)
        self._loop.call_later(heard, self._tell_callers, process, context=NOBODY)
        self._loop.call_later(
            heard + back,
            lambda: self._loop.create_task(self._make(slot)),
            context=NOBODY,
        )

    def _lose_for_good(self, process: Process) -> None:
        if not process.dead:
            process.dead = True
            self.journal.died(process)

    def _tell_callers(self, process: Process) -> None:
        for answer in list(process.answers):
            if not answer.done():
                answer.set_exception(ProcessDied(process.name))
                answer.exception()

    # ---------------------------------------------------------------- at every step

    def _watch(self, process: Process) -> None:
        self._steps += 1
        if self._steps == self._everything_at and not self.schedule.over:
            self._lose_everything()
        if self._steps == _MOST_STEPS:
            self.journal.broken("no runaway", f"{process.name} takes its {_MOST_STEPS}th step")
        if process.slot.role == "receiver" and process.core is not None:
            core = process.core
            held = core._credit.held_messages
            if not 0 <= held <= self.plan.credit or held != core._ledger.open:
                self.journal.broken(
                    "credit",
                    f"{process.name} has {held} messages by its credit of {self.plan.credit}, "
                    f"{core._ledger.open} by its ledger",
                )

    def _lose_everything(self) -> None:
        fault = self.schedule.steps(EVERYTHING)[self._everything_at]
        self.schedule.struck.append(fault)
        self.journal.note("fault", str(fault))
        for slot in self.slots:
            if slot.standing:
                self._lose(slot.here, back=fault.seconds)


async def _awaited(work: Awaitable[Any]) -> Any:
    return await work


def _beside(work: Any) -> None:
    """Run a coroutine beside what is running."""
    asyncio.ensure_future(work)  # noqa: RUF006 - the loop keeps its tasks
