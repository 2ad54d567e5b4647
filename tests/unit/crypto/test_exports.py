"""What `pipeline.crypto` has, and that it takes the extra only where something is sealed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import pipeline.crypto
from pipeline.errors import BodyAuthenticationFailed, CryptoError

WITHOUT = """
import sys
sys.modules["cryptography"] = None  # as where the extra is not installed
import pipeline, pipeline.config
import pipeline.crypto as crypto
from pipeline.crypto.envelope import EncryptedMessage
assert crypto.is_sealed(b"QRE1") and not crypto.is_sealed(b"plain")
for name in ("NonceBook", "Freshness", "Plaintext", "KeyProvider", "AuthenticationFailed"):
    getattr(crypto, name)
try:
    crypto.AesGcm
except ImportError:
    sys.exit(0)
sys.exit("the ciphers came without cryptography")
"""


@pytest.mark.spec("C11", "T4")
def test_every_name_is_there() -> None:
    """And no other; an authentication error has the name that it is known by here."""
    for name in pipeline.crypto.__all__:
        assert getattr(pipeline.crypto, name).__doc__, name
    assert pipeline.crypto.AuthenticationFailed is BodyAuthenticationFailed
    with pytest.raises(AttributeError, match="no attribute 'Ciphers'"):
        pipeline.crypto.Ciphers  # noqa: B018


@pytest.mark.spec("P10")
def test_all_kinds_of_errors_are_there() -> None:
    """Whoever catches them finds them beside what raises them."""
    kinds = {kind.__name__ for kind in CryptoError.__subclasses__()}
    kinds = {"AuthenticationFailed" if "Authentication" in kind else kind for kind in kinds}
    assert kinds <= set(pipeline.crypto.__all__)


@pytest.mark.spec("C1", "P16")
def test_plain_messages_need_no_extra() -> None:
    """The package knows sealed bodies by their marker, and asks for cryptography to open them."""
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.spec("P10", "P16")
def test_what_needs_the_extra_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""

    def missing(name: str) -> None:
        raise ModuleNotFoundError("no module", name="cryptography")

    monkeypatch.setattr("importlib.import_module", missing)
    with pytest.raises(ImportError, match=r"AesGcm needs pip install 'queue-runtime\[crypto\]'"):
        pipeline.crypto.AesGcm  # noqa: B018
