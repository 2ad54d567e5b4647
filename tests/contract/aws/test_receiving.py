"""Receiving from SQS: nothing is ever in flight to nobody, and polls hold nobody up."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline import errors
from pipeline.errors import MessageLockLost, QueueError
from pipeline.message import Message
from pipeline.providers.aws.calls import CHANGE, DELETE, RECEIVE, SEND
from pipeline.providers.aws.polls import Poll, Polls
from pipeline.providers.aws.receipts import MAX_LOCK, Receipt, Receipts
from pipeline.providers.port import Sent
from tests.contract.aws.own import FIFO, STANDARD, Own, bodies, both_clients, own, receipts, want
from tests.sqs import faults
from tests.sqs.clock import MovableClock
from tests.sqs.endpoint import Endpoint
from tests.sqs.faults import Partial

TEN = [f"{number:02}" for number in range(10)]


def record(at: Own, action: str) -> list[dict[str, Any]]:
    """What calls of an action ask for, from now on."""
    asked: list[dict[str, Any]] = []
    at.sqs.faults.next(action, faults.Empty(), count=10**6, when=lambda call: _kept(asked, call))
    return asked


def _kept(asked: list[dict[str, Any]], call: dict[str, Any]) -> bool:
    asked.append(call)
    return False


async def until(at: Own, *depth: int) -> None:
    """Wait until so many are visible and in flight."""
    while at.sqs.depth(at.queue)[:2] != depth:  # noqa: ASYNC110 - the endpoint tells nobody
        await asyncio.sleep(0.005)


@both_clients
@pytest.mark.spec("P2", "P4")
async def test_a_cancelled_receives_poll_ends_by_itself(client: str) -> None:
    """What it brings later is given back at once, and nobody's call was cut."""
    async with own(client) as at:
        lane = await at.receiver()
        receive = asyncio.create_task(lane.receive(want(wait=1.0)))
        await at.sqs.reached(RECEIVE)
        receive.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receive
        changed = record(at, CHANGE)
        await at.fill("a", "b")
        await at.sqs.reached(CHANGE)
        assert {one["VisibilityTimeout"] for call in changed for one in call["Entries"]} == {0}
        await until(at, 2, 0)
        assert at.sqs.calls[RECEIVE] == 1


@both_clients
@pytest.mark.spec("P2")
async def test_a_following_receive_takes_the_poll_over(client: str) -> None:
    """No second call is made, and what it brings is kept."""
    async with own(client) as at:
        lane = await at.receiver()
        for _ in range(3):
            receive = asyncio.create_task(lane.receive(want(wait=1.0)))
            await at.sqs.reached(RECEIVE)
            await asyncio.sleep(0)
            receive.cancel()
            await asyncio.wait([receive])
        receive = asyncio.create_task(lane.receive(want(wait=1.0)))
        await asyncio.sleep(0)
        await at.fill("a")
        received = await receive
        assert bodies(received) == ["a"]
        assert at.sqs.calls[RECEIVE] == 1
        assert not await lane.complete(received.receipts)
        assert at.sqs.calls[CHANGE] == 0
        assert at.sqs.depth(at.queue) == (0, 0, 0)


class Held:
    """Calls whose answers are given by hand."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.answers: list[asyncio.Future[dict[str, Any]]] = []

    async def call(
        self, action: str, parameters: Mapping[str, Any], seconds: float = 0.0
    ) -> Mapping[str, Any]:
        """Wait for the answer."""
        self.asked.append(parameters)
        self.answers.append(asyncio.get_running_loop().create_future())
        return await self.answers[-1]


def polls_of(calls: Held, left: list[Poll], *, fifo: bool = True) -> Polls:
    """Polls over calls whose answers are given by hand."""
    numbers = iter(range(1_000))

    async def keep(poll: Poll) -> None:
        left.append(poll)

    return Polls(
        calls,
        "url",
        fifo=fifo,
        visibility=30.0,
        longest=20.0,
        most=4,
        new_id=lambda: f"attempt-{next(numbers)}",
        left=keep,
        dead_letters=False,
    )


@pytest.mark.spec("P2")
@pytest.mark.parametrize("steps", range(6))
async def test_a_poll_that_ends_as_it_is_taken_over_has_one_owner(steps: int) -> None:
    """Whatever comes first, what it brought is received or given back, never both or neither."""
    calls, left = Held(), list[Poll]()
    polls = polls_of(calls, left)
    first = asyncio.create_task(polls.gather(10, 10**9, 1.0))
    while not calls.answers:  # noqa: ASYNC110 - a step of the loop or two
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    calls.answers[0].set_result({"Messages": [{"Body": "x"}]})
    for _ in range(steps):
        await asyncio.sleep(0)
    second = asyncio.create_task(polls.gather(10, 10**9, 1.0))
    for _ in range(10):
        await asyncio.sleep(0)
    came = second.done()
    for answer in calls.answers[1:]:
        answer.set_result({"Messages": [{"Body": "y"}]})
    gathered = await second
    await polls.close()
    assert len(left) == (0 if came else 1)
    assert [poll.messages[0]["Body"] for poll in gathered.polls] == ["x" if came else "y"]


@pytest.mark.spec("P2")
@pytest.mark.parametrize("steps", range(8))
@pytest.mark.parametrize("queue", [STANDARD, FIFO])
async def test_a_receive_that_is_cancelled_as_it_ends(queue: str, steps: int) -> None:
    """What came is received or given back, whenever the cancellation comes."""
    async with own("lean", queue) as at:
        lane = await at.receiver()
        real, answered = lane._polls._calls, asyncio.Event()

        class Told:
            async def call(self, *asked: Any) -> Any:
                try:
                    return await real.call(*asked)
                finally:
                    answered.set()

        lane._polls._calls = Told()  # type: ignore[assignment]
        await at.fill("a")
        receive = asyncio.create_task(lane.receive(want(wait=1.0)))
        await answered.wait()
        for _ in range(steps):
            await asyncio.sleep(0)
        if receive.cancel():
            await asyncio.wait([receive])
            await until(at, 1, 0)
        else:
            assert bodies(await receive) == ["a"]


@both_clients
@pytest.mark.spec("P2", "M2")
async def test_a_receive_that_is_cancelled_while_it_disposes_of_what_is_too_old(
    client: str,
) -> None:
    """The expired one is disposed of all the same, and the others are given back."""
    async with own(client, STANDARD, on_expiry="drop") as at:
        old = Message(b"old", time_to_live=0.001)
        await at.send(old, Message(b"young"))
        await asyncio.sleep(0.002)
        lane = await at.receiver()
        at.sqs.faults.next(DELETE, faults.Slow(before=0.05))
        receive = asyncio.create_task(lane.receive(want()))
        await at.sqs.reached(DELETE)
        receive.cancel()
        await asyncio.wait([receive])
        await until(at, 1, 0)
        assert bodies(await lane.receive(want())) == ["young"]


@both_clients
@pytest.mark.spec("P2")
async def test_a_lane_that_is_closed_while_it_receives(client: str) -> None:
    """The receive hears `Closed`, the poll ends by itself, and nothing is left in flight."""
    async with own(client) as at:
        lane, other = await at.receiver(), await at.receiver()
        await at.fill(*TEN, group="held")
        held = await other.receive(want(3))
        receive = asyncio.create_task(lane.receive(want(wait=1.0)))
        await at.sqs.reached(RECEIVE, 2)
        closing = asyncio.create_task(lane.close())
        with pytest.raises(errors.Closed):
            await receive
        await at.fill("late", group="new")
        await closing
        assert len(held.receipts) == 3
        await other.close()
        assert at.sqs.depth(at.queue) == (11, 0, 0)


@both_clients
@pytest.mark.spec("P2", "P12")
async def test_an_attempt_is_repeated_after_its_answer_was_lost(client: str) -> None:
    """Each receive has an id of its own; the one after a lost answer brings the same messages."""
    async with own(client) as at:
        asked = record(at, RECEIVE)
        await at.fill("a", "b", "c")
        lane = await at.receiver()
        at.sqs.faults.next(RECEIVE, faults.ApplyThenCut())
        with pytest.raises(errors.ConnectionFailed):
            await lane.receive(want())
        assert at.sqs.depth(at.queue) == (0, 3, 0)
        received = await lane.receive(want())
        assert bodies(received) == ["a", "b", "c"]
        assert received.batch.values("delivery_count") == [1, 1, 1]
        assert not await lane.complete(received.receipts)
        await lane.receive(want())
        await lane.receive(want())
        ids = [call["ReceiveRequestAttemptId"] for call in asked]
        assert ids[0] == ids[1]
        assert len(set(ids)) == len(ids) - 1


@both_clients
@pytest.mark.spec("P2")
async def test_a_refused_attempt_is_not_repeated(client: str) -> None:
    """Nothing was done: the next receive is a new one. A standard queue is given no ids."""
    async with own(client) as at:
        asked = record(at, RECEIVE)
        lane = await at.receiver()
        at.sqs.faults.next(RECEIVE, faults.throttle())
        with pytest.raises(errors.Throttled):
            await lane.receive(want())
        await lane.receive(want())
        assert len({call["ReceiveRequestAttemptId"] for call in asked}) == 2
    async with own(client, STANDARD) as at:
        asked = record(at, RECEIVE)
        await (await at.receiver()).receive(want())
        assert "ReceiveRequestAttemptId" not in asked[0]


@both_clients
@pytest.mark.spec("P7")
async def test_polls_never_hold_up_a_send(client: str) -> None:
    """With as many polls pending as run at once, a send is served before any of them ends."""
    async with own(client, STANDARD, keys={"calls": 2}) as at:
        at.sqs.create("empty")
        lanes = [await at.receiver() for _ in range(2)]
        for lane in lanes:
            lane._polls._asked["QueueUrl"] = at.sqs.service.url("empty")
        pending = [asyncio.create_task(lane.receive(want(wait=1.0))) for lane in lanes]
        await at.sqs.reached(RECEIVE, 2)
        await at.fill("x")
        assert not any(task.done() for task in pending)
        assert [action for _, action in at.sqs.arrivals][-3:] == [RECEIVE, RECEIVE, SEND]
        await asyncio.gather(*pending)


@both_clients
@pytest.mark.spec("P2", "F5")
async def test_many_polls_bring_more_than_ten(client: str) -> None:
    """One receive brings what many polls do beside one another, each message once."""
    async with own(client, STANDARD) as at:
        await at.fill(*map(str, range(200)))
        lane = await at.receiver()
        found: list[str] = []
        most = 0
        while len(found) < 200:
            received = await lane.receive(want(75, wait=1.0))
            assert 0 < len(received.batch) <= 75
            most = max(most, len(received.batch))
            found += bodies(received)
            assert not await lane.complete(received.receipts)
        assert most > 10
        assert sorted(found, key=int) == list(map(str, range(200)))
        assert at.sqs.depth(at.queue) == (0, 0, 0)


@both_clients
@pytest.mark.spec("F5")
async def test_what_is_too_much_of_a_group_is_given_back(client: str) -> None:
    """For a moment, so that others come first; the rest of the group stays in order behind."""
    async with own(client) as at:
        changed = record(at, CHANGE)
        await at.fill(*TEN, group="g")
        await at.fill("h0", "h1", group="h")
        lane = await at.receiver()
        received = await lane.receive(want(100, per_session=3))
        assert bodies(received) == [*TEN[:3], "h0", "h1"]
        await at.sqs.reached(CHANGE)
        assert [one["VisibilityTimeout"] for one in changed[0]["Entries"]] == [5] * 7


@pytest.mark.spec("F5")
async def test_what_is_more_than_was_asked_for_is_given_back() -> None:
    """As when a poll is taken over that asked for more."""
    async with own("lean", STANDARD) as at:
        changed = record(at, CHANGE)
        lane = await at.receiver()
        receive = asyncio.create_task(lane.receive(want(10, wait=1.0)))
        await at.sqs.reached(RECEIVE)
        receive.cancel()
        await asyncio.wait([receive])
        few = asyncio.create_task(lane.receive(want(2, wait=1.0)))
        await asyncio.sleep(0)
        await at.fill("a", "b", "c")
        assert bodies(await few) == ["a", "b"]
        await at.sqs.reached(CHANGE)
        assert [one["VisibilityTimeout"] for one in changed[0]["Entries"]] == [5]


@both_clients
@pytest.mark.spec("P13")
async def test_a_lock_lasts_from_before_the_receive_was_sent(client: str) -> None:
    """However long the answer took: our deadline is never after SQS's."""
    async with own(client, visibility=30.0) as at:
        await at.fill("a")
        lane = await at.receiver()
        at.sqs.faults.next(RECEIVE, faults.Slow(before=0.1))
        loop = asyncio.get_running_loop()
        before = loop.time()
        pending = asyncio.create_task(lane.receive(want()))
        await at.sqs.reached(RECEIVE)
        arrived = loop.time()
        received = await pending
        assert before + 30.0 <= received.deadline <= arrived + 30.0
        assert receipts(received)[0].deadline == received.deadline


@pytest.mark.spec("P13")
@pytest.mark.parametrize(("visibility", "seconds"), [(6.0, 2), (2.0, 1), (300.0, 5)])
async def test_of_a_short_lock_enough_is_left_after_a_long_poll(
    visibility: float, seconds: int
) -> None:
    """No receive waits longer than a third of it, whatever `poll` says."""
    async with own("lean", STANDARD, visibility=visibility, poll=5.0) as at:
        asked = record(at, RECEIVE)
        lane = await at.receiver()
        receive = asyncio.create_task(lane.receive(want(wait=20.0)))
        await at.sqs.reached(RECEIVE)
        await at.fill("a")
        received = await receive
        assert asked[0]["WaitTimeSeconds"] == seconds
        assert at.provider.capabilities(at.queue).max_wait == seconds
        assert not await lane.complete(received.receipts)


@both_clients
@pytest.mark.spec("P13")
async def test_no_lock_is_kept_beyond_twelve_hours(client: str) -> None:
    """Near the end it is renewed for what is left, then refused: that message alone."""
    async with own(client, STANDARD, visibility=600.0) as at:
        await at.fill("a", "b")
        lane = await at.receiver()
        old, young = receipts(await lane.receive(want()))
        changed = record(at, CHANGE)
        now = asyncio.get_running_loop().time()
        old.received = now - MAX_LOCK + 60.5
        renewed = await lane.renew([old, young])
        assert not renewed.failures
        of_old, of_young = (one["VisibilityTimeout"] for one in changed[0]["Entries"])
        assert 50 <= of_old <= 60
        assert of_young == 600
        assert renewed.deadline <= old.received + MAX_LOCK
        old.received = now - MAX_LOCK + 0.5
        renewed = await lane.renew([old, young])
        assert list(renewed.failures) == [0]
        assert type(renewed.failures[0]) is MessageLockLost
        assert [one["VisibilityTimeout"] for one in changed[1]["Entries"]] == [600]


@both_clients
@pytest.mark.spec("P13")
async def test_sqs_itself_refuses_more_than_twelve_hours(client: str) -> None:
    """Then the lock is lost, by the word of SQS."""
    clock = MovableClock()
    async with own(client, sqs=Endpoint(clock=clock), visibility=43_200.0) as at:
        await at.fill("a")
        lane = await at.receiver()
        held = receipts(await lane.receive(want()))
        clock.advance(10.0)
        renewed = await lane.renew(held)
        assert type(renewed.failures[0]) in (MessageLockLost, errors.MessageNotFound)


@both_clients
@pytest.mark.spec("P13", "P14")
async def test_a_renewal_that_silently_does_nothing(client: str) -> None:
    """A standard queue says yes for a lock that has ended: our deadline counts, not its word."""
    async with own(client, STANDARD, visibility=30.0) as at:
        await at.fill("a")
        lane = await at.receiver()
        held = receipts(await lane.receive(want()))
        at.sqs.expire(at.queue)
        assert not (await lane.renew(held)).failures
        assert at.sqs.depth(at.queue) == (1, 0, 0), "it did nothing"
        held[0].deadline = asyncio.get_running_loop().time()
        before = at.sqs.calls.total()
        failures = await lane.complete(held)
        assert type(failures[0]) is MessageLockLost
        assert at.sqs.calls.total() == before, "known without a call"


@both_clients
@pytest.mark.spec("P14")
async def test_late_and_duplicate_delivery(client: str) -> None:
    """A message that comes twice has two receipts; one that comes late is waited for."""
    async with own(client, STANDARD) as at:
        at.sqs.faults.next(SEND, faults.Late(0.1))
        await at.fill("late")
        lane = await at.receiver()
        at.sqs.faults.next(RECEIVE, faults.Duplicate())
        first = await lane.receive(want(wait=1.0))
        again = await lane.receive(want(wait=1.0))
        assert bodies(first) == bodies(again) == ["late"]
        assert again.batch.values("delivery_count") == [2]
        assert not await lane.complete(first.receipts)
        assert not await lane.complete(again.receipts)
        assert at.sqs.depth(at.queue) == (0, 0, 0)


@both_clients
@pytest.mark.spec("P12")
async def test_a_slow_connection(client: str) -> None:
    """Answers that come bit by bit are whole in the end."""
    async with own(client) as at:
        await at.fill(*TEN)
        lane = await at.receiver()
        at.sqs.faults.next("*", faults.Slow(rate=50_000), count=2)
        received = await lane.receive(want())
        assert bodies(received) == TEN
        assert not await lane.complete(received.receipts)


@both_clients
@pytest.mark.spec("P10", "P12")
async def test_too_many_in_flight(client: str) -> None:
    """A standard queue says OverLimit, which is throttling; what came before it is kept."""
    async with own(client, STANDARD, sqs=Endpoint(in_flight_limit=20)) as at:
        await at.fill(*map(str, range(30)))
        lane = await at.receiver()
        received = await lane.receive(want(30))
        held = list(received.receipts)
        while len(held) < 20:
            held += (await lane.receive(want(30))).receipts
        with pytest.raises(errors.Throttled):
            await lane.receive(want())
        assert not await lane.complete(held)
        assert len((await lane.receive(want(10))).batch) == 10


@both_clients
@pytest.mark.spec("P3", "R1")
async def test_settling_in_part(client: str) -> None:
    """Of a batch what failed is told by its place; it can be settled again, the rest can't."""
    async with own(client, STANDARD) as at:
        await at.fill(*map(str, range(25)))
        lane = await at.receiver()
        held: list[Any] = []
        while len(held) < 25:
            held += (await lane.receive(want(25))).receipts
        at.sqs.faults.next(DELETE, Partial(lambda one: one["Id"] == "3"))
        at.sqs.faults.next(DELETE, Partial(lambda one: one["Id"] == "2", "Broken", True))
        failures = await lane.complete(held)
        assert sorted(at % 10 for at in failures) == [2, 3]
        told = {at % 10: failures[at].transient for at in failures}
        assert told == {3: True, 2: False}, "only what is SQS's own fault is tried again"
        again = await lane.complete(held)
        assert len(again) == 23
        assert all(type(error) is errors.MessageNotFound for error in again.values())
        assert at.sqs.depth(at.queue) == (0, 0, 0)


@both_clients
@pytest.mark.spec("R1")
async def test_a_client_settles_again_only_what_may_help(client: str) -> None:
    """An entry that is the sender's fault is not sent again."""
    async with own(client, STANDARD) as at, at.client() as caller:
        sent = await at.send(*(Message(str(number).encode()) for number in range(3)))
        assert all(isinstance(one, Sent) for one in sent)
        held = await caller.receive(at.queue, 3, 1)
        while len(held) < 3:
            held += await caller.receive(at.queue, 3, 1)
        asked: list[int] = []

        def first(call: dict[str, Any]) -> bool:
            asked.append(len(call["Entries"]))
            return len(asked) == 1

        at.sqs.faults.next(
            DELETE, Partial(lambda one: one["Id"] == "0", "Broken", True), when=first
        )
        failures = await caller.complete(held)
        assert [type(error) for error in failures.values()] == [errors.ProviderError]
        assert asked == [3]
        assert isinstance(failures[0], QueueError)


@both_clients
@pytest.mark.spec("P13", "P14")
@pytest.mark.parametrize("queue", [STANDARD, FIFO])
async def test_a_delay_longer_than_sqs_keeps_a_message_is_as_long_as_that(
    client: str, queue: str
) -> None:
    """It is given back all the same, and not free at once."""
    async with own(client, queue) as at:
        await at.fill("a")
        lane = await at.receiver()
        received = await lane.receive(want())
        give = lane.release if at.fifo else lane.abandon
        assert await give(received.receipts, 100_000.0) == {}
        assert at.sqs.depth(queue) == (0, 1, 0)
        assert bodies(await lane.receive(want())) == []


@both_clients
@pytest.mark.spec("F2", "P13")
async def test_a_lane_gives_back_only_what_is_still_its_own(client: str) -> None:
    """Not what SQS says is gone, nor what its lock ended of: another receiver may have it."""
    async with own(client, STANDARD, visibility=1.0) as at:
        await at.fill("a", "b")
        lane = await at.receiver()
        held = receipts(await lane.receive(want()))
        gone = Partial(lambda one: one["Id"] == "0", "ReceiptHandleIsInvalid", True)
        at.sqs.faults.next(DELETE, gone)
        assert list(await lane.complete(held[:1])) == [0]
        assert lane._hand.left() == held[1:]
        await asyncio.sleep(1.01)
        await lane.close()
        assert at.sqs.calls[CHANGE] == 0


@pytest.mark.spec("F5")
async def test_receipts_whose_locks_ended_are_not_kept_for_ever() -> None:
    """Nobody settles them."""
    nothing: Any = None
    hand = Receipts("url", 1.0, nothing, nothing)
    now = asyncio.get_running_loop().time()
    for _ in range(100):
        hand.add([Receipt({}, now - 2, now - 1) for _ in range(100)])
    assert len(hand._in_hand) < 2_000
    ours = [Receipt({}, now, now + 100) for _ in range(5_000)]
    hand.add(ours)
    assert set(hand.left()) == set(ours)


@both_clients
@pytest.mark.spec("F3", "F4")
async def test_the_holdings_of_a_group_grow_whoever_has_it(client: str) -> None:
    """Another lane's, and another process's: a fence of an older one is always lower."""
    async with own(client) as at:
        await at.fill("x")
        numbers = []
        for provider in (at.provider, at.provider, await at.another()):
            lane = await provider.receiver(at.queue)
            for _ in range(2):
                received = await lane.receive(want(wait=1.0))
                numbers += received.batch.values("holding")
                assert not await lane.release(received.receipts)
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 6
