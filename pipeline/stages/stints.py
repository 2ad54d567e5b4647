"""Stints: the rows of one session (or of a batch) that a worker runs before the next commit.

A stint is a generator: it yields the arguments of each call of the user's code and is sent the
result, so that one piece of logic serves sync handlers, which a thread drives, and async ones,
which a loop drives. It decides what each row's result means; it commits and publishes nothing.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.batch import MessageBatch
from pipeline.errors import NonceReused, SerializationError, ValidationError
from pipeline.handlers.api import Context, Outgoing, Reject, Retry, States
from pipeline.handlers.run import HandlerDied, Raised, Runner, StateCodec, Verdict
from pipeline.message import Message, to_row
from pipeline.outcomes import Kind, Outcome, OutcomeBook
from pipeline.refusals import Refusal, read
from pipeline.state.port import Change, Failure, Pending, SessionRecord

if TYPE_CHECKING:
    from pipeline.crypto.nonces import NonceBook

Calls: TypeAlias = Generator[tuple[Any, ...], Any, None]


class Run:
    """One call's rows as lists, made once."""

    __slots__ = (
        "batch",
        "below",
        "book",
        "call",
        "counts",
        "died",
        "failures",
        "holdings",
        "ids",
        "refuses",
        "sequences",
        "source",
        "turns",
    )

    def __init__(
        self, batch: MessageBatch, book: OutcomeBook, source: str, call: tuple[int, int] = (0, 0)
    ) -> None:
        self.batch = batch
        self.book = book
        self.source = source
        self.call = call
        self.ids = batch.provider_ids()
        self.sequences = batch.values("sequence")
        self.holdings = batch.values("holding")
        self.turns = batch.values("turn")
        self.below = batch.values("settled_below")
        self.counts = batch.values("delivery_count")
        self.failures = batch.values("failures")
        self.died = any(self.failures)
        self.refuses = batch.column("refused").null_count < len(batch)


Place = tuple[Run, int]


class Lane:
    """The rows of one key in this handler, in order: a session, or one message without order.

    Args:
        key: what its record is kept under.
    """

    __slots__ = ("busy", "holding", "key", "queue", "ready", "record", "stopped", "turn")

    def __init__(self, key: str) -> None:
        self.key = key
        self.queue: deque[Place] = deque()
        self.busy = False
        self.ready = False
        self.record: SessionRecord | None = None
        self.holding = -1
        self.turn = -1
        self.stopped = False

    def enter(self, run: Run, row: int, record: SessionRecord) -> bool:
        """Whether a row may begin: no newer turn waits behind it, and its own goes on or is new.

        A lane that was forgotten begins anew: then the record knows of newer possessions.
        """
        holding, turn = run.holdings[row], run.turns[row]
        if self.queue:
            last, at = self.queue[-1]
            if last.holdings[at] > holding or (
                last.turns[at] > turn and last.holdings[at] == holding
            ):
                return False
        if turn == self.turn and holding == self.holding:
            return not self.stopped
        if (holding, turn) < (self.holding, self.turn) or holding < record.holding(run.source):
            return False
        self.holding, self.turn, self.stopped = holding, turn, False
        return True


@dataclass(slots=True)
class Surroundings:
    """What all stints of a handler share.

    Args:
        runner: runs the user's code.
        ordered: whether a row that isn't completed stops its session.
        outgoing: checks what handlers send.
        now: calendar time.
        draining: True once no further row may begin.
        cached: key to (the record's version, the state as written, the state) as last committed.
        warn: told of a sequence lower than one that was applied: key, sequence, highest.
        nonces: what sealed bodies were sealed with; None: nobody looks whether one comes again.
    """

    runner: Runner
    ordered: bool
    outgoing: Outgoing | None
    now: Callable[[], float]
    draining: bool
    cached: dict[str, tuple[int, bytes | None, Any]]
    warn: Callable[[str, int, int], None]
    nonces: NonceBook | None = None


class Stint:
    """What came of a lane's rows: outcomes to publish after the commit of `change`."""

    __slots__ = (
        "_broken",
        "_here",
        "change",
        "completed",
        "counts",
        "data",
        "lane",
        "others",
        "record",
        "record_version",
        "running",
        "schema",
        "state",
        "top",
    )

    def __init__(self, here: Surroundings, lane: Lane, record: SessionRecord) -> None:
        self._here = here
        self.lane = lane
        self.record = record
        self.record_version = record.version
        self.change = Change(lane.key, record.version, "")
        self.completed: defaultdict[Run, list[int]] = defaultdict(list)
        self.others: list[tuple[Run, Outcome]] = []
        self.counts = {"handled": 0, "failed": 0, "repeats": 0}
        self.running: Sequence[Place] = ()
        """The rows that the user's code has now."""
        self.top = math.inf
        """No sequence above it was applied; known once a row was looked up in the record."""
        self.data = record.state
        self.schema = record.schema
        self.state: Any = None
        self._broken: SerializationError | None = None
        known = here.cached.pop(lane.key, None)
        # The version alone is not enough: a state that expired has the version that it had, and a
        # record that was deleted and made anew by another process comes to it again.
        if known is not None and known[0] == record.version and known[1] == record.state:
            self.state = known[2]
        else:
            self.undo()

    # ---- before a row

    def admits(self, run: Run, row: int) -> bool:
        """Whether the row is to be run; if not, it has its outcome now."""
        here = self._here
        fresh = not here.ordered or self.lane.enter(run, row, self.record)
        if not fresh or here.draining or here.runner.signals.lost(run.batch, row):
            self.others.append((run, Outcome(row, Kind.RELEASED)))
            return False
        sequence = run.sequences[row]
        if sequence > self.top and run.source == self.change.source and not run.died:
            return not self._refused(run, row)
        message = (sequence, run.ids[row])
        if self.record.has(run.source, message) or self._handled(run, message):
            self.counts["repeats"] += 1
            self.completed[run].append(row)
            return False
        if run.died and self._died(run, row):
            return False
        failure = self.record.failure
        if failure is not None and (failure.sequence, failure.id) == message:
            if not self._admits_failed(run, row, failure):
                return False
        elif here.ordered:
            self._look_up(run, sequence)
        return not self._refused(run, row)

    def _refused(self, run: Run, row: int) -> bool:
        """Whether the row's body can't be given to the handler; then it has its outcome now."""
        if not run.refuses and self._here.nonces is None:
            return False
        text = run.batch.values("refused")[row]
        refusal = self._replayed(run, row) if text is None else read(text)
        if refusal is None:
            return False
        if refusal.retry is not None:
            outcome = Outcome(
                row, Kind.RETRY, delay=refusal.retry, counted=False, reason=refusal.reason
            )
        else:
            here = self._here
            now = here.now()
            verdict = Verdict(None, refusal.reason, refusal.error)
            description = here.runner.describe(verdict, self.attempt(run, row) - 1, now, now)
            outcome = Outcome(row, Kind.DEAD_LETTER, reason=refusal.reason, description=description)
        self._stop()
        self.others.append((run, outcome))
        return True

    def _replayed(self, run: Run, row: int) -> Refusal | None:
        """Whether the body was sealed with what another message's body was sealed with."""
        nonces = self._here.nonces
        nonce = run.batch.values("nonce")[row]
        if nonces is None or not nonce:
            return None
        sequence = run.sequences[row]
        # Where the provider has ids of its own they tell messages apart; an SQS standard queue's
        # sequences are its receiver's, new at each delivery.
        told_apart = 0 if run.batch.values("provider_id")[row] else sequence
        if not nonces.seen(nonce, run.source, run.ids[row], told_apart, self._here.now()):
            return None
        return Refusal(
            NonceReused(
                f"the sealed body of sequence {sequence} came before in another message: somebody "
                "sent it again"
            )
        )

    def _handled(self, run: Run, message: tuple[int, str]) -> bool:
        """Whether this stint handled the message: it came again while its first run went on."""
        applied, source = self.change.applied, self.change.source
        if not applied or message[0] > applied[-1][0] or source != run.source:
            return False
        return message in applied

    def _admits_failed(self, run: Run, row: int, failure: Failure) -> bool:
        outcome = None
        wait = failure.retry_at - self._here.now()
        if failure.verdict is not None:
            reason, description = failure.verdict
            outcome = Outcome(row, Kind.DEAD_LETTER, reason=reason, description=description)
        elif wait > 0 and failure.holding != run.holdings[row]:
            # Given back while it waited, and here again before its time.
            outcome = Outcome(row, Kind.RETRY, delay=wait, counted=False)
        if outcome is None:
            return True
        self._stop()
        self.others.append((run, outcome))
        return False

    def _died(self, run: Run, row: int) -> bool:
        """Whether a process died of the row and that was not counted yet; now it is (SPEC H5)."""
        here = self._here
        attempt = self.attempt(run, row) - 1
        if here.ordered:
            new = run.failures[row] - self._deaths(run, row)
            if new < 1:
                return False
            # No more than there may be: who was to be dead-lettered already did not run.
            attempt = min(attempt + new, max(attempt, here.runner.most_attempts))
        elif attempt < here.runner.most_attempts:
            # The provider's count and the deaths are all there is: past the last attempt, it ends.
            return False
        died = HandlerDied(
            "the handler's process ended while it ran this message: it crashed, was killed, or the "
            "message took longer than the pipeline's `timeout`"
        )
        self.failure(run, row, here.runner.failed(died, attempt), attempt)
        return True

    def _deaths(self, run: Run, row: int) -> int:
        """Of the row's failures during this delivery, how many its record knows."""
        failure = self.record.failure
        if failure is None or (failure.sequence, failure.id) != (run.sequences[row], run.ids[row]):
            return 0
        return failure.deaths if failure.holding == run.holdings[row] else 0

    def _look_up(self, run: Run, sequence: int) -> None:
        """The row was not applied: see whether those behind it can have been."""
        applied = self.record.applied.get(run.source)
        if applied is not None and sequence <= applied.top:
            self._here.warn(self.lane.key, sequence, applied.top)
        elif self.record.failure is None:
            self.top = sequence
            self.change.source = run.source

    def attempt(self, run: Run, row: int) -> int:
        """Which attempt this is, 1 the first (SPEC H5)."""
        if not self._here.ordered:
            return int(run.counts[row] + run.failures[row])
        failure = self.record.failure
        if failure is None or (failure.sequence, failure.id) != (run.sequences[row], run.ids[row]):
            return 1
        return failure.attempts + 1

    def context(self, run: Run, row: int) -> Context:
        """The context of one row."""
        here = self._here
        attempt = self.attempt(run, row)
        return Context(run.batch, row, attempt, here.outgoing, here.runner.signals)

    def undo(self) -> None:
        """Take the state back to where the last row that was handled left it."""
        codec = self._here.runner.codec
        if codec is None:
            return
        try:
            self.state = codec.new() if self.data is None else codec.load(self.data, self.schema)
            self._broken = None
        except Exception as error:  # noqa: BLE001 - the user's own validators may raise anything
            self._broken = SerializationError(f"the session's state can't be read: {error}")

    def usable(self) -> Any:
        """The state, to be given to the handler.

        Raises:
            SerializationError: what was written can't be read again.
        """
        if self._broken is not None:
            raise self._broken
        return self.state

    @property
    def version(self) -> int:
        """The record's version after the commit."""
        return self.record_version if self.change.empty else self.record_version + 1

    def write(self, codec: StateCodec, *, ended: bool) -> None:
        """Write the state down after a row: what a commit keeps, and what `undo` comes back to.

        Raises:
            SerializationError: the handler put something into the state that can't be written.
        """
        if ended:
            self.state = codec.new()
            self.data = None
        else:
            try:
                self.data = codec.dump(self.state)
            except Exception as error:
                raise SerializationError(
                    f"the state can't be written: {error}; keep to the types it declares"
                ) from error
        self.schema = codec.version
        self.change.writes_state = True

    # ---- after a row

    def success(self, run: Run, row: int) -> None:
        """The row was handled: it joins the commit."""
        change = self.change
        change.source = run.source
        change.holding = run.holdings[row]
        sequence, id_ = run.sequences[row], run.ids[row]
        change.applied.append((sequence, id_))
        change.settled_below = run.below[row]
        if sequence > self.top:
            self.top = sequence
        self.completed[run].append(row)
        if self.record.failure is not None:
            change.writes_failure = True
            change.failure = None

    def send(self, run: Run, row: int, sends: Iterable[tuple[str, Message]]) -> None:
        """What the row's handler sent joins the commit."""
        sequence, id_ = run.sequences[row], run.ids[row]
        for number, (queue, message) in enumerate(sends):
            derived = derived_id(run.source, sequence, id_, number)
            self.change.outbox.append(Pending(sequence, queue, (derived, *to_row(message)[1:])))

    def failure(self, run: Run, row: int, verdict: Verdict, attempt: int) -> None:
        """The row was not handled: it stops its session."""
        self.change.source = run.source
        self.change.holding = run.holdings[row]
        self.counts["failed"] += 1
        here = self._here
        now = here.now()
        before = self.record.failure
        sequence, id_ = run.sequences[row], run.ids[row]
        same = before is not None and (before.sequence, before.id) == (sequence, id_)
        first_at = before.first_at if before is not None and same else now
        if verdict.retry is None:
            description = here.runner.describe(verdict, attempt, first_at, now)
            outcome = Outcome(
                row, Kind.DEAD_LETTER, reason=str(verdict.reason), description=description
            )
        else:
            outcome = Outcome(row, Kind.RETRY, delay=verdict.retry)
        self.others.append((run, outcome))
        self._stop()
        if here.ordered:
            decided = None if verdict.retry is not None else (outcome.reason, outcome.description)
            self.change.writes_failure = True
            self.change.failure = Failure(
                sequence,
                id_,
                attempt,
                first_at,
                now + (verdict.retry or 0.0),
                run.holdings[row],
                decided,
                run.failures[row],
            )

    @property
    def stopped(self) -> bool:
        """Whether a row of the lane has stopped it."""
        return self.lane.stopped

    def release(self, run: Run, row: int) -> None:
        """Nobody handled the row."""
        self.others.append((run, Outcome(row, Kind.RELEASED)))

    def give_back(self, run: Run, row: int) -> None:
        """The row was cancelled because the runtime stops: nobody handled it, nor those behind."""
        self.undo()
        self._stop()
        self.release(run, row)

    def finish(self) -> None:
        """No more rows: the commit can be made."""
        change = self.change
        change.state = self.data
        change.schema = self.schema
        codec = self._here.runner.codec
        if codec is not None and codec.ttl is not None and self.data is not None:
            change.expires_at = self._here.now() + codec.ttl
        self.counts["handled"] = len(self.change.applied)

    def _stop(self) -> None:
        if self._here.ordered:
            self.lane.stopped = True


def derived_id(source: str, sequence: int, id_: str, number: int) -> str:
    """The id of the n-th message sent by the handling of one message: equal at each repeat."""
    cause = f"{source}|{sequence}|{id_}|{number}"
    return blake2b(cause.encode(), digest_size=16).hexdigest()


class _Stopped:
    """The result of a call that was cancelled because the runtime stops."""


STOPPED = _Stopped()


def one_by_one(here: Surroundings, stint: Stint, go_on: Callable[[], bool]) -> Calls:
    """Run a lane's first row, and those behind it while `go_on` says so."""
    queue, runner = stint.lane.queue, here.runner
    first = True
    while queue and (first or go_on()):
        first = False
        place = run, row = queue.popleft()
        if not stint.admits(run, row):
            continue
        context = stint.context(run, row)
        result: Any
        try:
            arguments = runner.arguments(run.batch, row, stint.usable(), context)
        except Exception as error:  # noqa: BLE001 - the verdict decides
            result = Raised(error)
        else:
            stint.running = (place,)
            result = yield arguments
            stint.running = ()
        if result is STOPPED:
            stint.give_back(run, row)
        else:
            _conclude(runner, stint, run, row, context, result)


def _conclude(
    runner: Runner, stint: Stint, run: Run, row: int, context: Context, result: Any
) -> None:
    verdict = runner.verdict(result, context.attempt)
    if verdict is None and runner.codec is not None:
        try:
            stint.write(runner.codec, ended=context.ended)
        except SerializationError as error:
            verdict = runner.verdict(Raised(error), context.attempt)
    if verdict is None:
        stint.success(run, row)
        if context.outbox:
            stint.send(run, row, ((queue, sent) for _, queue, sent in context.outbox))
    else:
        stint.undo()
        stint.failure(run, row, verdict, context.attempt)


@dataclass(slots=True)
class _Item:
    """One row of a batch handler's call."""

    stint: Stint
    run: Run
    row: int


def whole_batch(here: Surroundings, stints: Sequence[Stint], most: int) -> Calls:
    """Run up to `most` rows of several lanes as one batch; rows behind them stay in their lanes."""
    items: list[_Item] = []
    for stint in stints:
        queue = stint.lane.queue
        taken: set[tuple[int, str]] = set()
        while queue and len(items) < most:
            run, row = queue[0]
            # Without order a message may be here twice, as its lock ended before it began: the
            # second one waits for what becomes of the first.
            if not here.ordered and _twice(taken, run, row):
                break
            queue.popleft()
            if not stint.admits(run, row):
                continue
            try:
                stint.usable()
            except SerializationError as error:
                _fail(here, _Item(stint, run, row), error)
            else:
                items.append(_Item(stint, run, row))
    if items:
        yield from _halves(here, items)


def _twice(taken: set[tuple[int, str]], run: Run, row: int) -> bool:
    """Whether the row's message is among those taken; it is from now on."""
    message = (run.sequences[row], run.ids[row])
    found = message in taken
    taken.add(message)
    return found


def _halves(here: Surroundings, items: list[_Item]) -> Calls:
    """Call the handler with these rows; if it raises, with each half, down to the failing row."""
    rows = MessageBatch.gather([(item.run.batch, item.row) for item in items])
    states = States({item.stint.lane.key: item.stint.state for item in items})
    first = items[0]
    context = Context(
        rows,
        0,
        first.stint.attempt(first.run, first.row),
        here.outgoing,
        here.runner.signals,
    )
    first.stint.running = [(item.run, item.row) for item in items]
    result = yield here.runner.batch_arguments(rows, states, context)
    first.stint.running = ()
    if result is STOPPED:
        for item in items:
            item.stint.give_back(item.run, item.row)
        return
    results = _results(result, len(items))
    if isinstance(results, Raised):
        yield from _apart(here, items, results)
    else:
        yield from _settle(here, items, results, context)


def _apart(here: Surroundings, items: list[_Item], raised: Raised) -> Calls:
    """The call raised: find the rows that make it raise, half by half; only they are attempts."""
    for item in items:
        item.stint.undo()
    if len(items) == 1:
        _fail(here, items[0], raised.error)
        return
    middle = len(items) // 2
    yield from _halves(here, items[:middle])
    rest = []
    for item in items[middle:]:
        if item.stint.stopped or here.runner.signals.stopping:
            item.stint.give_back(item.run, item.row)
        else:
            rest.append(item)
    if rest:
        yield from _halves(here, rest)


def _results(result: Any, count: int) -> list[Any] | Raised:
    if isinstance(result, Raised):
        return result
    if isinstance(result, (Retry, Reject)):
        return [result] * count
    if result is None:
        return [None] * count
    if not isinstance(result, (list, tuple)) or len(result) != count:
        rule = f"returns None or a list of {count} results, one a row"
        return Raised(ValidationError("batch handler", rule, result))
    wrong = [one for one in result if one is not None and not isinstance(one, BaseException)]
    if wrong:
        rule = "results are None, Retry(...), Reject(...) or an exception"
        return Raised(ValidationError("batch handler", rule, wrong[0]))
    return list(result)


def _settle(here: Surroundings, items: list[_Item], results: list[Any], context: Context) -> Calls:
    """Per session, rows up to the first that isn't completed count; those behind it come again."""
    groups: dict[Stint, list[int]] = {}
    for at, item in enumerate(items):
        groups.setdefault(item.stint, []).append(at)
    sends: dict[int, list[tuple[str, Message]]] = {}
    for at, queue, message in context.outbox or ():
        sends.setdefault(at, []).append((queue, message))
    for stint, ats in groups.items():
        cut = next((n for n, at in enumerate(ats) if results[at] is not None), len(ats))
        error = _written(here.runner.codec, stint, context) if cut == len(ats) else None
        if error is not None:
            # Which of the rows put it there is found as for a call that raises.
            yield from _apart(here, [items[at] for at in ats], Raised(error))
            continue
        good, bad = ats[:cut], ats[cut:]
        yield from _end_good(
            here, stint, [items[at] for at in good], bool(bad), [sends.get(at, ()) for at in ats]
        )
        _end_bad(here, [items[at] for at in bad], [results[at] for at in bad])


def _end_bad(here: Surroundings, items: list[_Item], results: list[Any]) -> None:
    """The first of a session's rows that isn't completed fails; those behind it were not begun."""
    for at, (item, result) in enumerate(zip(items, results, strict=True)):
        if at == 0 and not item.stint.stopped:
            _fail(here, item, result)
        else:
            item.stint.release(item.run, item.row)


def _end_good(
    here: Surroundings,
    stint: Stint,
    items: list[_Item],
    stops: bool,
    sends: Sequence[Sequence[tuple[str, Message]]],
) -> Calls:
    """A session's rows before the first that isn't completed, if one isn't (`stops`)."""
    if stops:
        stint.undo()
    if stops and items and (here.runner.codec is not None or any(sends)):
        # What the session's rows did together is dropped; the good ones run again alone.
        yield from _halves(here, items)
        return
    for item, sent in zip(items, sends, strict=False):
        stint.success(item.run, item.row)
        stint.send(item.run, item.row, sent)


def _written(codec: StateCodec | None, stint: Stint, context: Context) -> SerializationError | None:
    if codec is None:
        return None
    try:
        stint.write(codec, ended=context.ended)
    except SerializationError as error:
        return error
    return None


def _fail(here: Surroundings, item: _Item, error: BaseException) -> None:
    attempt = item.stint.attempt(item.run, item.row)
    verdict = here.runner.failed(error, attempt)
    item.stint.failure(item.run, item.row, verdict, attempt)
