"""What one stage says to the next: the header of a call, and the two ports they call through.

A shell in `actors` carries these over Ray; a test or a simulation joins the cores directly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.batch import MessageBatch
from pipeline.outcomes import Part


@dataclass(frozen=True, slots=True)
class Header:
    """What goes before the rows of a call.

    Args:
        caller: who calls.
        epoch: grows with each start of the caller.
        number: 1, 2, 3 … within the epoch: the called side lets calls in in this order.
        source: where the rows' sequences come from (SPEC F4).
        closed: (session, holding) whose turns are over for good: stops kept for them can go.
        lost: (session, holding) whose lock ended: rows of it that have not begun must not.
    """

    caller: str
    epoch: int
    number: int
    source: str
    closed: tuple[tuple[str, int], ...] = ()
    lost: tuple[tuple[str, int], ...] = ()


class RunCalls(Protocol):
    """A router as its receivers see it, and a handler as its router sees it."""

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Take the rows in; answer with the first outcomes."""

    async def more(self, caller: str, number: int) -> Part:
        """The next outcomes of a call that is still open."""


async def drive(
    calls: RunCalls, header: Header, batch: MessageBatch, apply: Callable[[Part], None]
) -> None:
    """Make one call and apply its parts as they come, to the last."""
    part = await calls.run(header, batch)
    while True:
        apply(part)
        if part.last:
            return
        part = await calls.more(header.caller, header.number)
