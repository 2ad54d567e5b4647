"""An encryption key: its id, its bytes, and the ciphers that are derived from it.

No body is sealed under the key itself. Each is under a key derived from it and a salt (C2SP's
XAES-256-GCM): with 96 bits of chance in the salt and as many in the nonce, 10^12 messages a key are
safe, where random nonces alone are at their limit after 2^32. A salt is held for an epoch, which
spares deriving for each message; the key owns when an epoch ends. It knows neither envelopes nor
where keys come from.
"""

from __future__ import annotations

import hmac
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFCMAC, CounterLocation, Mode

from pipeline import clock
from pipeline.crypto.envelope import SALT_BYTES
from pipeline.crypto.material import KEY_BYTES, KeyBytes, NeverCopied, wipes_at_once
from pipeline.errors import KeyNotFound, ValidationError
from pipeline.names import EncryptionKeyId


@dataclass(frozen=True, slots=True)
class EpochLimits:
    """When a salt has served long enough, whichever comes first.

    At the defaults the chance that two of 10^12 messages share salt and nonce is about 2^-37.

    Args:
        messages: sealed under it.
        size: bytes sealed under it.
        seconds: since it was drawn.

    Raises:
        ValidationError: one of them is 0 or less, or too many messages are allowed.

    Example:
        >>> EpochLimits().messages
        1048576
    """

    messages: int = 2**20
    size: int = 2**36
    seconds: float = 600.0

    def __post_init__(self) -> None:
        for name, most in (("messages", 2**32), ("size", 2**64), ("seconds", float("inf"))):
            value = getattr(self, name)
            if not 0 < value <= most:
                rule = f"must be over 0 and at most {most}, or nonces may come twice"
                raise ValidationError(f"EpochLimits.{name}", rule, value)


class EncryptionKey(NeverCopied):
    """A key of 32 bytes under its id: AES-256-GCM, by way of keys derived for each epoch.

    Its bytes are in one buffer that is overwritten by `close`, when the object goes, and when the
    process ends in order. It is shown as its id alone, and refuses pickle, copy and deepcopy. One
    thread uses it at a time.

    Args:
        key_id: what envelopes call it.
        material: its 32 bytes; they are copied, and whoever made them overwrites them.
        limits: when a salt has served long enough.
        ciphers: how many salts' ciphers are kept to open with; the least used one goes first.
        random: gives so many bytes of chance, from the operating system.
        monotonic: seconds that only grow.
        process: the process's id: after a fork both sides would go on under the same salt.

    Raises:
        ValidationError: the id breaks its rule, or the key has another length than 32 bytes.

    Example:
        >>> key = EncryptionKey("2026-11", bytes(32))
        >>> key
        EncryptionKey('2026-11')
        >>> key.close()
        >>> key.closed
        True
    """

    __slots__ = (
        "__weakref__",
        "_began",
        "_ciphers",
        "_epoch",
        "_material",
        "_messages",
        "_monotonic",
        "_most",
        "_pid",
        "_process",
        "_random",
        "_size",
        "_wipe",
        "id",
        "limits",
    )

    def __init__(
        self,
        key_id: str,
        material: bytes | bytearray | memoryview,
        *,
        limits: EpochLimits | None = None,
        ciphers: int = 1024,
        random: Callable[[int], bytes] = os.urandom,
        monotonic: Callable[[], float] = clock.monotonic,
        process: Callable[[], int] = os.getpid,
    ) -> None:
        self.id = EncryptionKeyId(key_id)
        if not isinstance(material, (bytes, bytearray, memoryview)):
            kind, rule = type(material).__name__, f"must be {KEY_BYTES} bytes"
            del material  # no traceback that shows locals finds it here
            raise ValidationError(
                f"encryption key {str(self.id)!r}", rule, f"a value of type {kind}"
            )
        self._material = KeyBytes(material)
        del material
        if len(self._material) != KEY_BYTES:
            rule = f"must have {KEY_BYTES} bytes"
            raise ValidationError(
                f"encryption key {str(self.id)!r}", rule, f"{len(self._material)} bytes"
            )
        self.limits = limits or EpochLimits()
        self._most = ciphers
        self._random = random
        self._monotonic = monotonic
        self._process = process
        self._ciphers: OrderedDict[bytes, AESGCM] = OrderedDict()
        self._epoch: tuple[bytes, AESGCM] | None = None
        self._messages = self._size = self._pid = 0
        self._began = 0.0
        self._wipe = weakref.finalize(self, _wipe, self._material, self._ciphers)

    @property
    def closed(self) -> bool:
        """Whether its bytes were overwritten."""
        return not self._wipe.alive

    def close(self) -> None:
        """Overwrite the key's bytes and drop what was derived from it; again does no harm.

        A column that is being sealed or opened with its ciphers goes on to its end.
        """
        self._epoch = None
        self._wipe()

    def matches(self, other: EncryptionKey) -> bool:
        """Whether the other one has the same id and the same bytes, compared in constant time.

        Raises:
            KeyNotFound: one of them was closed.
        """
        same = hmac.compare_digest(self._open(), other._open())
        return same and self.id == other.id

    def for_opening(self, salt: bytes) -> AESGCM:
        """The cipher of a salt, derived unless it is known.

        Raises:
            KeyNotFound: the key was closed.
        """
        material = self._open()
        cipher = self._ciphers.get(salt)
        if cipher is None:
            cipher = self._ciphers[salt] = _derived(material, salt)
            if len(self._ciphers) > self._most:
                self._ciphers.popitem(last=False)
        else:
            self._ciphers.move_to_end(salt)
        return cipher

    def for_sealing(self, messages: int, size: int) -> tuple[bytes, AESGCM]:
        """The epoch's salt and cipher, for so many messages; a new epoch when it is time.

        Time counts from the first message of an epoch. What a caller asks for at once stays
        together, so it must fit into an epoch.

        Args:
            messages: how many it will seal, each under a nonce of its own.
            size: bytes of all of them.

        Raises:
            KeyNotFound: the key was closed.
            ValidationError: so much is over what an epoch may seal; ask for less at a time.
        """
        material = self._open()
        limits = self.limits
        if messages > limits.messages or size > limits.size:
            rule = f"must be at most {limits.messages} messages and {limits.size} bytes"
            raise ValidationError("what is sealed at once", rule, f"{messages} and {size}")
        epoch, now, process = self._epoch, self._monotonic(), self._process()
        if (
            epoch is None
            or self._messages + messages > limits.messages
            or self._size + size > limits.size
            or now - self._began >= limits.seconds
            or process != self._pid
        ):
            salt = self._random(SALT_BYTES)
            epoch = self._epoch = salt, _derived(material, salt)
            self._messages = self._size = 0
            self._began, self._pid = now, process
        self._messages += messages
        self._size += size
        return epoch

    def _open(self) -> KeyBytes:
        if not self._wipe.alive:
            raise KeyNotFound(
                str(self.id), "it was closed here: it was retired, or its key ring closed"
            )
        return self._material

    def __repr__(self) -> str:
        return f"EncryptionKey({str(getattr(self, 'id', ''))!r})"  # its id may be what is wrong


def _derived(material: KeyBytes, salt: bytes) -> AESGCM:
    """The cipher under the key that XAES-256-GCM derives with a salt (SP 800-108r1, CMAC)."""
    derived = KeyBytes(KEY_BYTES)
    KBKDFCMAC(
        algorithms.AES,
        Mode.CounterMode,
        length=KEY_BYTES,
        rlen=2,
        llen=None,
        location=CounterLocation.BeforeFixed,
        label=None,
        context=None,
        fixed=b"X\0" + salt,
    ).derive_into(material, derived)
    cipher = AESGCM(derived)
    if wipes_at_once():
        derived.wipe()
    # Otherwise the cipher holds the buffer, which overwrites itself when the cipher goes.
    return cipher


def _wipe(material: KeyBytes, ciphers: OrderedDict[bytes, AESGCM]) -> None:
    ciphers.clear()
    material.wipe()
