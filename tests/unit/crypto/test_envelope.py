"""The form of a sealed body: bytes alone, without keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.envelope import (
    MARKER,
    EncryptedMessage,
    associated_data,
    binding,
    is_sealed,
    overhead,
)
from pipeline.errors import CryptoError, InvalidEnvelope, UnsupportedVersion, ValidationError
from pipeline.names import EncryptionKeyId

KEY = EncryptionKeyId("2026-11")
NONCE = bytes(range(24))
TAG = bytes(range(100, 116))
MESSAGE = EncryptedMessage(KEY, NONCE, b"ciphertext", TAG, 1_700_000_000)

key_ids = st.text(min_size=1, max_size=128).filter(
    lambda text: text.isprintable() and len(text.encode(errors="replace")) < 256
)
messages = st.builds(
    EncryptedMessage,
    key_ids.map(EncryptionKeyId),
    st.binary(min_size=24, max_size=24),
    st.binary(max_size=300),
    st.binary(min_size=16, max_size=16),
    st.integers(-(2**63), 2**63 - 1),
)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@pytest.mark.spec("C3")
def test_every_byte_is_where_the_form_says() -> None:
    """Marker, version, length and key id, salt and nonce, ciphertext, tag, time."""
    body = MESSAGE.encode()
    assert body[0:4] == b"QRE1" == MARKER
    assert body[4:6] == bytes([1, 7])
    assert body[6:13] == b"2026-11"
    assert body[13:37] == NONCE
    assert body[37:47] == b"ciphertext"
    assert body[47:63] == TAG
    assert body[63:] == (1_700_000_000).to_bytes(8, "big")
    assert len(body) == 10 + 54 + 7 == 10 + overhead(KEY)


@pytest.mark.spec("C3")
@given(messages)
def test_what_is_written_is_read(message: EncryptedMessage) -> None:
    """Whatever its parts are."""
    body = message.encode()
    assert is_sealed(body)
    assert EncryptedMessage.decode(body) == message
    assert len(body) == len(message.ciphertext) + overhead(message.key_id)


@pytest.mark.spec("C3")
@given(st.binary(max_size=120) | st.binary(max_size=120).map(lambda end: b"QRE1\1" + end))
def test_what_is_read_is_written(body: bytes) -> None:
    """Any bytes are refused as what they are, or come back the same: one body has one form."""
    try:
        message = EncryptedMessage.decode(body)
    except CryptoError as error:
        assert type(error) in (InvalidEnvelope, UnsupportedVersion)  # noqa: PT017
    else:
        assert message.encode() == body


@pytest.mark.spec("C3")
def test_a_body_that_was_cut_is_refused() -> None:
    """At any length below the shortest; the error says both."""
    body = EncryptedMessage(KEY, NONCE, b"", TAG, 1).encode()
    assert EncryptedMessage.decode(body).ciphertext == b""
    for size in range(len(MARKER), len(body)):
        with pytest.raises(InvalidEnvelope, match=f"has {size} bytes where it needs"):
            EncryptedMessage.decode(body[:size])
    for size in range(len(MARKER)):
        with pytest.raises(InvalidEnvelope, match="doesn't begin with the marker"):
            EncryptedMessage.decode(body[:size])


@pytest.mark.spec("C3")
def test_a_key_id_has_1_to_255_bytes() -> None:
    """All that the form has room for; bytes of any kind are read."""
    for name in ("k", "k" * 255, "ü" * 127):
        message = EncryptedMessage(EncryptionKeyId(name), bytes(24), b"x", bytes(16), 1)
        for kind in (bytes, bytearray, memoryview):
            assert EncryptedMessage.decode(kind(message.encode())) == message
    for name in ("", "k" * 256, "ü" * 128):
        with pytest.raises(InvalidEnvelope, match="1 to 255 bytes"):
            EncryptedMessage(EncryptionKeyId.trusted(name), bytes(24), b"x", bytes(16), 1)


@pytest.mark.spec("C3")
def test_another_version_is_refused() -> None:
    """By its number, even when nothing else of the body can be read."""
    for version in (0, 2, 255):
        for rest in (b"", b"\7", MESSAGE.encode()[5:]):
            with pytest.raises(UnsupportedVersion, match=f"version {version}") as caught:
                EncryptedMessage.decode(MARKER + bytes([version]) + rest)
            assert caught.value.version == version


@pytest.mark.spec("C3")
@pytest.mark.parametrize(
    "name", [b"", b"\xff\xfe", b"\xed\xa0\x80", b"a\0b", b"\n", b"x" * 254 + b"\0", b"\xc0\x80"]
)
def test_what_is_no_key_id_is_refused(name: bytes) -> None:
    """Not UTF-8, not printable, or too long: an InvalidEnvelope, and nothing about decoding."""
    body = MARKER + bytes([1, len(name)]) + name + bytes(60)
    with pytest.raises(InvalidEnvelope, match=r"names no key|is no key id") as caught:
        EncryptedMessage.decode(body)
    assert caught.value.causes == ()


@pytest.mark.spec("C3")
@pytest.mark.parametrize(
    ("nonce", "tag", "at", "told"),
    [
        (bytes(23), TAG, 0, "nonce has 24 bytes, not 23"),
        (NONCE, bytes(17), 0, "tag has 16 bytes, not 17"),
        (NONCE, TAG, 2**63, "time of sealing is out of range: 9223372036854775808"),
        (NONCE, TAG, -(2**63) - 1, "time of sealing is out of range"),
    ],
)
def test_parts_that_have_no_form_are_refused(nonce: bytes, tag: bytes, at: int, told: str) -> None:
    """When the message is made, not when it is written."""
    with pytest.raises(InvalidEnvelope, match=told):
        EncryptedMessage(KEY, nonce, b"", tag, at)


@pytest.mark.spec("C3", "C9")
@pytest.mark.parametrize("body", [b"", b"QRE", b"QRE2....", b"qre1", b" QRE1", b"{}"])
def test_a_body_without_the_marker_is_plain(body: bytes) -> None:
    """Whatever it is."""
    assert not is_sealed(body)


@pytest.mark.spec("C4")
@given(names, names | st.none(), names, names | st.none())
def test_a_binding_is_one_messages(
    one: str, its: str | None, other: str, others: str | None
) -> None:
    """Two messages that differ in id or session are not bound alike: nothing runs together."""
    same = (one, its) == (other, others)
    assert (binding(one, its) == binding(other, others)) is same


@pytest.mark.spec("C4")
def test_no_session_and_every_session_differ() -> None:
    """An empty one included, which no message has."""
    assert len({binding("m", None), binding("m", ""), binding("m", "\0"), binding("m\0", "")}) == 4


@pytest.mark.spec("C4")
def test_the_longest_names_are_bound_and_longer_ones_refused() -> None:
    """Their length must fit into two bytes; the error says how long it is, and not the id."""
    longest = "x" * 65_534
    assert binding(longest, longest)[:2] == b"\xff\xfe"
    assert binding("", longest)[2:4] == b"\xff\xff"
    for pair in ((longest + "x", None), ("m", longest + "x")):
        with pytest.raises(ValidationError, match=r"at most 65534 bytes.*got 65535"):
            binding(*pair)


@pytest.mark.spec("C4")
def test_what_is_authenticated_is_the_forms() -> None:
    """Marker, version, key id; message and session; time."""
    data = associated_data("k", binding("m1", "s1"), -1)
    assert data == b"QRE1\x01\x01k" + b"\0\2m1" + b"\0\3s1" + b"\xff" * 8
