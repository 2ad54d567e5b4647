"""The batch: rows of messages as Arrow columns, and the only place where those columns are made.

A batch crosses between actors as the serialised record batch, one `pyarrow.Buffer`, never as a raw
slice (a 10-row slice ships its whole parent). Splitting and taking copy, so what is held on to
after a call never pins what came with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import SerializationError, ValidationError
from pipeline.message import ROW_FIELDS, Delivery, Message, to_row
from pipeline.rows import Codes, Rows

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("session", pa.string()),
        ("holding", pa.int64()),
        ("turn", pa.int64()),
        ("sequence", pa.int64()),
        ("settled_below", pa.int64()),
        ("delivery_count", pa.int64()),
        ("failures", pa.int64()),
        ("body", pa.binary()),
        ("content_type", pa.string()),
        ("correlation_id", pa.string()),
        ("attributes", pa.map_(pa.string(), pa.string())),
        ("time_to_live", pa.float64()),
        ("not_before", pa.float64()),
        ("deduplication_id", pa.string()),
        ("traceparent", pa.string()),
        ("tracestate", pa.string()),
        ("enqueued_at", pa.float64()),
        ("locked_until", pa.float64()),
        ("provider_id", pa.string()),
        ("dead_letter_reason", pa.string()),
        ("dead_letter_description", pa.string()),
        ("nonce", pa.binary()),
        ("refused", pa.string()),
    ]
)
"""The columns of every batch.

id, session, body, content_type, correlation_id, attributes, time_to_live (seconds), not_before
(seconds since 1970), deduplication_id, traceparent, tracestate: as sent.
sequence, delivery_count, enqueued_at and locked_until (seconds since 1970), provider_id (null: the
id is the provider's too), dead_letter_reason, dead_letter_description: the provider's.
holding: which possession of the session the row belongs to; a later one has a higher number.
turn, settled_below, failures: the receiver's (DESIGN law 3): the stretch of the holding; every
sequence of the session below settled_below is settled and confirmed; how many attempts failed
during this delivery.
nonce, refused: null until somebody opened the bodies (`pipeline.crypto`); then what a sealed body
was sealed with, empty where it came plain; and why a body can't be given out (`pipeline.refusals`),
where it can't: then it is as it came.
"""

_BLANK = {
    "holding": 0,
    "turn": 0,
    "sequence": 0,
    "settled_below": 0,
    "delivery_count": 1,
    "failures": 0,
    "enqueued_at": 0.0,
    "locked_until": 0.0,
}
"""What stands in a column that is not given; in any other, null."""
_PLACES = {name: place for place, name in enumerate(SCHEMA.names)}
_TYPES = SCHEMA.types
_FEW = 64
_MOST_BYTES = 2**31 - 1
"""Arrow's positions in a column of bytes have 32 bits."""


class MessageBatch:
    """Rows of messages as Arrow columns (see `SCHEMA`). Immutable.

    A batch handler gets one: `len(rows)`, `rows[i]` (a `Delivery`, made when asked for),
    `rows.column("body")` (a pyarrow array), `rows.arrow` (the whole record batch).

    Example:
        >>> rows = MessageBatch.from_messages([Message(b"a", id="1"), Message(b"b", id="2")])
        >>> len(rows), rows[1].body, rows.column("id").to_pylist()
        (2, b'b', ['1', '2'])
    """

    __slots__ = ("_arrow", "_came", "_lists", "_replaced")

    def __init__(self, arrow: pa.RecordBatch) -> None:
        self._arrow = arrow
        self._lists: dict[str, list[Any]] = {}
        # Read from a buffer: that, and the columns that differ from it, so that it can go on
        # without being written anew.
        self._came: pa.Buffer | None = None
        self._replaced: dict[str, pa.Array] = {}

    @classmethod
    def from_columns(cls, length: int, columns: Mapping[str, Sequence[Any]]) -> MessageBatch:
        """Make a batch from one list a column; a column that is not given is blank.

        Args:
            length: how many rows.
            columns: name to values, each of that length; names are those of `SCHEMA`.
        """
        arrays = list(_few_blank(length) if length <= _FEW else _blank(length))
        for name, given in columns.items():
            place = _PLACES[name]
            if name == "body" and length > _FEW:
                arrays[place] = _bodies(given)
            else:
                arrays[place] = pa.array(given, _TYPES[place], size=length)
        return cls(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> MessageBatch:
        """Make a batch of messages as if just sent: sequence 1, 2, 3 …, first delivery."""
        columns: dict[str, Sequence[Any]] = dict(
            zip(ROW_FIELDS, zip(*map(to_row, messages), strict=True), strict=False)
        )
        columns["attributes"] = [d and list(d.items()) for d in columns.get("attributes", ())]
        columns["sequence"] = range(1, len(messages) + 1)
        return cls.from_columns(len(messages), columns)

    @classmethod
    def empty(cls) -> MessageBatch:
        """A batch of no rows."""
        return cls.from_columns(0, {})

    @classmethod
    def concat(cls, batches: Sequence[MessageBatch]) -> MessageBatch:
        """The rows of all batches, in their order; copies unless there is one."""
        if len(batches) == 1:
            return batches[0]
        if not batches:
            return cls.empty()
        return cls(pa.concat_batches([batch.arrow for batch in batches]))

    @classmethod
    def gather(cls, rows: Sequence[tuple[MessageBatch, int]]) -> MessageBatch:
        """Rows of several batches, in the order given: one copy a batch, not one a row.

        Args:
            rows: for each a batch and the position there.
        """
        places: dict[MessageBatch, list[int]] = {}
        for at, (batch, _) in enumerate(rows):
            places.setdefault(batch, []).append(at)
        parts = [batch.take([rows[at][1] for at in ats]) for batch, ats in places.items()]
        if len(parts) < 2:
            return cls.concat(parts)
        order = [at for ats in places.values() for at in ats]
        return cls.concat(parts).take(sorted(range(len(order)), key=order.__getitem__))

    @classmethod
    def from_buffer(cls, buffer: pa.Buffer) -> MessageBatch:
        """The batch that `to_buffer` wrote.

        Raises:
            SerializationError: the bytes are no batch of this schema.
        """
        try:
            batch = cls(pa.ipc.read_record_batch(buffer, SCHEMA))
        except (pa.ArrowException, OSError, EOFError) as error:
            raise SerializationError(f"{len(buffer)} bytes are no batch: {error}") from error
        batch._came = buffer
        return batch

    @classmethod
    def from_parts(
        cls, buffer: pa.Buffer, names: Sequence[str], replaced: pa.Buffer
    ) -> MessageBatch:
        """The batch of a buffer, with columns of these names in place of its own.

        Args:
            buffer: what `to_buffer` wrote.
            names: the replaced columns.
            replaced: a serialised record batch of them alone.

        Raises:
            SerializationError: the first buffer is no batch of this schema.
        """
        schema = pa.schema([SCHEMA.field(name) for name in names])
        columns = pa.ipc.read_record_batch(replaced, schema).columns
        return cls.from_buffer(buffer).replacing(dict(zip(names, columns, strict=True)))

    def to_buffer(self) -> pa.Buffer:
        """The batch as one buffer: what crosses to another actor."""
        return self._arrow.serialize()

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as one buffer, through pickle and Ray alike; and the columns replaced since."""
        if self._came is None or len(self) <= _FEW:
            return _from_buffer, (self.to_buffer(),)
        if not self._replaced:
            return _from_buffer, (self._came,)
        names = list(self._replaced)
        replaced = pa.RecordBatch.from_arrays(list(self._replaced.values()), names)
        return _from_parts, (self._came, names, replaced.serialize())

    @property
    def arrow(self) -> pa.RecordBatch:
        """The record batch itself."""
        return self._arrow

    @property
    def nbytes(self) -> int:
        """Bytes that the rows take."""
        size: int = self._arrow.get_total_buffer_size()
        return size

    def __len__(self) -> int:
        rows: int = self._arrow.num_rows
        return rows

    @overload
    def __getitem__(self, row: int) -> Delivery: ...
    @overload
    def __getitem__(self, row: slice) -> MessageBatch: ...
    def __getitem__(self, row: int | slice) -> Delivery | MessageBatch:
        """One row as a `Delivery`; a slice as a batch of its own (copied)."""
        if isinstance(row, slice):
            return self.take(range(len(self))[row])
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return Delivery(self, row % len(self))

    def __iter__(self) -> Iterator[Delivery]:
        return (Delivery(self, row) for row in range(len(self)))

    def column(self, name: str) -> pa.Array:
        """One column as a pyarrow array.

        Raises:
            KeyError: there is no such column.
        """
        return self._arrow.column(name)

    def values(self, name: str) -> list[Any]:
        """One column as a Python list, made once and kept; don't change it."""
        found = self._lists.get(name)
        if found is None:
            column = self._arrow.column(name)
            # Numbers take a third of the time by way of numpy.
            numbers = name in _BLANK and not column.null_count
            found = (column.to_numpy() if numbers else column).tolist()
            self._lists[name] = found
        return found

    def provider_ids(self) -> list[str]:
        """What the provider calls each row: its own id, or the sender's where it has none."""
        own = self.values("provider_id")
        ids = self.values("id")
        return [a or b for a, b in zip(own, ids, strict=True)] if any(own) else ids

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers as an array of its own, which nothing else is kept in memory by."""
        numbers: npt.NDArray[Any] = self._arrow.column(name).to_numpy().copy()
        return numbers

    def sizes(self) -> npt.NDArray[np.int32]:
        """How many bytes each row's body has."""
        bodies = self._arrow.column("body")
        ends = np.frombuffer(bodies.buffers()[1], np.int32, len(bodies) + 1, 4 * bodies.offset)
        return np.diff(ends)

    def redelivered(self) -> int:
        """How many rows are not their message's first delivery."""
        return int(np.count_nonzero(self._arrow.column("delivery_count").to_numpy() > 1))

    def take(self, rows: Sequence[int] | Rows) -> MessageBatch:
        """The rows at these positions, in this order; copies."""
        return MessageBatch(self._arrow.take(pa.array(rows, pa.int64())))

    def split(self, owners: Sequence[int] | Rows) -> dict[int, tuple[Rows, MessageBatch]]:
        """Split by owner: owner to (positions in this batch, their rows).

        Args:
            owners: for each row a small number that says whose it is.
        """
        if not len(self):
            return {}
        whose = np.asarray(owners)
        if (whose == whose[0]).all():
            return {int(whose[0]): (np.arange(len(self)), self)}
        positions = {owner: np.flatnonzero(whose == owner) for owner in np.unique(whose).tolist()}
        return {owner: (rows, self.take(rows)) for owner, rows in positions.items()}

    def distinct(self, name: str) -> tuple[list[Any], Codes]:
        """A column's distinct values, as they first come; for each row, which of them it holds.

        Don't change them: they may be the batch's own.
        """
        if len(self) == 1:
            return self.values(name), np.zeros(1, np.int32)
        coded = self._arrow.column(name).dictionary_encode(null_encoding="encode")
        return coded.dictionary.to_pylist(), coded.indices.to_numpy()

    def with_columns(self, **columns: Sequence[Any] | npt.NDArray[Any]) -> MessageBatch:
        """The same rows with some columns replaced."""
        made = {name: pa.array(given, _TYPES[_PLACES[name]]) for name, given in columns.items()}
        return self.replacing(made)

    def replacing(self, columns: Mapping[str, pa.Array]) -> MessageBatch:
        """The same rows with arrays in place of some columns, of the same types."""
        arrow = self._arrow
        for name, array in columns.items():
            place = _PLACES[name]
            arrow = arrow.set_column(place, SCHEMA.field(place), array)
        batch = MessageBatch(arrow)
        if "body" not in columns:  # else most of the buffer would go for nothing
            batch._came, batch._replaced = self._came, {**self._replaced, **columns}
        return batch


def allocate_with_process() -> None:
    """From here on columns take their memory where all else in the process does."""
    pa.set_memory_pool(pa.system_memory_pool())


def import_what_columns_need() -> None:
    """Do now what would be done for the first batch: pyarrow imports pandas where there is one.

    That takes a third of a second, while messages wait.
    """
    batch = MessageBatch.from_columns(2, {"id": ["a", "b"], "body": [b"", b""]})
    batch.distinct("id")
    batch.numbers("sequence")
    batch.sizes()
    MessageBatch.from_buffer(batch.split([0, 1])[0][1].to_buffer()).values("body")


def _from_buffer(buffer: pa.Buffer) -> MessageBatch:
    """What a pickled batch names: Ray takes far longer over a method of a class."""
    return MessageBatch.from_buffer(buffer)


def _from_parts(buffer: pa.Buffer, names: list[str], replaced: pa.Buffer) -> MessageBatch:
    """A buffer's batch with some columns replaced, of which the second buffer is made."""
    return MessageBatch.from_parts(buffer, names, replaced)


def _bodies(given: Sequence[bytes]) -> pa.Array:
    """Bodies, each of them bytes, as a column: in half the time that `pa.array` takes."""
    ends = np.zeros(len(given) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, given), np.int64, len(given)), out=ends[1:])
    if ends[-1] > _MOST_BYTES:
        rule = f"have at most {_MOST_BYTES} bytes together: use smaller batches"
        raise ValidationError("bodies of one batch", rule, int(ends[-1]))
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(b"".join(given))]
    return pa.Array.from_buffers(pa.binary(), len(given), buffers)


def _blank(length: int) -> tuple[pa.Array, ...]:
    """Every column of a batch that nothing was given for."""
    return tuple(
        pa.repeat(pa.scalar(_BLANK[kind.name], kind.type), length)
        if kind.name in _BLANK
        else pa.nulls(length, kind.type)
        for kind in SCHEMA
    )


_few_blank = lru_cache(_FEW + 1)(_blank)
"""Of a few rows they are kept: they take half of the time that such a batch needs to be made."""
