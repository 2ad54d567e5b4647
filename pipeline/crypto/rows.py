"""Rows in, rows out: what crosses to whoever seals and opens, and the rules around the ciphers.

It owns which opened body is let through (freshness, plain ones) and what is sealed. Each row ends
by itself: with its body, or with an error beside it. Rows travel as one buffer, which is what they
cost between processes.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.clock import Clock
from pipeline.crypto import column
from pipeline.crypto.freshness import Freshness
from pipeline.crypto.plaintext import Plaintext
from pipeline.crypto.port import CryptoProvider, SealedColumn
from pipeline.errors import QueueError, UnencryptedMessage
from pipeline.message import Message

if TYPE_CHECKING:
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline.batch import MessageBatch

_log = logging.getLogger(__name__)

_TOLD_EVERY = 60.0
"""Seconds between two lines of the log about plain messages."""


@dataclass(frozen=True, slots=True)
class SealedRows:
    """Rows as they were received: what is needed to open them, and no more.

    Args:
        ids: the messages' ids, a string array.
        sessions: their sessions, a string array; null: none.
        bodies: a binary array, sealed and plain ones mixed.
        enqueued_at: when the provider took each, seconds since 1970, a float64 array.
        waited: for how many seconds each was here and could not be opened, a float64 array.

    Example:
        >>> from pipeline.batch import MessageBatch
        >>> batch = MessageBatch.from_messages([Message(b"plain", id="m1")])
        >>> len(SealedRows.of(batch))
        1
    """

    ids: pa.Array
    sessions: pa.Array
    bodies: pa.Array
    enqueued_at: pa.Array
    waited: pa.Array

    @classmethod
    def of(
        cls, batch: MessageBatch, waited: Sequence[float] | npt.NDArray[np.float64] | None = None
    ) -> SealedRows:
        """The rows of a batch.

        Args:
            batch: as it was received.
            waited: for how many seconds each row was here already; None: all came just now.
        """
        return cls(
            batch.column("id"),
            batch.column("session"),
            batch.column("body"),
            batch.column("enqueued_at"),
            column.of_seconds(np.zeros(len(batch)) if waited is None else waited),
        )

    def from_start(self, not_before: pa.Array) -> SealedRows:
        """What is not due yet, as if it had been sent when it is.

        Args:
            not_before: when that is, seconds since 1970, a float64 array; null: at once.
        """
        return replace(self, enqueued_at=column.later_of(self.enqueued_at, not_before))

    def __len__(self) -> int:
        return len(self.bodies)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer, through pickle and Ray alike."""
        parts = (self.ids, self.sessions, self.bodies, self.enqueued_at, self.waited)
        return _sealed_rows, (column.to_buffer(column.SEALED_ROWS, *parts),)


@dataclass(frozen=True, slots=True)
class OpenedRows:
    """What became of received rows, in their order.

    Args:
        bodies: a binary array: what was sealed; a plain body, and one with an error, as it came.
        nonces: a binary array, for a `NonceBook`: 24 bytes of each opened row; empty for others.
        errors: by row, why a body is not to be handled.
        sealed: how many came sealed, or at least marked so.
        plain: how many came plain.

    Example:
        >>> import pyarrow as pa
        >>> OpenedRows(pa.array([b"plain"]), pa.array([b""]), {}, sealed=0, plain=1).errors
        {}
    """

    bodies: pa.Array
    nonces: pa.Array
    errors: Mapping[int, QueueError]
    sealed: int
    plain: int

    def __len__(self) -> int:
        return len(self.bodies)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer and the errors."""
        buffer = column.to_buffer(column.OPENED_ROWS, self.bodies, self.nonces)
        return _opened_rows, (buffer, self.errors, self.sealed, self.plain)


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Rows that are to be sealed: what is needed for it, and no more.

    Args:
        ids: the messages' ids, a string array.
        sessions: their sessions, a string array; null: none.
        bodies: a binary array.
        not_before: when each may be delivered, seconds since 1970, a float64 array; null: at once.

    Example:
        >>> len(PlainRows.of([Message(b"hello", id="m1")]))
        1
    """

    ids: pa.Array
    sessions: pa.Array
    bodies: pa.Array
    not_before: pa.Array

    @classmethod
    def of(cls, messages: Sequence[Message]) -> PlainRows:
        """The rows of messages."""
        starts = [message.not_before for message in messages]
        return cls(
            column.of_strings([message.id for message in messages]),
            column.of_strings([message.session for message in messages]),
            column.of_bytes([message.body for message in messages]),
            column.of_seconds([None if start is None else start.timestamp() for start in starts]),
        )

    def __len__(self) -> int:
        return len(self.bodies)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer."""
        parts = (self.ids, self.sessions, self.bodies, self.not_before)
        return _plain_rows, (column.to_buffer(column.PLAIN_ROWS, *parts),)


@dataclass(frozen=True, slots=True)
class SealedBodies:
    """What became of rows that were to be sealed, in their order.

    Args:
        bodies: a binary array; a row with an error is as it was: send it nowhere.
        errors: by row, why it was not sealed.

    Example:
        >>> import pyarrow as pa
        >>> messages = [Message(b"hello", id="m1")]
        >>> SealedBodies(pa.array([b"QRE1..."])).put_into(messages)[0].body
        b'QRE1...'
    """

    bodies: pa.Array
    errors: Mapping[int, QueueError] = field(default_factory=dict)

    def put_into(self, messages: Sequence[Message]) -> list[Message | QueueError]:
        """The messages with these bodies; in place of one that was not sealed, why.

        Args:
            messages: those that the rows were made of.
        """
        bodies = zip(messages, self.bodies.to_pylist(), strict=True)
        return [
            self.errors[row] if row in self.errors else replace(message, body=body)
            for row, (message, body) in enumerate(bodies)
        ]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer and the errors."""
        return _sealed_bodies, (column.to_buffer(column.SEALED_BODIES, self.bodies), self.errors)


class Opener:
    """Opens rows, and lets through what may be handled.

    Args:
        crypto: opens.
        freshness: how old a sealed body may be; None: that is not judged.
        plaintext: what becomes of plain messages.
        clock: the receiver's time.
    """

    def __init__(
        self,
        crypto: CryptoProvider,
        freshness: Freshness | None,
        plaintext: Plaintext,
        clock: Clock,
    ) -> None:
        self._crypto = crypto
        self._freshness = freshness
        self._plaintext = plaintext
        self._clock = clock
        self._told_at = float("-inf")
        self._untold = 0

    async def open(
        self, rows: SealedRows, *, fresh: bool = True, reject_plain: bool = True
    ) -> OpenedRows:
        """Open rows.

        Args:
            rows: as they were received.
            fresh: False: their age is not judged. What was dead-lettered is old.
            reject_plain: False: plain ones are let through whatever the rule is.

        Returns:
            A row for each. Errors beside rows are `KeyNotFound` (hold the message, try again when
            keys may have come), and for good `BodyAuthenticationFailed`, `MessageExpired`,
            `UnsupportedVersion`, `InvalidEnvelope` and `UnencryptedMessage`.

        Raises:
            Closed: the key ring was closed.
        """
        bound = column.bindings(rows.ids, rows.sessions)
        opened = await self._crypto.decrypt_column(rows.bodies, bound)
        if fresh and self._freshness is not None:
            judged = ~opened.plain
            judged[list(opened.errors)] = False
            enqueued_at = rows.enqueued_at.to_numpy(zero_copy_only=False)
            received_at = self._clock.now() - rows.waited.to_numpy(zero_copy_only=False)
            expired = self._freshness.judge_all(
                opened.encrypted_at, enqueued_at, received_at, judged
            )
            opened = column.restored(opened, rows.bodies, expired)
        plain = int(np.count_nonzero(opened.plain))
        errors = opened.errors
        if plain:
            self._tell(plain)
            if reject_plain and not self._plaintext.accepts:
                refused = np.flatnonzero(opened.plain).tolist()
                errors = {**errors, **{row: _unencrypted() for row in refused}}
        return OpenedRows(opened.bodies, opened.nonces, errors, len(rows) - plain, plain)

    def _tell(self, plain: int) -> None:
        self._untold += plain
        now = self._clock.now()
        if 0 <= now - self._told_at < _TOLD_EVERY:
            return
        _log.log(
            self._plaintext.level,
            "%d plain messages came where bodies are sealed; crypto.plaintext is %s",
            self._untold,
            self._plaintext.value,
            extra={"plain": self._untold, "plaintext": self._plaintext.value},
        )
        self._told_at, self._untold = now, 0


class Sealer:
    """Seals messages with the current key.

    Args:
        crypto: seals.
        clock: the time of sealing.
    """

    def __init__(self, crypto: CryptoProvider, clock: Clock) -> None:
        self._crypto = crypto
        self._clock = clock

    async def seal(
        self, messages: Sequence[Message], *, from_start: bool = False
    ) -> list[Message | QueueError]:
        """The messages with their bodies sealed; nothing else of them changes.

        Args:
            messages: with plain bodies.
            from_start: the provider takes the time from which a scheduled message may be delivered
                for the time when it was enqueued, as Service Bus does: then that is the time of
                sealing too.

        Returns:
            For each the sealed message, or why it is not sealed: `ValidationError` where the body
            begins with the marker, `KeyNotFound`, `EncryptionFailed`.
        """
        if not messages:
            return []
        sealed = await self.seal_rows(PlainRows.of(messages), from_start=from_start)
        return sealed.put_into(messages)

    async def seal_rows(self, rows: PlainRows, *, from_start: bool = False) -> SealedBodies:
        """The same for rows; an error that concerns all is beside each of them.

        Args:
            rows: to be sealed.
            from_start: see `seal`.
        """
        at: Any = int(self._clock.now())
        if from_start and rows.not_before.null_count < len(rows):
            starts = rows.not_before.fill_null(0.0).to_numpy(zero_copy_only=False)
            at = np.maximum(starts, at).astype(np.int64)
        bound = column.bindings(rows.ids, rows.sessions)
        try:
            sealed: SealedColumn = await self._crypto.encrypt_column(None, rows.bodies, bound, at)
        except QueueError as error:
            return SealedBodies(rows.bodies, dict.fromkeys(range(len(rows)), error))
        return SealedBodies(sealed.bodies, sealed.errors)


def _unencrypted() -> UnencryptedMessage:
    return UnencryptedMessage(
        "the message is plain, and only sealed ones are handled here (crypto.plaintext: reject): "
        "seal it at its sender, or allow plain ones"
    )


# What pickled rows name: Ray takes far longer over a method of a class.


def _sealed_rows(buffer: pa.Buffer) -> SealedRows:
    return SealedRows(*column.from_buffer(column.SEALED_ROWS, buffer))


def _opened_rows(
    buffer: pa.Buffer, errors: Mapping[int, QueueError], sealed: int, plain: int
) -> OpenedRows:
    bodies, nonces = column.from_buffer(column.OPENED_ROWS, buffer)
    return OpenedRows(bodies, nonces, errors, sealed, plain)


def _plain_rows(buffer: pa.Buffer) -> PlainRows:
    return PlainRows(*column.from_buffer(column.PLAIN_ROWS, buffer))


def _sealed_bodies(buffer: pa.Buffer, errors: Mapping[int, QueueError]) -> SealedBodies:
    (bodies,) = column.from_buffer(column.SEALED_BODIES, buffer)
    return SealedBodies(bodies, errors)
