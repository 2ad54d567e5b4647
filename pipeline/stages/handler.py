"""The handler: one session's rows one at a time, state and outbox committed, then the outcomes.

It owns the lanes (a queue a session), who works on them, and the order commit, send, publish
(DESIGN laws 2 and 5). What a row's result means is `stints`' and `handlers.run`'s; where user code
runs is its `Hands`'.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import repeat
from threading import get_ident
from typing import TYPE_CHECKING, Any

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import Batch
from pipeline.errors import QueueError
from pipeline.handlers.api import Handler, Outgoing, Signals
from pipeline.handlers.run import Runner
from pipeline.names import QueueName
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part
from pipeline.retry import RetryPolicy
from pipeline.rows import by_code
from pipeline.stages.calls import Header, Reception, RunRow
from pipeline.stages.outbox import Outbox, SendMany
from pipeline.stages.patience import GivenUp, PatientStore
from pipeline.stages.stints import (
    Calls,
    Lane,
    Place,
    Run,
    Stint,
    Surroundings,
    one_by_one,
    whole_batch,
)
from pipeline.stages.workers import Hands, drive_async, drive_sync
from pipeline.state.port import StateStore

if TYPE_CHECKING:
    from pipeline.crypto.nonces import NonceBook

_log = logging.getLogger("queue_runtime.handle")
_GRACE = 10.0
"""Seconds that a handler has after its time-out, before its process is ended (SPEC H6)."""
PART = 0.05
"""Seconds of running after which known outcomes go back (DESIGN law 2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerSettings:
    """What a handler actor is configured with.

    Args:
        queue: the queue its messages come from.
        ordered: whether sessions are kept in order.
        retry: attempts and delays of the handler (H5).
        exceptions: kind of exception, its subclasses too, to "retry" or "reject".
        timeout: seconds one call of an async handler may take.
        concurrency: how many sessions an async handler runs at once.
        threads: how many threads a sync handler has.
        batch_rows: the most rows a batch handler gets at once.
        states: how many sessions' states are kept read.
        redacted: whether a dead letter tells of an exception only its type and a hash of its text.
        nonces: finds sealed bodies that come a second time; None: nobody looks.
    """

    queue: QueueName
    ordered: bool
    retry: RetryPolicy = field(
        default_factory=lambda: RetryPolicy(5, 1.0, 300.0, 2.0, jitter="half")
    )
    exceptions: dict[type[BaseException], str] = field(default_factory=dict)
    timeout: float = 300.0
    concurrency: int = 64
    threads: int = 1
    batch_rows: int = Batch().rows
    states: int = 50_000
    redacted: bool = False
    nonces: NonceBook | None = None


class HandlerCore:
    """The core of `HandlerActor`.

    Args:
        settings: what it is configured with.
        handler: the user's.
        store: where states are kept.
        hands: where user code runs.
        clock: calendar time and chance.
        monotonic: seconds that only grow, callable from any thread.
        outgoing: checks what handlers send; None: handlers can't send.
        send: sends to a queue; None: handlers can't send.
        fatal: told of a defect after which this handler can't go on.
    """

    def __init__(
        self,
        settings: HandlerSettings,
        handler: Handler,
        store: StateStore,
        hands: Hands,
        clock: Clock,
        monotonic: Callable[[], float],
        outgoing: Outgoing | None = None,
        send: SendMany | None = None,
        fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._settings = settings
        self._store = PatientStore(store, clock.random)
        self._hands = hands
        self._monotonic = monotonic
        self._fatal = fatal
        self.signals = Signals(settings.queue)
        self.signals.late = self._late
        self._runner = Runner(
            handler,
            settings.retry,
            settings.exceptions,
            self.signals,
            clock.random,
            redacted=settings.redacted,
        )
        self._cached: OrderedDict[str, tuple[int, bytes | None, Any]] = OrderedDict()
        self._here = Surroundings(
            self._runner,
            settings.ordered,
            outgoing,
            clock.now,
            False,
            self._cached,
            self._warn,
            settings.nonces,
        )
        self._outbox = Outbox(self._store, send, settings.retry, clock)
        self._by_session = settings.ordered or handler.state is not None
        self._reception = Reception(self._take_in)
        self._lanes: dict[str, Lane] = {}
        self._ready: deque[Lane] = deque()
        self._free = settings.concurrency if handler.asynchronous else settings.threads
        self._finished: deque[tuple[list[Stint], int]] = deque()
        self._work = asyncio.Event()
        self._done = asyncio.Event()
        self._idle = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._sends: set[asyncio.Task[None]] = set()
        self._running: dict[asyncio.Task[None], list[Stint]] = {}
        self._seen: dict[asyncio.Task[None], tuple[Sequence[Place], float]] = {}
        self._jobs: dict[int, tuple[float, list[Stint]]] = {}
        self.busy = 0
        self.counts = {
            "handled": 0,
            "failed": 0,
            "repeats": 0,
            "unexpected_sequences": 0,
            "runs": 0,
        }

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Open the store and begin."""
        if not self._tasks:
            await self._store.start()
            await self._user("start")
            self._tasks = [self._loop(self._feed()), self._loop(self._collect())]

    async def drain(self) -> None:
        """Drain 2: no row begins any more; those that wait come back."""
        self._here.draining = self._store.hurried = True
        for lane in list(self._lanes.values()):
            if not lane.busy:
                self._release_queue(lane)
                self._forget(lane)
        self._ready.clear()
        self._look_idle()

    async def idle(self) -> None:
        """Return when, after `drain`, nothing runs any more, and what ran is committed and sent."""
        await self._idle.wait()

    def _look_idle(self) -> None:
        if self._here.draining and not any(lane.busy for lane in self._lanes.values()):
            self._idle.set()

    async def stop_running(self) -> None:
        """Drain 4: cancel async handlers, tell sync ones."""
        self.signals.stopping = True
        await self._hands.on_user_loop(self._cancel)

    async def close(self) -> None:
        """Drain 5: everything sent; then the user's `close`, and the store's."""
        while self._sends:
            await asyncio.wait(list(self._sends))
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            await self._user("close")
        self._tasks = []
        await self._store.close()

    def stats(self) -> dict[str, int]:
        """Plain counters."""
        waiting = sum(len(lane.queue) for lane in list(self._lanes.values()))
        return self.counts | {
            "waiting": waiting,
            "running": self.busy,
            "unsent": self._outbox.waiting,
            "sent": self._outbox.sent,
        }

    @property
    def paused(self) -> str | None:
        """Why nothing begins or is committed for now: what the store said last."""
        return self._store.paused

    def overdue(self) -> list[RunRow]:
        """What the handler runs for so long that only its process's end can end it (SPEC H6).

        Callable from any thread, by one at a time.
        """
        now = self._monotonic()
        latest = now - self._settings.timeout - _GRACE
        places: list[Place] = []
        for began, stints in list(self._jobs.values()):
            if began < latest:
                places += [place for stint in stints for place in tuple(stint.running)]
        places += self._not_cancelled(now, latest)
        return [(*run.call, row) for run, row in places]

    def _not_cancelled(self, now: float, latest: float) -> list[Place]:
        """What async calls go on with after their time-out: they block their loop, or won't end.

        Since when is known by looking, so that nothing has to be noted for each message.
        """
        found: list[Place] = []
        seen: dict[asyncio.Task[None], tuple[Sequence[Place], float]] = {}
        for task, stints in list(self._running.items()):
            rows = next((stint.running for stint in stints if stint.running), None)
            if rows is None:
                continue
            before, since = self._seen.get(task, (rows, now))
            seen[task] = rows, since if before is rows else now
            if seen[task][1] < latest:
                found += rows
        self._seen = seen
        return found

    def _late(self) -> bool:
        """Whether the job of the calling thread has been running for longer than it may."""
        job = self._jobs.get(get_ident())
        return job is not None and self._monotonic() - job[0] > self._settings.timeout

    async def states(self) -> dict[str, bytes]:
        """Every session's state as JSON."""
        return {key: state async for key, state in self._store.states()}

    async def _user(self, method: str) -> None:
        """Call the user's `start` or `close`, if a handler class has one."""
        found = getattr(self._runner.call, method, None)
        if found is not None and inspect.isclass(self._runner.handler.function):
            answer = found()
            if isinstance(answer, Awaitable):
                await self._hands.on_user_loop(lambda: answer)

    def _loop(self, work: Awaitable[None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        task.add_done_callback(self._loop_ended)
        return task

    def _loop_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a handler actor can't go on", exc_info=error)
            if self._fatal is not None:
                self._fatal(error)

    # ---------------------------------------------------------------- calls of the router

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Take the rows in; answer with the first outcomes."""
        return await self._reception.run(header, batch)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """The next outcomes of a call that is still open."""
        return await self._reception.more(caller, epoch, number, part)

    def _note(self, header: Header) -> None:
        for session, holding in header.lost:
            if session in self._lanes:
                self.signals.lose(session, holding)
        for session, holding in header.closed:
            lane = self._lanes.get(session)
            if lane is not None and lane.holding <= holding and not lane.queue:
                lane.stopped = False
                self._forget(lane)

    def _take_in(self, header: Header, batch: MessageBatch) -> OutcomeBook:
        book = OutcomeBook(len(batch), PART, first=PART)
        self._note(header)
        if len(batch):
            self._queue(Run(batch, book, header.source, (header.epoch, header.number)))
        return book

    def _queue(self, run: Run) -> None:
        self.counts["runs"] += 1
        if self._by_session:
            names, codes = run.batch.distinct("session")
            touched = []
            for name, rows in zip(names, by_code(codes, len(names)), strict=True):
                if name is None:
                    touched += self._queue_alone(run, rows)
                else:
                    lane = self._lane(name)
                    lane.queue.extend(zip(repeat(run), rows))
                    touched.append(lane)
        else:
            touched = self._queue_alone(run, range(len(run.ids)))
        for lane in touched:
            if self._here.draining and not lane.busy:
                self._release_queue(lane)
                self._forget(lane)
            else:
                self._make_ready(lane)

    def _queue_alone(self, run: Run, rows: Iterable[int]) -> list[Lane]:
        """Rows without a session: each is a lane of its own."""
        lanes = []
        for row in rows:
            lane = self._lane(run.ids[row])
            lane.queue.append((run, row))
            lanes.append(lane)
        return lanes

    def _lane(self, key: str) -> Lane:
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        return lane

    def _make_ready(self, lane: Lane) -> None:
        if not lane.busy and not lane.ready and lane.queue:
            lane.ready = True
            self._ready.append(lane)
            self._work.set()

    def _release_queue(self, lane: Lane) -> None:
        while lane.queue:
            run, row = lane.queue.popleft()
            run.book.end(Outcome(row, Kind.RELEASED))

    def _forget(self, lane: Lane) -> None:
        """A lane without rows goes, unless it has to remember that its turn is stopped."""
        if not lane.queue and not lane.busy and not lane.stopped:
            self._lanes.pop(lane.key, None)
            self.signals.forget(lane.key)

    # ---------------------------------------------------------------- working

    async def _feed(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            while self._ready and self._free > 0:
                await self._begin(self._take())

    def _take(self) -> list[Lane]:
        """The lanes that the next job works on."""
        handler = self._runner.handler
        if handler.asynchronous and not handler.batch:
            count = min(self._free, len(self._ready))
        else:
            # Each free thread gets its share; one alone takes all there is.
            count = -(-len(self._ready) // self._free) if not handler.batch else len(self._ready)
        lanes: list[Lane] = []
        rows = 0
        while self._ready and len(lanes) < count:
            lane = self._ready.popleft()
            lane.ready = False
            lane.busy = True
            lanes.append(lane)
            rows += len(lane.queue)
            if handler.batch and rows >= self._settings.batch_rows:
                break
        return lanes

    async def _begin(self, lanes: list[Lane]) -> None:
        keys = [lane.key for lane in lanes]
        newest = [lane.queue[-1] for lane in lanes]
        holdings = [run.holdings[row] for run, row in newest]
        try:
            records = await self._store.load(keys, holdings)
        except GivenUp:
            self._give_up(lanes)
            return
        stints = [
            Stint(self._here, lane, record) for lane, record in zip(lanes, records, strict=True)
        ]
        self.busy += len(stints)
        handler = self._runner.handler
        here, hands = self._here, self._hands
        if handler.batch:
            self._free -= 1
            calls = whole_batch(here, stints, self._settings.batch_rows)
            if handler.asynchronous:
                hands.spawn(lambda: self._spawn_all([(stints, calls)]))
            else:
                hands.on_thread(lambda: self._work_batch(stints, calls))
        elif handler.asynchronous:
            self._free -= len(stints)
            go_on = self._until()
            jobs = [([stint], one_by_one(here, stint, go_on)) for stint in stints]
            hands.spawn(lambda: self._spawn_all(jobs))
        else:
            self._free -= 1
            go_on = self._until()
            hands.on_thread(lambda: self._work_sync(stints, go_on))

    def _give_up(self, lanes: list[Lane]) -> None:
        """Nothing of these lanes can begin any more."""
        for lane in lanes:
            lane.busy = False
            self._release_queue(lane)
            self._forget(lane)
        self._look_idle()

    def _until(self) -> Callable[[], bool]:
        monotonic = self._monotonic
        end = monotonic() + PART
        return lambda: monotonic() < end

    def _work_sync(self, stints: list[Stint], go_on: Callable[[], bool]) -> None:
        """On a thread: lane after lane; what time leaves over stays in its lane."""

        def work() -> None:
            for at, stint in enumerate(stints):
                if not at or go_on():
                    drive_sync(one_by_one(self._here, stint, go_on), self._runner.call)

        self._do(stints, work)

    def _work_batch(self, stints: list[Stint], calls: Calls) -> None:
        """On a thread: one batch."""
        self._do(stints, lambda: drive_sync(calls, self._runner.call))

    def _do(self, stints: list[Stint], work: Callable[[], None]) -> None:
        thread = get_ident()
        self._jobs[thread] = (self._monotonic(), stints)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - a thread's exception would vanish
            self._defect(error)
        del self._jobs[thread]
        self._finish(stints, 1)

    def _spawn_all(self, jobs: list[tuple[list[Stint], Calls]]) -> None:
        """On the user's loop: one task a session, or one for a batch."""
        settings = self._settings
        for stints, calls in jobs:
            task = asyncio.ensure_future(
                drive_async(calls, self._runner.call, settings.timeout, self.signals)
            )
            self._running[task] = stints
            task.add_done_callback(partial(self._task_ended, stints))

    def _task_ended(self, stints: list[Stint], task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect(error)
        self._finish(stints, 1)

    def _defect(self, error: BaseException) -> None:
        _log.error("a stint ended with a defect of the runtime", exc_info=error)
        if self._fatal is not None:
            fatal = self._fatal
            self._hands.notify(lambda: fatal(error))

    async def _cancel(self) -> None:
        for task in list(self._running):
            task.cancel()

    def _finish(self, stints: list[Stint], free: int) -> None:
        """From any thread: this work is over."""
        for stint in stints:
            stint.finish()
        self._finished.append((stints, free))
        self._hands.notify(self._done.set)

    # ---------------------------------------------------------------- commit, send, publish

    async def _collect(self) -> None:
        while True:
            await self._done.wait()
            self._done.clear()
            stints: list[Stint] = []
            while self._finished:
                some, free = self._finished.popleft()
                stints += some
                self._free += free
            if self._ready:
                self._work.set()
            await self._commit(stints)

    async def _commit(self, stints: list[Stint]) -> None:
        changes = [stint.change for stint in stints if not stint.change.empty]
        answers = await self._store.commit(changes)
        refused = {
            change.key: error for change, error in zip(changes, answers, strict=True) if error
        }
        for stint in stints:
            for name, number in stint.counts.items():
                self.counts[name] += number
            refusal = refused.get(stint.lane.key)
            if refusal is not None:
                self._refuse(stint, refusal)
            elif stint.record.outbox or stint.change.outbox:
                task = asyncio.ensure_future(self._send(stint))
                self._sends.add(task)
                task.add_done_callback(self._send_ended)
                continue
            self._publish([stint])

    def _send_ended(self, task: asyncio.Task[None]) -> None:
        self._sends.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._defect(error)

    def _refuse(self, stint: Stint, error: QueueError) -> None:
        """The commit was refused: nothing happened; the rows come again."""
        _log.warning("session %s: the commit was refused: %s", stint.lane.key, error)
        ended = [(run, row) for run, rows in stint.completed.items() for row in rows]
        ended += [(run, outcome.row) for run, outcome in stint.others]
        stint.completed.clear()
        stint.others = [(run, Outcome(row, Kind.RELEASED)) for run, row in ended]
        stint.state = None
        if self._settings.ordered:
            stint.lane.stopped = True

    async def _send(self, stint: Stint) -> None:
        """Send what waits before the rows are completed; what can't be sent makes them wait."""
        try:
            failed = await self._outbox.send(stint.lane.key)
        except GivenUp:
            failed = (-1, 0.0)
        if failed is not None:
            if not self._by_session:
                self._outbox.forget(stint.lane.key)
            sequence, delay = failed
            retries = [
                (run, Outcome(row, Kind.RETRY, delay=delay, counted=False))
                for run, rows in stint.completed.items()
                for row in rows
                if run.sequences[row] >= sequence
            ]
            for run, rows in stint.completed.items():
                rows[:] = [row for row in rows if run.sequences[row] < sequence]
            stint.others = retries + stint.others
            if self._settings.ordered:
                stint.lane.stopped = True
        self._publish([stint])

    def _publish(self, stints: Sequence[Stint]) -> None:
        for stint in stints:
            lane = stint.lane
            self.busy -= 1
            lane.busy = False
            self._keep_state(stint)
            for run, rows in stint.completed.items():
                run.book.complete(rows)
            for run, outcome in stint.others:
                run.book.end(outcome)
            if self._here.draining:
                self._release_queue(lane)
            if lane.queue:
                self._make_ready(lane)
            else:
                self._forget(lane)
        self._look_idle()

    def _keep_state(self, stint: Stint) -> None:
        """Keep the state read for the session's next rows."""
        if self._runner.codec is None or stint.state is None:
            return
        self._cached[stint.lane.key] = (stint.version, stint.data, stint.state)
        if len(self._cached) > self._settings.states:
            self._cached.popitem(last=False)

    def _warn(self, key: str, sequence: int, top: int) -> None:
        self.counts["unexpected_sequences"] += 1
        _log.warning(
            "session %s: sequence %d comes after %d and was not applied: it is handled",
            key,
            sequence,
            top,
        )
