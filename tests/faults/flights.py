"""A run of the flights that is killed at, and what has to hold of it afterwards."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from actors.runtime import Runtime
from pipeline import Message, QueueClient
from pipeline.config import parse
from pipeline.crypto.keyset import KeySet
from pipeline.examples.flights import Flights, Tally
from pipeline.examples.flights_expected import expected_figures
from tests.faults import journal

_PAUSE = 0.25
"""Seconds between two portions of messages."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the flights are queued.

    Args:
        connection: its keys.
        queue: keys of the queue, beside those that are the same everywhere.
        portion: how many messages are sent at once.
        pause: seconds that each message takes, so that there are enough in hand.
        aircraft: of how many the flights are, the busiest; None: of all.
        retry: what is done about calls that fail.
        timeouts: how long calls may take, beside what is the same everywhere.
        crypto: how bodies are sealed, if they are.
    """

    connection: dict[str, Any]
    queue: dict[str, Any]
    portion: int
    pause: float
    aircraft: int | None = None
    retry: dict[str, Any] = field(default_factory=dict)
    timeouts: dict[str, float] = field(default_factory=dict)
    crypto: dict[str, Any] = field(default_factory=dict)


MEMORY = Place({"provider": "memory"}, {"visibility": 3.0}, 2_000, 0.0)


def sealed(directory: Path) -> Place:
    """Sealed bodies, opened by a pool of two actors, in whose processes alone the keys are."""
    keys = directory / "keys.json"
    keys.write_text(KeySet.first("k1", 0.0).text())
    crypto = {
        "enabled": True,
        "actors": 2,
        "keys": {"provider": "file", "path": str(keys)},
        "plaintext": "reject",
        "replay": {"enabled": True},
    }
    return replace(MEMORY, crypto=crypto)


def sqs(endpoint: str, directory: Path) -> Place:
    """An SQS of this machine, which is fed slowly: its receives cost more the more it holds."""
    key = directory / "key"
    key.write_text("local")
    keys = dict.fromkeys(("access_key_id", "secret_access_key"), f"file:{key}")
    connection = {"provider": "aws_sqs", "region": "us-east-1", "endpoint": endpoint, **keys}
    queue = {"name": "flights.fifo", "create": True, "poll": 1.0, "visibility": 3.0}
    return Place(connection, queue, 150, 0.25)


def service_bus(connection_string: str, directory: Path, portion: int) -> Place:
    """Our Service Bus server: few aircraft, because a session is a connection of its own there."""
    key = directory / "connection-string"
    key.write_text(connection_string)
    connection = {"provider": "azure_service_bus", "connection_string": f"file:{key}"}
    # A name of its own for each send, so that one whose answer was lost can be made again.
    queue = {
        "lock": 5.0,
        "max_delivery_count": 100,
        "duplicate_detection": True,
        "held_sessions": 16,
    }
    # One send may be hit by several faults: the feed does without none of its messages.
    retry = {"max_attempts": 10, "initial": 0.1, "maximum": 2.0}
    return Place(connection, queue, portion, 0.02, aircraft=40, retry=retry, timeouts={"send": 3.0})


class Part(Flights):
    """The first of the flights, sent slowly; their figures are those of the file, cut there.

    Args:
        count: how many; more while `going`, for a run has to last for as long as it is killed at.
        portion: how many are sent at once.
        aircraft: of how many, the busiest; None: of all.
    """

    def __init__(
        self, count: int, portion: int = MEMORY.portion, aircraft: int | None = None
    ) -> None:
        super().__init__()
        self.count = count
        self.portion = portion
        self.going = False
        self._tails = None if aircraft is None else _busiest(self._path, aircraft)

    def messages(self) -> Iterator[Message]:
        """One message a flight, in order."""
        return islice(self._all(), self.count)

    def _all(self) -> Iterator[Message]:
        messages, tails = super().messages(), self._tails
        return messages if tails is None else (one for one in messages if one.session in tails)

    async def feed(self, client: QueueClient) -> None:
        """Send them, portion by portion."""
        messages, count = self._all(), 0
        while size := self.portion if self.going else min(self.portion, self.count - count):
            portion = list(islice(messages, size))
            if not portion:  # the whole file was sent
                break
            for sent in await client.send_many("flights", portion):
                if isinstance(sent, Exception):
                    raise sent
            count += len(portion)
            self.count = max(self.count, count)
            await asyncio.sleep(_PAUSE)


def _busiest(path: Path, count: int) -> set[str | None]:
    figures = expected_figures(path)
    del figures[None]
    return set(sorted(figures, key=lambda tail: (-figures[tail].flights, tail))[:count])


@dataclass(slots=True)
class Ending:
    """How a run ended; `wrong` says what does not hold.

    Args:
        sent: messages that the queue took in.
        handled: what the handlers' journals say.
        replaced: how many actors were replaced.
        wrong: lines of text.
    """

    sent: int
    handled: journal.Handled
    replaced: int
    wrong: list[str]


def config(directory: Path, name: str, handler: str, place: Place = MEMORY) -> dict[str, Any]:
    """The flights with two actors of each kind, locks of a few seconds and durable state."""
    return {
        "name": name,
        "connections": {"main": dict(place.connection)},
        "queues": {
            "flights": {
                "connection": "main",
                "fifo": True,
                "sessionless": "spread",
            }
            | place.queue
        },
        "pipelines": {
            "flights": {
                "queue": "flights",
                "handler": handler,
                "receivers": 2,
                "routers": 2,
                "handlers": 2,
            }
        },
        "state": {"store": "sqlite", "path": str(directory / "state.sqlite")},
        "timeouts": {"answer": 12.0, **place.timeouts},
        "retry": dict(place.retry),
        "crypto": dict(place.crypto),
    }


@asynccontextmanager
async def flying(
    directory: Path, name: str, count: int, bug: str = "", place: Place = MEMORY
) -> AsyncIterator[tuple[Runtime, list[Ending]]]:
    """A run that is being fed; when the block is over it goes to its end, which is then judged."""
    job = Part(count, place.portion, place.aircraft)
    handler = journal.write_module(directory, bug, place.pause)
    settings = config(directory, name, handler, place)
    runtime = Runtime(parse(settings), path=[str(directory)])
    endings: list[Ending] = []
    with _importable(directory):
        async with runtime:
            job.going = True
            feeding = asyncio.ensure_future(job.feed(runtime.client))
            try:
                yield runtime, endings
                job.going = False
                await feeding
                await runtime.until_empty()
            finally:
                feeding.cancel()
            endings.append(await _judge(runtime, job, directory))


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """The driver reads the states as the handler declares them."""
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path.remove(str(directory))
        sys.modules.pop("faulty", None)


async def _judge(runtime: Runtime, job: Part, directory: Path) -> Ending:
    sent, wrong = await _at_the_broker(runtime, job)
    depth = await runtime.client.depth("flights")
    states = (await runtime.states())["flights"]
    handled = journal.read(directory)
    wrong += handled.late
    if depth.in_hand or depth.available:
        wrong.append(f"not empty: {depth}")
    if depth.dead_lettered:
        wrong.append(f"{depth.dead_lettered} were dead-lettered")
    if handled.messages != job.count:
        wrong.append(f"{handled.messages} of {job.count} were handled at all")
    wrong += await asyncio.to_thread(differences, job, states)
    replaced = (await runtime.refresh()).pipelines["flights"].replaced
    return Ending(sent, handled, replaced, wrong)


async def _at_the_broker(runtime: Runtime, job: Part) -> tuple[int, list[str]]:
    """What the broker counted; a queue elsewhere confirmed each send and tells its depth alone."""
    if "main" not in runtime._brokers:
        return job.count, []
    counters = await runtime._brokers["main"].counters("flights")
    wrong = []
    if counters.sent != job.count:
        wrong.append(f"the broker took in {counters.sent} of {job.count}")
    if counters.sent != counters.completed + counters.dead_lettered:
        wrong.append(f"{counters.sent} sent, {counters.completed} completed")
    return counters.sent, wrong


def differences(job: Part, states: dict[Any, Any]) -> list[str]:
    """What the sessions' states say of the messages that were sent: each figure of each session."""
    expected: dict[str, Tally] = {}
    for message in job.messages():
        if message.session is not None:
            flight = json.loads(message.body)
            tally = expected.setdefault(message.session, Tally())
            tally.flights += 1
            tally.delay += flight["dep_delay"] or 0
            tally.air_time += flight["air_time"] or 0
            tally.distance += flight["distance"]
            tally.last = flight["position"]
    wrong = []
    for session, wanted in expected.items():
        tally = states.get(session)
        if tally != wanted:
            wrong.append(f"{session}: {tally}, not {wanted}")
    seen = sum(tally.flights for tally in states.values())
    if seen != job.count:
        wrong.append(f"the states count {seen} flights of {job.count}")
    return wrong
