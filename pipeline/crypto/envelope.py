"""The form of a sealed body, version 1: written, read, recognised, and what it is bound to.

It owns bytes alone: no key, no cipher, no clock, and needs no extra. All integers are big-endian.

    0        4   "QRE1"
    4        1   version = 1
    5        1   L = length of the key id (1..255)
    6        L   key id, UTF-8
    6+L     12   salt   (XAES-256-GCM's nonce, bytes 0 to 11)
    18+L    12   nonce  (bytes 12 to 23)
    30+L     n   ciphertext
    30+L+n  16   tag
    46+L+n   8   time of sealing, signed, seconds since 1970

What is authenticated beside the ciphertext: the first 6 + L bytes; the message's id and session,
each behind its length in two bytes (the session's is one more than it is, and 0 for none, so that
no session and every session differ); the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from pipeline.errors import CryptoError, InvalidEnvelope, UnsupportedVersion, ValidationError
from pipeline.names import EncryptionKeyId

MARKER = b"QRE1"
"""How every sealed body begins, and no plain one may."""

PLAIN = f"must not begin with {MARKER.decode()}, as sealed bodies do: put something before it"
"""The rule that a plain body keeps, for the error that says so."""

VERSION = 1
SALT_BYTES = 12
"""The first half of XAES-256-GCM's nonce: what a key is derived with."""

NONCE_BYTES = 12
"""The second half: AES-GCM's own nonce."""

TAG_BYTES = 16
TIME_BYTES = 8
FIXED = len(MARKER) + 2
"""Bytes before the key id."""

AFTER = TAG_BYTES + TIME_BYTES
"""Bytes behind the ciphertext."""

LARGEST_OVERHEAD = FIXED + 255 + SALT_BYTES + NONCE_BYTES + AFTER
"""By how much a sealed body is larger at most: with the longest id that a key can have."""

LONGEST_ID = 0xFFFF - 1
"""The longest id and session that can be bound, in bytes."""


@dataclass(frozen=True, slots=True)
class EncryptedMessage:
    """A sealed body in its parts.

    Args:
        key_id: the key that it was sealed with.
        nonce: XAES-256-GCM's nonce, 24 bytes: the epoch's salt and the message's own half.
        ciphertext: as long as the body.
        tag: 16 bytes.
        encrypted_at: when it was sealed, seconds since 1970.

    Raises:
        InvalidEnvelope: a part has a length or a range that the form doesn't have.

    Example:
        >>> message = EncryptedMessage(EncryptionKeyId("k"), bytes(24), b"", bytes(16), 1)
        >>> EncryptedMessage.decode(message.encode()) == message
        True
    """

    key_id: EncryptionKeyId
    nonce: bytes
    ciphertext: bytes
    tag: bytes
    encrypted_at: int

    def __post_init__(self) -> None:
        if not 0 < len(self.key_id.encode()) <= 255:
            raise InvalidEnvelope("a sealed body's key id has 1 to 255 bytes")
        if len(self.nonce) != SALT_BYTES + NONCE_BYTES:
            raise InvalidEnvelope(f"a sealed body's nonce has 24 bytes, not {len(self.nonce)}")
        if len(self.tag) != TAG_BYTES:
            raise InvalidEnvelope(f"a sealed body's tag has 16 bytes, not {len(self.tag)}")
        if not -(2**63) <= self.encrypted_at < 2**63:
            raise InvalidEnvelope(f"the time of sealing is out of range: {self.encrypted_at}")

    def encode(self) -> bytes:
        """The sealed body's bytes."""
        return b"".join(
            (
                head(self.key_id),
                self.nonce,
                self.ciphertext,
                self.tag,
                self.encrypted_at.to_bytes(TIME_BYTES, "big", signed=True),
            )
        )

    @classmethod
    def decode(cls, body: bytes) -> EncryptedMessage:
        """The parts of a sealed body; nothing of it is authentic yet.

        Args:
            body: bytes that begin with the marker.

        Raises:
            InvalidEnvelope: they are no sealed body, or one that was cut.
            UnsupportedVersion: a form that this version doesn't know.
        """
        body = bytes(body)
        if not is_sealed(body):
            raise InvalidEnvelope("the body doesn't begin with the marker of sealed bodies")
        fixed = FIXED + key_id_length(body[len(MARKER) : FIXED])
        data, end = fixed + SALT_BYTES + NONCE_BYTES, len(body) - AFTER
        if end < data:
            raise cut(len(body), data + AFTER)
        return cls(
            parse_key_id(body[FIXED:fixed]),
            body[fixed:data],
            body[data:end],
            body[end : end + TAG_BYTES],
            int.from_bytes(body[end + TAG_BYTES :], "big", signed=True),
        )


def is_sealed(body: bytes) -> bool:
    """Whether a body begins like a sealed one.

    Example:
        >>> is_sealed(b"QRE1...")
        True
    """
    return body[:4] == MARKER


def only_begins_sealed(body: bytes) -> bool:
    """Whether a body begins like a sealed one and is none.

    Example:
        >>> only_begins_sealed(b"QRE1 and so on"), only_begins_sealed(b"plain")
        (True, False)
    """
    if not is_sealed(body):
        return False
    try:
        EncryptedMessage.decode(body)
    except CryptoError:
        return True
    return False


def overhead(key_id: str) -> int:
    """How many bytes a body grows by when it is sealed with this key.

    Example:
        >>> overhead("2026-11")
        61
    """
    return len(head(key_id)) + SALT_BYTES + NONCE_BYTES + AFTER


@lru_cache(256)
def head(key_id: str) -> bytes:
    """The bytes before the salt, which are authenticated as they are."""
    name = key_id.encode()
    return b"%b%c%c%b" % (MARKER, VERSION, len(name), name)


def binding(message_id: str, session_id: str | None) -> bytes:
    r"""What a body is bound to of its message, unambiguously.

    Args:
        message_id: the sender's id, which is kept through dead-lettering and redrive.
        session_id: the session, if any.

    Raises:
        ValidationError: one has over 65,534 bytes, so no sealed body can belong to it.

    Example:
        >>> binding("m1", None)
        b'\x00\x02m1\x00\x00'
        >>> binding("m1", "s")
        b'\x00\x02m1\x00\x02s'
    """
    name = message_id.encode()
    if session_id is None:
        return b"%b%b\0\0" % (_length("message id", name, 0), name)
    session = session_id.encode()
    return b"%b%b%b%b" % (
        _length("message id", name, 0),
        name,
        _length("session id", session, 1),
        session,
    )


def associated_data(key_id: str, bound: bytes, encrypted_at: int) -> bytes:
    """All that is authenticated beside the ciphertext.

    Args:
        key_id: the key's id.
        bound: what `binding` made.
        encrypted_at: when it is sealed, seconds since 1970.

    Example:
        >>> associated_data("k", binding("m1", None), 1).hex(" ")
        '51 52 45 31 01 01 6b 00 02 6d 31 00 00 00 00 00 00 00 00 00 01'
    """
    return head(key_id) + bound + encrypted_at.to_bytes(TIME_BYTES, "big", signed=True)


def key_id_length(version_and_length: bytes) -> int:
    """The length of the key id, of the two bytes behind the marker.

    Raises:
        InvalidEnvelope: they are missing, or there is no key id.
        UnsupportedVersion: a form that this version doesn't know.
    """
    if version_and_length and version_and_length[0] != VERSION:
        raise UnsupportedVersion(version_and_length[0])
    if len(version_and_length) < 2:
        raise cut(len(MARKER) + len(version_and_length), FIXED)
    if not version_and_length[1]:
        raise InvalidEnvelope("the sealed body names no key: it was altered on its way")
    return version_and_length[1]


@lru_cache(256)
def parse_key_id(name: bytes) -> EncryptionKeyId:
    """The key's id.

    Raises:
        InvalidEnvelope: the bytes are no key id.
    """
    try:
        return EncryptionKeyId(name.decode())
    except (UnicodeDecodeError, ValidationError):
        # Without the cause: it would show bytes of the body.
        raise InvalidEnvelope(
            f"the sealed body's key id ({len(name)} bytes) is no key id: it was altered on its way"
        ) from None


def cut(has: int, needs: int) -> InvalidEnvelope:
    """What is said of a body that ends too early."""
    return InvalidEnvelope(
        f"the sealed body has {has} bytes where it needs {needs}: it was cut or altered on its way"
    )


def _length(what: str, name: bytes, more: int) -> bytes:
    if len(name) > LONGEST_ID:
        raise ValidationError(what, f"must have at most {LONGEST_ID} bytes to be sealed", len(name))
    return (len(name) + more).to_bytes(2, "big")
