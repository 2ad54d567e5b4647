"""Opening: on their way from the receiver to the routers, sealed bodies are opened.

Batches are opened side by side, and each goes on when every earlier one that holds one of its
sessions has gone: so a session stays in order, and no batch waits for another's sessions. It owns
that order, and how long a message waits for its key. What a body is, and who opens it, is
`pipeline.crypto`'s; what becomes of a row that can't be opened is decided where it would have been
handled, in its session's order (`pipeline.refusals`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.batch import MessageBatch
from pipeline.errors import KeyNotFound, QueueError
from pipeline.refusals import Refusal
from pipeline.rows import Rows
from pipeline.stages.outgo import Send

if TYPE_CHECKING:
    from pipeline.crypto.rows import OpenedRows, SealedRows

_log = logging.getLogger("queue_runtime.crypto")
_SOONEST = 1.0
_LATEST = 15.0
"""Seconds between two tries to open a body whose key is missing: half of what it has waited."""
_TOLD = 60.0
"""Seconds between two warnings of the same key."""
_MOST_TOLD = 16
"""Keys that are warned of within that time: anybody may write ids of keys into a queue."""


class Opens(Protocol):
    """Opens the bodies of whole batches: in this process, or in the pool's actors."""

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        """Open what is sealed; a row that can't be opened has its error, and stops no other."""


@dataclass(slots=True, eq=False)
class _Job:
    """A batch on its way.

    Args:
        batch: its rows, as they came, then opened.
        rows: their numbers in the ledger.
        alone: whether each of them is run with nothing beside it.
        sessions: those it holds.
        behind: how many earlier batches have to go first.
        followers: those that wait for this one.
        opened: whether it only waits for its turn.
        task: opens it.
    """

    batch: MessageBatch
    rows: Rows
    alone: bool
    sessions: Sequence[str | None]
    behind: int = 0
    followers: list[_Job] = field(default_factory=list)
    opened: bool = False
    task: asyncio.Task[None] = field(init=False)


class Opening:
    """Opens what a receiver sends on.

    Args:
        opener: opens bodies.
        send: where opened rows go.
        may_go: which rows of a batch may still go, by position: their lock is ours, and their
            session's turn goes on.
        give_up: told of rows that don't go: they come back unhandled.
        key_wait: seconds that a message waits for its key.
        fatal: told of a defect after which rows may never end.
    """

    def __init__(
        self,
        opener: Opens,
        send: Send,
        may_go: Callable[[Rows], npt.NDArray[np.bool_]],
        give_up: Send,
        key_wait: float,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._opener = opener
        self._send = send
        self._may_go = may_go
        self._give_up = give_up
        self._key_wait = key_wait
        self._fatal = fatal
        self._jobs: dict[_Job, None] = {}
        self._last: dict[str, _Job] = {}
        # Since when a row waits for its key, by the loop's time: bounded, as rows in hand are.
        self._missing: dict[int, float] = {}
        self._told: dict[str, float] = {}
        self.counts = {"sealed": 0, "plain": 0, "refused": 0}

    def send(self, batch: MessageBatch, rows: Rows, *, alone: bool = False) -> None:
        """Send rows on; bodies that nobody has opened yet are opened first."""
        names, _ = batch.distinct("session")
        job = _Job(batch, rows, alone, names)
        ahead = {self._last[name]: None for name in names if name in self._last}
        job.behind = len(ahead)
        for earlier in ahead:
            earlier.followers.append(job)
        self._last.update((name, job) for name in names if name is not None)
        self._jobs[job] = None
        job.task = asyncio.ensure_future(self._open(job))
        job.task.add_done_callback(self._ended)

    def forget(self, rows: Sequence[int]) -> None:
        """These rows have come to their end."""
        if self._missing:
            for row in rows:
                self._missing.pop(row, None)

    def give_back(self) -> None:
        """A drain: what is here comes back.

        What is sent after that goes its way: of a session that a handler may still be running, only
        a handler's answer tells that it is not (DESIGN law 3 d).
        """
        jobs, self._jobs = list(self._jobs), {}
        self._last.clear()
        for job in jobs:
            job.task.cancel()
        for job in jobs:
            self._give_up(job.batch, job.rows, alone=job.alone)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("opening bodies ended with a defect of the runtime", exc_info=error)
            self._fatal(error)

    # ---------------------------------------------------------------- opening

    async def _open(self, job: _Job) -> None:
        batch = job.batch
        waiting = _unopened(batch)
        if len(waiting) == len(batch):
            opened = await self._opener.open(self._sealed(batch, job.rows))
            job.batch = self._with(batch, job.rows, opened)
        elif len(waiting):
            part = batch.take(waiting)
            opened = await self._opener.open(self._sealed(part, job.rows[waiting]))
            part = self._with(part, job.rows[waiting], opened)
            done = np.setdiff1d(np.arange(len(batch)), waiting, assume_unique=True)
            order = np.argsort(np.concatenate([waiting, done]))
            job.batch = MessageBatch.concat([part, batch.take(done)]).take(order)
        job.opened = True
        self._go(job)

    def _sealed(self, batch: MessageBatch, rows: Rows) -> SealedRows:
        """What is to be opened, and how long it has waited for its key."""
        from pipeline.crypto.rows import SealedRows  # where cryptography is off, it may be missing

        if not self._missing:
            return SealedRows.of(batch)
        now = asyncio.get_running_loop().time()
        waited = [now - self._missing.get(row, now) for row in rows.tolist()]
        return SealedRows.of(batch, waited)

    def _go(self, job: _Job) -> None:
        """Send the batch on if it is its turn, and those that waited for it."""
        ready = deque([job])  # there may be thousands: no call inside a call for each
        while ready:
            job = ready.popleft()
            if not job.opened or job.behind or job not in self._jobs:
                continue
            del self._jobs[job]
            for name in job.sessions:
                if name is not None and self._last.get(name) is job:
                    del self._last[name]
            self._pass_on(job)
            for follower in job.followers:
                follower.behind -= 1
            ready.extend(job.followers)

    def _pass_on(self, job: _Job) -> None:
        may_go = self._may_go(job.rows)
        if may_go.all():
            self._send(job.batch, job.rows, alone=job.alone)
            return
        going, staying = np.flatnonzero(may_go), np.flatnonzero(~may_go)
        self._give_up(job.batch.take(staying), job.rows[staying], alone=job.alone)
        if len(going):
            self._send(job.batch.take(going), job.rows[going], alone=job.alone)

    def _with(self, batch: MessageBatch, rows: Rows, opened: OpenedRows) -> MessageBatch:
        """The rows as they were opened."""
        counts = self.counts
        counts["sealed"] += opened.sealed
        counts["plain"] += opened.plain
        if self._missing:
            self.forget([row for at, row in enumerate(rows.tolist()) if at not in opened.errors])
        if not opened.errors and batch.column("refused").null_count == len(batch):
            return batch.replacing({"body": opened.bodies, "nonce": opened.nonces})
        refused: list[str | None] = [None] * len(batch)
        nonces = opened.nonces.to_pylist()
        for place, error in opened.errors.items():
            refusal = self._judge(int(rows[place]), error)
            refused[place] = refusal.text()
            if refusal.retry is not None:
                nonces[place] = None  # to be opened when it comes here again
                counts["sealed"] -= 1
        return batch.replacing({"body": opened.bodies}).with_columns(nonce=nonces, refused=refused)

    def _judge(self, row: int, error: QueueError) -> Refusal:
        """Whether a row that can't be opened is tried again."""
        if not isinstance(error, KeyNotFound):
            self.counts["refused"] += 1
            return Refusal(error)
        now = asyncio.get_running_loop().time()
        waited = now - self._missing.setdefault(row, now)
        left = self._key_wait - waited
        if left <= 0:
            self.counts["refused"] += 1
            return Refusal(error)
        self._tell(error, now)
        return Refusal(error, min(max(waited / 2, _SOONEST), _LATEST, left))

    def _tell(self, error: KeyNotFound, now: float) -> None:
        if now - self._told.get(error.key_id, -_TOLD) < _TOLD:
            return
        self._told = {key: at for key, at in self._told.items() if now - at < _TOLD}
        if len(self._told) >= _MOST_TOLD:
            return
        self._told[error.key_id] = now
        _log.warning("messages wait up to %g s for their key: %s", self._key_wait, error)


def _unopened(batch: MessageBatch) -> Rows:
    """The rows whose bodies nobody has opened yet."""
    nonces = batch.column("nonce")
    if nonces.null_count == len(batch):
        return np.arange(len(batch))
    return np.flatnonzero(nonces.is_null().to_numpy(zero_copy_only=False))
