"""How columns of bodies lie in memory: Arrow's buffers, read and written as bytes.

The one place of the cryptography that knows Arrow. It owns where each row's bytes are and how
columns are put together; `sealing.py` and `opening.py` say what is written there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from numpy.lib.stride_tricks import sliding_window_view

from pipeline.crypto.envelope import LONGEST_ID, MARKER, TIME_BYTES, binding
from pipeline.crypto.port import OpenedColumn
from pipeline.errors import QueueError, ValidationError

FEW = 64
FEW_BYTES = 2**19
"""Up to so many rows, and so many bytes in all, a loop is as fast as work on whole columns."""

A_CALL = 2**13
"""What a row's own cipher call costs, in bytes that would take as long."""

STRETCH = 2**23
"""Bytes after which the loop is left to others for a turn: one to two milliseconds."""

MOST_BYTES = 2**31 - 1
"""Arrow's positions in a column of bytes have 32 bits."""

SEALED_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("session", pa.string()),
        ("body", pa.binary()),
        ("enqueued_at", pa.float64()),
        ("waited", pa.float64()),
    ]
)
PLAIN_ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("session", pa.string()),
        ("body", pa.binary()),
        ("not_before", pa.float64()),
    ]
)
OPENED_ROWS = pa.schema([("body", pa.binary()), ("nonce", pa.binary())])
SEALED_BODIES = pa.schema([("body", pa.binary())])

Bound: TypeAlias = "Sequence[bytes | None] | pa.Array"
"""What each row is bound to; None or null where that is too long."""

Ints: TypeAlias = npt.NDArray[np.int64]
Octets: TypeAlias = npt.NDArray[np.uint8]
Flags: TypeAlias = npt.NDArray[np.bool_]
Places: TypeAlias = npt.NDArray[np.intp]


def bindings(ids: pa.Array, sessions: pa.Array) -> Bound:
    r"""What `envelope.binding` makes of each row; None where an id or a session is too long.

    Args:
        ids: a string array.
        sessions: a string array; null where a message has none.

    Example:
        >>> bindings(pa.array(["m1"]), pa.array([None], pa.string()))
        [b'\x00\x02m1\x00\x00']
    """
    if len(ids) <= FEW:
        pairs = zip(ids.to_pylist(), sessions.to_pylist(), strict=True)
        return [_binding(name or "", session) for name, session in pairs]
    parts = []
    fits = np.ones(len(ids), np.bool_)
    for names, more in ((ids, 0), (sessions, 1)):
        given = names.is_valid().to_numpy(zero_copy_only=False)
        binary = names.cast(pa.binary()).fill_null(b"")
        sizes = np.diff(edges_in(binary))
        fits &= sizes <= LONGEST_ID
        lengths = (sizes + more * given).astype(">u2")
        parts += [fixed(lengths.view(np.uint8).reshape(-1, 2)), binary]
    bound = joined(*parts)
    return bound if fits.all() else pc.if_else(pa.array(fits), bound, None)


def _binding(name: str, session: str | None) -> bytes | None:
    try:
        return binding(name, session)
    except ValidationError:
        return None


def are_few(bodies: pa.Array) -> bool:
    """Whether a loop over the rows is the faster way."""
    return len(bodies) <= FEW and bodies.nbytes <= FEW_BYTES


def stretches(sizes: Ints) -> list[int]:
    """How many rows to open before others on the loop have a turn, and how many then.

    Args:
        sizes: the rows' bytes.

    Example:
        >>> stretches(np.array([100] * 1_000 + [20_000_000] * 2))
        [1000, 1, 1]
    """
    ends = np.cumsum(sizes + A_CALL)
    counts: list[int] = np.unique(ends // STRETCH, return_counts=True)[1].tolist()
    return counts


def check_columns(bodies: pa.Array, bound: Bound) -> None:
    """Raises ValidationError when they are no binary columns, or not of one length."""
    _check_binary("bodies", bodies)
    if isinstance(bound, (list, tuple)):
        for one in bound:
            if one is not None and not isinstance(one, bytes):
                raise ValidationError("associated_data", "must be bytes", type(one).__name__)
    else:
        _check_binary("associated_data", bound)
    if len(bodies) != len(bound):
        rule = f"must be one for each of {len(bodies)} bodies"
        raise ValidationError("associated_data", rule, len(bound))


def _check_binary(name: str, column: Any) -> None:
    kind = column.type if isinstance(column, pa.Array) else type(column).__name__
    if kind != pa.binary():
        raise ValidationError(name, "must be a pyarrow array of type binary", str(kind))


def restored(
    opened: OpenedColumn, bodies: pa.Array, errors: Mapping[int, QueueError]
) -> OpenedColumn:
    """The same column with more errors: those rows' bodies as they came, without nonces.

    Args:
        opened: what `Envelopes.open` made.
        bodies: the column that it was made from.
        errors: by row, why what was opened is not let through.

    Example:
        >>> from pipeline.errors import MessageExpired
        >>> sealed = pa.array([b"QRE1..."])
        >>> opened = OpenedColumn(
        ...     pa.array([b"x"]), pa.array([b"n"]), np.ones(1, np.int64), np.zeros(1, bool)
        ... )
        >>> restored(opened, sealed, {0: MessageExpired("too old")}).bodies.to_pylist()
        [b'QRE1...']
    """
    if not errors:
        return opened
    rows = np.zeros(len(bodies), np.bool_)
    rows[list(errors)] = True
    mask = pa.array(rows)
    return replace(
        opened,
        bodies=pc.if_else(mask, bodies.fill_null(b""), opened.bodies),
        nonces=pc.if_else(mask, b"", opened.nonces),
        encrypted_at=np.where(rows, 0, opened.encrypted_at),
        errors={**opened.errors, **errors},
    )


@dataclass(frozen=True, slots=True)
class Column:
    """A binary column beside what each row is bound to, and where each row is in memory."""

    bodies: pa.Array
    bound: pa.Array
    unbound: Flags
    edges: Ints
    sizes: Ints
    view: memoryview
    octets: Octets

    @classmethod
    def of(cls, bodies: pa.Array, bound: Bound) -> Column:
        """A column, as it is in memory."""
        bodies = bodies.fill_null(b"")
        bound = bound if isinstance(bound, pa.Array) else pa.array(bound, pa.binary())
        edges = edges_in(bodies)
        view = memoryview(bodies.buffers()[2] or b"").cast("B")
        unbound = bound.is_null().to_numpy(zero_copy_only=False)
        octets = np.frombuffer(view, np.uint8)
        return cls(bodies, bound, unbound, edges, np.diff(edges), view, octets)

    def marked(self) -> Flags:
        """For each row whether it begins with the marker."""
        marked = self.sizes >= len(MARKER)
        rows = np.flatnonzero(marked)
        begin = self.read(self.edges[rows], len(MARKER))
        marked[rows] = (begin == np.frombuffer(MARKER, np.uint8)).all(axis=1)
        return marked

    def row(self, row: int) -> bytes:
        """One row's bytes."""
        body: bytes = self.bodies[row].as_py()
        return body

    def read(self, places: Ints, size: int) -> Octets:
        """So many bytes from each of these places on, which must all be there."""
        if not len(places):
            return np.zeros((0, size), np.uint8)
        return sliding_window_view(self.octets, size)[places]

    def bound_of(self, rows: Places) -> pa.Array:
        """What these rows are bound to."""
        return self.bound if len(rows) == len(self.bound) else self.bound.take(pa.array(rows))


class Target:
    """The column that is written: one buffer, laid out by its rows' sizes."""

    def __init__(self, sizes: Ints) -> None:
        self.edges = edges_of(sizes)
        self._buffer = pa.allocate_buffer(int(self.edges[-1]))
        self.view = memoryview(self._buffer).cast("B")

    def write(self, places: Ints, octets: Octets) -> None:
        """To each of these places a row of `octets`; its one row to all, if it has one."""
        whole = np.frombuffer(self.view, np.uint8)
        sliding_window_view(whole, octets.shape[1], writeable=True)[places] = octets

    def copy(self, column: Column, rows: Places) -> None:
        """These rows as they are."""
        for row in rows.tolist():
            begin, end = self.edges[row], self.edges[row + 1]
            self.view[begin:end] = column.view[column.edges[row] : column.edges[row + 1]]

    def array(self) -> pa.Array:
        """The column; write no more to it."""
        return as_column(self.edges, self._buffer)


def edges_in(column: pa.Array) -> Ints:
    """Where each row of a binary column begins in its bytes, and the last one ends."""
    edges = np.frombuffer(column.buffers()[1], np.int32, len(column) + 1, 4 * column.offset)
    return edges.astype(np.int64)


def edges_of(sizes: Ints) -> Ints:
    """Where rows of these sizes begin, and the last one ends."""
    edges = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=edges[1:])
    return edges


def as_column(edges: Ints, octets: pa.Buffer | Octets) -> pa.Array:
    """Bytes cut at these places, as a binary column."""
    buffers = [None, pa.py_buffer(edges.astype(np.int32)), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.binary(), len(edges) - 1, buffers)


def fixed(rows: Octets) -> pa.Array:
    """Rows of as many bytes each as a binary column."""
    count, size = rows.shape
    edges = np.arange(count + 1, dtype=np.int64) * size
    return as_column(edges, np.ascontiguousarray(rows))


def bytes_in(column: pa.Array) -> list[bytes]:
    """A binary column's rows; null ones are empty."""
    rows: list[bytes] = (column.fill_null(b"") if column.null_count else column).to_pylist()
    return rows


def rows_in(bound: Bound) -> Sequence[bytes | None]:
    """What each row is bound to, as a list."""
    rows: Sequence[bytes | None] = bound.to_pylist() if isinstance(bound, pa.Array) else bound
    return rows


def of_bytes(rows: Sequence[bytes]) -> pa.Array:
    """Rows as a binary column."""
    return pa.array(rows, pa.binary())


def big_endian(numbers: Ints) -> Octets:
    """Signed numbers of eight bytes, a row each."""
    return numbers.astype(">i8").view(np.uint8).reshape(-1, TIME_BYTES)


def octets_of(data: bytes) -> Octets:
    """Bytes as numbers."""
    return np.frombuffer(data, np.uint8)


def joined(*parts: pa.Array | bytes) -> pa.Array:
    """Each row's bytes of all parts, one behind the other; a part of bytes is the same in all."""
    scalars = [pa.scalar(one, pa.binary()) if type(one) is bytes else one for one in parts]
    return pc.binary_join_element_wise(*scalars, pa.scalar(b"", pa.binary()))


def to_buffer(schema: pa.Schema, *columns: pa.Array) -> pa.Buffer:
    """Columns of one length as one buffer: what crosses to another process."""
    return pa.RecordBatch.from_arrays(list(columns), schema=schema).serialize()


def from_buffer(schema: pa.Schema, buffer: pa.Buffer) -> list[pa.Array]:
    """The columns that `to_buffer` wrote."""
    columns: list[pa.Array] = pa.ipc.read_record_batch(buffer, schema).columns
    return columns


def of_strings(rows: Sequence[str | None]) -> pa.Array:
    """Rows as a column of strings."""
    return pa.array(rows, pa.string())


def of_seconds(rows: Sequence[float | None] | npt.NDArray[np.float64]) -> pa.Array:
    """Rows as a column of numbers."""
    return pa.array(rows, pa.float64())


def later_of(one: pa.Array, other: pa.Array) -> pa.Array:
    """The greater number in each row; the one that is there, where the other is null."""
    return pc.max_element_wise(one, other)
