"""Whole columns of bodies opened: one cipher call a row, all else for all rows at once.

What comes out is written straight into one buffer, which is laid out before. Few rows take a loop
over `single.py`; both come to the same, which tests hold them to. Keys come between two steps:
`envelopes` sorts a column and says which keys it needs, and opens it when it is given them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from cryptography.exceptions import InvalidTag

from pipeline.crypto import single
from pipeline.crypto.column import (
    Bound,
    Column,
    Octets,
    Places,
    Target,
    are_few,
    as_column,
    bytes_in,
    check_columns,
    edges_of,
    fixed,
    joined,
    of_bytes,
    restored,
    rows_in,
    stretches,
)
from pipeline.crypto.envelope import (
    AFTER,
    FIXED,
    MARKER,
    NONCE_BYTES,
    SALT_BYTES,
    TIME_BYTES,
    VERSION,
    EncryptedMessage,
    is_sealed,
    parse_key_id,
)
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.port import OpenedColumn
from pipeline.errors import CryptoError, InvalidEnvelope, QueueError
from pipeline.names import EncryptionKeyId

if TYPE_CHECKING:
    import pyarrow as pa

WHOLE_NONCE = SALT_BYTES + NONCE_BYTES
BESIDE_NAME = FIXED + WHOLE_NONCE + AFTER
"""What a sealed body has beside its key's id and the ciphertext."""

Keys: TypeAlias = Mapping[str, EncryptionKey | QueueError]


class Envelopes(Protocol):
    """A column of bodies, sorted. Nothing of it is authentic yet."""

    key_ids: set[EncryptionKeyId]

    async def open(self, keys: Keys) -> OpenedColumn:
        """Open what can be opened; once.

        Args:
            keys: for each of `key_ids` the key, or why it can't be had.
        """


def envelopes(bodies: pa.Array, bound: Bound) -> Envelopes:
    """Sort a column into plain bodies, sealed ones, and those that only begin like such.

    Args:
        bodies: a binary array.
        bound: for each row what `binding` made of its message; null where it can't be bound.

    Raises:
        ValidationError: the two are not of one length.

    Example:
        >>> import pyarrow as pa
        >>> envelopes(pa.array([b"plain"]), [b""]).key_ids
        set()
    """
    check_columns(bodies, bound)
    return _Few(bodies, bound) if are_few(bodies) else _Many(bodies, bound)


class _Few(Envelopes):
    """Row by row."""

    def __init__(self, bodies: pa.Array, bound: Bound) -> None:
        self._bodies = bytes_in(bodies)
        self._bound = rows_in(bound)
        self._plain = [not is_sealed(body) for body in self._bodies]
        self._errors: dict[int, QueueError] = {}
        self._messages: dict[int, EncryptedMessage] = {}
        self.key_ids = set()
        for row, plain in enumerate(self._plain):
            if not plain:
                self._sort(row)

    def _sort(self, row: int) -> None:
        if self._bound[row] is None:
            self._errors[row] = single.unbound()
            return
        try:
            message = self._messages[row] = EncryptedMessage.decode(self._bodies[row])
        except CryptoError as error:
            self._errors[row] = error
        else:
            self.key_ids.add(message.key_id)

    async def open(self, keys: Keys) -> OpenedColumn:
        bodies, errors = list(self._bodies), dict(self._errors)
        nonces, times = [b""] * len(bodies), [0] * len(bodies)
        for row, message in self._messages.items():
            try:
                key = single.key_of(keys, message.key_id)
                bodies[row] = single.open_sealed(key, message, self._bound[row] or b"")
            except QueueError as error:
                errors[row] = error
            else:
                nonces[row], times[row] = message.nonce, message.encrypted_at
        stamps, plain = np.array(times, np.int64), np.array(self._plain, np.bool_)
        return OpenedColumn(of_bytes(bodies), of_bytes(nonces), stamps, plain, errors)


class _Many(Envelopes):
    """In groups of rows whose parts are at the same places, which are read all at once."""

    def __init__(self, bodies: pa.Array, bound: Bound) -> None:
        self._column = column = Column.of(bodies, bound)
        self._marked = column.marked()
        self._errors: dict[int, QueueError] = {}
        self._groups: list[_Group] = []
        self.key_ids = set()
        unbound = self._marked & column.unbound
        for row in np.flatnonzero(unbound).tolist():
            self._errors[row] = single.unbound()
        self._sort(np.flatnonzero(self._marked & ~unbound))

    def _sort(self, rows: Places) -> None:
        column = self._column
        lengths = np.zeros(len(rows), np.int64)
        whole = column.sizes[rows] >= FIXED
        said = column.read(column.edges[rows[whole]] + len(MARKER), 2)
        lengths[whole] = np.where(said[:, 0] == VERSION, said[:, 1], 0)
        whole = (lengths > 0) & (column.sizes[rows] >= lengths + BESIDE_NAME)
        broken = [rows[~whole]]
        for length in np.unique(lengths[whole]).tolist():
            group = _Group(column, rows[whole & (lengths == length)], length)
            broken.append(group.keep([name is not None for name in group.names]))
            self._groups.append(group)
            self.key_ids.update(name for name in group.names if name is not None)
        for row in np.concatenate(broken).tolist():
            self._errors[row] = _broken(column.row(row))

    async def open(self, keys: Keys) -> OpenedColumn:
        column, errors = self._column, dict(self._errors)
        sizes = column.sizes.copy()
        good = np.zeros(len(sizes), np.bool_)
        for group in self._groups:
            errors.update(group.derive(keys))
            good[group.rows] = True
            sizes[group.rows] -= group.length + BESIDE_NAME
        target = Target(sizes)
        target.copy(column, np.flatnonzero(~good))
        nonces = np.zeros((len(sizes), WHOLE_NONCE), np.uint8)
        times = np.zeros((len(sizes), TIME_BYTES), np.uint8)
        failed: dict[int, QueueError] = {}
        for group in self._groups:
            nonces[group.rows] = group.nonces()
            times[group.rows] = column.read(column.edges[group.rows + 1] - TIME_BYTES, TIME_BYTES)
            failed.update(await group.open(column, target, times))
        own = as_column(edges_of(good * WHOLE_NONCE), nonces[good])
        seconds = times.view(">i8").ravel().astype(np.int64)
        opened = OpenedColumn(target.array(), own, seconds, ~self._marked, errors)
        # In their places are bytes that are not authentic: the sealed bodies come back there.
        return restored(opened, column.bodies, failed)


class _Group:
    """Rows whose key ids have one length, so that all else is at the same places in them."""

    def __init__(self, column: Column, rows: Places, length: int) -> None:
        self.rows = rows
        self.length = length
        self._fronts = column.read(column.edges[rows], FIXED + length + WHOLE_NONCE)
        coded = fixed(self._fronts[:, :-NONCE_BYTES]).dictionary_encode()
        self._codes: Places = coded.indices.to_numpy()
        self._heads: list[bytes] = coded.dictionary.to_pylist()
        self.names = [_name(one[FIXED:-SALT_BYTES]) for one in self._heads]
        """The key id of each distinct head; None: it is none."""
        self._opens: list[Callable[..., int] | None] = []

    def keep(self, heads: Sequence[bool]) -> Places:
        """Go on with the rows of these heads; the answer is the rows of the others."""
        kept = np.array(heads, np.bool_)[self._codes]
        dropped = self.rows[~kept]
        if len(dropped):
            self.rows, self._codes = self.rows[kept], self._codes[kept]
            self._fronts = self._fronts[kept]
        return dropped

    def nonces(self) -> Octets:
        """The rows' nonces, whole."""
        return self._fronts[:, -WHOLE_NONCE:]

    def derive(self, keys: Keys) -> dict[int, QueueError]:
        """Make the ciphers; the answer is the rows whose key can't be had, which are left out."""
        whys: dict[int, QueueError] = {}
        self._opens = [None] * len(self.names)
        for code, (name, head) in enumerate(zip(self.names, self._heads, strict=True)):
            if name is None:
                continue
            try:
                cipher = single.key_of(keys, name).for_opening(head[-SALT_BYTES:])
            except QueueError as error:
                whys[code] = error
            else:
                self._opens[code] = cipher.decrypt_into
        rows = zip(self.rows.tolist(), self._codes.tolist(), strict=True)
        errors = {row: whys[code] for row, code in rows if code in whys} if whys else {}
        self.keep([one is not None for one in self._opens])
        return errors

    async def open(self, column: Column, target: Target, times: Octets) -> dict[int, QueueError]:
        """Open the rows into their places in the target; the answer is those that don't fit.

        Args:
            column: where they are.
            target: where they go.
            times: all rows' times, 8 bytes each.
        """
        begins, ends = column.edges[self.rows], column.edges[self.rows + 1]
        name = fixed(self._fronts[:, :-WHOLE_NONCE])
        data = joined(name, column.bound_of(self.rows), fixed(times[self.rows]))
        failed: dict[int, QueueError] = {}
        opens, source, place = self._opens, column.view, target.view
        todo = zip(
            self.rows.tolist(),
            self._codes.tolist(),
            fixed(self._fronts[:, -NONCE_BYTES:]).to_pylist(),
            (begins + (FIXED + self.length + WHOLE_NONCE)).tolist(),
            (ends - TIME_BYTES).tolist(),
            data.to_pylist(),
            target.edges[self.rows].tolist(),
            target.edges[self.rows + 1].tolist(),
            strict=True,
        )
        for at, count in enumerate(stretches(column.sizes[self.rows])):
            if at:
                await asyncio.sleep(0)
            # Each view is made when its turn comes and goes with it: lists of them set off the
            # garbage collector, and take thrice as long.
            for row, code, nonce, begin, end, associated, first, last in islice(todo, count):
                try:
                    opens[code](nonce, source[begin:end], associated, place[first:last])
                except InvalidTag:
                    failed[row] = single.unfit(self.names[code])
        return failed


def _name(name: bytes) -> EncryptionKeyId | None:
    """A key id, if it is one."""
    try:
        return parse_key_id(name)
    except InvalidEnvelope:
        return None


def _broken(body: bytes) -> CryptoError:
    """What is wrong with a body that is no envelope."""
    try:
        EncryptedMessage.decode(body)
    except CryptoError as error:
        return error
    return InvalidEnvelope("the sealed body can't be read where it lies in its column")
