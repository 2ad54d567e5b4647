"""How much silence is borne: of a client, of a connection without links, and of a link."""

from __future__ import annotations

import pytest

from tests.servicebus.amqp.frames import EMPTY, Begin, Close, Detach, Disposition, Open, Transfer
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.limits import Limits
from tests.servicebus.raw import Raw, condition, message, receiver
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")

BARE = "amqp:connection:forced"


def served(clock: ManualClock, limits: Limits | None = None) -> ServiceBus:
    """A server with a queue."""
    bus = ServiceBus(clock=clock, strict=True, limits=limits or Limits())
    bus.queue("orders")
    bus.queue("sessions", sessions=True)
    return bus


def passes(clock: ManualClock, raw: Raw, seconds: int) -> None:
    """Time passes, and the client keeps its connection alive."""
    for _ in range(seconds):
        clock.advance(1)
        if not raw.wire.ended:
            raw.arrive(EMPTY)


async def test_the_time_out_is_told(clock: ManualClock) -> None:
    """Open says, in milliseconds, what the client has to keep to: half of what is borne."""
    raw = Raw(served(clock, Limits(idle_timeout=30)))
    await raw.shake()
    raw.put(Open("by hand"))
    assert (await raw.take(Open)).body.idle_time_out == 30_000


async def test_a_silent_connection_is_closed(clock: ManualClock) -> None:
    """After twice the time that was told, and not before."""
    bus = served(clock)
    raw = await Raw.ready(bus)
    clock.advance(239)
    assert await raw.quiet(Close)
    clock.advance(1)
    assert await raw.closed_with() == "amqp:resource-limit-exceeded"
    assert bus.violations.rules() == {Rule.IDLE}


async def test_empty_frames_keep_a_connection(clock: ManualClock) -> None:
    """They are enough, and nobody answers them."""
    bus = served(clock)
    raw = await Raw.ready(bus)
    writes = len(raw.wire.writes)
    for _ in range(5):
        clock.advance(110)
        raw.arrive(EMPTY)
    await raw.read()
    assert (raw.wire.ended, len(raw.wire.writes)) == ("", writes)
    assert bus.violations.noted == []


async def test_a_bare_connection_is_closed(clock: ManualClock) -> None:
    """Without a link there is nothing it could be for."""
    raw = Raw(served(clock))
    await raw.shake()
    raw.put(Open("by hand"), Begin(None, 0, 10, 10))
    passes(clock, raw, 59)
    assert await raw.quiet(Close)
    passes(clock, raw, 31)
    assert await raw.closed_with() == BARE


async def test_a_connection_that_never_opens_is_ended(clock: ManualClock) -> None:
    """There is nobody to tell why: TCP is closed."""
    raw = Raw(served(clock))
    clock.advance(60)
    assert await raw.quiet()
    assert raw.wire.ended == "closed"


async def test_a_connection_is_bare_again_when_its_links_are_detached(clock: ManualClock) -> None:
    """The time counts from the last link."""
    raw = await Raw.ready(served(clock))
    passes(clock, raw, 300)
    raw.put(Detach(250, True), Detach(251, True))
    passes(clock, raw, 29)
    assert raw.wire.ended == ""
    passes(clock, raw, 62)
    assert await raw.closed_with() == BARE


async def test_an_idle_link_is_detached(clock: ManualClock) -> None:
    """A sender that sends nothing, a receiver that wants nothing; one that waits is not idle."""
    raw = await Raw.ready(served(clock))
    await raw.sender("orders", 0)
    await raw.receiver("orders", 1, credit=0)
    await raw.receiver("orders", 2, credit=5)
    passes(clock, raw, 599)
    assert await raw.quiet(Detach)
    passes(clock, raw, 31)
    came = await raw.all(Detach)
    assert {got.body.handle for got in came} == {0, 1, 250, 251}
    assert {condition(got.body.error) for got in came} == {"amqp:link:detach-forced"}


async def test_a_link_that_is_used_is_not_idle(clock: ManualClock) -> None:
    """Sending, settling and asking count, each for its own link; an answer for its own too."""
    raw = await Raw.ready(served(clock))
    await raw.sender("orders", 0)
    await raw.node("orders/$management", 4)
    for _ in range(3):
        passes(clock, raw, 500)
        raw.send(0, message())
        await raw.take(Disposition)
        await raw.ask(4, "peek-message", {"from-sequence-number": 0, "message-count": 1})
        await raw.put_token("orders")
    assert await raw.quiet(Detach)


async def test_who_waits_for_a_session_is_not_idle(clock: ManualClock) -> None:
    """The wait has its own end."""
    bus = served(clock, Limits(idle_link=10))
    raw = await Raw.ready(bus)
    raw.put(receiver("sessions", 3, session=None))
    passes(clock, raw, 60)
    assert {got.body.handle for got in await raw.all(Detach)} == {250, 251}
    passes(clock, raw, 5)
    (got,) = await raw.all(Detach)
    assert (got.body.handle, condition(got.body.error)) == (3, "com.microsoft:timeout")


async def test_the_client_hears_from_the_server(clock: ManualClock) -> None:
    """With an idle-time-out of its own, it gets an empty frame before that has passed."""
    raw = Raw(served(clock))
    await raw.shake()
    raw.put(Open("by hand", idle_time_out=10_000), Begin(None, 0, 5_000, 5_000))
    await raw.node("$cbs", 250)
    for _ in range(20):
        before = len(raw.wire.writes)
        for _ in range(10):
            clock.advance(1)
            await raw.read()
        assert len(raw.wire.writes) > before
    assert raw.empty >= 20


async def test_nothing_is_sent_to_a_client_without_a_time_out(clock: ManualClock) -> None:
    """Nor to one that has gone."""
    bus = served(clock)
    raw = await Raw.ready(bus)
    passes(clock, raw, 100)
    await raw.read()
    assert raw.empty == 0
    other = Raw(bus)
    await other.shake()
    other.put(Open("by hand", idle_time_out=1_000))
    other.put(Close())
    await other.read()
    writes = len(other.wire.writes)
    clock.advance(30)
    await other.read()
    assert len(other.wire.writes) == writes


async def test_a_token_that_ends_detaches_its_links(clock: ManualClock) -> None:
    """Of the entity it was for, unless another token was put meanwhile."""
    bus = served(clock)
    bus.queue("others")
    raw = await Raw.ready(bus, "nothing")
    await raw.put_token("orders", 30)
    await raw.put_token("others", 30)
    await raw.sender("orders", 0)
    await raw.sender("others", 2)
    clock.advance(20)
    await raw.put_token("others", 30)
    clock.advance(10)
    (got,) = await raw.all(Detach)
    assert (got.body.handle, condition(got.body.error)) == (0, "amqp:unauthorized-access")
    assert await raw.quiet(Transfer)
    clock.advance(20)
    (got,) = await raw.all(Detach)
    assert got.body.handle == 2
