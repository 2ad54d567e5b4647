"""Queues themselves, redrive, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, bodies, client, code

SENT = {"MessageGroupId": "g", "MessageDeduplicationId": "d"}
OLD = "AWS.SimpleQueueService."


async def refused(work: Any) -> str:
    """The code that a call is refused with."""
    with pytest.raises(ClientError) as caught:
        await work
    return code(caught.value)


@pytest.mark.parametrize("suffix", ["", ".fifo"])
async def test_redrive_after_so_many_receives(
    endpoint: Endpoint, sqs: Any, clock: MovableClock, suffix: str
) -> None:
    """On the receive after the last one, in the queue's place the dead-letter queue has it."""
    dead = At(sqs, endpoint.create(f"dead{suffix}"))
    policy = json.dumps(
        {"maxReceiveCount": 2, "deadLetterTargetArn": endpoint.arn(f"dead{suffix}")}
    )
    source = At(sqs, endpoint.create(f"source{suffix}", RedrivePolicy=policy))
    group = "g" if suffix else None
    sent = await source.send("bad", group)
    await source.send("good", group)
    for _ in range(2):
        (message,) = await source.receive(1, VisibilityTimeout=10)
        if not suffix and message["Body"] == "good":
            (message,) = await source.receive(1, VisibilityTimeout=10)
        assert message["Body"] == "bad"
        await source.change(message, 0)
    assert await dead.receive() == []
    clock.advance(10)
    assert bodies(await source.receive()) == ["good"]
    (buried,) = await dead.receive()
    assert buried["MessageId"] == sent["MessageId"]
    assert buried["Attributes"]["DeadLetterQueueSourceArn"] == endpoint.arn(f"source{suffix}")
    assert endpoint.depth(f"source{suffix}") == (0, 1, 0)


async def test_a_dead_letter_queue_counts_from_its_own_receives(
    endpoint: Endpoint, sqs: Any
) -> None:
    """It tells all receives, and does not dead-letter again for those of before."""
    endpoint.create("last")
    for name, target in (("middle", "last"), ("first", "middle")):
        policy = {"maxReceiveCount": 1, "deadLetterTargetArn": endpoint.arn(target)}
        endpoint.create(name, RedrivePolicy=json.dumps(policy))
    first, middle = (At(sqs, endpoint.service.url(name)) for name in ("first", "middle"))
    await first.send()
    (message,) = await first.receive()
    await first.change(message, 0)
    assert await first.receive() == []
    (message,) = await middle.receive()
    assert message["Attributes"]["ApproximateReceiveCount"] == "2"


async def test_a_redrive_policy_needs_a_queue_of_the_same_kind(
    endpoint: Endpoint, sqs: Any
) -> None:
    endpoint.create("dead")
    for name, arn in (("a", endpoint.arn("missing")), ("a.fifo", endpoint.arn("dead"))):
        policy = json.dumps({"maxReceiveCount": "2", "deadLetterTargetArn": arn})
        attributes = {"RedrivePolicy": policy} | ({"FifoQueue": "true"} if "." in name else {})
        made = sqs.create_queue(QueueName=name, Attributes=attributes)
        assert await refused(made) == "InvalidParameterValue"


async def test_a_queue_is_made_found_listed_changed_and_deleted(sqs: Any) -> None:
    url = (await sqs.create_queue(QueueName="q.fifo", Attributes={"FifoQueue": "true"}))["QueueUrl"]
    assert (await sqs.get_queue_url(QueueName="q.fifo"))["QueueUrl"] == url
    assert (await sqs.list_queues(QueueNamePrefix="q"))["QueueUrls"] == [url]
    assert "QueueUrls" not in await sqs.list_queues(QueueNamePrefix="z")
    queue = At(sqs, url)
    await sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "7"})
    told = await queue.attributes()
    assert told["VisibilityTimeout"] == "7"
    assert told["MaximumMessageSize"] == "1048576"
    assert told["FifoQueue"] == "true"
    assert told["QueueArn"].endswith(":q.fifo")
    assert await queue.attributes("DelaySeconds") == {"DelaySeconds": "0"}
    await sqs.delete_queue(QueueUrl=url)
    assert await refused(queue.receive()) == OLD + "NonExistentQueue"


async def test_a_missing_queue_has_both_names(sqs: Any) -> None:
    """The SDK's exception is named as in the JSON protocol, its code as in the older one."""
    with pytest.raises(sqs.exceptions.QueueDoesNotExist) as caught:
        await sqs.get_queue_url(QueueName="missing")
    assert code(caught.value) == OLD + "NonExistentQueue"


async def test_a_queue_with_other_attributes_is_another(endpoint: Endpoint, sqs: Any) -> None:
    endpoint.create("same", VisibilityTimeout="5")
    await sqs.create_queue(QueueName="same", Attributes={"VisibilityTimeout": "5"})
    again = sqs.create_queue(QueueName="same", Attributes={"VisibilityTimeout": "6"})
    assert await refused(again) == "QueueAlreadyExists"


async def test_bad_attributes_are_refused(sqs: Any) -> None:
    for attributes, expected in (
        ({"VisibilityTimeout": "43201"}, "InvalidAttributeValue"),
        ({"Nonsense": "1"}, "InvalidAttributeName"),
        ({"ContentBasedDeduplication": "true"}, "InvalidAttributeName"),
    ):
        made = sqs.create_queue(QueueName="bad", Attributes=attributes)
        assert await refused(made) == expected


async def test_purge_empties_a_queue_once_a_minute(
    endpoint: Endpoint, standard: At, clock: MovableClock
) -> None:
    await standard.send()
    await standard.send(DelaySeconds=5)
    await standard.receive(1)
    await standard.sqs.purge_queue(QueueUrl=standard.url)
    assert endpoint.depth("standard") == (0, 0, 0)
    again = OLD + "PurgeQueueInProgress"
    assert await refused(standard.sqs.purge_queue(QueueUrl=standard.url)) == again
    clock.advance(60)
    await standard.sqs.purge_queue(QueueUrl=standard.url)


@pytest.mark.parametrize(
    ("body", "more", "expected"),
    [
        ("a\x0bb", {}, "InvalidMessageContents"),
        ("\ufffe", {}, "InvalidMessageContents"),
        ("x" * 1_048_577, {}, "InvalidParameterValue"),
        ("x", {"DelaySeconds": 901}, "InvalidParameterValue"),
        ("x", {"MessageDeduplicationId": "d"}, "InvalidParameterValue"),
    ],
    ids=["vertical tab", "no character", "too large", "delay", "deduplication id"],
)
async def test_a_standard_queue_refuses(
    standard: At, body: str, more: dict[str, Any], expected: str
) -> None:
    assert await refused(standard.send(body, **more)) == expected


async def test_the_largest_body_is_taken(standard: At) -> None:
    """In two-byte characters, so that bytes are counted and not characters."""
    await standard.send("é" * 524_288)
    assert len((await standard.receive())[0]["Body"]) == 524_288


async def test_attributes_count_into_the_size_and_are_ten_at_most(
    endpoint: Endpoint, sqs: Any
) -> None:
    queue = At(sqs, endpoint.create("small", MaximumMessageSize="1024"))
    one = {"DataType": "String", "StringValue": "v"}
    await queue.send("x" * 1_024)
    assert await refused(queue.send("x" * 1_017, MessageAttributes={"n": one})) == (
        "InvalidParameterValue"
    )
    await queue.send("x" * 1_016, MessageAttributes={"n": one})
    many = {f"n{number}": one for number in range(11)}
    assert await refused(queue.send(MessageAttributes=many)) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"MessageDeduplicationId": "d"}, "MissingParameter"),
        (SENT | {"DelaySeconds": 1}, "InvalidParameterValue"),
        (SENT | {"MessageGroupId": "g" * 129}, "InvalidParameterValue"),
    ],
    ids=["no group", "delay", "long group"],
)
async def test_a_fifo_queue_refuses(fifo: At, more: dict[str, Any], expected: str) -> None:
    assert await refused(fifo.send("x", **more)) == expected


async def test_an_attempt_id_is_for_fifo_queues(standard: At) -> None:
    attempt = standard.receive(ReceiveRequestAttemptId="one")
    assert await refused(attempt) == "InvalidParameterValue"


async def test_what_the_sdk_would_not_send_is_refused(endpoint: Endpoint, fifo: At) -> None:
    """A client of one's own is told what was wrong with its JSON."""
    async with client(endpoint.url, config=Config(parameter_validation=False)) as lax:
        queue = At(lax, fifo.url)
        for work in (
            queue.receive(most="ten"),
            lax.send_message_batch(QueueUrl=fifo.url, Entries=[{}]),
        ):
            assert await refused(work) == "SerializationException"
        assert await refused(lax.list_queue_tags(QueueUrl=fifo.url)) == "InvalidAction"


async def test_a_receive_asks_for_ten_at_most(standard: At) -> None:
    assert await refused(standard.receive(11)) == "InvalidParameterValue"
