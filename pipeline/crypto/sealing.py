"""Whole columns of bodies sealed: one cipher call a row, all else for all rows at once.

What comes out is written straight into one buffer, which is laid out before. Few rows take a loop
over `single.py`; both come to the same, which tests hold them to.

One cipher call for the whole batch would be faster still, and was refused: each message must open
by itself, wherever it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from pipeline.crypto import single
from pipeline.crypto.column import (
    MOST_BYTES,
    Bound,
    Column,
    Ints,
    Places,
    Target,
    are_few,
    big_endian,
    bytes_in,
    check_columns,
    fixed,
    joined,
    octets_of,
    of_bytes,
    rows_in,
)
from pipeline.crypto.envelope import (
    LONGEST_ID,
    NONCE_BYTES,
    SALT_BYTES,
    TIME_BYTES,
    head,
    is_sealed,
    overhead,
)
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.port import SealedColumn
from pipeline.errors import EncryptionFailed, ValidationError

if TYPE_CHECKING:
    import pyarrow as pa

AT_ONCE = 4096
"""So many rows are asked of a key's epoch at once, far fewer than it may seal."""

Random: TypeAlias = Callable[[int], bytes]
Stamps: TypeAlias = int | Ints
"""The time of sealing, seconds since 1970: one for all rows, or one for each."""


def seal_column(
    key: EncryptionKey,
    bodies: pa.Array,
    bound: Bound,
    encrypted_at: Stamps,
    random: Random,
) -> SealedColumn:
    """Seal a column; see `CryptoProvider.encrypt_column`.

    Args:
        key: what seals it.
        bodies: a binary array. A body that begins with the marker is not sealed: a reader without
            the key would take what it says for sealed.
        bound: for each row what `binding` made of its message; null where it can't be bound.
        encrypted_at: the time, for all rows or for each, seconds since 1970.
        random: gives so many bytes of chance, from the operating system.

    Raises:
        KeyNotFound: the key was closed.
        EncryptionFailed: the sealed column would have over 2 GiB.
        ValidationError: the two are not of one length, or not what they should be.
    """
    check_columns(bodies, bound)
    if np.asarray(encrypted_at).dtype.kind != "i":
        rule = "must be whole seconds since 1970"
        raise ValidationError("encrypted_at", rule, type(encrypted_at).__name__)
    if are_few(bodies):
        return _seal_few(key, bodies, bound, encrypted_at, random)
    return _seal_many(key, bodies, bound, encrypted_at, random)


def _seal_few(
    key: EncryptionKey, bodies: pa.Array, bound: Bound, encrypted_at: Stamps, random: Random
) -> SealedColumn:
    rows, errors = bytes_in(bodies), {}
    times = np.broadcast_to(encrypted_at, len(rows)).tolist()
    for row, (body, to, at) in enumerate(zip(rows, rows_in(bound), times, strict=True)):
        if to is None or is_sealed(body):
            errors[row] = _refusal(to is None)
        else:
            rows[row] = single.seal(key, body, to, at, random).encode()
    return SealedColumn(of_bytes(rows), errors)


def _seal_many(
    key: EncryptionKey, bodies: pa.Array, bound: Bound, encrypted_at: Stamps, random: Random
) -> SealedColumn:
    column = Column.of(bodies, bound)
    refused = column.marked() | column.unbound
    errors = {row: _refusal(bool(column.unbound[row])) for row in np.flatnonzero(refused).tolist()}
    sizes = column.sizes + overhead(key.id) * ~refused
    if int(sizes.sum()) > MOST_BYTES:
        raise EncryptionFailed(
            f"{len(sizes)} sealed bodies would have {sizes.sum()} bytes, and a column holds "
            f"{MOST_BYTES}: seal fewer at a time"
        )
    times = np.broadcast_to(np.asarray(encrypted_at, np.int64), len(sizes))
    target = Target(sizes)
    target.copy(column, np.flatnonzero(refused))
    rows = np.flatnonzero(~refused)
    most = min(AT_ONCE, key.limits.messages)
    for first in range(0, len(rows), most):
        _seal_rows(key, column, target, rows[first : first + most], times, random)
    return SealedColumn(target.array(), errors)


def _seal_rows(
    key: EncryptionKey,
    column: Column,
    target: Target,
    rows: Places,
    times: Ints,
    random: Random,
) -> None:
    salt, cipher = key.for_sealing(len(rows), int(column.sizes[rows].sum()))
    chance = octets_of(random(NONCE_BYTES * len(rows))).reshape(-1, NONCE_BYTES)
    stamps = big_endian(times[rows])
    begins, ends = target.edges[rows], target.edges[rows + 1]
    name = head(key.id)
    before = len(name) + SALT_BYTES
    target.write(begins, octets_of(name + salt).reshape(1, -1))
    target.write(begins + before, chance)
    target.write(ends - TIME_BYTES, stamps)
    data = joined(name, column.bound_of(rows), fixed(stamps))
    seal, source, place = cipher.encrypt_into, column.view, target.view
    # Each view is made when its turn comes and goes with it: lists of them set off the garbage
    # collector, and take thrice as long.
    for nonce, begin, end, associated, first, last in zip(
        fixed(chance).to_pylist(),
        column.edges[rows].tolist(),
        column.edges[rows + 1].tolist(),
        data.to_pylist(),
        (begins + (before + NONCE_BYTES)).tolist(),
        (ends - TIME_BYTES).tolist(),
        strict=True,
    ):
        seal(nonce, source[begin:end], associated, place[first:last])


def _refusal(unbound: bool) -> ValidationError:
    if unbound:
        rule = f"must have at most {LONGEST_ID} bytes each to be sealed"
        return ValidationError("the message's id and session", rule, "a longer one")
    return single.marked()
