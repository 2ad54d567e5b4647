"""Batches: what is refused as a whole, and what fails entry by entry."""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sqs.rig import At, bodies, code

OLD = "AWS.SimpleQueueService."


def entries(*bodies: str) -> list[dict[str, Any]]:
    """Entries to send, numbered."""
    return [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]


async def send(queue: At, found: list[dict[str, Any]]) -> dict[str, Any]:
    """Send them."""
    result: dict[str, Any] = await queue.sqs.send_message_batch(QueueUrl=queue.url, Entries=found)
    return result


async def test_ten_at_once(standard: At) -> None:
    """Sent, changed and deleted."""
    result = await send(standard, entries(*"0123456789"))
    assert "Failed" not in result
    assert [entry["Id"] for entry in result["Successful"]] == list("0123456789")
    messages = await standard.receive()
    assert sorted(bodies(messages)) == list("0123456789")
    given = [
        {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
        for number, message in enumerate(messages)
    ]
    zero = [entry | {"VisibilityTimeout": 0} for entry in given[:5]]
    changed = await standard.sqs.change_message_visibility_batch(
        QueueUrl=standard.url, Entries=zero
    )
    assert len(changed["Successful"]) == 5
    deleted = await standard.sqs.delete_message_batch(QueueUrl=standard.url, Entries=given)
    assert len(deleted["Successful"]) == 10
    assert await standard.receive() == []


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], "EmptyBatchRequest"),
        (entries(*"0123456789a"), "TooManyEntriesInBatchRequest"),
        (entries("a") + entries("b"), "BatchEntryIdsNotDistinct"),
        ([{"Id": "a b", "MessageBody": "x"}], "InvalidBatchEntryId"),
        (entries("x" * 524_288, "x" * 524_289), "BatchRequestTooLong"),
    ],
    ids=["empty", "eleven", "same ids", "bad id", "too long"],
)
async def test_a_batch_is_refused_as_a_whole(
    standard: At, found: list[dict[str, Any]], expected: str
) -> None:
    with pytest.raises(ClientError) as caught:
        await send(standard, found)
    assert code(caught.value) == OLD + expected
    assert await standard.receive() == []


async def test_a_bad_entry_fails_alone(standard: At) -> None:
    result = await send(standard, entries("good", "bad\x00"))
    assert [entry["Id"] for entry in result["Successful"]] == ["0"]
    (failed,) = result["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == (
        "1",
        "InvalidMessageContents",
        True,
    )


async def test_a_bad_handle_fails_alone(standard: At) -> None:
    await standard.send()
    (message,) = await standard.receive()
    given = [
        {"Id": "good", "ReceiptHandle": message["ReceiptHandle"]},
        {"Id": "bad", "ReceiptHandle": "nonsense"},
    ]
    result = await standard.sqs.delete_message_batch(QueueUrl=standard.url, Entries=given)
    assert [entry["Id"] for entry in result["Successful"]] == ["good"]
    assert [entry["Code"] for entry in result["Failed"]] == ["ReceiptHandleIsInvalid"]


async def test_a_fifo_batch_keeps_its_order_and_drops_duplicates(fifo: At) -> None:
    found = [
        entry | {"MessageGroupId": "g", "MessageDeduplicationId": entry["MessageBody"]}
        for entry in entries("a", "b", "a", "c")
    ]
    result = await send(fifo, found)
    ids = [entry["MessageId"] for entry in result["Successful"]]
    assert ids[0] == ids[2]
    assert bodies(await fifo.receive()) == ["a", "b", "c"]
