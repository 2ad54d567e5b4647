"""Faults that happen when they are called; and sessions that are granted late.

TCP is dropped, connections are closed, links detached, locks ended.
"""

from __future__ import annotations

import pytest

from tests.servicebus.amqp.frames import Attach, Detach, Disposition, End, Transfer
from tests.servicebus.assumptions import Assumptions
from tests.servicebus.fault_cases import Stage
from tests.servicebus.raw import ACCEPTED, Raw, condition, receiver, refused

pytestmark = pytest.mark.spec("T2")

FORCED = "amqp:connection:forced"


async def holding(session: bool = False) -> Stage:
    """A client that holds the lock of a message, or of a session."""
    stage = Stage()
    stage.raw = await Raw.ready(stage.bus)
    await stage.holding(stage.sessions if session else stage.orders)
    return stage


async def test_drop_every_connection() -> None:
    """Their sockets end at once; locks outside sessions stay, as if the client had died."""
    stage = await holding()
    other = await Raw.ready(stage.bus)
    assert stage.bus.drop() == 2
    assert (stage.raw.wire.ended, other.wire.ended) == ("aborted", "aborted")
    assert stage.orders.counts().locked == 1
    assert stage.bus.drop() == 0


@pytest.mark.parametrize("frees", [True, False])
async def test_drop_a_session(frees: bool) -> None:
    """Whether the session is free at once is an assumption; when its lock ends, it is."""
    stage = Stage()
    stage.bus.assumptions = Assumptions(lost_connection_frees_session=frees)
    stage.raw = await Raw.ready(stage.bus)
    await stage.holding(stage.sessions)
    stage.bus.drop()
    raw = await Raw.ready(stage.bus)
    raw.put(receiver("sessions", 1, session="s"))
    await raw.take(Attach)
    if not frees:
        error = (await raw.take(Detach)).body.error
        assert condition(error) == "com.microsoft:session-cannot-be-locked"
        raw.put(Detach(1, True))
        stage.clock.advance(60)
        await raw.receiver("sessions", 1, session="s")
    raw.credit(1, 1)
    await raw.take(Transfer)


async def test_close_connections() -> None:
    """Each gets close with the error, and what it had is let go."""
    stage = await holding(session=True)
    assert stage.bus.close_connections(FORCED, "for a test") == 1
    assert await stage.raw.closed_with() == FORCED
    raw = await Raw.ready(stage.bus)
    await raw.receiver("sessions", session="s", credit=1)
    await raw.take(Transfer)


async def test_detach() -> None:
    """Every link of the entity, in every connection, is detached with the error; no other is."""
    stage = await holding()
    other = await Raw.ready(stage.bus)
    await other.sender("ORDERS", 0)
    await other.receiver("sessions", 1, session="s")
    assert stage.bus.detach("Orders", "com.microsoft:entity-disabled", "for a test") == 2
    for raw, handle in ((stage.raw, 1), (other, 0)):
        (got,) = await raw.all(Detach)
        assert (got.body.handle, got.body.closed) == (handle, True)
        assert condition(got.body.error) == "com.microsoft:entity-disabled"
        raw.put(Detach(handle, True))
    assert stage.bus.detach("orders") == 0
    assert stage.bus.violations.noted == []


async def test_detach_who_waits_for_a_session() -> None:
    """Its attach is answered first: without that there is nothing to detach."""
    stage = Stage()
    raw = await Raw.ready(stage.bus)
    raw.put(receiver("sessions", 1, session=None))
    assert await raw.quiet(Attach)
    assert stage.bus.detach("sessions") == 1
    assert [type(got.body) for got in await raw.read()] == [Attach, Detach]
    stage.stored(stage.sessions)
    assert stage.sessions.counts().active == 1
    await raw.receiver("sessions", 3, session=None)  # the first one does not wait any more


async def test_expire_locks() -> None:
    """The message is another's at once, with a failed attempt more; its lock is lost."""
    stage = await holding()
    assert stage.orders.expire_locks() == 1
    stage.raw.settle(stage.number, ACCEPTED)
    state = (await stage.raw.take(Disposition)).body.state
    assert refused(state) == "com.microsoft:message-lock-lost"
    (found,) = stage.orders.peek(0, 1)
    assert found.delivery_count == 1
    assert stage.orders.expire_locks() == 0


async def test_expire_session_locks() -> None:
    """The link of who held the session is detached, and the session is free."""
    stage = await holding(session=True)
    assert stage.sessions.expire_session_locks() == 1
    (got,) = await stage.raw.all(Detach)
    assert condition(got.body.error) == "com.microsoft:session-lock-lost"
    await stage.raw.receiver("sessions", 3, session="s", credit=1)
    await stage.raw.take(Transfer)
    (found,) = stage.sessions.peek(0, 1)
    assert found.delivery_count == 1


# --- sessions that are granted late ---------------------------------------------------------------


async def test_a_session_granted_to_a_client_that_has_left() -> None:
    """The grant was on its way when the client gave up: the session is free for others at once."""
    stage = Stage()
    stage.stored(stage.sessions)
    raw = await Raw.ready(stage.bus)
    stage.bus.faults.delay("accept", 5)
    raw.put(receiver("sessions", 1, session=None))
    assert await raw.quiet(Attach)
    raw.put(Detach(1, True))
    assert [type(got.body) for got in await raw.read()] == [Attach, Detach]
    raw.frames.clear()
    await raw.receiver("sessions", 3, session="s", credit=1)
    await raw.take(Transfer)
    stage.clock.advance(5)
    assert await raw.quiet()
    assert stage.bus.violations.noted == []


async def test_a_client_that_leaves_before_there_is_a_session() -> None:
    """It does not get the next one that comes free."""
    stage = Stage()
    raw = await Raw.ready(stage.bus)
    raw.put(receiver("sessions", 1, session=None))
    raw.put(Detach(1, True))
    assert [type(got.body) for got in await raw.read()] == [Attach, Detach]
    raw.frames.clear()
    stage.stored(stage.sessions)
    assert await raw.quiet()
    await raw.receiver("sessions", 3, session="s")
    raw.put(receiver("sessions", 5, session=None))
    raw.put(End())
    await raw.take(End)
    stage.clock.advance(120)
    assert await raw.quiet(Attach, Detach)


async def test_credit_that_came_before_the_session() -> None:
    """It counts from when the session is granted."""
    stage = Stage()
    raw = await Raw.ready(stage.bus)
    raw.put(receiver("sessions", 1, session=None))
    raw.credit(1, 5)
    assert await raw.quiet()
    stage.stored(stage.sessions)
    assert [type(got.body) for got in await raw.read()] == [Attach, Transfer]


async def test_a_link_whose_attach_is_answered_late_gets_nothing_before() -> None:
    """Neither messages nor credit: the client does not know that it has a link."""
    stage = Stage()
    stage.stored(stage.orders)
    raw = await Raw.ready(stage.bus)
    stage.bus.faults.delay("attach", 5, times=2)
    raw.put(receiver("orders", 1))
    raw.credit(1, 5)
    await raw.read()
    raw.put(receiver("sessions", 3, session="s"))
    assert await raw.quiet()
    assert stage.orders.counts().locked == 0
    stage.clock.advance(5)
    assert [type(got.body) for got in await raw.read()] == [Attach, Transfer, Attach]
    raw.settle(raw.frames[1].body.delivery_id, ACCEPTED)
    assert stage.orders.counts().locked == 0


@pytest.mark.parametrize("operation", ["attach", "accept"])
async def test_a_message_that_comes_before_the_attach_is_answered(operation: str) -> None:
    """It waits, like the credit, on a queue and in a session."""
    stage = Stage()
    raw = await Raw.ready(stage.bus)
    stage.bus.faults.delay(operation, 5)
    queue = stage.orders if operation == "attach" else stage.sessions
    raw.put(
        receiver("orders", 1) if operation == "attach" else receiver("sessions", 1, session="s")
    )
    raw.credit(1, 5)
    stage.stored(queue)
    assert await raw.quiet()
    assert queue.counts().active == 1
    stage.clock.advance(5)
    assert [type(got.body) for got in await raw.read()] == [Attach, Transfer]


async def test_an_attach_that_is_refused_late_on_a_session_that_was_ended() -> None:
    """Nothing is sent on a channel whose session is over."""
    stage = Stage()
    raw = await Raw.ready(stage.bus)
    stage.bus.faults.delay("attach", 5)
    raw.put(receiver("nothing of this name", 1), End())
    await raw.take(End)
    stage.clock.advance(5)
    assert await raw.quiet()
