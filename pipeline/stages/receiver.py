"""The receiver: takes messages in within its credit, sends them on, and ends each one exactly once.

It owns the receipts and everything that is decided by an outcome: what is settled, what is tried
again in place, when a session's next turn begins, and when a session is given back (DESIGN law 3).
Its parts: `holdings` (the sessions), `opening` (sealed bodies), `outgo` (the way out), `again`
(retries), `settling`, `locks`.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.credit import Credit
from pipeline.errors import CircuitOpen, QueueError
from pipeline.ledger import MOST_ROWS, SETTLING, Ledger, Lot
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.providers.port import (
    Capabilities,
    DeadLetter,
    Holding,
    Receipt,
    Received,
    Receiver,
    SessionSupport,
    Want,
)
from pipeline.retry import RetryPolicy
from pipeline.rows import Codes, Rows
from pipeline.slots import SlotTable
from pipeline.stages.again import Again
from pipeline.stages.calls import RunCalls
from pipeline.stages.holdings import Holdings
from pipeline.stages.locks import Locks
from pipeline.stages.opening import Opening, Opens
from pipeline.stages.outgo import Call, Outgo, Send
from pipeline.stages.settling import How, Settler
from pipeline.telemetry.counters import Histogram
from pipeline.turns import PAUSE, Held, Turns

_log = logging.getLogger("queue_runtime.receive")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverSettings:
    """What a receiver is configured with.

    Args:
        name: who it is, to its routers.
        epoch: grows with each start of it.
        ordered: whether sessions are kept in order; False handles every message on its own.
        messages: its credit in messages.
        bytes: its credit in bytes.
        batch_rows: the most rows one receive brings.
        batch_bytes: the bytes at which one receive stops.
        wait: seconds one receive waits for a first message.
        hold: seconds a session waits for its retry in this receiver before it is given back.
        sessions: NATIVE: how many sessions are held at once; None leaves it to the provider.
        busy: NATIVE: seconds after which a session that is never empty is given up to others.
        key_wait: seconds that a sealed message waits for its key.
        by_id: whether messages without a session that have one id come to one handler, which then
            knows a sealed body that comes again.
        retry: how calls to the provider are repeated.
    """

    name: str
    epoch: int
    ordered: bool
    messages: int
    bytes: int
    batch_rows: int
    batch_bytes: int
    wait: float = 20.0
    hold: float = 60.0
    sessions: int | None = None
    busy: float = 60.0
    key_wait: float = 900.0
    by_id: bool = False
    retry: RetryPolicy = field(default_factory=RetryPolicy)


class ReceiverCore:
    """The core of `ReceiverActor`.

    Args:
        settings: what it is configured with.
        source: the provider's receiver; this core is its only caller.
        capabilities: what that queue can do.
        origin: where the messages come from (SPEC F4).
        routers: the routers, by number.
        table: who owns which slot.
        clock: calendar time and chance.
        fatal: told of an error after which this receiver can't go on.
        opener: opens sealed bodies; None: they go on as they came.
    """

    def __init__(
        self,
        settings: ReceiverSettings,
        source: Receiver,
        capabilities: Capabilities,
        origin: str,
        routers: Sequence[RunCalls],
        table: SlotTable,
        clock: Clock,
        fatal: Callable[[BaseException], None],
        opener: Opens | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._can = capabilities
        self._clock = clock
        self._fatal = fatal
        self._ledger = Ledger()
        self._credit = Credit(settings.messages, settings.bytes)
        self._holdings = Holdings(
            settings.ordered and capabilities.sessions is SessionSupport.NATIVE,
            settings.messages,
            settings.sessions or capabilities.held_sessions,
            capabilities.session_idle,
            settings.busy,
        )
        self._table = table
        self._outgo = Outgo(
            settings, origin, routers, table, self._apply, self._router_changed, fatal
        )
        self._opening: Opening | None = None
        self._send: Send = self._outgo.send
        if opener is not None:
            self._opening = Opening(
                opener,
                self._outgo.send,
                self._ledger.may_go,
                self._give_up,
                settings.key_wait,
                fatal,
            )
            self._send = self._opening.send
        self._again = Again(self._ledger, self.held, self._send, self._lost)
        self._settler = Settler(source, self, settings.retry, clock, fatal)
        self._locks = Locks(
            source,
            self._ledger,
            self._holdings,
            self._lose,
            self._lose_row,
            capabilities.max_lock,
            self._grew_old,
        )
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._fetching: asyncio.Task[None] | None = None
        self._stopping = False
        self._nothing_runs = False
        self._unknown: set[Turns] = set()
        # Copies of rows until their dead-lettering is confirmed.
        self._disposed: dict[int, Held] = {}
        self._others_wait = False
        self._polling = False
        self._waking: asyncio.Task[None] | None = None
        self._empty_receives = 0
        self.counts = {how.value: 0 for how in How}
        self.counts |= {"received": 0, "redelivered": 0, "retried": 0, "receives": 0}
        self.latency = Histogram()

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Begin to receive."""
        if self._fetching is None:
            self._locks.renewer.start()
            self._room.set()
            self._fetching = asyncio.ensure_future(self._fetch())
            self._fetching.add_done_callback(self._fetch_ended)

    async def stop_receiving(self) -> None:
        """Drain 1: no new receive; a poll in flight ends, and what it brings is given back."""
        self._stopping = True
        if self._fetching is not None and not self._fetching.done():
            self._fetching.cancel()
            await asyncio.wait([self._fetching])
        self._outgo.stop()
        if self._opening is not None:
            self._opening.give_back()
        self._settler.drain()
        for turns in self._holdings:
            self._advance(turns)
        rows = [row for row in self._again.take() if self._ledger.settle(row)]
        if rows:
            self._settler.release(rows)

    async def join(self, router: int, calls: RunCalls) -> None:
        """A new router took the place of a dead one: what waits for it goes on its way again."""
        await self._outgo.join(router, calls)

    async def nothing_runs(self) -> None:
        """Drain: no handler runs anything any more, so what nobody could tell of can be given back.

        That is what a router had when it died: until now a handler might have been running it.
        """
        self._nothing_runs = True
        unknown, self._unknown = self._unknown, set()
        for turns in sorted(unknown, key=lambda turns: turns.session):
            turns.unknown = turns.asked = False
            self._advance(turns)
        if self._opening is not None:
            self._opening.give_back()

    async def idle(self) -> None:
        """Return when nothing is in hand."""
        await self._idle.wait()

    async def close(self) -> int:
        """Drain 5: give everything back that can be, and end.

        Returns:
            How many rows have no outcome: their locks are left to run out.
        """
        await self.stop_receiving()
        await self._release_empty(self._holdings.empty())
        await self._settler.close()
        left = self._ledger.open
        await self._locks.renewer.close()
        await self._outgo.close(abandon=bool(left))
        if self._waking is not None:
            await asyncio.wait([self._waking])
        if not left:
            await self._source.close()
        return left

    def stats(self) -> dict[str, int]:
        """Plain counters."""
        opened = {} if self._opening is None else self._opening.counts
        return (
            self.counts
            | opened
            | {
                "empty_receives": self._empty_receives,
                "in_hand": self._ledger.open,
                "bytes_in_hand": self._credit.held_bytes,
                "sessions": len(self._holdings),
                "locks_renewed": self._locks.renewer.renewed,
                "waiting": sum(len(turns.waiting) for turns in self._holdings) + len(self._again),
            }
        )

    # ---------------------------------------------------------------- receiving

    async def _fetch(self) -> None:
        failed = 0
        while True:
            await self._room.wait()
            if not self._credit.worth_receiving(self._settings.batch_rows):
                self._room.clear()
                continue
            now = asyncio.get_running_loop().time()
            try:
                await self._release_empty(
                    self._holdings.to_release(now, others_wait=self._others_wait)
                )
                received = await self._receive()
            except CircuitOpen:
                continue  # it has waited, and asks anew for what there is room for now
            except QueueError as error:
                if not error.transient:
                    raise
                failed += 1
                pause = self._settings.retry.delay(min(failed, 30), self._clock.random())
                _log.warning("a receive failed, the next follows in %.1f s: %s", pause, error)
                await asyncio.sleep(max(pause, error.retry_after or 0.0))
                continue
            failed = 0
            self.counts["receives"] += 1
            self._others_wait = received.others_wait
            self._take_in(received)
            await asyncio.sleep(0)  # what came goes on its way before more is asked for

    async def _receive(self) -> Received:
        want = self._want()
        self._holdings.grew = False
        self._polling = True
        try:
            return await self._source.receive(want)
        finally:
            self._polling = False

    def _ask_anew(self) -> None:
        """A receive that waits and asked for less than it could now would wait for nothing."""
        if self._polling and self._holdings.grew and self._waking is None:
            self._waking = asyncio.ensure_future(self._end_wait())
            self._waking.add_done_callback(self._fetch_ended)

    async def _end_wait(self) -> None:
        try:
            await self._source.end_wait()
        except QueueError as error:
            _log.debug("a receive could not be ended, it ends with its wait: %s", error)
        finally:
            self._waking = None

    def _fetch_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("the receiver can't go on", exc_info=error)
            self._fatal(error)

    def _want(self) -> Want:
        messages, size = self._credit.room
        places = self._holdings.places
        # Without a place the poll can't bring another session; one is made when a session has been
        # idle for long enough.
        idle = self._can.session_idle
        wait = idle if idle and not places else min(self._settings.wait, self._can.max_wait)
        return Want(
            messages=min(messages, self._settings.batch_rows, self._can.max_receive, MOST_ROWS),
            bytes=min(size, self._settings.batch_bytes),
            wait=min(wait, self._settings.wait),
            per_session=self._holdings.share if self._settings.ordered else messages,
            new_sessions=places if self._holdings.native else 0,
            held=self._holdings.rooms(),
        )

    def _take_in(self, received: Received) -> None:
        self._again.flush()  # what waits to be sent again is of lower sequences
        for holding in received.opened:
            self._open(holding)
        if not len(received.batch):
            self._empty_receives += 1
            return
        self._empty_receives = 0
        self.counts["received"] += len(received.batch)
        self.counts["redelivered"] += received.batch.redelivered()
        if self._holdings.native:
            received = self._still_held(received)
        batch = received.batch
        if not len(batch):
            return
        self._idle.clear()
        sizes = batch.sizes()
        self._credit.take(len(batch), int(sizes.sum()))
        if self._settings.ordered:
            self._take_in_sessions(batch, received, sizes)
            return
        lot = self._ledger.admit(
            received.receipts,
            (),
            np.zeros(len(batch), np.int32),
            batch.numbers("sequence"),
            sizes,
            batch.numbers("enqueued_at"),
            batch.provider_ids(),
            batch.values("holding")[0],
        )
        self._locks.renewer.add(lot.base, received.deadline)
        self._send(batch, np.arange(lot.base, lot.base + len(batch)))

    def _still_held(self, received: Received) -> Received:
        """Without the rows of sessions whose lock was lost while the answer was on its way."""
        holdings, codes = received.batch.distinct("holding")
        gone = {code for code, holding in enumerate(holdings) if not self._holdings.holds(holding)}
        if not gone:
            return received
        left = np.flatnonzero(~np.isin(codes, list(gone)))
        self.counts[How.LOST.value] += len(codes) - len(left)
        receipts = [received.receipts[at] for at in left.tolist()]
        return replace(received, batch=received.batch.take(left), receipts=receipts)

    def _take_in_sessions(
        self, batch: MessageBatch, received: Received, sizes: npt.NDArray[np.int32]
    ) -> None:
        names, codes = batch.distinct("session")
        if None in names:
            batch = self._with_sessions(batch)
            names, codes = batch.distinct("session")
        sessions = self._sessions_of(batch, names, codes)
        lot = self._ledger.admit(
            received.receipts,
            sessions,
            codes,
            batch.numbers("sequence"),
            sizes,
            batch.numbers("enqueued_at"),
            since=asyncio.get_running_loop().time(),
        )
        if not self._holdings.native:
            self._locks.renewer.add(lot.base, received.deadline)
        self._holdings.join(lot)
        going = np.arange(len(batch))
        stopped = np.array([turns.stopped for turns in sessions])
        if stopped.any():
            self._keep(batch.take(held := np.flatnonzero(stopped[codes])), lot, held)
            going = np.flatnonzero(~stopped[codes])
            batch, codes = batch.take(going), codes[going]
        if not len(batch):
            return
        batch = batch.with_columns(
            turn=np.array([turns.turn for turns in sessions])[codes],
            settled_below=np.array([turns.settled_below for turns in sessions])[codes],
        )
        self._send(batch, lot.base + going)

    def _with_sessions(self, batch: MessageBatch) -> MessageBatch:
        """Rows that came without a session are of the one that is held, else of the empty one."""
        native = self._holdings.native
        names = [
            name if name is not None else self._holdings.held(holding).session if native else ""
            for name, holding in zip(batch.values("session"), batch.values("holding"), strict=True)
        ]
        return batch.with_columns(session=names)

    def _sessions_of(self, batch: MessageBatch, names: list[str], codes: Codes) -> list[Turns]:
        first = np.searchsorted(np.maximum.accumulate(codes), np.arange(len(names)))
        found = []
        for name, holding in zip(names, batch.numbers("holding")[first].tolist(), strict=True):
            turns = self._holdings.find(name)
            if turns is not None and turns.holding != holding:
                self._lose(turns)
                turns = None
            found.append(turns or self._holdings.enter(name, holding))
        return found

    def _keep(self, copy: MessageBatch, lot: Lot, places: Rows) -> None:
        """Hold rows of stopped sessions behind those that wait already."""
        sequences = copy.values("sequence")
        for at, place in enumerate(places.tolist()):
            turns = lot.sessions[lot.codes[place]]
            turns.hold(Held(sequences[at], lot.base + place, copy, at))

    def _give_up(self, batch: MessageBatch, rows: Rows, *, alone: bool = False) -> None:
        """Rows that were being opened don't go on: nobody has handled them."""
        Call(0, batch, rows, alone, self._apply).release()

    # ---------------------------------------------------------------- outcomes

    def _apply(self, call: Call, part: Part) -> None:
        """Outcomes of a call came: settle, hold, or try again."""
        touched: dict[Turns, None] = {}
        for lot, places in self._ledger.lots(call.rows[part.completed]):
            self._complete(lot, places, touched)
        if part.others:
            unknown = part.unknown and not self._nothing_runs
            self._apply_others(call, part.others, touched, unknown=unknown)
        for turns in touched:
            self._advance(turns)
        self._ask_anew()

    def _complete(self, lot: Lot, places: Rows, touched: dict[Turns, None]) -> None:
        """Rows of one lot were handled."""
        for turns, count in lot.by_session(places):
            self._came_back(turns, count, touched, told=True)
        lost = lot.settle(places)
        if len(lost):
            places = np.setdiff1d(places, lost, assume_unique=True)
        self._settler.complete((places + lot.base).tolist())
        self._lost((lost + lot.base).tolist())

    def _came_back(
        self, turns: Turns, rows: int, touched: dict[Turns, None], *, told: bool
    ) -> None:
        """Rows of a session have their outcome, which a handler has told, or else somebody else."""
        turns.out -= rows
        if turns.stopped:
            touched[turns] = None
        if told and self._unknown:
            turns.answered()
            if not turns.unknown:
                self._unknown.discard(turns)

    def _apply_others(
        self, call: Call, others: list[Outcome], touched: dict[Turns, None], *, unknown: bool
    ) -> None:
        copy = call.copy([outcome.row for outcome in others])
        sequences, failures = copy.values("sequence"), copy.values("failures")
        dead: list[tuple[int, DeadLetter]] = []
        for place, outcome in enumerate(others):
            row = int(call.rows[outcome.row])
            lot, at = self._ledger.find(row)
            turns = lot.turns(at)
            if turns is not None:
                self._came_back(turns, 1, touched, told=outcome.kind is not Kind.RELEASED)
            if not self.held(row):
                self.ended([row], How.LOST)
            elif outcome.kind is Kind.DEAD_LETTER:
                self._ledger.settle(row)
                dead.append((row, DeadLetter(outcome.reason, outcome.description)))
                if turns is not None:
                    self._disposed[row] = Held(sequences[place], row, copy, place, failures[place])
                    turns.dispose()
                    self._holdings.measure(turns)
            else:
                held = Held(
                    sequences[place],
                    row,
                    copy,
                    place,
                    failures[place] + (outcome.kind is Kind.DIED and outcome.counted),
                    outcome.kind is Kind.DIED
                    or (call.alone and (outcome.kind is Kind.RELEASED or bool(failures[place]))),
                )
                if turns is None:
                    self._keep_alone(held, outcome)
                else:
                    self._try_again(held, turns, outcome, unknown=unknown)
                    touched[turns] = None
        if dead:
            self._settler.dead_letter([row for row, _ in dead], [why for _, why in dead])

    def _try_again(self, held: Held, turns: Turns, outcome: Outcome, *, unknown: bool) -> None:
        """A row of a session waits for the next turn."""
        turns.hold(held, unknown=unknown)
        if unknown:
            self._unknown.add(turns)
        if outcome.kind is Kind.RETRY:
            self.counts["retried"] += 1
            now = asyncio.get_running_loop().time()
            # A key is waited for here: given back, nobody would know for how long it was.
            hold = math.inf if outcome.reason else self._settings.hold
            turns.wait(now, outcome.delay, hold)
        self._holdings.measure(turns)

    def _keep_alone(self, held: Held, outcome: Outcome) -> None:
        """A row without a session: it waits here, or at the provider where that can."""
        failed = outcome.kind is Kind.RETRY and outcome.counted
        if outcome.kind is Kind.RETRY:
            self.counts["retried"] += 1
        if self._stopping or (failed and self._can.abandon_delay):
            self._ledger.settle(held.row)
            if failed:  # the provider's count is the attempt count of the next delivery
                delay = outcome.delay if self._can.abandon_delay else 0.0
                self._settler.abandon(held.row, delay)
            else:
                self._settler.release([held.row])
            return
        if failed:
            held = replace(held, failures=held.failures + 1)
        # Who refused it, without having begun it, would refuse it again in the same moment.
        pause = PAUSE if outcome.kind is Kind.RELEASED else 0.0
        self._again.later(held, max(outcome.delay, pause))

    def _advance(self, turns: Turns) -> None:
        """Do what is due about a stopped session, or come back when it is."""
        if turns not in self._holdings:
            return
        if self._stopping and not turns.unknown:
            self._give_back(turns)
            return
        due = turns.due()
        if due is None:
            return
        loop = asyncio.get_running_loop()
        if due > loop.time():
            loop.call_at(due, self._advance, turns)
        elif turns.gives_back(loop.time()):
            self._give_back(turns)
        else:
            held = turns.resume(loop.time())
            self._holdings.measure(turns)
            self._again.now(held, turns.turn)
            if not turns.held and not self._holdings.native:
                self._drop(turns)

    def _router_changed(self, router: int) -> None:
        """One of the router's handlers died, and with it the memory of the turns it had stopped.

        Or a call to it never came, and what was sent after that comes back. No session goes on in
        a turn of which anything is out there: what comes back decides.
        """
        for turns in self._holdings:
            if turns.out and self._table.router_of(turns.session) == router:
                turns.stopped = True
                self._holdings.measure(turns)

    # ---------------------------------------------------------------- giving back

    def _give_back(self, turns: Turns) -> None:
        """Give a session's waiting rows back, once nothing of it runs or is being settled."""
        if not turns.quiet() or turns.held != len(turns.waiting):
            return
        loop = asyncio.get_running_loop()
        rows = [held.row for held in sorted(turns.waiting)]
        turns.waiting = []
        for row in rows:
            self._ledger.settle(row)
        self._drop(turns)
        if self._holdings.native:
            self._settler.release_session(turns.holding, rows)
        elif rows and self._can.group_delay and turns.resume_at > loop.time():
            self._settler.postpone(rows, turns.resume_at)
        elif rows:
            self._settler.release(rows)

    async def _release_empty(self, empty: Sequence[Turns]) -> None:
        """NATIVE: let go of sessions of which nothing is in hand."""
        if not empty:
            return
        for turns in empty:
            self._drop(turns)
        try:
            failures = await self._source.release_sessions([turns.holding for turns in empty])
        except QueueError as error:
            _log.warning("%d empty sessions are left to lock expiry: %s", len(empty), error)
            return
        for place, failure in failures.items():
            _log.warning("session %s was lost: %s", empty[place].session, failure)

    def _drop(self, turns: Turns) -> None:
        """Forget a session: it is given back, lost, or empty."""
        self._holdings.drop(turns)
        self._unknown.discard(turns)
        if self._holdings.native:
            self._locks.renewer.forget(turns.holding)
        if turns.turn or turns.stopped:
            self._outgo.close_turns(turns.session, turns.holding)

    # ---------------------------------------------------------------- locks

    def _open(self, holding: Holding) -> None:
        old = self._holdings.find(holding.session)
        if old is not None:
            self._lose(old)
        self._holdings.open(holding, asyncio.get_running_loop().time())
        self._locks.renewer.add(holding.number, holding.deadline)

    def _lose(self, turns: Turns) -> None:
        """The holding is no longer ours: nothing of it that has not begun may begin."""
        if turns.lost:
            return
        turns.lost = True
        waiting = [held.row for held in turns.waiting]
        turns.waiting = []
        for stretch in turns.stretches:
            for row in [stretch.lot.base + place for place in stretch.places[stretch.next :]]:
                if self.held(row):
                    self._ledger.lose(row)
        self._outgo.lose(turns.session, turns.holding)
        self._drop(turns)
        self._lost(waiting)

    def _grew_old(self, lot: Lot) -> None:
        """The provider will not renew these locks much longer: a group that waits is given back.

        One that runs is given back when it would wait, or is lost when its lock ends.
        """
        now = asyncio.get_running_loop().time()
        for turns in lot.sessions:
            turns.give_back(now)
            if turns.stopped:
                self._advance(turns)

    def _lose_row(self, row: int) -> None:
        """The lock of a row without a session ended."""
        self._ledger.lose(row)
        lot, place = self._ledger.find(row)
        self._outgo.lose(lot.ids[place], lot.holding)
        if self._again.forget(row):
            self._lost([row])

    def _lost(self, rows: Sequence[int]) -> None:
        self.ended(rows, How.LOST)

    # ---------------------------------------------------------------- Books, for the settler

    def receipts(self, rows: Sequence[int]) -> list[Receipt]:
        """The rows' receipts, in their order."""
        return self._ledger.receipts(rows)

    def held(self, row: int) -> bool:
        """Whether the row's lock is still ours as far as we know."""
        return self._ledger.state(row) <= SETTLING

    def ended(self, rows: Sequence[int], how: How) -> None:
        """The rows have come to their end: credit returns."""
        if not rows:
            return
        self._note(rows, how)
        freed = 0
        touched: dict[Turns, int] = {}
        for lot, places in self._ledger.lots(rows):
            if how is How.COMPLETED:
                self.latency.add(self._clock.now() - lot.enqueued[places])
            freed += self._ledger.end(lot, places)
            for turns, count in lot.by_session(places):
                touched[turns] = touched.get(turns, 0) + count
            self._forget_lock(lot)
        self._credit.give(len(rows), freed)
        for turns, count in touched.items():
            self._holdings.leave(turns, count)
            if how is How.DEAD_LETTERED:
                turns.disposing -= count
        for turns in touched:
            self._after_end(turns, how)
        self._after_all()

    def stay(self, rows: Sequence[int]) -> None:
        """A drain, and they can't be dead-lettered: they go back with what waits behind them."""
        alone = []
        for row in rows:
            lot, at = self._ledger.find(row)
            turns = lot.turns(at)
            if turns is None:
                alone.append(row)
                continue
            self._ledger.keep(row)
            turns.disposing -= 1
            turns.hold(self._disposed.pop(row))
            self._advance(turns)
        if alone:
            self._settler.release(alone)

    def _note(self, rows: Sequence[int], how: How) -> None:
        """Count the rows' end, and log it where that is wanted."""
        self.counts[how.value] += len(rows)
        if self._opening is not None:
            self._opening.forget(rows)
        if self._disposed:
            for row in rows:
                self._disposed.pop(row, None)
        if _log.isEnabledFor(logging.DEBUG):
            self._tell(rows, how)

    def _tell(self, rows: Sequence[int], how: How) -> None:
        """Log each delivery's end: sequence, session and how long it was in the queue."""
        now = self._clock.now()
        for row in rows:
            lot, place = self._ledger.find(row)
            turns = lot.turns(place)
            _log.debug(
                "sequence %d %s after %.3f s",
                lot.sequences[place],
                how.value,
                now - lot.enqueued[place],
                extra={"session": None if turns is None else turns.session, "operation": how.value},
            )

    def _after_end(self, turns: Turns, how: How) -> None:
        if how is How.LOST:
            self._lose(turns)
            return
        self._holdings.settle(turns, asyncio.get_running_loop().time())
        if turns.stopped or self._stopping:
            self._advance(turns)
        elif not turns.held and not self._holdings.native:
            self._drop(turns)

    def _after_all(self) -> None:
        if not self._ledger.open:
            self._idle.set()
        if self._credit.worth_receiving(self._settings.batch_rows):
            self._room.set()
            self._ask_anew()

    def _forget_lock(self, lot: Lot) -> None:
        if not lot.open and not self._holdings.native:
            self._locks.renewer.forget(lot.base)
