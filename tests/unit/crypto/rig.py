"""A ring of fixed keys, repeatable chance, and coroutines that are run without a loop."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import pyarrow as pa

from pipeline.clock import SeededClock
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.column import bindings
from pipeline.crypto.key import EncryptionKey
from pipeline.errors import KeyNotFound

T = TypeVar("T")
NOW = 1_700_000_000


def chance(seed: int = 0) -> Callable[[int], bytes]:
    """Chance that a test can repeat."""
    return random.Random(seed).randbytes


def a_key(key_id: str = "2026-11", fill: int = 1, **options: Any) -> EncryptionKey:
    """A key of 32 equal bytes whose time stands still."""
    options.setdefault("random", chance(fill))
    options.setdefault("monotonic", lambda: 0.0)
    return EncryptionKey(key_id, bytes([fill]) * 32, **options)


class Ring:
    """Keys that are all in hand; the first one is current."""

    def __init__(self, *keys: EncryptionKey, in_hand: bool = True) -> None:
        self.keys = {key.id: key for key in keys or (a_key(),)}
        self.in_hand = in_hand
        self.asked: list[str] = []

    def cached(self, key_id: str) -> EncryptionKey | None:
        return self.keys.get(key_id) if self.in_hand else None

    async def get(self, key_id: str) -> EncryptionKey:
        self.asked.append(key_id)
        if key_id not in self.keys:
            raise KeyNotFound(key_id)
        return self.keys[key_id]

    async def current(self) -> EncryptionKey:
        return next(iter(self.keys.values()))


def crypto(*keys: EncryptionKey, now: Callable[[], float] = lambda: 0.0) -> AesGcm:
    """The ciphers, at `NOW` and so many seconds."""
    return AesGcm(Ring(*keys), SeededClock(now, start=NOW), random=chance(99))


def done(coroutine: Coroutine[Any, Any, T]) -> T:
    """What a coroutine that waits for nothing comes to; it may leave others a turn."""
    try:
        while coroutine.send(None) is None:
            pass
    except StopIteration as stopped:
        answer: T = stopped.value
        return answer
    raise AssertionError("it waits for something")


def binary(rows: list[bytes]) -> pa.Array:
    """Bodies as a column."""
    return pa.array(rows, pa.binary())


def bound_to(ids: list[str], sessions: list[str | None]) -> Any:
    """What rows are bound to."""
    return bindings(pa.array(ids, pa.string()), pa.array(sessions, pa.string()))
