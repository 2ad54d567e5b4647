"""The user's handler in a simulation: does with each message what the plan says, in four kinds.

Its state is the list of the positions that had their effect: what must be each once, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.batch import MessageBatch
from pipeline.errors import ConnectionFailed
from pipeline.handlers.api import Context, Handler, Reject, Retry, States, handler
from pipeline.message import Message
from tests.simulation.journal import Journal, Runs, place_of
from tests.simulation.plan import Fate
from tests.simulation.processes import CURRENT, Process

TARGET = "target"
Kill = Callable[[Process], None]
Hold = Callable[[Process], None]


def handler_of(kind: str, journal: Journal, kill: Kill, hold: Hold) -> Handler:
    """A handler of a kind: async or sync, single or batch; with a state where there is order.

    Args:
        kind: a kind of the plan.
        journal: told of what it does.
        kill: ends the process that it runs in.
        hold: returns when that process is dead.
    """
    call: Any = {
        "async": partial(_single, journal, kill),
        "sync": partial(_sync, journal, kill, hold),
        "async batch": partial(_batch, journal, kill),
        "sync batch": partial(_sync_batch, journal, kill, hold),
    }[kind]()
    batch = kind.endswith("batch")
    if journal.plan.ordered:
        return handler(state=list, batch=batch)(call)
    # As the start of a run has it: a state needs sessions in order.
    bare: Any = partial(call, states=None) if batch else partial(call, state=None)
    bare.__qualname__ = kind
    return handler(batch=batch)(bare)


def _result(fate: Fate, attempt: int) -> BaseException | None:
    what = fate.at(attempt)
    if what in ("fails", "hopeless"):
        return ConnectionFailed(what)
    if what == "retry":
        return Retry(fate.seconds)
    return Reject("no") if what == "reject" else None


def _deadly(fate: Fate, attempt: int) -> bool:
    return fate.at(attempt) in ("kills", "poison")


def _endless(fate: Fate, attempt: int) -> bool:
    return fate.at(attempt) == "endless"


def _process() -> Process:
    process = CURRENT.get()
    assert process is not None
    return process


def _start(
    journal: Journal, body: str, state: list[int] | None, context: Context
) -> tuple[Any, ...]:
    """Begin one message: (its run, its fate); no run when the process is dead."""
    session, position = place = place_of(body)
    holding: int = context._batch.values("holding")[context._row]  # the fence counts turns too
    run = journal.begin(_process(), session, [(position, context.attempt)], holding)
    fate = journal.plan.fates[place]
    if state is not None:
        state.append(position)
    if fate.sends:
        context.send(TARGET, Message(body.encode(), session=session))
    return run, fate


def _finish(journal: Journal, run: Runs, fate: Fate, attempt: int) -> BaseException | None:
    result = _result(fate, attempt)
    journal.end(run, result is None, failed=None if result is None else 0)
    if fate.at(attempt) == "fails":
        raise result or AssertionError
    return result


def _single(journal: Journal, kill: Kill) -> Any:
    async def one(body: str, context: Context, state: list[int] | None) -> Any:
        run, fate = _start(journal, body, state, context)
        if run is None:
            return None
        try:
            if fate.seconds and fate.kind != "retry":
                await asyncio.sleep(fate.seconds)
            if _deadly(fate, context.attempt):
                kill(run.process)
            if _deadly(fate, context.attempt) or _endless(fate, context.attempt):
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            journal.end(run, 0, failed=0)
            raise
        return _finish(journal, run, fate, context.attempt)

    return one


def _sync(journal: Journal, kill: Kill, hold: Hold) -> Any:
    def one(body: str, context: Context, state: list[int] | None) -> Any:
        run, fate = _start(journal, body, state, context)
        if run is None:
            return None
        if _deadly(fate, context.attempt):
            kill(run.process)
            return None
        if _endless(fate, context.attempt):
            hold(run.process)
            return None
        return _finish(journal, run, fate, context.attempt)

    return one


class _Rows:
    """The rows of one call of a batch handler.

    Those of a session go together, where there is order; else each is on its own.
    """

    def __init__(self, journal: Journal, rows: MessageBatch, states: States | None) -> None:
        self.journal = journal
        self.places = [place_of(delivery.body) for delivery in rows]
        self.attempts = [journal.attempts[place] + 1 for place in self.places]
        self.fates = [journal.plan.fates[place] for place in self.places]
        self.runs: list[tuple[list[int], Runs | None]] = []
        holdings = rows.values("holding")
        for mine in self._together(ordered=journal.plan.ordered):
            run = journal.begin(
                _process(),
                self.places[mine[0]][0],
                [(self.places[at][1], self.attempts[at]) for at in mine],
                holdings[mine[0]],
            )
            self.runs.append((mine, run))
        if states is not None:
            for session, position in self.places:
                states[session].append(position)

    def _together(self, *, ordered: bool) -> list[list[int]]:
        groups: dict[object, list[int]] = {}
        for at, (session, _) in enumerate(self.places):
            groups.setdefault(session if ordered else at, []).append(at)
        return list(groups.values())

    @property
    def dead(self) -> bool:
        return any(run is None for _, run in self.runs)

    @property
    def deadly(self) -> bool:
        return any(map(_deadly, self.fates, self.attempts))

    @property
    def endless(self) -> bool:
        return any(map(_endless, self.fates, self.attempts))

    def send(self, context: Context) -> None:
        for row, (fate, (session, position)) in enumerate(
            zip(self.fates, self.places, strict=True)
        ):
            if fate.sends:
                message = Message(f"{session}:{position}".encode(), session=session)
                context.send(TARGET, message, row=row)

    def cancelled(self) -> None:
        for _, run in self.runs:
            if run is not None:
                self.journal.end(run, 0, failed=0 if len(self.places) == 1 else None)

    def finish(self) -> list[Any]:
        results = list(map(_result, self.fates, self.attempts))
        raises = next((at for at, fate in enumerate(self.fates) if self._raises(at, fate)), None)
        for mine, run in self.runs:
            assert run is not None
            bad = next((n for n, at in enumerate(mine) if results[at] is not None), None)
            if raises is not None:
                self.journal.end(run, 0, failed=0 if len(self.places) == 1 else None)
            elif bad is not None:
                self.journal.end(run, 0, failed=bad)
            else:
                self.journal.end(run, len(mine))
        if raises is not None:
            raise results[raises] or AssertionError
        return results

    def _raises(self, at: int, fate: Fate) -> bool:
        return fate.at(self.attempts[at]) == "fails"


def _batch(journal: Journal, kill: Kill) -> Any:
    async def many(rows: MessageBatch, context: Context, states: States | None) -> Any:
        all_ = _Rows(journal, rows, states)
        if all_.dead:
            return None
        all_.send(context)
        try:
            await asyncio.sleep(
                max(fate.seconds for fate in all_.fates if fate.kind != "retry")
                if any(fate.kind != "retry" for fate in all_.fates)
                else 0
            )
            if all_.deadly:
                kill(_process())
            if all_.deadly or all_.endless:
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            all_.cancelled()
            raise
        return all_.finish()

    return many


def _sync_batch(journal: Journal, kill: Kill, hold: Hold) -> Any:
    def many(rows: MessageBatch, context: Context, states: States | None) -> Any:
        all_ = _Rows(journal, rows, states)
        if all_.dead:
            return None
        all_.send(context)
        if all_.deadly:
            kill(_process())
            return None
        if all_.endless:
            hold(_process())
            return None
        return all_.finish()

    return many
