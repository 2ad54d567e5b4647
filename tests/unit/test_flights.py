"""The flights job: what it sends, what its handler keeps, and that tampering is noticed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from io import BytesIO
from itertools import islice
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from pipeline.errors import ConfigurationError, QueueError, QueueFull, ValidationError
from pipeline.examples.flights import NO_TAIL, Flight, Flights, January, Tally, on_flight
from pipeline.examples.flights_expected import expected_figures, find_flights, read_flights
from pipeline.message import Message
from pipeline.providers.port import Depth, Sent

SMALL = 3_000
AIRCRAFT = "N14542"


def first_flights(path: Path, count: int) -> Path:
    """Write the file's first so many flights, in its own format, and give the path back."""
    with ZipFile(find_flights()) as archive, archive.open("flights.csv") as member:
        lines = b"".join(islice(BytesIO(member.read()), count + 1))
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", lines)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 3,000 flights; four of them have no tail number."""
    return first_flights(tmp_path_factory.mktemp("flights") / "flights.csv.zip", SMALL)


def spread(message: Message) -> str:
    """The session that a message without one gets from a queue with `sessionless: spread`."""
    digest = blake2b(message.id.encode(), digest_size=8).digest()
    return f"spread-{int.from_bytes(digest, 'big') % 64:02}"


async def handled(messages: Iterable[Message]) -> dict[str, dict[str, Tally]]:
    """The states that the handler leaves when it is given these messages in this order."""
    states: dict[str, Tally] = {}
    for message in messages:
        tally = states.setdefault(message.session or spread(message), Tally())
        flight = Flight.model_validate_json(message.body)
        await on_flight.function(flight, tally, None)
    return {"flights": states}


Tamper = Callable[[list[Message]], list[Message]]
"""Takes the messages of one aircraft, gives what is sent in their place."""


class Tampered(Flights):
    """A job that does not send what it should: the messages of one aircraft are changed."""

    def __init__(self, path: Path, tamper: Tamper) -> None:
        super().__init__(path)
        self._tamper = tamper

    def messages(self) -> Iterator[Message]:
        """All messages, those of the aircraft after the change, each where it would have stood."""
        flights = [message for message in super().messages() if message.session == AIRCRAFT]
        changed = iter(self._tamper(flights))
        for message in super().messages():
            yield from islice(changed, 1) if message.session == AIRCRAFT else [message]
        yield from changed


def drop_one(flights: list[Message]) -> list[Message]:
    """The second message is not sent."""
    return flights[:1] + flights[2:]


def send_one_twice(flights: list[Message]) -> list[Message]:
    """The second message is sent again under another id, right behind."""
    return [*flights[:2], replace(flights[1], id="another"), *flights[2:]]


def swap_two(flights: list[Message]) -> list[Message]:
    """The second and the third message change places."""
    return [flights[0], flights[2], flights[1], *flights[3:]]


def swap_the_last_two(flights: list[Message]) -> list[Message]:
    """As above, where no later message puts the last position right."""
    return [*flights[:-2], flights[-1], flights[-2]]


def alter_a_distance(flights: list[Message]) -> list[Message]:
    """The second flight is a mile longer."""
    body = json.loads(flights[1].body)
    body["distance"] += 1
    return [flights[0], replace(flights[1], body=json.dumps(body).encode()), *flights[2:]]


@pytest.mark.spec("M3", "F4")
async def test_what_the_handler_keeps_is_what_the_file_gives(small: Path) -> None:
    """Every message in order: verified, every aircraft seen, the busiest reported."""
    job = Flights(small)
    states = await handled(job.messages())
    result = await job.check(states)
    busiest = result.pop("report")
    aircraft = len(expected_figures(small)) - 1
    assert result == {"verified": True, "sessions": aircraft, "out_of_order": 0}
    assert len(busiest) == 1 + 10
    assert busiest[1].split()[:2] == ["N730MQ", "11"]
    assert len({len(line) for line in busiest}) == 1


@pytest.mark.parametrize(
    ("tamper", "out_of_order", "said"),
    [
        (drop_one, 0, "flights 8 (expected 9)"),
        (send_one_twice, 0, "flights 10 (expected 9)"),
        (swap_two, 1, "out of order 1 (expected 0)"),
        (swap_the_last_two, 1, "out of order 1 (expected 0)"),
        (alter_a_distance, 0, "distance "),
    ],
)
async def test_no_tampering_passes_and_the_aircraft_is_named(
    small: Path, tamper: Tamper, out_of_order: int, said: str
) -> None:
    """One message of one aircraft is enough, and no other aircraft is suspected."""
    job = Tampered(small, tamper)
    result = await job.check(await handled(job.messages()))
    assert result["verified"] is False
    assert result["out_of_order"] == out_of_order
    assert json.dumps(result["differences"]) == f'["{AIRCRAFT}"]'
    assert result["report"][-2:-1] == ["not verified: 1 aircraft differ from the file"]
    assert result["report"][-1].startswith(f"  {AIRCRAFT}: ")
    assert said in result["report"][-1]


async def test_spread_sessions_are_compared_by_their_sum(small: Path) -> None:
    """Which of them a message went to is the broker's business; that one is missing is not."""
    job = Flights(small)
    whole = list(job.messages())
    moved = [message if message.session else message.with_session("spread-07") for message in whole]
    assert (await job.check(await handled(moved)))["verified"] is True
    sessionless = [message for message in whole if message.session is None]
    assert len(sessionless) == 4
    whole.remove(sessionless[0])
    result = await job.check(await handled(whole))
    assert (result["verified"], result["differences"]) == (False, [NO_TAIL])
    assert f"  {NO_TAIL}: flights 3 (expected 4), distance " in result["report"][-1]


async def test_order_counts_in_spread_sessions_too(small: Path) -> None:
    """Their messages are in order like any others, so one that is late is counted."""
    whole = [message for message in Flights(small).messages() if message.session is None]
    late = [message.with_session("spread-00") for message in (whole[1], whole[0], *whole[2:])]
    rest = [message for message in Flights(small).messages() if message.session]
    result = await Flights(small).check(await handled(rest + late))
    assert (result["out_of_order"], result["differences"]) == (1, [NO_TAIL])


async def test_a_session_that_should_not_be_there_is_a_difference(small: Path) -> None:
    """Nothing in the file explains it."""
    states = await handled(Flights(small).messages())
    states["flights"]["N0"] = Tally(flights=1, distance=5)
    result = await Flights(small).check(states)
    assert result["differences"] == ["N0"]
    assert result["report"][-1] == "  N0: flights 1 (expected 0), distance 5 (expected 0)"


async def test_a_long_report_is_cut(small: Path) -> None:
    """Nothing arrived: 20 aircraft are named, 10 explained, the others counted."""
    result = await Flights(small).check({"flights": {}})
    differing = len(expected_figures(small))
    assert (result["verified"], result["sessions"]) == (False, 0)
    assert len(result["differences"]) == 20
    assert result["report"][1] == f"not verified: {differing:,} aircraft differ from the file"
    assert len(result["report"]) == 2 + 10 + 1
    assert result["report"][-1] == f"  and {differing - 10:,} more"


async def test_another_pipelines_state_is_refused(small: Path) -> None:
    """The job can't know which pipeline to compare, and says what to name it."""
    with pytest.raises(ConfigurationError, match="'flights'; the configuration has other:"):
        await Flights(small).check({"other": {}})


@pytest.mark.spec("M2", "M3")
def test_messages_say_what_the_file_says(small: Path) -> None:
    """One a flight, in order: its fields as JSON, its tail number as session, an id of its own."""
    rows = read_flights(small).to_pylist()
    messages = list(Flights(small).messages())
    assert [Flight.model_validate_json(m.body, strict=True).model_dump() for m in messages] == rows
    assert [message.session for message in messages] == [row["tailnum"] for row in rows]
    assert [message.id for message in messages] == [f"flight-{n + 1}" for n in range(SMALL)]
    assert {message.content_type for message in messages} == {"application/json"}


def test_without_a_path_the_installed_file_is_read() -> None:
    """As the configuration makes the job; the first message comes before all are made."""
    first = next(Flights().messages())
    assert Flight.model_validate_json(first.body).tailnum == first.session


class Client:
    """A queue with little room, which somebody empties while the sender waits."""

    def __init__(self, room: int, refill: int = 0, error: QueueError | None = None) -> None:
        self.sent: list[Message] = []
        self.calls: list[int] = []
        self._room = room
        self._refill = refill
        self._error = error

    async def send_many(self, queue: str, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Take what there is room for; refuse the rest, as the provider port says."""
        assert queue == "flights"
        self.calls.append(len(messages))
        taken, self._room = self._room, self._refill
        self.sent += messages[:taken]
        error = self._error or QueueFull("no room")
        return [Sent() if row < taken else error for row in range(len(messages))]


async def test_feeding_sends_all_in_order_in_chunks(small: Path) -> None:
    """A queue with room takes them as fast as they are made."""
    client = Client(room=SMALL, refill=SMALL)
    await Flights(small).feed(client)
    assert client.sent == list(Flights(small).messages())
    assert client.calls == [2_000, 1_000]


async def test_feeding_waits_for_a_full_queue_and_sends_only_what_was_refused(small: Path) -> None:
    """Order is kept, nothing is sent twice, and the queue gets time between two attempts."""
    started = asyncio.get_running_loop().time()
    client = Client(room=700, refill=700)
    await Flights(small).feed(client)
    assert client.sent == list(Flights(small).messages())
    assert client.calls == [2_000, 1_300, 600, 1_000, 300]
    waited = asyncio.get_running_loop().time() - started
    assert waited == pytest.approx(3 * 0.05)


async def test_feeding_waits_as_long_as_the_queue_asks(small: Path) -> None:
    """`retry_after` is longer than the usual pause."""
    started = asyncio.get_running_loop().time()
    client = Client(room=0, refill=SMALL, error=QueueFull("no room", retry_after=7.0))
    await Flights(small).feed(client)
    assert client.sent == list(Flights(small).messages())
    assert asyncio.get_running_loop().time() - started == pytest.approx(7.0)


async def test_feeding_ends_with_the_first_other_error(small: Path) -> None:
    """Waiting would not help, and going on would leave a hole."""
    client = Client(room=5, error=ValidationError("session", "is missing"))
    with pytest.raises(ValidationError, match="is missing"):
        await Flights(small).feed(client)
    assert client.calls == [2_000]


@pytest.mark.spec("F9")
async def test_january_is_fed_as_the_queue_empties(small: Path) -> None:
    """Only that month's flights, and never more than a portion beside those that wait."""

    class Client:
        def __init__(self) -> None:
            self.waiting = 0
            self.sent = 0
            self.most = 0

        async def send_many(self, queue: str, messages: Sequence[Message]) -> list[Sent]:
            self.sent += len(messages)
            self.waiting += len(messages)
            self.most = max(self.most, self.waiting)
            return [Sent() for _ in messages]

        async def depth(self, queue: str) -> Depth:
            self.waiting = max(0, self.waiting - 300)
            return Depth(available=self.waiting or None)

    client = Client()
    await January(small).feed(client)  # type: ignore[arg-type]
    assert client.sent == SMALL
    assert client.most <= 1_000
    assert sum(one.flights for one in expected_figures(find_flights(), 1).values()) == 27_004
