"""What every provider of a kept key set shares: its questions are answered by reading the document.

It keeps no key. Calls that come together share one reading, because the ring asks for several
things at once and a secret store counts each call. Where the document is kept, and how that fails,
is the subclasses'.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Collection

from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.material import KeyText
from pipeline.errors import Closed, ConfigurationError, Timeout
from pipeline.names import EncryptionKeyId


class KeptKeys(ABC):
    """A key provider whose keys are in one document; see `KeyProvider` for the contract.

    Args:
        where: what keeps the document, as an error should call it.
        timeout: seconds that a reading may take.
    """

    def __init__(self, where: str, timeout: float) -> None:
        self.where = where
        self._timeout = timeout
        self._closed = False
        self._reading: asyncio.Task[KeySet] | None = None

    async def start(self) -> None:
        """Make ready what readings need; idempotent."""
        self._refuse_closed()

    async def close(self) -> None:
        """Let go of what `start` made; a reading that runs is cancelled. Idempotent."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def get_key(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """The key of an id."""
        return (await self._read_together()).key(key_id)

    async def current_key_id(self) -> EncryptionKeyId:
        """The id of the key that is sealed with."""
        return (await self._read_together()).current

    async def valid_key_ids(self) -> Collection[EncryptionKeyId]:
        """The ids of all keys."""
        return (await self._read_together()).ids

    async def find(self) -> KeySet | None:
        """The key set as it is kept now; None when nothing is kept yet.

        Raises:
            ConfigurationError: what is kept is no key set, or can't be found.
            QueueError: the place it is kept at can't be asked.
        """
        self._refuse_closed()
        try:
            async with asyncio.timeout(self._timeout):
                text = await self._text()
        except TimeoutError:
            raise Timeout(f"{self.where} gave no answer within {self._timeout:g} s") from None
        if text is None:
            return None
        text = KeyText(text)
        return KeySet.parse(text, self.where)

    @abstractmethod
    async def _text(self) -> str | None:
        """The document; None when there is none. What fails is of our tree."""

    async def _read_together(self) -> KeySet:
        if self._reading is None:
            self._refuse_closed()
            self._reading = asyncio.create_task(self._found())
            self._reading.add_done_callback(self._read)
        # A caller that is cancelled takes nothing from the others; the reading's time is bounded.
        return await asyncio.shield(self._reading)

    def _read(self, reading: asyncio.Task[KeySet]) -> None:
        self._reading = None  # the next call reads anew
        if not reading.cancelled():
            reading.exception()  # every caller may have been cancelled: it counts as looked at

    async def _found(self) -> KeySet:
        found = await self.find()
        if found is None:
            raise ConfigurationError(
                f"{self.where}: there is no key set yet: make it, with: queue-runtime keys new FILE"
            )
        return found

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Closed(f"{self.where}: the key provider was closed: make a new one")


class WritableKeys(KeptKeys):
    """One whose document can be written from here, as `queue-runtime keys` does."""

    async def create(self, keys: KeySet) -> None:
        """Keep a first key set.

        Raises:
            ConfigurationError: one is kept already, or the place can't be found.
            QueueError: the place can't be asked.
        """
        await self._bounded(keys, first=True)

    async def store(self, keys: KeySet) -> None:
        """Keep a key set in place of the one that was read.

        Raises:
            ConfigurationError: the place can't be written.
            QueueError: the place can't be asked.
        """
        await self._bounded(keys, first=False)

    @abstractmethod
    async def _write(self, text: str, *, first: bool) -> None:
        """Keep a document; `first`: refuse if there is one. What fails is of our tree."""

    async def _bounded(self, keys: KeySet, *, first: bool) -> None:
        self._refuse_closed()
        try:
            async with asyncio.timeout(self._timeout):
                await self._write(keys.text(), first=first)
        except TimeoutError:
            raise Timeout(
                f"{self.where} gave no answer within {self._timeout:g} s: whether the key set was "
                "written is not known; look, with: queue-runtime keys list FILE"
            ) from None

    def _there_is_one(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.where}: somebody made a key set in the meantime: it was left as it is"
        )
