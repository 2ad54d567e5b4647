"""The memory broker: sending, receiving and settling, the same in every dialect."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import replace
from typing import Any

import pytest

from pipeline.clock import SeededClock
from pipeline.errors import (
    Closed,
    MessageNotFound,
    MessageTooLarge,
    QueueFull,
    QueueNotFound,
    Unsupported,
    ValidationError,
)
from pipeline.message import Message, TraceContext
from pipeline.outcomes import Reason
from pipeline.providers.memory import MemoryBroker
from pipeline.providers.port import DeadLetter, Depth, Want
from pipeline.session_keys import SPREAD_PREFIX, spread_session
from tests.unit.memory_rig import Rig, column, kinds, texts

DIALECTS: list[dict[str, Any]] = [
    {"fifo": True, "sessions": sessions, "count": count}
    for sessions in ("native", "groups")
    for count in ("on_failure", "on_receive")
] + [{"count": count} for count in ("on_failure", "on_receive")]
every_dialect = pytest.mark.parametrize(
    "dialect", DIALECTS, ids=lambda d: f"{d.get('sessions', 'none')}-{d['count']}"
)
NONE = {"count": "on_failure"}


@pytest.mark.spec("P2", "P11", "M2")
@every_dialect
async def test_a_message_comes_as_it_was_sent(dialect: dict[str, Any]) -> None:
    """Every field of it, and what the broker knows of it."""
    rig = Rig(**dialect)
    sent = Message(
        b"\x00\xff",
        id="one",
        session="s",
        correlation_id="c",
        content_type="t",
        attributes={"k": "v"},
        time_to_live=60.0,
        not_before=rig.later(-5),
        deduplication_id="d",
        trace=TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01", tracestate="z=1"),
    )
    await rig.put(sent)
    start = rig.clock.now()
    await asyncio.sleep(1)
    got = await (await rig.lane()).receive()
    [delivery] = got.batch
    assert delivery.message == sent
    assert (delivery.sequence, delivery.delivery_count) == (1, 1)
    assert delivery.enqueued_at.timestamp() == pytest.approx(start)
    assert delivery.lock.locked_until.timestamp() == pytest.approx(start + 1 + 300)
    assert column(got, "holding")[0] > 0


@pytest.mark.spec("P11")
@every_dialect
async def test_columns_that_no_row_needs_are_null(dialect: dict[str, Any]) -> None:
    """One message with a content type beside one without makes that column and no other."""
    rig = Rig(**dialect)
    await rig.send("s", content_type="t")
    await rig.send("s")
    got = await (await rig.lane()).receive()
    assert column(got, "content_type") == ["t", None]
    assert got.batch.column("attributes").null_count == 2
    assert got.batch.column("dead_letter_reason").null_count == 2


@pytest.mark.spec("P2", "P11")
@every_dialect
async def test_completing_is_the_end_and_can_be_done_once(dialect: dict[str, Any]) -> None:
    """A repeat is `MessageNotFound`, and so is a receipt that nobody gave or another lane's."""
    rig = Rig(**dialect)
    await rig.send("s", "s")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive()
    first, second = got.receipts
    assert await rig.broker.complete(lane.lane, [first]) == {}
    failures = await rig.broker.complete(lane.lane, [first, 999, second, second])
    assert kinds(failures) == dict.fromkeys((0, 1, 3), "MessageNotFound")
    assert kinds(await rig.broker.complete(other.lane, [second])) == {0: "MessageNotFound"}
    assert await rig.depth() == Depth(0, 0, 0, 0, 0, None)
    assert (await rig.counters()).completed == 2


@pytest.mark.spec("P11", "P14")
@every_dialect
async def test_what_is_given_back_comes_again_in_its_order(dialect: dict[str, Any]) -> None:
    """Released or abandoned, in whatever order: in front, ascending."""
    rig = Rig(**dialect)
    await rig.send(*["s"] * 6)
    lane = await rig.lane()
    first, second, third, fourth = (await lane.receive(4, per_session=4)).receipts
    assert await rig.broker.release(lane.lane, [third, first]) == {}
    assert await rig.broker.abandon(lane.lane, [second]) == {}
    assert await rig.broker.complete(lane.lane, [fourth]) == {}
    assert sorted(await lane.bodies()) == ["1", "2", "3", "5", "6"]
    if dialect.get("sessions"):
        rig = Rig(**dialect)
        await rig.send(*["s"] * 6)
        lane = await rig.lane()
        got = await lane.receive(4)
        await rig.broker.release(lane.lane, [got.receipts[2], got.receipts[0]])
        await rig.broker.abandon(lane.lane, [got.receipts[3], got.receipts[1]])
        again = await lane.receive()
        assert texts(again) == ["1", "2", "3", "4", "5", "6"]
        assert column(again, "sequence") == [1, 2, 3, 4, 5, 6]


@pytest.mark.spec("P14")
@every_dialect
async def test_what_makes_the_count_grow(dialect: dict[str, Any]) -> None:
    """on_failure: abandon and the lock's end; on_receive: being received, whatever came of it."""
    rig = Rig(**dialect)
    on_receive = dialect["count"] == "on_receive"
    await rig.send("s")
    lane = await rig.lane()
    seen = []
    for how in (rig.broker.release, rig.broker.abandon, rig.broker.release, rig.broker.abandon):
        got = await lane.receive()
        seen += column(got, "delivery_count")
        await how(lane.lane, got.receipts)
    await lane.receive()
    await asyncio.sleep(301)
    lane.held.clear()
    seen += column(await lane.receive(), "delivery_count")
    assert seen == ([1, 2, 3, 4, 6] if on_receive else [1, 1, 2, 2, 4])
    counters = await rig.counters()
    assert (counters.received, counters.redelivered) == (6, 5)
    assert (counters.released, counters.abandoned, counters.lock_lost) == (2, 2, 1)


@pytest.mark.spec("P11", "P13", "P14")
@every_dialect
async def test_a_lock_ends_and_the_message_comes_again(dialect: dict[str, Any]) -> None:
    """To another lane, without a call; the first one's settlement is refused as too late."""
    rig = Rig(**dialect, visibility=30.0)
    await rig.send("s")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive()
    waiting = asyncio.create_task(other.receive(wait=60))
    await asyncio.sleep(29.9)
    assert not waiting.done()
    again = await waiting
    assert asyncio.get_running_loop().time() == pytest.approx(30.0)
    assert texts(again) == ["1"]
    for settle in (rig.broker.complete, rig.broker.abandon, rig.broker.release, rig.broker.defer):
        assert kinds(await settle(lane.lane, got.receipts)) == {0: "MessageLockLost"}
    failures = await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")])
    assert kinds(failures) == {0: "MessageLockLost"}
    assert await rig.broker.complete(other.lane, again.receipts) == {}


@pytest.mark.spec("P11", "P14")
@every_dialect
async def test_a_message_delivered_too_often_is_dead_lettered(dialect: dict[str, Any]) -> None:
    """After `max_deliveries` it is not delivered again, and those behind it go on."""
    rig = Rig(**dialect, max_deliveries=2)
    await rig.send("s", "s")
    lane = await rig.lane()
    for _ in range(2):
        got = await lane.receive(1, per_session=1)
        assert texts(got) == ["1"]
        await rig.broker.abandon(lane.lane, got.receipts)
    assert await lane.bodies() == ["2"]
    assert (await rig.depth()).dead_lettered == 1
    [dead] = (await (await rig.lane(dead_letters=True)).receive()).batch
    assert (dead.id, dead.dead_letter_reason) == ("m1", Reason.MAX_DELIVERIES)


@pytest.mark.spec("P2", "P11")
@every_dialect
async def test_dead_letters_keep_what_they_were_and_say_why(dialect: dict[str, Any]) -> None:
    """They are read from a lane of their own, unordered, and settled there."""
    rig = Rig(**dialect, max_messages=2)
    await rig.send("s", "s", attributes={"k": "v"})
    lane, dead = await rig.lane(), await rig.lane(dead_letters=True)
    waiting = asyncio.create_task(dead.receive(wait=5))
    got = await lane.receive()
    reasons = [DeadLetter(Reason.REJECTED, "bad"), DeadLetter(Reason.NO_HANDLER)]
    receipts = [got.receipts[0], 999, got.receipts[1]]
    failures = await rig.broker.dead_letter(
        lane.lane, receipts, [reasons[0], DeadLetter("lost"), reasons[1]]
    )
    assert kinds(failures) == {1: "MessageNotFound"}
    found = await waiting
    assert texts(found) == ["1", "2"]
    assert column(found, "session") == ["s", "s"]
    assert column(found, "attributes") == [[("k", "v")], [("k", "v")]]
    assert column(found, "dead_letter_reason") == ["rejected", "no_handler"]
    assert column(found, "dead_letter_description") == ["bad", ""]
    assert column(found, "delivery_count") == [1, 1]
    assert await rig.depth() == Depth(0, 0, 0, 0, 2, None)
    assert kinds((await rig.send("s")).failures) == {0: "QueueFull"}  # they take room until settled
    await rig.broker.abandon(dead.lane, found.receipts)
    found = await dead.receive()
    with pytest.raises(Unsupported):
        await rig.broker.dead_letter(dead.lane, found.receipts, reasons)
    assert await rig.broker.complete(dead.lane, found.receipts) == {}
    assert (await rig.send("s")).failures == {}
    assert (await rig.counters()).dead_lettered == 2
    assert (await rig.counters()).received == 2


@pytest.mark.spec("P11")
async def test_dead_letters_have_locks_too() -> None:
    """A dead letter that was read and not settled comes again when its lock ends."""
    rig = Rig(fifo=True, visibility=30.0)
    await rig.send("s")
    lane, dead = await rig.lane(), await rig.lane(dead_letters=True)
    await rig.broker.dead_letter(lane.lane, (await lane.receive()).receipts, [DeadLetter("r")])
    assert await dead.bodies() == ["1"]
    assert await dead.bodies(wait=29) == []
    again = await dead.receive(wait=2)
    assert column(again, "delivery_count") == [2]
    assert (await rig.broker.renew(dead.lane, again.receipts)).failures == {}


@pytest.mark.spec("P2")
async def test_each_dead_letter_needs_a_reason() -> None:
    """One reason for two receipts is refused, and nothing was done."""
    rig = Rig(**NONE)
    await rig.send(None, None)
    lane = await rig.lane()
    got = await lane.receive()
    with pytest.raises(ValidationError, match="one for each of the 2 receipts"):
        await rig.broker.dead_letter(lane.lane, got.receipts, [DeadLetter("r")])
    assert await rig.broker.complete(lane.lane, got.receipts) == {}


@pytest.mark.spec("P11", "M2")
@every_dialect
async def test_an_unread_message_expires(dialect: dict[str, Any]) -> None:
    """After its own time to live or the queue's, whichever is shorter."""
    rig = Rig(**dialect, time_to_live=20.0)
    await rig.send("s", "s", "s")
    await rig.send("s", time_to_live=10.0)
    await rig.send("s", time_to_live=99.0)
    await rig.send("t", time_to_live=10.0)
    await asyncio.sleep(15)
    assert (await rig.depth()).dead_lettered == 2
    lane = await rig.lane()
    assert await lane.bodies(1, per_session=1) == ["1"]
    await asyncio.sleep(6)
    assert (await rig.depth()).dead_lettered == 5  # the one in hand isn't
    assert (await rig.counters()).expired == 5
    dead = await (await rig.lane(dead_letters=True)).receive()
    assert column(dead, "dead_letter_reason") == ["expired"] * 5
    assert await lane.bodies() == []


@pytest.mark.spec("P11", "M2")
@every_dialect
async def test_a_message_that_expired_in_hand_is_judged_when_it_is_given_back(
    dialect: dict[str, Any],
) -> None:
    """Completed it is completed; released it is dead-lettered."""
    rig = Rig(**dialect, time_to_live=10.0)
    await rig.send("s", "s")
    lane = await rig.lane()
    got = await lane.receive()
    await asyncio.sleep(11)
    assert await rig.broker.complete(lane.lane, got.receipts[:1]) == {}
    assert await rig.broker.release(lane.lane, got.receipts[1:]) == {}
    assert await rig.depth() == Depth(0, 0, 0, 0, 1, None)


@pytest.mark.spec("P11", "M2")
@every_dialect
async def test_expired_messages_may_be_dropped(dialect: dict[str, Any]) -> None:
    """`on_expiry: drop` counts them and makes room."""
    rig = Rig(**dialect, time_to_live=10.0, on_expiry="drop", max_messages=2)
    await rig.send("s", "t")
    await asyncio.sleep(10)
    assert (await rig.send("s", "s")).failures == {}
    counters = await rig.counters()
    assert (counters.expired, counters.dropped, counters.dead_lettered) == (2, 2, 0)
    assert await (await rig.lane()).bodies() == ["3", "4"]


@pytest.mark.spec("P2", "P11")
@every_dialect
async def test_a_scheduled_message_comes_when_it_is_due(dialect: dict[str, Any]) -> None:
    """Behind what was sent before its time came, with a sequence to match."""
    rig = Rig(**dialect)
    sent = await rig.send("s", not_before=rig.later(60), time_to_live=30.0)
    await rig.send("s")
    lane = await rig.lane()
    first = await lane.receive()
    assert texts(first) == ["2"]
    await rig.broker.complete(lane.lane, first.receipts)
    assert await rig.depth() == Depth(0, 0, 1, 0, 0, None)
    got = await lane.receive(wait=100)
    assert asyncio.get_running_loop().time() == pytest.approx(60)
    assert texts(got) == ["1"]
    assert column(got, "sequence")[0] > 2
    assert column(got, "enqueued_at") == [pytest.approx(rig.clock.now())]
    with pytest.raises(MessageNotFound):
        await rig.broker.cancel("q", sent.sequences[0])


@pytest.mark.spec("P2", "P11", "F3")
async def test_messages_for_one_time_come_in_the_order_of_sending() -> None:
    """Whatever passes between the reading of one clock and of the other at each send."""
    rig = Rig(fifo=True)
    start, jitter = rig.clock.start, iter([0.0, 3e-5, 1e-5, 4e-5])
    when = rig.later(60)
    for late in jitter:
        object.__setattr__(rig.clock, "start", start + late)
        await rig.send("s", not_before=when)
    assert await (await rig.lane()).bodies(wait=100) == ["1", "2", "3", "4"]


@pytest.mark.spec("P2", "P11")
async def test_the_calendar_may_be_set_anew() -> None:
    """What is sent afterwards comes at its time by the new calendar."""
    rig = Rig(**NONE)
    await rig.send(None, not_before=rig.later(600))
    object.__setattr__(rig.clock, "start", rig.clock.start + 3_600)
    await rig.send(None, not_before=rig.later(60))
    assert await (await rig.lane()).bodies(wait=100) == ["2"]
    assert asyncio.get_running_loop().time() == pytest.approx(60)


@pytest.mark.spec("P2", "P11")
async def test_a_scheduled_message_can_be_taken_back() -> None:
    """By the sequence that the send told; once."""
    rig = Rig(**NONE)
    sent = await rig.send(None, None, not_before=rig.later(60))
    await rig.broker.cancel("q", sent.sequences[0])
    with pytest.raises(MessageNotFound, match="no message 1 is scheduled"):
        await rig.broker.cancel("q", sent.sequences[0])
    assert await (await rig.lane()).bodies(wait=100) == ["2"]


@pytest.mark.spec("P11")
async def test_a_delay_is_honoured_where_the_dialect_can() -> None:
    """An abandoned message of an unordered queue that counts receives, as on SQS standard."""
    rig = Rig(count="on_receive")
    await rig.send(None, None)
    lane = await rig.lane()
    got = await lane.receive()
    await rig.broker.abandon(lane.lane, got.receipts[:1], 45.0)
    await rig.broker.complete(lane.lane, got.receipts[1:])
    assert await rig.depth() == Depth(0, 0, 1, 0, 0, None)
    again = await lane.receive(wait=100)
    assert asyncio.get_running_loop().time() == pytest.approx(45)
    assert column(again, "delivery_count") == [2]
    assert column(again, "sequence") == [1]


@pytest.mark.spec("P11", "M2")
async def test_a_delayed_message_can_expire() -> None:
    """Before its delay is over."""
    rig = Rig(count="on_receive", time_to_live=10.0)
    await rig.send(None)
    lane = await rig.lane()
    await rig.broker.abandon(lane.lane, (await lane.receive()).receipts, 45.0)
    await asyncio.sleep(60)
    assert await rig.depth() == Depth(0, 0, 0, 0, 1, None)


@pytest.mark.spec("P2", "P14")
@pytest.mark.parametrize("dialect", DIALECTS[:5])
async def test_a_delay_is_refused_where_the_receiver_holds(dialect: dict[str, Any]) -> None:
    """`Unsupported`, and the message stays in hand."""
    rig = Rig(**dialect)
    await rig.send("s")
    lane = await rig.lane()
    got = await lane.receive()
    with pytest.raises(Unsupported, match="delay"):
        await rig.broker.abandon(lane.lane, got.receipts, 1.0)
    assert await rig.broker.complete(lane.lane, got.receipts) == {}


@pytest.mark.spec("P11")
@every_dialect
async def test_a_duplicate_is_accepted_and_dropped(dialect: dict[str, Any]) -> None:
    """Within the window, by deduplication id or else id, also when the first is long handled."""
    rig = Rig(**dialect, duplicate_window=100.0)
    lane = await rig.lane()
    sent = await rig.put(
        rig.message("s", id="a"),
        rig.message("s", id="a"),
        rig.message("s", id="b", deduplication_id="x"),
        rig.message("s", id="c", deduplication_id="x"),
    )
    assert (list(sent.sequences), sent.duplicates, sent.failures) == ([1, 0, 2, 0], [1, 3], {})
    await rig.broker.complete(lane.lane, (await lane.receive()).receipts)
    assert (await rig.put(rig.message("s", id="a"))).duplicates == [0]
    await asyncio.sleep(101)
    assert (await rig.put(rig.message("s", id="a"))).duplicates == ()
    assert await lane.bodies() == ["6"]
    counters = await rig.counters()
    assert (counters.sent, counters.duplicates) == (3, 3)


@pytest.mark.spec("P11", "F5")
async def test_the_memory_of_duplicates_is_bounded_as_the_queue_is() -> None:
    """The oldest id is forgotten when there are more than `max_messages`."""
    rig = Rig(**NONE, duplicate_window=100.0, max_messages=2)
    lane = await rig.lane()
    for name in "abc":
        await rig.put(rig.message(id=name))
        await rig.broker.complete(lane.lane, (await lane.receive()).receipts)
    assert (await rig.put(rig.message(id="c"))).duplicates == [0]
    assert (await rig.put(rig.message(id="a"))).duplicates == ()


@pytest.mark.spec("P10", "P11")
@every_dialect
async def test_a_full_queue_refuses_and_keeps_order(dialect: dict[str, Any]) -> None:
    """`QueueFull` for those that don't fit; on an ordered queue for those behind them as well."""
    rig = Rig(**dialect, max_bytes=10)
    sent = await rig.put(
        rig.message("s", body=b"1234"),
        rig.message("s", body=b"12345678"),
        rig.message("s", body=b"12"),
        rig.message("t", body=b"1"),
    )
    assert isinstance(sent.failures[1], QueueFull)
    assert sent.failures[1].transient
    ordered = "sessions" in dialect
    assert set(sent.failures) == ({1, 2} if ordered else {1})
    assert [bool(sequence) for sequence in sent.sequences] == [True, False, not ordered, True]
    lane = await rig.lane()
    await rig.broker.complete(lane.lane, (await lane.receive()).receipts)
    assert (await rig.put(rig.message("s", body=b"1234567890"))).failures == {}


@pytest.mark.spec("P10", "P11")
@every_dialect
async def test_a_queue_holds_so_many_messages(dialect: dict[str, Any]) -> None:
    """Those in hand count; a completed one makes room."""
    rig = Rig(**dialect, max_messages=2)
    assert kinds((await rig.send("a", "b", "c")).failures) == {2: "QueueFull"}
    lane = await rig.lane()
    got = await lane.receive()
    assert kinds((await rig.send("d")).failures) == {0: "QueueFull"}
    await rig.broker.complete(lane.lane, got.receipts[:1])
    assert (await rig.send("d")).failures == {}


@pytest.mark.spec("P3", "P10")
async def test_a_message_over_the_size_fails_with_both_sizes() -> None:
    """Attributes count, as UTF-8."""
    rig = Rig(fifo=True, max_message_size=10)
    sent = await rig.put(
        rig.message("s", body=b"12345678", attributes={"é": "x"}),
        rig.message("s", body=b"1"),
        rig.message("t", body=b"1234567", attributes={"é": "x"}),
    )
    assert set(sent.failures) == {0, 1}
    error = sent.failures[0]
    assert isinstance(error, MessageTooLarge)
    assert (error.size, error.max_size) == (11, 10)
    assert sent.failures[1] is error


@pytest.mark.spec("P5")
async def test_a_sessionless_message_is_refused_on_a_fifo_queue() -> None:
    """Those with a session, before and behind it, go."""
    rig = Rig(fifo=True)
    sent = await rig.send("s", None, "s")
    assert list(sent.sequences) == [1, 0, 2]
    assert isinstance(sent.failures[1], ValidationError)
    assert "sessionless: spread" in str(sent.failures[1])


@pytest.mark.spec("P5")
@pytest.mark.parametrize("sessions", ["native", "groups"])
async def test_a_sessionless_message_is_spread_where_the_queue_says_so(sessions: str) -> None:
    """Over 64 sessions by its id; one with a session keeps it."""
    rig = Rig(fifo=True, sessions=sessions, sessionless="spread")
    await rig.send(*[None] * 1_000, "mine")
    got = await (await rig.lane()).receive(2_000, new_sessions=100)
    found = dict(zip(column(got, "id"), column(got, "session"), strict=True))
    assert found.pop("m1001") == "mine"
    assert found == {name: spread_session(name) for name in found}
    assert len(set(found.values())) == 64
    assert all(name.startswith(SPREAD_PREFIX) for name in found.values())


@pytest.mark.spec("P4", "P5")
async def test_a_queue_without_fifo_keeps_the_session_as_data() -> None:
    """Two messages of one session are in two hands at once."""
    rig = Rig(**NONE)
    await rig.send("s", "s", None)
    lane, other = await rig.lane(), await rig.lane()
    assert column(await lane.receive(1), "session") == ["s"]
    assert column(await other.receive(), "session") == ["s", None]


@pytest.mark.spec("P2")
@every_dialect
async def test_a_deferred_message_waits_until_it_is_asked_for(dialect: dict[str, Any]) -> None:
    """By its sequence; those behind it go on; given back, it is set aside again."""
    rig = Rig(**dialect)
    await rig.send("s", "s")
    lane = await rig.lane()
    got = await lane.receive(1, per_session=1)
    assert await rig.broker.defer(lane.lane, got.receipts) == {}
    assert await lane.bodies() == ["2"]
    assert await rig.depth() == Depth(0, 1, 0, 1, 0, None)
    with pytest.raises(MessageNotFound):
        await rig.broker.receive_deferred(lane.lane, [1, 2])
    again = await rig.broker.receive_deferred(lane.lane, [1])
    assert texts(again) == ["1"]
    assert (await rig.depth()).deferred == 0
    assert await rig.broker.release(lane.lane, again.receipts) == {}
    assert (await rig.depth()).deferred == 1
    assert await lane.bodies() == []
    again = await rig.broker.receive_deferred(lane.lane, [1])
    assert await rig.broker.complete(lane.lane, again.receipts) == {}


@pytest.mark.spec("P2", "M2")
async def test_a_deferred_message_can_expire() -> None:
    """It does not wait for ever to be asked for."""
    rig = Rig(fifo=True, time_to_live=10.0)
    await rig.send("s")
    lane = await rig.lane()
    await rig.broker.defer(lane.lane, (await lane.receive()).receipts)
    await asyncio.sleep(10)
    assert await rig.depth() == Depth(0, 0, 0, 0, 1, None)
    with pytest.raises(MessageNotFound):
        await rig.broker.receive_deferred(lane.lane, [1])


@pytest.mark.spec("P2")
@every_dialect
async def test_peeking_locks_nothing(dialect: dict[str, Any]) -> None:
    """It shows what is there, in order, whatever its state, from after a sequence."""
    rig = Rig(**dialect)
    await rig.send("s", "s", "t")
    await rig.send("t", not_before=rig.later(60), attributes={"k": "v"})
    lane = await rig.lane()
    await lane.receive(1, per_session=1)
    seen = await rig.broker.peek(lane.lane, 10)
    assert seen.values("sequence") == [1, 2, 3, 4]
    assert seen.values("attributes") == [None, None, None, [("k", "v")]]
    assert (await rig.broker.peek(lane.lane, 2, 1)).values("sequence") == [2, 3]
    assert len(await rig.broker.peek(lane.lane, 10, 4)) == 0
    assert len(await rig.broker.peek(lane.lane, -1)) == 0
    assert (await rig.depth()).in_hand == 1


@pytest.mark.spec("P2")
@every_dialect
async def test_depth_counts_exactly(dialect: dict[str, Any]) -> None:
    """Messages of locked sessions and blocked groups are available; the oldest gives the age."""
    rig = Rig(**dialect)
    assert await rig.depth() == Depth(0, 0, 0, 0, 0, None)
    await rig.send("s", "s")
    await asyncio.sleep(5)
    await rig.send("s")
    await rig.send("s", not_before=rig.later(60))
    assert await rig.depth() == Depth(3, 0, 1, 0, 0, pytest.approx(5))
    lane = await rig.lane()
    got = await lane.receive(2, per_session=2)
    assert await rig.depth() == Depth(1, 2, 1, 0, 0, pytest.approx(0))
    await rig.broker.defer(lane.lane, got.receipts[:1])
    assert await rig.depth() == Depth(1, 1, 1, 1, 0, pytest.approx(0))


@pytest.mark.spec("P13")
@pytest.mark.parametrize("dialect", DIALECTS[2:])
async def test_renewing_prolongs_the_lock_from_now(dialect: dict[str, Any]) -> None:
    """Of those named; a lock that ended can't be renewed."""
    rig = Rig(**dialect, visibility=30.0)
    await rig.send("a", "b")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive()
    await asyncio.sleep(20)
    renewed = await rig.broker.renew(lane.lane, got.receipts[:1])
    assert (renewed.seconds, renewed.failures) == (30.0, {})
    await asyncio.sleep(20)
    assert await other.bodies() == ["2"]
    renewed = await rig.broker.renew(lane.lane, [got.receipts[1], got.receipts[0], 999])
    assert kinds(renewed.failures) == {0: "MessageLockLost", 2: "MessageNotFound"}
    await asyncio.sleep(20)
    assert await rig.broker.complete(lane.lane, got.receipts[:1]) == {}
    await asyncio.sleep(31)
    assert await lane.bodies() == ["2"]


@pytest.mark.spec("P2", "P11")
@every_dialect
async def test_closing_a_lane_gives_back_what_it_has(dialect: dict[str, Any]) -> None:
    """At once, without counting it a failure; the lane is unknown from then on."""
    rig = Rig(**dialect)
    await rig.send("s", "s", "t")
    lane, other = await rig.lane(), await rig.lane()
    got = await lane.receive()
    await rig.broker.close_lane(lane.lane)
    await rig.broker.close_lane(lane.lane)
    again = await other.receive()
    assert sorted(texts(again)) == ["1", "2", "3"]
    counted = 2 if dialect["count"] == "on_receive" else 1
    assert column(again, "delivery_count") == [counted] * 3
    assert (await rig.counters()).released == 3
    with pytest.raises(Closed):
        await rig.broker.complete(lane.lane, got.receipts)
    await rig.broker.end_poll(lane.lane, 1)


@pytest.mark.spec("P10", "F8")
async def test_names_and_identities() -> None:
    """An unknown queue is an error that lists the known ones; every broker is another source."""
    rig = Rig(**NONE)
    with pytest.raises(QueueNotFound, match="no queue 'x'; it has: q"):
        await rig.broker.depth("x")
    with pytest.raises(QueueNotFound, match="it has: none"):
        await MemoryBroker({}, rig.clock).source("q")
    other = MemoryBroker({"q": rig.settings}, SeededClock(rig.clock.time, seed=9))
    assert (await rig.broker.source("q")).startswith("memory:")
    assert await rig.broker.source("q") != await other.source("q")


@pytest.mark.spec("P10", "P11")
async def test_what_crosses_to_another_process_pickles() -> None:
    """Everything but the batch, which the actor's shell turns into a buffer."""
    rig = Rig(fifo=True, max_messages=1)
    sent = await rig.send("s", "s")
    lane = await rig.lane()
    got = await lane.receive()
    values = [sent, got.receipts, got.opened, await rig.depth(), await rig.counters()]
    values.append(
        await rig.broker.renew_sessions(lane.lane, [holding.number for holding in got.opened])
    )
    values.append(await rig.broker.complete(lane.lane, [999]))
    for value in values:
        assert repr(pickle.loads(pickle.dumps(value))) == repr(value)


@pytest.mark.spec("P11", "F3", "F7")
@every_dialect
async def test_a_later_brokers_holdings_are_higher(dialect: dict[str, Any]) -> None:
    """It starts anew with its queues; what was fenced with the old one's is kept elsewhere."""
    highest = 0
    for _ in range(3):
        rig = Rig(**dialect)
        lane = await rig.lane()
        for number in range(50):
            await rig.send(f"s{number}")
            holdings = column(await lane.receive(), "holding")
            assert min(holdings) > highest, "each one is higher than all before"
            highest = max(holdings)
        await asyncio.sleep(0.001)


@pytest.mark.spec("F7", "P11")
async def test_a_new_lane_of_an_owner_ends_the_receive_that_its_last_one_waits_in() -> None:
    """A process that is gone waits for nothing; what comes now is the new lane's."""
    rig = Rig()
    old = await rig.broker.open_lane("q", owner="receiver-0")
    waiting = asyncio.ensure_future(rig.broker.receive(old, Want(messages=1, wait=60.0), 1))
    await asyncio.sleep(1)
    new = await rig.broker.open_lane("q", owner="receiver-0")
    with pytest.raises(Closed):
        await waiting
    assert asyncio.get_running_loop().time() == 1
    await rig.send("s")
    assert texts(await rig.broker.receive(new, Want(messages=1), 2)) == ["1"]


@pytest.mark.spec("F3", "P2", "P11")
@every_dialect
async def test_what_a_lost_answer_brought_comes_again_first(dialect: dict[str, Any]) -> None:
    """A receive whose answer never arrived must not let later messages of its session go first."""
    rig = Rig(**dialect)
    await rig.send("s", "s")
    lane = (await rig.lane()).lane
    want = Want(messages=1, new_sessions=1)
    first = await rig.broker.receive(lane, want, 1, 0)
    assert texts(first) == ["1"]
    again = await rig.broker.receive(lane, want, 2, 0)
    assert texts(again) == ["1"]
    await rig.broker.complete(lane, again.receipts)
    held = {holding.number: 10 for holding in again.opened}
    assert texts(await rig.broker.receive(lane, replace(want, held=held), 3, 2)) == ["2"]
    last = await rig.broker.receive(lane, replace(want, messages=5, held=held), 4, 2)
    assert texts(last) == ["2"], "of a session that was held before it is the same"
    assert (await rig.broker.complete(lane, last.receipts)) == {}
    assert (await rig.counters()).completed == 2
