"""Ten thousand random and changed envelopes; `make fuzz` has a million."""

from __future__ import annotations

import pytest

from pipeline.crypto import column, opening, single
from pipeline.crypto.envelope import EncryptedMessage
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.single import open_sealed
from tests import fuzz


@pytest.mark.spec("C2", "C3", "C4", "T1")
def test_an_envelope_ends_in_an_error_of_ours_or_in_its_plaintext() -> None:
    """And in nothing else, alone or in a column; every kind of ending is among them."""
    outcomes = fuzz.run(10_000, seed=1)
    assert outcomes.total() == 10_000
    kinds = {"opened", "plain", "BodyAuthenticationFailed", "InvalidEnvelope"}
    kinds |= {"UnsupportedVersion", "KeyNotFound"}
    assert set(outcomes) == kinds
    assert min(outcomes.values()) > 50


def test_a_seed_repeats() -> None:
    """The same envelopes end the same."""
    assert fuzz.run(300, seed=7) == fuzz.run(300, seed=7) != fuzz.run(300, seed=8)


def careless(key: EncryptionKey, message: EncryptedMessage, bound: bytes) -> bytes:
    """Lets an empty body through whatever its tag is."""
    return b"" if not message.ciphertext else open_sealed(key, message, bound)


@pytest.mark.parametrize(
    ("module", "name", "planted", "told"),
    [
        (single, "open_sealed", careless, "the column ends otherwise|what was not sealed"),
        (opening, "VERSION", 3, "the column ends otherwise"),
        (column, "MARKER", b"QRE2", "does not see the marker"),
    ],
)
def test_the_fuzz_finds(
    module: object, name: str, planted: object, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: one fault in opening, by itself or in columns, and it ends with the row."""
    monkeypatch.setattr(module, name, planted)
    with pytest.raises(AssertionError, match=rf"row \d+: .*({told})"):
        fuzz.run(3_000, seed=1)


def test_the_command_says_its_seed_and_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    """To be repeated by it."""
    assert fuzz.main(["--count", "200", "--seed", "5"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("200 envelopes of seed 5\n")
    assert "opened" in said
    assert "all as they may" in said
