"""Bodies that take their time to be opened, and keys that come late, in a simulation.

What is opened is not what this is about: bodies stay as they are. It is about what happens between
the receiver and its routers meanwhile.
"""

from __future__ import annotations

import asyncio

import pyarrow as pa

from pipeline.crypto.rows import OpenedRows, SealedRows
from pipeline.errors import KeyNotFound, QueueError
from tests.simulation.chance import chance, stream

_SECONDS = (0.0, 0.0, 0.0, 0.02, 0.5, 3.0)
_KEY_COMES = 40.0
"""Seconds of the loop at which the last key comes."""
_KEYLESS = 0.08
"""The share of the messages whose key comes late."""


class LateOpener:
    """Opens what a receiver has, some batches later than others.

    Args:
        seed: of the run.
        name: of the receiver's process.
    """

    def __init__(self, seed: int, name: str) -> None:
        self._seed = seed
        self._of = stream(f"opener of {name}")
        self._calls = 0

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        """See `Opens`."""
        self._calls += 1
        at = int(chance(self._seed, self._of, self._calls) * len(_SECONDS))
        await asyncio.sleep(_SECONDS[at])
        now = asyncio.get_running_loop().time()
        errors: dict[int, QueueError] = {
            row: KeyNotFound("late")
            for row, message in enumerate(rows.ids.to_pylist())
            if now < self._key_comes(message)
        }
        nonces = pa.array([message.encode() for message in rows.ids.to_pylist()], pa.binary())
        return OpenedRows(rows.bodies, nonces, errors, len(rows), 0)

    def _key_comes(self, message: str) -> float:
        drawn = chance(self._seed, stream("keys"), int.from_bytes(message.encode()) % 2**32)
        return _KEY_COMES * drawn / _KEYLESS if drawn < _KEYLESS else 0.0
