"""Logs: JSON or console lines with fields, no secret and no body in them (SPEC O3).

Every log line is written through stdlib logging, under `queue_runtime.*` or a module's own name in
`pipeline.*` and `actors.*`, with its fields in `extra`: `queue`, `operation`, `ids` and what else
helps. `configure` gives these loggers one handler; the root logger and everybody else's are not
touched. Unconfigured, as a library, nothing is written that the application doesn't ask for.

Bodies stay out: bytes are shown as their length, messages as their id, models and dataclasses as
their type. What an exception of a user's own quotes in its text can't be told from other text.
"""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import is_dataclass
from datetime import UTC, datetime
from numbers import Real
from typing import Any, Final, Literal, TextIO

from pydantic import BaseModel

from pipeline.config.models import TRACE
from pipeline.config.secrets import MASK, looks_secret, masked
from pipeline.message import Delivery, Message

ROOTS: Final = ("queue_runtime", "pipeline", "actors")
"""The loggers whose lines are ours: pure modules log under their own names, as Python's do."""

_LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_INPUT = re.compile(r"input_value=.*, input_type=")
_NOT_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

logging.addLevelName(TRACE, "TRACE")
for _root in ROOTS:
    logging.getLogger(_root).addHandler(logging.NullHandler())


def logger(name: str) -> logging.Logger:
    """The logger `queue_runtime.<name>`.

    Example:
        >>> logger("receiver").name
        'queue_runtime.receiver'
    """
    return logging.getLogger(f"queue_runtime.{name}")


def _safe(key: str, value: object) -> Any:
    """A field's value as it may be written: plain, without secrets and bodies."""
    if looks_secret(key):
        return MASK
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON has no word for those
    if isinstance(value, Mapping):
        return {str(inner): _safe(str(inner), item) for inner, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_safe("", item) for item in value]
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"({len(value)} bytes)"
    if isinstance(value, (Message, Delivery)):
        return f"(message {value.id})"
    if isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type)):
        return f"({type(value).__name__})"
    return _clean(str(value))


def _clean(text: str) -> str:
    """Without secrets, and without the input that pydantic quotes: it may be a body."""
    return masked(_INPUT.sub(f"input_value={MASK}, input_type=", text))


def _message(record: logging.LogRecord) -> str:
    arguments = record.args
    if isinstance(arguments, Mapping):
        arguments = {key: _argument(value) for key, value in arguments.items()}
    elif arguments:
        arguments = tuple(_argument(value) for value in arguments)
    text = _text(record.msg)
    if arguments:
        try:
            text %= arguments
        except (TypeError, ValueError, KeyError):
            # logging would print the arguments as they are, and a traceback.
            text += " (its arguments do not fit)"
    return _clean(text)


def _argument(value: object) -> object:
    plain = value is None or isinstance(value, (str, Real))  # numpy's numbers are such too
    return value if plain else _safe("", value)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {
        key: _safe(key, value)
        for key, value in vars(record).items()
        # Ray's and other libraries' own marks on every record of the process begin with _.
        if key not in _NOT_FIELDS and not key.startswith("_")
    }


class _Formatter(logging.Formatter):
    def _error(self, record: logging.LogRecord) -> str:
        return _clean(self.formatException(record.exc_info)) if record.exc_info else ""

    def _time(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class JsonFormatter(_Formatter):
    """One JSON object a line: time (UTC), level, logger, message, the fields, and an error's trace.

    Example:
        >>> record = logging.makeLogRecord({"msg": "gone", "name": "queue_runtime.x", "ids": ["a"]})
        >>> json.loads(JsonFormatter().format(record))["ids"]
        ['a']
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write the record on one line."""
        line = {
            "time": self._time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        error = self._error(record)
        # A field never takes the place of what every line has.
        fields = {key: value for key, value in _fields(record).items() if key not in line}
        return json.dumps(line | fields | ({"error": error} if error else {}))


class ConsoleFormatter(_Formatter):
    """One line for people: time (UTC), level, logger, message, `field=value`; then a trace.

    Example:
        >>> given = {"msg": "gone", "name": "queue_runtime.x", "levelname": "INFO", "queue": "q"}
        >>> ConsoleFormatter().format(logging.makeLogRecord(given)).split("INFO ")[1].strip()
        'queue_runtime.x: gone  queue=q'
    """

    def format(self, record: logging.LogRecord) -> str:
        """Write the record on one line, and its exception on those after it."""
        fields = "".join(f" {key}={_word(value)}" for key, value in _fields(record).items())
        head = f"{self._time(record)} {record.levelname:<7} {record.name}: "
        line = _one_line(f"{head}{_message(record)}{' ' if fields else ''}{fields}")
        error = self._error(record)
        return f"{line}\n{error}" if error else line


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value if value and value.isprintable() and " " not in value else json.dumps(value)
    return json.dumps(value)


def _one_line(text: str) -> str:
    """A message can't pretend to be two: what would end a line is written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )


class _OurHandler(logging.StreamHandler[TextIO]):
    """The handler `configure` put there, to be found again.

    Without a stream of its own it follows `sys.stderr`, which a progress line may replace.
    """

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__(stream)
        self._follows = stream is None

    def emit(self, record: logging.LogRecord) -> None:
        if self._follows:
            self.stream = sys.stderr
        super().emit(record)


def configure_actor(
    format: Literal["console", "json"],  # noqa: A002 - the configuration's word
    level: Literal["trace", "debug", "info", "warning", "error"],
) -> None:
    """The same for an actor's process, whose lines Ray brings to the driver: no lifecycle there.

    Args:
        format: as of `configure`.
        level: as of `configure`; `info` becomes `warning`, because the driver tells the lifecycle.

    Example:
        >>> configure_actor("console", "info")
    """
    configure(format, "warning" if level == "info" else level)


def configure(
    format: Literal["console", "json"] = "console",  # noqa: A002 - the configuration's word
    level: Literal["trace", "debug", "info", "warning", "error"] = "info",
    stream: TextIO | None = None,
) -> None:
    """Write our loggers' lines to a stream; a second call replaces what the first one set.

    Args:
        format: `console` or `json`.
        level: this level and those above are written.
        stream: where to; None is standard error.

    Example:
        >>> import io
        >>> stream = io.StringIO()
        >>> configure("console", "debug", stream)
        >>> logger("demo").debug("took %s", b"a body", extra={"queue": "orders"})
        >>> stream.getvalue().split(" ", 1)[1].strip()
        'DEBUG   queue_runtime.demo: took (6 bytes)  queue=orders'
        >>> configure()
    """
    handler = _OurHandler(stream)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    for name in ROOTS:
        root = logging.getLogger(name)
        for old in [known for known in root.handlers if isinstance(known, _OurHandler)]:
            root.removeHandler(old)
        root.addHandler(handler)
        root.setLevel(_LEVELS[level])
        root.propagate = False  # the root logger's handlers would write every line once more
