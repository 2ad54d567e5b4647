"""A key provider whose answers a test decides, and a ring on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Any

from pipeline.clock import SeededClock
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.ring import KeyRing
from pipeline.errors import KeyNotFound
from pipeline.names import EncryptionKeyId


def material(number: int) -> bytes:
    return bytes((number * 37 + at) % 256 for at in range(32))


class Provider:
    """Has keys by id, and fails, or is slow, as it is told to."""

    def __init__(self, *ids: str) -> None:
        self.keys = {key_id: material(number) for number, key_id in enumerate(ids)}
        self.current = ids[0]
        self.failure: Exception | None = None
        self.seconds = 0.0
        self.calls: Counter[str] = Counter()
        self.listed: set[str] = set()
        """Ids that are said to be valid and aren't there."""
        self.hidden: set[str] = set()
        """Ids that are there and aren't said to be valid."""

    @property
    def readings(self) -> int:
        """How often it was asked for everything."""
        return self.calls["valid_key_ids"]

    async def _answer(self, call: str) -> None:
        self.calls[call] += 1
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure

    async def start(self) -> None:
        await self._answer("start")

    async def get_key(self, key_id: EncryptionKeyId) -> EncryptionKey:
        await self._answer("get_key")
        if key_id not in self.keys:
            raise KeyNotFound(key_id)
        return EncryptionKey(key_id, self.keys[key_id])

    async def current_key_id(self) -> EncryptionKeyId:
        await self._answer("current_key_id")
        return EncryptionKeyId(self.current)

    async def valid_key_ids(self) -> Collection[EncryptionKeyId]:
        await self._answer("valid_key_ids")
        ids = [key_id for key_id in self.keys if key_id not in self.hidden]
        return [EncryptionKeyId(key_id) for key_id in [*ids, *sorted(self.listed)]]

    async def close(self) -> None:
        await self._answer("close")


def now() -> float:
    return asyncio.get_running_loop().time()


def ring_of(provider: Provider, **settings: Any) -> KeyRing:
    return KeyRing(provider, clock=SeededClock(now), **settings)


def name(key_id: str) -> EncryptionKeyId:
    return EncryptionKeyId(key_id)
