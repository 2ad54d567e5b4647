"""What is sent and what is received: `Message`, and `Delivery`, a lazy view on a row of a batch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeAlias

from pipeline.clock import new_id
from pipeline.errors import QueueError, ValidationError
from pipeline.names import MessageId, QueueName, ReceiptHandle, SessionId
from pipeline.refusals import read

if TYPE_CHECKING:
    from pipeline.batch import MessageBatch

_HEADER = re.compile(r"[\t -~]+")
_LONGEST_LIFE = 1e11
"""Seconds, 3,000 years: what every provider can carry."""
_FIRST, _LAST = -62_135_596_800, 253_402_300_799
"""Seconds since 1970 of the years 1 to 9999 in UTC, but for the last second: as a number of seconds
it would come back as a time in the year 10000."""
_NOTHING: Mapping[str, str] = MappingProxyType({})

Row: TypeAlias = tuple[Any, ...]
"""A message as plain values in the order of `ROW_FIELDS`: what crosses to a broker in another
process, because a tuple pickles in a third of the time of an object."""

ROW_FIELDS = (
    "id",
    "session",
    "body",
    "content_type",
    "correlation_id",
    "attributes",
    "time_to_live",
    "not_before",
    "deduplication_id",
    "traceparent",
    "tracestate",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext:
    """A W3C trace context, carried from the sender to the handler.

    Args:
        traceparent: the header of that name, as `00-<32 hex>-<16 hex>-<2 hex>`.
        tracestate: the header of that name, if there is one.

    Raises:
        ValidationError: one of them could stand in no header.

    Example:
        >>> TraceContext(traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01").tracestate is None
        True
    """

    traceparent: str
    tracestate: str | None = None

    def __post_init__(self) -> None:
        for name in ("traceparent", "tracestate"):
            value = getattr(self, name)
            if not is_header(value) and (name == "traceparent" or value is not None):
                rule = "must be text of one header: printable ASCII, not empty"
                raise ValidationError(f"TraceContext.{name}", rule, value)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to send. Immutable; `Message(b"...")` is enough, the id is made when none is given.

    Args:
        body: the bytes to carry.
        id: the sender's id for it; equal ids are one message to a queue that detects duplicates.
        session: messages of one session are handled one at a time, in order.
        correlation_id: what this message answers or belongs to.
        content_type: the body's media type, such as `application/json`.
        attributes: text to text, readable without opening the body.
        time_to_live: seconds after which an unread message is dead-lettered as `expired`; less than
            1e11, None: for ever.
        not_before: when it may be delivered at the earliest; a time with a zone, in UTC of the
            years 1 to 9999.
        deduplication_id: what duplicate detection compares instead of the id.
        trace: the W3C trace context to carry.

    Raises:
        ValidationError: a value breaks a rule; the message names the field, the rule and the value.

    Provider differences: SQS refuses a `not_before` more than 15 minutes ahead, or any on a FIFO
    queue, and carries `time_to_live` as an attribute judged at receive.

    Example:
        >>> message = Message(b"{}", session="N14228", attributes={"kind": "departure"})
        >>> message.session, message.attributes["kind"]
        (SessionId('N14228'), 'departure')
    """

    body: bytes
    id: MessageId = field(default_factory=lambda: MessageId.trusted(new_id()))
    session: SessionId | None = None
    correlation_id: str | None = None
    content_type: str | None = None
    attributes: Mapping[str, str] = field(default_factory=lambda: _NOTHING, hash=False)
    time_to_live: float | None = None
    not_before: datetime | None = None
    deduplication_id: str | None = None
    trace: TraceContext | None = None

    def __post_init__(self) -> None:
        if type(self.body) is not bytes:
            if not isinstance(self.body, (bytes, bytearray, memoryview)):
                raise ValidationError("Message.body", "must be bytes", type(self.body).__name__)
            object.__setattr__(self, "body", bytes(self.body))
        if type(self.id) is not MessageId:
            object.__setattr__(self, "id", MessageId(self.id))
        # An empty one, which other software may have sent, is branded without a check.
        if self.session is not None and not (type(self.session) is SessionId and self.session):
            object.__setattr__(self, "session", SessionId(self.session))
        if self.attributes is not _NOTHING:
            object.__setattr__(self, "attributes", _attributes(self.attributes))
        self._check_optional()

    def _check_optional(self) -> None:
        for name in ("correlation_id", "content_type", "deduplication_id"):
            text = getattr(self, name)
            if text is not None and not (is_text(text) and 0 < len(text) <= 1024):
                raise ValidationError(f"Message.{name}", "must be 1 to 1024 characters", text)
        alive = self.time_to_live
        if alive is not None and not (
            isinstance(alive, (int, float)) and 0 < alive < _LONGEST_LIFE
        ):
            rule = "must be more than 0 and less than 1e11 seconds, or None for ever"
            raise ValidationError("Message.time_to_live", rule, alive)
        if self.not_before is not None:
            _check_moment(self.not_before)
        if self.trace is not None and not isinstance(self.trace, TraceContext):
            raise ValidationError("Message.trace", "must be a TraceContext", self.trace)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel through pickle as a tuple of plain values."""
        return from_row, (to_row(self),)

    def with_session(self, session: str) -> Message:
        """The same message in another session."""
        return replace(self, session=SessionId(session))


def _check_moment(start: object) -> None:
    if not (isinstance(start, datetime) and start.utcoffset() is not None):
        rule = "must be a time with a zone (datetime.now(UTC) has one)"
        raise ValidationError("Message.not_before", rule, str(start))
    if not is_moment(start.timestamp()):
        rule = "must be in the years 1 to 9999 in UTC"
        raise ValidationError("Message.not_before", rule, str(start))


def is_moment(seconds: float) -> bool:
    """Whether so many seconds since 1970 are a time that a message can carry."""
    return _FIRST <= seconds <= _LAST


def _attributes(given: Mapping[str, str]) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        raise ValidationError("Message.attributes", "must map text to text", given)
    for key, value in given.items():
        if not is_text(key) or not key:
            raise ValidationError("Message.attributes", "keys must be non-empty strings", key)
        if not is_text(value):
            raise ValidationError(f"Message.attributes[{key!r}]", "must be a string", value)
    return MappingProxyType(dict(given)) if given else _NOTHING


def is_text(value: object) -> bool:
    """Whether it is a string that can be written as UTF-8, which half a surrogate pair can't."""
    if not isinstance(value, str):
        return False
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
    return True


def is_header(value: object) -> bool:
    """Whether it is text that can be a header's value."""
    return isinstance(value, str) and _HEADER.fullmatch(value) is not None


def to_row(message: Message) -> Row:
    """The message as plain values in the order of `ROW_FIELDS`."""
    trace = message.trace
    return (
        str(message.id),
        None if message.session is None else str(message.session),
        message.body,
        message.content_type,
        message.correlation_id,
        dict(message.attributes) if message.attributes else None,
        message.time_to_live,
        None if message.not_before is None else message.not_before.timestamp(),
        message.deduplication_id,
        None if trace is None else trace.traceparent,
        None if trace is None else trace.tracestate,
    )


def from_row(row: Row) -> Message:
    """The message that `to_row` took apart."""
    id_, session, body, content_type, correlation, attributes, ttl, not_before, dedup, *trace = row
    return Message(
        body,
        MessageId.trusted(id_),
        None if session is None else SessionId.trusted(session),
        correlation,
        content_type,
        attributes or _NOTHING,
        ttl,
        None if not_before is None else datetime.fromtimestamp(not_before, UTC),
        dedup,
        None if trace[0] is None else TraceContext(traceparent=trace[0], tracestate=trace[1]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lock:
    """How long a delivery is this receiver's.

    Args:
        locked_until: when the lock ends unless it is renewed (the runtime renews it).

    Example:
        >>> Lock(locked_until=datetime(2026, 1, 1, tzinfo=UTC)).locked_until.year
        2026
    """

    locked_until: datetime


class Delivery:
    """A received message: a view on its row, made lazily; it never outlives its batch's memory.

    Everything of `Message` is there under the same name, and beside it `sequence`,
    `delivery_count` (1 at the first delivery on every provider), `enqueued_at`, `lock`, `queue`,
    `partition`, and, when it was read from a dead-letter queue, `dead_letter_reason` and
    `dead_letter_description`. `receipt` is set only when a `QueueClient` received it.

    Example:
        >>> from pipeline.batch import MessageBatch
        >>> batch = MessageBatch.from_messages([Message(b"hello", id="m1")])
        >>> delivery = batch[0]
        >>> delivery.id, delivery.body, delivery.delivery_count
        (MessageId('m1'), b'hello', 1)
    """

    __slots__ = ("_batch", "_receipt", "_row", "partition", "queue")

    def __init__(
        self,
        batch: MessageBatch,
        row: int,
        queue: QueueName | None = None,
        partition: int = 0,
        receipt: ReceiptHandle | None = None,
    ) -> None:
        self._batch = batch
        self._row = row
        self._receipt = receipt
        self.queue = queue
        self.partition = partition

    def _value(self, column: str) -> Any:
        return self._batch.values(column)[self._row]

    @property
    def body(self) -> bytes:
        """The bytes that were sent, opened where they came sealed.

        Raises:
            CryptoError: a sealed body that can't be opened; its kind says why. Dead-letter the
                message, or for `KeyNotFound` release it until the key is there.
            UnencryptedMessage: it came plain, and the configuration's `crypto.plaintext` is reject.
            SerializationError: other software's message of which no body could be made (Azure).
        """
        error = self.refused
        if error is not None:
            raise error
        body: bytes = self._value("body")
        return body

    @property
    def refused(self) -> QueueError | None:
        """Why the body can't be had; None when it can. All else of the message can be read."""
        text: str | None = self._value("refused")
        return None if text is None else read(text).error

    @property
    def sealed(self) -> bool:
        """Whether the body came sealed and was opened; False where cryptography is off."""
        return bool(self._value("nonce"))

    @property
    def id(self) -> MessageId:
        """The sender's id."""
        return MessageId.trusted(self._value("id"))

    @property
    def session(self) -> SessionId | None:
        """The session it belongs to, if any; on Azure other software can name one that is empty."""
        session = self._value("session")
        return None if session is None else SessionId.trusted(session)

    @property
    def correlation_id(self) -> str | None:
        """What it answers or belongs to."""
        value: str | None = self._value("correlation_id")
        return value

    @property
    def content_type(self) -> str | None:
        """The body's media type."""
        value: str | None = self._value("content_type")
        return value

    @property
    def attributes(self) -> Mapping[str, str]:
        """Text to text, as sent."""
        pairs = self._value("attributes")
        return MappingProxyType(dict(pairs)) if pairs else _NOTHING

    @property
    def time_to_live(self) -> float | None:
        """Seconds, as sent."""
        value: float | None = self._value("time_to_live")
        return value

    @property
    def not_before(self) -> datetime | None:
        """The earliest time of delivery, as sent."""
        return _moment(self._value("not_before"))

    @property
    def deduplication_id(self) -> str | None:
        """What duplicate detection compared, as sent."""
        value: str | None = self._value("deduplication_id")
        return value

    @property
    def trace(self) -> TraceContext | None:
        """The W3C trace context, as sent."""
        parent = self._value("traceparent")
        if parent is None:
            return None
        return TraceContext(traceparent=parent, tracestate=self._value("tracestate"))

    @property
    def sequence(self) -> int:
        """The queue's number for it: ascending inside a session."""
        value: int = self._value("sequence")
        return value

    @property
    def delivery_count(self) -> int:
        """1 at the first delivery; what makes it grow differs by provider (SPEC P14)."""
        value: int = self._value("delivery_count")
        return value

    @property
    def enqueued_at(self) -> datetime:
        """When the queue took it, in UTC."""
        return datetime.fromtimestamp(self._value("enqueued_at"), UTC)

    @property
    def lock(self) -> Lock:
        """The lock as it was at receipt."""
        return Lock(locked_until=datetime.fromtimestamp(self._value("locked_until"), UTC))

    @property
    def dead_letter_reason(self) -> str | None:
        """Why it was dead-lettered, when it was read from a dead-letter queue."""
        value: str | None = self._value("dead_letter_reason")
        return value

    @property
    def dead_letter_description(self) -> str | None:
        """The failure's description, when it was read from a dead-letter queue."""
        value: str | None = self._value("dead_letter_description")
        return value

    @property
    def receipt(self) -> ReceiptHandle:
        """What settles it, in the client that received it.

        Raises:
            ValidationError: the delivery came to a handler; the runtime settles it by its outcome.
        """
        if self._receipt is None:
            rule = "exists only where a QueueClient received it; a handler returns an outcome"
            raise ValidationError("Delivery.receipt", rule)
        return self._receipt

    @property
    def message(self) -> Message:
        """The message as it was sent, to send it on; a session that is empty is none."""
        return Message(
            self.body,
            self.id,
            self.session or None,
            self.correlation_id,
            self.content_type,
            self.attributes,
            self.time_to_live,
            self.not_before,
            self.deduplication_id,
            self.trace,
        )

    def __repr__(self) -> str:
        return f"Delivery(id={self.id!r}, session={self.session!r}, sequence={self.sequence})"


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
