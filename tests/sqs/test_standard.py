"""Standard queues: visibility, delays, handles, long polls, attributes."""

from __future__ import annotations

import asyncio

import pytest
from botocore.exceptions import ClientError

from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, bodies, client, code


async def test_what_is_sent_is_received_with_its_attributes_and_sums(standard: At) -> None:
    """Body, attributes and sums come back; SQS gives the message its id."""
    attributes = {
        "text": {"DataType": "String", "StringValue": "é"},
        "bytes": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    }
    sent = await standard.send("hello", MessageAttributes=attributes, MessageGroupId="fair")
    (message,) = await standard.receive()
    assert message["Body"] == "hello"
    assert message["MessageId"] == sent["MessageId"]
    assert message["MD5OfBody"] == sent["MD5OfMessageBody"] == "5d41402abc4b2a76b9719d911017c592"
    assert message["MD5OfMessageAttributes"] == sent["MD5OfMessageAttributes"]
    assert message["MessageAttributes"]["bytes"]["BinaryValue"] == b"\x00\xff"
    assert message["MessageAttributes"]["text"]["StringValue"] == "é"
    assert message["Attributes"]["ApproximateReceiveCount"] == "1"
    assert message["Attributes"]["MessageGroupId"] == "fair"


async def test_a_sum_of_attributes_is_that_of_the_service(standard: At) -> None:
    """The sum of one attribute as computed by hand from the documentation's algorithm."""
    attributes = {"n": {"DataType": "String", "StringValue": "v"}}
    sent = await standard.send(MessageAttributes=attributes)
    assert sent["MD5OfMessageAttributes"] == "f4b238699da710fd012839c16c09f1ca"


async def test_a_delivery_is_invisible_until_its_time_is_over(
    standard: At, clock: MovableClock
) -> None:
    """It comes back when visibility ends, counted; change prolongs it."""
    await standard.send()
    (message,) = await standard.receive(VisibilityTimeout=10)
    await standard.change(message, 30)
    clock.advance(29)
    assert await standard.receive() == []
    clock.advance(1)
    (again,) = await standard.receive()
    assert again["Attributes"]["ApproximateReceiveCount"] == "2"
    assert again["ReceiptHandle"] != message["ReceiptHandle"]


async def test_visibility_zero_gives_it_back_at_once(standard: At) -> None:
    await standard.send()
    (message,) = await standard.receive()
    await standard.change(message, 0)
    assert len(await standard.receive()) == 1


async def test_an_old_handle_deletes_nothing_and_succeeds(
    standard: At, clock: MovableClock
) -> None:
    """As do a delete that comes twice and a change of an expired handle."""
    await standard.send()
    (old,) = await standard.receive(VisibilityTimeout=10)
    clock.advance(10)
    await standard.change(old, 100)
    (new,) = await standard.receive()
    await standard.delete(old)
    assert (await standard.attributes())["ApproximateNumberOfMessagesNotVisible"] == "1"
    await standard.delete(new)
    await standard.delete(new)
    assert (await standard.attributes())["ApproximateNumberOfMessagesNotVisible"] == "0"


async def test_an_expired_handle_still_deletes_what_nobody_else_received(
    standard: At, clock: MovableClock
) -> None:
    await standard.send()
    (message,) = await standard.receive(VisibilityTimeout=10)
    clock.advance(10)
    await standard.delete(message)
    assert await standard.receive() == []


async def test_a_deleted_message_has_no_visibility_to_change(standard: At) -> None:
    await standard.send()
    (message,) = await standard.receive()
    await standard.delete(message)
    with pytest.raises(ClientError, match="does not exist or is not available") as caught:
        await standard.change(message, 10)
    assert code(caught.value) == "InvalidParameterValue"


@pytest.mark.parametrize("handle", ["nonsense", "another queue's"])
async def test_a_wrong_handle_is_invalid(endpoint: Endpoint, standard: At, handle: str) -> None:
    """One that was never given, and one that another queue gave."""
    other = At(standard.sqs, endpoint.create("other"))
    await other.send()
    (message,) = await other.receive()
    if handle == "nonsense":
        message["ReceiptHandle"] = handle
    for work in (standard.delete(message), standard.change(message, 5)):
        with pytest.raises(ClientError) as caught:
            await work
        assert code(caught.value) == "ReceiptHandleIsInvalid"


async def test_visibility_ends_twelve_hours_after_the_receive(
    standard: At, clock: MovableClock
) -> None:
    await standard.send()
    (message,) = await standard.receive(VisibilityTimeout=43_200)
    clock.advance(60)
    with pytest.raises(ClientError, match="beyond the limit"):
        await standard.change(message, 43_200)
    await standard.change(message, 43_140)


async def test_a_delay_hides_what_was_sent(
    endpoint: Endpoint, standard: At, clock: MovableClock
) -> None:
    await standard.send(DelaySeconds=60)
    assert await standard.receive() == []
    assert endpoint.depth("standard") == (0, 0, 1)
    clock.advance(60)
    assert len(await standard.receive()) == 1


async def test_a_long_poll_wakes_when_a_message_comes(endpoint: Endpoint, standard: At) -> None:
    """Whoever waits gets it; the wait of the client is far shorter than the poll's."""
    poll = asyncio.create_task(standard.receive(WaitTimeSeconds=20))
    await endpoint.reached("ReceiveMessage")
    await standard.send("now")
    assert bodies(await poll) == ["now"]


async def test_a_long_poll_wakes_when_a_lock_ends(
    endpoint: Endpoint, standard: At, clock: MovableClock
) -> None:
    await standard.send("again")
    await standard.receive(VisibilityTimeout=600)
    poll = asyncio.create_task(standard.receive(WaitTimeSeconds=20))
    await endpoint.reached("ReceiveMessage", 2)
    clock.advance(600)
    endpoint.look_again()
    assert bodies(await poll) == ["again"]


async def test_a_long_poll_wakes_by_itself_on_a_real_clock() -> None:
    """Without anybody calling in between."""
    async with Endpoint() as endpoint, client(endpoint.url) as sqs:
        queue = At(sqs, endpoint.create("real"))
        await queue.send("delayed", DelaySeconds=1)
        assert bodies(await queue.receive(WaitTimeSeconds=20)) == ["delayed"]


async def test_a_long_poll_ends_empty(standard: At) -> None:
    assert await standard.receive(WaitTimeSeconds=1) == []


async def test_what_a_cancelled_poll_takes_is_in_flight_to_nobody(
    endpoint: Endpoint, standard: At
) -> None:
    """The service doesn't see that the caller has hung up."""
    poll = asyncio.create_task(standard.receive(WaitTimeSeconds=20))
    await endpoint.reached("ReceiveMessage")
    poll.cancel()
    with pytest.raises(asyncio.CancelledError):
        await poll
    await standard.send()
    assert endpoint.depth("standard") == (0, 1, 0)


async def test_polls_of_a_deleted_queue_end_with_an_error(endpoint: Endpoint, standard: At) -> None:
    poll = asyncio.create_task(standard.receive(WaitTimeSeconds=20))
    await endpoint.reached("ReceiveMessage")
    await standard.sqs.delete_queue(QueueUrl=standard.url)
    with pytest.raises(ClientError) as caught:
        await poll
    assert code(caught.value) == "AWS.SimpleQueueService.NonExistentQueue"


async def test_too_many_in_flight() -> None:
    """A standard queue says OverLimit; a FIFO queue gives nothing."""
    async with Endpoint(in_flight_limit=2) as endpoint, client(endpoint.url) as sqs:
        plain = At(sqs, endpoint.create("plain"))
        ordered = At(sqs, endpoint.create("o.fifo"))
        for number in "123":
            await plain.send(number)
            await ordered.send(number, group=number)
        assert len(await plain.receive()) == 2
        assert len(await ordered.receive()) == 2
        with pytest.raises(ClientError) as caught:
            await plain.receive()
        assert code(caught.value) == "OverLimit"
        assert await ordered.receive() == []
