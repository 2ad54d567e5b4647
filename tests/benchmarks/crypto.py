"""`make bench-crypto`: what sealing and opening a message cost, a JSON line each.

Columns of 10, 100 and 1,000 messages, as they come from a batch and go back into it: ids, sessions,
bodies and times in, bodies and nonces out, keys in hand. `us_a_message` is beside two costs of the
library alone, and the ratios are how much of ours they would be:

- `contiguous`: one call for one buffer of the same total size. It is what bytes cost, not messages:
  a body that opens by itself can't have it.
- `bare`: one call a message on bytes that lie ready, with nonce and associated data at hand. It is
  the bound for anything that seals each message.

Both write into memory that is there already, which a column of a batch's bodies can't: it is new
each time. Medians of rounds in turn, so that a slow moment of the machine hits all three.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.clock import SystemClock
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.freshness import Freshness
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.plaintext import Plaintext
from pipeline.crypto.rows import Opener, PlainRows, SealedRows, Sealer

SIZES = (256, 1024, 16 * 1024, 256 * 1024)
COLUMNS = (10, 100, 1000)
ROUNDS = 15
ABOUT = 0.02
"""Seconds of one round: short cases are repeated in it."""

DATA = bytes(68)
"""Associated data as long as it is as a rule."""


class Keys:
    """A ring with its one key in hand."""

    def __init__(self) -> None:
        self._key = EncryptionKey("2026-11", os.urandom(32))

    def cached(self, key_id: str) -> EncryptionKey | None:
        return self._key

    async def get(self, key_id: str) -> EncryptionKey:
        return self._key

    async def current(self) -> EncryptionKey:
        return self._key


@dataclass
class Case:
    """What is measured in turn."""

    ours: Callable[[], Awaitable[Any]]
    bare: Callable[[], Any]
    contiguous: Callable[[], Any]


def sealing(size: int, count: int, keys: Keys, clock: SystemClock) -> Case:
    """Seal a column of random bodies."""
    sealer = Sealer(AesGcm(keys, clock), clock)
    rows, cipher = plain_rows(size, count), AESGCM(os.urandom(32))
    bodies, nonces = rows.bodies.to_pylist(), [os.urandom(12) for _ in range(count)]
    whole = b"".join(bodies)
    out, large = bytearray(size + 16), bytearray(len(whole) + 16)
    return Case(
        lambda: sealer.seal_rows(rows),
        lambda: [cipher.encrypt_into(*one, DATA, out) for one in zip(nonces, bodies, strict=True)],
        lambda: cipher.encrypt_into(nonces[0], whole, DATA, large),
    )


async def opening(size: int, count: int, keys: Keys, clock: SystemClock) -> Case:
    """Open a column that was sealed."""
    aes = AesGcm(keys, clock)
    rows = plain_rows(size, count)
    sealed = await Sealer(aes, clock).seal_rows(rows)
    now = pa.array([clock.now()] * count, pa.float64())
    waited = pa.array([0.0] * count, pa.float64())
    received = SealedRows(rows.ids, rows.sessions, sealed.bodies, now, waited)
    opener = Opener(aes, Freshness(), Plaintext.REJECT, clock)
    opened = await opener.open(received)
    if opened.errors or not opened.bodies.equals(rows.bodies):
        raise RuntimeError(str(opened.errors))
    cipher = AESGCM(os.urandom(32))
    nonces = [os.urandom(12) for _ in range(count)]
    plain = rows.bodies.to_pylist()
    bodies = [cipher.encrypt(*one, DATA) for one in zip(nonces, plain, strict=True)]
    whole = cipher.encrypt(nonces[0], b"".join(plain), DATA)
    del plain
    out, large = bytearray(size), bytearray(len(whole) - 16)
    return Case(
        lambda: opener.open(received),
        lambda: [cipher.decrypt_into(*one, DATA, out) for one in zip(nonces, bodies, strict=True)],
        lambda: cipher.decrypt_into(nonces[0], whole, DATA, large),
    )


def plain_rows(size: int, count: int) -> PlainRows:
    """Rows as a sender has them."""
    return PlainRows(
        pa.array([f"flight-{number:012}" for number in range(count)]),
        pa.array([f"aircraft-N{number % 97:05}" for number in range(count)]),
        pa.array([os.urandom(size) for _ in range(count)], pa.binary()),
        pa.nulls(count, pa.float64()),
    )


async def measure(what: str, case: Case, size: int, count: int) -> dict[str, Any]:
    """A case as a JSON line."""
    repeats = max(1, int(ABOUT / await timed_ours(case.ours, 1)))
    ours: list[float] = []
    bare: list[float] = []
    contiguous: list[float] = []
    for _ in range(ROUNDS):
        ours.append(await timed_ours(case.ours, repeats))
        bare.append(timed(case.bare, repeats))
        contiguous.append(timed(case.contiguous, repeats))
    us, library, bound = (
        statistics.median(times) * 1e6 / count for times in (ours, contiguous, bare)
    )
    return {
        "bench": "crypto",
        "what": what,
        "bytes": size,
        "messages": count,
        "us_a_message": round(us, 3),
        "bare_us_a_message": round(bound, 3),
        "contiguous_us_a_message": round(library, 3),
        "times_bare": round(us / bound, 2),
        "times_contiguous": round(us / library, 2),
        "messages_per_second": round(1e6 / us),
        "mb_per_second": round(size / us),
    }


async def timed_ours(call: Callable[[], Awaitable[Any]], repeats: int) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(repeats):
        await call()
    return (time.perf_counter() - began) / repeats


def timed(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats


async def everything() -> None:
    """Every size and column, one at a time: the largest takes some gigabyte."""
    keys, clock = Keys(), SystemClock()
    for size in SIZES:
        for count in COLUMNS:
            say(await measure("seal", sealing(size, count, keys, clock), size, count))
            say(await measure("open", await opening(size, count, keys, clock), size, count))


def say(result: dict[str, Any]) -> None:
    """One line."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(everything())
