"""Keys in this process's memory: for tests, and for programs that bring keys of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.material import KeyBytes
from pipeline.errors import Closed, ConfigurationError, KeyNotFound
from pipeline.names import EncryptionKeyId


class MemoryKeyProvider:
    """A key provider that is given its keys.

    Args:
        keys: by id, the key's 32 bytes; they are copied.
        current: the id of the key that is sealed with.

    Raises:
        ConfigurationError: the current key is none of them.
        ValidationError: an id breaks its rule, or a key has another length than 32 bytes.

    Example:
        >>> provider = MemoryKeyProvider({"a": bytes(32)}, current="a")
        >>> provider.add("b", bytes(range(32)))
        >>> provider.make_current("b")
        >>> provider.retire("a")
        >>> await provider.valid_key_ids()
        (EncryptionKeyId('b'),)
        >>> await provider.close()
    """

    def __init__(self, keys: Mapping[str, bytes | bytearray | memoryview], *, current: str) -> None:
        self._keys: dict[EncryptionKeyId, KeyBytes] = {}
        self._closed = False
        for key_id in keys:
            self.add(key_id, keys[key_id])
        del keys  # no traceback that shows locals finds them here
        self.make_current(current)

    def add(self, key_id: str, material: bytes | bytearray | memoryview) -> None:
        """Distribute a key, or another one under the same id.

        Raises:
            ValidationError: its id breaks its rule, or it has another length than 32 bytes.
        """
        with_rules = EncryptionKey(key_id, material)
        self._keys[with_rules.id] = KeyBytes(material)

    def make_current(self, key_id: str) -> None:
        """Say which key is sealed with.

        Raises:
            ConfigurationError: there is none of that id.
        """
        self._current = self._known(key_id)

    def retire(self, key_id: str) -> None:
        """Take a key away, and overwrite it here.

        Raises:
            ConfigurationError: there is none of that id, or it is the current one.
        """
        gone = self._known(key_id)
        if gone == self._current:
            raise ConfigurationError(f"key {key_id!r} is the current one: make another one current")
        self._keys.pop(gone).wipe()

    async def start(self) -> None:
        """Nothing is to be made ready."""
        self._refuse_closed()

    async def get_key(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """The key of an id."""
        self._refuse_closed()
        material = self._keys.get(key_id)
        if material is None:
            raise KeyNotFound(key_id)
        return EncryptionKey(key_id, material)

    async def current_key_id(self) -> EncryptionKeyId:
        """The id of the key that is sealed with."""
        self._refuse_closed()
        return self._current

    async def valid_key_ids(self) -> Collection[EncryptionKeyId]:
        """The ids of all keys."""
        self._refuse_closed()
        return tuple(self._keys)

    async def close(self) -> None:
        """Overwrite them; idempotent."""
        self._closed = True
        for material in self._keys.values():
            material.wipe()
        self._keys.clear()

    def _known(self, key_id: str) -> EncryptionKeyId:
        name = next((known for known in self._keys if known == key_id), None)
        if name is None:
            known = ", ".join(self._keys) or "none"
            raise ConfigurationError(f"there is no key {key_id!r}; there are: {known}")
        return name

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Closed("the key provider was closed: make a new one")
