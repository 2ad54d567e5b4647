"""What the key providers are tried on: moto, and a vault of our own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.keyvault.vault import Vault
from tests.servicebus import certificates
from tests.servicebus.certificates import Certificates
from tests.sqs.servers import moto


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """moto, with Secrets Manager."""
    with moto() as address:
        yield address


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A private CA that nobody knows."""
    return certificates.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture
async def vault(authority: Certificates) -> AsyncIterator[Vault]:
    """An empty vault."""
    async with Vault(authority.context()) as vault:
        yield vault


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, regions or proxies of this machine's."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere/credentials")
    monkeypatch.setenv("KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("KEY_SECRET", "wJalrXUtnFEMI")
