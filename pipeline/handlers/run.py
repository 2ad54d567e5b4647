"""One run of a user's handler on one message: what it is given, and what its result means.

It owns the reading of bodies, the writing of states and the verdict on a result (SPEC H2, H5). It
knows nothing of sessions, batches between actors or settlement.
"""

from __future__ import annotations

import inspect
import json
import socket
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from operator import itemgetter
from typing import Any

from pydantic import TypeAdapter
from pydantic import ValidationError as PydanticError

from pipeline.batch import MessageBatch
from pipeline.errors import (
    CryptoError,
    SerializationError,
    UnencryptedMessage,
    ValidationError,
    mask_secrets,
)
from pipeline.handlers.api import Context, Handler, Keeping, Reject, Retry, Signals
from pipeline.message import Delivery
from pipeline.outcomes import Reason
from pipeline.retry import RetryPolicy

_DESCRIPTION = 4096
_MESSAGE = 1024
_NAME = 256
_OURS = (CryptoError, UnencryptedMessage)
"""Errors whose texts hold nothing of a message."""
_GIVEN = ("body", "state", "context")


@dataclass(frozen=True, slots=True)
class Raised:
    """A handler's call that ended with an exception."""

    error: BaseException


class InvalidBody(Exception):
    """The body is not what the handler takes; the validation error is the cause."""


class HandlerDied(Exception):
    """The process that ran the message died of it, or had to be killed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a result that isn't success means.

    Args:
        retry: seconds to wait before it is handled again; None: it is dead-lettered.
        reason: the dead letter's code.
        error: what it failed with, if anything.
        words: the user's reason of a rejection.
    """

    retry: float | None
    reason: str = ""
    error: BaseException | None = None
    words: str = ""


class StateCodec:
    """Makes, writes and reads a handler's state.

    Args:
        kind: the state's type.
        kept: its version, how older ones are read, and how long it lives.
    """

    def __init__(self, kind: type[Any], kept: Keeping) -> None:
        self.new = kind
        self.version = kept.version
        self.ttl = kept.ttl
        self._migrate = kept.migrate
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        # A value that doesn't fit its field is an error now, not when the state is read again.
        self.dump: Callable[[Any], bytes] = partial(adapter.dump_json, warnings="error")
        self._read: Callable[[bytes], Any] = adapter.validate_json

    def load(self, data: bytes, version: int) -> Any:
        """Read a state that was written with this version of its type.

        Raises:
            SerializationError: it doesn't fit the type; or the version is newer, or older and there
                is no migration, or that raises.
        """
        if version == self.version:
            try:
                return self._read(data)
            except Exception as error:
                raise SerializationError(
                    f"it doesn't fit the type ({type(error).__name__}: {error}): where that has "
                    "changed, raise @handler's version and give it a migrate function"
                ) from error
        if version > self.version:
            raise SerializationError(
                f"it was written with version {version} and this handler knows {self.version}: "
                "run the newer handler"
            )
        if self._migrate is None:
            raise SerializationError(
                f"it was written with version {version} and this handler's is {self.version}: "
                "give @handler a migrate function"
            )
        try:
            return self._read(json.dumps(self._migrate(json.loads(data), version)).encode())
        except Exception as error:
            raise SerializationError(
                f"the migrate function did not make it of version {version} "
                f"({type(error).__name__}: {error}): mend it"
            ) from error


class Runner:
    """Runs one handler; one object a handler actor.

    Args:
        handler: what `@handler` made.
        retry: the attempts and delays (H5).
        exceptions: kind of exception, its subclasses too, to "retry" or "reject".
        signals: what running code is told.
        chance: gives the jitter.
        redacted: whether a dead letter tells of an exception only its type and a hash of its text:
            what users' code says may hold what a sealed body held.
    """

    def __init__(
        self,
        handler: Handler,
        retry: RetryPolicy,
        exceptions: Mapping[type[BaseException], str],
        signals: Signals,
        chance: Callable[[], float],
        *,
        redacted: bool = False,
    ) -> None:
        self._redacted = redacted
        self.handler = handler
        self.signals = signals
        self.codec = None if handler.state is None else StateCodec(handler.state, handler.kept)
        self.most_attempts = retry.max_attempts
        self._retry = retry
        self._exceptions = exceptions
        self._chance = chance
        function = handler.function
        made: Any = function() if inspect.isclass(function) else function
        self.call: Callable[..., Any] = made
        self._read = _reader(handler.body)
        self._order = handler.arguments
        self._takes_body = "body" in handler.arguments
        self._takes_bytes = self._takes_body and self._read is None and handler.body is not Delivery
        self._pick = _picker(handler.arguments)

    def arguments(
        self, batch: MessageBatch, row: int, state: Any, context: Context
    ) -> tuple[Any, ...]:
        """What the user's function is called with for one message.

        Raises:
            InvalidBody: the body is not what the handler takes.
        """
        body = None
        if self._takes_bytes:
            body = batch.values("body")[row]
        elif self._takes_body:
            body = self._body(batch, row)
        return self._pick((body, state, context))

    def batch_arguments(self, rows: MessageBatch, states: Any, context: Context) -> tuple[Any, ...]:
        """What a batch handler is called with."""
        known = {"rows": rows, "states": states, "context": context}
        return tuple(known[kind] for kind in self._order)

    def _body(self, batch: MessageBatch, row: int) -> Any:
        if self._read is None:
            return self.signals.delivery(batch, row)
        try:
            return self._read(batch.values("body")[row])
        except (PydanticError, UnicodeDecodeError) as error:
            raise InvalidBody from error

    def verdict(self, result: Any, attempt: int) -> Verdict | None:
        """What a result means; None is success.

        Args:
            result: what the call returned, or `Raised`.
            attempt: which attempt this was, 1 the first.
        """
        if result is None:
            return None
        if isinstance(result, Raised):
            return self.failed(result.error, attempt)
        if isinstance(result, BaseException):
            return self.failed(result, attempt)
        if inspect.isclass(result) and issubclass(result, BaseException):
            rule = f"returned the class {result.__name__}: make it an instance, as Retry(5)"
            return self._again(attempt, ValidationError(self.handler.name, rule, result), None)
        if inspect.isawaitable(result):
            rule = "is not async, yet returned something to await: make it async"
            return self._again(attempt, ValidationError(self.handler.name, rule, result), None)
        return None

    def failed(self, error: BaseException, attempt: int) -> Verdict:
        """What an exception means, returned or raised."""
        if isinstance(error, InvalidBody):
            return Verdict(None, Reason.INVALID_BODY, error.__cause__)
        if isinstance(error, Reject):
            return Verdict(None, Reason.REJECTED, words=error.reason)
        if isinstance(error, Retry):
            return self._again(attempt, error, error.delay)
        if self._rule(error) == "reject":
            return Verdict(None, Reason.REJECTED, error)
        return self._again(attempt, error, None)

    def _again(self, attempt: int, error: BaseException, delay: float | None) -> Verdict:
        if attempt >= self._retry.max_attempts:
            return Verdict(None, Reason.ATTEMPTS, error)
        if delay is None:
            delay = self._retry.delay(attempt, self._chance())
        return Verdict(delay, error=error)

    def _rule(self, error: BaseException) -> str:
        kinds = type(error).__mro__
        return next((self._exceptions[kind] for kind in kinds if kind in self._exceptions), "retry")

    def describe(self, verdict: Verdict, attempts: int, first_at: float, last_at: float) -> str:
        """A dead letter's description: compact JSON, identifiers first, the stack last, cut."""
        facts: dict[str, Any] = {
            "handler": _cut(self.handler.name, _NAME),
            "attempts": attempts,
            "first_failure": round(first_at, 3),
            "last_failure": round(last_at, 3),
            "host": _cut(socket.gethostname(), _NAME),
        }
        if self._redacted and not isinstance(verdict.error, _OURS):
            return _compact(facts | _redacted(verdict))
        if verdict.words:
            facts["reason"] = _cut(mask_secrets(verdict.words), _MESSAGE)
        if verdict.error is not None:
            facts["error"] = _cut(type(verdict.error).__qualname__, _NAME)
            facts["message"] = _cut(mask_secrets(_text_of(verdict.error)), _MESSAGE)
            stack = "".join(traceback.format_exception(verdict.error, limit=-4))
            room = _DESCRIPTION - len(_compact(facts | {"stack": ""}))
            facts["stack"] = _cut(mask_secrets(stack), room, tail=True)
        return _compact(facts)


def _redacted(verdict: Verdict) -> dict[str, str]:
    """What is told of a failure where its text may hold what nobody may read: enough to compare."""
    facts = {}
    if verdict.words:
        facts["reason_hash"] = _hash(verdict.words)
    if verdict.error is not None:
        facts["error"] = _cut(type(verdict.error).__qualname__, _NAME)
        facts["message_hash"] = _hash(_text_of(verdict.error))
    return facts


def _hash(text: str) -> str:
    return blake2b(text.encode(errors="backslashreplace"), digest_size=16).hexdigest()


def _picker(names: Sequence[str]) -> Callable[[tuple[Any, Any, Any]], tuple[Any, ...]]:
    """What takes from (body, state, context) what a function is called with."""
    places = [_GIVEN.index(name) for name in names if name in _GIVEN]
    if len(places) > 1:
        return itemgetter(*places)
    return lambda given: tuple([given[place] for place in places])


def _compact(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, separators=(",", ":"), ensure_ascii=False)


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - the user's own __str__ may raise anything
        return f"(its text can't be had: {type(broken).__qualname__})"


def _cut(text: str, most: int, *, tail: bool = False) -> str:
    """The text's beginning, or its end, that takes at most so many characters within JSON."""
    text = text.encode(errors="backslashreplace").decode()
    while (size := len(json.dumps(text, ensure_ascii=False)) - 2) > most:
        keep = len(text) * most // size
        text = text[len(text) - keep :] if tail else text[:keep]
    return text


def _reader(body: Any) -> Callable[[bytes], Any] | None:
    """What makes of a body what the handler takes; None: nothing has to."""
    if body is None or body is bytes or body is Delivery:
        return None
    if body is str:
        return _text
    adapter: TypeAdapter[Any] = TypeAdapter(body)
    return adapter.validate_json


def _text(body: bytes) -> str:
    return body.decode()
