"""Session keys: how a message that is to be sent gets its session (SPEC M4).

A strategy reads a message and gives the id of its session, or None for no session. Called with a
message it gives the message in that session. A field is a path into the JSON body (`order.id`), or
`attribute:NAME`. A body that is no JSON, a field that is missing, null, empty, an object or a list
has no answer; numbers and booleans count as their JSON text, so 7 and "7" are one session.

Strategies are values: equal when made equal, and they travel through pickle as far as the callable
in them does.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, NoReturn

from pipeline.errors import ValidationError
from pipeline.message import Message
from pipeline.names import SessionId

ORIGINAL = "session-original"
"""The attribute that keeps an id that was too long to be one."""

_ATTRIBUTE = "attribute:"

SPREAD_PREFIX = "spread-"
"""What the sessions begin with that `sessionless: spread` gives."""

_SPREAD = 64


class Source:
    """A message whose body is parsed at most once, however many fields are asked for."""

    def __init__(self, message: Message) -> None:
        self.message = message

    @cached_property
    def _body(self) -> Any:
        try:
            return json.loads(self.message.body, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return None

    def get(self, field: str) -> str | None:
        """What a field says, as text; None when it has no answer."""
        if field.startswith(_ATTRIBUTE):
            return self.message.attributes.get(field.removeprefix(_ATTRIBUTE)) or None
        value = self._body
        for step in field.split("."):
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, str):
            return value or None
        return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


class SessionKey(ABC):
    """A strategy: one of the kinds below; `Computed` takes a function of yours."""

    @abstractmethod
    def answer(self, source: Source) -> str | None:
        """The id, or None."""

    def key(self, message: Message) -> str | None:
        """The id this strategy finds in a message, as it is, however long; None: no session."""
        return self.answer(Source(message))

    def __call__(self, message: Message) -> Message:
        """The message in the session this strategy finds, or in none; one it had is replaced.

        An id over 128 characters becomes its hash (BLAKE2b, 64 hexadecimal digits), and the
        attribute `session-original` keeps it.

        Raises:
            ValidationError: the id has characters that can't be printed, or half of one.
        """
        key = self.key(message)
        if key is None:
            return replace(message, session=None)
        if len(key) <= SessionId.max_length:
            return message.with_session(key)
        try:
            hashed = blake2b(key.encode(), digest_size=32).hexdigest()
        except UnicodeEncodeError:  # JSON can write half of a character; no queue can carry it
            raise ValidationError("session key", "must be text UTF-8 can hold", key[:20]) from None
        attributes = {**message.attributes, ORIGINAL: key}
        return replace(message, session=SessionId(hashed), attributes=attributes)


def _check_field(field: object) -> None:
    name = field.removeprefix(_ATTRIBUTE) if isinstance(field, str) else ""
    if not name or (name == field and "" in name.split(".")):
        raise ValidationError("field", "must be a path as in 'order.id' or 'attribute:NAME'", field)


@dataclass(frozen=True, slots=True)
class Field(SessionKey):
    """The session is what one field says.

    Args:
        field: a path into the JSON body, or `attribute:NAME`.
        prefix: put before it, so that two kinds of sessions in a queue can't meet.

    Raises:
        ValidationError: the path is empty or has an empty step.

    Example:
        >>> strategy = Field("flight.tail", prefix="aircraft-")
        >>> strategy(Message(b'{"flight": {"tail": "N14228"}}')).session
        SessionId('aircraft-N14228')
        >>> strategy(Message(b"not JSON")).session is None
        True
    """

    field: str
    prefix: str = ""

    def __post_init__(self) -> None:
        _check_field(self.field)

    def answer(self, source: Source) -> str | None:
        """The prefix and the field's value."""
        value = source.get(self.field)
        return None if value is None else self.prefix + value


@dataclass(frozen=True, slots=True, init=False)
class Composite(SessionKey):
    r"""The session is what several fields say together; all of them must have an answer.

    They are joined by `|`; in a value `|` is written `\|` and `\` is written `\\`, so that no two
    different lists of values make one id.

    Args:
        fields: at least one field, as `Field` takes it.

    Raises:
        ValidationError: there is no field, or one has an empty step.

    Example:
        >>> strategy = Composite("attribute:tenant", "order")
        >>> strategy(Message(b'{"order": 7}', attributes={"tenant": "a|b"})).session
        SessionId('a\\|b|7')
    """

    fields: tuple[str, ...]

    def __init__(self, *fields: str) -> None:
        object.__setattr__(self, "fields", fields)
        if not fields:
            raise ValidationError("fields", "must be at least one", 0)
        for field in fields:
            _check_field(field)

    def answer(self, source: Source) -> str | None:
        """The fields' values, joined."""
        values = [source.get(field) for field in self.fields]
        escaped = [value.replace("\\", "\\\\").replace("|", "\\|") for value in values if value]
        return "|".join(escaped) if len(escaped) == len(values) else None


@dataclass(frozen=True, slots=True, init=False)
class FirstOf(SessionKey):
    """The session is what the first strategy says that has an answer.

    Args:
        strategies: at least one, asked in this order.

    Raises:
        ValidationError: there is none.

    Example:
        >>> strategy = FirstOf(Field("tail"), Field("attribute:airline"))
        >>> strategy(Message(b'{"tail": null}', attributes={"airline": "UA"})).session
        SessionId('UA')
    """

    strategies: tuple[SessionKey, ...]

    def __init__(self, *strategies: SessionKey) -> None:
        object.__setattr__(self, "strategies", strategies)
        if not strategies:
            raise ValidationError("strategies", "must be at least one", 0)

    def answer(self, source: Source) -> str | None:
        """The first answer; strategies after it are not asked."""
        answers = (strategy.answer(source) for strategy in self.strategies)
        return next((answer for answer in answers if answer is not None), None)


@dataclass(frozen=True, slots=True)
class NoSession(SessionKey):
    """No session, so no order; one that the message had is taken away.

    Example:
        >>> NoSession()(Message(b"", session="s")).session is None
        True
    """

    def answer(self, source: Source) -> str | None:  # noqa: ARG002 - nothing is looked at
        """None."""
        return None


@dataclass(frozen=True, slots=True)
class Computed(SessionKey):
    """The session is what a function of yours says.

    Args:
        function: takes the message and gives the id, or None or an empty text for no session. What
            it raises is the sender's to see: a strategy hides no error of yours.

    Raises:
        ValidationError: when called: the function gave something that is no text.

    Example:
        >>> Computed(lambda message: message.body[:2].hex())(Message(b"hello")).session
        SessionId('6865')
    """

    function: Callable[[Message], str | None]

    def answer(self, source: Source) -> str | None:
        """What the function says."""
        answer = self.function(source.message)
        if answer is not None and not isinstance(answer, str):
            kind = type(answer).__name__
            raise ValidationError("session key", "must be a string or None", kind)
        return answer or None


def spread_session(message_id: str) -> str:
    """The one of 64 sessions that a message without one gets under `sessionless: spread`.

    Example:
        >>> spread_session("order-1")
        'spread-61'
    """
    digest = blake2b(message_id.encode(), digest_size=8).digest()
    return f"{SPREAD_PREFIX}{int.from_bytes(digest) % _SPREAD:02d}"
