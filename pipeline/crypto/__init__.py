"""Sealed bodies: authenticated encryption of messages, with keys that change without a pause.

What a user imports stands here. Sealing and opening need the extra `[crypto]`
(`pip install 'queue-runtime[crypto]'`); names are looked up when they are asked for, because
`pipeline` itself, which knows sealed bodies by their marker, works without.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.config import CryptoConfig
    from pipeline.crypto.cipher import AesGcm
    from pipeline.crypto.envelope import EncryptedMessage, binding, is_sealed, overhead
    from pipeline.crypto.freshness import Freshness
    from pipeline.crypto.key import EncryptionKey, EpochLimits
    from pipeline.crypto.keys.memory import MemoryKeyProvider
    from pipeline.crypto.nonces import NonceBook
    from pipeline.crypto.plaintext import Plaintext
    from pipeline.crypto.port import CryptoProvider, KeyProvider, OpenedColumn, SealedColumn
    from pipeline.crypto.ring import KeyRing
    from pipeline.errors import BodyAuthenticationFailed as AuthenticationFailed
    from pipeline.errors import (
        CryptoError,
        EncryptionFailed,
        InvalidEnvelope,
        KeyNotFound,
        MessageExpired,
        NonceReused,
        UnencryptedMessage,
        UnsupportedVersion,
    )
    from pipeline.names import EncryptionKeyId

__all__ = [
    "AesGcm",
    "AuthenticationFailed",
    "CryptoConfig",
    "CryptoError",
    "CryptoProvider",
    "EncryptedMessage",
    "EncryptionFailed",
    "EncryptionKey",
    "EncryptionKeyId",
    "EpochLimits",
    "Freshness",
    "InvalidEnvelope",
    "KeyNotFound",
    "KeyProvider",
    "KeyRing",
    "MemoryKeyProvider",
    "MessageExpired",
    "NonceBook",
    "NonceReused",
    "OpenedColumn",
    "Plaintext",
    "SealedColumn",
    "UnencryptedMessage",
    "UnsupportedVersion",
    "binding",
    "is_sealed",
    "overhead",
]

_MODULES = {
    "AesGcm": "pipeline.crypto.cipher",
    "CryptoConfig": "pipeline.config",
    "CryptoProvider": "pipeline.crypto.port",
    "EncryptedMessage": "pipeline.crypto.envelope",
    "EncryptionKey": "pipeline.crypto.key",
    "EncryptionKeyId": "pipeline.names",
    "EpochLimits": "pipeline.crypto.key",
    "Freshness": "pipeline.crypto.freshness",
    "KeyProvider": "pipeline.crypto.port",
    "KeyRing": "pipeline.crypto.ring",
    "MemoryKeyProvider": "pipeline.crypto.keys.memory",
    "NonceBook": "pipeline.crypto.nonces",
    "OpenedColumn": "pipeline.crypto.port",
    "Plaintext": "pipeline.crypto.plaintext",
    "SealedColumn": "pipeline.crypto.port",
    "binding": "pipeline.crypto.envelope",
    "is_sealed": "pipeline.crypto.envelope",
    "overhead": "pipeline.crypto.envelope",
}
"""Where each name stands; all others are errors."""

_RENAMED = {"AuthenticationFailed": "BodyAuthenticationFailed"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(_MODULES.get(name, "pipeline.errors"))
    except ModuleNotFoundError as error:
        told = f"{name} needs pip install 'queue-runtime[crypto]' ({error.name} is missing)"
        raise ImportError(told) from error
    return getattr(module, _RENAMED.get(name, name))
