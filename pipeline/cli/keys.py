"""`queue-runtime keys list|new|rotate|retire FILE`: the encryption keys where they are kept.

It shows ids and never a key. What a key set is, and what may be done to one, is the crypto
package's, which is imported when the command runs: it needs an extra.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from pipeline.cli.common import DONE, add_action, complain, json_text, say
from pipeline.clock import SystemClock
from pipeline.config import CryptoConfig, load
from pipeline.config.extras import lacking
from pipeline.errors import ConfigurationError
from pipeline.telemetry import log

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers
    from pipeline.crypto.keys.kept import KeptKeys, WritableKeys
    from pipeline.crypto.keyset import KeySet

_ROW = "{:<32}  {:<7}  {}"


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "keys",
        help="list, make, rotate and retire encryption keys",
        description="The encryption keys where the configuration says that they are kept. Their "
        "ids are shown, the keys themselves never.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listed = add_action(actions, "list", _list, "list the keys' ids, and which is current")
    listed.add_argument("--json", action="store_true", help="write a JSON line a key")

    made = add_action(actions, "new", _new, "make a key, to be distributed before it is used")
    made.add_argument("--id", metavar="ID", help="its id; unset: today's date")

    rotated = add_action(actions, "rotate", _rotate, "seal with another key from now on")
    rotated.add_argument("--to", metavar="ID", help="that key; unset: the newest")

    retired = add_action(actions, "retire", _retire, "take a key away that is not current")
    retired.add_argument("id", metavar="ID", help="its id")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    loaded = load(arguments.config)
    log.configure(loaded.log.format, "warning")
    config = loaded.crypto
    missing = lacking("crypto", "cryptography")
    if missing:
        raise ConfigurationError(f"queue-runtime keys {missing}")
    return asyncio.run(_within(config, arguments))


@dataclass(frozen=True, slots=True)
class Place:
    """Where the keys are kept.

    Args:
        provider: reads them there.
        config: says where.
        file: the configuration's file, for what is told.
    """

    provider: KeptKeys
    config: CryptoConfig
    file: str

    async def keys(self) -> KeySet:
        """The key set.

        Raises:
            ConfigurationError: there is none yet.
        """
        keys = await self.provider.find()
        if keys is None:
            raise ConfigurationError(
                f"{self.provider.where}: there is no key set yet: make it, with: queue-runtime "
                f"keys new {self.file}"
            )
        return keys

    def writable(self) -> WritableKeys:
        """What writes them.

        Raises:
            ConfigurationError: they can't be written from here.
        """
        from pipeline.crypto.keys.kept import WritableKeys

        if isinstance(self.provider, WritableKeys):
            return self.provider
        raise ConfigurationError(
            f"{self.provider.where} can't be written from here: make and change the key set with a "
            "configuration that has crypto: {keys: {provider: file, path: ...}}, and start the "
            "processes with the variable set to what that file holds"
        )


Action: TypeAlias = Callable[[Place, argparse.Namespace], Coroutine[None, None, None]]


async def _within(config: CryptoConfig, arguments: argparse.Namespace) -> int:
    from pipeline.crypto.open import open_provider

    provider = open_provider(config)
    action: Action = arguments.act
    try:
        await provider.start()
        await action(Place(provider, config, arguments.config), arguments)
    finally:
        await provider.close()
    return DONE


async def _list(place: Place, arguments: argparse.Namespace) -> None:
    keys = await place.keys()
    if not arguments.json:
        say(_ROW.format("key", "current", "added"))
    for key_id in keys.ids:
        current, added = key_id == keys.current, _moment(keys.added.get(key_id))
        if arguments.json:
            say(json_text({"id": key_id, "current": current, "added": added}))
        else:
            say(_ROW.format(key_id, "yes" if current else "", added or "").rstrip())


async def _new(place: Place, arguments: argparse.Namespace) -> None:
    from pipeline.crypto.keyset import KeySet

    writable, now = place.writable(), SystemClock().now()
    keys = await writable.find()
    key_id = _free_id(keys, now) if arguments.id is None else arguments.id
    if keys is None:
        await writable.create(KeySet.first(key_id, now))
        say(f"made a key set with key {key_id}, which is current")
        return
    await writable.store(keys.adding(key_id, now))
    await _stored(writable, key_id)
    say(
        f"made key {key_id}; {keys.current} is current still. In {place.config.ttl:g} s "
        f"(crypto.ttl) all processes have it; then: queue-runtime keys rotate {place.file}"
    )


async def _stored(place: WritableKeys, key_id: str) -> None:
    """Complain when a key that was just stored is not there: neither files nor stores compare."""
    found = await place.find()
    if found is None or key_id not in found.ids:
        raise ConfigurationError(
            f"key {key_id!r} is not there: somebody else changed the key set at the same time; "
            "look at `keys list`, and make it again"
        )


async def _rotate(place: Place, arguments: argparse.Namespace) -> None:
    writable, keys = place.writable(), await place.keys()
    key_id = keys.newest if arguments.to is None else arguments.to
    if key_id is None:
        known = ", ".join(keys.ids)
        raise ConfigurationError(
            f"which key is the newest isn't known, for not all have the time at which they were "
            f"added; say which, with --to: {known}"
        )
    rotated = keys.making_current(key_id)
    if rotated.current == keys.current:
        what = "is the newest key, and current already" if arguments.to is None else "is current"
        raise ConfigurationError(
            f"key {str(key_id)!r} {what}: make another one, with: queue-runtime keys new "
            f"{place.file}"
        )
    await writable.store(rotated)
    say(f"key {key_id} is current; {keys.current} opens what it has sealed, until it is retired")
    added, ttl = keys.added.get(rotated.current), place.config.ttl
    age = None if added is None else max(0.0, SystemClock().now() - added)
    if age is None or age < ttl:
        since = "at a time that isn't known" if age is None else f"{age:.0f} s ago"
        complain(
            f"warning: key {key_id} was made {since}, and processes look for new keys within "
            f"{ttl:g} s (crypto.ttl): until each has it, what is sealed with it waits there"
        )


async def _retire(place: Place, arguments: argparse.Namespace) -> None:
    writable, keys = place.writable(), await place.keys()
    await writable.store(keys.retiring(arguments.id))
    say(f"key {arguments.id} is retired: what it sealed can't be opened any more")
    complain(
        "warning: a process that has it cached goes on sealing with it for up to "
        f"{place.config.ttl:g} s after another key was made current (crypto.ttl), and nothing of "
        "that will open; nor will backlogs and dead letters that it sealed. If it was too soon, "
        "put the key back now"
    )


# --- parts of these -------------------------------------------------------------------------------


def _free_id(keys: KeySet | None, now: float) -> str:
    """Today's date, with a number behind it from the day's second key on."""
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    taken = () if keys is None else keys.ids
    found, number = today, 1
    while found in taken:
        number += 1
        found = f"{today}-{number}"
    return found


def _moment(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
