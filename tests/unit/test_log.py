"""What a log line holds, and what it never holds."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel

from pipeline.batch import MessageBatch
from pipeline.message import Message
from pipeline.telemetry import log

pytestmark = pytest.mark.spec("O3")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Logging is the process's: what a test configures ends with it."""
    loggers = [logging.getLogger(name) for name in log.ROOTS]
    before = [(each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)


def written(
    *args: Any, form: Literal["console", "json"] = "json", level: int = logging.INFO, **more: Any
) -> str:
    """The line that one call of a logger writes."""
    stream = io.StringIO()
    log.configure(form, "trace", stream)
    log.logger("test").log(level, *args, **more)
    return stream.getvalue()


def fields(*args: Any, **more: Any) -> dict[str, Any]:
    return json.loads(written(*args, **more))


def test_a_json_line_holds_time_level_logger_message_and_the_fields() -> None:
    line = fields(
        "took %d", 5, extra={"queue": "orders", "operation": "receive", "ids": ["a", "b"]}
    )
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "queue_runtime.test",
        "message": "took 5",
        "queue": "orders",
        "operation": "receive",
        "ids": ["a", "b"],
    }


def test_a_console_line_holds_the_same_for_people() -> None:
    extra = {"queue": "orders", "note": "two words", "ids": ["a"], "none": None}
    line = written("took %d", 5, form="console", extra=extra)
    assert line.split(" ", 1)[1] == (
        'INFO    queue_runtime.test: took 5  queue=orders note="two words" ids=["a"] none=null\n'
    )
    assert written("bare", form="console").endswith("queue_runtime.test: bare\n")


def test_an_error_s_trace_is_there_and_masked() -> None:
    try:
        int("password=hunter2")
    except ValueError:
        line = fields("failed", exc_info=True)
        console = written("failed", form="console", exc_info=True)
    assert "Traceback" in line["error"]
    assert "ValueError: invalid literal for int() with base 10: 'password=***" in line["error"]
    assert "\nTraceback" in console
    assert "hunter2" not in line["error"] + console


@pytest.mark.spec("P8")
def test_secrets_are_masked_wherever_they_stand() -> None:
    extra = {
        "token": "hunter2",
        "url": "amqps://me:hunter2@host",
        "inner": {"api_key": "hunter2", "list": ["SharedAccessKey=hunter2"]},
    }
    for form in ("json", "console"):
        line = written("secret=hunter2 and %s", "password=hunter2", form=form, extra=extra)
        assert "hunter2" not in line


class Body(BaseModel):
    text: str


@dataclass
class State:
    text: str


def test_bodies_are_not_written_however_they_are_given() -> None:
    message = Message(b"the body", id="m1")
    bodies = [
        b"the body",
        bytearray(b"the body"),
        memoryview(b"the body"),
        message,
        MessageBatch.from_messages([message])[0],
        Body(text="the body"),
        State(text="the body"),
    ]
    for body in bodies:
        for line in (
            written("took %s", body),
            written("took %r", body),
            written("took %(x)s", {"x": body}),
            written(body),
            written("took", extra={"it": body, "list": [body], "mapping": {"it": body}}),
        ):
            assert "the body" not in line
    assert fields("took %s", message)["message"] == "took (message m1)"
    assert fields("took %s", b"12")["message"] == "took (2 bytes)"
    assert fields("took %s", Body(text=""))["message"] == "took (Body)"


def test_pydantic_s_complaint_about_a_body_does_not_quote_it() -> None:
    given = {"text": 12345}
    try:
        Body.model_validate(given)
    except ValueError as error:
        line = written("invalid: %s", error, exc_info=True)
    assert "input_value=***, input_type=int" in line
    assert "12345" not in line


def test_a_line_is_one_line_whatever_is_in_it() -> None:
    line = written("a\nb", form="console", extra={"x": "c\nd"})
    assert line.count("\n") == 1
    assert r"a\nb" in line
    assert r"c\nd" in line
    half = written("%s", "\ud800", form="json", extra={"x": float("nan")})
    assert json.loads(half, parse_constant=pytest.fail)["x"] == "nan"


def test_numbers_of_numpy_are_numbers() -> None:
    """As those of a column are."""
    message = fields("%d rows, %.2f s", np.int64(7), np.float64(0.5))["message"]
    assert message == "7 rows, 0.50 s"


@pytest.mark.parametrize("arguments", [("%d", "x"), ("%s %s", 1), ("%(a)s", {"b": 1}), ("%q", 1)])
def test_arguments_that_do_not_fit_are_told_and_not_printed(
    arguments: tuple[Any, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert fields(*arguments)["message"] == f"{arguments[0]} (its arguments do not fit)"
    assert capsys.readouterr().err == ""


def test_a_field_takes_no_other_s_place() -> None:
    assert fields("said", extra={"level": "x", "logger": "y", "time": 0, "state": 1}) | {
        "time": ""
    } == {
        "time": "",
        "level": "info",
        "logger": "queue_runtime.test",
        "message": "said",
        "state": 1,
    }


def test_the_marks_of_other_libraries_on_every_record_are_no_fields() -> None:
    """Ray's record factory stamps each one with `_ray_timestamp_ns`, once it is imported."""
    assert "_stamp" not in written("said", extra={"_stamp": 5})


def test_other_plain_values_are_written_as_what_they_are() -> None:
    extra = {"a": 1.5, "b": True, "c": {"x"}, "d": type(None), "e": State}
    assert {key: fields("", extra=extra)[key] for key in extra} == {
        "a": 1.5,
        "b": True,
        "c": ["x"],
        "d": "<class 'NoneType'>",
        "e": str(State),
    }


def test_the_level_decides_what_is_written_and_trace_is_one() -> None:
    stream = io.StringIO()
    log.configure("console", "info", stream)
    log.logger("x").debug("not this")
    log.configure("console", "trace", stream)
    log.logger("x").log(log.TRACE, "this")
    assert "TRACE   queue_runtime.x: this" in stream.getvalue()
    assert "not this" not in stream.getvalue()


@pytest.mark.parametrize("name", ["queue_runtime.x", "pipeline.retry", "actors.x"])
def test_configuring_twice_writes_once_and_leaves_the_root_alone(name: str) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    first, second, others = io.StringIO(), io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(others)
    logging.getLogger("pipeline").addHandler(handler)
    log.configure("json", "info", first)
    log.configure("json", "info", second)
    logging.getLogger(name).info("said")
    assert first.getvalue() == ""
    assert second.getvalue().count("said") == 1
    assert (root.handlers, root.level) == before
    assert handler in logging.getLogger("pipeline").handlers


def test_without_a_stream_it_follows_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    log.configure()
    later = io.StringIO()
    monkeypatch.setattr(sys, "stderr", later)
    log.logger("x").info("said")
    assert "said" in later.getvalue()


def test_unconfigured_it_writes_nothing() -> None:
    """A library is silent until its application asks; Python's last resort would write unmasked."""
    for name in log.ROOTS:
        assert any(isinstance(h, logging.NullHandler) for h in logging.getLogger(name).handlers)
