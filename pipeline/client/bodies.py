"""Typed bodies at the edge: a pydantic object becomes JSON, and JSON is checked against a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pydantic

from pipeline.errors import ValidationError
from pipeline.message import Message

JSON = "application/json"


def json_message(body: pydantic.BaseModel, **fields: Any) -> Message:
    """Make a message whose body is a pydantic object, as JSON in UTF-8.

    Args:
        body: the object; its content type is `application/json` unless `fields` says otherwise.
        fields: the other fields of `Message`: `session`, `id`, `attributes` and so on.

    Raises:
        ValidationError: a field breaks a rule of `Message`.

    Example:
        >>> class Order(pydantic.BaseModel):
        ...     lines: int
        >>> message = json_message(Order(lines=2), session="customer-7")
        >>> message.body, message.content_type, message.session
        (b'{"lines":2}', 'application/json', SessionId('customer-7'))
    """
    fields.setdefault("content_type", JSON)
    return Message(body.model_dump_json().encode(), **fields)


def messages_of(
    given: Sequence[Message | pydantic.BaseModel], model: type[pydantic.BaseModel] | None
) -> list[Message]:
    """The messages to send, each checked against the model if there is one.

    Raises:
        ValidationError: one is no message, or its body is not what the model says; the message
            names its position. Nothing was sent.
    """
    return [_message_of(at, one, model) for at, one in enumerate(given)]


def _message_of(
    at: int, one: Message | pydantic.BaseModel, model: type[pydantic.BaseModel] | None
) -> Message:
    if isinstance(one, pydantic.BaseModel):
        one = json_message(one)
    if not isinstance(one, Message):
        rule = "must be a Message or a pydantic object"
        raise ValidationError(f"messages[{at}]", rule, type(one).__name__)
    if model is None:
        return one
    try:
        model.model_validate_json(one.body)
    except pydantic.ValidationError as error:
        size = f"{len(one.body)} bytes"
        raise ValidationError(f"messages[{at}].body", _rule(model, error), size) from None
    return one if one.content_type else replace(one, content_type=JSON)


def _rule(model: type[pydantic.BaseModel], error: pydantic.ValidationError) -> str:
    """What the body breaks, without what it holds: that may be secret."""
    first = error.errors(include_input=False, include_context=False, include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"must be a {model.__name__}: {where + ': ' if where else ''}{first['msg']}{more}"
