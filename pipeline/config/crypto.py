"""The keys of `crypto`: whether bodies are sealed, where the encryption keys are, what is refused.

It owns what the configuration may say about that; no module of `pipeline.crypto` is imported here,
and `cryptography`, which an extra brings, is only looked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.aws import AwsAccess, Proxy, address_of
from pipeline.config.azure import ClientId
from pipeline.config.extras import lacking, unusable
from pipeline.config.references import Problem, mapping
from pipeline.config.rules import Count, Model, Seconds, SomeSeconds, error_of, matching

Variable = Annotated[
    str,
    matching(r"[A-Za-z_][A-Za-z0-9_]*", "a variable's name: letters, digits and _, no digit first"),
]
AwsSecret = Annotated[
    str,
    matching(
        r"[A-Za-z0-9/_+=.@-]{1,512}|arn:[A-Za-z0-9:/_+=.@-]{1,2044}",
        "a secret's name (letters, digits and / _ + = . @ -) or its ARN",
    ),
]


KeyFile = Annotated[
    str,
    matching(
        r"(?!env:|file:|\s*\{).+",
        "the path of a file that holds the key set: no reference, and not the keys themselves",
    ),
]


def _address(value: str) -> str:
    if address_of(value) is None:
        rule = "must be an address like https://host:port, the port from 1 to 65535"
        raise PydanticCustomError("problem", "{text}", {"text": rule})
    return value


Vault = Annotated[
    str,
    matching(
        r"https://[^@\s/?#]+/?",
        "a vault's address, as in https://shop.vault.azure.net, without a path or a password",
    ),
    AfterValidator(_address),
]
AzureSecret = Annotated[
    str, matching(r"[A-Za-z0-9-]{1,127}", "a secret's name: 1 to 127 letters, digits and -")
]


class EnvironmentKeys(Model):
    """The key set in a variable of the environment of every process that seals or opens.

    It is read when a process starts and stays what it is: rotate by starting processes anew.

    Args:
        provider: `environment`.
        variable: the variable's name; it holds the key set, a JSON document.

    Example:
        >>> EnvironmentKeys().variable
        'QR_KEYS'
    """

    provider: Literal["environment"] = "environment"
    variable: Variable = "QR_KEYS"


class FileKeys(Model):
    """The key set in a file, a mounted secret as a rule; a change is seen at the next refresh.

    Args:
        provider: `file`.
        path: the file, on every machine that seals or opens; `~` is expanded, and a relative path
            is relative to the directory that a process was started in.

    Example:
        >>> FileKeys(path="/run/secrets/keys.json").path
        '/run/secrets/keys.json'
    """

    provider: Literal["file"] = "file"
    path: KeyFile


class AwsKeys(AwsAccess):
    """The key set in a secret of AWS Secrets Manager.

    To read it takes `secretsmanager:GetSecretValue`; `queue-runtime keys` needs `PutSecretValue`
    and, to make it, `CreateSecret` too.

    Args:
        provider: `aws_secrets_manager`.
        secret: the secret's name or ARN.

    All else is as of `AwsAccess`.

    Example:
        >>> AwsKeys(secret="shop/keys", region="eu-central-1").verify
        True
    """

    provider: Literal["aws_secrets_manager"] = "aws_secrets_manager"
    secret: AwsSecret


class AzureKeys(Model):
    """The key set in a secret of an Azure Key Vault.

    Credentials are found as every Azure tool does (environment, workload or managed identity, the
    CLI's login), and refreshed. To read it takes the right to get secrets; `queue-runtime keys`
    needs the one to set them too.

    Args:
        provider: `azure_key_vault`.
        vault: the vault's address.
        secret: the secret's name; its newest version counts.
        client_id: which user-assigned managed identity; unset: the system's own.
        proxy: the address of an HTTP proxy; one with a password as a reference.
        ca_bundle: a file with the certificates to trust, for a private authority.

    Example:
        >>> AzureKeys(vault="https://shop.vault.azure.net", secret="queue-keys").secret
        'queue-keys'
    """

    provider: Literal["azure_key_vault"] = "azure_key_vault"
    vault: Vault
    secret: AzureSecret
    client_id: ClientId | None = None
    proxy: Proxy | None = None
    ca_bundle: Annotated[str, Field(min_length=1)] | None = None


_AnyKeys: TypeAlias = EnvironmentKeys | FileKeys | AwsKeys | AzureKeys
_MODELS: Mapping[str, type[_AnyKeys]] = {
    "environment": EnvironmentKeys,
    "file": FileKeys,
    "aws_secrets_manager": AwsKeys,
    "azure_key_vault": AzureKeys,
}
# The extra to install, and the module that shows whether it is.
_EXTRAS: Mapping[str, tuple[str, str]] = {
    "aws_secrets_manager": ("aws", "aioboto3"),
    "azure_key_vault": ("azure", "azure.keyvault.secrets"),
}


def _keys(value: object) -> object:
    """Check the provider, and let its model judge: so the error is about the provider's keys."""
    if isinstance(value, _AnyKeys):
        return value
    if not isinstance(value, Mapping):
        return EnvironmentKeys.model_validate(value)  # no mapping at all: any model says so
    provider = value.get("provider")
    text = unusable(provider, _MODELS, _EXTRAS)
    if text:
        raise error_of(Problem(("provider",), text, provider))
    return _MODELS[str(provider)].model_validate(value)


def keys_model_of(data: Mapping[str, Any]) -> type[Model]:
    """Which model judges `crypto.keys` of a configuration; the environment's if nobody knows.

    Args:
        data: the whole configuration, valid or not.
    """
    provider = mapping(mapping(data.get("crypto")).get("keys")).get("provider")
    return _MODELS.get(str(provider), EnvironmentKeys)


Keys = Annotated[_AnyKeys, BeforeValidator(_keys)]


class FreshnessConfig(Model):
    """When a sealed body is too old to be opened (SPEC C8).

    Args:
        enabled: whether its age is judged.
        max_age: seconds that it may be old.
        skew: seconds that two machines' clocks may differ.
        against: `enqueue`: its age is that at which the provider took the message in, so that no
            backlog makes it old; `receipt`: at which it is received.

    Example:
        >>> FreshnessConfig().max_age
        300.0
    """

    enabled: bool = True
    max_age: SomeSeconds = 300.0
    skew: Seconds = 60.0
    against: Literal["enqueue", "receipt"] = "enqueue"


class ReplayConfig(Model):
    """Whether nonces are remembered, to find a sealed body that was sent again (SPEC C8).

    Args:
        enabled: whether they are.
        window: seconds that one is remembered.
        most: so many are.

    Example:
        >>> ReplayConfig().enabled
        False
    """

    enabled: bool = False
    window: SomeSeconds = 600.0
    most: Count = 100_000


class CryptoConfig(Model):
    """How bodies are sealed before they leave a process and opened after they arrive (SPEC C1).

    Args:
        enabled: whether they are.
        actors: how many crypto actors seal and open, 0 to 64; 0: the receivers do it themselves;
            unset: 0 on one machine, 2 on a cluster of several.
        keys: where the encryption keys are; `provider` chooses the kind.
        ttl: seconds a key is cached; it is refreshed before.
        timeout: seconds one call to the key provider may take.
        key_wait: seconds a message waits for a key that is not there yet, before it is
            dead-lettered as `key_not_found`.
        plaintext: what happens to a body that isn't sealed: `allow` (a warning),
            `allow_with_alert` (an error in the log) or `reject` (dead-lettered).
        freshness: when a sealed body is too old.
        replay: whether one that comes a second time is found.

    Example:
        >>> CryptoConfig(keys=EnvironmentKeys()).ttl
        300.0
    """

    enabled: bool = False
    actors: Annotated[int, Field(ge=0, le=64)] | None = None
    keys: Keys | None = None
    ttl: SomeSeconds = 300.0
    timeout: SomeSeconds = 10.0
    key_wait: Seconds = 900.0
    plaintext: Literal["allow", "allow_with_alert", "reject"] = "allow_with_alert"
    freshness: FreshnessConfig = Field(default_factory=FreshnessConfig)
    replay: ReplayConfig = Field(default_factory=ReplayConfig)

    @property
    def finds_replays(self) -> bool:
        """Whether a sealed body that comes a second time is looked for."""
        return self.enabled and self.replay.enabled

    @model_validator(mode="after")
    def _can_be_had(self) -> Self:
        broken = []
        if self.enabled and self.keys is None:
            text = f"missing: say where the encryption keys are, by provider: {', '.join(_MODELS)}"
            broken.append(Problem(("keys",), text))
        if self.enabled and (text := lacking("crypto", "cryptography")):
            broken.append(Problem(("enabled",), text, self.enabled))
        if broken:
            raise error_of(*broken)
        return self
