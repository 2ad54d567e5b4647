"""The ways between processes: what is called arrives late, twice, never, or without an answer."""

from __future__ import annotations

import asyncio
import pickle
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any, Protocol

from pipeline.batch import MessageBatch
from pipeline.breaker import Direction, Ticket, Told
from pipeline.errors import ConnectionFailed, QueueError, Timeout
from pipeline.message import Message
from pipeline.outcomes import Part
from pipeline.providers.gate import Known
from pipeline.providers.memory import MemoryBroker
from pipeline.providers.port import Sent
from pipeline.stages.calls import Header, NoAnswer, ProcessDied
from pipeline.state.memory import MemoryStore
from pipeline.state.port import Change, SessionRecord
from tests.simulation.chance import chance, stream
from tests.simulation.faults import Fault, Schedule
from tests.simulation.journal import Journal, Place, place_of
from tests.simulation.processes import NOBODY, Process

_UNANSWERED = 0.2
"""Seconds until a caller hears that there is no answer."""


class Surroundings(Protocol):
    """The cluster as its ways see it."""

    schedule: Schedule
    journal: Journal
    broker: MemoryBroker
    store: MemoryStore
    cut_until: dict[str, float]

    @property
    def connection(self) -> Process | None:
        """The process with the connection's breakers, unless it is being replaced."""

    def link(self, caller: Process, callee: Process) -> Link:
        """The way from one process to another."""

    def delay(self, of: int, number: int) -> float:
        """How long the n-th call of a way takes."""


def carried(value: Any) -> Any:
    """A copy, as another process would get it."""
    if isinstance(value, MessageBatch):
        buffers: list[pickle.PickleBuffer] = []
        wire = pickle.dumps(value, 5, buffer_callback=buffers.append)
        return pickle.loads(wire, buffers=buffers)
    if isinstance(value, Part):
        return replace(value, completed=value.completed.copy(), others=list(value.others))
    return value


class Link:
    """The calls of one process to one other (see `RunCalls`).

    Args:
        world: the cluster.
        caller: who calls.
        callee: who is called: this incarnation and no later one.
    """

    def __init__(self, world: Surroundings, caller: Process, callee: Process) -> None:
        self._world = world
        self._caller = caller
        self._callee = callee
        self._name = f"{caller.slot.name} > {callee.slot.name}"
        self._stream = stream(self._name)
        self._rows: dict[int, list[Place]] = {}
        self._out: dict[Place, tuple[int, int]] = {}
        """The messages that the callee has in hand as far as the caller knows: the call and the
        holding of each."""
        self._dead = False

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Carry the rows over."""
        places = [place_of(body) for body in batch.values("body")]
        self._rows[header.number] = places
        for place, holding in zip(places, batch.values("holding"), strict=True):
            self._out[place] = (header.number, holding)
        part: Part = await self.call(self._callee.core.run, header, batch)
        return self._known(header.number, part)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """Ask for more outcomes."""
        answer: Part = await self.call(self._callee.core.more, caller, epoch, number, part)
        return self._known(number, answer)

    def _known(self, number: int, part: Part) -> Part:
        places = self._rows[number]
        ended = [*part.completed, *(outcome.row for outcome in part.others)]
        for row in range(len(places)) if part.last else ended:
            if self._out.get(places[row], (0, 0))[0] == number:
                del self._out[places[row]]
        return part

    async def call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call a method of the callee's core."""
        loop = asyncio.get_running_loop()
        number, fault = self._world.schedule.next_call(self._name)
        answer: asyncio.Future[Any] = loop.create_future()
        self._callee.answers[answer] = None
        kind = "" if fault is None else fault.kind
        seconds = 0.0 if fault is None else fault.seconds
        arrives = self._world.delay(self._stream, number)
        back = self._world.delay(self._stream, -number)
        if kind in ("lose", "late", "deaf"):
            loop.call_later(arrives + _UNANSWERED, _fail, answer, NoAnswer(kind), context=NOBODY)
        if kind == "late" or (kind == "slow" and number % 2):
            arrives += seconds
        elif kind == "slow":  # what it does is done, and known late
            back += seconds
        if kind != "lose":
            heard = answer if kind not in ("late", "deaf") else loop.create_future()
            loop.call_later(arrives, self._arrive, method, args, heard, back, context=NOBODY)
        if kind == "twice":
            again = loop.create_future()
            arrives += max(seconds, 0.001)  # the answer to the first one counts
            loop.call_later(arrives, self._arrive, method, args, again, back, context=NOBODY)
        try:
            return await answer
        except ProcessDied:
            self._heard_of_death()
            raise
        finally:
            self._callee.answers.pop(answer, None)

    def _heard_of_death(self) -> None:
        """It may count as an attempt of the message that was alone there, and of no other."""
        callee = self._callee
        # Who was killed for a time-out did not die of anything else.
        counts = callee.slot.role == "handler" and not callee.late
        if counts and not self._dead and len(self._out) == 1:
            ((place, (_, holding)),) = self._out.items()
            self._world.journal.died_alone(place, holding)
        self._dead = True

    def _arrive(
        self,
        method: Callable[..., Any],
        args: Sequence[Any],
        answer: asyncio.Future[Any],
        back: float,
    ) -> None:
        if self._callee.gone:
            _fail(answer, ProcessDied(self._callee.name))
            return
        task = self._callee.spawn(method(*map(carried, args)))
        loop = asyncio.get_running_loop()

        def answered(task: asyncio.Task[Any]) -> None:
            error = task.exception()
            if error is None:
                loop.call_later(back, _answer, answer, carried(task.result()), context=NOBODY)
            else:
                loop.call_later(back, _fail, answer, error, context=NOBODY)

        task.add_done_callback(answered, context=NOBODY)


def _answer(future: asyncio.Future[Any], result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be there to hear it


class FarConnection:
    """The breakers' process as another reaches it (see `ConnectionCalls`): whoever it is now."""

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._world = world
        self._process = process

    async def watch(self, user: str, known: Known) -> Known:
        """Answer once there is more to know."""
        answer: Known = await self._call("watch", user, known)
        return answer

    async def tell(self, user: str, told: Sequence[Told]) -> Known:
        """Hear how calls ended."""
        answer: Known = await self._call("tell", user, told)
        return answer

    async def take(self, user: str, direction: Direction) -> tuple[Ticket | None, Known]:
        """Give the probe, if it is to be had."""
        answer: tuple[Ticket | None, Known] = await self._call("take", user, direction)
        return answer

    async def _call(self, method: str, *args: Any) -> Any:
        there = self._world.connection
        if there is None:
            raise NoAnswer("there is no such process now")
        link = self._world.link(self._process, there)
        return await link.call(getattr(there.core, method), *args)


class Service:
    """What a process calls that is no process here: its calls fail as the schedule says.

    Args:
        world: the cluster.
        process: who calls.
        name: what is called.
    """

    def __init__(self, world: Surroundings, process: Process, name: str) -> None:
        self._world = world
        self._process = process
        self._name = f"{process.slot.name} > {name}"
        self._streams: dict[str, int] = {}

    async def call(self, what: str, do: Callable[[], Any]) -> Any:
        """Do it, unless it fails.

        Args:
            what: the call's name.
            do: a coroutine function, run by nobody's process.
        """
        where = f"{self._name}: {what}"
        number, fault = self._world.schedule.next_call(where)
        of = self._streams.get(what) or self._streams.setdefault(what, stream(where))
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self._world.delay(of, number))
        self._check_cut(where, fault)
        if fault is not None:
            await self._before(fault)
        answer = loop.create_future()
        task = loop.create_task(do(), context=NOBODY.copy())
        task.add_done_callback(lambda task: _pass_on(task, answer), context=NOBODY)
        result = await answer
        await asyncio.sleep(self._world.delay(of, -number))
        self._check_cut(where, None)
        if fault is not None and fault.kind == "fail":
            raise Timeout(f"{where}: done, but the answer is lost")
        return result

    def _check_cut(self, where: str, fault: Fault | None) -> None:
        world, loop = self._world, asyncio.get_running_loop()
        if fault is not None and fault.kind == "cut":
            world.cut_until[self._name] = loop.time() + fault.seconds
        if loop.time() < world.cut_until.get(self._name, 0.0):
            raise ConnectionFailed(f"{where}: can't be reached")

    async def _before(self, fault: Fault) -> None:
        if fault.kind == "refuse":
            raise ConnectionFailed("refused")
        if fault.kind == "slow":
            await asyncio.sleep(fault.seconds)


def _pass_on(task: asyncio.Task[Any], answer: asyncio.Future[Any]) -> None:
    error = task.exception()
    if answer.done():
        return
    if error is None:
        answer.set_result(task.result())
    else:
        answer.set_exception(error)


class FarBroker:
    """The broker as one process reaches it (see `BrokerCalls`); the journal sees what is done."""

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._broker = world.broker
        self._journal = world.journal
        self._process = process
        self._service = Service(world, process, "broker")

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._broker, name)

        async def call(*args: Any, **named: Any) -> Any:
            async def do() -> Any:
                result = await method(*args, **named)
                self._note(name, args, result)
                return result

            return await self._service.call(name, do)

        return call

    def _note(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        journal = self._journal
        if name == "receive":
            journal.received(self._process, args[0], result)
        elif name in ("complete", "dead_letter", "release", "abandon"):
            reasons = args[2] if name == "dead_letter" else ()
            journal.settled(self._process, name, args[0], args[1], result, reasons)
        elif name == "release_sessions":
            journal.released(self._process, args[1], result)


class FarStore:
    """The durable store as one process reaches it: what it reads is a copy."""

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._world = world
        self._process = process
        self._service = Service(world, process, "store")

    async def start(self) -> None:
        """Nothing to open."""

    async def close(self) -> None:
        """Nothing to close."""

    async def load(
        self, keys: Sequence[str], holdings: Sequence[int] | None = None
    ) -> list[SessionRecord]:
        """Read records."""

        async def do() -> list[SessionRecord]:
            self._world.journal.loaded(self._process, keys)
            return [copied(record) for record in await self._world.store.load(keys, holdings)]

        records: list[SessionRecord] = await self._service.call("load", do)
        return records

    async def commit(self, changes: Sequence[Change]) -> list[QueueError | None]:
        """Write changes."""
        sent = [
            replace(change, applied=list(change.applied), outbox=list(change.outbox))
            for change in changes
        ]

        async def do() -> list[QueueError | None]:
            answers = await self._world.store.commit(sent)
            for change, refusal in zip(sent, answers, strict=True):
                self._world.journal.committed(self._process, change, refusal)
            return answers

        try:
            answers: list[QueueError | None] = await self._service.call("commit", do)
        except QueueError as error:
            for change in sent:
                self._world.journal.unknown(self._process, change, error)
            raise
        return answers

    def states(self) -> Any:
        """All states."""
        return self._world.store.states()


def copied(record: SessionRecord) -> SessionRecord:
    """A record as another process would get it."""
    applied = {source: copy(one) for source, one in record.applied.items()}
    for one in applied.values():
        one._recent = deque(one._recent)
    return replace(record, applied=applied, outbox=list(record.outbox))


class Target:
    """Other queues, to which handlers send."""

    def __init__(self, world: Surroundings, process: Process) -> None:
        self._world = world
        self._process = process
        self._service = Service(world, process, "target")

    async def __call__(self, queue: str, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send messages."""

        async def do() -> list[Sent | QueueError]:
            for message in messages:
                place = place_of(message.body)
                self._world.journal.arrived(self._process, place, str(message.id))
            return [Sent() for _ in messages]

        sent: list[Sent | QueueError] = await self._service.call("send", do)
        return sent


def world_delay(seed: int, pace: float) -> Callable[[int, int], float]:
    """How long calls take: most of them hardly any time, some as long as `pace`."""

    def delay(of: int, number: int) -> float:
        if not pace:
            return 0.0
        drawn = chance(seed, of, number)
        return 0.0 if drawn < 0.5 else pace * (drawn - 0.5) * 2

    return delay
