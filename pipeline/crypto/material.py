"""Buffers that hold key bytes: they overwrite themselves and show nothing.

It owns how key bytes lie in memory and when they are overwritten. What can be promised ends at our
own buffers and OpenSSL's contexts: SECURITY.md says what Python can't promise.
"""

from __future__ import annotations

from functools import cache
from typing import NoReturn, Protocol

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
"""AES-256 takes keys of so many bytes."""


class NeverCopied:
    """Refuses pickle, copy and deepcopy, by itself and inside of something."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Refuse it: a key never leaves its process."""
        raise TypeError(
            f"{self!r} is neither pickled nor copied: send the key's id, and let the other process "
            "ask its own key provider"
        )

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse it in every protocol."""
        self.__reduce__()

    def __getstate__(self) -> NoReturn:
        """Refuse what copies are made of."""
        self.__reduce__()


class KeyBytes(NeverCopied, bytearray):
    """Key bytes in a buffer of their own, which is overwritten when it goes.

    Fill it in place (`memoryview(buffer)[:] = ...`, `derive_into`, `readinto`): whatever makes
    `bytes` of them on the way leaves a copy that nobody can overwrite.

    Example:
        >>> buffer = KeyBytes(32)
        >>> buffer[0] = 7
        >>> buffer
        KeyBytes(32 bytes, hidden)
        >>> buffer.wipe()
        >>> any(buffer)
        False
    """

    def wipe(self) -> None:
        """Overwrite it with zeros, in place; again does no harm."""
        memoryview(self)[:] = bytes(len(self))

    def __del__(self) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"KeyBytes({len(self)} bytes, hidden)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def copy(self) -> NoReturn:
        """Refuse it, as `copy.copy` does."""
        self.__reduce__()


class KeyText(NeverCopied, str):
    """Text with keys in it, which tracebacks and other displays of objects don't show.

    Nobody can overwrite it. It is a `str` in all else: who writes it to where keys are kept has it.

    Example:
        >>> KeyText("secret")
        KeyText(6 characters, hidden)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"KeyText({len(self)} characters, hidden)"


class Cipher(Protocol):
    """What is needed of the library's `AESGCM`."""

    def __init__(self, key: bytearray) -> None: ...

    def encrypt(self, nonce: bytes, data: bytes, associated_data: None) -> bytes:
        """The ciphertext and its tag."""


def outlives_its_buffer(make: type[Cipher]) -> bool:
    """Whether a cipher keeps working when the buffer that it was made of is overwritten.

    OpenSSL below 3.2 reads the buffer at each call: a wiped one would be a key of zeros.

    Args:
        make: the cipher's class.
    """
    buffer = KeyBytes(range(KEY_BYTES))
    cipher, nonce, data = make(buffer), bytes(12), b"queue-runtime"
    before = cipher.encrypt(nonce, data, None)
    buffer.wipe()
    return cipher.encrypt(nonce, data, None) == before


@cache
def wipes_at_once() -> bool:
    """The same of the library that is installed, found out once a process."""
    return outlives_its_buffer(AESGCM)
