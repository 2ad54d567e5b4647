"""Dead-lettering at SQS: everything is kept, nothing is lost, and each copy arrives."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline import errors
from pipeline.errors import QueueError
from pipeline.message import Message, TraceContext
from pipeline.names import MessageId, SessionId
from pipeline.outcomes import Reason
from pipeline.providers.aws.calls import DELETE, SEND
from pipeline.providers.aws.receiver import SqsReceiver
from pipeline.providers.port import DeadLetter, Received, Sent
from tests.contract.aws.bench import dead_name
from tests.contract.aws.own import FIFO, STANDARD, Own, bodies, both_clients, own, want
from tests.sqs import faults
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At
from tests.sqs.rig import client as raw_client

WHY = DeadLetter(Reason.REJECTED, '{"error": "ValueError"}')
both_kinds = pytest.mark.parametrize("queue", [STANDARD, FIFO])


async def received(lane: SqsReceiver, count: int = 1) -> Received:
    """The message that is there."""
    found = await lane.receive(want(wait=1.0))
    assert len(found.receipts) == count, bodies(found)
    return found


async def bury(at: Own, why: DeadLetter = WHY) -> dict[int, QueueError]:
    """Dead-letter the message that is there."""
    lane = await at.receiver()
    found = await received(lane)
    return await lane.dead_letter(found.receipts, [why])


def message(**fields: Any) -> Message:
    """One with everything."""
    return Message(
        b"\x00body",
        id=MessageId("an id, with \xe9"),
        session=SessionId("s"),
        correlation_id="c",
        content_type="application/json",
        attributes={"a": "1", "empty": "", "AWS.no": "x"},
        time_to_live=3_600.0,
        trace=TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="v=1"),
        **fields,
    )


SAME = (
    "body",
    "id",
    "session",
    "correlation_id",
    "content_type",
    "attributes",
    "time_to_live",
    "traceparent",
    "tracestate",
)


@both_clients
@both_kinds
@pytest.mark.spec("R3", "P15")
async def test_a_copy_keeps_everything(client: str, queue: str) -> None:
    """And says why; the original is gone."""
    async with own(client, queue, create=True) as at:
        assert isinstance((await at.send(message()))[0], Sent)
        lane, dead = await at.receiver(), await at.receiver(dead_letters=True)
        before = await received(lane)
        assert not await lane.dead_letter(before.receipts, [WHY])
        after = await received(dead)
        for name in SAME:
            assert after.batch.values(name) == before.batch.values(name), name
        assert after.batch.values("dead_letter_reason") == [WHY.reason]
        assert after.batch.values("dead_letter_description") == [WHY.description]
        assert at.sqs.depth(queue) == (0, 0, 0)
        assert not await dead.complete(after.receipts)
        again = await lane.dead_letter(before.receipts, [WHY])
        assert type(again[0]) is errors.MessageNotFound


@both_clients
@pytest.mark.spec("M2", "R3")
async def test_a_message_of_other_software(client: str) -> None:
    """Ten attributes of its own, numbers and bytes among them: they keep their types."""
    async with own(client, STANDARD, create=True) as at, raw_client(at.sqs.url) as sdk:
        given: dict[str, Any] = {
            "count": {"DataType": "Number", "StringValue": "12.5"},
            "raw": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
        }
        given |= {f"a{at}": {"DataType": "String", "StringValue": str(at)} for at in range(8)}
        there = At(sdk, at.sqs.service.url(at.queue))
        sent = await there.send("theirs", MessageAttributes=given)
        assert not await bury(at)
        [raw] = await At(sdk, at.sqs.service.url(dead_name(at.queue))).receive(VisibilityTimeout=0)
        kept = raw["MessageAttributes"]
        assert kept["count"] == given["count"]
        assert kept["raw"] == given["raw"]
        assert len(kept) == 10
        got = (await received(await at.receiver(dead_letters=True))).batch
        assert got.values("id") == [sent["MessageId"]]
        assert len(got.values("attributes")[0]) == 10


@both_clients
@pytest.mark.spec("R3")
async def test_a_message_as_large_as_it_may_be(client: str) -> None:
    """What is told of the failure is cut, then left out; the message never is."""
    endpoint = Endpoint()
    small = {"MaximumMessageSize": "2048"}
    async with own(client, attributes=small, sqs=endpoint) as at:
        endpoint.create(dead_name(FIFO), **small)
        for spare, told in ((400, "cut"), (0, "nothing")):
            sender = await at.provider.sender(FIFO)
            empty = sender._made(Message(b"\x00", session=SessionId("g")), "g")
            assert not isinstance(empty, QueueError)
            size = (2_048 - spare - empty.size) * 3 // 4 // 3 * 3
            [sent] = await at.send(Message(b"\x00" * size, session=SessionId("g")))
            assert isinstance(sent, Sent)
            assert not await bury(at, DeadLetter(Reason.REJECTED, "y" * 2_000))
            dead = await at.receiver(dead_letters=True)
            found = await received(dead)
            assert found.batch.values("body") == [b"\x00" * size]
            [reason], [description] = (
                found.batch.values("dead_letter_reason"),
                found.batch.values("dead_letter_description"),
            )
            assert (reason is None) == (told == "nothing")
            assert (description is None) == (told == "nothing")
            assert not await dead.complete(found.receipts)


@both_clients
@pytest.mark.spec("R3", "P10")
async def test_a_dead_letter_queue_that_takes_less(client: str) -> None:
    """The message is too large for it, known before the call, and stays."""
    async with own(client, STANDARD) as at:
        at.sqs.create(dead_name(STANDARD), MaximumMessageSize="1024")
        await at.fill("x" * 2_000)
        sends = at.sqs.calls[SEND]
        failures = await bury(at)
        assert type(failures[0]) is errors.MessageTooLarge
        assert at.sqs.calls[SEND] == sends
        assert at.sqs.depth(STANDARD) == (0, 1, 0)


@both_clients
@both_kinds
@pytest.mark.spec("R3")
async def test_where_the_dead_letter_queue_is(client: str, queue: str) -> None:
    """Where the configuration or the redrive policy says, else `<queue>-dlq`."""
    endpoint = Endpoint()
    other = "elsewhere.fifo" if queue.endswith(".fifo") else "elsewhere"
    endpoint.create(other)
    policy = {"deadLetterTargetArn": endpoint.arn(other), "maxReceiveCount": 100}
    attributes = {"RedrivePolicy": json.dumps(policy)}
    async with own(client, queue, sqs=endpoint, attributes=attributes) as at:
        await at.fill("x")
        assert not await bury(at)
        assert endpoint.depth(other) == (1, 0, 0)
    async with own(client, queue, dead_letter_queue=other) as at:
        at.sqs.create(other)
        await at.fill("x")
        assert not await bury(at)
        assert at.sqs.depth(other) == (1, 0, 0)


@both_clients
@both_kinds
@pytest.mark.spec("R3")
async def test_a_dead_letter_queue_that_cannot_be_reached(client: str, queue: str) -> None:
    """The message stays, and is dead-lettered when it can."""
    async with own(client, queue) as at:
        await at.fill("x")
        lane = await at.receiver()
        found = await received(lane)

        async def attempt() -> QueueError:
            failures = await lane.dead_letter(found.receipts, [WHY])
            assert at.sqs.depth(queue) == (0, 1, 0)
            assert not at.sqs.calls[DELETE]
            return failures[0]

        missing = await attempt()
        assert type(missing) is errors.QueueNotFound
        assert dead_name(queue) in str(missing)
        at.sqs.create(dead_name(queue))
        at.sqs.denied.add("GetQueueUrl")
        assert type(await attempt()) is errors.PermissionDenied
        at.sqs.denied = {SEND}
        assert type(await attempt()) is errors.PermissionDenied
        at.sqs.denied.clear()
        at.sqs.faults.next(SEND, faults.server_error(503))
        assert (await attempt()).transient
        assert not await lane.dead_letter(found.receipts, [WHY])
        assert at.sqs.depth(queue) == (0, 0, 0)
        assert at.sqs.depth(dead_name(queue)) == (1, 0, 0)


@both_clients
@pytest.mark.spec("R3", "P15")
async def test_a_copy_whose_answer_was_lost_arrives_once(client: str) -> None:
    """Sent again it is the same copy; so it is when the delete behind it failed."""
    async with own(client, create=True) as at, at.client() as caller:
        await at.fill("x")
        [delivery] = await caller.receive(at.queue, wait=1)
        at.sqs.faults.next(SEND, faults.ApplyThenCut())
        at.sqs.faults.next(DELETE, faults.server_error())
        assert not await caller.dead_letter(delivery, WHY.reason, WHY.description)
        assert at.sqs.calls[SEND] == 1 + 3
        assert at.sqs.depth(dead_name(at.queue)) == (1, 0, 0)
        assert at.sqs.depth(at.queue) == (0, 0, 0)


@both_clients
@pytest.mark.parametrize("by_content", ["false", "true"])
@pytest.mark.spec("P15", "R3")
async def test_dead_lettered_redriven_and_dead_lettered_again(client: str, by_content: str) -> None:
    """Inside the deduplication window both copies arrive, each with its own id there."""
    async with own(client) as at, raw_client(at.sqs.url) as sdk:
        dead = At(sdk, at.sqs.create(dead_name(at.queue), ContentBasedDeduplication=by_content))
        live = At(sdk, at.sqs.service.url(at.queue))
        await at.fill("x")
        ids = set()
        for hop in range(3):
            assert not await bury(at)
            [copy] = await dead.receive()
            ids.add(copy["Attributes"]["MessageDeduplicationId"])
            await dead.delete(copy)
            await live.send(
                copy["Body"],
                "g",
                MessageDeduplicationId=f"redriven-{hop}",
                MessageAttributes=copy["MessageAttributes"],
            )
        assert len(ids) == 3


@both_clients
@pytest.mark.spec("R3", "P15")
async def test_one_id_that_was_sent_twice_and_buried_twice(client: str) -> None:
    """Makes two copies: they are told apart by what SQS calls the originals."""
    async with own(client, create=True) as at:
        same = {"id": MessageId("same"), "session": SessionId("g")}
        for number in range(2):
            sent = await at.send(Message(b"x", **same, deduplication_id=f"d{number}"))
            assert isinstance(sent[0], Sent)
            assert not await bury(at)
        assert at.sqs.depth(dead_name(at.queue)) == (2, 0, 0)


@pytest.mark.parametrize(("most", "outcome"), [(15, ""), (14, "warns"), (5, "warns"), (4, "fails")])
@pytest.mark.spec("R3")
async def test_a_redrive_policy_that_is_too_eager(
    most: int, outcome: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Under three times our attempts it warns, under our attempts nothing starts."""
    endpoint = Endpoint()
    endpoint.create(dead_name(FIFO))
    policy = {"deadLetterTargetArn": endpoint.arn(dead_name(FIFO)), "maxReceiveCount": most}
    async with own(
        "lean",
        sqs=endpoint,
        attributes={"RedrivePolicy": json.dumps(policy)},
        more={"pipelines": {"p": {"queue": FIFO, "handler": "json:loads"}}},
    ) as at:
        if outcome == "fails":
            with pytest.raises(errors.ConfigurationError, match="set maxReceiveCount to 15"):
                await at.receiver()
            await at.receiver(dead_letters=True)  # what is there can be read all the same
        else:
            await at.receiver()
        assert ("set maxReceiveCount to 15" in caplog.text) == (outcome == "warns")


@both_clients
@both_kinds
@pytest.mark.spec("R3")
async def test_what_sqs_moved_by_itself_says_so(client: str, queue: str) -> None:
    """The redrive policy is the last net: who reads its catch sees that nobody gave a reason."""
    endpoint = Endpoint()
    endpoint.create(dead_name(queue))
    policy = {"deadLetterTargetArn": endpoint.arn(dead_name(queue)), "maxReceiveCount": 1}
    attributes = {"RedrivePolicy": json.dumps(policy)}
    async with own(client, queue, sqs=endpoint, attributes=attributes) as at:
        await at.fill("x")
        lane = await at.receiver()
        assert not await lane.release((await received(lane)).receipts)
        assert not (await lane.receive(want())).receipts, "it is moved now"
        found = await received(await at.receiver(dead_letters=True))
        assert bodies(found) == ["x"]
        assert found.batch.values("dead_letter_reason") == [Reason.MAX_DELIVERIES.value]
