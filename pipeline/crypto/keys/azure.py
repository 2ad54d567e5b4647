"""The key set in a secret of an Azure Key Vault, by azure-keyvault-secrets."""

from __future__ import annotations

import math
import ssl
from collections.abc import Awaitable
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Final, TypeVar

import azure.core.exceptions as sdk
from azure.identity.aio import DefaultAzureCredential
from azure.keyvault.secrets.aio import SecretClient

from pipeline.config import AzureKeys
from pipeline.config.access import proxy_of
from pipeline.crypto.keys.kept import WritableKeys
from pipeline.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    PermissionDenied,
    ProviderError,
    Throttled,
    Timeout,
    mask_secrets,
)

if TYPE_CHECKING:
    from azure.core.credentials_async import AsyncTokenCredential

T = TypeVar("T")

PROVIDER: Final = "azure_key_vault"
_PATH: Final = "crypto.keys"
_SPARE: Final = 5.0
"""Seconds that a socket may be silent after our own limit: that one is the rule."""

_IDENTITY = "look at the identity that Azure's own tools find here, and at crypto.keys.client_id"
_RIGHTS = "the identity needs the right to get secrets (role Key Vault Secrets User)"
_ADDRESS = "look at vault and proxy of crypto.keys, and at the network"


# Each with the answer in it, or in what it came of: also what the SDK stumbles over.
_UNREADABLE: Final = (sdk.DecodeError, JSONDecodeError, AttributeError, TypeError, KeyError)


class AzureKeyProvider(WritableKeys):
    """A key provider that reads a secret's newest version.

    Args:
        settings: which secret of which vault.
        timeout: seconds that a call may take.
        credential: what gives tokens; None: found as every Azure tool does. The provider closes it.

    Example:
        >>> keys = AzureKeys(vault="https://shop.vault.azure.net", secret="queue-keys")
        >>> AzureKeyProvider(keys, 10.0).where
        'crypto.keys: secret queue-keys of https://shop.vault.azure.net'
    """

    def __init__(
        self, settings: AzureKeys, timeout: float, credential: AsyncTokenCredential | None = None
    ) -> None:
        super().__init__(f"{_PATH}: secret {settings.secret} of {settings.vault}", timeout)
        self._settings = settings
        self._credential = credential
        self._client: SecretClient | None = None

    async def start(self) -> None:
        """Make the client; nothing is called yet."""
        await super().start()
        self._connected()

    async def close(self) -> None:
        """Close the client and its connections; idempotent."""
        await super().close()
        client, self._client = self._client, None
        credential, self._credential = self._credential, None
        if client is not None:
            await client.close()
        if credential is not None:
            await credential.close()

    async def _text(self) -> str | None:
        try:
            found = await self._called("get", self._connected().get_secret(self._settings.secret))
        except _NoSecretError:
            return None
        if not isinstance(found.value, str):
            raise ProviderError(PROVIDER, "NoValue", f"{self.where}: the answer has no value")
        return found.value

    async def _write(self, text: str, *, first: bool) -> None:
        # The service sets whatever is there: that there is nothing can only be looked up before.
        if first and await self._text() is not None:
            raise self._there_is_one()
        client = self._connected()
        call = client.set_secret(self._settings.secret, text, content_type="application/json")
        await self._called("set", call)

    # --- the SDK ----------------------------------------------------------------------------------

    def _connected(self) -> SecretClient:
        self._refuse_closed()
        if self._client is None:
            settings = self._settings
            if self._credential is None:
                self._credential = DefaultAzureCredential(
                    managed_identity_client_id=settings.client_id
                )
            proxy = proxy_of(settings.proxy, f"{_PATH}.proxy")
            options: dict[str, Any] = {} if proxy is None else {"proxies": {"https": proxy}}
            self._client = SecretClient(
                settings.vault,
                self._credential,
                retry_total=0,  # the ring decides about a repeat
                connection_timeout=self._timeout,
                read_timeout=self._timeout + _SPARE,
                connection_verify=self._trusted(),
                permit_redirects=False,
                user_agent="queue-runtime",
                **options,
            )
        return self._client

    def _trusted(self) -> str | bool:
        bundle = self._settings.ca_bundle
        if bundle is None:
            return True
        try:
            ssl.create_default_context(cafile=bundle)  # an unreadable bundle is told of now
        except OSError as error:
            text = f"{_PATH}.ca_bundle: {bundle} can't be read: {error}"
            raise ConfigurationError(text) from error
        return bundle

    async def _called(self, action: str, call: Awaitable[T]) -> T:
        failure: Exception
        try:
            return await call
        except TimeoutError:
            raise  # our own limit: it is told of where it is set
        except _UNREADABLE as error:
            told = f"{self.where}: {action}: the answer can't be read"
            failure = ProviderError(PROVIDER, type(error).__name__, told, transient=True)
        except (sdk.AzureError, ValueError, OSError) as error:
            raise self._failed(action, error) from error
        # Outside the `except`: what can't be read may be the key set, and is in that error.
        raise failure

    def _failed(self, action: str, error: Exception) -> Exception:
        if isinstance(error, sdk.HttpResponseError) and error.status_code is not None:
            return self._refused(error.status_code, action, error)
        told = mask_secrets(str(error)).strip() or type(error).__name__
        text = f"{self.where}: {action}: {told}"
        if isinstance(error, sdk.ClientAuthenticationError):
            return AuthenticationFailed(f"{text}: {_IDENTITY}")
        if isinstance(error, sdk.ServiceResponseTimeoutError):
            return Timeout(f"{text}: {_ADDRESS}")
        if isinstance(error, (sdk.ServiceRequestError, sdk.ServiceResponseError, OSError)):
            return ConnectionFailed(f"{text}: {_ADDRESS}")
        if isinstance(error, ValueError):  # it gave a challenge that is not for this address
            return ConfigurationError(f"{text}: look at crypto.keys.vault")
        return ProviderError(PROVIDER, type(error).__name__, text)

    def _refused(self, status: int, action: str, error: sdk.HttpResponseError) -> Exception:
        code = str(getattr(error.error, "code", None) or status)
        told = mask_secrets(str(getattr(error.error, "message", None) or "refused"))
        text = f"{self.where}: {action}: {told} ({code})"
        if status == 404:
            return _NoSecretError()
        if status == 401:
            return AuthenticationFailed(f"{text}: {_IDENTITY}")
        if status == 403:
            return PermissionDenied(f"{text}: {_RIGHTS}")
        if status == 429:
            return Throttled(text, retry_after=_seconds(error))
        return ProviderError(PROVIDER, code, text, transient=status >= 500 or status == 408)


class _NoSecretError(Exception):
    """There is no such secret: no error, but an answer."""


def _seconds(error: sdk.HttpResponseError) -> float | None:
    """What its Retry-After says, when it says it in seconds."""
    headers = getattr(error.response, "headers", {})
    try:
        found = float(headers.get("Retry-After", math.inf))
    except ValueError:
        return None
    return max(0.0, found) if math.isfinite(found) else None
