"""Branded names: strings that were checked once, at the edge, and then stay plain strings.

They keep a provider's ids out of user code and a queue's name out of a session's place. Columns of
a batch hold plain strings; a view on a row brands them again without checking twice.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

from pydantic import GetCoreSchemaHandler
from pydantic_core import core_schema

from pipeline.errors import ValidationError

_QUEUE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/~-]*[A-Za-z0-9_])?\Z")


class _Name(str):
    """A string with a rule. A subclass says the rule; a wrong value never becomes an instance."""

    __slots__ = ()
    max_length: ClassVar[int] = 128
    secret: ClassVar[bool] = False

    def __new__(cls, value: str) -> Self:
        """Check the value and brand it."""
        if not isinstance(value, str):
            raise ValidationError(cls.__name__, "must be a string", cls._shown(value))
        if type(value) is cls and value:  # an empty one was branded on trust
            return value
        if not value:
            raise ValidationError(cls.__name__, "must not be empty", value)
        if len(value) > cls.max_length:
            rule = f"must have at most {cls.max_length} characters (it has {len(value)})"
            raise ValidationError(cls.__name__, rule, cls._shown(value))
        broken = cls._broken(value)
        if broken:
            raise ValidationError(cls.__name__, broken, cls._shown(value))
        return super().__new__(cls, value)

    @classmethod
    def _shown(cls, value: object) -> object:
        return "(hidden)" if cls.secret else value

    @classmethod
    def _broken(cls, value: str) -> str:
        """The rule the value breaks, or an empty string."""
        if not value.isprintable():
            return "must have printable characters only"
        return ""

    @classmethod
    def trusted(cls, value: str) -> Self:
        """Brand a value that was checked before: on rows of a batch, where checks cost too much."""
        return str.__new__(cls, value)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({'(hidden)' if self.secret else str.__repr__(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel through pickle as the same type."""
        return type(self).trusted, (str(self),)

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[Any], handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        """Let a pydantic model use the name as a field: checked there, a plain string in JSON."""
        return core_schema.no_info_after_validator_function(
            cls,
            core_schema.str_schema(strict=True),
            serialization=core_schema.to_string_ser_schema(),
        )


class QueueName(_Name):
    """A queue as the configuration names it.

    1 to 260 characters (Service Bus's limit; SQS takes 80): letters, digits and `. _ - / ~`,
    beginning and ending with a letter or digit. A wrong value is a `ValidationError`.

    Example:
        >>> QueueName("orders.fifo")
        QueueName('orders.fifo')
    """

    __slots__ = ()
    max_length = 260

    @classmethod
    def _broken(cls, value: str) -> str:
        if not _QUEUE.match(value):
            return "must be letters, digits and . _ - / ~, first and last a letter or digit"
        return ""


class MessageId(_Name):
    """What the sender calls a message: 1 to 128 printable characters. Wrong: `ValidationError`.

    Example:
        >>> MessageId("order-1")
        MessageId('order-1')
    """

    __slots__ = ()


class SessionId(_Name):
    """What orders messages: those of one session are handled one at a time, in order.

    1 to 128 printable characters; a longer key is hashed by the session-key strategies. A wrong
    value is a `ValidationError`.

    Example:
        >>> SessionId("aircraft-N14228")
        SessionId('aircraft-N14228')
    """

    __slots__ = ()


class ReceiptHandle(_Name):
    """What settles one delivery: good only in the client that received it, never in a batch.

    Example:
        >>> ReceiptHandle("c1-17")
        ReceiptHandle((hidden))
    """

    __slots__ = ()
    max_length = 4096
    secret = True


class EncryptionKeyId(_Name):
    """The id (not the material) of an encryption key: 1 to 255 bytes of printable UTF-8.

    A sealed body has one byte for its length.

    Example:
        >>> EncryptionKeyId("2026-01")
        EncryptionKeyId('2026-01')
    """

    __slots__ = ()
    max_length = 255

    @classmethod
    def _broken(cls, value: str) -> str:
        if len(value.encode(errors="replace")) > 255:
            return "must have at most 255 bytes in UTF-8"
        return super()._broken(value)
