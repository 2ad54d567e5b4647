"""The one tree of errors: what went wrong, whether trying again can help, and what to do.

Every error under `QueueError` says two things a program may act on: `transient` (the same call may
succeed later) and `retry_after` (seconds the other side asked us to wait, when it said so). Nothing
in this project acts on an error's text. An SDK's exception stays the `__cause__`; because pickling
drops `__cause__`, `causes` keeps the chain as (type, message) pairs with secrets masked.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

_SECRETS = re.compile(
    r"(?i)((?:shared\s*access\s*key|account\s*key|secret|password|passwd|token|sig|signature"
    r"|api[-_]?key|access[-_]?key)[\w-]*[\"']?\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s;,&\"']+)"
)
_MASK = r"\1***"


def mask_secrets(text: str) -> str:
    """Replace what looks like `key=secret` in a text by `key=***`.

    Example:
        >>> mask_secrets("Endpoint=sb://x/;SharedAccessKey=abc;Other=1")
        'Endpoint=sb://x/;SharedAccessKey=***;Other=1'
    """
    return _SECRETS.sub(_MASK, text)


def _chain(error: BaseException) -> tuple[tuple[str, str], ...]:
    found: list[tuple[str, str]] = []
    seen = {id(error)}
    below = _below(error)
    while below is not None and id(below) not in seen:
        seen.add(id(below))
        found.append((type(below).__name__, mask_secrets(str(below))))
        kept = below.__dict__.get("_causes")
        if isinstance(below, QueueError) and kept is not None:
            found.extend(kept)  # it came pickled: its chain is kept there alone
            break
        below = _below(below)
    return tuple(found)


def _below(error: BaseException) -> BaseException | None:
    if error.__cause__ is not None or error.__suppress_context__:
        return error.__cause__
    return error.__context__


def rebuild(cls: type[QueueError], fields: dict[str, Any]) -> QueueError:
    """Make an error of what it was pickled as, without its constructor.

    Args:
        cls: its kind.
        fields: its attributes, `args` among them.
    """
    error = cls.__new__(cls)
    Exception.__init__(error, *fields.pop("args"))
    error.__dict__.update(fields)
    return error


class QueueError(Exception):
    """What every error of queue-runtime is; catch it to catch them all.

    Args:
        message: what was wrong, with what value, and what to do.
        retry_after: seconds the other side asked us to wait before the next try, if it did.

    Example:
        >>> QueueError("no answer", retry_after=2.0).retry_after
        2.0
    """

    transient: ClassVar[bool] = False

    def __init__(self, message: str = "", *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    @property
    def causes(self) -> tuple[tuple[str, str], ...]:
        """The chain below this error as (type name, message), secrets masked; survives pickling."""
        kept: tuple[tuple[str, str], ...] | None = self.__dict__.get("_causes")
        return kept if kept is not None else _chain(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without calling the constructor: the kinds have constructors of their own."""
        fields = dict(self.__dict__)
        fields["args"] = self.args
        fields["_causes"] = self.causes
        return rebuild, (type(self), fields)


class QueueNotFound(QueueError):
    """The queue does not exist at the provider, or the configuration does not name it.

    Example:
        >>> QueueNotFound("no queue 'ordrs'").transient
        False
    """


class MessageNotFound(QueueError):
    """The receipt is stale or unknown: the message was settled already, or never received here.

    Example:
        >>> MessageNotFound("settled already").transient
        False
    """


class SessionLocked(QueueError):
    """Another receiver holds this session: wait until it lets go, or accept another one.

    Example:
        >>> SessionLocked("held elsewhere").transient
        True
    """

    transient = True


class SessionNotFound(QueueError):
    """No session could be accepted within the wait, or the holding given is not a held one.

    Example:
        >>> SessionNotFound("none came free").transient
        False
    """


class SessionLockLost(QueueError):
    """The lock on the session ended: its messages come again; drop what was not settled.

    Example:
        >>> SessionLockLost("the lock ended").transient
        False
    """


class MessageLockLost(QueueError):
    """The lock on the message ended before it was settled: the message comes again.

    Example:
        >>> MessageLockLost("the lock ended").transient
        False
    """


class Timeout(QueueError):
    """The other side did not answer in time: whether it acted is unknown.

    Example:
        >>> Timeout("no answer in 10 s").transient
        True
    """

    transient = True


class ConnectionFailed(QueueError):
    """The provider could not be reached, or the connection broke: check address and network.

    Example:
        >>> ConnectionFailed("refused").transient
        True
    """

    transient = True


class AuthenticationFailed(QueueError):
    """The provider refused the credentials: check the secret reference they come from.

    Example:
        >>> AuthenticationFailed("bad signature").transient
        False
    """


class PermissionDenied(QueueError):
    """The credentials are good but may not do this: grant the right named in the message.

    Example:
        >>> PermissionDenied("Listen is needed").transient
        False
    """


class MessageTooLarge(QueueError):
    """One message is larger than the queue takes: make it smaller, or raise the queue's limit.

    Args:
        size: the message's size in bytes.
        max_size: the largest the queue takes, in bytes.

    Example:
        >>> MessageTooLarge(300, 256).max_size
        256
    """

    def __init__(self, size: int, max_size: int) -> None:
        super().__init__(
            f"the message has {size} bytes, the queue takes at most {max_size}: make it smaller, "
            "or raise the queue's limit (max_message_size in memory, MaximumMessageSize at SQS)"
        )
        self.size = size
        self.max_size = max_size


class BatchTooLarge(QueueError):
    """A batch is over what one call may carry: send it in parts.

    Example:
        >>> BatchTooLarge("11 entries, 10 fit").transient
        False
    """


class Throttled(QueueError):
    """The provider asks to go slower: wait `retry_after` seconds if given, then try again.

    Example:
        >>> Throttled("slow down", retry_after=4.0).retry_after
        4.0
    """

    transient = True


class QueueFull(QueueError):
    """The queue holds as much as it may: try again when messages were handled.

    Example:
        >>> QueueFull("1,000,000 messages").transient
        True
    """

    transient = True


class CircuitOpen(QueueError):
    """The connection's circuit breaker is open: the call was not made; try after `retry_after`.

    Example:
        >>> CircuitOpen("tried in 30 s", retry_after=30.0).retry_after
        30.0
    """

    transient = True


class Unsupported(QueueError):
    """The provider has no such operation on this queue.

    Args:
        operation: what was asked for.
        provider: the provider (and queue) that lacks it.
        hint: what to do instead, if there is something.

    Example:
        >>> Unsupported("defer", "aws_sqs").operation
        'defer'
    """

    def __init__(self, operation: str, provider: str, hint: str = "") -> None:
        super().__init__(f"{provider} does not support {operation}" + (f": {hint}" if hint else ""))
        self.operation = operation
        self.provider = provider


class Closed(QueueError):
    """The object was closed before this call: make a new one.

    Example:
        >>> Closed("the client was closed").transient
        False
    """


class StateConflict(QueueError):
    """Somebody else wrote this session's state in the meantime: this handler lost the session.

    Example:
        >>> StateConflict("version 4, not 3").transient
        False
    """


class HandlerTimeout(QueueError):
    """The handler ran longer than its time-out; it counts as an attempt.

    Example:
        >>> HandlerTimeout("ran longer than 300 s").transient
        False
    """


class UnencryptedMessage(QueueError):
    """A plain message came where only sealed ones are accepted.

    Example:
        >>> UnencryptedMessage("plain").transient
        False
    """


class ProviderError(QueueError):
    """The provider answered with an error that no other kind describes.

    Args:
        provider: which provider.
        code: its error code.
        message: its message.
        transient: True when the provider says, or its code means, that trying again may help.
        retry_after: seconds it asked to wait, if it did.

    Example:
        >>> ProviderError("aws_sqs", "InternalError", "try again", transient=True).transient
        True
    """

    def __init__(
        self,
        provider: str,
        code: str,
        message: str,
        *,
        transient: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{provider}: {code}: {message}", retry_after=retry_after)
        self.provider = provider
        self.code = code
        self.transient = transient  # type: ignore[misc] # decided by the provider's code


class SerializationError(QueueError):
    """Bytes that should hold a batch, a state or a body do not.

    Example:
        >>> SerializationError("no batch").transient
        False
    """


class ConfigurationError(QueueError):
    """The configuration is wrong, or something it needs is not installed; the message says what.

    Example:
        >>> ConfigurationError("queues: is missing").transient
        False
    """


class ValidationError(QueueError, ValueError):
    """A value breaks a rule. Also a ValueError, so that pydantic reports it with its path.

    Args:
        field: the name of what was given.
        rule: what is allowed.
        value: the offending value (never a secret); shown cut to 80 characters.

    Example:
        >>> str(ValidationError("QueueName", "must not be empty", ""))
        "QueueName must not be empty; got ''"
    """

    def __init__(self, field: str, rule: str, value: object = None) -> None:
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{field} {rule}; got {shown}")
        self.field = field
        self.rule = rule
        self.value = value if isinstance(value, (str, int, float, bool, type(None))) else shown


class CryptoError(QueueError):
    """Sealing or opening a body failed: its kinds say why. None carries key bytes or plaintext.

    Example:
        >>> issubclass(MessageExpired, CryptoError)
        True
    """


class KeyNotFound(CryptoError):
    """No key of this id can be had: distribute it, or bring the key provider back.

    Args:
        key_id: the key's id.
        why: what the key provider said, if anything.

    Example:
        >>> KeyNotFound("2026-11").key_id
        '2026-11'
    """

    transient = True

    def __init__(self, key_id: str, why: str = "") -> None:
        told = why or "the key provider has none of that id: distribute it to this process"
        super().__init__(f"encryption key {str(key_id)!r} can't be had: {told}")
        self.key_id = str(key_id)


class BodyAuthenticationFailed(CryptoError, AuthenticationFailed):
    """A sealed body does not fit its message: it was altered, or belongs to another one.

    Or the key of that id is not the one that sealed it. `pipeline.crypto` has it under the name of
    `AuthenticationFailed`, which it is one of.

    Example:
        >>> issubclass(BodyAuthenticationFailed, AuthenticationFailed)
        True
    """


class MessageExpired(CryptoError):
    """A sealed body was too old when its message was sent: somebody sent an old one again.

    Example:
        >>> MessageExpired("sealed 3,600 s before it was sent").transient
        False
    """


class UnsupportedVersion(CryptoError):
    """A sealed body has a form that this version does not know: upgrade this reader.

    Args:
        version: the form's number.

    Example:
        >>> UnsupportedVersion(2).version
        2
    """

    def __init__(self, version: int) -> None:
        super().__init__(
            f"the sealed body has version {version}, and this reader knows 1: upgrade it"
        )
        self.version = version


class InvalidEnvelope(CryptoError):
    """A body begins like a sealed one and is none: it was cut or altered on its way.

    Example:
        >>> InvalidEnvelope("cut after 7 bytes").transient
        False
    """


class NonceReused(CryptoError):
    """A sealed body came a second time, in another message: somebody sent it again.

    Example:
        >>> NonceReused("seen in sequence 7").transient
        False
    """


class EncryptionFailed(CryptoError):
    """A body could not be sealed; nothing was sent.

    Example:
        >>> EncryptionFailed("the key was closed").transient
        False
    """
