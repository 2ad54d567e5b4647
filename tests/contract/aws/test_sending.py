"""Sending to SQS: ten a call, nothing of a group past a failed one, and repeats known as such."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import QueueError
from pipeline.message import Message
from pipeline.names import SessionId
from pipeline.providers.aws.calls import MOST_BYTES, MOST_ENTRIES, SEND, Batches
from pipeline.providers.aws.outbound import Outbound
from pipeline.providers.aws.wire import Entry
from pipeline.providers.port import Sent
from tests.contract.aws.own import STANDARD, Own, bodies, both_clients, own, want
from tests.sqs import faults
from tests.sqs.faults import Partial


def messages(group: str, *texts: str) -> list[Message]:
    """Of one group."""
    return [Message(text.encode(), session=SessionId(group)) for text in texts]


def failing(body: str) -> Partial:
    """The entry with that body fails."""
    return Partial(lambda entry: entry["MessageBody"] == body)


async def everything(at: Own) -> list[str]:
    """What is in the queue, in order."""
    lane = await at.receiver()
    found: list[str] = []
    while (received := await lane.receive(want())).receipts:
        found += bodies(received)
        assert not await lane.complete(received.receipts)
    return found


@both_clients
@pytest.mark.spec("P3")
async def test_nothing_passes_a_failed_one_of_its_group(client: str) -> None:
    """One message of a group a call: those behind it fail with it, unsent; others go."""
    async with own(client) as at:
        at.sqs.faults.next(SEND, failing("b"), when=lambda call: "b" in _texts(call))
        sent = await at.send(*messages("g", "a", "b", "c", "d"), *messages("h", "x", "y"))
        assert [isinstance(one, QueueError) for one in sent] == [
            False,
            True,
            True,
            True,
            *[False] * 2,
        ]
        assert sent[1] is sent[2] is sent[3]
        assert sorted(await everything(at)) == ["a", "x", "y"]


@both_clients
@pytest.mark.spec("P3")
async def test_batch_groups_let_those_behind_it_in_the_same_call_pass(client: str) -> None:
    """The risk of `send.batch_groups`, as it is: the call's rest is in the queue already.

    What is sent again for the failed one then comes behind those that it should have been before.
    """
    async with own(client, send={"batch_groups": True}) as at:
        at.sqs.faults.next(SEND, failing("b"))
        texts = [chr(ord("a") + number) for number in range(12)]
        sent = await at.send(*messages("g", *texts))
        failed = [
            text for text, one in zip(texts, sent, strict=True) if isinstance(one, QueueError)
        ]
        assert at.sqs.calls[SEND] == 1
        assert failed == ["b", "k", "l"], "c to j are in the queue; k and l were not sent"
        assert await everything(at) == ["a", *texts[2:10]]


def _texts(call: dict[str, Any]) -> list[str]:
    return [entry["MessageBody"] for entry in call["Entries"]]


@both_clients
@pytest.mark.spec("P3", "R1")
async def test_a_client_sends_the_rest_of_a_group_again_in_order(client: str) -> None:
    """A failure in the middle, or an answer that is lost: in the end each is there, in order."""
    async with own(client) as at, at.client() as caller:
        texts = [f"{number:02}" for number in range(9)]
        at.sqs.faults.next(SEND, failing("03"), when=lambda call: "03" in _texts(call))
        at.sqs.faults.next(SEND, faults.ApplyThenCut(), when=lambda call: "05" in _texts(call))
        await caller.send_many(at.queue, messages("g", *texts))
        assert at.sqs.faults.left == 0
        assert await everything(at) == texts


@both_clients
@pytest.mark.spec("P15", "R1")
async def test_a_send_whose_answer_was_lost_is_sent_again_and_arrives_once(client: str) -> None:
    """Its deduplication id is its message id, never made anew."""
    async with own(client) as at, at.client() as caller:
        at.sqs.faults.next(SEND, faults.ApplyThenCut(), count=2)
        await caller.send(at.queue, messages("g", "once")[0])
        assert at.sqs.calls[SEND] == 3
        assert await everything(at) == ["once"]
        for _ in range(2):
            await caller.send(
                at.queue, Message(b"same", session=SessionId("g"), deduplication_id="d" * 200)
            )
        assert await everything(at) == ["same"]


@both_clients
@pytest.mark.spec("P3")
async def test_calls_have_at_most_ten_entries_and_a_mebibyte(client: str) -> None:
    """Cut for the caller; SQS would refuse more."""
    async with own(client, STANDARD) as at:
        calls: list[tuple[int, int]] = []

        def seen(call: dict[str, Any]) -> bool:
            calls.append((len(call["Entries"]), sum(len(text) for text in _texts(call))))
            return False

        at.sqs.faults.next(SEND, faults.server_error(), when=seen)
        large = [Message(b"x" * 400_000) for _ in range(5)]
        sent = await at.send(*large, *(Message(b"y") for _ in range(18)))
        assert all(isinstance(one, Sent) for one in sent)
        assert all(count <= 10 and size <= 2**20 for count, size in calls)
        assert sum(count for count, _ in calls) == 23
        assert at.sqs.depth(at.queue) == (23, 0, 0)


# --- without sockets ------------------------------------------------------------------------------


class Book:
    """An SQS that writes down what it takes, and lets some entries fail.

    Args:
        failing: the bodies that fail.
    """

    def __init__(self, failing: set[str]) -> None:
        self.failing = failing
        self.taken: dict[str, list[str]] = defaultdict(list)
        self.calls: list[list[Mapping[str, Any]]] = []

    async def call(
        self, action: str, parameters: Mapping[str, Any], seconds: float = 0.0
    ) -> Mapping[str, Any]:
        """Take a batch."""
        entries = parameters["Entries"]
        self.calls.append(entries)
        await asyncio.sleep(0)
        done, failed = [], []
        for entry in entries:
            if entry["MessageBody"] in self.failing:
                failed.append({"Id": entry["Id"], "Code": "InternalError", "SenderFault": False})
            else:
                self.taken[entry["MessageGroupId"]].append(entry["MessageBody"])
                done.append({"Id": entry["Id"], "SequenceNumber": "1"})
        return {"Successful": done, "Failed": failed}


sizes = st.sampled_from([1, 100, 300_000, 600_000, MOST_BYTES])


@pytest.mark.spec("P3")
@given(
    st.lists(st.tuples(st.sampled_from("abc"), sizes, st.integers(0, 9)), max_size=40),
    st.booleans(),
    st.booleans(),
)
async def test_each_entry_is_sent_once_in_the_order_of_its_group(
    rows: list[tuple[str, int, int]], fifo: bool, batch_groups: bool
) -> None:
    """Or fails; on FIFO, one of a group a call, nothing is taken behind a failure."""
    entries = [
        Entry({"MessageBody": str(number), "MessageGroupId": group}, group, size)
        for number, (group, size, _) in enumerate(rows)
    ]
    book = Book({str(number) for number, (_, _, chance) in enumerate(rows) if chance == 0})
    outbound = Outbound(Batches(book, 4), "url", fifo=fifo, batch_groups=batch_groups)
    results = await outbound.send(entries)
    assert len(results) == len(entries)
    size_of = {str(number): size for number, (_, size, _) in enumerate(rows)}
    seen: list[str] = []
    for call in book.calls:
        texts = [entry["MessageBody"] for entry in call]
        seen += texts
        assert 1 <= len(call) <= MOST_ENTRIES
        assert sum(size_of[text] for text in texts) <= MOST_BYTES
        groups = [entry["MessageGroupId"] for entry in call]
        if fifo and not batch_groups:
            assert len(set(groups)) == len(groups)
    assert len(seen) == len(set(seen)), "each at most once"
    for group in "abc":
        of_group = [number for number, (name, _, _) in enumerate(rows) if name == group]
        sent = [number for number in of_group if isinstance(results[number], Sent)]
        assert sorted(book.taken[group], key=int) == list(map(str, sent))
        if fifo:
            assert book.taken[group] == list(map(str, sent)), "in order"
            failed = [number for number in of_group if number not in sent]
            if failed and not batch_groups:
                assert all(number < failed[0] for number in sent), "nothing behind a failure"
    if not fifo:
        assert len(seen) == len(entries)
