"""The user's handler in a simulation: does with each message what the plan says, in four kinds.

Its state is the list of the positions that had their effect: what must be each once, in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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


def handler_of(kind: str, journal: Journal, kill: Kill) -> Handler:
    """A handler of a kind: async or sync, single or batch."""
    make = {"async": _single, "sync": _sync, "async batch": _batch, "sync batch": _sync_batch}
    made: Handler = make[kind](journal, kill)
    return made


def _result(fate: Fate, attempt: int) -> BaseException | None:
    what = fate.at(attempt)
    if what in ("fails", "hopeless"):
        return ConnectionFailed(what)
    if what == "retry":
        return Retry(fate.seconds)
    return Reject("no") if what == "reject" else None


def _deadly(fate: Fate, attempt: int) -> bool:
    return fate.at(attempt) in ("kills", "poison")


def _process() -> Process:
    process = CURRENT.get()
    assert process is not None
    return process


def _start(journal: Journal, body: str, state: list[int], context: Context) -> tuple[Any, ...]:
    """Begin one message: (its run, its fate); no run when the process is dead."""
    session, position = place = place_of(body)
    holding: int = context._batch.values("holding")[context._row]  # the fence counts turns too
    run = journal.begin(_process(), session, [(position, context.attempt)], holding)
    fate = journal.plan.fates[place]
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


def _single(journal: Journal, kill: Kill) -> Handler:
    @handler(state=list)
    async def one(body: str, state: list[int], context: Context) -> Any:
        run, fate = _start(journal, body, state, context)
        if run is None:
            return None
        try:
            if fate.seconds and fate.kind != "retry":
                await asyncio.sleep(fate.seconds)
            if _deadly(fate, context.attempt):
                kill(run.process)
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            journal.end(run, 0)
            raise
        return _finish(journal, run, fate, context.attempt)

    return one


def _sync(journal: Journal, kill: Kill) -> Handler:
    @handler(state=list)
    def one(body: str, state: list[int], context: Context) -> Any:
        run, fate = _start(journal, body, state, context)
        if run is None:
            return None
        if _deadly(fate, context.attempt):
            kill(run.process)
            return None
        return _finish(journal, run, fate, context.attempt)

    return one


class _Rows:
    """The rows of one call of a batch handler."""

    def __init__(self, journal: Journal, rows: MessageBatch, states: States) -> None:
        self.journal = journal
        self.places = [place_of(delivery.body) for delivery in rows]
        self.attempts = [journal.attempts[place] + 1 for place in self.places]
        self.fates = [journal.plan.fates[place] for place in self.places]
        self.runs: dict[str, Runs | None] = {}
        holdings = rows.values("holding")
        for session in dict.fromkeys(session for session, _ in self.places):
            mine = [at for at, place in enumerate(self.places) if place[0] == session]
            self.runs[session] = journal.begin(
                _process(),
                session,
                [(self.places[at][1], self.attempts[at]) for at in mine],
                holdings[mine[0]],
            )
        for session, position in self.places:
            states[session].append(position)

    @property
    def dead(self) -> bool:
        return None in self.runs.values()

    @property
    def deadly(self) -> bool:
        return any(map(_deadly, self.fates, self.attempts))

    def send(self, context: Context) -> None:
        for row, (fate, (session, position)) in enumerate(
            zip(self.fates, self.places, strict=True)
        ):
            if fate.sends:
                message = Message(f"{session}:{position}".encode(), session=session)
                context.send(TARGET, message, row=row)

    def cancelled(self) -> None:
        for run in self.runs.values():
            if run is not None:
                self.journal.end(run, 0)

    def finish(self) -> list[Any]:
        results = list(map(_result, self.fates, self.attempts))
        raises = next((at for at, fate in enumerate(self.fates) if self._raises(at, fate)), None)
        for session, run in self.runs.items():
            assert run is not None
            mine = [at for at, place in enumerate(self.places) if place[0] == session]
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


def _batch(journal: Journal, kill: Kill) -> Handler:
    @handler(state=list, batch=True)
    async def many(rows: MessageBatch, states: States, context: Context) -> Any:
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
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            all_.cancelled()
            raise
        return all_.finish()

    return many


def _sync_batch(journal: Journal, kill: Kill) -> Handler:
    @handler(state=list, batch=True)
    def many(rows: MessageBatch, states: States, context: Context) -> Any:
        all_ = _Rows(journal, rows, states)
        if all_.dead:
            return None
        all_.send(context)
        if all_.deadly:
            kill(_process())
            return None
        return all_.finish()

    return many
