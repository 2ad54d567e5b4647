"""The key set in a secret of AWS Secrets Manager, by aioboto3."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

import aioboto3
import botocore.exceptions as sdk
from aiobotocore.config import AioConfig

from pipeline.config import AwsKeys
from pipeline.config.access import proxy_of, secret_of
from pipeline.crypto.keys.kept import WritableKeys
from pipeline.errors import (
    AuthenticationFailed,
    ConfigurationError,
    ConnectionFailed,
    PermissionDenied,
    ProviderError,
    QueueError,
    Throttled,
    Timeout,
    mask_secrets,
)

if TYPE_CHECKING:
    from types_aiobotocore_secretsmanager import SecretsManagerClient

T = TypeVar("T")

PROVIDER: Final = "aws"
_PATH: Final = "crypto.keys"
_SPARE: Final = 5.0
"""Seconds that a socket may be silent after our own limit: that one is the rule."""
_log = logging.getLogger("queue_runtime.keys")

_CREDENTIALS = (
    "look at the keys or the profile of crypto.keys, or at what AWS's own tools find, and at this "
    "machine's clock"
)
_RIGHTS = "reading needs secretsmanager:GetSecretValue, and kms:Decrypt where a key of KMS is used"
_ADDRESS = "look at region, endpoint and proxy of crypto.keys, and at the network"
_CODES: Final[Mapping[str, tuple[type[QueueError], str]]] = {
    code: (kind, hint)
    for codes, kind, hint in (
        (("AccessDeniedException", "AccessDenied", "DecryptionFailure"), PermissionDenied, _RIGHTS),
        (
            (
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "InvalidSignatureException",
                "SignatureDoesNotMatch",
                "IncompleteSignature",
                "IncompleteSignatureException",
                "ExpiredToken",
                "ExpiredTokenException",
                "MissingAuthenticationToken",
                "MissingAuthenticationTokenException",
            ),
            AuthenticationFailed,
            _CREDENTIALS,
        ),
        (
            ("ThrottlingException", "Throttling", "TooManyRequestsException"),
            Throttled,
            "it is asked again later",
        ),
    )
    for code in codes
}
_EXCEPTIONS: Final[tuple[tuple[type[Exception], type[QueueError], str], ...]] = (
    (sdk.ReadTimeoutError, Timeout, _ADDRESS),
    (sdk.HTTPClientError, ConnectionFailed, _ADDRESS),
    (sdk.NoCredentialsError, AuthenticationFailed, _CREDENTIALS),
    (sdk.PartialCredentialsError, AuthenticationFailed, _CREDENTIALS),
    # Nobody refused them: who hands them out did not answer.
    (sdk.CredentialRetrievalError, ConnectionFailed, _CREDENTIALS),
    (sdk.MetadataRetrievalError, ConnectionFailed, _CREDENTIALS),
    (sdk.SSOError, AuthenticationFailed, _CREDENTIALS),
    (sdk.TokenRetrievalError, AuthenticationFailed, _CREDENTIALS),
    (sdk.NoRegionError, ConfigurationError, "set crypto.keys.region, or AWS_DEFAULT_REGION"),
    (sdk.ProfileNotFound, ConfigurationError, "look at crypto.keys.profile"),
    (sdk.ConfigNotFound, ConfigurationError, "look at the shared files"),
    (sdk.ConnectionError, ConnectionFailed, _ADDRESS),
    (ValueError, ConfigurationError, _ADDRESS),
    (OSError, ConnectionFailed, _ADDRESS),
)
"""The first that fits counts."""


class _Withheld(logging.Filter):
    """Keeps what is secret out of the SDK's own lines: at DEBUG it writes every body in clear."""

    def filter(self, record: logging.LogRecord) -> bool:
        if "SecretString" in record.getMessage():
            record.msg, record.args = "(withheld: there is a secret in it)", None
        return True


for _name in ("botocore.endpoint", "botocore.parsers"):  # a filter counts for its logger alone
    logging.getLogger(_name).addFilter(_Withheld())


class AwsKeyProvider(WritableKeys):
    """A key provider that reads a secret's current version.

    Args:
        settings: which secret, and how AWS is reached.
        timeout: seconds that a call may take.

    Example:
        >>> AwsKeyProvider(AwsKeys(secret="shop/keys"), 10.0).where
        'crypto.keys: secret shop/keys of AWS Secrets Manager'
    """

    def __init__(self, settings: AwsKeys, timeout: float) -> None:
        super().__init__(f"{_PATH}: secret {settings.secret} of AWS Secrets Manager", timeout)
        self._settings = settings
        self._stack = AsyncExitStack()
        self._lock = asyncio.Lock()
        self._client: SecretsManagerClient | None = None

    async def start(self) -> None:
        """Make the client; nothing is called yet."""
        await super().start()
        await self._connected()

    async def close(self) -> None:
        """Close the client and its connections; idempotent."""
        await super().close()
        async with self._lock:
            self._client = None
            await self._stack.aclose()

    async def _text(self) -> str | None:
        client = await self._connected()
        call = client.get_secret_value(SecretId=self._settings.secret)
        try:
            answer = await self._called("GetSecretValue", call)
        except _NoSecretError:
            return None
        text: object = answer.get("SecretString")
        if not isinstance(text, str):
            told = "holds no text: keep the key set in it as text, not as bytes"
            raise ConfigurationError(f"{self.where} {told}")
        return text

    async def _write(self, text: str, *, first: bool) -> None:
        client, secret = await self._connected(), self._settings.secret
        if first and not secret.startswith("arn:"):
            try:
                call = client.create_secret(Name=secret, SecretString=text)
                await self._called("CreateSecret", call)
            except _SecretExistsError:
                # Made without a value, as infrastructure code does.
                if await self._text() is not None:
                    raise self._there_is_one() from None
            else:
                return
        try:
            call_put = client.put_secret_value(SecretId=secret, SecretString=text)
            await self._called("PutSecretValue", call_put)
        except _NoSecretError:
            raise ConfigurationError(f"{self.where} does not exist") from None

    # --- the SDK ----------------------------------------------------------------------------------

    async def _connected(self) -> SecretsManagerClient:
        async with self._lock:
            self._refuse_closed()
            client = self._client
            if client is None:
                self._warn()
                entered = self._stack.enter_async_context(self._made())
                client = self._client = await self._called("connect", entered)
            return client

    def _made(self) -> AbstractAsyncContextManager[SecretsManagerClient]:
        settings = self._settings
        proxy = proxy_of(settings.proxy, f"{_PATH}.proxy")
        static: dict[str, Any] = {
            f"aws_{key}": secret_of(getattr(settings, key), f"{_PATH}.{key}")
            for key in ("access_key_id", "secret_access_key", "session_token")
        }
        config = AioConfig(
            # The ring decides about a repeat: one attempt a call.
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=self._timeout,
            read_timeout=self._timeout + _SPARE,
            max_pool_connections=2,
            proxies=None if proxy is None else {"http": proxy, "https": proxy},
            user_agent_extra="queue-runtime",
        )
        try:
            session: Any = aioboto3.Session(
                profile_name=settings.profile, region_name=settings.region, **static
            )
            made: AbstractAsyncContextManager[SecretsManagerClient] = session.client(
                "secretsmanager",
                endpoint_url=settings.endpoint,
                verify=self._trusted(),
                config=config,
            )
        except sdk.BotoCoreError as error:
            raise self._failed("connect", error) from error
        return made

    def _trusted(self) -> str | bool | None:
        """What certificates are checked against; None: as for AWS's own tools."""
        bundle = self._settings.ca_bundle
        if not self._settings.verify:
            return False
        if bundle is not None:
            try:
                ssl.create_default_context(cafile=bundle)  # an unreadable bundle is told of now
            except OSError as error:
                text = f"{_PATH}.ca_bundle: {bundle} can't be read: {error}"
                raise ConfigurationError(text) from error
        return bundle

    def _warn(self) -> None:
        if not self._settings.verify:
            _log.warning(
                "%s.verify is false: whoever answers is believed to be Secrets Manager, and his "
                "keys are used; trust a private authority with ca_bundle instead",
                _PATH,
            )
        if (self._settings.endpoint or "").startswith("http://") and not self._near():
            _log.warning(
                "%s.endpoint begins with http://: the keys go there readable for everybody on the "
                "way; use https://",
                _PATH,
            )

    def _near(self) -> bool:
        """Whether the endpoint is on this machine."""
        host = urlsplit(self._settings.endpoint or "").hostname or ""
        return host == "localhost" or host.startswith("127.") or host == "::1"

    async def _called(self, action: str, call: Awaitable[T]) -> T:
        try:
            return await call
        except TimeoutError:
            raise  # our own limit: it is told of where it is set
        except (sdk.BotoCoreError, sdk.ClientError, ValueError, OSError) as error:
            raise self._failed(action, error) from error

    def _failed(self, action: str, error: Exception) -> Exception:
        if isinstance(error, sdk.ClientError):
            return self._refused(action, error)
        told = mask_secrets(str(error)).strip() or type(error).__name__
        for kind, ours, hint in _EXCEPTIONS:
            if isinstance(error, kind):
                return ours(f"{self.where}: {action} failed: {told}: {hint}")
        text = f"{self.where}: {action} failed: {told}"
        return ProviderError(PROVIDER, type(error).__name__, text)

    def _refused(self, action: str, error: sdk.ClientError) -> Exception:
        told: Mapping[str, Any] = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        # A refused signature is explained with the headers that were signed, a token among them.
        error.args = tuple(mask_secrets(str(arg)) for arg in error.args)
        code = str(told.get("Code", "")).rpartition("#")[2]
        message = mask_secrets(str(told.get("Message", "")))
        if code in _ABSENT:
            return _ABSENT[code]()
        if code in _CODES:
            kind, hint = _CODES[code]
            return kind(f"{self.where}: {action} failed: {message or 'refused'} ({code}): {hint}")
        transient = status >= 500 or status == 429
        text = f"{self.where}: {action} failed: {message}"
        return ProviderError(PROVIDER, code or "Unknown", text, transient=transient)


class _NoSecretError(Exception):
    """There is no such secret, or none of its versions is current."""


class _SecretExistsError(Exception):
    """There is one of that name."""


_ABSENT: Final[Mapping[str, type[Exception]]] = {
    "ResourceNotFoundException": _NoSecretError,
    "ResourceExistsException": _SecretExistsError,
}
"""Answers that are none of the errors: they say what is to be done next."""
