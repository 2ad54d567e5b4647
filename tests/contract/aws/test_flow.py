"""The whole flow, its cores joined without Ray, at the project's own SQS endpoint."""

from __future__ import annotations

import asyncio
import json

import pytest

from pipeline.clock import SystemClock
from pipeline.config import MemoryQueue
from pipeline.handlers.api import handler
from pipeline.retry import RetryPolicy
from pipeline.testing.flow import Flow, FlowSettings
from tests.contract.aws.bench import dead_name
from tests.contract.aws.own import FIFO, bodies, both_clients, own, want
from tests.sqs.endpoint import Endpoint

ATTEMPTS = 4


@both_clients
@pytest.mark.parametrize("hold", [60.0, 0.2], ids=["held", "given back"])
@pytest.mark.spec("F3", "R3", "P4")
async def test_nobody_passes_the_head_of_a_group_through_all_its_attempts(
    client: str, hold: float
) -> None:
    """Nine wait behind it: none is handled or dead-lettered before, and their order holds.

    Nor where it is given back between its attempts, because its delays are longer than
    `retry.hold`: its group waits at SQS, and comes once for each attempt.
    """
    log: list[str] = []

    @handler
    async def note(body: str) -> None:
        log.append(body)
        if body == "head":
            raise RuntimeError("never")

    sqs = Endpoint()
    sqs.create(dead_name(FIFO))
    policy = {"deadLetterTargetArn": sqs.arn(dead_name(FIFO)), "maxReceiveCount": 3 * ATTEMPTS}
    attributes = {"RedrivePolicy": json.dumps(policy)}
    nine = [str(number) for number in range(9)]
    async with own(client, sqs=sqs, attributes=attributes, send={"batch_groups": True}) as at:
        await at.fill("head", *nine)
        await at.fill("a", "b", "c", group="other")
        flow = Flow(
            note,
            FlowSettings(
                queue=MemoryQueue(connection="m", fifo=True),
                receivers=2,
                handlers=2,
                wait=1.0,
                hold=hold,
                retry=RetryPolicy(ATTEMPTS, 1.0, 2.0, 1.0, jitter="half"),
            ),
            SystemClock(),
            name=FIFO,
        )
        flow.provider = await at.another()  # type: ignore[assignment]
        async with flow, asyncio.timeout(60):
            await flow.settled()
            times = 1 if hold > 1 else ATTEMPTS
            received = sum(receiver.stats()["received"] for receiver in flow.receivers)
            assert received == times * (1 + len(nine)) + 3
        assert [text for text in log if text in "abc"] == ["a", "b", "c"]
        assert [text for text in log if text not in "abc"] == ["head"] * ATTEMPTS + nine
        assert sqs.depth(FIFO) == (0, 0, 0)
        dead = await (await at.receiver(dead_letters=True)).receive(want())
        assert bodies(dead) == ["head"]
        assert dead.batch.values("dead_letter_reason") == ["attempts_exhausted"]
