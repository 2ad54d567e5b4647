"""The key ring: what it holds, when it asks, and what becomes of keys that leave."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref

import pytest

from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.ring import KeyRing
from pipeline.errors import (
    Closed,
    ConfigurationError,
    ConnectionFailed,
    KeyNotFound,
    PermissionDenied,
    ProviderError,
    QueueError,
    Timeout,
)
from tests.unit.crypto.key_rig import Provider, material, name, now, ring_of


async def missing(ring: KeyRing, key_id: str) -> str:
    """What is said of a key that can't be had."""
    with pytest.raises(KeyNotFound) as caught:
        await ring.get(name(key_id))
    assert caught.value.key_id == key_id
    return str(caught.value)


# --- asking ---------------------------------------------------------------------------------------


@pytest.mark.spec("C5", "C6")
async def test_the_start_brings_every_key_and_later_calls_ask_nobody() -> None:
    """Several are valid at once; one is sealed with."""
    provider = Provider("a", "b", "c")
    ring = ring_of(provider)
    assert ring.cached(name("a")) is None
    await ring.start()
    await ring.start()
    before = provider.calls.total()
    assert before == 1 + 2 + 3
    key = await ring.get(name("b"))
    assert key is ring.cached(name("b"))
    assert key.matches(EncryptionKey("b", material(1)))
    assert (await ring.current()).id == "a"
    assert ring.cached(name("x")) is None
    assert provider.calls.total() == before
    await ring.close()


@pytest.mark.spec("C5")
async def test_an_unknown_id_is_asked_for_once_in_a_while() -> None:
    """A flood of made-up ids costs the provider one reading; a key that comes is then found."""
    provider = Provider("a")
    ring = ring_of(provider, retry_miss=5.0)
    await ring.start()
    await asyncio.sleep(6)
    assert provider.readings == 1
    for number in range(100):
        assert "the key provider has none of that id" in await missing(ring, f"x{number}")
    assert provider.readings == 2
    provider.keys["b"] = material(7)
    await missing(ring, "b")
    await asyncio.sleep(5)
    assert (await ring.get(name("b"))).matches(EncryptionKey("b", material(7)))
    assert provider.readings == 3
    await ring.close()


@pytest.mark.spec("C5")
async def test_a_flood_that_comes_at_once_shares_a_reading() -> None:
    """However many wait, and while the provider takes its time."""
    provider = Provider("a")
    ring = ring_of(provider)
    await ring.start()
    await asyncio.sleep(10)
    provider.keys["b"] = material(7)
    provider.seconds = 1.0
    ids = [*(f"x{number}" for number in range(50)), "b", "b"]
    found = await asyncio.gather(
        *(ring.get(name(key_id)) for key_id in ids), return_exceptions=True
    )
    assert [type(one) for one in found] == [KeyNotFound] * 50 + [EncryptionKey] * 2
    assert found[-1] is found[-2]
    assert provider.readings == 2
    await ring.close()


@pytest.mark.spec("C5", "C11")
async def test_a_caller_that_gives_up_takes_nothing_from_the_next() -> None:
    """The next one asks itself."""
    provider = Provider("a")
    ring = ring_of(provider)
    provider.seconds = 1.0
    waiting = asyncio.create_task(ring.get(name("a")))
    next_one = asyncio.create_task(ring.get(name("a")))
    await asyncio.sleep(0.5)
    waiting.cancel()
    assert (await next_one).id == "a"
    assert waiting.cancelled()
    await ring.close()


@pytest.mark.spec("C6")
async def test_a_ring_that_was_not_started_asks_when_it_is_needed() -> None:
    """For the current key as for another one."""
    provider = Provider("a", "b")
    ring = ring_of(provider)
    assert [(await ring.current()).id for _ in range(3)] == ["a"] * 3
    assert (await ring.get(name("b"))).id == "b"
    assert provider.readings == 1
    other = ring_of(provider)
    found = await asyncio.gather(*(other.current() for _ in range(5)))
    assert len({id(key) for key in found}) == 1
    assert provider.readings == 2
    for one in (ring, other):
        await one.close()


@pytest.mark.spec("C11", "P10")
async def test_every_call_to_the_provider_has_a_limit() -> None:
    """It ends as the configured time-out says."""
    provider = Provider("a")
    ring = ring_of(provider, timeout=3.0)
    provider.seconds = 1000.0
    with pytest.raises(Timeout, match="the key provider gave no answer within 3 s"):
        await ring.start()
    assert now() == 3.0
    assert "can't be asked: the key provider gave no answer within 3 s" in await missing(ring, "a")
    assert now() == 6.0
    await ring.close()
    assert now() == 9.0


@pytest.mark.spec("C5", "P10")
async def test_a_provider_that_fails_is_not_asked_by_everybody() -> None:
    """Each is told at once why; after some seconds one asks again."""
    provider = Provider("a")
    ring = ring_of(provider, retry_miss=5.0)
    provider.failure = ConnectionFailed("no route")
    assert "the key provider can't be asked: no route" in await missing(ring, "a")
    with pytest.raises(KeyNotFound, match="no route") as caught:
        await ring.current()
    assert (caught.value.key_id, caught.value.transient) == ("(current)", True)
    await missing(ring, "b")
    assert provider.readings == 1
    await asyncio.sleep(5)
    with pytest.raises(KeyNotFound, match="no route") as caught:
        await ring.current()
    assert isinstance(caught.value.__cause__, ConnectionFailed)
    provider.failure = None
    await asyncio.sleep(5)
    assert (await ring.get(name("a"))).id == "a"
    await ring.close()


@pytest.mark.spec("C6", "P10")
@pytest.mark.parametrize(
    "failure", [ConfigurationError("no secret"), PermissionDenied("no"), ConnectionFailed("no")]
)
async def test_a_start_that_fails_says_why_and_may_be_tried_again(failure: QueueError) -> None:
    """As the provider says it."""
    provider = Provider("a")
    ring = ring_of(provider)
    provider.failure = failure
    with pytest.raises(type(failure)) as caught:
        await ring.start()
    assert caught.value is failure
    provider.failure = None
    await ring.start()
    assert (await ring.current()).id == "a"
    await ring.close()


@pytest.mark.spec("C4", "P10")
@pytest.mark.parametrize("call", ["start", "get_key"])
async def test_what_a_provider_raises_of_its_own_is_told_by_its_kind_alone(call: str) -> None:
    """Its text may quote a key; it is in no cause and no context either."""
    provider = Provider("a")
    provider.failure = ValueError("bad key: hunter2")
    ring = ring_of(provider)
    with pytest.raises(QueueError) as caught:
        await (ring.start() if call == "start" else ring._read())
    error: BaseException | None = caught.value
    assert isinstance(error, ProviderError)
    assert error.code == "ValueError"
    while error is not None:
        assert "hunter2" not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    provider.failure = None
    await ring.close()


@pytest.mark.spec("C5", "P10")
async def test_a_provider_that_contradicts_itself_is_not_believed() -> None:
    """The current key must be there, and be valid: else what is in hand is used on."""
    provider = Provider("a", "b")
    ring = ring_of(provider)
    await ring.start()
    for current in ("c", "a"):
        provider.current = current
        if current == "a":
            del provider.keys["a"]
        with pytest.raises(ProviderError, match=f"says that key '{current}' is current, and has"):
            await ring._read()
    provider.keys["a"] = material(0)
    provider.current = "listed"
    provider.listed = {"listed"}
    with pytest.raises(ProviderError, match="says that key 'listed' is current"):
        await ring._read()
    provider.current, provider.hidden = "b", {"b"}
    with pytest.raises(ProviderError, match="says that key 'b' is current"):
        await ring._read()
    assert (await ring.current()).id == "a"
    assert "the key provider can't be asked" in await missing(ring, "nowhere")
    await ring.close()


# --- freshness ------------------------------------------------------------------------------------


@pytest.mark.spec("C5", "C6")
async def test_a_rotation_is_seen_without_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """Distributed, made current, retired: each by the refresh after it, before the ttl ends."""
    provider = Provider("old")
    ring = ring_of(provider, ttl=300.0)
    await ring.start()
    caplog.set_level(logging.INFO)
    provider.keys["new"] = material(9)
    await asyncio.sleep(300)
    assert ring.cached(name("new")) is not None
    assert (await ring.current()).id == "old"
    provider.current = "new"
    await asyncio.sleep(300)
    assert (await ring.current()).id == "new"
    assert (await ring.get(name("old"))).id == "old"
    del provider.keys["old"]
    await asyncio.sleep(300)
    assert ring.cached(name("old")) is None
    assert [record.getMessage() for record in caplog.records] == [
        "bodies are sealed with key new",
        "encryption key old was retired",
    ]
    await missing(ring, "old")
    await ring.close()


@pytest.mark.spec("C6")
async def test_a_refresh_keeps_what_did_not_change() -> None:
    """The same object, so that its epoch and what it derived go on."""
    provider = Provider("a", "b")
    ring = ring_of(provider, ttl=10.0)
    await ring.start()
    keys = [await ring.get(name("a")), await ring.get(name("b"))]
    await asyncio.sleep(100)
    assert provider.readings > 10
    assert [await ring.get(name("a")), await ring.get(name("b"))] == keys
    assert await ring.current() is keys[0]
    assert not any(key.closed for key in keys)
    await ring.close()


@pytest.mark.spec("C6")
async def test_refreshes_come_before_the_ttl_ends_and_not_all_at_once() -> None:
    """At 0.72 to 0.8 of it, by chance; or as often as was asked for."""
    for settings, lowest, highest in (({"ttl": 100.0}, 72.0, 80.0), ({"refresh": 7.0}, 6.3, 7.0)):
        provider = Provider("a")
        ring = ring_of(provider, **settings)
        pauses = {ring._pause(0) for _ in range(100)}
        assert len(pauses) == 100
        assert lowest <= min(pauses) <= max(pauses) <= highest
        await ring.close()


@pytest.mark.spec("C6", "T3")
async def test_an_outage_with_a_warm_cache_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Keys serve far beyond their ttl, with a warning now and then; then all is as it was."""
    provider = Provider("a", "b")
    ring = ring_of(provider, ttl=300.0)
    await ring.start()
    caplog.set_level(logging.INFO)
    provider.failure = ConnectionFailed("no route")
    for _ in range(24):
        await asyncio.sleep(300)
        assert (await ring.current()).id == "a"
        assert (await ring.get(name("b"))).id == "b"
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert 10 <= len(told) <= 25
    assert "can't be refreshed: no route; the 2 in hand, " in told[0].getMessage()
    assert (told[0].__dict__["keys"], told[0].__dict__["error"]) == (2, "ConnectionFailed")
    assert provider.readings < 60
    provider.failure = None
    provider.current = "b"
    await asyncio.sleep(300)
    assert (await ring.current()).id == "b"
    assert [record.getMessage() for record in caplog.records[-2:]] == [
        "the key provider answers again",
        "bodies are sealed with key b",
    ]
    await ring.close()


@pytest.mark.spec("P10")
async def test_a_refresh_that_dies_is_an_error_in_the_log(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of our own, and who uses the ring is told; the keys stay as they are."""
    told: list[BaseException] = []
    ring = ring_of(Provider("a"), ttl=10.0, fatal=told.append)
    await ring.start()

    async def breaks() -> None:
        raise RuntimeError("a fault")

    monkeypatch.setattr(ring, "_read", breaks)
    await asyncio.sleep(20)
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "refreshing encryption keys ended: they stay as they are" in record.getMessage()
    assert record.exc_info is not None
    assert [str(error) for error in told] == ["a fault"]
    assert (await ring.current()).id == "a"
    await ring.close()
    alone = ring_of(Provider("a"), ttl=10.0)
    await alone.start()
    monkeypatch.setattr(alone, "_read", breaks)
    await asyncio.sleep(20)
    assert len(caplog.records) == 2
    await alone.close()


@pytest.mark.spec("C5", "P10")
async def test_another_key_under_an_id_that_is_taken_is_told_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It takes the place of the former one, current or not."""
    provider = Provider("a")
    ring = ring_of(provider, ttl=10.0)
    await ring.start()
    provider.keys["a"] = material(5)
    await asyncio.sleep(10)
    [record] = caplog.records
    assert (
        "encryption key a is another one now: what the former sealed opens no mor"
        in record.msg % (record.args)
    )
    assert (await ring.current()).matches(EncryptionKey("a", material(5)))
    assert await ring.get(name("a")) is await ring.current()
    (await ring.current()).close()  # by a fault of somebody's
    await asyncio.sleep(10)
    assert not (await ring.current()).closed
    await ring.close()


# --- bounds and endings ---------------------------------------------------------------------------


@pytest.mark.spec("C6", "C7")
async def test_so_many_keys_are_held_and_the_one_used_last_stays() -> None:
    """What had to leave is asked for by itself; the current one never leaves."""
    provider = Provider(*(f"k{number}" for number in range(6)))
    ring = ring_of(provider, most=3)
    await ring.start()
    assert list(ring._held._keys) == ["k0", "k5", "k4"]
    others = [key_id for key_id in provider.keys if key_id not in ring._held._keys]
    kept = next(key_id for key_id in ring._held._keys if key_id != "k0")
    before = provider.calls.copy()
    ring.cached(name(kept))
    assert (await ring.get(name(others[0]))).id == others[0]
    assert provider.calls - before == {"get_key": 1}
    assert set(ring._held._keys) == {"k0", kept, others[0]}
    for key_id in provider.keys:
        assert (await ring.get(name(key_id))).id == key_id
        assert len(ring._held._keys) == 3
    assert (await ring.current()).id == "k0"
    assert provider.readings == 1
    # A current key that isn't held makes room for itself.
    provider.current = others[1]
    ring._held._let_go(name(others[1]), now()) if others[1] in ring._held._keys else None
    await ring._read()
    assert (await ring.current()).id == others[1]
    assert len(ring._held._keys) == 3
    await ring.close()


@pytest.mark.spec("C6")
async def test_room_for_one_key_is_the_current_one_s() -> None:
    """Any other is had, and not held."""
    provider = Provider("a", "b")
    ring = ring_of(provider, most=1)
    await ring.start()
    for _ in range(2):
        assert (await ring.get(name("b"))).id == "b"
        assert list(ring._held._keys) == ["a"]
    await ring.close()


@pytest.mark.spec("C5", "P10")
async def test_a_valid_key_that_left_may_be_gone_or_out_of_reach_when_it_is_asked_for() -> None:
    """The first is `KeyNotFound` as the provider says it, the second says why."""
    provider = Provider("a", "b")
    ring = ring_of(provider, most=1)
    await ring.start()
    provider.failure = ConnectionFailed("no route")
    assert "can't be asked: no route" in await missing(ring, "b")
    calls = provider.calls.total()
    await missing(ring, "b")
    assert provider.calls.total() == calls
    await asyncio.sleep(5)
    provider.failure = None
    del provider.keys["b"]
    assert "has none of that id" in await missing(ring, "b")
    assert provider.calls.total() == calls + 1
    # One that comes while there is no room, found by a reading that began with its being missed.
    await asyncio.sleep(5)
    provider.keys["c"] = material(3)
    assert (await ring.get(name("c"))).id == "c"
    await ring.close()


@pytest.mark.spec("C7")
async def test_a_key_that_leaves_is_overwritten_when_nobody_uses_it() -> None:
    """At once by nobody's hold on it, and not under whoever seals or opens with it."""
    provider = Provider("a", "b")
    ring = ring_of(provider, ttl=10.0)
    await ring.start()
    held = await ring.get(name("b"))
    left = weakref.ref(held)
    buffer = held._material
    del provider.keys["b"]
    await asyncio.sleep(10)
    assert ring.cached(name("b")) is None
    held.for_opening(bytes(12))  # a column that runs goes on
    assert any(buffer)
    del held
    gc.collect()
    assert left() is None
    assert not any(buffer)
    await ring.close()


@pytest.mark.spec("C7")
async def test_a_key_that_somebody_keeps_is_overwritten_a_minute_later() -> None:
    """As one in the frames of an error that is kept."""
    provider = Provider("a", "b")
    ring = ring_of(provider, ttl=10.0)
    await ring.start()
    kept = await ring.get(name("b"))
    del provider.keys["b"]
    await asyncio.sleep(60)
    assert not kept.closed
    await asyncio.sleep(20)
    assert kept.closed
    assert not any(kept._material)
    assert len(ring._held._left) == 0
    await ring.close()


@pytest.mark.spec("C7")
async def test_a_reading_that_fails_leaves_no_key_behind() -> None:
    """What it had brought is overwritten, though the error's frames hold it."""
    provider = Provider("a", "b")
    ring = ring_of(provider)
    made: list[EncryptionKey] = []
    real = provider.get_key

    async def watched(key_id: str) -> EncryptionKey:
        made.append(await real(name(key_id)))
        return made[-1]

    provider.get_key = watched  # type: ignore[method-assign]
    provider.current, provider.listed = "c", {"c"}
    with pytest.raises(ProviderError):
        await ring.start()
    assert [key.closed for key in made] == [True, True]
    await ring.close()


@pytest.mark.spec("C7", "P10")
async def test_a_ring_that_closes_overwrites_everything() -> None:
    """Also what left and is still held by somebody; then it gives nothing any more."""
    provider = Provider("a", "b", "c")
    ring = ring_of(provider, ttl=100.0)
    await ring.start()
    keys = [await ring.get(name(key_id)) for key_id in ("a", "b", "c")]
    del provider.keys["c"]
    await asyncio.sleep(100)
    await ring.close()
    await ring.close()
    assert [key.closed for key in keys] == [True] * 3
    assert provider.calls["close"] == 1
    assert ring.cached(name("a")) is None
    for call in (ring.get(name("a")), ring.current(), ring.start()):
        with pytest.raises(Closed, match="the key ring was closed: make a new one"):
            await call
    calls = provider.calls.total()
    await asyncio.sleep(1000)
    assert provider.calls.total() == calls
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.spec("C7", "P10")
async def test_what_is_being_asked_for_when_the_ring_closes_is_overwritten_too() -> None:
    """A reading, a key alone, and a provider that can't be closed."""
    for most, key_id in ((64, "b"), (1, "b")):
        provider = Provider("a", "b")
        ring = ring_of(provider, most=most)
        made: list[EncryptionKey] = []
        if most == 1:
            await ring.start()
        real = provider.get_key

        async def watched(
            key_id: str, real=real, made: list[EncryptionKey] = made
        ) -> EncryptionKey:
            made.append(await real(name(key_id)))
            return made[-1]

        provider.get_key = watched  # type: ignore[method-assign]
        provider.seconds = 1.0
        asking = asyncio.create_task(ring.get(name(key_id)))
        await asyncio.sleep(0.5)
        await ring.close()
        with pytest.raises(Closed):
            await asking
        assert made
        assert all(key.closed for key in made)


@pytest.mark.spec("P10")
async def test_a_provider_that_can_t_be_closed_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """And stops nobody from closing."""
    provider = Provider("a")
    ring = ring_of(provider)
    provider.failure = ConnectionFailed("gone")
    await ring.close()
    assert "closing the key provider failed: gone" in caplog.text
