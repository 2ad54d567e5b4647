"""Saying what is wrong with a configuration: path, what is allowed, value, with secrets masked.

Pydantic finds the problems; its words are about inputs and types, ours about keys and values.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.config.crypto import keys_model_of
from pipeline.config.models import RuntimeConfig
from pipeline.config.providers import model_of
from pipeline.config.references import Problem, closest
from pipeline.config.secrets import looks_secret, masked_setting, shown
from pipeline.errors import ValidationError as BrokenRule

_WORDS = {
    "missing": "missing: this key is required",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "string_type": "must be text (in quotes, where YAML takes it for something else)",
    "model_type": "must be a mapping of keys to values",
    "dict_type": "must be a mapping of names to values",
    "too_short": "must name at least one",
    "invalid_key": "a key must be text: put it in quotes",
    "finite_number": "must be a finite number",
}
_NO_VALUE = object()
_QUOTED = re.compile(r"'([^']*)'")


def problems(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    """Pydantic's findings in our words, in its order.

    Args:
        error: what it found.
        data: the configuration that it judged.
    """
    return [_problem(details, data) for details in error.errors(include_url=False)]


def _problem(details: ErrorDetails, data: Mapping[str, Any]) -> Problem:
    path, kind = details["loc"], details["type"]
    if kind == "missing":
        return Problem(path, _WORDS[kind], _NO_VALUE)  # the input is what the key is missing from
    if kind == "extra_forbidden":
        return Problem(path, _unknown_key(path, data), details["input"])
    if path[-1:] == ("[key]",):
        return Problem(path[:-1], f"this name {_text(details)}", _NO_VALUE)
    return Problem(path, _text(details), details["input"])


def _text(details: ErrorDetails) -> str:
    known = _WORDS.get(details["type"])
    if known is not None:
        return known
    context = details.get("ctx", {})
    if details["type"] == "literal_error":
        return f"{_hint(details['input'], context['expected'])}must be {context['expected']}"
    if isinstance(context.get("error"), BrokenRule):
        return str(context["error"].rule)
    return details["msg"].replace("Input should be", "must be")


def _hint(value: object, expected: str) -> str:
    return closest(value, _QUOTED.findall(expected)) if isinstance(value, str) else ""


def _unknown_key(path: Sequence[object], data: Mapping[str, Any]) -> str:
    known = keys_at(path[:-1], data)
    text = f"unknown key; {closest(path[-1], known)}the keys here are: {', '.join(known)}"
    if looks_secret(str(path[-1])):
        text += "; and a secret is never written in clear"
    return text


def keys_at(path: Sequence[object], data: Mapping[str, Any]) -> list[str]:
    """The keys that the model at a path has.

    Args:
        path: the keys and names that lead there.
        data: the configuration, which says of what provider a connection or queue is.

    Example:
        >>> keys_at(("pipelines", "flights", "credit"), {})
        ['messages', 'bytes']
    """
    here: Any = RuntimeConfig
    steps = list(path)
    if path[:1] in (("connections",), ("queues",)) and len(path) > 1:
        here, steps = model_of(str(path[0]), path[1], data), steps[2:]
    elif steps[:2] == ["crypto", "keys"]:
        here, steps = keys_model_of(data), steps[2:]
    for step in steps:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(step)].annotation
        else:
            here = get_args(here)[1]  # the values of a mapping of names
    return list(here.model_fields)


def message(source: str, found: Iterable[Problem]) -> str:
    """One message for all problems of a file, one a line when there are several."""
    lines = [_line(problem) for problem in found]
    if len(lines) == 1:
        return f"{source}: {lines[0]}"
    return "\n  ".join([f"{source} has {len(lines)} problems:", *lines])


def _line(problem: Problem) -> str:
    steps = (f'"{step}"' if "." in str(step) else str(step) for step in problem.path)
    path = masked_setting(".".join(steps))
    value = ""
    if problem.value is not _NO_VALUE:
        value = f"; got {shown(problem.path, problem.value)}"
    return f"{path}: {problem.text}{value}" if path else f"{problem.text}{value}"


def merge(found: Iterable[Problem], references: Iterable[Problem]) -> list[Problem]:
    """The problems of both; where both speak of a path, a broken reference knows its value best."""
    broken = list(references)
    told = {problem.path for problem in broken}
    return [*(problem for problem in found if problem.path not in told), *broken]
