"""Killing the processes of a run at chosen moments, by SIGKILL to their pid, from within.

A process is armed through a call to its actor: it watches for its moment, and when that comes with
enough rows in hand, writes down how many, and kills itself as nothing else would: no handler of a
signal, no `finally`, no flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.exceptions import RayActorError

from actors.runtime import Runtime

LEAST = 100
"""Rows that a process must have in hand when it is killed."""
_PATIENCE = 90.0


def _handler_running(actor: Any, strike: Callable[[int], None]) -> None:
    runner = actor._core._runner
    call = runner.call

    async def run(*given: Any) -> Any:
        strike(_in_hand(actor))
        return await call(*given)

    runner.call = run


def _handler_before_commit(actor: Any, strike: Callable[[int], None]) -> None:
    store = actor._core._store
    commit = store.commit

    async def write(changes: Any) -> Any:
        strike(_in_hand(actor))
        return await commit(changes)

    store.commit = write


def _handler_after_commit(actor: Any, strike: Callable[[int], None]) -> None:
    store = actor._core._store
    commit = store.commit

    async def write(changes: Any) -> Any:
        answers = await commit(changes)
        strike(_in_hand(actor))
        return answers

    store.commit = write


def _router_taking(actor: Any, strike: Callable[[int], None]) -> None:
    reception = actor._core._reception
    take_in = reception._take_in

    def take(header: Any, batch: Any) -> Any:
        book = take_in(header, batch)
        strike(_in_hand(actor))
        return book

    reception._take_in = take


def _router_answering(actor: Any, strike: Callable[[int], None]) -> None:
    core = actor._core
    stamped = core._stamped

    def stamp(part: Any) -> Any:
        if len(part.completed):
            strike(_in_hand(actor) + len(part.completed))
        return stamped(part)

    core._stamped = stamp


def _receiver_taking(actor: Any, strike: Callable[[int], None]) -> None:
    core = actor._core
    receive = core._source.receive

    async def bring(want: Any) -> Any:
        received = await receive(want)
        strike(core._ledger.open + len(received.batch))
        return received

    core._source.receive = bring


def _receiver_before_settle(actor: Any, strike: Callable[[int], None]) -> None:
    core = actor._core
    complete = core._source.complete

    async def settle(receipts: Any) -> Any:
        strike(core._ledger.open)
        return await complete(receipts)

    core._source.complete = settle


def _receiver_after_settle(actor: Any, strike: Callable[[int], None]) -> None:
    core = actor._core
    complete = core._source.complete

    async def settle(receipts: Any) -> Any:
        failures = await complete(receipts)
        strike(core._ledger.open)
        return failures

    core._source.complete = settle


def _crypto_taking(actor: Any, strike: Callable[[int], None]) -> None:
    opened = actor._bodies.open

    async def open_rows(rows: Any, *, fresh: bool) -> Any:
        strike(len(rows))
        return await opened(rows, fresh=fresh)

    actor._bodies.open = open_rows


def _crypto_answering(actor: Any, strike: Callable[[int], None]) -> None:
    opened = actor._bodies.open

    async def open_rows(rows: Any, *, fresh: bool) -> Any:
        answer = await opened(rows, fresh=fresh)
        strike(len(rows))
        return answer

    actor._bodies.open = open_rows


MOMENTS = {
    "handler": {
        "while a row runs": _handler_running,
        "handled, not committed": _handler_before_commit,
        "committed, no outcome": _handler_after_commit,
    },
    "router": {
        "rows taken in": _router_taking,
        "outcomes known, not handed on": _router_answering,
    },
    "receiver": {
        "rows received": _receiver_taking,
        "outcomes known, not settled": _receiver_before_settle,
        "settled, not known to be": _receiver_after_settle,
    },
    "crypto": {
        "a batch taken in": _crypto_taking,
        "opened, not answered": _crypto_answering,
    },
}
"""Kind of actor to the moments at which it can be killed."""


def _in_hand(actor: Any) -> int:
    books = actor._core._reception._books.values()
    return sum(book.open for calls in books for book in calls.values())


def arm(actor: Any, kind: str, moment: str, note: str, least: int) -> None:
    """In the actor's process: kill it at the moment, once it has enough rows in hand."""

    def strike(rows: int) -> None:
        if rows >= least:
            Path(note).write_text(f"{os.getpid()} {rows}")
            os.kill(os.getpid(), signal.SIGKILL)

    MOMENTS[kind][moment](actor, strike)


async def kill(
    runtime: Runtime, kind: str, number: int, moment: str, note: Path, least: int = LEAST
) -> int:
    """Kill one process of a run, and wait until another one has its place.

    Args:
        runtime: the run.
        kind: of process.
        number: which one of them.
        moment: at which it is killed.
        note: a file for what it had in hand.
        least: rows that it must have in hand.

    Returns:
        How many rows it had in hand.
    """
    crew = runtime._actors["flights"]
    places = {
        "handler": crew.handlers,
        "router": crew.routers,
        "receiver": crew.receivers,
        "crypto": [] if runtime._shared is None else runtime._shared.pool,
    }
    place: Any = places[kind][number]
    before = place.process.pid
    with contextlib.suppress(RayActorError):  # it may die before it can say that it is armed
        await place.actor.__ray_call__.remote(arm, kind, moment, str(note), least)
    async with asyncio.timeout(_PATIENCE):
        while place.process is None or place.process.pid == before:
            await runtime.next_look()
    pid, rows = _taken(note)
    assert pid == before, "it was another process that died"
    assert rows >= least
    assert place.process.pid != before
    return rows


def _taken(note: Path) -> tuple[int, int]:
    pid, rows = note.read_text().split()
    note.unlink()
    return int(pid), int(rows)
