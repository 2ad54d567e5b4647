"""The supervisor: looks after the actors of all pipelines and says when the work is done.

A plain object in the driver's process: it owns what the actors say of themselves, added up, the
decision that everything is empty, and the order to drain. How an actor is made and called is the
runtime's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.errors import QueueError
from pipeline.providers.port import Depth
from pipeline.stages.drain import (
    Drained,
    HandlerControl,
    Limits,
    ReceiverControl,
    RouterControl,
    drain,
)
from pipeline.telemetry.counters import Histogram, add_up


@dataclass(frozen=True, slots=True)
class Said:
    """What one actor says of itself.

    Args:
        counts: its counters.
        error: why it can't go on, if it can't.
        latency: of a receiver, its histogram's counts.
    """

    counts: Mapping[str, int]
    error: str | None = None
    latency: Sequence[int] | None = None


class Watched(Protocol):
    """An actor as the supervisor watches it."""

    @property
    def name(self) -> str:
        """What errors call it."""

    async def stats(self) -> Said:
        """Ask it; `QueueError` when it does not answer."""


class WatchedReceiver(Watched, ReceiverControl, Protocol):
    """A receiver."""


class WatchedRouter(Watched, RouterControl, Protocol):
    """A router."""


class WatchedHandler(Watched, HandlerControl, Protocol):
    """A handler."""


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
        receivers: their counters, added up.
        routers: the same.
        handlers: the same.
        depth: what its queue holds.
        latency: seconds from enqueued to settled.
        errors: which actors can't go on, and why.
    """

    receivers: dict[str, int] = field(default_factory=dict)
    routers: dict[str, int] = field(default_factory=dict)
    handlers: dict[str, int] = field(default_factory=dict)
    depth: Depth = field(default_factory=Depth)
    latency: Histogram = field(default_factory=Histogram)
    errors: list[str] = field(default_factory=list)


class Supervisor:
    """Watches and drains.

    Args:
        pipelines: their actors by name.
        depth: asks how much a queue holds.
        limits: how long the steps of a drain may take.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Parts],
        depth: Callable[[str], Awaitable[Depth]],
        limits: Limits,
    ) -> None:
        self._pipelines = pipelines
        self._depth = depth
        self._limits = limits

    async def look(self) -> dict[str, Figures]:
        """Ask every actor and every queue."""
        names = list(self._pipelines)
        looks = await asyncio.gather(*(self._look(self._pipelines[name]) for name in names))
        return dict(zip(names, looks, strict=True))

    async def _look(self, parts: Parts) -> Figures:
        figures = Figures()
        receivers, routers, handlers = await asyncio.gather(
            _ask(parts.receivers, figures.errors),
            _ask(parts.routers, figures.errors),
            _ask(parts.handlers, figures.errors),
        )
        figures.receivers = add_up(said.counts for said in receivers)
        figures.routers = add_up(said.counts for said in routers)
        figures.handlers = add_up(said.counts for said in handlers)
        for said in receivers:
            if said.latency is not None:
                figures.latency.merge(Histogram(said.latency))
        # After the actors: what they had in hand a moment ago is then in one of the two.
        try:
            figures.depth = await self._depth(parts.queue)
        except QueueError as error:
            figures.errors.append(f"queue {parts.queue}: {error}")
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
        if figures.errors or counts.get("in_hand", 0) or figures.handlers.get("unsent", 0):
            return False
        if parts.exact_depth:
            return not (depth.available or depth.in_hand or depth.scheduled)
        return counts.get("empty_receives", 0) >= 2 * len(parts.receivers)

    async def drain(self) -> Drained:
        """Drain every pipeline, all at once."""
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


async def _ask(actors: Sequence[Watched], errors: list[str]) -> list[Said]:
    async def one(actor: Watched) -> Said:
        try:
            said = await actor.stats()
        except QueueError as error:
            said = Said({}, str(error))
        if said.error is not None:
            errors.append(f"{actor.name}: {said.error}")
        return said

    return list(await asyncio.gather(*(one(actor) for actor in actors)))
