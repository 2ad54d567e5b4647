"""The two ports of the cryptography, as prose: where keys come from, and what seals and opens.

Keys are in the processes that seal or open and nowhere else: a port's object is made in the process
that uses it and never crosses to another one. Both ports are used from one event loop.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pipeline.crypto.envelope import EncryptedMessage
from pipeline.errors import QueueError
from pipeline.names import EncryptionKeyId

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from pipeline.crypto.key import EncryptionKey


class KeyProvider(Protocol):
    """Where keys come from: a secret store, a file, the environment, or memory.

    The key ring is its only caller. It keeps what it is given for a time to live, asks again before
    that ends, puts a time-out on every call and may cancel any, so a provider keeps no cache and
    repeats nothing by itself. Calls come one after the other or together; each stands alone.

    A provider that can't be reached raises an error of the tree, transient when trying again may
    help; it never answers with less than it has. Material is in no error, log or repr of it.

    Example:
        >>> async def ids(provider: KeyProvider) -> list[str]:
        ...     return sorted(await provider.valid_key_ids())
    """

    async def start(self) -> None:
        """Make ready what calls need; idempotent.

        Raises:
            ConfigurationError: what the configuration names can't be used; the message says why.
        """

    async def get_key(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """The key of an id: a new object at each call, which the caller owns and closes.

        Raises:
            KeyNotFound: the provider answered, and has none of that id.
            QueueError: it couldn't be asked.
        """

    async def current_key_id(self) -> EncryptionKeyId:
        """The id of the key that new messages are sealed with; one of `valid_key_ids`.

        Raises:
            QueueError: it couldn't be asked, or says nothing that can be used.
        """

    async def valid_key_ids(self) -> Collection[EncryptionKeyId]:
        """The ids of all keys that messages may be opened with, in no certain order.

        An id that is gone from here was retired: the ring closes its key.

        Raises:
            QueueError: it couldn't be asked, or says nothing that can be used.
        """

    async def close(self) -> None:
        """Let go of connections and overwrite material that is held; idempotent."""


@dataclass(frozen=True, slots=True)
class SealedColumn:
    """A column of bodies that was sealed.

    Args:
        bodies: a binary array, a row for each that was given; a row with an error is as it was.
        errors: by row, why a body was not sealed.

    Example:
        >>> import pyarrow as pa
        >>> SealedColumn(pa.array([b"QRE1..."])).errors
        {}
    """

    bodies: pa.Array
    errors: Mapping[int, QueueError] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OpenedColumn:
    """A column of bodies that was opened.

    Args:
        bodies: a binary array, a row for each that was given. A row that was plain, and one with an
            error, is as it was.
        nonces: a binary array: the 24 bytes that no other message sealed with its key has, for each
            row that was opened; empty for others.
        encrypted_at: seconds since 1970 at which each was sealed; 0 for rows that weren't opened.
        plain: for each row whether it came without the marker.
        errors: by row, why a body was not opened.

    Example:
        >>> import numpy as np, pyarrow as pa
        >>> column = OpenedColumn(
        ...     pa.array([b"plain"]), pa.array([b""]), np.zeros(1, np.int64), np.ones(1, bool)
        ... )
        >>> column.errors
        {}
    """

    bodies: pa.Array
    nonces: pa.Array
    encrypted_at: npt.NDArray[np.int64]
    plain: npt.NDArray[np.bool_]
    errors: Mapping[int, QueueError] = field(default_factory=dict)


class CryptoProvider(Protocol):
    """What seals and opens bodies.

    Called from one loop by senders and receivers, together or one after the other. A call waits for
    keys alone; while a long column is opened, others on the loop have their turns. Of its
    arguments nothing is kept. A repeat seals anew (another nonce) and opens to the same. Nobody but
    the caller retries; that is worth it for `KeyNotFound` alone.

    What a body is bound to, its `associated_data`, is `binding(message id, session id)`; key id,
    version and time are bound by the provider itself.
    """

    async def encrypt(
        self,
        key_id: str | None,
        plaintext: bytes,
        associated_data: bytes,
        encrypted_at: int | None = None,
    ) -> EncryptedMessage:
        """Seal a body.

        Args:
            key_id: which key; None: the current one.
            plaintext: the body.
            associated_data: what it is bound to.
            encrypted_at: the time that it is given, seconds since 1970; None: now.

        Raises:
            KeyNotFound: the key can't be had now.
            ValidationError: the body begins with the marker of sealed ones.
            EncryptionFailed: sealing failed otherwise.
        """

    async def decrypt(self, message: EncryptedMessage, associated_data: bytes) -> bytes:
        """Open a body.

        Args:
            message: what was sealed.
            associated_data: what it must be bound to.

        Raises:
            KeyNotFound: its key can't be had now.
            BodyAuthenticationFailed: it was altered, or sealed for another message or with another
                key of that id.
        """

    async def encrypt_column(
        self,
        key_id: str | None,
        bodies: pa.Array,
        associated_data: Sequence[bytes | None] | pa.Array,
        encrypted_at: int | npt.NDArray[np.int64] | None = None,
    ) -> SealedColumn:
        """Seal a column of bodies, all under one key.

        A body that begins with the marker is not sealed, and has a `ValidationError` beside it.

        Args:
            key_id: which key; None: the current one.
            bodies: a binary array.
            associated_data: for each row what it is bound to; null where that is too long.
            encrypted_at: the time of all rows, or of each, seconds since 1970; None: now.

        Raises:
            KeyNotFound: the key can't be had now.
            EncryptionFailed: sealing failed otherwise, or the sealed column has over 2 GiB.
        """

    async def decrypt_column(
        self, bodies: pa.Array, associated_data: Sequence[bytes | None] | pa.Array
    ) -> OpenedColumn:
        """Open a column of bodies, sealed and plain ones mixed.

        A row that can't be opened has its error beside it and doesn't stop the others: the kinds
        are those of `decrypt`, and `InvalidEnvelope` and `UnsupportedVersion`.

        Args:
            bodies: a binary array.
            associated_data: for each row what it must be bound to.
        """
