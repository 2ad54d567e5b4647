"""The key set: the one JSON document that every key provider keeps, and what changes it.

    {"current": "2026-11", "keys": {"2026-11": "<32 bytes in base64>", ...}}

`added`, by id the moment at which a key came to it, may stand beside them; `queue-runtime keys`
writes it and warns by it. This module owns the document's form and every sentence about what is
wrong with one, which never quotes what a key is. Where documents are kept is the providers'.

A key's bytes are decoded four characters at a time into a buffer that is overwritten: no `bytes` of
a whole key exists on the way. The document's own text can't be overwritten; it is held while it is
read or written and no longer.
"""

from __future__ import annotations

import json
import os
import re
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.material import KEY_BYTES, KeyBytes, KeyText
from pipeline.errors import ConfigurationError, KeyNotFound, ValidationError
from pipeline.names import EncryptionKeyId

LARGEST: Final = 1_048_576
"""Bytes: no document may be larger; it would have over 10,000 keys."""

_MEMBERS: Final = ("current", "keys", "added")
_CHARACTERS: Final = 44
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]{43}=")
_FORM: Final = '{"current": ID, "keys": {ID: "32 bytes in base64", ...}}'


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class KeySet:
    """Keys by their ids, in the order they came, and which of them is current.

    A change makes a new one. It shows ids alone, and refuses pickle and copy, as a dict too.

    Args:
        current: the id of the key that is sealed with; one of `texts`.
        texts: by id, the key's 32 bytes in base64.
        added: by id, when it came, in seconds since 1970; not known of every key.

    Example:
        >>> keys = KeySet.first("a", 1.7e9).adding("b", 1.8e9)
        >>> keys
        KeySet(a (current), b)
        >>> keys.making_current("b").retiring("a").ids
        (EncryptionKeyId('b'),)
    """

    current: EncryptionKeyId
    texts: Mapping[EncryptionKeyId, str]
    added: Mapping[EncryptionKeyId, float]

    @classmethod
    def parse(cls, text: str, where: str) -> KeySet:
        """Read a document.

        Args:
            text: the document.
            where: where it is kept, for errors.

        Raises:
            ConfigurationError: it is no key set; the message names the key and what is wrong.
        """
        data = _loaded(text, where)
        if not isinstance(data, dict):
            raise _wrong(where, f"the document must be an object, {_FORM}")
        unknown = [name for name in data if name not in _MEMBERS]
        if unknown:
            raise _wrong(
                where, f"it has an unknown member {_shown(unknown[0])}: it must be {_FORM}"
            )
        return cls(*_members(data, where))

    @classmethod
    def first(cls, key_id: str, now: float, random: Callable[[int], bytes] = os.urandom) -> KeySet:
        """A set of one new key, which is current.

        Args:
            key_id: its id.
            now: seconds since 1970.
            random: gives so many bytes of chance, from the operating system.

        Raises:
            ValidationError: the id breaks its rule.
        """
        made = EncryptionKeyId(key_id)
        return cls(made, {made: _drawn(random)}, {made: now})

    @property
    def ids(self) -> tuple[EncryptionKeyId, ...]:
        """All ids, in the order they came."""
        return tuple(self.texts)

    @property
    def newest(self) -> EncryptionKeyId | None:
        """The key that came last; None where that isn't known."""
        ids = self.ids
        known = [name for name in ids if name in self.added]
        if len(ids) == 1 or not known:
            return ids[0] if len(ids) == 1 else None
        latest = max(reversed(known), key=self.added.__getitem__)
        # One that somebody put behind it by hand may be newer.
        return latest if set(ids[ids.index(latest) :]) <= set(known) else None

    def key(self, key_id: str) -> EncryptionKey:
        """A key, as a new object that the caller owns.

        Raises:
            KeyNotFound: there is none of that id.
        """
        name = self._known(key_id)
        if name is None:
            raise KeyNotFound(key_id)
        material = _decoded(self.texts[name])
        try:
            return EncryptionKey(name, material)
        finally:
            material.wipe()

    def adding(
        self, key_id: str, now: float, random: Callable[[int], bytes] = os.urandom
    ) -> KeySet:
        """With a new key, which is not current yet.

        Args:
            key_id: its id.
            now: seconds since 1970.
            random: gives so many bytes of chance, from the operating system.

        Raises:
            ConfigurationError: there is one of that id.
            ValidationError: the id breaks its rule.
        """
        made = EncryptionKeyId(key_id)
        if made in self.texts:
            raise ConfigurationError(f"there is a key {str(made)!r} already: choose another id")
        return KeySet(self.current, {**self.texts, made: _drawn(random)}, {**self.added, made: now})

    def making_current(self, key_id: str) -> KeySet:
        """With another key that is sealed with.

        Raises:
            ConfigurationError: there is none of that id.
        """
        return KeySet(self._named(key_id), self.texts, self.added)

    def retiring(self, key_id: str) -> KeySet:
        """Without a key: what was sealed with it can't be opened any more.

        Raises:
            ConfigurationError: there is none of that id, or it is the current one.
        """
        gone = self._named(key_id)
        if gone == self.current:
            raise ConfigurationError(
                f"key {str(gone)!r} is the current one: make another one current first, with: "
                "queue-runtime keys rotate FILE"
            )
        texts = {name: text for name, text in self.texts.items() if name != gone}
        return KeySet(
            self.current, texts, {name: at for name, at in self.added.items() if name != gone}
        )

    def text(self) -> str:
        """The document; whoever asks for it takes it where it is kept, and lets go of it."""
        data: dict[str, Any] = {"current": str(self.current), "keys": dict(self.texts)}
        if self.added:
            data["added"] = {name: _moment(at) for name, at in self.added.items()}
        return KeyText(json.dumps(data, ensure_ascii=False, indent=1))

    def _known(self, key_id: str) -> EncryptionKeyId | None:
        return next((name for name in self.texts if name == key_id), None)

    def _named(self, key_id: str) -> EncryptionKeyId:
        name = self._known(key_id)
        if name is None:
            known = ", ".join(self.texts)
            raise ConfigurationError(f"there is no key {key_id!r}; there are: {known}")
        return name

    def __repr__(self) -> str:
        told = (f"{name} (current)" if name == self.current else name for name in self.texts)
        return f"KeySet({', '.join(told)})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        """Refuse pickle and copy: keys never leave their process but to where they are kept."""
        raise TypeError("a key set is neither pickled nor copied: read it where it is needed")

    def __deepcopy__(self, memo: object) -> NoReturn:
        """Refuse it, also where a structure around it is copied."""
        self.__reduce_ex__(0)


# --- reading --------------------------------------------------------------------------------------
# An error is raised outside the `except` that found it: JSON's own would stay its context, and has
# the whole document in it.


def _wrong(where: str, told: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: what it holds is no key set: {told}")


def _loaded(text: str, where: str) -> Any:
    if not text.strip():
        raise _wrong(where, f"it is empty: it must be {_FORM}")
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        told = f"it is not JSON (line {error.lineno}, column {error.colno}: {error.msg})"
    except _TwiceError as error:
        told = f"it names {_shown(error.args[0])} twice"
    except (ValueError, RecursionError):
        told = "it is not JSON that can be read"
    raise _wrong(where, told)


class _TwiceError(Exception):
    """A member's name stands twice in an object, of which JSON's reader would drop the first."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _TwiceError(name)
        # A string may be a key, and what is wrong beside it is told with a traceback.
        found[name] = KeyText(value) if isinstance(value, str) else value
    return found


def _members(
    data: Mapping[str, Any], where: str
) -> tuple[EncryptionKeyId, dict[EncryptionKeyId, str], dict[EncryptionKeyId, float]]:
    keys, added = data.get("keys"), data.get("added", {})
    if not isinstance(keys, dict) or not keys:
        raise _wrong(where, 'its member "keys" must be an object with at least one key')
    texts = {_id(name, where): _checked(name, value, where) for name, value in keys.items()}
    if not isinstance(added, dict):
        raise _wrong(where, 'its member "added" must be an object of ids and moments')
    moments = {_id(name, where): _seconds(name, value, where) for name, value in added.items()}
    current = data.get("current")
    if not isinstance(current, str) or current not in keys:
        known = ", ".join("(a key?)" if _BASE64.fullmatch(name) else name for name in texts)
        told = f'its member "current" is {_shown(current)} and must be one of its keys: {known}'
        raise _wrong(where, told)
    return EncryptionKeyId(current), texts, moments


def _id(name: str, where: str) -> EncryptionKeyId:
    try:
        return EncryptionKeyId(name)
    except ValidationError as error:
        told = f"a key's id {error.rule}; got {_shown(name)}"
    raise _wrong(where, told)


def _checked(name: str, value: object, where: str) -> str:
    """A key as it is written; never shown, so that an error says how it differs from one."""
    if not isinstance(value, str):
        told = f"it is no text but of type {type(value).__name__}"
    elif len(value) != _CHARACTERS:
        told = f"it has {len(value)} characters"
    elif not _BASE64.fullmatch(value):
        told = "it has others than letters, digits, + and /, or no = at its end"
    else:
        return value
    must = f"must be {KEY_BYTES} bytes in base64, {_CHARACTERS} characters"
    raise _wrong(where, f"key {_shown(name)} {must}: {told}")


def _seconds(name: str, value: object, where: str) -> float:
    try:
        moment = datetime.fromisoformat(value) if isinstance(value, str) else None
        if moment is not None and moment.tzinfo is not None:
            return moment.astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        pass
    told = f"the moment at which key {_shown(name)} was added must be like {_moment(0.0)}"
    raise _wrong(where, told)


def _shown(value: object) -> str:
    """An id, or what stands in its place: a key that stands there by mistake isn't told."""
    if not isinstance(value, str):
        return "missing" if value is None else f"of type {type(value).__name__}"
    return str.__repr__(value) if len(value) < _CHARACTERS - 4 else f"of {len(value)} characters"


# --- key bytes and text ---------------------------------------------------------------------------


def _decoded(text: str) -> KeyBytes:
    material = KeyBytes(KEY_BYTES)
    view = memoryview(material)
    for at in range(0, _CHARACTERS, 4):
        part = a2b_base64(text[at : at + 4])
        start = at // 4 * 3
        view[start : start + len(part)] = part
    return material


def _drawn(random: Callable[[int], bytes]) -> str:
    """A new key in base64, drawn three bytes at a time for the same reason."""
    sizes = [3] * (KEY_BYTES // 3) + [KEY_BYTES % 3]
    return KeyText("".join(b2a_base64(random(size), newline=False).decode() for size in sizes))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
