"""Microsoft's SDK for JavaScript, another implementation of AMQP and of the service's client.

Each test runs one of the scenarios in javascript/ and judges what it told.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

import pytest

from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Counts
from tests.servicebus.javascript_peer import ran, running
from tests.servicebus.sdk import until
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")

NOTHING: Final = Counts(0, 0, 0, 0, 0)


def instant(text: str) -> float:
    """A time as JSON has it, in seconds."""
    return datetime.fromisoformat(text).timestamp()


# --- sending --------------------------------------------------------------------------------------


async def test_every_field_arrives(still_bus: ServiceBus, clock: ManualClock) -> None:
    """What a sender set is what the receiver reads, and the service adds its own to it."""
    queue = still_bus.queue("orders", lock_seconds=30)
    got = await ran(still_bus, "fields")
    times = {key: instant(got.pop(key)) for key in tuple(got) if key.endswith("Utc")}
    assert len(got.pop("lockToken")) == 36
    assert got == {
        "body": "bytes:first",
        "messageId": "m-1",
        "partitionKey": "p",
        "subject": "a subject",
        "contentType": "text/plain",
        "correlationId": "c-1",
        "replyTo": "answers",
        "replyToSessionId": "r-1",
        "to": "somebody",
        "timeToLive": 60_000,
        "applicationProperties": {
            "text": "å",
            "whole": 7,
            "half": 0.5,
            "yes": True,
            "at": 1_700_000_000_000,
        },
        "deliveryCount": 0,
        "sequenceNumber": 1,
        "enqueuedSequenceNumber": 1,
        "state": "active",
    }
    now = clock.now()
    assert times == pytest.approx(
        {"enqueuedTimeUtc": now, "expiresAtUtc": now + 60, "lockedUntilUtc": now + 30}, abs=0.002
    )
    assert queue.counts() == NOTHING


async def test_every_kind_of_body_arrives(bus: ServiceBus) -> None:
    """Data, one value and sequences go through untouched, together in one batch."""
    queue = bus.queue("orders")
    assert await ran(bus, "kinds_of_body") == [
        ["data", "bytes:bytes"],
        ["data", "text"],
        ["data", {"a": [1, None, True]}],
        ["value", {"b": "value"}],
        ["sequence", [1, "two"]],
    ]
    assert queue.counts() == NOTHING


async def test_a_batch_arrives_whole_and_in_order(bus: ServiceBus) -> None:
    """The SDK fills a batch as far as the link's size goes; settlements may go out all at once."""
    queue = bus.queue("orders")
    async with running(bus, "batches") as script:
        await script.at("sent")
        assert queue.counts() == Counts(100, 0, 0, 0, 0)
        script.go_on()
        got = await script.result()
    assert got == {
        "most": 262_144,
        "tooMuch": False,
        "ids": [str(number) for number in range(100)],
        "bodies": [f"message {number}" for number in range(100)],
    }
    assert queue.counts() == NOTHING


async def test_a_large_message_arrives_in_pieces_and_one_too_large_is_refused(
    bus: ServiceBus,
) -> None:
    """200 KB are more than a frame holds, 300 KB more than a message may have."""
    queue = bus.queue("orders")
    async with running(bus, "large", {Rule.MESSAGE_SIZE}) as script:
        got = await script.result()
    assert got == {"same": True, "tooLarge": "MessageSizeExceeded"}
    assert queue.counts() == NOTHING


async def test_scheduled_messages_wait_for_their_time_unless_cancelled(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """Peek shows them, the clock makes them active, and a cancelled one is gone for good."""
    queue = still_bus.queue("orders")
    async with running(still_bus, "schedule") as script:
        told = await script.at("scheduled")
        assert queue.counts() == Counts(0, 0, 0, 1, 0)
        clock.advance(instant(told["later"]) - clock.now() + 0.001)
        assert queue.counts() == Counts(1, 0, 0, 0, 0)
        script.go_on()
        got = await script.result()
    assert got["numbers"] == [1, 2]
    waiting = [(each["body"], each["state"]) for each in got["waiting"]]
    assert waiting == [("kept", "scheduled"), ("cancelled", "scheduled")]
    assert got["again"] == "MessageNotFound"
    assert got["got"]["body"] == "kept"
    assert got["got"]["scheduledEnqueueTimeUtc"] == told["later"]
    assert queue.counts() == NOTHING


async def test_each_subscription_gets_a_copy_and_has_its_own_dead_letters(bus: ServiceBus) -> None:
    """What is settled in one subscription is untouched in another."""
    topic = bus.topic("events", ["audit", "billing"])
    got = await ran(bus, "topic")
    assert list(got) == ["audit", "billing"]
    for name, of in got.items():
        assert of["bodies"] == ["a", "b"]
        assert of["letter"]["body"] == "b"
        assert of["letter"]["deadLetterReason"] == name
        # The dead letter is locked by the receiver, which did not settle it.
        assert topic.subscriptions[name].counts() == Counts(0, 0, 0, 0, 1)


async def test_what_may_not_be_is_refused_with_the_right_error(bus: ServiceBus) -> None:
    """A wrong key, an entity that is not there, a message or a receiver without a session."""
    queue, carts = bus.queue("orders"), bus.queue("carts", sessions=True)
    assert await ran(bus, "refused") == {
        "key": "UnauthorizedAccess",
        "queue": "MessagingEntityNotFound",
        "session": "GeneralError",
        "receiver": "GeneralError",
    }
    assert queue.counts() == carts.counts() == NOTHING


async def test_it_connects_again(bus: ServiceBus) -> None:
    """After its connection broke the SDK makes a new one, and sends on."""
    bus.queue("orders")
    async with running(bus, "reconnects") as script:
        await script.at("connected")
        assert bus.drop() == 1
        script.go_on()
        assert await script.result() == ["before", "after"]


# --- receiving ------------------------------------------------------------------------------------


async def test_each_settlement_does_what_it_says(bus: ServiceBus) -> None:
    """Complete, abandon, defer and dead-letter, with properties changed on the way."""
    queue = bus.queue("orders")
    async with running(bus, "settle") as script:
        await script.at("settled")
        assert queue.counts() == Counts(1, 0, 1, 0, 1)
        script.go_on()
        got = await script.result()
    again, deferred, letter = got["again"], got["deferred"], got["letter"]
    assert (again["body"], again["deliveryCount"]) == ("abandon", 1)
    assert again["applicationProperties"] == {"abandoned": "once"}
    assert (deferred["body"], deferred["state"]) == ("defer", "deferred")
    assert deferred["applicationProperties"] == {"deferred": "so"}
    assert got["none"] == "MessageNotFound"
    assert (letter["body"], letter["deadLetterSource"]) == ("dead-letter", "orders")
    assert letter["deadLetterReason"] == "a reason"
    assert letter["deadLetterErrorDescription"] == "a description"
    assert letter["applicationProperties"]["more"] == 1
    assert queue.counts() == NOTHING


async def test_attempts_are_counted_and_the_last_is_the_end(bus: ServiceBus) -> None:
    """The third abandoned attempt of three sends the message to the dead letters."""
    queue = bus.queue("orders", max_delivery_count=3)
    got = await ran(bus, "attempts")
    assert got["counts"] == [0, 1, 2]
    assert got["letter"]["deadLetterReason"] == "MaxDeliveryCountExceeded"
    assert queue.counts() == NOTHING


async def test_peek_locks_nothing(bus: ServiceBus) -> None:
    """It goes on where it ended, or from a sequence number, and leaves the messages alone."""
    queue = bus.queue("orders")
    got = await ran(bus, "peek")
    assert [each["body"] for each in got["first"]] == ["a", "b"]
    assert not any("lockToken" in each for each in got["first"])
    assert got["next"] == ["c"]
    assert got["from"] == ["b", "c"]
    assert queue.counts() == Counts(3, 0, 0, 0, 0)


async def test_a_stream_handles_every_message_and_repeats_the_one_that_failed(
    bus: ServiceBus,
) -> None:
    """The SDK completes what its callback took, and abandons what the callback failed on."""
    queue = bus.queue("orders")
    async with running(bus, "subscribe") as script:
        await script.at("sent")
        await until(lambda: queue.counts() == NOTHING)
        script.go_on()
        result = await script.result()
    got = result["got"]
    assert got.count("fails") == 2
    assert sorted(body for body in got if body != "fails") == list(range(199))
    assert result["errors"] == [["processMessageCallback", "once"]]


async def test_a_renewed_lock_lasts_longer(still_bus: ServiceBus, clock: ManualClock) -> None:
    """A message can be completed after its first lock would have ended."""
    queue, start = still_bus.queue("orders"), clock.now()
    async with running(still_bus, "renew") as script:
        await script.at("locked")
        clock.advance(20)
        script.go_on()
        await script.at("renewed")
        clock.advance(50)
        assert queue.counts() == Counts(0, 1, 0, 0, 0)
        script.go_on()
        got = await script.result()
    assert instant(got["first"]) == pytest.approx(start + 60, abs=0.002)
    assert instant(got["renewed"]) == pytest.approx(start + 80, abs=0.002)
    assert queue.counts() == NOTHING


async def test_a_lost_lock_is_told(still_bus: ServiceBus, clock: ManualClock) -> None:
    """After its end neither renewing nor completing works, and the message comes again."""
    queue = still_bus.queue("orders")
    async with running(still_bus, "lock_lost") as script:
        await script.at("locked")
        clock.advance(61)
        script.go_on()
        got = await script.result()
    assert got == {"codes": ["MessageLockLost", "MessageLockLost"], "count": 1}
    assert queue.counts() == NOTHING


async def test_a_stream_renews_its_locks_by_itself(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """A callback may take longer than a lock lasts: the SDK asks for more before it ends."""
    queue, start = still_bus.queue("orders", lock_seconds=4), clock.now()
    async with running(still_bus, "renews_by_itself") as script:
        await script.at("held")
        clock.advance(1)
        await until(lambda: queue.peek(1, 1)[0].locked_until == start + 5)
        script.go_on()
        assert await script.result() == []
    assert queue.counts() == NOTHING


# --- sessions -------------------------------------------------------------------------------------


async def test_a_session_is_one_receivers_and_has_a_state(bus: ServiceBus) -> None:
    """Named or next, in order, with deferred and dead messages; a closed one goes to the next."""
    queue = bus.queue("carts", sessions=True)
    got = await ran(bus, "session")
    assert got["held"] == "SessionCannotBeLocked"
    assert got["ids"] == ["a", "b", "b"]
    assert got["states"] == [None, {"step": 1}, None]
    assert got["bodies"] == [["a0", "a2"], ["b1", "b3"], ["a2"]]
    assert (got["again"]["body"], got["again"]["deliveryCount"]) == ("b3", 0)
    assert queue.counts() == Counts(0, 0, 0, 0, 1)


async def test_without_a_session_the_wait_for_one_ends(bus: ServiceBus) -> None:
    """Nobody sends: the client is told so at the end of the time that it gave."""
    bus.queue("carts", sessions=True)
    assert await ran(bus, "no_session") == "ServiceTimeout"


async def test_a_wait_for_a_session_ends_with_its_first_message(bus: ServiceBus) -> None:
    """The link is attached when there is a session, not before."""
    bus.queue("carts", sessions=True)
    async with running(bus, "waits_for_a_session") as script:
        await script.at("accepting")
        script.go_on()
        assert await script.result() == ["late", ["a"]]


async def test_a_sessions_lock_is_renewed_and_lost(
    still_bus: ServiceBus, clock: ManualClock
) -> None:
    """Renewed it lasts longer; once lost, what was received under it can't be completed."""
    queue, start = still_bus.queue("carts", sessions=True), clock.now()
    async with running(still_bus, "session_lock") as script:
        await script.at("locked")
        clock.advance(20)
        script.go_on()
        await script.at("renewed")
        clock.advance(59)
        assert queue.counts() == Counts(0, 1, 0, 0, 0)
        clock.advance(2)
        assert queue.counts() == Counts(1, 0, 0, 0, 0)
        script.go_on()
        got = await script.result()
    assert instant(got["first"]) == pytest.approx(start + 60, abs=0.002)
    assert instant(got["renewed"]) == pytest.approx(start + 80, abs=0.002)
    assert got["lost"] == "SessionLockLost"


async def test_a_session_is_streamed_in_order(bus: ServiceBus) -> None:
    """One callback after another, in the order in which they were sent."""
    queue = bus.queue("carts", sessions=True)
    async with running(bus, "session_stream") as script:
        await script.at("got")
        await until(lambda: queue.counts() == NOTHING)
        script.go_on()
        assert await script.result() == {"got": list(range(50)), "errors": []}
