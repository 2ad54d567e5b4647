"""The configuration chooses the key provider, and what is made of it."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.clock import SeededClock
from pipeline.config import AwsKeys, AzureKeys, CryptoConfig, EnvironmentKeys, FileKeys
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.open import open_bodies, open_keys, open_provider
from pipeline.errors import ConfigurationError
from tests.unit.crypto.key_rig import now


@pytest.mark.spec("C6")
@pytest.mark.parametrize(
    ("keys", "name", "where"),
    [
        (EnvironmentKeys(), "EnvironmentKeyProvider", "the variable QR_KEYS"),
        (FileKeys(path="/x"), "FileKeyProvider", "file /x"),
        (AwsKeys(secret="x"), "AwsKeyProvider", "secret x of AWS Secrets Manager"),
        (
            AzureKeys(vault="https://v.example", secret="x"),
            "AzureKeyProvider",
            "secret x of https://v.example",
        ),
    ],
)
def test_the_configuration_chooses_the_provider(keys: Any, name: str, where: str) -> None:
    """Without a call."""
    provider = open_provider(CryptoConfig(keys=keys))
    assert (type(provider).__name__, provider.where) == (name, f"crypto.keys: {where}")


@pytest.mark.spec("C6", "P10")
def test_without_keys_nothing_is_made() -> None:
    for make in (open_keys, open_bodies):
        with pytest.raises(ConfigurationError, match=r"crypto\.keys: missing"):
            make(CryptoConfig(), SeededClock(now))


@pytest.mark.spec("C6", "C11")
async def test_the_ring_has_the_configured_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its provider the time-out."""
    first = KeySet.first("a", 0.0)
    monkeypatch.setenv("QR_KEYS", first.text())
    ring = open_keys(CryptoConfig(keys=EnvironmentKeys(), ttl=50.0, timeout=3.0), SeededClock(now))
    await ring.start()
    assert (ring._ttl, ring._timeout) == (50.0, 3.0)
    assert (await ring.current()).matches(first.key("a"))
    await ring.close()


@pytest.mark.spec("C8", "C9")
@pytest.mark.parametrize("fresh", [True, False])
def test_what_seals_and_opens_is_made_of_the_configuration(fresh: bool) -> None:
    """Freshness as it says, or none."""
    config = CryptoConfig(keys=EnvironmentKeys()).model_copy(
        update={
            "freshness": CryptoConfig().freshness.model_copy(
                update={"enabled": fresh, "max_age": 7.0}
            )
        }
    )
    opener = open_bodies(config, SeededClock(now))._opener
    assert (None if opener._freshness is None else opener._freshness.max_age) == (
        7.0 if fresh else None
    )
