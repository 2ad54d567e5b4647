"""Which keys a key ring has in hand, and what becomes of those that leave. It asks nobody.

A key leaves when the provider no longer has it, when there is no room, or when the ring closes. It
is then let go of, and overwrites itself as soon as nothing that seals or opens holds it: so no key
is taken from under a column that runs. What somebody holds on to all the same, in the frames of an
error that was kept, is overwritten later by `overwrite_left`.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence

from pipeline.crypto.key import EncryptionKey
from pipeline.names import EncryptionKeyId

_log = logging.getLogger("queue_runtime.keys")


class HeldKeys:
    """The keys in hand: those that were used last, and always the current one.

    Args:
        most: so many are held; the one that was used longest ago goes first.
    """

    def __init__(self, most: int) -> None:
        self.current: EncryptionKey | None = None
        """The key to seal with; None: nothing was taken yet."""
        self.valid: frozenset[EncryptionKeyId] = frozenset()
        """All ids that the provider had, held or not."""
        self._most = most
        self._keys: dict[EncryptionKeyId, EncryptionKey] = {}  # the one used last comes last
        self._left: weakref.WeakKeyDictionary[EncryptionKey, float] = weakref.WeakKeyDictionary()

    @property
    def ids(self) -> tuple[EncryptionKeyId, ...]:
        """The ids of the keys in hand."""
        return tuple(self._keys)

    def find(self, key_id: EncryptionKeyId) -> EncryptionKey | None:
        """A key in hand, which counts as used; None: it isn't."""
        key = self._keys.pop(key_id, None)
        if key is not None:
            self._keys[key.id] = key
        return key

    def wanted(
        self, current: EncryptionKeyId, valid: frozenset[EncryptionKeyId]
    ) -> Sequence[EncryptionKeyId]:
        """Which keys are to be had beside those in hand: the current one, and others if they fit.

        One that was distributed is had before it is made current, so that nobody waits for it then.
        Ids begin with a date as a rule: the highest come first.

        Args:
            current: the current id.
            valid: all ids.
        """
        held = self._keys.keys()
        first = [] if current in held else [current]
        room = max(0, self._most - len(valid & held) - len(first))
        others = sorted((key_id for key_id in valid - held if key_id != current), reverse=True)
        return first + others[:room]

    def take(
        self,
        current: EncryptionKeyId,
        valid: frozenset[EncryptionKeyId],
        loaded: Sequence[EncryptionKey],
        now: float,
    ) -> EncryptionKey:
        """Take what a reading brought.

        Args:
            current: the current id; its key is in hand or among the loaded ones.
            valid: all ids; a key in hand that is none of them leaves.
            loaded: keys, those in hand among them; they belong here from now on.
            now: the loop's time.

        Returns:
            The current key.
        """
        for key in loaded:
            self._put(key, now)
        for key_id in self.ids:
            if key_id not in valid:
                self._let_go(key_id, now)
                _log.info("encryption key %s was retired", key_id, extra={"key_id": key_id})
        former, self.current, self.valid = self.current, self._keys[current], valid
        if former is None or former.id != current:
            _log.info("bodies are sealed with key %s", current, extra={"key_id": current})
        self._make_room(now)
        return self.current

    def add(self, key: EncryptionKey, now: float) -> None:
        """Take one more key, if there is room for it when the one used longest ago has left."""
        self._put(key, now)
        self._make_room(now)

    def overwrite_left(self, before: float) -> None:
        """Overwrite the keys that left before a time, whoever holds them."""
        for key, at in list(self._left.items()):
            if at <= before:
                key.close()
                del self._left[key]

    def close(self) -> None:
        """Overwrite all keys, also those that left and are held by somebody still."""
        for key in (*self._keys.values(), *self._left):
            key.close()
        self._keys.clear()
        self.current = None

    def _put(self, key: EncryptionKey, now: float) -> None:
        held = self._keys.get(key.id)
        if held is not None and not held.closed and held.matches(key):
            key.close()  # the held one goes on, with its epoch and what it derived
            return
        if held is not None:
            self._let_go(key.id, now)
            _log.warning(
                "encryption key %s is another one now: what the former sealed opens no more; give "
                "each key an id of its own",
                key.id,
                extra={"key_id": key.id},
            )
        self._keys[key.id] = key

    def _make_room(self, now: float) -> None:
        for key_id in self.ids:
            if len(self._keys) <= self._most:
                return
            if self._keys[key_id] is not self.current:
                self._let_go(key_id, now)

    def _let_go(self, key_id: EncryptionKeyId, now: float) -> None:
        self._left[self._keys.pop(key_id)] = now
