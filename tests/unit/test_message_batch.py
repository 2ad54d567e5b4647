"""Messages, deliveries and the batches that carry them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import (
    SCHEMA,
    MessageBatch,
    allocate_with_process,
    import_what_columns_need,
)
from pipeline.errors import SerializationError, ValidationError
from pipeline.message import Delivery, Lock, Message, TraceContext, from_row, to_row
from pipeline.names import MessageId, QueueName, ReceiptHandle, SessionId

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAME = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=20)
HEADER = st.from_regex(r"[\t -~]{1,20}", fullmatch=True)
MOMENTS = st.integers(946_684_800_000_000, 4_102_444_800_000_000).map(
    lambda micros: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
)
MESSAGES = st.builds(
    Message,
    body=st.binary(max_size=200),
    id=NAME.map(MessageId),
    session=st.none() | NAME.map(SessionId),
    correlation_id=st.none() | TEXT,
    content_type=st.none() | TEXT,
    attributes=st.dictionaries(TEXT, st.text(st.characters(exclude_categories=["Cs"]))),
    time_to_live=st.none() | st.floats(0.001, 1e9),
    not_before=st.none() | MOMENTS,
    deduplication_id=st.none() | TEXT,
    trace=st.none() | st.builds(TraceContext, traceparent=HEADER, tracestate=st.none() | HEADER),
)


# --- messages -------------------------------------------------------------------------------------


ZONE = timezone(timedelta(hours=5))


@pytest.mark.spec("M2", "P10")
@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("time_to_live", float("inf"), "less than 1e11 seconds, or None for ever; got inf"),
        ("time_to_live", float("nan"), "more than 0"),
        ("time_to_live", 1e300, "less than 1e11"),
        ("time_to_live", 10**400, "less than 1e11"),
        ("not_before", datetime.max.replace(tzinfo=UTC), "the years 1 to 9999 in UTC; got '9999"),
        ("not_before", datetime.min.replace(tzinfo=ZONE), "the years 1 to 9999 in UTC"),
        ("not_before", datetime.max.replace(tzinfo=timezone(-timedelta(hours=1))), "1 to 9999"),
        ("not_before", datetime(2026, 1, 1), "a time with a zone"),  # noqa: DTZ001
    ],
)
def test_times_that_no_queue_can_carry_are_refused(field: str, value: Any, rule: str) -> None:
    """When the message is made: a sender would find out too late, or never."""
    with pytest.raises(ValidationError, match=f"Message.{field} .*{rule}"):
        Message(b"x", **{field: value})


@pytest.mark.spec("M2")
@pytest.mark.parametrize(
    "when", [datetime.min.replace(tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)]
)
def test_the_first_and_the_last_time_travel(when: datetime) -> None:
    message = Message(b"x", time_to_live=9.9e10, not_before=when)
    assert from_row(to_row(message)) == message


@pytest.mark.spec("M2")
def test_a_session_that_is_empty_is_received_and_never_sent() -> None:
    """Other software can name one on Azure: its messages have it, and those sent on have none."""
    batch = MessageBatch.from_messages([Message(b"a", session="s"), Message(b"b")])
    delivery = batch.with_columns(session=["", None])[0]
    assert (delivery.session, type(delivery.session)) == ("", SessionId)
    assert delivery.message.session is None
    with pytest.raises(ValidationError, match="SessionId must not be empty"):
        Message(b"x", session=delivery.session)


@pytest.mark.spec("M2")
@given(MESSAGES)
def test_a_message_survives_pickle_and_rows(message: Message) -> None:
    """It arrives equal, typed as it was."""
    copy = pickle.loads(pickle.dumps(message))
    assert copy == message
    assert type(copy.id) is MessageId
    assert from_row(to_row(message)) == message


@pytest.mark.spec("M2")
def test_a_message_is_immutable() -> None:
    """Neither its fields nor its attributes change, nor do they follow what they were made from."""
    given = {"a": "1"}
    body = bytearray(b"x")
    message = Message(body, attributes=given)  # type: ignore[arg-type]
    given["a"], body[0] = "2", 0
    assert (message.body, dict(message.attributes)) == (b"x", {"a": "1"})
    with pytest.raises(AttributeError):
        message.body = b""  # type: ignore[misc]
    with pytest.raises(TypeError):
        message.attributes["a"] = "3"  # type: ignore[index]
    assert hash(message) == hash(pickle.loads(pickle.dumps(message)))


@pytest.mark.spec("M2")
def test_ids_are_made_when_none_is_given() -> None:
    """Each message gets one of its own; a session is branded."""
    assert Message(b"").id != Message(b"").id
    moved = Message(b"x", id="m").with_session("s")  # type: ignore[arg-type]
    assert (moved.id, moved.session) == ("m", "s")
    assert type(moved.session) is SessionId
    assert type(Message(b"", session="s").session) is SessionId  # type: ignore[arg-type]


@pytest.mark.spec("M1", "M2")
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("body", "text"),
        ("id", ""),
        ("session", "a" * 129),
        ("correlation_id", ""),
        ("content_type", "x" * 1025),
        ("content_type", "\ud800"),
        ("deduplication_id", 5),
        ("attributes", {"": "x"}),
        ("attributes", {"a": 1}),
        ("attributes", {"a": "\ud800"}),
        ("attributes", {1: "x"}),
        ("attributes", 5),
        ("time_to_live", 0),
        ("time_to_live", float("nan")),
        ("time_to_live", "5"),
        ("not_before", datetime(2026, 1, 1)),  # noqa: DTZ001 - that is the point
        ("not_before", "tomorrow"),
        ("trace", "00-1"),
    ],
)
def test_a_wrong_value_is_refused_when_the_message_is_made(field: str, value: Any) -> None:
    """So that no receiver meets a message that it can't carry; the error names the field."""
    with pytest.raises(ValidationError) as caught:
        Message(**{"body": b"", field: value})
    assert caught.value.field.startswith(("MessageId", "SessionId", f"Message.{field}"))


@pytest.mark.spec("M2")
@pytest.mark.parametrize("value", ["", "\x00", "\ud800", "\u00fc", "a\nb", 5])
def test_a_trace_context_that_can_stand_in_no_header_is_refused(value: Any) -> None:
    """Before a provider refuses it with the message, and others with it in one call."""
    good = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with pytest.raises(
        ValidationError, match=r"TraceContext\.traceparent must be text of one head"
    ):
        TraceContext(traceparent=value)
    with pytest.raises(ValidationError, match=r"TraceContext\.tracestate must be text of one head"):
        TraceContext(traceparent=good, tracestate=value)


# --- deliveries -----------------------------------------------------------------------------------


@pytest.mark.spec("M2")
@given(st.lists(MESSAGES, max_size=8))
def test_a_batch_carries_every_field(messages: list[Message]) -> None:
    """Any bytes and any text come out of columns, buffer and pickle as they went in."""
    batch = MessageBatch.from_messages(messages)
    for copy in (
        batch,
        MessageBatch.from_buffer(batch.to_buffer()),
        pickle.loads(pickle.dumps(batch)),
    ):
        assert [delivery.message for delivery in copy] == messages
        assert [delivery.sequence for delivery in copy] == list(range(1, len(messages) + 1))
        for delivery, message in zip(copy, messages, strict=True):
            assert delivery.body == message.body
            assert delivery.time_to_live == message.time_to_live
            assert delivery.not_before == message.not_before
            assert delivery.deduplication_id == message.deduplication_id
            assert delivery.trace == message.trace
            assert delivery.content_type == message.content_type
            assert delivery.correlation_id == message.correlation_id
            assert delivery.delivery_count == 1


@pytest.mark.spec("M2")
def test_a_delivery_says_what_the_provider_says() -> None:
    """Sequence, count, times, lock and dead-letter reason are the columns'; a null is a None."""
    batch = MessageBatch.from_columns(
        1,
        {
            "id": ["m"],
            "body": [b""],
            "sequence": [7],
            "delivery_count": [3],
            "enqueued_at": [0.0],
            "locked_until": [60.0],
            "dead_letter_reason": ["rejected"],
            "dead_letter_description": ["{}"],
        },
    )
    delivery = Delivery(batch, 0, QueueName("orders"), 2)
    start = datetime(1970, 1, 1, tzinfo=UTC)
    assert (delivery.sequence, delivery.delivery_count, delivery.partition) == (7, 3, 2)
    assert delivery.queue == "orders"
    assert delivery.enqueued_at == start
    assert delivery.lock == Lock(locked_until=start + timedelta(minutes=1))
    assert (delivery.dead_letter_reason, delivery.dead_letter_description) == ("rejected", "{}")
    assert delivery.session is None
    assert dict(delivery.attributes) == {}
    assert repr(delivery) == "Delivery(id=MessageId('m'), session=None, sequence=7)"


@pytest.mark.spec("M1")
def test_only_a_client_has_receipts() -> None:
    """A handler is told that the runtime settles by its outcome."""
    batch = MessageBatch.from_messages([Message(b"")])
    assert Delivery(batch, 0, receipt=ReceiptHandle("r")).receipt == "r"
    with pytest.raises(ValidationError, match="a handler returns an outcome"):
        _ = batch[0].receipt


@pytest.mark.spec("M2")
def test_times_of_any_zone_are_one_moment() -> None:
    """A time with another zone arrives as the same moment in UTC."""
    there = datetime(2026, 5, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    batch = MessageBatch.from_messages([Message(b"", not_before=there)])
    assert batch[0].not_before == there


# --- batches --------------------------------------------------------------------------------------


def batch_of(count: int, size: int = 10) -> MessageBatch:
    return MessageBatch.from_messages(
        [Message(bytes(size), id=MessageId(f"m{n}")) for n in range(count)]
    )


def ids(batch: MessageBatch) -> list[str]:
    return [str(one.id) for one in batch]


@pytest.mark.spec("M2", "F1")
@given(st.lists(st.integers(0, 4), max_size=30))
def test_split_loses_and_doubles_nothing(owners: list[int]) -> None:
    """Each owner gets its rows in their order, with their places in the whole."""
    batch = batch_of(len(owners))
    parts = batch.split(owners)
    assert set(parts) == set(owners)
    for owner, (rows, part) in parts.items():
        assert rows.tolist() == [at for at, one in enumerate(owners) if one == owner]
        assert ids(part) == [f"m{at}" for at in rows]


@pytest.mark.spec("M2")
@given(st.lists(st.integers(0, 5), max_size=5))
def test_concat_keeps_order(counts: list[int]) -> None:
    """The rows of all batches, one after the other; no batch gives no rows."""
    batches = [batch_of(count) for count in counts]
    assert ids(MessageBatch.concat(batches)) == [one for batch in batches for one in ids(batch)]


@pytest.mark.spec("M2")
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=12))
def test_rows_of_several_batches_are_gathered_in_the_order_given(
    rows: list[tuple[int, int]],
) -> None:
    """Whatever batches they come from, in turns and again; no rows give no rows."""
    batches = [
        MessageBatch.from_messages([Message(b"", id=f"{name}{at}") for at in range(4)])
        for name in "abc"
    ]
    gathered = MessageBatch.gather([(batches[batch], at) for batch, at in rows])
    assert ids(gathered) == [f"{'abc'[batch]}{at}" for batch, at in rows]


def test_rows_are_found_as_in_a_list() -> None:
    """By number, from the end too; a slice is a batch; a row that isn't there is an IndexError."""
    batch = batch_of(5)
    assert ids(batch[1:4:2]) == ["m1", "m3"]
    assert ids(batch.take([4, 0])) == ["m4", "m0"]
    assert batch[-1].id == "m4"
    for wrong in (5, -6):
        with pytest.raises(IndexError):
            batch[wrong]
    assert len(MessageBatch.empty()) == 0
    assert batch.column("id").to_pylist() == ids(batch)
    assert batch.values("id") is batch.values("id")
    with pytest.raises(KeyError):
        batch.column("nothing")


@pytest.mark.spec("F1", "F5")
def test_a_serialised_slice_does_not_ship_its_parent() -> None:
    """Ten rows of a thousand cost less than twice their own bytes on the wire."""
    batch = batch_of(1_000, size=1_000)
    few = batch[500:510]
    assert few.to_buffer().size < 2 * few.nbytes
    assert few.nbytes < batch.nbytes / 50
    one_owner = batch.split([0] * 999 + [1])[1][1]
    assert one_owner.to_buffer().size < 10_000


@pytest.mark.spec("M2")
@given(st.binary(max_size=300))
def test_bytes_that_are_no_batch_are_an_error_of_ours(garbage: bytes) -> None:
    """Whatever the bytes are, the error is ours and says how many they were."""
    with pytest.raises(SerializationError, match=f"{len(garbage)} bytes"):
        MessageBatch.from_buffer(pa.py_buffer(garbage))


@pytest.mark.spec("M2")
def test_a_batch_that_was_cut_or_is_another_is_an_error_of_ours() -> None:
    """A buffer that ends early, or holds other columns, is refused."""
    whole = batch_of(20).to_buffer()
    for size in range(0, whole.size - 64, 97):
        with pytest.raises(SerializationError):
            MessageBatch.from_buffer(whole.slice(0, size))
    with pytest.raises(SerializationError):
        MessageBatch.from_buffer(pa.record_batch({"a": [1]}).serialize())


def test_columns_that_are_not_given_are_zero_or_null() -> None:
    """A first delivery counts 1, numbers are 0, all else is null."""
    batch = MessageBatch.from_columns(2, {"id": ["a", "b"], "body": [b"", b"xyz"]})
    assert batch.arrow.schema == SCHEMA
    assert batch.values("delivery_count") == [1, 1]
    assert batch.values("turn") == [0, 0]
    assert batch.values("enqueued_at") == [0.0, 0.0]
    assert batch.values("session") == [None, None]
    assert batch.sizes().tolist() == [0, 3]


@pytest.mark.spec("F3")
@given(st.lists(st.sampled_from([None, "a", "b", "c"]), min_size=1, max_size=20))
def test_distinct_values_stand_in_the_order_in_which_they_first_come(names: list[Any]) -> None:
    """A receiver finds the first row of each session by that."""
    batch = batch_of(len(names)).with_columns(session=names)
    values, codes = batch.distinct("session")
    assert values == list(dict.fromkeys(names))
    assert [values[code] for code in codes] == names


_LATER = """
import pickle, sys
from pipeline.batch import MessageBatch, import_what_columns_need
import_what_columns_need()
before = set(sys.modules)
bodies = {"id": list("ab") * 50, "session": list("ab") * 50, "body": [b"x"] * 100}
batch = pickle.loads(pickle.dumps(MessageBatch.from_columns(100, bodies)))
batch.distinct("session"), batch.values("sequence"), batch.numbers("turn"), batch.redelivered()
pickle.dumps(batch.with_columns(turn=batch.numbers("turn"))), batch.split([0, 1] * 50)
print(sorted(set(sys.modules) - before))
"""


def test_a_first_batch_imports_nothing() -> None:
    """All that columns need was imported before, as every actor does at its start."""
    import_what_columns_need()
    command = [sys.executable, "-c", _LATER]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.spec("F1", "F2")
@given(st.lists(st.binary(max_size=3), min_size=65, max_size=80))
def test_many_bodies_are_the_column_that_they_would_be_one_by_one(bodies: list[bytes]) -> None:
    """Empty ones among them as well."""
    batch = MessageBatch.from_columns(len(bodies), {"body": bodies})
    assert batch.column("body").equals(pa.array(bodies, pa.binary()))
    batch.arrow.validate(full=True)


@pytest.mark.spec("F5")
def test_more_bytes_than_a_column_holds_are_refused() -> None:
    """Two gigabytes are too many for one batch."""
    with pytest.raises(ValidationError, match="use smaller batches"):
        MessageBatch.from_columns(2_049, {"body": [b"x" * 2**20] * 2_049})


@pytest.mark.spec("F1")
def test_a_batch_goes_on_with_the_columns_that_were_replaced() -> None:
    """What came in a buffer leaves in that buffer, however often, and with what is new."""
    came = MessageBatch.from_buffer(batch_of(100, size=1_000).to_buffer())
    assert pickle.loads(pickle.dumps(came)).arrow.equals(came.arrow)
    changed = came.with_columns(turn=range(100)).with_columns(failures=[3] * 100)
    assert len(pickle.dumps(changed)) < len(pickle.dumps(came)) + 3_000
    for _ in range(2):
        changed = pickle.loads(pickle.dumps(changed.with_columns(failures=[4] * 100)))
        assert changed.values("turn") == list(range(100))
        assert changed.values("failures") == [4] * 100
        assert changed.values("body") == came.values("body")
    few = changed.take([7])
    assert len(pickle.dumps(few)) < 5_000
    assert pickle.loads(pickle.dumps(few)).values("turn") == [7]


def test_the_providers_id_stands_for_the_senders_where_there_is_one() -> None:
    """Row by row; a batch without any uses the senders'."""
    batch = MessageBatch.from_columns(2, {"id": ["a", "b"], "body": [b"", b""]})
    assert batch.provider_ids() == ["a", "b"]
    assert batch.with_columns(provider_id=["x", None]).provider_ids() == ["x", "b"]


def test_distinct_values_and_where_they_stand() -> None:
    """A null is a value like others; an equal one has one number."""
    batch = batch_of(4).with_columns(session=["s", None, "t", "s"])
    values, codes = batch.distinct("session")
    assert [values[code] for code in codes] == ["s", None, "t", "s"]
    assert len(values) == 3


@pytest.mark.spec("F1")
def test_columns_that_are_not_given_are_blank_each_time() -> None:
    """Few rows share the columns that nothing was given for; no batch changes another's."""
    for count in (2, 2, 200):
        given = MessageBatch.from_columns(
            count, {"delivery_count": [7] * count, "id": ["a"] * count}
        )
        assert given.with_columns(turn=[5] * count).values("turn") == [5] * count
        blank = MessageBatch.from_columns(count, {})
        assert blank.values("delivery_count") == [1] * count
        assert blank.values("turn") == blank.values("sequence") == [0] * count
        assert blank.values("id") == blank.values("body") == [None] * count
        assert blank.values("locked_until") == [0.0] * count


@pytest.mark.spec("T5")
def test_columns_can_take_their_memory_from_the_process() -> None:
    """As actors let them, which tell the process to keep what is free."""
    before = pa.default_memory_pool()
    try:
        allocate_with_process()
        assert pa.default_memory_pool().backend_name == "system"
    finally:
        pa.set_memory_pool(before)
