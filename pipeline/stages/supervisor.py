"""The supervisor: looks after the actors of all pipelines and says when the work is done.

A plain object in the driver's process: it owns what the actors say of themselves, added up, the
decision that one has to be replaced, the decision that everything is empty, and the order to drain.
How an actor is made and called is the runtime's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from pipeline.errors import ConfigurationError, ProviderError, QueueError
from pipeline.providers.port import Depth
from pipeline.retry import RetryPolicy
from pipeline.stages.calls import ProcessDied, RunRow
from pipeline.stages.drain import (
    Drained,
    HandlerControl,
    Limits,
    ReceiverControl,
    RouterControl,
    drain,
)
from pipeline.telemetry.counters import Histogram, add_up

_log = logging.getLogger("queue_runtime.supervisor")
_PATIENCE = 1.0
"""Seconds that one look waits for answers; who needs longer is asked about in the next."""
_AGAIN = RetryPolicy(3, 1.0, 30.0, 2.0)
"""How long to wait until a replacement that could not be had is tried again."""
_PATCHED = 60.0
"""Seconds for which a configuration that is wrong now is tried all the same: it was right."""
_NOW = {"in_hand", "bytes_in_hand", "sessions", "waiting", "running", "unsent", "empty_receives"}
"""Figures that say how it is and not what has happened: they end with their process."""


def _is_now(name: str) -> bool:
    return name in _NOW or name.endswith("_in_use")


@dataclass(frozen=True, slots=True)
class Said:
    """What one actor says of itself.

    Args:
        counts: its counters.
        error: why it can't go on, if it can't.
        latency: of a receiver, its histogram's counts.
        paused: why it waits, if it does: for a state store that does not work.
        overdue: of a handler, what has run for so long that its process must end.
        breakers: of a connection, by direction: the breaker's state, and since when it is not
            closed, in seconds since 1970.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    error: str | None = None
    latency: Sequence[int] | None = None
    paused: str | None = None
    overdue: Sequence[RunRow] = ()
    breakers: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)


class Watched(Protocol):
    """The place of an actor, as the supervisor watches it."""

    @property
    def name(self) -> str:
        """What errors call it."""

    async def stats(self) -> Said:
        """Ask who is there; `ProcessDied` when it is dead, `QueueError` when nothing is known."""

    async def replace(self) -> None:
        """End who is there, if it isn't dead, and put a new one there, known to its neighbours.

        May be repeated when it failed. `ConfigurationError` when it can't succeed as things are.
        """


class WatchedReceiver(Watched, ReceiverControl, Protocol):
    """A receiver."""


class WatchedRouter(Watched, RouterControl, Protocol):
    """A router."""


class WatchedHandler(Watched, HandlerControl, Protocol):
    """A handler."""

    async def blame(self, rows: Sequence[RunRow]) -> None:
        """Its process is about to be ended because of these rows: tell who will miss them."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The actors of one pipeline.

    Args:
        queue: the queue it reads.
        exact_depth: whether that queue's depth is a count or a guess.
        receivers: by number.
        routers: by number.
        handlers: by number.
    """

    queue: str
    exact_depth: bool
    receivers: Sequence[WatchedReceiver]
    routers: Sequence[WatchedRouter]
    handlers: Sequence[WatchedHandler]


@dataclass(slots=True)
class Figures:
    """One pipeline at one moment.

    Args:
        receivers: their counters, added up; those of actors that were replaced count on.
        routers: the same.
        handlers: the same.
        depth: what its queue holds.
        latency: seconds from enqueued to settled.
        replaced: how many actors have been replaced.
        missing: which actors don't work just now, and why: they are being replaced, or wait.
        errors: which actors can't go on, and why.
        idle: whether every receiver has asked twice in a row and got nothing.
    """

    receivers: dict[str, int] = field(default_factory=dict)
    routers: dict[str, int] = field(default_factory=dict)
    handlers: dict[str, int] = field(default_factory=dict)
    depth: Depth = field(default_factory=Depth)
    latency: Histogram = field(default_factory=Histogram)
    replaced: int = 0
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    idle: bool = False


@dataclass(slots=True)
class Shared:
    """What all pipelines of a run share, at one moment: its connections, and the crypto pool.

    Args:
        breakers: by connection and direction: the state, and since when it is not closed.
        counts: the counters of the crypto pool, added up.
        replaced: how many of their actors have been replaced.
        missing: which don't work just now, and why.
        errors: which can't go on, and why.
    """

    breakers: dict[str, Mapping[str, tuple[str, float | None]]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    replaced: int = 0
    missing: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


class Supervisor:
    """Watches, replaces and drains.

    Args:
        pipelines: their actors by name.
        depth: asks how much a queue holds.
        limits: how long the steps of a drain may take.
        answer: seconds after which an actor that does not answer is ended and replaced.
        connections: the actors of the connections, by the connection's name.
        pool: the crypto actors.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Parts],
        depth: Callable[[str], Awaitable[Depth]],
        limits: Limits,
        answer: float = 30.0,
        connections: Mapping[str, Watched] | None = None,
        pool: Sequence[Watched] = (),
    ) -> None:
        self._pipelines = pipelines
        self._depth = depth
        self._limits = limits
        self._posts = {
            name: _Posts(
                [_Post(actor, answer) for actor in parts.receivers],
                [_Post(actor, answer) for actor in parts.routers],
                [_Post(actor, answer, actor.blame) for actor in parts.handlers],
            )
            for name, parts in pipelines.items()
        }
        shared = connections or {}
        self._connections = {name: _Post(actor, answer) for name, actor in shared.items()}
        self._pool = [_Post(actor, answer) for actor in pool]

    async def look(self) -> dict[str, Figures]:
        """Ask every actor and every queue; who is dead or stuck is replaced from here on."""
        names = list(self._pipelines)
        shared = _ask([*self._connections.values(), *self._pool])
        looks, _ = await asyncio.gather(asyncio.gather(*map(self._look, names)), shared)
        return dict(zip(names, looks, strict=True))

    @property
    def shared(self) -> Shared:
        """What pipelines share, as it was at the last look."""
        shared = Shared(counts=add_up(post.counts for post in self._pool))
        for name, post in self._connections.items():
            shared.breakers[name] = post.breakers
        for post in (*self._connections.values(), *self._pool):
            shared.replaced += post.replaced
            shared.missing += post.missing
            shared.errors += post.errors
        return shared

    async def _look(self, name: str) -> Figures:
        parts, posts = self._pipelines[name], self._posts[name]
        await _ask(list(posts))
        figures = Figures()
        figures.receivers = add_up(post.counts for post in posts.receivers)
        figures.routers = add_up(post.counts for post in posts.routers)
        figures.handlers = add_up(post.counts for post in posts.handlers)
        figures.idle = all(post.counts.get("empty_receives", 0) > 1 for post in posts.receivers)
        for post in posts.receivers:
            figures.latency.merge(post.latency)
        for post in posts:
            figures.replaced += post.replaced
            figures.missing += post.missing
            figures.errors += post.errors
        # After the actors: what they had in hand a moment ago is then in one of the two.
        try:
            figures.depth = await self._depth(parts.queue)
        except QueueError as error:
            told = f"queue {parts.queue}: {error}"
            # What nobody has a name for says nothing of receives: they go on without a depth.
            unclear = error.transient or isinstance(error, ProviderError)
            gone = isinstance(error, ProcessDied) or not unclear
            (figures.errors if gone else figures.missing).append(told)
        return figures

    def empty(self, look: Mapping[str, Figures]) -> bool:
        """Whether nothing is queued, scheduled, held for a retry or in hand anywhere.

        Not while somebody did not answer: what it holds isn't known.
        One look is not enough where a handler sends to another pipeline's queue: a message may have
        gone over between two questions. Ask for two looks in a row.
        """
        return all(self._is_empty(self._pipelines[name], figures) for name, figures in look.items())

    def _is_empty(self, parts: Parts, figures: Figures) -> bool:
        counts, depth = figures.receivers, figures.depth
        if figures.errors or figures.missing:
            return False
        if counts.get("in_hand", 0) or figures.handlers.get("unsent", 0):
            return False
        if depth.available or depth.in_hand or depth.scheduled:
            return False
        if depth.oldest_age is not None:  # where nothing is counted: there is one, maybe locked
            return False
        return parts.exact_depth or figures.idle  # a guess alone proves nothing

    async def drain(self) -> Drained:
        """Drain every pipeline, all at once; nobody is replaced any more."""
        for post in (*self._connections.values(), *self._pool, *chain(*self._posts.values())):
            await post.stop()
        reports = await asyncio.gather(
            *(
                drain(parts.receivers, parts.routers, parts.handlers, self._limits)
                for parts in self._pipelines.values()
            )
        )
        total = Drained()
        for report in reports:
            total.left += report.left
            total.unknown += report.unknown
            total.killed += report.killed
            total.errors += report.errors
            total.steps = report.steps
        return total


@dataclass(frozen=True, slots=True)
class _Posts:
    """The places of one pipeline."""

    receivers: Sequence[_Post]
    routers: Sequence[_Post]
    handlers: Sequence[_Post]

    def __iter__(self) -> Iterator[_Post]:
        return iter((*self.receivers, *self.routers, *self.handlers))


class _Post:
    """One place: who is there, what it said last, and whether it has to be replaced.

    Args:
        actor: the place.
        limit: seconds without an answer after which who is there is given up.
        blame: of a handler, told which rows it is ended for.
    """

    def __init__(
        self,
        actor: Watched,
        limit: float,
        blame: Callable[[Sequence[RunRow]], Awaitable[None]] | None = None,
    ) -> None:
        self._actor = actor
        self._limit = limit
        self._blame = blame
        self._said = Said()
        self._before: dict[str, int] = {}
        self._heard_at: float | None = None
        self._silence = ""
        self._replacing: asyncio.Task[None] | None = None
        self._lost: str | None = None
        self._stopped = False
        self.asked: asyncio.Task[Said] | None = None
        self._latency_before = Histogram()
        self.replaced = 0

    @property
    def counts(self) -> dict[str, int]:
        """What who is there has counted, and those that were there before."""
        return add_up((self._before, self._said.counts))

    @property
    def latency(self) -> Histogram:
        """The same for its latencies."""
        merged = Histogram(self._latency_before.counts)
        if self._said.latency is not None:
            merged.merge(Histogram(self._said.latency))
        return merged

    @property
    def missing(self) -> list[str]:
        """Why it does not work just now, if it doesn't."""
        why = self._silence or self._said.paused
        return [f"{self._actor.name}: {why}"] if why else []

    @property
    def breakers(self) -> Mapping[str, tuple[str, float | None]]:
        """Of a connection, what it said of its breakers."""
        return self._said.breakers

    @property
    def errors(self) -> list[str]:
        """Why it can't go on, if it can't."""
        why = self._lost or self._said.error
        return [f"{self._actor.name}: {why}"] if why else []

    def ask(self, now: float) -> None:
        """Ask who is there, unless it was asked already or is being replaced."""
        if self._heard_at is None:
            self._heard_at = now
        if self.asked is None and self._replacing is None:
            self.asked = asyncio.ensure_future(self._actor.stats())

    def hear(self, now: float) -> None:
        """What was asked may have been answered: note it, and do what follows."""
        if self._replacing is not None or self.asked is None:
            return
        if self.asked.done():
            asked, self.asked = self.asked, None
            self._judge(asked, now)
        else:
            self._silence = "does not answer"
        heard_at = now if self._heard_at is None else self._heard_at
        if self._silence and now - heard_at >= self._limit:
            self._replace(f"did not answer for {self._limit:g} s", ())

    def _judge(self, asked: asyncio.Task[Said], now: float) -> None:
        try:
            self._said = asked.result()
        except ProcessDied as error:
            self._replace(str(error), ())
        except QueueError as error:
            self._silence = str(error)
        else:
            self._heard_at = now
            self._silence = ""
            if self._said.overdue:
                self._replace("ran a message for longer than its time-out", self._said.overdue)

    def _replace(self, why: str, rows: Sequence[RunRow]) -> None:
        if self._stopped or self._replacing is not None:
            return
        if self.asked is not None:
            self.asked.cancel()
            self.asked = None
        self._silence = f"is being replaced: it {why}" if rows else f"is being replaced: {why}"
        _log.warning("%s %s", self._actor.name, self._silence)
        said, self._said = self._said, Said()
        kept = {name: count for name, count in said.counts.items() if not _is_now(name)}
        self._before = add_up((self._before, kept))
        if said.latency is not None:
            self._latency_before.merge(Histogram(said.latency))
        self._replacing = asyncio.ensure_future(self._until_replaced(rows))

    async def _until_replaced(self, rows: Sequence[RunRow]) -> None:
        attempt = 0
        loop = asyncio.get_running_loop()
        last = loop.time() + _PATCHED
        while True:
            try:
                if rows and self._blame is not None:
                    await self._blame(rows)
                await self._actor.replace()
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody has to hear of it
                _log.error("%s: no replacement yet: %s", self._actor.name, error)
                # What was right when the run began may be so again: a file of keys that is being
                # replaced, a secret that is being rotated.
                wrong = isinstance(error, ConfigurationError) and loop.time() >= last
                if wrong or not isinstance(error, QueueError):
                    self._lost = f"can't be replaced: {type(error).__name__}: {error}"
                    return
                attempt += 1
                await asyncio.sleep(_AGAIN.delay(min(attempt, 30), 1.0))
            else:
                break
        _log.warning("%s was replaced", self._actor.name)
        self.replaced += 1
        self._silence = ""
        self._heard_at = None
        self._replacing = None

    async def stop(self) -> None:
        """Nobody is replaced here any more."""
        self._stopped = True
        for task in (self._replacing, self.asked):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._replacing = self.asked = None


async def _ask(posts: Sequence[_Post]) -> None:
    """Ask all, and hear those that answer soon."""
    loop = asyncio.get_running_loop()
    for post in posts:
        post.ask(loop.time())
    asked = [post.asked for post in posts if post.asked is not None]
    if asked:
        await asyncio.wait(asked, timeout=_PATIENCE)
    for post in posts:
        post.hear(loop.time())
