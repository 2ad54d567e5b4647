"""Time to live at SQS, which knows none: it is judged at receive, and keeps the order (SPEC M2)."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.message import Message
from pipeline.names import SessionId
from pipeline.providers.port import DeadLetter, Sent
from tests.contract.aws.bench import dead_name
from tests.contract.aws.own import FIFO, Own, bodies, both_clients, own, want

SHORT = 0.01


async def send(at: Own, group: str, body: bytes, lives: float | None = None) -> None:
    """One message."""
    [sent] = await at.send(Message(body, session=SessionId(group), time_to_live=lives))
    assert isinstance(sent, Sent)


@both_clients
@pytest.mark.spec("F3", "M2", "R3")
async def test_nothing_of_a_group_passes_an_expired_one_that_stays(client: str) -> None:
    """There is no dead-letter queue for it: its group waits, and others go on."""
    async with own(client) as at:
        await send(at, "g", b"old", SHORT)
        await send(at, "g", b"young")
        await send(at, "other", b"free")
        await asyncio.sleep(2 * SHORT)
        lane = await at.receiver()
        received = await lane.receive(want(wait=1.0))
        assert bodies(received) == ["free"]
        assert at.provider.figures()["expired"] == 0
        at.sqs.create(dead_name(FIFO))
        at.sqs.expire(FIFO)
        while not bodies(received := await lane.receive(want(wait=1.0))):
            continue
        assert "young" in bodies(received)
        assert at.sqs.depth(dead_name(FIFO)) == (1, 0, 0)


@both_clients
@pytest.mark.spec("M2", "R3")
async def test_a_dead_letter_does_not_expire_a_second_time(client: str) -> None:
    """It is there for whoever looks at it, however late."""
    async with own(client, create=True, time_to_live=SHORT) as at:
        lane = await at.receiver()
        await send(at, "g", b"x", 60.0)
        received = await lane.receive(want(wait=1.0))
        assert not await lane.dead_letter(received.receipts, [DeadLetter("rejected")])
        await send(at, "g", b"y", SHORT)
        await asyncio.sleep(2 * SHORT)
        assert not (await lane.receive(want())).receipts
        await asyncio.sleep(2 * SHORT)
        dead = await at.receiver(dead_letters=True)
        found = await dead.receive(want(wait=1.0))
        assert bodies(found) == ["x", "y"]
        assert found.batch.values("dead_letter_reason") == ["rejected", "expired"]
