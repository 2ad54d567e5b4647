"""Each fault does to the real client what it says."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    ResponseStreamingError,
)

from tests.sqs import faults
from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, bodies, client, code

BROKEN = (EndpointConnectionError, ConnectionClosedError, ResponseStreamingError)


async def failure(work: Any) -> ClientError:
    """The service's refusal of a call."""
    with pytest.raises(ClientError) as caught:
        await work
    return caught.value


@pytest.mark.parametrize(
    ("fault", "expected", "status"),
    [
        (faults.throttle(), "ThrottlingException", 400),
        (faults.throttle("RequestThrottled"), "RequestThrottled", 400),
        (faults.server_error(), "InternalFailure", 500),
        (faults.server_error(503), "ServiceUnavailable", 503),
        (faults.over_limit(), "OverLimit", 400),
        (faults.access_denied(), "AccessDenied", 403),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_refusal(
    endpoint: Endpoint, standard: At, fault: faults.Fault, expected: str, status: int
) -> None:
    """Nothing is done; the call after it passes."""
    endpoint.faults.next("SendMessage", fault)
    error = await failure(standard.send())
    assert code(error) == expected
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert endpoint.depth("standard") == (0, 0, 0)
    await standard.send()
    assert endpoint.calls["SendMessage"] == 2
    assert [action for _, action in endpoint.arrivals] == ["SendMessage"] * 2


async def test_a_throttle_says_how_long_to_wait(endpoint: Endpoint, standard: At) -> None:
    endpoint.faults.next("*", faults.throttle(retry_after=3))
    error = await failure(standard.receive())
    assert error.response["ResponseMetadata"]["HTTPHeaders"]["retry-after"] == "3"


async def test_a_fault_for_some_calls_only(endpoint: Endpoint, standard: At) -> None:
    """Of one action, so many, and those that ask for something."""
    endpoint.faults.next(
        "SendMessage", faults.throttle(), count=2, when=lambda asked: asked["MessageBody"] == "bad"
    )
    await standard.send("good")
    await failure(standard.send("bad"))
    assert endpoint.faults.left == 1
    await standard.receive()
    await failure(standard.send("bad"))
    await standard.send("bad")
    endpoint.faults.next("*", faults.throttle(), count=100)
    endpoint.faults.clear()
    await standard.send("good")


async def test_a_connection_refused_in_mid_call(endpoint: Endpoint, standard: At) -> None:
    endpoint.faults.next("SendMessage", faults.Refuse())
    with pytest.raises(ConnectionClosedError):
        await standard.send()
    assert endpoint.depth("standard") == (0, 0, 0)


@pytest.mark.parametrize("after", [None, 40, 0, -10])
async def test_a_reply_that_is_cut(endpoint: Endpoint, standard: At, after: int | None) -> None:
    """What it was the reply to was done; the SDK calls a reset `could not connect`."""
    endpoint.faults.next("SendMessage", faults.CutReply(after))
    with pytest.raises(BROKEN):
        await standard.send()
    assert endpoint.depth("standard") == (1, 0, 0)


async def test_an_unknown_outcome(endpoint: Endpoint, standard: At) -> None:
    endpoint.faults.next("SendMessage", faults.ApplyThenCut())
    with pytest.raises(BROKEN):
        await standard.send()
    assert endpoint.depth("standard") == (1, 0, 0)


@pytest.mark.parametrize("applied", [False, True])
async def test_a_reply_that_never_comes(endpoint: Endpoint, standard: At, applied: bool) -> None:
    endpoint.faults.next("SendMessage", faults.Swallow(applied=applied))
    send = asyncio.create_task(standard.send())
    await endpoint.reached("SendMessage")
    done, _ = await asyncio.wait([send], timeout=0.1)
    assert not done
    assert endpoint.depth("standard") == (int(applied), 0, 0)
    send.cancel()
    with pytest.raises(asyncio.CancelledError):
        await send


@pytest.mark.parametrize("fault", [faults.Slow(before=0.1), faults.Slow(rate=5_000)])
async def test_a_reply_that_is_slow(endpoint: Endpoint, standard: At, fault: faults.Slow) -> None:
    """It comes, whole, and the connection is used again."""
    endpoint.faults.next("SendMessage", fault)
    await standard.send("slow")
    assert bodies(await standard.receive()) == ["slow"]
    assert endpoint.accepted == endpoint.connections == 1


async def test_a_message_delivered_twice(endpoint: Endpoint, standard: At) -> None:
    """At once, with another handle; deleting by either removes it."""
    await standard.send()
    endpoint.faults.next("ReceiveMessage", faults.Duplicate())
    (first,) = await standard.receive()
    (second,) = await standard.receive()
    assert first["MessageId"] == second["MessageId"]
    assert first["ReceiptHandle"] != second["ReceiptHandle"]
    assert second["Attributes"]["ApproximateReceiveCount"] == "2"
    assert await standard.receive() == []
    await standard.delete(first)
    assert endpoint.depth("standard") == (0, 0, 0)


async def test_a_message_delivered_late(
    endpoint: Endpoint, standard: At, clock: MovableClock
) -> None:
    endpoint.faults.next("SendMessage", faults.Late(20))
    await standard.send("late")
    await standard.send("early")
    assert bodies(await standard.receive()) == ["early"]
    clock.advance(20)
    assert bodies(await standard.receive()) == ["late"]


async def test_a_receive_that_finds_nothing(endpoint: Endpoint, standard: At) -> None:
    await standard.send()
    endpoint.faults.next("ReceiveMessage", faults.Empty())
    assert await standard.receive() == []
    assert len(await standard.receive()) == 1


async def test_a_batch_that_fails_in_part(endpoint: Endpoint, standard: At) -> None:
    """For what was chosen nothing is done; the rest is done."""
    endpoint.faults.next("SendMessageBatch", faults.Partial(lambda entry: entry["Id"] == "1"))
    entries = [{"Id": str(number), "MessageBody": str(number)} for number in range(3)]
    result = await standard.sqs.send_message_batch(QueueUrl=standard.url, Entries=entries)
    assert [entry["Id"] for entry in result["Successful"]] == ["0", "2"]
    (failed,) = result["Failed"]
    assert (failed["Id"], failed["Code"], failed["SenderFault"]) == ("1", "InternalError", False)
    assert bodies(await standard.receive()) == ["0", "2"]


async def test_a_batch_that_fails_altogether(endpoint: Endpoint, standard: At) -> None:
    """By a fault of its sender."""
    endpoint.faults.next(
        "SendMessageBatch",
        faults.Partial(lambda entry: True, code="InvalidParameterValue", sender_fault=True),
    )
    entries = [{"Id": "0", "MessageBody": "x"}]
    result = await standard.sqs.send_message_batch(QueueUrl=standard.url, Entries=entries)
    assert "Successful" not in result
    assert result["Failed"][0]["SenderFault"] is True


async def test_locks_that_end_now(endpoint: Endpoint, fifo: At) -> None:
    """Every handle of the queue is stale, and what it was of comes again."""
    await fifo.send("a", group="g")
    (message,) = await fifo.receive()
    assert endpoint.expire("ordered.fifo") == 1
    error = await failure(fifo.delete(message))
    assert code(error) == "InvalidParameterValue"
    assert bodies(await fifo.receive()) == ["a"]


async def test_an_endpoint_that_goes_down_and_comes_back(endpoint: Endpoint, standard: At) -> None:
    """At the same place, with what it held; a poll that waited is cut."""
    await standard.send("kept", DelaySeconds=900)
    poll = asyncio.create_task(standard.receive(WaitTimeSeconds=20))
    await endpoint.reached("ReceiveMessage")
    url = endpoint.url
    await endpoint.down()
    with pytest.raises(BROKEN):
        await poll
    with pytest.raises(BROKEN):
        await standard.send()
    assert endpoint.connections == 0
    await endpoint.up()
    assert endpoint.url == url
    await standard.send("new")
    assert bodies(await standard.receive()) == ["new"]
    assert endpoint.depth("standard") == (0, 1, 1)


async def test_a_fault_that_breaks_is_told(clock: MovableClock) -> None:
    """A mistake in a test's fault doesn't pass as a fault."""

    def broken(entry: dict[str, Any]) -> bool:
        raise ZeroDivisionError

    endpoint = Endpoint(clock=clock)
    await endpoint.up()
    async with client(endpoint.url) as sqs:
        queue = At(sqs, endpoint.create("q"))
        endpoint.faults.next("SendMessageBatch", faults.Partial(broken))
        entries = [{"Id": "0", "MessageBody": "x"}]
        batch = asyncio.create_task(sqs.send_message_batch(QueueUrl=queue.url, Entries=entries))
        await endpoint.reached("SendMessageBatch")
        await asyncio.sleep(0)  # the fault plays in a task
        with pytest.raises(ZeroDivisionError):
            await endpoint.down()
        with pytest.raises(BROKEN):
            await batch
