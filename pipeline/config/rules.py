"""The rules that the models' values keep, in types, and the model that all others derive from."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from pipeline.config.references import Problem

MAX_LOCK: Final = 43_200.0
"""Seconds: no provider keeps a lock longer than 12 h (SPEC H6, P13)."""

Count = Annotated[int, Field(ge=1)]
Few = Annotated[int, Field(ge=1, le=64)]
"""Actors of a kind: there are 64 slots, and a 65th handler or router would have none."""
Seconds = Annotated[float, Field(ge=0)]
SomeSeconds = Annotated[float, Field(gt=0)]
LockSeconds = Annotated[float, Field(gt=0, le=MAX_LOCK)]


def matching(pattern: str, rule: str) -> AfterValidator:
    """A rule for text that an error can say in words."""
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value):
            return value
        raise PydanticCustomError("problem", "{text}", {"text": f"must be {rule}"})

    return AfterValidator(check)


_IDENTIFIERS = r"[^\W\d]\w*(\.[^\W\d]\w*)*"

RunName = Annotated[
    str,
    matching(
        r"[a-z0-9][a-z0-9-]{0,62}",
        "1 to 63 small letters, digits and -, the first a letter or digit",
    ),
]
Name = Annotated[
    str,
    matching(
        r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}",
        "1 to 63 letters, digits and _ . -, the first a letter or digit",
    ),
]
ObjectPath = Annotated[
    str,
    matching(f"{_IDENTIFIERS}:{_IDENTIFIERS}", "'module:attribute', as in app.handlers:on_order"),
]
ExceptionName = Annotated[
    str, matching(_IDENTIFIERS, "an exception's dotted name, as in app.errors.Permanent")
]
SecretReference = Annotated[
    str,
    matching(
        r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+",
        "a reference to the secret, env:NAME or file:/path, never the secret itself",
    ),
]


def error_of(*problems: Problem) -> ValidationError:
    """Problems as pydantic's own error, which keeps each one's path when a validator raises it."""
    return ValidationError.from_exception_data(
        "configuration",
        [
            InitErrorDetails(
                type=PydanticCustomError("problem", "{text}", {"text": problem.text}),
                loc=problem.path,
                input=problem.value,
            )
            for problem in problems
        ],
    )


class Model(BaseModel):
    """What all models here share: unknown keys and wrong types are errors, nothing changes later.

    Strict, because `receivers: "2"` or `fifo: 1` is more often a slip than a wish. Inputs are
    hidden in pydantic's own texts: wording.py shows them, masked.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


class QueueModel(Model):
    """What sealing has to know of any queue; a provider says where it differs."""

    def size_of_binary(self, size: int) -> int:
        """How many bytes a body that is no text takes: as many as it has."""
        return size

    @property
    def stamps_start(self) -> bool:
        """Whether a scheduled message counts as sent at the time that it is scheduled for."""
        return True
