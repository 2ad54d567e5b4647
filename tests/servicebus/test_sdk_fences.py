"""Who has lost a session can't touch it any more, with the SDK."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusReceiver
from azure.servicebus.exceptions import SessionLockLostError

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.bus import ServiceBus
from tests.servicebus.sdk import BREAKING, connect, received

pytestmark = [pytest.mark.spec("T2"), *BREAKING]


async def deferred(receiver: ServiceBusReceiver) -> list[int]:
    """Two messages of its session, set aside; their numbers."""
    got = await received(receiver, 2)
    for message in got:
        await receiver.defer_message(message)
    return [message.sequence_number or 0 for message in got]


@pytest.mark.parametrize("held", [True, False], ids=["held by another", "held by nobody"])
async def test_a_stale_holder_is_refused(held: bool) -> None:
    """State, renewal and deferred messages are for the holder, who is not disturbed."""
    async with ServiceBus() as bus, connect(bus) as client:
        queue = bus.queue("orders", sessions=True)
        sent = [ServiceBusMessage(str(number), session_id="a") for number in range(2)]
        await client.get_queue_sender("orders").send_messages(sent)
        stale = client.get_queue_receiver("orders", session_id="a")
        await stale.__aenter__()
        numbers = await deferred(stale)
        await stale.session.set_state(b"old")
        queue.expire_session_locks()
        if held:
            holder = client.get_queue_receiver("orders", session_id="a")
            await holder.__aenter__()
            await holder.session.set_state(b"new")
        uses: list[Callable[[], Awaitable[object]]] = [
            lambda: stale.session.set_state(b"stale"),
            stale.session.get_state,
            stale.session.renew_lock,
            lambda: stale.receive_deferred_messages(numbers),
        ]
        for use in uses:
            with pytest.raises(SessionLockLostError):
                await use()
        assert queue.get_state("a") == (b"new" if held else b"old")
        if held:
            assert len(await holder.receive_deferred_messages(numbers)) == 2


async def test_without_fences_whoever_names_the_session_may() -> None:
    """Assumption sessions_are_fenced: False."""
    async with (
        ServiceBus(assumptions=Assumptions(sessions_are_fenced=False)) as bus,
        connect(bus) as client,
    ):
        queue = bus.queue("orders", sessions=True)
        stale = client.get_queue_receiver("orders", session_id="a")
        await stale.__aenter__()
        queue.expire_session_locks()
        await stale.session.set_state(b"stale")
        assert queue.get_state("a") == b"stale"
