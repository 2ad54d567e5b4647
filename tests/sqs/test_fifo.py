"""FIFO queues: blocked groups, order, deduplication, attempts, expired handles."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, bodies, code


async def fill(queue: At, *bodies: str) -> None:
    """Send them; the group is the first letter."""
    for body in bodies:
        await queue.send(body, group=body[0])


async def test_one_receive_brings_several_of_a_group_in_order(fifo: At) -> None:
    await fill(fifo, "a1", "b1", "a2", "a3")
    assert bodies(await fifo.receive(3)) == ["a1", "a2", "a3"]


async def test_a_group_is_blocked_while_one_of_it_is_in_flight(fifo: At) -> None:
    """The others are not."""
    await fill(fifo, "a1", "a2", "b1")
    (first,) = await fifo.receive(1)
    assert first["Body"] == "a1"
    assert bodies(await fifo.receive()) == ["b1"]
    assert await fifo.receive() == []
    await fifo.delete(first)
    assert bodies(await fifo.receive()) == ["a2"]


async def test_visibility_zero_frees_the_group(fifo: At) -> None:
    await fill(fifo, "a1", "a2")
    (first,) = await fifo.receive(1)
    await fifo.change(first, 0)
    assert bodies(await fifo.receive()) == ["a1", "a2"]


async def test_after_a_partial_delete_the_rest_comes_back_in_order(
    fifo: At, clock: MovableClock
) -> None:
    """And the group stays blocked until the last of it is visible or deleted."""
    await fill(fifo, "a1", "a2", "a3", "a4")
    first, second, third = await fifo.receive(3, VisibilityTimeout=10)
    await fifo.delete(second)
    await fifo.change(third, 0)
    assert await fifo.receive() == []
    clock.advance(10)
    assert bodies(await fifo.receive()) == ["a1", "a3", "a4"]
    assert first["Body"] == "a1"


async def test_sequence_numbers_grow(fifo: At) -> None:
    """They have twenty digits, and a receive tells those that the sends told."""
    sent = [(await fifo.send(str(n), group="g"))["SequenceNumber"] for n in range(3)]
    got = [message["Attributes"]["SequenceNumber"] for message in await fifo.receive()]
    assert sent == got == sorted(set(sent))
    assert {len(number) for number in sent} == {20}


async def test_a_duplicate_is_answered_with_the_first_ones_id(
    fifo: At, clock: MovableClock
) -> None:
    """Within the window, also after the first one was deleted."""
    first = await fifo.send("x", group="g")
    (message,) = await fifo.receive()
    await fifo.delete(message)
    again = await fifo.send("other", group="h", MessageDeduplicationId="x")
    assert again["MessageId"] == first["MessageId"]
    assert again["SequenceNumber"] == first["SequenceNumber"]
    assert await fifo.receive() == []
    clock.advance(300)
    assert (await fifo.send("x", group="g"))["MessageId"] != first["MessageId"]


async def test_deduplication_by_content(endpoint: Endpoint, fifo: At) -> None:
    """Where the queue has it; elsewhere an id is needed."""
    url = endpoint.create("content.fifo", ContentBasedDeduplication="true")
    content = At(fifo.sqs, url)
    ids = [(await content.send(body, MessageGroupId="g"))["MessageId"] for body in "aab"]
    assert ids[0] == ids[1] != ids[2]
    with pytest.raises(ClientError, match="ContentBasedDeduplication") as caught:
        await fifo.send("a", MessageGroupId="g")
    assert code(caught.value) == "InvalidParameterValue"


async def test_deduplication_by_group(endpoint: Endpoint, fifo: At) -> None:
    url = endpoint.create("by-group.fifo", DeduplicationScope="messageGroup")
    queue = At(fifo.sqs, url)
    for group in "aab":
        await queue.send("x", group=group)
    assert len(await queue.receive()) == 2


async def test_an_expired_handle_neither_deletes_nor_changes(fifo: At, clock: MovableClock) -> None:
    await fill(fifo, "a1")
    (message,) = await fifo.receive(VisibilityTimeout=10)
    clock.advance(10)
    for work in (fifo.delete(message), fifo.change(message, 10)):
        with pytest.raises(ClientError, match="The receipt handle has expired") as caught:
            await work
        assert code(caught.value) == "InvalidParameterValue"
    entries = [{"Id": "0", "ReceiptHandle": message["ReceiptHandle"]}]
    result = await fifo.sqs.delete_message_batch(QueueUrl=fifo.url, Entries=entries)
    (failed,) = result["Failed"]
    assert (failed["Code"], failed["SenderFault"]) == ("ReceiptHandleIsInvalid", True)


async def test_a_delete_that_comes_twice_succeeds(fifo: At) -> None:
    await fill(fifo, "a1")
    (message,) = await fifo.receive()
    await fifo.delete(message)
    await fifo.delete(message)


async def test_an_attempt_that_is_repeated_brings_the_same(fifo: At) -> None:
    """The same messages with the same handles; under another id the group is blocked."""
    await fill(fifo, "a1", "a2")
    first = await fifo.receive(ReceiveRequestAttemptId="one")
    again = await fifo.receive(ReceiveRequestAttemptId="one")
    assert [m["ReceiptHandle"] for m in again] == [m["ReceiptHandle"] for m in first]
    assert bodies(again) == ["a1", "a2"]
    assert await fifo.receive(ReceiveRequestAttemptId="two") == []


async def test_an_attempt_is_over_once_one_of_it_was_settled(fifo: At) -> None:
    await fill(fifo, "a1", "a2")
    first = await fifo.receive(ReceiveRequestAttemptId="one")
    await fifo.delete(first[0])
    assert await fifo.receive(ReceiveRequestAttemptId="one") == []


async def test_a_delay_of_the_queue_blocks_the_group(
    endpoint: Endpoint, fifo: At, clock: MovableClock
) -> None:
    queue = At(fifo.sqs, endpoint.create("late.fifo", DelaySeconds="5"))
    await fill(queue, "a1")
    clock.advance(3)
    await fill(queue, "a2")
    clock.advance(2)
    (first,) = await queue.receive()
    assert first["Body"] == "a1"
    clock.advance(3)
    assert await queue.receive() == []
    await queue.delete(first)
    assert bodies(await queue.receive()) == ["a2"]


async def test_groups_take_turns(fifo: At) -> None:
    """A group that comes back waits behind those that were not given yet."""
    await fill(fifo, "a1", "b1", "c1")
    for expected in ("a1", "b1", "c1", "a1"):
        (message,) = await fifo.receive(1)
        assert message["Body"] == expected
        await fifo.change(message, 0)
