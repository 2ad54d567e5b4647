"""What every key provider does, wherever the keys are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.crypto.keys.kept import KeptKeys, WritableKeys
from pipeline.crypto.keys.memory import MemoryKeyProvider
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.port import KeyProvider
from pipeline.crypto.ring import KeyRing
from pipeline.errors import Closed, ConfigurationError, KeyNotFound, ValidationError
from pipeline.names import EncryptionKeyId
from tests.contract.crypto.places import Aws, Azure, Environment, File, Memory, Place
from tests.keyvault.vault import Vault
from tests.servicebus.certificates import Certificates

ONE = KeySet.first("a", 1_700_000_000.0)
BOTH = ONE.adding("b", 1_700_000_001.0)


@pytest.fixture(params=["memory", "environment", "file", "aws", "azure"])
async def place(
    request: pytest.FixtureRequest, tmp_path: Path, authority: Certificates, moto_server: str
) -> AsyncIterator[Place]:
    """A place of each kind."""
    async with Vault(authority.context()) as vault:
        made: Place = {
            "memory": Memory,
            "environment": Environment,
            "file": lambda: File(tmp_path),
            "aws": lambda: Aws(moto_server),
            "azure": lambda: Azure(vault, authority),
        }[request.param]()
        yield made
        await made.provider.close()


async def opened(place: Place, keys: KeySet) -> KeyProvider:
    """A provider where these are kept."""
    provider = await place.open()
    await place.put(keys)
    await provider.start()
    return provider


def name(key_id: str) -> EncryptionKeyId:
    return EncryptionKeyId(key_id)


@pytest.mark.spec("C5", "C6")
async def test_it_gives_what_is_kept(place: Place) -> None:
    """The current id, all ids, and each key as a new object, which the caller owns."""
    provider = await opened(place, BOTH)
    assert await provider.current_key_id() == "a"
    assert sorted(await provider.valid_key_ids()) == ["a", "b"]
    for key_id in ("a", "b"):
        first, second = await provider.get_key(name(key_id)), await provider.get_key(name(key_id))
        assert first is not second
        assert first.id == key_id
        assert first.matches(BOTH.key(key_id))
        first.close()
        assert second.matches(BOTH.key(key_id))
    with pytest.raises(KeyNotFound) as caught:
        await provider.get_key(name("c"))
    assert caught.value.key_id == "c"


@pytest.mark.spec("C5", "C6")
async def test_each_question_is_answered_as_it_is_now(place: Place) -> None:
    """A provider keeps nothing: what was distributed, made current, retired or replaced shows."""
    provider = await opened(place, ONE)
    await place.put(BOTH)
    assert (await provider.get_key(name("b"))).matches(BOTH.key("b"))
    rotated = BOTH.making_current("b")
    await place.put(rotated)
    assert await provider.current_key_id() == "b"
    await place.put(rotated.retiring("a"))
    assert list(await provider.valid_key_ids()) == ["b"]
    with pytest.raises(KeyNotFound):
        await provider.get_key(name("a"))
    other = KeySet.first("b", 0.0)
    await place.put(other)
    assert (await provider.get_key(name("b"))).matches(other.key("b"))


@pytest.mark.spec("C6", "C11")
async def test_questions_may_come_together(place: Place) -> None:
    """And a caller that gives up takes nothing from the others."""
    provider = await opened(place, BOTH)
    asked: list[Any] = [
        asyncio.create_task(call)
        for call in (
            provider.valid_key_ids(),
            provider.current_key_id(),
            provider.get_key(name("b")),
            provider.get_key(name("c")),
            provider.valid_key_ids(),
        )
    ]
    await asyncio.sleep(0)
    asked[0].cancel()
    cancelled, current, key, missing, ids = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(cancelled, asyncio.CancelledError) or isinstance(place, Memory)
    assert (current, key.id, sorted(ids)) == ("a", "b", ["a", "b"])
    assert isinstance(missing, KeyNotFound)


@pytest.mark.spec("P10")
async def test_it_starts_and_closes_more_than_once(place: Place) -> None:
    """Closed, it answers nothing."""
    provider = await opened(place, ONE)
    await provider.start()
    asking = asyncio.create_task(provider.get_key(name("a")))
    await asyncio.sleep(0)
    await provider.close()
    await provider.close()
    [ended] = await asyncio.gather(asking, return_exceptions=True)
    assert not isinstance(ended, Exception)
    for call in (
        provider.start(),
        provider.get_key(name("a")),
        provider.current_key_id(),
        provider.valid_key_ids(),
    ):
        with pytest.raises(Closed, match="the key provider was closed: make a new one"):
            await call


@pytest.mark.spec("C5", "C6")
async def test_a_running_ring_sees_a_rotation(place: Place) -> None:
    """Distributed, made current, retired; within a refresh, and with no pause between."""
    ring = KeyRing(await opened(place, ONE), refresh=0.05, clock=SystemClock())
    await ring.start()

    async def until(wanted: Any) -> None:
        async with asyncio.timeout(20):
            while not await wanted():
                assert (await ring.current()).id in ("a", "b")
                await asyncio.sleep(0.01)

    async def has_b() -> bool:
        return ring.cached(name("b")) is not None

    async def is_current() -> bool:
        return (await ring.current()).id == "b"

    async def lost_a() -> bool:
        return ring.cached(name("a")) is None

    await place.put(BOTH)
    await until(has_b)
    assert (await ring.current()).id == "a"
    await place.put(BOTH.making_current("b"))
    await until(is_current)
    assert (await ring.get(name("a"))).matches(BOTH.key("a"))
    held = await ring.get(name("a"))
    await place.put(BOTH.making_current("b").retiring("a"))
    await until(lost_a)
    held.for_opening(bytes(12))
    with pytest.raises(KeyNotFound):
        await ring.get(name("a"))
    await ring.close()


@pytest.mark.spec("C7", "P8")
async def test_nothing_of_it_shows_a_key(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """Not it, not its errors, not what the SDK writes when everything is written."""
    caplog.set_level(1)
    provider = await opened(place, BOTH)
    if place.writable:
        await place.provider.store(BOTH)
    with pytest.raises(KeyNotFound) as caught:
        await provider.get_key(name("c"))
    await provider.get_key(name("b"))
    own = {key: value for key, value in vars(provider).items() if key != "_environment"}
    shown = f"{provider!r} {own!r} {caught.value!r} {caught.value.causes}"
    for text in BOTH.texts.values():
        assert text not in shown
        found = [record for record in caplog.records if text in record.getMessage()]
        # What the test itself writes there, as somebody else, is not ours.
        assert [record.name for record in found] == []


# --- those that keep a document -------------------------------------------------------------------


async def only_kept(place: Place) -> KeptKeys:
    provider = await place.open()
    if isinstance(place, Memory):
        pytest.skip("memory keeps no document")
    assert isinstance(provider, KeptKeys)
    return provider


def only_written(place: Place) -> WritableKeys:
    if not place.writable:
        pytest.skip("can't be written from another process")
    provider = place.provider
    assert isinstance(provider, WritableKeys)
    return provider


@pytest.mark.spec("C6", "P10")
async def test_a_missing_or_malformed_document_is_told(place: Place) -> None:
    """With the place; the ring's start fails with it."""
    provider = await only_kept(place)
    ring = KeyRing(provider, clock=SystemClock())
    with pytest.raises(ConfigurationError, match=r"there is no key set yet|is not set here"):
        await ring.start()
    good = BOTH.text()
    for text, told in (
        (good[:-2], "is not JSON"),
        ("{}", 'its member "keys" must be'),
        (good.replace("=", "A"), "key 'a' must be 32 bytes in base64"),
    ):
        await place.put(text)
        with pytest.raises(ConfigurationError) as caught:
            await provider.current_key_id()
        assert str(caught.value).startswith("crypto.keys: ")
        assert told in str(caught.value)
        shown = f"{caught.value!r} {caught.value.causes} {caught.value.__context__!r}"
        assert not any(one[:40] in shown for one in BOTH.texts.values())
    await place.put(BOTH)
    await ring.start()
    assert (await ring.current()).id == "a"
    await ring.close()


@pytest.mark.spec("C5", "C6")
async def test_a_key_set_is_made_once_and_changed(place: Place) -> None:
    """What was written is what is read; a first one never takes another's place."""
    await place.open()
    provider = only_written(place)
    await provider.start()
    assert await provider.find() is None
    await provider.create(ONE)
    with pytest.raises(ConfigurationError, match="somebody made a key set in the meantime"):
        await provider.create(BOTH)
    found = await provider.find()
    assert found is not None
    assert (found.ids, found.added) == (("a",), ONE.added)
    await provider.store(BOTH.making_current("b"))
    assert await provider.current_key_id() == "b"
    assert (await provider.get_key(name("a"))).matches(ONE.key("a"))
    await provider.close()
    for write in (provider.create, provider.store):
        with pytest.raises(Closed):
            await write(ONE)


@pytest.mark.spec("C6", "C11")
async def test_one_reading_serves_a_refresh(place: Place) -> None:
    """However many keys there are: a secret store counts each call."""
    await only_kept(place)
    keys = BOTH
    for number in range(10):
        keys = keys.adding(f"k{number}", 0.0)
    provider = await opened(place, keys)
    readings = 0
    real = place.provider._text

    async def counted() -> str | None:
        nonlocal readings
        readings += 1
        found: str | None = await real()
        return found

    place.provider._text = counted
    ring = KeyRing(provider, clock=SystemClock())
    await ring.start()
    assert readings == 2  # which ids there are, then the keys
    await ring._read()
    assert readings == 3
    await ring.close()


@pytest.mark.spec("C5", "C7", "P10")
async def test_memory_refuses_what_makes_no_sense_and_overwrites_what_leaves() -> None:
    """A current key is one of its own; a retired one is overwritten, and all are at the end."""
    with pytest.raises(ConfigurationError, match="there is no key 'b'; there are: a"):
        MemoryKeyProvider({"a": bytes(32)}, current="b")
    with pytest.raises(ConfigurationError, match="there is no key 'a'; there are: none"):
        MemoryKeyProvider({}, current="a")
    with pytest.raises(ValidationError, match="must have 32 bytes"):
        MemoryKeyProvider({"a": bytes(31)}, current="a")
    provider = MemoryKeyProvider({"a": b"a" * 32, "b": b"b" * 32}, current="a")
    with pytest.raises(ConfigurationError, match="key 'a' is the current one: make another one"):
        provider.retire("a")
    with pytest.raises(ConfigurationError, match="there is no key 'c'; there are: a, b"):
        provider.retire("c")
    buffers = list(provider._keys.values())
    provider.retire("b")
    assert [any(buffer) for buffer in buffers] == [True, False]
    await provider.close()
    assert [any(buffer) for buffer in buffers] == [False, False]
