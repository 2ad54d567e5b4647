"""What SQS and its clients say went wrong, translated by a table to this project's errors."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import aiohttp
import botocore.exceptions as sdk

from pipeline.errors import (
    AuthenticationFailed,
    BatchTooLarge,
    ConfigurationError,
    ConnectionFailed,
    MessageLockLost,
    MessageNotFound,
    PermissionDenied,
    ProviderError,
    QueueError,
    QueueNotFound,
    SerializationError,
    Throttled,
    Timeout,
    Unsupported,
    mask_secrets,
)

PROVIDER = "aws_sqs"

_Make: TypeAlias = Callable[[str, float | None], QueueError]


def _throttled(text: str, after: float | None) -> QueueError:
    return Throttled(text, retry_after=after)


def _of(kind: type[QueueError]) -> _Make:
    return lambda text, _: kind(text)


def _hinted(kind: type[QueueError], hint: str) -> _Make:
    return lambda text, _: kind(f"{text}: {hint}")


_KEYS = (
    "give access_key_id and secret_access_key, or a profile, in the connection, or what AWS's own "
    "tools read"
)
_REFUSED = (
    "look at the connection's keys or profile, or at what AWS's own tools find, and at this "
    "machine's clock"
)
_ADDRESS = "look at the connection's region and endpoint, and at the network"
_PROXY = "look at the connection's proxy"
_SOURCE = "look at where the profile or the environment has its credentials from"
_REGION = "set region in the connection, or AWS_DEFAULT_REGION"
_CODES: Mapping[str, _Make] = {
    code: make
    for codes, make in (
        # Two spellings of one thing: the query protocol's and the JSON protocol's.
        (("NonExistentQueue", "QueueDoesNotExist"), _of(QueueNotFound)),
        (("ReceiptHandleIsInvalid",), _of(MessageNotFound)),
        (("MessageNotInflight",), _of(MessageLockLost)),
        (
            ("AccessDenied", "AccessDeniedException", "KmsAccessDenied", "NotAuthorized"),
            _of(PermissionDenied),
        ),
        (
            (
                "InvalidClientTokenId",
                "UnrecognizedClientException",
                "SignatureDoesNotMatch",
                "InvalidSignatureException",
                "IncompleteSignature",
                "ExpiredToken",
                "ExpiredTokenException",
                "MissingAuthenticationToken",
                "InvalidSecurity",
                "AuthFailure",
                "InvalidAccessKeyId",
                "OptInRequired",
            ),
            _hinted(AuthenticationFailed, _REFUSED),
        ),
        (
            (
                "ThrottlingException",
                "Throttling",
                "RequestThrottled",
                "RequestThrottledException",
                "TooManyRequestsException",
                "KmsThrottled",
                "OverLimit",
            ),
            _throttled,
        ),
        (("BatchRequestTooLong", "TooManyEntriesInBatchRequest"), _of(BatchTooLarge)),
        (("InvalidMessageContents",), _of(SerializationError)),
        (("UnsupportedOperation",), lambda text, _: Unsupported(text, PROVIDER)),
    )
    for code in codes
}
_ABOUT_A_RECEIPT = ("DeleteMessage", "ChangeMessageVisibility")
"""An action that names a receipt; of it SQS FIFO calls an expired one an invalid parameter."""


def from_code(
    action: str,
    code: str,
    message: str,
    *,
    transient: bool = False,
    retry_after: float | None = None,
) -> QueueError:
    """The error for what SQS answered, for a call or for one entry of a batch.

    Args:
        action: what was called.
        code: its code, with or without what is before the last `#` or `.`.
        message: its message.
        transient: whether SQS says that it is its own fault.
        retry_after: seconds it asked to wait.
    """
    code = code.rpartition("#")[2].rpartition(".")[2]
    # The code comes last: what stands behind "ExpiredToken:" would be taken for a secret.
    text = f"{PROVIDER}: {action}: {mask_secrets(message) or 'refused'} ({code})"
    if code == "InvalidParameterValue" and action.startswith(_ABOUT_A_RECEIPT):
        return MessageLockLost(text)
    make = _CODES.get(code)
    if make is not None:
        return make(text, retry_after)
    return ProviderError(
        PROVIDER,
        code or "Unknown",
        f"{action}: {mask_secrets(message)}",
        transient=transient,
        retry_after=retry_after,
    )


def from_entry(action: str, entry: Mapping[str, Any]) -> QueueError:
    """The error for an entry of `Failed`."""
    own_fault = not entry.get("SenderFault", True)
    return from_code(
        action, str(entry.get("Code", "")), str(entry.get("Message", "")), transient=own_fault
    )


_EXCEPTIONS: tuple[tuple[type[BaseException], _Make], ...] = (
    (sdk.ConnectTimeoutError, _of(ConnectionFailed)),
    (sdk.ReadTimeoutError, _of(Timeout)),
    (sdk.SSLError, _of(ConnectionFailed)),
    (sdk.EndpointConnectionError, _hinted(ConnectionFailed, _ADDRESS)),
    (sdk.ProxyConnectionError, _hinted(ConnectionFailed, _PROXY)),
    (sdk.HTTPClientError, _of(ConnectionFailed)),
    (sdk.NoCredentialsError, _hinted(AuthenticationFailed, _KEYS)),
    (sdk.PartialCredentialsError, _of(AuthenticationFailed)),
    # Nobody refused them: who hands them out did not answer, or not with any. A run outlives that.
    (sdk.CredentialRetrievalError, _hinted(ConnectionFailed, _SOURCE)),
    (sdk.MetadataRetrievalError, _hinted(ConnectionFailed, _SOURCE)),
    (sdk.SSOError, _of(AuthenticationFailed)),
    (sdk.TokenRetrievalError, _of(AuthenticationFailed)),
    (sdk.NoRegionError, _hinted(ConfigurationError, _REGION)),
    (sdk.ProfileNotFound, _of(ConfigurationError)),
    (sdk.ConfigNotFound, _of(ConfigurationError)),
    (sdk.InvalidProxiesConfigError, _of(ConfigurationError)),
    (sdk.ConnectionError, _of(ConnectionFailed)),
    (aiohttp.ConnectionTimeoutError, _of(ConnectionFailed)),
    (aiohttp.ClientProxyConnectionError, _hinted(ConnectionFailed, _PROXY)),
    (aiohttp.ClientConnectorError, _hinted(ConnectionFailed, _ADDRESS)),
    (aiohttp.ServerTimeoutError, _of(Timeout)),
    (asyncio.TimeoutError, _of(Timeout)),
    (aiohttp.ClientError, _of(ConnectionFailed)),
    (OSError, _of(ConnectionFailed)),
)
"""The first that fits counts."""


def from_exception(action: str, error: BaseException, silence: str = "") -> QueueError:
    """The error for what a client raised; the caller raises it `from` that.

    Args:
        action: what was called.
        error: what was raised.
        silence: what to say where no answer came in time, which asyncio has no words for.
    """
    if isinstance(error, sdk.ClientError):
        return _from_answer(action, error)
    for kind, make in _EXCEPTIONS:
        if isinstance(error, kind):
            silent = isinstance(error, TimeoutError) and silence
            told = mask_secrets(str(error)).strip() or silent or type(error).__name__
            return make(f"{PROVIDER}: {action}: {told}", None)
    return ProviderError(PROVIDER, type(error).__name__, f"{action}: {mask_secrets(str(error))}")


def _from_answer(action: str, error: sdk.ClientError) -> QueueError:
    answer: Mapping[str, Any] = error.response
    told, meta = answer.get("Error", {}), answer.get("ResponseMetadata", {})
    # What is kept as the cause must not tell more than we do: a refused signature is explained
    # with the headers that were signed, the session's token among them.
    error.args = tuple(mask_secrets(str(arg)) for arg in error.args)
    if "Message" in told:
        told["Message"] = mask_secrets(str(told["Message"]))
    status = int(meta.get("HTTPStatusCode", 0))
    return from_code(
        action,
        str(told.get("Code", "")),
        str(told.get("Message", "")),
        transient=status >= 500 or status == 429,
        retry_after=seconds(meta.get("HTTPHeaders", {}).get("retry-after")),
    )


def seconds(header: str | None) -> float | None:
    """What a Retry-After header says, when it says it in seconds.

    Example:
        >>> seconds("1.5"), seconds("Wed, 21 Oct 2026 07:28:00 GMT"), seconds("inf"), seconds(None)
        (1.5, None, None, None)
    """
    try:
        found = math.inf if header is None else float(header)
    except ValueError:
        return None
    return max(0.0, found) if math.isfinite(found) else None
