"""Sealing and opening, one body and columns: what opens, and what does not."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pipeline.clock import SeededClock
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.envelope import MARKER, EncryptedMessage, binding, overhead
from pipeline.errors import (
    BodyAuthenticationFailed,
    Closed,
    CryptoError,
    EncryptionFailed,
    InvalidEnvelope,
    KeyNotFound,
    QueueError,
    UnsupportedVersion,
    ValidationError,
)
from tests.unit.crypto.rig import NOW, Ring, a_key, binary, bound_to, crypto, done

BOUND = binding("order-1", "N14228")
Open = Callable[[bytes, bytes], "bytes | QueueError"]


def open_single(body: bytes, bound: bytes) -> bytes | QueueError:
    """Open one body by itself."""
    try:
        return done(crypto().decrypt(EncryptedMessage.decode(body), bound))
    except QueueError as error:
        return error


def open_in_loop(body: bytes, bound: bytes) -> bytes | QueueError:
    """Open one body in a column of its own."""
    return in_column([body], [bound])


def open_in_column(body: bytes, bound: bytes) -> bytes | QueueError:
    """Open one body in the middle of a long column, whose other rows all open."""
    own = binding("other", None)
    other = done(crypto().encrypt(None, b"another", own)).encode()
    return in_column([other] * 40 + [body] + [other] * 40, [own] * 40 + [bound] + [own] * 40)


def in_column(bodies: list[bytes], bound: list[bytes]) -> bytes | QueueError:
    opened = done(crypto().decrypt_column(binary(bodies), bound))
    middle = len(bodies) // 2
    rows = opened.bodies.to_pylist()
    assert set(opened.errors) <= {middle}
    assert rows[:middle] + rows[middle + 1 :] == [b"another"] * (len(rows) - 1)
    error = opened.errors.get(middle)
    if error is not None:
        assert rows[middle] == bodies[middle], "it is as it came"
        assert opened.nonces[middle].as_py() == b""
        assert opened.encrypted_at[middle] == 0
    assert not opened.plain[middle] or rows[middle] == bodies[middle]
    return error or rows[middle]


ways = pytest.mark.parametrize("opens", [open_single, open_in_loop, open_in_column])


def sealed(plaintext: bytes = b"hello", bound: bytes = BOUND, **options: Any) -> bytes:
    """A body sealed by itself."""
    return done(crypto(**options).encrypt(None, plaintext, bound)).encode()


# --- what opens -----------------------------------------------------------------------------------

GOLDEN = [
    (
        ("2026-11", bytes(range(100, 112)), bytes(range(200, 212)), 1_700_000_000),
        ("order-1", "N14228", b'{"delay": 12}'),
        "515245310107323032362d31316465666768696a6b6c6d6e6fc8c9cacbcccdcecfd0d1d2d3369330bdb25727a7cb"
        "784a8dd2b8daad277131861b2cbcf7c3c107732a000000006553f100",
    ),
    (
        ("k", bytes(12), b"\xff" * 12, -1),
        ("order-2", None, b""),
        "5152453101016b000000000000000000000000fffffffffffffffffffffffff7f3c88d202bfa2138d98d4709573e"
        "94ffffffffffffffff",
    ),
    (
        ("schlüssel", b"A" * 12, b"B" * 12, 2**40),
        ("idé", "s", bytes(range(40))),
        "51524531010a7363686cc3bc7373656c414141414141414141414141424242424242424242424242cf6c6db1d060"
        "8f6eaf959a19106bbdd2523f156b9fc515fe0f04680a932181d8cff3aa5f47eb7282d10ac21be50c402fe2809a20"
        "eb13aefa0000010000000000",
    ),
]
"""Made by another program, of CMAC and GCM alone: what is in queues must open for ever."""


@pytest.mark.spec("C3", "C4", "T1")
@pytest.mark.parametrize(("parts", "message", "golden"), GOLDEN)
@pytest.mark.parametrize("many", [1, 100])
def test_golden_envelopes(
    parts: tuple[str, bytes, bytes, int],
    message: tuple[str, str | None, bytes],
    golden: str,
    many: int,
) -> None:
    """Frozen bodies are what is sealed with their salt, nonce and time, and they open."""
    key_id, salt, nonce, at = parts
    id_, session, body = message
    key = a_key(key_id, random=lambda size: salt)
    key._material[:] = bytes(range(32))
    aes = AesGcm(Ring(key), SeededClock(lambda: 0.0), random=lambda size: nonce * (size // 12))
    bound = binding(id_, session)
    assert done(aes.encrypt(None, body, bound, at)).encode().hex() == golden
    assert done(aes.decrypt(EncryptedMessage.decode(bytes.fromhex(golden)), bound)) == body
    column = done(aes.encrypt_column(None, binary([body] * many), [bound] * many, at))
    assert [one.hex() for one in column.bodies.to_pylist()] == [golden] * many
    opened = done(aes.decrypt_column(column.bodies, [bound] * many))
    assert opened.bodies.to_pylist() == [body] * many
    assert opened.nonces.to_pylist() == [salt + nonce] * many
    assert opened.encrypted_at.tolist() == [at] * many


@pytest.mark.spec("C2")
@ways
@pytest.mark.parametrize("body", [b"", b"x", b"hello" * 1000, bytes(256)])
def test_what_was_sealed_opens(opens: Open, body: bytes) -> None:
    """To the same bytes, however it is opened."""
    assert opens(sealed(body), BOUND) == body


@pytest.mark.spec("C2")
def test_a_sealed_body_shows_nothing_of_the_plain_one() -> None:
    """And two sealed from one differ: each has a nonce of its own."""
    body = b"attack at dawn" * 3
    aes = crypto()
    bodies = [done(aes.encrypt(None, body, BOUND)).encode() for _ in range(50)]
    bodies += done(aes.encrypt_column(None, binary([body] * 100), [BOUND] * 100)).bodies.to_pylist()
    assert len(set(bodies)) == 150
    assert not any(body[:8] in one for one in bodies)
    assert len({EncryptedMessage.decode(one).nonce for one in bodies}) == 150


@pytest.mark.spec("C2", "C10")
def test_the_time_and_the_salt_are_taken_once() -> None:
    """A column has one time, its clock's, cut to seconds; and one salt as a rule."""
    aes = crypto(now=lambda: 12.9)
    column = done(aes.encrypt_column(None, binary([b"x"] * 100), [BOUND] * 100))
    messages = [EncryptedMessage.decode(body) for body in column.bodies.to_pylist()]
    assert {message.encrypted_at for message in messages} == {NOW + 12}
    assert len({message.nonce[:12] for message in messages}) == 1
    assert done(aes.encrypt(None, b"x", BOUND)).encrypted_at == NOW + 12


@pytest.mark.spec("C5", "C11")
def test_a_key_may_be_named() -> None:
    """Or the current one is taken."""
    aes = crypto(a_key("a", 1), a_key("b", 2))
    assert done(aes.encrypt(None, b"x", BOUND)).key_id == "a"
    assert done(aes.encrypt("b", b"x", BOUND)).key_id == "b"
    column = done(aes.encrypt_column("b", binary([b"x"]), [BOUND]))
    assert EncryptedMessage.decode(column.bodies[0].as_py()).key_id == "b"
    with pytest.raises(KeyNotFound, match="'c'"):
        done(aes.encrypt("c", b"x", BOUND))
    with pytest.raises(ValidationError, match="EncryptionKeyId"):
        done(aes.encrypt("", b"x", BOUND))


# --- what does not --------------------------------------------------------------------------------


@pytest.mark.spec("C2", "C3", "C4")
@ways
@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_byte_is_guarded(opens: Open, flip: int) -> None:
    """A body with any byte changed does not open, and each byte's error is the right one."""
    body = sealed()
    for at in range(len(body)):
        changed = bytearray(body)
        changed[at] ^= flip
        answer = opens(bytes(changed), BOUND)
        if at < 4 and opens is not open_single:
            assert answer == changed, "without the marker it is plain"
        elif at < 4:
            assert type(answer) is InvalidEnvelope
        elif at == 4:
            assert type(answer) is UnsupportedVersion
        elif at < 13:  # the key id and its length: another id, or none
            assert type(answer) in (KeyNotFound, InvalidEnvelope)
        else:
            assert type(answer) is BodyAuthenticationFailed, at


@pytest.mark.spec("C2", "C3")
@ways
def test_cut_and_lengthened_bodies_do_not_open(opens: Open) -> None:
    """At any length, at either end."""
    body = sealed()
    for size in range(4, len(body)):
        answer = opens(body[:size], BOUND)
        assert isinstance(answer, CryptoError), size
        assert (type(answer) is InvalidEnvelope) is (size < overhead("2026-11"))
    for longer in (body + b"\0", body[:40] + b"\0" + body[40:]):
        assert type(opens(longer, BOUND)) is BodyAuthenticationFailed


@pytest.mark.spec("C4")
@ways
@pytest.mark.parametrize(
    "bound",
    [
        binding("order-2", "N14228"),
        binding("order-1", "N14229"),
        binding("order-1", None),
        binding("order-1", ""),
        binding("order-", "1N14228"),
        b"",
    ],
)
def test_a_body_opens_in_its_own_message_only(opens: Open, bound: bytes) -> None:
    """Under another id, in another session or in none it does not."""
    assert type(opens(sealed(), bound)) is BodyAuthenticationFailed


@pytest.mark.spec("C4")
@ways
def test_a_body_without_session_opens_in_none(opens: Open) -> None:
    """Which is not the same as in any."""
    body = sealed(bound=binding("m", None))
    assert opens(body, binding("m", None)) == b"hello"
    for session in ("s", "", "\0"):
        assert type(opens(body, binding("m", session))) is BodyAuthenticationFailed


@pytest.mark.spec("C4", "C5")
def test_a_body_opens_with_its_own_key_only() -> None:
    """Neither with another key of that id, nor under another id of the same key."""
    body = sealed()
    message = EncryptedMessage.decode(body)
    with pytest.raises(BodyAuthenticationFailed, match="'2026-11'"):
        done(crypto(a_key(fill=2)).decrypt(message, BOUND))
    renamed = crypto(a_key("2026-12"))
    moved = EncryptedMessage.decode(body.replace(b"2026-11", b"2026-12"))
    with pytest.raises(BodyAuthenticationFailed, match="'2026-12'"):
        done(renamed.decrypt(moved, BOUND))
    for rows in (1, 100):
        bodies = binary([moved.encode()] * rows)
        opened = done(renamed.decrypt_column(bodies, [BOUND] * rows))
        assert {type(error) for error in opened.errors.values()} == {BodyAuthenticationFailed}
        assert opened.bodies.equals(bodies)


@pytest.mark.spec("C4")
@pytest.mark.parametrize("rows", [2, 100])
def test_swapped_bodies_do_not_open(rows: int) -> None:
    """Each is the next message's; those of an unswapped column all open."""
    bound = bound_to([f"m{at}" for at in range(rows)], ["s"] * rows)
    plain = [b"%d" % at for at in range(rows)]
    aes = crypto()
    bodies = done(aes.encrypt_column(None, binary(plain), bound)).bodies.to_pylist()
    assert done(aes.decrypt_column(binary(bodies), bound)).bodies.to_pylist() == plain
    swapped = done(aes.decrypt_column(binary(bodies[1:] + bodies[:1]), bound))
    assert [type(error) for error in swapped.errors.values()] == [BodyAuthenticationFailed] * rows
    assert swapped.bodies.to_pylist() == bodies[1:] + bodies[:1]


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.spec("C5", "C11")
@pytest.mark.parametrize("rows", [3, 99])
async def test_keys_are_asked_for_once_a_column(rows: int) -> None:
    """Each id once, those in hand not at all; rows whose key can't be had stop no others."""
    aes = crypto(a_key("a", 1), a_key("b", 2), a_key("c", 3))
    bodies = [(await aes.encrypt("abc"[at % 3], b"%d" % at, BOUND)).encode() for at in range(rows)]
    for in_hand, asked in ((True, ["b"]), (False, ["a", "b", "c"])):
        ring = Ring(a_key("a", 1), a_key("c", 3), in_hand=in_hand)
        opener = AesGcm(ring, SeededClock(lambda: 0.0))
        opened = await opener.decrypt_column(binary(bodies), [BOUND] * rows)
        assert sorted(ring.asked) == asked
        assert sorted(opened.errors) == list(range(1, rows, 3))
        for at, body in enumerate(opened.bodies.to_pylist()):
            assert body == (bodies[at] if at % 3 == 1 else b"%d" % at)
        for error in opened.errors.values():
            assert isinstance(error, KeyNotFound)
            assert (error.key_id, error.transient) == ("b", True)


@pytest.mark.spec("C5")
async def test_one_body_asks_for_its_key() -> None:
    """And has KeyNotFound where there is none."""
    message = await crypto().encrypt(None, b"x", BOUND)
    ring = Ring(a_key(), in_hand=False)
    assert await AesGcm(ring, SeededClock(lambda: 0.0)).decrypt(message, BOUND) == b"x"
    assert ring.asked == ["2026-11"]
    with pytest.raises(KeyNotFound, match="'2026-11'"):
        await AesGcm(Ring(a_key("other")), SeededClock(lambda: 0.0)).decrypt(message, BOUND)


@pytest.mark.spec("C5", "C7")
@pytest.mark.parametrize("rows", [3, 99])
def test_a_key_that_was_closed_is_one_that_is_not_there(rows: int) -> None:
    """A row whose key was retired meanwhile is held, as one whose key never came."""
    gone, stays = a_key("a", 1), a_key("b", 2)
    aes = crypto(gone, stays)
    bodies = [done(aes.encrypt("ab"[at % 2], b"x", BOUND)).encode() for at in range(rows)]
    gone.close()
    opened = done(aes.decrypt_column(binary(bodies), [BOUND] * rows))
    assert sorted(opened.errors) == list(range(0, rows, 2))
    assert {type(error) for error in opened.errors.values()} == {KeyNotFound}
    with pytest.raises(KeyNotFound, match="closed"):
        done(aes.encrypt("a", b"x", BOUND))
    with pytest.raises(KeyNotFound, match="closed"):
        done(aes.encrypt_column("a", binary([b"x"] * rows), [BOUND] * rows))


@pytest.mark.spec("C11")
async def test_a_ring_that_was_closed_is_told() -> None:
    """It is no row's error: nothing will open any more."""

    class ClosedRing(Ring):
        async def get(self, key_id: str) -> Any:
            raise Closed("the key ring was closed")

    aes = AesGcm(ClosedRing(in_hand=False), SeededClock(lambda: 0.0))
    with pytest.raises(Closed):
        await aes.decrypt_column(binary([sealed()]), [BOUND])


# --- what can't be sealed -------------------------------------------------------------------------


@pytest.mark.spec("C2", "C4")
@pytest.mark.parametrize("rows", [0, 1, 100])
def test_what_fails_unexpectedly_is_told_without_its_text(rows: int) -> None:
    """Which might quote the body; nothing below the error has it either."""

    def failing(size: int) -> bytes:
        raise OSError("planted plaintext")

    aes = AesGcm(Ring(), SeededClock(lambda: 0.0), random=failing)
    call: Any = aes.encrypt(None, b"x", BOUND)
    if rows:
        call.close()
        call = aes.encrypt_column(None, binary([b"x"] * rows), [BOUND] * rows)
    with pytest.raises(EncryptionFailed, match=r"could not be sealed \(OSError\)") as caught:
        done(call)
    assert caught.value.causes == ()


@pytest.mark.spec("C11")
def test_a_message_can_be_sealed_with_a_time_of_its_own() -> None:
    """Alone, and each row of a column."""
    aes = crypto()
    assert done(aes.encrypt(None, b"x", BOUND, 7)).encrypted_at == 7
    for rows in (3, 100):
        times = np.arange(rows) - 1
        column = done(aes.encrypt_column(None, binary([b"x"] * rows), [BOUND] * rows, times))
        opened = done(aes.decrypt_column(column.bodies, [BOUND] * rows))
        assert opened.encrypted_at.tolist() == times.tolist()
        assert not opened.errors


@pytest.mark.spec("C11")
def test_a_binding_for_each_body() -> None:
    """Neither more nor fewer."""
    aes = crypto()
    for call in (
        aes.encrypt_column(None, binary([b"x"]), []),
        aes.decrypt_column(binary([]), [b""]),
    ):
        with pytest.raises(ValidationError, match="one for each of"):
            done(call)


@pytest.mark.spec("C2")
def test_chance_is_the_operating_systems() -> None:
    """Unless a test gives another."""
    assert AesGcm(Ring(), SeededClock(lambda: 0.0))._random is os.urandom


@pytest.mark.spec("C3", "C9")
def test_a_body_that_begins_with_the_marker_is_not_sealed() -> None:
    """As in a column: a reader without the key would take it for sealed."""
    with pytest.raises(ValidationError, match=r"Message\.body must not begin with QRE1"):
        done(crypto().encrypt(None, MARKER + b" and more", binding("m", None)))
