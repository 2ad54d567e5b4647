"""What the flights' handlers did, by files that outlive the processes they were written in."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

MODULE = """
import asyncio
import os
import time

from pipeline import Context, handler
from pipeline.examples import flights
from pipeline.examples.flights import Flight, Tally

{bug}
_OUT = os.open("{directory}/" + str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_APPEND)


@handler(state=Tally)
async def on_flight(flight: Flight, tally: Tally, context: Context) -> None:
    line = f"{{time.monotonic_ns()}} {{context.delivery.session}} {{flight.position}}\\n"
    os.write(_OUT, line.encode())
    if {pause}:
        await asyncio.sleep({pause})
    await flights.on_flight.function(flight, tally, context)
"""
"""The flights' handler, which first appends (time, session, position) to a file of its process."""


def write_module(directory: Path, bug: str = "", pause: float = 0.0) -> str:
    """Write the handler's module; returns where the configuration finds the handler.

    Args:
        directory: the module goes there, and the journals below it.
        bug: code that is run in each handler's process before the first message.
        pause: seconds that each message takes.
    """
    (directory / "journal").mkdir()
    text = MODULE.format(directory=directory / "journal", bug=bug, pause=pause)
    (directory / "faulty.py").write_text(text)
    return "faulty:on_flight"


@dataclass(frozen=True, slots=True)
class Handled:
    """What all journals say together.

    Args:
        handlings: how many there were, repeats included.
        messages: how many messages were handled at least once.
        late: lines of text: a message that was handled first after a later one of its session.
    """

    handlings: int
    messages: int
    late: list[str]


def read(directory: Path) -> Handled:
    """Compare all first handlings with the order of sending, session by session."""
    lines: list[tuple[int, str, int]] = []
    for path in (directory / "journal").iterdir():
        for line in path.read_text().splitlines():
            at, session, position = line.split()
            lines.append((int(at), session, int(position)))
    lines.sort()
    highest: dict[str, int] = defaultdict(int)
    seen: set[int] = set()
    late = []
    for _, session, position in lines:
        if position in seen:
            continue
        seen.add(position)
        if position < highest[session]:
            late.append(f"{session}: {position} was handled first after {highest[session]}")
        highest[session] = max(highest[session], position)
    return Handled(len(lines), len(seen), late)
