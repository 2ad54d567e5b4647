"""What a connection to SQS tells of itself: its pools, and what was disposed of here."""

from __future__ import annotations

import asyncio
import logging

import pytest

from pipeline.errors import ConnectionFailed
from pipeline.message import Message
from pipeline.providers.aws.calls import RECEIVE
from tests.contract.aws.bench import dead_name
from tests.contract.aws.own import STANDARD, both_clients, own, want
from tests.sqs import faults


@both_clients
@pytest.mark.spec("P7")
async def test_the_pools_tell_what_they_do(client: str) -> None:
    """A poll under way, and none after it; its connections are opened once and used again."""
    async with own(client, STANDARD) as at:
        lane = await at.receiver()
        at.sqs.faults.next(RECEIVE, faults.Slow(before=0.2))
        receive = asyncio.create_task(lane.receive(want(1, wait=1.0)))
        await at.sqs.reached(RECEIVE)
        assert at.provider.figures()["polls_in_use"] == 1
        await at.fill("a", "b")
        received = await receive
        await lane.complete(received.receipts)
        for _ in range(3):
            await lane.receive(want(1))
        figures = at.provider.figures()
        assert (figures["polls_in_use"], figures["calls_in_use"]) == (0, 0)
        if client == "lean":
            assert figures["polls_opened"] == figures["calls_opened"] == 1
            assert (figures["polls_waited"], figures["calls_waited"]) == (0, 0)


@pytest.mark.spec("P7")
async def test_calls_that_wait_for_a_connection_are_counted() -> None:
    """The pool of one queue's lanes is for all of them: more lanes than it has wait."""
    async with own("lean", STANDARD, keys={"calls": 1}) as at:
        lanes = [await at.receiver() for _ in range(3)]
        await asyncio.gather(*(lane.receive(want(1, wait=1.0)) for lane in lanes))
        assert at.provider.figures()["polls_opened"] == 2
        assert at.provider.figures()["polls_waited"] == 1


@both_clients
@pytest.mark.spec("M2", "P7")
@pytest.mark.parametrize("how", ["drop", "dead_letter"])
async def test_what_expired_is_counted(client: str, how: str) -> None:
    """Whatever becomes of it."""
    async with own(client, STANDARD, on_expiry=how) as at:
        at.sqs.create(dead_name(STANDARD))
        await at.send(Message(b"old", time_to_live=0.001), Message(b"young"))
        await asyncio.sleep(0.002)
        lane = await at.receiver()
        while not len((await lane.receive(want(wait=1.0))).batch):
            continue
        assert at.provider.figures()["expired"] == 1


@pytest.mark.spec("P9")
async def test_an_endpoint_without_tls_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Unless it is on this machine."""
    async with own("lean", STANDARD) as at:
        assert "http://" not in caplog.text
        with caplog.at_level(logging.WARNING), pytest.raises(ConnectionFailed):
            await at.another(endpoint="http://sqs.example.invalid:9324", calls=1)
    assert "connections.main.endpoint begins with http://" in caplog.text
