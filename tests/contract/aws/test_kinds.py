"""What a queue is at SQS, and whose, has to go with what the configuration asks of it."""

from __future__ import annotations

import json

import pytest

from pipeline import errors
from pipeline.providers.port import DeadLetter
from tests.contract.aws.own import FIFO, STANDARD, both_clients, own, want
from tests.contract.aws.test_receiving import record
from tests.sqs.endpoint import Endpoint


@pytest.mark.spec("P4", "P5")
async def test_a_fifo_queue_can_not_be_read_without_order() -> None:
    """Its groups would be blocked all the same: the configuration has to say what is."""
    async with own("lean", FIFO, fifo=False) as at, at.client() as caller:
        with pytest.raises(errors.ConfigurationError, match=r"orders\.fifo is a FIFO queue: must"):
            await caller.receive(at.queue, wait=0)


@pytest.mark.spec("P4")
async def test_a_standard_queue_goes_without_order_where_that_is_allowed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With a warning."""
    more = {"fifo": True, "on_unsupported_sessions": "unordered"}
    async with own("lean", STANDARD, **more) as at:
        await at.receiver()
        assert "orders is a standard queue at SQS: its messages are handled without" in caplog.text


@both_clients
@pytest.mark.spec("P8", "R3")
async def test_a_queue_of_another_account_is_looked_for_there(client: str) -> None:
    """And its dead-letter queue where the redrive policy says."""
    endpoint = Endpoint()
    arn = endpoint.arn("elsewhere").replace("000000000000", "210987654321")
    endpoint.create("elsewhere")
    endpoint.create(STANDARD)
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 50})
    endpoint.service.queues[STANDARD].settings.change({"RedrivePolicy": policy})
    async with own(client, STANDARD, sqs=endpoint, account="123456789012") as at:
        asked = record(at, "GetQueueUrl")
        await at.another()
        await at.fill("x")
        lane = await at.receiver()
        received = await lane.receive(want(wait=1.0))
        assert not await lane.dead_letter(received.receipts, [DeadLetter("rejected")])
        assert [(one["QueueName"], one["QueueOwnerAWSAccountId"]) for one in asked] == [
            ("orders", "123456789012"),
            ("elsewhere", "210987654321"),
        ]
        assert endpoint.depth("elsewhere") == (1, 0, 0)
