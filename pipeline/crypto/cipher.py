"""AES-256-GCM over a key ring: the port's implementation (SPEC C2, C11).

It asks the ring for keys and takes the time; what is done with them stands in `single.py`,
`sealing.py` and `opening.py`. Keys of a column are asked for before the first row is opened, so no
row waits for another's.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from pipeline.clock import Clock
from pipeline.crypto import single
from pipeline.crypto.envelope import EncryptedMessage, is_sealed
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.opening import envelopes
from pipeline.crypto.port import CryptoProvider, OpenedColumn, SealedColumn
from pipeline.crypto.sealing import Stamps, seal_column
from pipeline.errors import EncryptionFailed, KeyNotFound, QueueError
from pipeline.names import EncryptionKeyId

if TYPE_CHECKING:
    import pyarrow as pa


class Keys(Protocol):
    """What is needed of a key ring."""

    def cached(self, key_id: EncryptionKeyId) -> EncryptionKey | None:
        """A key that is in hand."""

    async def get(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """A key, asked for when it isn't in hand; KeyNotFound."""

    async def current(self) -> EncryptionKey:
        """The key to seal with; KeyNotFound."""


class AesGcm(CryptoProvider):
    """Seals and opens with AES-256-GCM, under keys derived for each epoch (XAES-256-GCM).

    AES-GCM does not commit to its key: who has two keys can make a body that opens under both. It
    matters to nobody who gives keys to those alone that may read all.

    Args:
        keys: the key ring.
        clock: the time of sealing.
        random: gives so many bytes of chance, from the operating system.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> from pipeline.crypto.envelope import binding
        >>> from pipeline.crypto.keys.memory import MemoryKeyProvider
        >>> from pipeline.crypto.ring import KeyRing
        >>> async def main() -> bytes:
        ...     clock = SystemClock()
        ...     ring = KeyRing(MemoryKeyProvider({"a": bytes(32)}, current="a"), clock=clock)
        ...     await ring.start()
        ...     crypto = AesGcm(ring, clock)
        ...     sealed = await crypto.encrypt(None, b"hello", binding("m1", None))
        ...     body = await crypto.decrypt(sealed, binding("m1", None))
        ...     await ring.close()
        ...     return body
        >>> await main()
        b'hello'
    """

    def __init__(
        self, keys: Keys, clock: Clock, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._random = random

    async def encrypt(
        self,
        key_id: str | None,
        plaintext: bytes,
        associated_data: bytes,
        encrypted_at: int | None = None,
    ) -> EncryptedMessage:
        """Seal a body; see `CryptoProvider`."""
        if is_sealed(plaintext):
            raise single.marked()
        key = await self._to_seal(key_id)
        at = int(self._clock.now()) if encrypted_at is None else encrypted_at
        try:
            return single.seal(key, plaintext, associated_data, at, self._random)
        except QueueError:
            raise
        except Exception as error:  # noqa: BLE001 - raised as one of ours
            raise _failed(error) from None

    async def decrypt(self, message: EncryptedMessage, associated_data: bytes) -> bytes:
        """Open a body; see `CryptoProvider`."""
        keys = await self._asked([message.key_id])
        return single.open_sealed(single.key_of(keys, message.key_id), message, associated_data)

    async def encrypt_column(
        self,
        key_id: str | None,
        bodies: pa.Array,
        associated_data: Sequence[bytes | None] | pa.Array,
        encrypted_at: Stamps | None = None,
    ) -> SealedColumn:
        """Seal a column; see `CryptoProvider`."""
        key = await self._to_seal(key_id)
        at = int(self._clock.now()) if encrypted_at is None else encrypted_at
        try:
            return seal_column(key, bodies, associated_data, at, self._random)
        except QueueError:
            raise
        except Exception as error:  # noqa: BLE001 - raised as one of ours
            raise _failed(error) from None

    async def decrypt_column(
        self, bodies: pa.Array, associated_data: Sequence[bytes | None] | pa.Array
    ) -> OpenedColumn:
        """Open a column; see `CryptoProvider`."""
        sorted_ = envelopes(bodies, associated_data)
        return await sorted_.open(await self._asked(sorted_.key_ids))

    async def _to_seal(self, key_id: str | None) -> EncryptionKey:
        if key_id is None:
            return await self._keys.current()
        return await self._keys.get(EncryptionKeyId(key_id))

    async def _asked(
        self, key_ids: Iterable[EncryptionKeyId]
    ) -> dict[str, EncryptionKey | QueueError]:
        """Each key, or why it can't be had; a key that is in hand costs no turn of the loop."""
        keys: dict[str, EncryptionKey | QueueError] = {}
        for key_id in key_ids:
            try:
                # One after the other: for ids that are not known the ring asks its provider once.
                keys[key_id] = self._keys.cached(key_id) or await self._keys.get(key_id)
            except KeyNotFound as error:
                keys[key_id] = error
        return keys


def _failed(error: Exception) -> EncryptionFailed:
    # The kind alone, without the cause: a text of unknown origin might quote the body.
    return EncryptionFailed(f"the body could not be sealed ({type(error).__name__})")
