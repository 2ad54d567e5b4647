"""How a message travels: whatever it holds, SQS takes it and it comes back equal."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import MessageBatch
from pipeline.message import Message, TraceContext
from pipeline.names import MessageId, SessionId
from pipeline.outcomes import Reason
from pipeline.providers.aws.copies import dead_letter_of
from pipeline.providers.aws.lean import _binary, _restore
from pipeline.providers.aws.wire import MOST_ATTRIBUTES, Entry, columns_of, entry_of
from pipeline.providers.port import DeadLetter
from tests.sqs.checks import check, size
from tests.sqs.queues import Queue
from tests.sqs.settings import Settings

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
odd = st.sampled_from(
    ["a", "queue-runtime", "traceparent", "tracestate", "AWS.x", "amazon.y", ".a", "a..b", "a b"]
)
ids = st.text(st.characters(codec="ascii"), min_size=1, max_size=128) | text
HEX = st.text("0123456789abcdef", min_size=1)
traces = st.builds(
    TraceContext,
    traceparent=st.just("00-" + "a" * 32 + "-" + "b" * 16 + "-01"),
    tracestate=st.none() | st.just("vendor=value"),
)


def named(kind: Any, value: str) -> Any:
    """An id, where the text is one."""
    try:
        return kind(value)
    except ValueError:
        return None


messages = st.builds(
    Message,
    body=st.binary(max_size=300) | text.map(str.encode),
    id=ids.map(lambda value: named(MessageId, value)).filter(bool),
    session=ids.map(lambda value: named(SessionId, value)).filter(bool),
    correlation_id=st.none() | text,
    content_type=st.none() | text,
    attributes=st.dictionaries(
        text | odd | st.text("abc._-", min_size=1),
        st.text(max_size=20).filter(lambda value: not re.search("[\ud800-\udfff]", value)),
        max_size=14,
    ),
    time_to_live=st.none() | st.floats(0.001, 1e9),
    deduplication_id=st.none() | text,
    trace=st.none() | traces,
)


def queue(name: str) -> Queue:
    """At the endpoint."""
    fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
    return Queue(name, Settings(name, fifo), lambda: 0.0, 1, lambda *_: False)


STANDARD, FIFO = queue("q"), queue("q.fifo")


def over_the_wire(entry: Entry, *, fifo: bool) -> dict[str, Any]:
    """What the service gives for what it took, or would refuse."""
    sent = json.loads(json.dumps(entry.fields, default=_binary))
    check(FIFO if fifo else STANDARD, sent)
    assert size(sent) == entry.size, "counted as SQS does"
    assert len(sent.get("MessageAttributes", {})) <= MOST_ATTRIBUTES
    system = {"SentTimestamp": "1000", "ApproximateReceiveCount": "1"}
    if "MessageGroupId" in sent:
        system["MessageGroupId"] = sent["MessageGroupId"]
    message = {
        "MessageId": "of-sqs",
        "ReceiptHandle": "handle",
        "Body": sent["MessageBody"],
        "Attributes": system,
        "MessageAttributes": sent.get("MessageAttributes", {}),
    }
    _restore({"Messages": [message]})
    return message


def delivered(message: dict[str, Any]) -> dict[str, Any]:
    """What a handler gets."""
    batch = MessageBatch.from_columns(1, columns_of([message], [7]))
    return {name: batch.values(name)[0] for name in batch.arrow.schema.names}


def check_equal(got: dict[str, Any], sent: Message) -> None:
    """All that the message had."""
    assert got["body"] == sent.body
    assert got["id"] == sent.id
    assert got["session"] == sent.session
    assert got["correlation_id"] == sent.correlation_id
    assert got["content_type"] == sent.content_type
    assert dict(got["attributes"] or ()) == dict(sent.attributes)
    assert got["time_to_live"] == sent.time_to_live
    assert got["deduplication_id"] == sent.deduplication_id
    assert got["traceparent"] == (sent.trace and sent.trace.traceparent)
    assert got["tracestate"] == (sent.trace and sent.trace.tracestate)


@pytest.mark.spec("M2", "P3")
@given(messages, st.booleans())
def test_any_message_survives(message: Message, fifo: bool) -> None:
    """Any bytes, ids with odd characters, many attributes and those that SQS refuses."""
    entry = entry_of(message, str(message.session), fifo=fifo, delay=0)
    check_equal(delivered(over_the_wire(entry, fifo=fifo)), message)


@pytest.mark.spec("M2", "P15", "R3")
@given(messages, st.booleans(), text)
def test_any_message_survives_the_dead_letter_queue(
    message: Message, fifo: bool, description: str
) -> None:
    """Twice: all it had, and the latest reason."""
    entry = entry_of(message, str(message.session), fifo=fifo, delay=0)
    keys = set()
    for hop in ("first", "second"):
        raw = over_the_wire(entry, fifo=fifo) | {"MessageId": hop}
        why = DeadLetter(Reason.REJECTED, description + hop)
        entry = dead_letter_of(raw, why, fifo=fifo, limit=2**20)
        assert dead_letter_of(raw, why, fifo=fifo, limit=2**20) == entry, "the same when repeated"
        keys.add(entry.fields.get("MessageDeduplicationId"))
        got = delivered(over_the_wire(entry, fifo=fifo))
        check_equal(got, message)
        assert got["dead_letter_reason"] == Reason.REJECTED
        assert got["dead_letter_description"] == description + hop
    assert len(keys) == (2 if fifo else 1)


@pytest.mark.spec("R3", "M2")
@given(
    messages,
    st.integers(0, 400),
    st.text(max_size=300).filter(lambda value: not re.search("[\ud800-\udfff]", value)),
)
def test_a_copy_never_is_larger_than_it_may_be(
    message: Message, room: int, description: str
) -> None:
    """What is cut is what is told of the failure, never anything of the message."""
    entry = entry_of(message, str(message.session), fifo=True, delay=0)
    raw = over_the_wire(entry, fifo=True)
    why = DeadLetter(Reason.REJECTED, description)
    copy = dead_letter_of(raw, why, fifo=True, limit=entry.size + room)
    assert copy.size <= entry.size + room
    check_equal(delivered(over_the_wire(copy, fifo=True)), message)


OTHERS = {
    "count": {"DataType": "Number", "StringValue": "12.50"},
    "unit": {"DataType": "Number.seconds", "StringValue": "3"},
    "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
    "kind": {"DataType": "String", "StringValue": "x"},
}


def foreign(count: int, last: str = "traceparent") -> dict[str, Any]:
    """A message of other software with so many attributes, the trace context among them."""
    attributes: dict[str, Any] = dict(OTHERS)
    for number in range(count - len(OTHERS) - 1):
        attributes[f"more-{number}"] = {"DataType": "String", "StringValue": str(number)}
    attributes[last] = {"DataType": "String", "StringValue": "00-" + "a" * 32 + "-b-01"}
    return {
        "MessageId": "theirs",
        "Body": "plain",
        "Attributes": {"SentTimestamp": "5000", "MessageGroupId": "g"},
        "MessageAttributes": attributes,
    }


@pytest.mark.spec("M2", "R3")
def test_a_copy_of_other_softwares_message_keeps_types() -> None:
    """Numbers and bytes stay what they are, when it was sent is told, its id is SQS's."""
    raw = foreign(9)
    copy = dead_letter_of(raw, DeadLetter("rejected"), fifo=False, limit=2**20)
    for name, attribute in raw["MessageAttributes"].items():
        assert copy.fields["MessageAttributes"][name] == attribute
    got = delivered(over_the_wire(copy, fifo=False))
    assert got["id"] == "theirs"
    assert got["body"] == b"plain"
    assert dict(got["attributes"])["raw"] == "AP8="
    ours = json.loads(copy.fields["MessageAttributes"]["queue-runtime"]["StringValue"])
    assert ours["sent"] == "5000"


@pytest.mark.spec("M2", "R3")
def test_of_ten_attributes_one_makes_room() -> None:
    """It travels in ours with its type; never the trace context, which others read."""
    copy = dead_letter_of(foreign(10), DeadLetter("rejected"), fifo=False, limit=2**20)
    assert len(copy.fields["MessageAttributes"]) == MOST_ATTRIBUTES
    assert "traceparent" in copy.fields["MessageAttributes"]
    got = delivered(over_the_wire(copy, fifo=False))
    before = delivered(foreign(10))
    assert sorted(got["attributes"]) == sorted(before["attributes"])
    assert got["traceparent"] == before["traceparent"]


@pytest.mark.spec("M2")
@pytest.mark.parametrize("ours", ["[]", "1", "no JSON", '"x"', "null"])
def test_an_attribute_of_our_name_that_is_not_ours(ours: str) -> None:
    """Is nothing to us."""
    raw = foreign(6, "queue-runtime")
    raw["MessageAttributes"]["queue-runtime"]["StringValue"] = ours
    assert delivered(raw)["id"] == "theirs"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
keys = st.sampled_from(
    [
        *("id", "session", "correlation", "type", "ttl", "dedup", "not_before", "body"),
        *("more", "typed", "dead", "sent", "hop", "unknown"),
    ]
)


@pytest.mark.spec("M2", "P10")
@given(st.dictionaries(keys, json_values, max_size=6))
def test_whoever_writes_our_attribute_harms_nobody(ours: dict[str, Any]) -> None:
    """It is received, and can be dead-lettered, with what of it is as we would have written it."""
    raw = foreign(6, "queue-runtime")
    raw["MessageAttributes"]["queue-runtime"]["StringValue"] = json.dumps(ours)
    row = delivered(raw)
    assert row["body"] == b"plain"
    MessageBatch.from_columns(1, columns_of([raw], [7]))[0].message  # noqa: B018 - can be sent on
    if isinstance(ours.get("id"), str) and ours["id"].isascii() and ours["id"]:
        assert row["id"] == ours["id"]
    dead_letter_of(raw, DeadLetter("rejected"), fifo=True, limit=1_048_576)


@pytest.mark.spec("M2", "P10")
@pytest.mark.parametrize(
    "ours",
    [
        '{"more":[1]}',
        '{"dead":"x"}',
        '{"ttl":"abc"}',
        '{"ttl":-1}',
        '{"ttl":1e999}',
        '{"typed":{"a":"bcd"}}',
        '{"id":5}',
        '{"more":{"a":5}}',
        '{"dead":{"reason":7}}',
        '{"not_before":"soon"}',
        '{"not_before":-9e10}',
        '{"body":"empty"}',
        '{"body":"base64"}',
        '{"body":"zstd"}',
        '{"correlation":""}',
        '{"more":{"":"x"}}',
        '{"correlation":"\\ud800"}',
        '{"hop":"many"}',
        "[" * 5_000,
    ],
)
def test_what_is_not_as_we_would_have_written_it_is_passed_over(ours: str) -> None:
    """Key by key."""
    raw = foreign(6, "queue-runtime")
    raw["MessageAttributes"]["queue-runtime"]["StringValue"] = ours
    row = delivered(raw)
    assert (row["id"], row["body"]) == ("theirs", b"plain")
    assert (row["time_to_live"], row["not_before"]) == (None, None)
    assert (row["correlation_id"], row["dead_letter_reason"]) == (None, None)
    dead_letter_of(raw, DeadLetter("rejected"), fifo=True, limit=1_048_576)


@pytest.mark.spec("M2", "P10")
@pytest.mark.parametrize("value", ["", "\u00fc", "a\nb"])
def test_a_trace_context_that_can_be_none_is_passed_over(value: str) -> None:
    """The message is received, and can be sent on."""
    raw = foreign(6, "traceparent")
    raw["MessageAttributes"]["traceparent"]["StringValue"] = value
    raw["MessageAttributes"]["tracestate"] = {"DataType": "Binary", "BinaryValue": b"x"}
    row = delivered(raw)
    assert (row["traceparent"], row["tracestate"]) == (None, None)


@pytest.mark.spec("F3", "M2")
def test_a_session_is_that_of_its_group() -> None:
    """Two groups that both claim to be one session would be handled in no order."""
    raw = foreign(6, "queue-runtime")
    raw["Attributes"]["MessageGroupId"] = "mine"
    raw["MessageAttributes"]["queue-runtime"]["StringValue"] = '{"session":"another"}'
    assert delivered(raw)["session"] == "mine"
    name = "Stra\u00dfe 7"
    sent = entry_of(Message(b"x", session=name), name, fifo=True, delay=0)
    raw["Attributes"]["MessageGroupId"] = sent.group
    raw["MessageAttributes"] = sent.fields["MessageAttributes"]
    assert delivered(raw)["session"] == name
