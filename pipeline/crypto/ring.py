"""The key ring: the keys that a process has in hand, kept fresh in the background.

It owns when the provider is asked, and what is said when it can't be. Which keys are held, and what
becomes of those that leave, is `held`'s. Sealing and opening ask the ring for keys and know nothing
of providers; providers keep nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pipeline.clock import Clock
from pipeline.crypto.held import HeldKeys
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.port import KeyProvider
from pipeline.errors import Closed, KeyNotFound, ProviderError, QueueError, Timeout
from pipeline.names import EncryptionKeyId
from pipeline.retry import RetryPolicy

T = TypeVar("T")

_log = logging.getLogger("queue_runtime.keys")
_EARLY: Final = 0.8
"""Keys are refreshed when so much of their time to live has passed, or a little before."""
_SPREAD: Final = 0.1
"""So much of it is left to chance: processes that started together don't ask together for ever."""
_LINGER: Final = 60.0
"""Seconds after which a key that left is overwritten whoever holds it: no column takes so long."""
_SOURCE: Final = "key provider"


class KeyRing:
    """The keys of a process; for one event loop.

    Args:
        provider: where keys come from; the ring starts and closes it.
        ttl: seconds that keys are taken to be as the provider has them. They are refreshed before
            that; while the provider fails they are used on, with a warning now and then.
        timeout: seconds one call to the provider may take.
        refresh: seconds between two refreshes; None: 0.8 of `ttl`.
        most: so many keys are held at once; the one that was used longest ago goes first.
        retry_miss: seconds in which the provider is asked only once for ids that are not known: a
            flood of them costs it nothing.
        clock: gives the chance for the jitter.
        fatal: told of a defect after which keys are no longer refreshed.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> from pipeline.crypto.keys.memory import MemoryKeyProvider
        >>> async def current() -> EncryptionKey:
        ...     provider = MemoryKeyProvider({"a": bytes(32)}, current="a")
        ...     ring = KeyRing(provider, clock=SystemClock())
        ...     await ring.start()
        ...     try:
        ...         return await ring.current()
        ...     finally:
        ...         await ring.close()
        >>> await current()
        EncryptionKey('a')
    """

    def __init__(
        self,
        provider: KeyProvider,
        *,
        ttl: float = 300.0,
        timeout: float = 10.0,
        refresh: float | None = None,
        most: int = 64,
        retry_miss: float = 5.0,
        clock: Clock,
        fatal: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._provider = provider
        self._fatal = fatal
        self._ttl = ttl
        self._timeout = timeout
        self._refresh = ttl * _EARLY if refresh is None else refresh
        self._retry_miss = retry_miss
        self._clock = clock
        self._pauses = RetryPolicy(
            initial=min(1.0, self._refresh), maximum=self._refresh, jitter="half"
        )
        self._held = HeldKeys(most)
        self._read_at = self._failed_at = self._told_at = float("-inf")
        self._failure = ""
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    # --- keys -------------------------------------------------------------------------------------

    def cached(self, key_id: EncryptionKeyId) -> EncryptionKey | None:
        """A key that is in hand, without asking the provider; None: it isn't.

        Args:
            key_id: its id.
        """
        return self._held.find(key_id)

    async def get(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """A key, asked of the provider when it isn't in hand. Hold it no longer than it is used.

        Args:
            key_id: its id.

        Raises:
            KeyNotFound: the provider has none of that id, or couldn't be asked; it is asked again
                by a call some seconds later.
            Closed: the ring was closed.
        """
        key = self.cached(key_id)
        if key is not None:
            return key
        async with self._lock:
            # Whoever had the lock before us may have brought it.
            return self.cached(key_id) or await self._asked_for(key_id)

    async def current(self) -> EncryptionKey:
        """The key to seal with. Hold it no longer than it is used.

        Raises:
            KeyNotFound: it can't be had; only before a first reading has worked.
            Closed: the ring was closed.
        """
        key = self._held.current
        if key is None:  # no reading has worked yet; from then on one is always in hand
            async with self._lock:
                key = self._held.current or await self._first()
        return key

    # --- life -------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the provider, read the keys, and keep them fresh from now on; idempotent.

        Raises:
            ConfigurationError: what the configuration says of the keys can't be used.
            QueueError: the provider couldn't be asked. The ring may be started again, and used
                without: each key is then asked for when it is needed.
            Closed: the ring was closed.
        """
        async with self._lock:
            self._refuse_closed()
            if self._task is not None:
                return
            await self._ask(self._provider.start())
            await self._read()
            self._task = asyncio.create_task(self._keep_fresh(), name="refresh of encryption keys")
            self._task.add_done_callback(self._ended)

    async def close(self) -> None:
        """Stop, overwrite all keys and close the provider; idempotent.

        Close it when nothing seals or opens any more.
        """
        if self._closed:
            return
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._held.close()
        try:
            await self._ask(self._provider.close())
        except QueueError as error:
            _log.warning("closing the key provider failed: %s", error)

    # --- asking -----------------------------------------------------------------------------------

    async def _asked_for(self, key_id: EncryptionKeyId) -> EncryptionKey:
        """A key that isn't in hand; the lock is held."""
        self._refuse_failed(key_id)
        if key_id not in self._held.valid:
            if self._since(self._read_at) < self._retry_miss:
                raise KeyNotFound(key_id)
            await self._read_or_missing(key_id)
            key = self.cached(key_id)
            if key is not None:
                return key
            if key_id not in self._held.valid:
                raise KeyNotFound(key_id)
        # It is valid, and there was no room for it.
        try:
            key = await self._ask(self._provider.get_key(key_id))
        except KeyNotFound:
            raise
        except QueueError as error:
            self._failed(error)
            raise KeyNotFound(key_id, self._failure) from error
        if self._closed:
            key.close()
        self._refuse_closed()
        self._held.add(key, self._now())
        return key

    async def _first(self) -> EncryptionKey:
        """The current key where none is in hand; the lock is held."""
        self._refuse_failed("(current)")
        return await self._read_or_missing("(current)")

    async def _read_or_missing(self, key_id: str) -> EncryptionKey:
        try:
            return await self._read()
        except Closed:
            raise
        except QueueError as error:
            raise KeyNotFound(key_id, self._failure) from error

    async def _read(self) -> EncryptionKey:
        """Ask for all that is to be held, then take it at once; the lock is held.

        Returns:
            The current key.
        """
        loaded: list[EncryptionKey] = []
        try:
            current, valid = await self._ask(self._asked(loaded))
            self._refuse_closed()
        except BaseException as error:
            # Not left to the last reference: the frames of the error are one.
            for key in loaded:
                key.close()
            if isinstance(error, QueueError):
                self._failed(error)
            raise
        if self._failure:
            _log.info("the key provider answers again")
        self._read_at = now = self._now()
        self._failed_at = self._told_at = float("-inf")
        self._failure = ""
        return self._held.take(current, valid, loaded, now)

    async def _asked(
        self, loaded: list[EncryptionKey]
    ) -> tuple[EncryptionKeyId, frozenset[EncryptionKeyId]]:
        """The current id and all valid ones; `loaded` gets the keys that are to be held.

        Everything is asked at once, so that a document is read once for it.
        """
        provider, held = self._provider, self._held.ids
        async with asyncio.TaskGroup() as group:
            asked_current = group.create_task(provider.current_key_id())
            asked_valid = group.create_task(provider.valid_key_ids())
            for key_id in held:
                group.create_task(self._load(key_id, loaded))
        current, valid = asked_current.result(), frozenset(asked_valid.result())
        async with asyncio.TaskGroup() as group:
            for key_id in self._held.wanted(current, valid):
                group.create_task(self._load(key_id, loaded))
        if current not in valid or all(key.id != current for key in loaded):
            told = f"it says that key {str(current)!r} is current, and has none of that id"
            raise ProviderError(_SOURCE, "NoCurrentKey", told, transient=True)
        return current, valid

    async def _load(self, key_id: EncryptionKeyId, loaded: list[EncryptionKey]) -> None:
        # Retired between the two answers: it is missed at the next reading.
        with contextlib.suppress(KeyNotFound):
            loaded.append(await self._provider.get_key(key_id))

    async def _ask(self, call: Awaitable[T]) -> T:
        failure: QueueError
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except TimeoutError:
            failure = Timeout(f"the key provider gave no answer within {self._timeout:g} s")
        except ExceptionGroup as group:
            failure = _translated(group.exceptions[0])
        except Exception as error:  # noqa: BLE001 - raised below, as one of ours
            failure = _translated(error)
        # Outside the `except`: what a provider of somebody's own raises may quote a key.
        raise failure

    # --- freshness --------------------------------------------------------------------------------

    async def _keep_fresh(self) -> None:
        failures = 0
        while True:
            await asyncio.sleep(self._pause(failures))
            self._held.overwrite_left(self._now() - _LINGER)
            try:
                async with self._lock:
                    await self._read()
            except QueueError as error:
                failures += 1
                self._tell(error)
            else:
                failures = 0

    def _pause(self, failures: int) -> float:
        chance = self._clock.random()
        if failures:
            return self._pauses.delay(failures, chance)
        return self._refresh * (1.0 - _SPREAD * chance)

    def _tell(self, error: QueueError) -> None:
        if self._since(self._told_at) < self._ttl:
            return
        self._told_at = self._now()
        _log.warning(
            "encryption keys can't be refreshed: %s; the %d in hand, %.0f s old, are used on",
            error,
            len(self._held.ids),
            self._since(self._read_at),
            extra={"keys": len(self._held.ids), "error": type(error).__name__},
        )

    def _failed(self, error: QueueError) -> None:
        self._failed_at = self._now()
        self._failure = f"the key provider can't be asked: {error}"

    def _refuse_failed(self, key_id: str) -> None:
        self._refuse_closed()
        if self._since(self._failed_at) < self._retry_miss:
            raise KeyNotFound(key_id, self._failure)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """The refreshing is over: a defect, unless the ring was closed."""
        if task.cancelled():
            return
        error = task.exception()
        _log.error("refreshing encryption keys ended: they stay as they are", exc_info=error)
        if self._fatal is not None and error is not None:
            self._fatal(error)

    def _refuse_closed(self) -> None:
        if self._closed:
            raise Closed("the key ring was closed: make a new one")

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _since(self, at: float) -> float:
        return self._now() - at


def _translated(error: Exception) -> QueueError:
    """An error of our tree as it is; of any other the kind alone: its text may quote a key."""
    if isinstance(error, QueueError):
        return error
    told = "a key provider raises QueueErrors alone: repair it"
    return ProviderError(_SOURCE, type(error).__name__, told)
