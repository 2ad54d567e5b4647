"""Keys: epochs, the ciphers that are kept, and that the bytes go nowhere."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.crypto import key as key_module
from pipeline.crypto.key import EncryptionKey, EpochLimits
from pipeline.crypto.keys.memory import MemoryKeyProvider
from pipeline.crypto.material import KeyBytes, outlives_its_buffer, wipes_at_once
from pipeline.errors import KeyNotFound, ValidationError
from tests.unit.crypto.rig import a_key, chance

SECRET = bytes(range(100, 132))


class World:
    """The time and the process that a key sees."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pid = 7

    def key(self, **limits: Any) -> EncryptionKey:
        return a_key(
            limits=EpochLimits(**limits) if limits else None,
            monotonic=lambda: self.now,
            process=lambda: self.pid,
        )


# --- epochs ---------------------------------------------------------------------------------------


@pytest.mark.spec("C2", "C10")
def test_the_limits_are_those_that_make_random_nonces_safe() -> None:
    """2^20 messages, 64 GiB, 10 minutes."""
    assert EpochLimits() == EpochLimits(2**20, 64 * 2**30, 600.0)


@pytest.mark.spec("C2", "C10")
def test_a_salt_serves_as_many_messages_as_it_may() -> None:
    """The last one that fits has it still, the next one has another, which serves as many."""
    key = World().key()
    first = key.for_sealing(2**20 - 1, 0)[0]
    assert key.for_sealing(1, 0)[0] == first
    second = key.for_sealing(1, 0)[0]
    assert second != first
    assert key.for_sealing(2**20 - 1, 0)[0] == second
    assert key.for_sealing(1, 0)[0] not in (first, second)


@pytest.mark.spec("C2", "C10")
def test_a_salt_serves_as_many_bytes_as_it_may() -> None:
    """64 GiB, not one more."""
    key = World().key()
    first = key.for_sealing(1, 2**36 - 10)[0]
    assert key.for_sealing(1, 10)[0] == first
    second = key.for_sealing(1, 1)[0]
    assert second != first
    assert key.for_sealing(1, 2**36 - 1)[0] == second
    assert key.for_sealing(1, 1)[0] != second


@pytest.mark.spec("C10")
@pytest.mark.parametrize(
    "limits", [{"messages": 0}, {"messages": 2**33}, {"size": 0}, {"seconds": -1}]
)
def test_an_epoch_has_limits_that_are_safe(limits: dict[str, Any]) -> None:
    """Beyond 2^32 messages random nonces may come twice."""
    with pytest.raises(ValidationError, match=f"EpochLimits.{next(iter(limits))} must be over 0"):
        EpochLimits(**limits)


@pytest.mark.spec("C7")
@pytest.mark.parametrize("material", [32, [1] * 32, "x" * 32, None])
def test_a_key_is_made_of_bytes(material: Any) -> None:
    """A number would be so many zeros: a key that everybody has."""
    with pytest.raises(ValidationError, match="encryption key 'a' must be 32 bytes; got 'a value"):
        EncryptionKey("a", material)
    with pytest.raises(ValidationError, match="must be 32 bytes"):
        MemoryKeyProvider({"a": material}, current="a")


def test_a_key_without_an_id_can_be_shown() -> None:
    """In the traceback that tells what is wrong with its id."""
    assert repr(EncryptionKey.__new__(EncryptionKey)) == "EncryptionKey('')"


@pytest.mark.spec("C2", "C10")
def test_a_salt_serves_ten_minutes() -> None:
    """From when it was drawn, however often it is used."""
    world = World()
    key = world.key()
    first = key.for_sealing(1, 0)[0]
    world.now += 599.9
    assert key.for_sealing(1, 0)[0] == first
    world.now += 0.1
    second = key.for_sealing(1, 0)[0]
    assert second != first
    world.now += 599.9
    assert key.for_sealing(1, 0)[0] == second


@pytest.mark.spec("C2", "C10")
def test_a_fork_begins_an_epoch() -> None:
    """Both sides would draw their nonces under one salt."""
    world = World()
    key = world.key()
    parent = key.for_sealing(1, 0)[0]
    world.pid = 8
    child = key.for_sealing(1, 0)[0]
    assert child != parent
    assert key.for_sealing(1, 0)[0] == child


@pytest.mark.spec("C2", "C10")
def test_a_start_begins_an_epoch() -> None:
    """Two objects of one key, as two processes have them, don't share a salt."""
    one, other = (EncryptionKey("k", SECRET) for _ in range(2))
    assert one.for_sealing(1, 0)[0] != other.for_sealing(1, 0)[0]


@pytest.mark.spec("C10")
@pytest.mark.parametrize(("messages", "size"), [(4, 0), (1, 101)])
def test_what_is_over_an_epoch_is_refused(messages: int, size: int) -> None:
    """Rather than sealed under a salt that has served too long; nothing is counted for it."""
    key = World().key(messages=3, size=100)
    with pytest.raises(ValidationError, match=f"3 messages and 100 bytes.*{messages} and {size}"):
        key.for_sealing(messages, size)
    first = key.for_sealing(3, 100)[0]
    assert key.for_sealing(1, 0)[0] != first


@pytest.mark.spec("C2")
def test_what_an_epoch_seals_opens_by_its_salt() -> None:
    """Both ciphers are of one derived key, another salt's is not."""
    key = a_key()
    salt, sealing = key.for_sealing(1, 5)
    sealed = sealing.encrypt(bytes(12), b"hello", None)
    assert key.for_opening(salt).decrypt(bytes(12), sealed, None) == b"hello"
    assert key.for_opening(bytes(12)).encrypt(bytes(12), b"hello", None) != sealed


@pytest.mark.spec("C2")
def test_ciphers_to_open_with_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that was used longest ago goes first, and is derived again when it is needed."""
    derived: list[bytes] = []
    real = key_module._derived

    def counted(material: KeyBytes, salt: bytes) -> AESGCM:
        derived.append(salt)
        return real(material, salt)

    monkeypatch.setattr(key_module, "_derived", counted)
    key = a_key(ciphers=2)
    a, b, c = (bytes([fill]) * 12 for fill in (1, 2, 3))
    for salt in (a, b, a, c, a, b):
        key.for_opening(salt)
    assert derived == [a, b, c, b]


# --- hygiene --------------------------------------------------------------------------------------


@pytest.mark.spec("C7")
@pytest.mark.parametrize("shown", [repr, str, format, lambda key: f"{key!r:>40}", "{!s}".format])
def test_a_key_shows_its_id_alone(shown: Callable[[object], str]) -> None:
    """In every form of text."""
    text = shown(EncryptionKey("2026-11", SECRET))
    assert text.strip() == "EncryptionKey('2026-11')"


@pytest.mark.spec("C7")
@pytest.mark.parametrize(
    "made", [lambda: EncryptionKey("2026-11", SECRET), lambda: KeyBytes(SECRET)]
)
@pytest.mark.parametrize(
    "copied",
    [
        *(lambda it, protocol=protocol: pickle.dumps(it, protocol) for protocol in range(6)),
        copy.copy,
        copy.deepcopy,
        lambda it: copy.deepcopy([it]),
        lambda it: pickle.dumps({"key": it}),
        lambda it: it.__reduce__(),
        lambda it: it.__getstate__(),
    ],
)
def test_a_key_is_not_copied(
    made: Callable[[], object], copied: Callable[[object], object]
) -> None:
    """Neither by itself nor inside of something; the error says what to do and shows nothing."""
    with pytest.raises(TypeError, match="neither pickled nor copied") as caught:
        copied(made())
    assert not shows_secret(str(caught.value))


@pytest.mark.spec("C7")
def test_key_bytes_are_hidden_and_wiped() -> None:
    """Their text shows their number; wiping is in place, for every view of them."""
    buffer = KeyBytes(SECRET)
    view = memoryview(buffer)
    for text in (repr(buffer), str(buffer), f"{buffer}", f"{buffer:>3}", f"{[buffer]}"):
        assert "KeyBytes(32 bytes, hidden)" in text
    with pytest.raises(TypeError):
        buffer.copy()
    buffer.wipe()
    assert bytes(view) == bytes(32)
    buffer.wipe()


@pytest.mark.spec("C7")
def test_key_bytes_are_wiped_when_they_go() -> None:
    """Nobody has to remember it."""
    wiped: list[int] = []

    class Watched(KeyBytes):
        def wipe(self) -> None:
            wiped.append(len(self))
            super().wipe()

    Watched(SECRET)
    gc.collect()
    assert wiped == [32]


@pytest.mark.spec("C7")
def test_the_material_is_copied() -> None:
    """Whoever made it may overwrite theirs at once; and ours is not theirs."""
    given = bytearray(SECRET)
    key = EncryptionKey("k", given)
    before = key.for_opening(bytes(12)).encrypt(bytes(12), b"x", None)
    given[:] = bytes(32)
    assert EncryptionKey("k", SECRET).matches(key)
    assert key.for_opening(b"1" * 12).encrypt(bytes(12), b"x", None) != before
    assert EncryptionKey("k", memoryview(SECRET)).matches(key)
    held = KeyBytes(SECRET)
    assert EncryptionKey("k", held)._material is not held


@pytest.mark.spec("C7")
def test_a_closed_key_is_wiped_and_refuses() -> None:
    """Its bytes are zeros, its ciphers are gone, and the error says which key and why."""
    key = EncryptionKey("2026-11", SECRET)
    material, ciphers = key._material, key._ciphers
    key.for_opening(bytes(12))
    key.for_sealing(1, 1)
    assert not key.closed
    key.close()
    key.close()
    assert key.closed
    assert bytes(material) == bytes(32)
    assert not ciphers
    assert key._epoch is None
    uses: list[Callable[[], object]] = [
        lambda: key.for_opening(bytes(12)),
        lambda: key.for_sealing(1, 1),
        lambda: key.matches(EncryptionKey("k", SECRET)),
        lambda: EncryptionKey("k", SECRET).matches(key),
    ]
    for use in uses:
        with pytest.raises(KeyNotFound, match=r"'2026-11'.*closed"):
            use()


@pytest.mark.spec("C7")
def test_a_key_that_goes_is_wiped() -> None:
    """With the last reference to it, though somebody has its buffer."""
    key = EncryptionKey("k", SECRET)
    material, ciphers, gone = key._material, key._ciphers, weakref.ref(key)
    key.for_opening(bytes(12))
    del key
    gc.collect()
    assert gone() is None
    assert bytes(material) == bytes(32)
    assert not ciphers


@pytest.mark.spec("C5", "C7")
def test_closing_breaks_nothing_that_runs() -> None:
    """A cipher that a column has in hand seals and opens on as before."""
    key = a_key()
    salt, sealing = key.for_sealing(1, 1)
    opening = key.for_opening(salt)
    before = sealing.encrypt(bytes(12), b"x", None)
    key.close()
    assert sealing.encrypt(bytes(12), b"x", None) == before
    assert opening.decrypt(bytes(12), before, None) == b"x"


@pytest.mark.spec("C7")
def test_keys_match_by_id_and_bytes() -> None:
    """A ring asks it about a key that it read again."""
    key = EncryptionKey("k", SECRET)
    assert key.matches(EncryptionKey("k", SECRET))
    assert not key.matches(EncryptionKey("l", SECRET))
    assert not key.matches(EncryptionKey("k", SECRET[::-1]))


@pytest.mark.spec("C7", "M1")
@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_has_32_bytes(size: int) -> None:
    """Another length is refused; the error names key and length, and no bytes."""
    with pytest.raises(ValidationError, match=f"'2026-11' must have 32 bytes.*{size} bytes") as got:
        EncryptionKey("2026-11", (SECRET * 2)[:size])
    assert not shows_secret(str(got.value))


@pytest.mark.spec("M1")
def test_a_key_has_an_id() -> None:
    """One that an envelope can hold."""
    with pytest.raises(ValidationError, match="EncryptionKeyId"):
        EncryptionKey("", SECRET)


# --- an OpenSSL that reads the buffer at each call ------------------------------------------------


class Rereads:
    """As AESGCM is with an OpenSSL below 3.2."""

    def __init__(self, key: bytearray) -> None:
        self._key = key

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return AESGCM(bytes(self._key)).encrypt(nonce, data, associated_data)


@pytest.mark.spec("C7")
def test_whether_a_buffer_may_be_wiped_is_found_out() -> None:
    """A wiped buffer would be a key of zeros where the library reads it at each call."""
    assert outlives_its_buffer(AESGCM)
    assert not outlives_its_buffer(Rereads)
    assert wipes_at_once()


@pytest.mark.spec("C7")
@pytest.mark.parametrize("at_once", [True, False])
def test_a_derived_key_is_wiped_as_soon_as_it_may(
    at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, or with the cipher that reads it."""
    buffers: list[memoryview] = []

    class Watched(Rereads):
        def __init__(self, key: bytearray) -> None:
            super().__init__(key)
            buffers.append(memoryview(key))

    monkeypatch.setattr(key_module, "AESGCM", Watched)
    monkeypatch.setattr(key_module, "wipes_at_once", lambda: at_once)
    key = a_key(random=chance())
    salt, cipher = key.for_sealing(1, 1)
    assert any(buffers[0]) is not at_once
    if not at_once:
        monkeypatch.undo()
        right = a_key().for_opening(salt).encrypt(bytes(12), b"x", None)
        assert cipher.encrypt(bytes(12), b"x", None) == right


def shows_secret(text: str) -> bool:
    """Whether a text has bytes of the key, in one of the forms that text gives to bytes."""
    return any(form in text for form in (repr(SECRET[:4])[2:-1], SECRET[:4].hex(), "100, 101"))


def test_the_scan_finds() -> None:
    """The control: what shows the bytes is found."""
    for shown in (repr(SECRET), repr(bytearray(SECRET)), SECRET.hex(), repr(list(SECRET))):
        assert shows_secret(shown)
