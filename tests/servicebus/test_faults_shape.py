"""The shape of what is sent, on the wire: outcomes and transfers merged or apart, and latency.

The test of a field is named for it.
"""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from itertools import pairwise

import pytest

from tests.servicebus.amqp.frames import (
    Begin,
    Close,
    Disposition,
    End,
    Flow,
    Open,
    Transfer,
)
from tests.servicebus.assumptions import Assumptions
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored
from tests.servicebus.faults import Shape
from tests.servicebus.late import Late
from tests.servicebus.raw import ABANDONED, ACCEPTED, Got, Raw, message, sections

pytestmark = pytest.mark.spec("T2")

START = 1_700_000_000.0


class Served:
    """A queue with messages, and a client by hand that may have them."""

    def __init__(self, assumptions: Assumptions | None = None) -> None:
        self.clock = ManualClock(START)
        self.bus = ServiceBus(clock=self.clock, strict=True, assumptions=assumptions)
        self.queue: Queue = self.bus.queue("orders")
        self.shape = self.bus.faults.shape

    def fill(self, count: int, size: int = 10) -> None:
        """Put messages into the queue."""
        self.queue.send([Stored(bare=message(b"x" * size)) for _ in range(count)])

    async def receiving(self, count: int, size: int = 10) -> Raw:
        """A client that has got so many messages; their numbers are 1 to the count."""
        self.fill(count, size)
        raw = await Raw.ready(self.bus)
        await raw.receiver("orders", credit=count)
        assert len(await raw.all(Transfer)) == count
        return raw


def ranges(came: list[Got]) -> list[tuple[int, int]]:
    """First and last of dispositions."""
    return [(got.body.first, got.body.last) for got in came]


def test_every_field_has_a_test() -> None:
    """A test is named for each way to shape what is sent."""
    module = sys.modules[__name__]
    tests = [name for name, _ in inspect.getmembers(module, inspect.isfunction)]
    for field in fields(Shape):
        assert any(name.startswith(f"test_{field.name}") for name in tests), field.name


async def test_without_a_shape() -> None:
    """Outcomes are answered one by one and at once; deliveries that are there go in one write."""
    served = Served()
    raw = await served.receiving(3)
    raw.settle(1, ACCEPTED, 3)
    came = await raw.all(Disposition)
    assert ranges(came) == [(1, 1), (2, 2), (3, 3)]
    assert {got.at for got in came} == {START}
    served.fill(3)
    raw.credit(1, 6)
    assert len({got.write for got in await raw.all(Transfer)}) == 1


async def test_merge_outcomes() -> None:
    """Those that are alike and follow on each other are answered as one range, a while later."""
    served = Served()
    raw = await served.receiving(6)
    served.shape.merge_outcomes = 0.5
    for number, outcome in ((1, ACCEPTED), (2, ACCEPTED), (3, ABANDONED), (4, ACCEPTED)):
        raw.settle(number, outcome)
    raw.settle(6, ACCEPTED)
    served.clock.advance(0.4)
    assert await raw.quiet(Disposition)
    served.clock.advance(0.1)
    came = await raw.all(Disposition)
    assert ranges(came) == [(1, 2), (3, 3), (4, 4), (6, 6)]
    assert [got.body.state for got in came] == [ACCEPTED, ABANDONED, ACCEPTED, ACCEPTED]
    assert all(got.body.settled and not got.body.role for got in came)


async def test_merge_outcomes_of_what_was_sent() -> None:
    """A sender's deliveries are answered as ranges too, and apart from those it has received."""
    served = Served()
    raw = await served.receiving(2)
    await raw.sender("orders")
    served.shape.merge_outcomes = 0.5
    numbers = [raw.send(0, message()) for _ in range(3)]
    raw.settle(1, ACCEPTED, 2)
    served.clock.advance(0.5)
    came = [(got.body.role, got.body.first, got.body.last) for got in await raw.all(Disposition)]
    assert sorted(came) == [(False, 1, 2), (True, numbers[0], numbers[-1])]


async def test_merge_outcomes_as_an_assumption() -> None:
    """When the service is assumed to merge, it does so with what it has at hand."""
    served = Served(Assumptions(merge_outcomes=True))
    served.fill(3)
    raw = Raw(served.bus)
    await raw.shake()
    raw.put(Open("by hand"), Begin(None, 0, 5_000, 5_000))
    raw.connection.claims.everything = True
    await raw.receiver("orders", credit=3)
    await raw.all(Transfer)
    raw.settle(0, ACCEPTED, 2)
    served.clock.advance(0)
    assert ranges(await raw.all(Disposition)) == [(0, 2)]


async def test_merge_outcomes_of_a_client_that_has_left() -> None:
    """They are not answered any more."""
    served = Served()
    raw = await served.receiving(2)
    served.shape.merge_outcomes = 0.5
    raw.settle(1, ACCEPTED, 2)
    raw.put(End())
    await raw.take(End)
    served.clock.advance(0.5)
    assert await raw.quiet(Disposition)


async def test_split_outcomes() -> None:
    """Each is in a write of its own, so far apart; what comes behind them waits for its turn."""
    served = Served()
    raw = await served.receiving(3)
    served.shape.split_outcomes = 0.2
    raw.settle(1, ACCEPTED, 3)
    raw.put(Flow(1, 5_000, 0, 5_000, echo=True))
    await raw.read()
    served.clock.advance(1)
    came = await raw.all(Disposition)
    assert [round(got.at - START, 3) for got in came] == [0, 0.2, 0.4]
    assert len({got.write for got in came}) == 3
    assert round((await raw.take(Flow)).at - START, 3) == 0.6


async def test_transfer_bytes() -> None:
    """A message goes in transfers of so many bytes; only the last one says that it is whole."""
    served = Served()
    raw = await Raw.ready(served.bus)
    served.fill(1, 1_000)
    served.shape.transfer_bytes = 300
    await raw.receiver("orders", credit=1)
    came = await raw.all(Transfer)
    assert [len(got.payload) for got in came[:-1]] == [300] * (len(came) - 1)
    assert [got.body.more for got in came] == [True] * (len(came) - 1) + [False]
    assert {got.body.delivery_id for got in came} == {1}
    assert len({got.body.delivery_tag for got in came}) == 1
    whole = b"".join(got.payload for got in came)
    assert sections(whole)[0x75] == b"x" * 1_000


async def test_split_transfers() -> None:
    """Each frame of a delivery is in a write of its own, so far from the one before."""
    served = Served()
    raw = await Raw.ready(served.bus)
    served.fill(2, 500)
    served.shape.transfer_bytes = 400
    served.shape.split_transfers = 0.1
    await raw.receiver("orders", credit=2)
    served.clock.advance(2)
    came = await raw.all(Transfer)
    assert [got.body.delivery_id for got in came] == [1, 1, 2, 2]
    assert len({got.write for got in came}) == 4
    assert {round(after.at - before.at, 3) for before, after in pairwise(came)} == {0.1}


async def test_merge_transfers() -> None:
    """Deliveries of a while go in one write, at its end."""
    served = Served()
    raw = await Raw.ready(served.bus)
    await raw.receiver("orders", credit=5)
    served.shape.merge_transfers = 0.3
    served.fill(1)
    served.clock.advance(0.2)
    served.fill(2)
    assert await raw.quiet(Transfer)
    served.clock.advance(0.1)
    came = await raw.all(Transfer)
    assert (len(came), len({got.write for got in came})) == (3, 1)
    assert round(came[0].at - START, 3) == 0.3


async def test_write_bytes() -> None:
    """No write has more bytes, so that frames come in pieces; nothing else changes."""
    served = Served()
    served.shape.write_bytes = 7
    raw = await served.receiving(2)
    assert {len(data) for _, data in raw.wire.writes[1:]} <= set(range(1, 8))
    raw.settle(1, ACCEPTED, 2)
    assert len(await raw.all(Disposition)) == 2


async def test_to_client() -> None:
    """What is sent comes later, from the first header on, and in its order."""
    served = Served()
    served.shape.to_client = 0.25
    raw = Raw(served.bus)
    raw.arrive(b"AMQP\x03\x01\x00\x00")
    assert raw.wire.writes == []
    served.clock.advance(0.25)
    await raw.read()
    assert {at - START for at, _ in raw.wire.writes} == {0.25}
    served.shape.to_client = 0
    made = await served.receiving(1)
    served.shape.to_client = 0.25
    made.settle(1, ACCEPTED)
    await made.read()
    served.shape.to_client = 0  # what comes later does not overtake it
    made.put(Flow(1, 5_000, 0, 5_000, echo=True))
    assert served.queue.counts().locked == 0
    assert await made.quiet()
    served.clock.advance(0.25)
    assert [type(got.body) for got in await made.read()] == [Disposition, Flow]


async def test_to_server() -> None:
    """What the client sends is read later, in its order."""
    served = Served()
    raw = await served.receiving(1)
    served.shape.to_server = 0.25
    raw.settle(1, ACCEPTED)
    served.shape.to_server = 0
    raw.put(Flow(1, 5_000, 0, 5_000, echo=True))
    assert await raw.quiet()
    assert served.queue.counts().locked == 1
    served.clock.advance(0.25)
    assert served.queue.counts().locked == 0
    assert [type(got.body) for got in await raw.read()] == [Disposition, Flow]


def test_to_client_when_a_timer_is_late() -> None:
    """What has waited leaves first, also when its time has passed and nothing has run yet."""
    clock, came = ManualClock(START), list[bytes]()
    late = Late(clock, came.append)
    late.put(b"first", 1)
    clock._now += 5  # a loop that was busy
    late.put(b"second", 0)
    late.afterwards(lambda: came.append(b"end"))
    assert came == []
    clock.advance(0)
    assert came == [b"first", b"second", b"end"]


async def test_to_client_also_of_the_last_words() -> None:
    """The socket is closed when they have left, not before."""
    served = Served()
    raw = await Raw.ready(served.bus)
    served.shape.to_client = 0.25
    raw.put(Close())
    await raw.read()
    assert raw.wire.ended == ""
    served.clock.advance(0.25)
    await raw.take(Close)
    assert raw.wire.ended == "closed"


async def test_silent() -> None:
    """A client that wants to hear from us does not."""
    served = Served()
    raw = Raw(served.bus)
    await raw.shake()
    raw.put(Open("by hand", idle_time_out=10_000), Begin(None, 0, 5_000, 5_000))
    await raw.node("$cbs", 250)
    served.clock.advance(20)
    await raw.read()
    assert raw.empty > 0
    served.shape.silent = True
    before = len(raw.wire.writes)
    served.clock.advance(60)
    await raw.read()
    assert len(raw.wire.writes) == before


@pytest.mark.parametrize(
    ("name", "value"),
    [("transfer_bytes", 0), ("write_bytes", 0), ("to_client", -1.0), ("merge_outcomes", -0.1)],
)
def test_what_can_not_be(name: str, value: float) -> None:
    """The error names the field, and the least it may be."""
    with pytest.raises(ValueError, match=f"{name} is {value}: [01] at least"):
        setattr(Shape(), name, value)


def test_a_field_that_is_misspelt() -> None:
    """It is refused, instead of changing nothing."""
    with pytest.raises(AttributeError):
        setattr(Shape(), "merge_outcome", 1.0)  # noqa: B010  the type checker knows it is wrong


def test_clear() -> None:
    """Everything is as it was at first, also for connections that are open."""
    served = Served()
    served.shape.to_client = 1
    served.bus.faults.drop("send", applied=True)
    served.bus.faults.clear()
    assert (served.bus.faults.shape, served.bus.faults.waiting) == (Shape(), [])
