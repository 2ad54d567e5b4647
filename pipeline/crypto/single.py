"""One body sealed, one body opened: the ciphers' calls, given the key.

What a column does must come to the same; `column.py` uses these for its few rows and for whatever
is out of the ordinary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cryptography.exceptions import InvalidTag

from pipeline.crypto.envelope import (
    MARKER,
    NONCE_BYTES,
    PLAIN,
    SALT_BYTES,
    TAG_BYTES,
    EncryptedMessage,
    associated_data,
)
from pipeline.crypto.key import EncryptionKey
from pipeline.errors import BodyAuthenticationFailed, QueueError, ValidationError


def seal(
    key: EncryptionKey,
    plaintext: bytes,
    bound: bytes,
    encrypted_at: int,
    random: Callable[[int], bytes],
) -> EncryptedMessage:
    """Seal a body under the key's epoch and a nonce of its own.

    Args:
        key: what seals it.
        plaintext: the body.
        bound: what `binding` made of its message.
        encrypted_at: the time, seconds since 1970.
        random: gives so many bytes of chance, from the operating system.

    Raises:
        KeyNotFound: the key was closed.
    """
    salt, cipher = key.for_sealing(1, len(plaintext))
    nonce = random(NONCE_BYTES)
    sealed = cipher.encrypt(nonce, plaintext, associated_data(key.id, bound, encrypted_at))
    return EncryptedMessage(
        key.id, salt + nonce, sealed[:-TAG_BYTES], sealed[-TAG_BYTES:], encrypted_at
    )


def open_sealed(key: EncryptionKey, message: EncryptedMessage, bound: bytes) -> bytes:
    """Open a body, if it is authentic.

    Args:
        key: the key that the message names.
        message: the sealed body.
        bound: what `binding` made of the message that it came in.

    Raises:
        BodyAuthenticationFailed: it doesn't fit.
        KeyNotFound: the key was closed.
    """
    salt, nonce = message.nonce[:SALT_BYTES], message.nonce[SALT_BYTES:]
    data = associated_data(message.key_id, bound, message.encrypted_at)
    try:
        return key.for_opening(salt).decrypt(nonce, message.ciphertext + message.tag, data)
    except InvalidTag as error:
        raise unfit(message.key_id) from error


def key_of(keys: Mapping[str, EncryptionKey | QueueError], key_id: str) -> EncryptionKey:
    """The key of an id, of those that were had.

    Raises:
        QueueError: why it couldn't be had.
    """
    key = keys[key_id]
    if isinstance(key, QueueError):
        raise key
    return key


def unfit(key_id: str) -> BodyAuthenticationFailed:
    """What is said of a body whose tag is wrong."""
    return BodyAuthenticationFailed(
        f"the body sealed with key {str(key_id)!r} doesn't fit its message: it was altered on its "
        "way, belongs to another message, or another key of that id sealed it"
    )


def marked() -> ValidationError:
    """What is said of a body to be sealed that begins as sealed ones do."""
    return ValidationError("Message.body", PLAIN, MARKER.decode())


def unbound() -> BodyAuthenticationFailed:
    """What is said of a sealed body whose message has an id too long to be bound."""
    return BodyAuthenticationFailed(
        "the sealed body doesn't belong to its message: the message's id or session is longer than "
        "any that a body can be sealed for"
    )
