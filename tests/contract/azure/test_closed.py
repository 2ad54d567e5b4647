"""Connections that the service closes in the middle of a request."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import ConnectionFailed, SessionLockLost
from pipeline.names import SessionId
from pipeline.providers.port import Want
from tests.contract.azure.scene import messages, provided
from tests.servicebus.bus import ServiceBus


async def _met(fault: object) -> None:
    while not fault.met:  # type: ignore[attr-defined]  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.01)


@pytest.mark.spec("P10", "P12")
@pytest.mark.parametrize("condition", ["amqp:connection:forced", "amqp:internal-error"])
async def test_a_peek_whose_connection_is_closed_is_a_lost_connection(condition: str) -> None:
    """The SDK says ValueError; the next peek connects anew."""
    async with ServiceBus() as bus, provided(bus, {"q": {"fifo": True}}) as provider:
        bus.queue("q", sessions=True)
        fault = bus.faults.swallow("peek-message", applied=True)
        depth = asyncio.ensure_future(provider.depth("q"))
        await _met(fault)
        bus.close_connections(condition)
        with pytest.raises(ConnectionFailed):
            await depth
        assert (await provider.depth("q")).oldest_age is None


@pytest.mark.spec("P10", "P12", "P14")
async def test_a_settlement_whose_connection_is_closed_loses_the_session() -> None:
    """Whether it took effect nobody knows; what was not settled comes again."""
    async with ServiceBus() as bus, provided(bus, {"q": {"fifo": True}}) as provider:
        queue = bus.queue("q", sessions=True)
        sender, receiver = await provider.sender("q"), await provider.receiver("q")
        await sender.send(messages(b"a", b"b", session=SessionId("s")))
        want = Want(messages=10, wait=5.0, new_sessions=1, per_session=10)
        received = await receiver.receive(want)
        fault = bus.faults.swallow("update-disposition", applied=False)
        settling = asyncio.ensure_future(receiver.complete(received.receipts))
        await _met(fault)
        bus.close_connections("amqp:connection:forced")
        failures = await settling
        kinds = {type(error) for error in failures.values()}
        assert kinds <= {ConnectionFailed, SessionLockLost}, failures
        assert len(failures) == len(received.receipts)
        again = await receiver.receive(want)
        bodies = list(again.batch.values("body"))
        assert bodies == [b"a", b"b"]
        assert await receiver.complete(again.receipts) == {}
        assert queue.counts().active == queue.counts().locked == 0
