"""What Service Bus and its SDK say went wrong, translated by a table to this project's errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import TypeAlias

import azure.core.exceptions as core
import azure.servicebus.exceptions as sdk

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
    QueueFull,
    QueueNotFound,
    SessionLocked,
    SessionLockLost,
    Throttled,
    Timeout,
    mask_secrets,
)

PROVIDER = "azure_service_bus"
UNREADABLE = "Unreadable"
"""The code where the SDK could not decode what came."""

_Make: TypeAlias = Callable[[str], QueueError]

_SDK = "azure.servicebus."
_ENGINE = "azure.servicebus._pyamqp.aio."
_DECODER = "azure.servicebus._pyamqp._decode"

_KEYS = "look at the connection's connection_string, or at the identity, and at this clock"
_RIGHTS = "the key or identity needs the right to Send, or to Listen"
_ADDRESS = "look at the connection's namespace and endpoint, and at the network"
_SESSIONS = "fifo must say whether the queue requires sessions"


def _hinted(kind: type[QueueError], hint: str) -> _Make:
    return lambda text: kind(f"{text}: {hint}")


def _own(code: str, *, transient: bool) -> _Make:
    return lambda text: ProviderError(PROVIDER, code, text, transient=transient)


_CONDITIONS: Mapping[str, _Make] = {
    "amqp:not-found": QueueNotFound,
    "amqp:resource-deleted": QueueNotFound,
    "amqp:unauthorized-access": _hinted(PermissionDenied, _RIGHTS),
    "amqp:not-allowed": _hinted(ConfigurationError, _SESSIONS),
    "amqp:resource-limit-exceeded": QueueFull,
    "amqp:link:message-size-exceeded": BatchTooLarge,
    "amqp:link:detach-forced": ConnectionFailed,
    "amqp:connection:forced": ConnectionFailed,
    "com.microsoft:message-lock-lost": MessageLockLost,
    "com.microsoft:session-lock-lost": SessionLockLost,
    "com.microsoft:session-cannot-be-locked": SessionLocked,
    "com.microsoft:message-not-found": MessageNotFound,
    "com.microsoft:server-busy": Throttled,
    "com.microsoft:timeout": Timeout,
    "com.microsoft:operation-cancelled": ConnectionFailed,
    "com.microsoft:entity-disabled": _own("EntityDisabled", transient=True),
}
"""By AMQP's error condition, where the SDK has no class for it or lets its own inside out."""

_EXCEPTIONS: tuple[tuple[type[BaseException], _Make], ...] = (
    (sdk.MessagingEntityNotFoundError, QueueNotFound),
    (sdk.ServiceBusAuthenticationError, _hinted(AuthenticationFailed, _KEYS)),
    (sdk.ServiceBusAuthorizationError, _hinted(PermissionDenied, _RIGHTS)),
    (sdk.MessageLockLostError, MessageLockLost),
    (sdk.SessionLockLostError, SessionLockLost),
    (sdk.SessionCannotBeLockedError, SessionLocked),
    (sdk.MessageNotFoundError, MessageNotFound),
    (sdk.MessageAlreadySettled, MessageNotFound),
    (sdk.MessageSizeExceededError, BatchTooLarge),
    (sdk.ServiceBusQuotaExceededError, QueueFull),
    (sdk.ServiceBusServerBusyError, Throttled),
    (sdk.OperationTimeoutError, Timeout),
    (sdk.MessagingEntityDisabledError, _own("EntityDisabled", transient=True)),
    (sdk.ServiceBusCommunicationError, _hinted(ConnectionFailed, _ADDRESS)),
    (sdk.ServiceBusConnectionError, ConnectionFailed),
    (core.ClientAuthenticationError, _hinted(AuthenticationFailed, _KEYS)),
    # Nobody refused the credentials: who hands them out did not answer.
    (core.ServiceRequestError, ConnectionFailed),
    (core.ServiceResponseError, ConnectionFailed),
    (core.HttpResponseError, ConnectionFailed),
    (asyncio.TimeoutError, Timeout),
    (OSError, ConnectionFailed),
)
"""The first that fits counts."""


def from_exception(action: str, error: BaseException) -> QueueError:
    """The error for what the SDK raised; the caller raises it `from` that.

    Args:
        action: what was called.
        error: what was raised.
    """
    if isinstance(error, QueueError):
        return error
    told = mask_secrets(str(error)).strip() or type(error).__name__
    text = f"{PROVIDER}: {action}: {told}"
    cause = getattr(error, "inner_exception", None) or error
    disguised = _disguised(text, error, _kinds(cause))
    if disguised is not None:
        return disguised
    # What it knows nothing of the SDK wraps: then what is inside counts.
    judged = cause if type(error) is sdk.ServiceBusError else error
    for kind, make in _EXCEPTIONS:
        if isinstance(judged, kind):
            return make(text)
    condition = condition_of(error)
    if condition in _CONDITIONS:
        return _CONDITIONS[condition](text)
    if "AMQPConnectionError" in _kinds(error) or (not condition and _of_the_engine(judged)):
        return ConnectionFailed(text)
    # Of what nobody has a name for the SDK says whether it would try again.
    transient = bool(getattr(error, "_retryable", False))
    return ProviderError(PROVIDER, condition or type(error).__name__, text, transient=transient)


def _disguised(text: str, error: BaseException, inner: list[str]) -> QueueError | None:
    """The error for what the SDK wraps in one that says something else; None for all others."""
    if "TokenAuthFailure" in inner or "TokenExpired" in inner:
        return AuthenticationFailed(f"{text}: {_KEYS}")
    if "AuthenticationException" in inner:  # what the SDK calls a WebSocket that can't be opened
        return ConnectionFailed(f"{text}: {_ADDRESS}")
    if _of_the_decoder(error):
        # Not for ever: the service counts it, and has it no more one day.
        return ProviderError(PROVIDER, UNREADABLE, text, transient=True)
    return None


def condition_of(error: BaseException) -> str:
    """AMQP's condition of an error, as in `amqp:not-found`; "" where there is none."""
    found = getattr(error, "_condition", None) or getattr(error, "condition", None)
    found = getattr(found, "value", found)
    return found.decode(errors="replace") if isinstance(found, bytes) else str(found or "")


def _of_the_engine(error: BaseException) -> bool:
    """Whether the SDK's engine raised it: a link or connection that ended under a call.

    It has a bare ValueError for that, or stumbles over what is gone. (What it can't encode, which
    is a message's fault, comes from another package of it.)
    """
    module = _raised_in(error)
    stumbled = isinstance(error, AttributeError) and module.startswith(_SDK)
    return stumbled or module.startswith(_ENGINE)


def _of_the_decoder(error: BaseException | None) -> bool:
    """Whether something came that the SDK can't decode; it wraps that, and may shorten it."""
    while error is not None:
        if _raised_in(error) == _DECODER:
            return True
        error = getattr(error, "inner_exception", None) or error.__cause__
    return False


def _raised_in(error: BaseException) -> str:
    """The module that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))


def _kinds(error: BaseException) -> list[str]:
    """The names of an error's classes: those inside the SDK can't be imported from it."""
    return [kind.__name__ for kind in type(error).__mro__]
