"""The keys of `crypto`: where encryption keys are, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import (
    AwsKeys,
    AwsQueue,
    AzureKeys,
    AzureQueue,
    CryptoConfig,
    EnvironmentKeys,
    FileKeys,
    MemoryQueue,
    ReplayConfig,
    dump,
    parse,
    resolved,
)
from pipeline.config.extras import installed
from pipeline.config.models import DeadLetterConfig
from pipeline.config.rules import Model
from pipeline.errors import ConfigurationError

REFERENCE = Path("configs/reference.yaml")
AWS = {"provider": "aws_secrets_manager", "secret": "shop/keys"}
AZURE = {
    "provider": "azure_key_vault",
    "vault": "https://shop.vault.azure.net",
    "secret": "queue-keys",
}


KEY = "s87xSPB+" + "A" * 35 + "="
DOCUMENT = f'{{"current": "a", "keys": {{"a": "{KEY}"}}}}'


def given(crypto: Any) -> dict[str, Any]:
    return {
        "name": "shop",
        "connections": {"main": {"provider": "memory"}},
        "queues": {"orders": {"connection": "main"}},
        "crypto": crypto,
    }


@pytest.mark.spec("C1", "C8", "C9", "C5")
def test_the_defaults_are_the_specification_s() -> None:
    """Off; a key is waited for 15 min; a body may be 5 min old, clocks differ by 1."""
    crypto = parse(given({})).crypto
    assert (crypto.enabled, crypto.actors, crypto.keys) == (False, None, None)
    assert (crypto.ttl, crypto.timeout, crypto.key_wait) == (300, 10, 900)
    assert crypto.plaintext == "allow_with_alert"
    assert crypto.freshness.model_dump() == {
        "enabled": True,
        "max_age": 300.0,
        "skew": 60.0,
        "against": "enqueue",
    }
    assert crypto.replay.model_dump() == {"enabled": False, "window": 600.0, "most": 100_000}


@pytest.mark.spec("C1", "P8", "P10", "P16")
@pytest.mark.parametrize(
    ("crypto", "text"),
    [
        ({"enabled": True}, "crypto.keys: missing: say where the encryption keys are, by provider"),
        ({"keys": "env"}, "crypto.keys: must be a mapping of keys to values; got 'env'"),
        (
            {"keys": {}},
            "crypto.keys.provider: missing: name one of: environment, file, aws_secrets",
        ),
        (
            {"keys": {"provider": "aws_secret_manager"}},
            "crypto.keys.provider: did you mean aws_secrets_manager? must be one of: environment",
        ),
        ({"keys": {"provider": 7}}, "crypto.keys.provider: must be one of: environment, file"),
        ({"keys": {"provider": "file"}}, "crypto.keys.path: missing: this key is required"),
        (
            {"keys": {"provider": "file", "paht": "x", "path": "y"}},
            "crypto.keys.paht: unknown key; did you mean path? the keys here are: provider, path",
        ),
        (
            {"keys": {"provider": "vault", "path": "y"}},
            "crypto.keys.provider: must be one of: environment, file, aws_secrets_manager, azure",
        ),
        (
            {"keys": {"provider": "environment", "variable": "QR-KEYS"}},
            "crypto.keys.variable: must be a variable's name: letters, digits and _",
        ),
        ({"keys": AWS | {"secret": "a b"}}, "crypto.keys.secret: must be a secret's name (letters"),
        ({"keys": AWS | {"region": "EU"}}, "crypto.keys.region: must be a region, as in eu-cent"),
        (
            {"keys": AWS | {"access_key_id": "env:KEY"}},
            "crypto.keys.secret_access_key: missing: a static key has an id and a secret",
        ),
        (
            {"keys": AWS | {"verify": False, "ca_bundle": "/ca.pem"}},
            "crypto.keys.ca_bundle: has no use with verify: false",
        ),
        (
            {"keys": AZURE | {"vault": "http://shop.vault.azure.net"}},
            "crypto.keys.vault: must be a vault's address, as in https://shop.vault.azure.net",
        ),
        (
            {"keys": AZURE | {"vault": "https://host:99999"}},
            "crypto.keys.vault: must be an address like https://host:port, the port from 1 to 6",
        ),
        ({"keys": AZURE | {"secret": "a/b"}}, "crypto.keys.secret: must be a secret's name: 1 to"),
        ({"keys": AZURE | {"verify": False}}, "crypto.keys.verify: unknown key"),
        ({"keys": AZURE | {"client_id": "me"}}, "crypto.keys.client_id: must be an identity's cli"),
        ({"actors": 65}, "crypto.actors: must be less than or equal to 64; got 65"),
        ({"ttl": 0}, "crypto.ttl: must be greater than 0; got 0"),
        ({"timeout": 0.0}, "crypto.timeout: must be greater than 0"),
        ({"plaintext": "alow"}, "crypto.plaintext: did you mean allow? must be 'allow', 'allow_"),
        ({"freshness": {"against": "send"}}, "crypto.freshness.against: must be 'enqueue' or"),
        ({"freshness": {"maxage": 3}}, "crypto.freshness.maxage: unknown key; did you mean max_a"),
        ({"replay": {"most": 0}}, "crypto.replay.most: must be greater than or equal to 1"),
        *(
            (
                {"keys": {"provider": "file", "path": path}},
                "crypto.keys.path: must be the path of a file that holds the key set",
            )
            for path in ("", "env:KEYS", "file:/keys.json", ' {"current": "a"}')
        ),
        ({"enable": True}, "crypto.enable: unknown key; did you mean enabled?"),
    ],
)
def test_what_is_wrong_is_told_with_its_path(crypto: Any, text: str) -> None:
    """And what is allowed there, by the provider that was chosen."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given(crypto))
    assert text in str(caught.value)


@pytest.mark.spec("C7", "P8")
@pytest.mark.parametrize(
    "crypto",
    [
        KEY,
        {"key": KEY},
        {"encryption_key": "0123456789abcdef" * 4},
        {"keys": KEY},
        {"keys": {"provider": "file", "path": "x", "material": KEY}},
        {"keys": {"provider": "environment", "variable": DOCUMENT}},
        {"keys": {"provider": "file", "path": DOCUMENT}},
    ],
)
def test_a_key_in_the_configuration_is_refused_and_not_shown(crypto: Any) -> None:
    """In whatever place somebody tries it."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given({}) | {"crypto": crypto})
    told = str(caught.value)
    assert "crypto" in told
    assert "s87xSPB" not in told
    assert "0123456789abcdef" not in told


@pytest.mark.spec("C7", "P8")
def test_a_key_written_in_the_configuration_is_refused_and_not_shown() -> None:
    """By any name that it could be given."""
    material = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2U="
    for name in ("secret_key", "api_key", "password"):
        with pytest.raises(ConfigurationError) as caught:
            parse(given({"keys": {"provider": "environment", name: material}}))
        assert "never written in clear" in str(caught.value)
        assert material not in str(caught.value)


@pytest.mark.spec("P16")
@pytest.mark.parametrize(
    "keys",
    [
        {"provider": "environment"},
        {"provider": "file", "path": "/run/secrets/keys.json"},
        AWS | {"access_key_id": "env:ID", "secret_access_key": "file:/x", "region": "eu-west-1"},
        AWS | {"secret": "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop-AbCdEf"},
        AZURE | {"proxy": "env:PROXY", "vault": "https://127.0.0.1:8443/"},
    ],
)
def test_a_configuration_written_out_and_read_again_is_equal(keys: dict[str, Any]) -> None:
    """Whatever keeps the keys; references stay references."""
    config = parse(given({"enabled": True, "actors": 2, "keys": keys}))
    assert parse(dump(config)) == config
    if "access_key_id" in keys:
        assert "secret_access_key: file:/x" in resolved(config)
    again = parse(given({"keys": config.crypto.keys}))
    assert again.crypto.keys is config.crypto.keys


@pytest.mark.spec("P1", "P16")
@pytest.mark.parametrize(
    ("crypto", "path", "extra", "module"),
    [
        (
            {"enabled": True, "keys": {"provider": "environment"}},
            "enabled",
            "crypto",
            "cryptography",
        ),
        ({"keys": AWS}, "keys.provider", "aws", "aioboto3"),
        ({"keys": AZURE}, "keys.provider", "azure", "azure.keyvault.secrets"),
    ],
)
def test_what_is_not_installed_says_which_extra_to_install(
    crypto: Any, path: str, extra: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found by parsing, before anything is started; without it where it isn't asked for."""
    monkeypatch.setattr(sys, "path", [])  # so that it holds where they are installed
    for name in [name for name in sys.modules if name.partition(".")[0] == module.split(".")[0]]:
        monkeypatch.delitem(sys.modules, name)
    sys.path_importer_cache.clear()
    with pytest.raises(ConfigurationError) as caught:
        parse(given(crypto))
    text = f"crypto.{path}: needs pip install 'queue-runtime[{extra}]' ({module} is missing)"
    assert text in str(caught.value)
    parse(given({"keys": {"provider": "environment"}}))


@pytest.mark.spec("P1")
def test_a_module_is_looked_for_at_each_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`azure` may be there without the Key Vault's client; nothing is imported to find out."""
    monkeypatch.syspath_prepend(str(tmp_path))
    inner = tmp_path / "qr_outer" / "middle" / "inner"
    inner.mkdir(parents=True)
    for where in (inner, inner.parent, inner.parent.parent):
        (where / "__init__.py").write_text("raise AssertionError('imported')")
    assert installed("qr_outer.middle.inner")
    assert not installed("qr_outer.middle.other")
    assert not installed("qr_outer.none.inner")
    assert not installed("qr_none.middle.inner")
    (tmp_path / "qr_plain.py").write_text("")
    assert not installed("qr_plain.json")  # a module has nothing in it, though there is a json


def commented() -> list[dict[str, Any]]:
    """The other providers' keys, which the reference shows as comments."""
    found, block = [], []
    for line in [*REFERENCE.read_text(encoding="utf-8").splitlines(), ""]:
        starts = re.fullmatch(r"  # keys:.*", line)
        if block and (starts or not line.startswith("  #   ")):
            found.append(yaml.safe_load("\n".join(block)))
            block = []
        if starts:
            block = ["provider: x"]
        elif block:
            block.append(line.removeprefix("  #   "))
    return found


@pytest.mark.spec("P16")
def test_the_reference_shows_every_provider_s_keys_with_their_defaults() -> None:
    """Those that are commented out too."""
    blocks = commented()
    models: list[type[Model]] = [FileKeys, AwsKeys, AzureKeys]
    assert [block["provider"] for block in blocks] == [
        model.model_fields["provider"].default for model in models
    ]
    for block, model in zip(blocks, models, strict=True):
        parse(given({"keys": block}))
        assert set(block) == set(model.model_fields)
        for key, field in model.model_fields.items():
            if not field.is_required():
                assert (key, block[key]) == (key, field.get_default())


@pytest.mark.spec("C1", "P3", "P5", "R3")
def test_what_sealing_has_to_know_of_a_queue_and_of_dead_letters() -> None:
    """Whether it gives sessions, which time it takes for sent, and what a sealed body takes."""
    memory = MemoryQueue(connection="m", sessionless="spread")
    azure = AzureQueue(connection="m", name="q", fifo=True, sessionless="spread")
    fifo = AwsQueue(connection="m", name="q.fifo", fifo=True, sessionless="spread")
    standard = AwsQueue(connection="m", name="q", sessionless="spread")
    assert [one.spreads for one in (memory, azure, fifo, standard)] == [True, True, True, False]
    assert [one.stamps_start for one in (memory, azure, fifo)] == [True, True, False]
    assert [one.size_of_binary(100) for one in (memory, azure, fifo)] == [100, 100, 136]
    off, on = CryptoConfig(), CryptoConfig(enabled=True, keys=EnvironmentKeys())
    assert [DeadLetterConfig().redacts(one) for one in (off, on)] == [False, True]
    assert [DeadLetterConfig(messages="full").redacts(one) for one in (off, on)] == [False, False]
    assert DeadLetterConfig(messages="redacted").redacts(off)
    replay = ReplayConfig(enabled=True)
    keys = EnvironmentKeys()
    assert [one.finds_replays for one in (off, on, CryptoConfig(replay=replay))] == [False] * 3
    assert CryptoConfig(enabled=True, keys=keys, replay=replay).finds_replays
