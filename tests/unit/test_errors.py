"""The tree of errors: what each says, and what of it survives a trip to another process."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import errors
from pipeline.errors import (
    MessageTooLarge,
    ProviderError,
    QueueError,
    Throttled,
    Timeout,
    Unsupported,
    ValidationError,
    mask_secrets,
)

KINDS: dict[type[QueueError], tuple[Any, ...]] = {
    kind: ("something broke",)
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, QueueError)
} | {
    MessageTooLarge: (300, 256),
    Unsupported: ("defer", "aws_sqs", "use a delay"),
    ProviderError: ("aws_sqs", "InternalError", "try again"),
    ValidationError: ("QueueName", "must not be empty", ""),
}


@pytest.mark.spec("P10")
def test_every_kind_of_the_specification_is_there() -> None:
    """Every name of the specification is a kind of `QueueError`."""
    names = [
        "QueueNotFound",
        "MessageNotFound",
        "SessionLocked",
        "SessionNotFound",
        "SessionLockLost",
        "MessageLockLost",
        "Timeout",
        "ConnectionFailed",
        "AuthenticationFailed",
        "PermissionDenied",
        "MessageTooLarge",
        "BatchTooLarge",
        "Throttled",
        "QueueFull",
        "CircuitOpen",
        "Unsupported",
        "Closed",
        "StateConflict",
        "HandlerTimeout",
        "UnencryptedMessage",
        "ProviderError",
        "SerializationError",
        "ConfigurationError",
        "ValidationError",
        "CryptoError",
    ]
    assert set(names) <= {kind.__name__ for kind in KINDS}


@pytest.mark.spec("P10")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_survives_pickling(kind: type[QueueError]) -> None:
    """Text, fields, notes and the chain of causes arrive in another process; the cause is named."""
    error = kind(*KINDS[kind])
    error.__cause__ = OSError("refused: password=hunter2")
    error.add_note("tried 3 times")
    error.retry_after = 2.5
    copy = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(error))))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert copy.transient == error.transient
    assert copy.retry_after == 2.5
    assert copy.__notes__ == ["tried 3 times"]
    assert copy.causes == error.causes == (("OSError", "refused: password=***"),)
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    assert {name: value for name, value in vars(copy).items() if name in fields} == fields


@pytest.mark.spec("P10")
def test_causes_follow_the_chain_as_python_shows_it() -> None:
    """A context counts where there is no cause; `from None` ends the chain; a loop ends too."""
    first, second, third = ValueError("1"), KeyError("2"), QueueError("3")
    third.__context__ = second
    second.__cause__ = first
    assert third.causes == (("KeyError", "'2'"), ("ValueError", "1"))
    first.__context__ = third
    assert third.causes == (("KeyError", "'2'"), ("ValueError", "1"))
    alone = QueueError("alone")
    alone.__context__ = first
    alone.__suppress_context__ = True
    assert alone.causes == ()


@pytest.mark.spec("P10")
def test_causes_of_an_error_that_came_pickled_go_on() -> None:
    """An error raised from one that crossed a process still names what was below that one."""
    inner = QueueError("inner")
    inner.__cause__ = OSError("root")
    outer = Timeout("outer")
    outer.__cause__ = pickle.loads(pickle.dumps(inner))
    assert outer.causes == (("QueueError", "inner"), ("OSError", "root"))


@pytest.mark.spec("P10")
def test_a_loop_of_plain_causes_ends() -> None:
    """Two exceptions that name each other are each named."""
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    error = QueueError("top")
    error.__cause__ = one
    assert [message for _, message in error.causes] == ["one", "two"]


@pytest.mark.spec("P8", "P10")
@pytest.mark.parametrize(
    "text",
    [
        "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=hunter2;Other=1",
        "AccountKey=hunter2",
        "secret: hunter2",
        'password="hunter2"',
        "PASSWORD = 'hunter2'",
        "https://host/?sv=1&sig=hunter2&se=2",
        "api_key=hunter2",
        "{'password': 'hunter2', 'port': 5}",
        '{"aws_secret_access_key":"hunter2"}',
    ],
)
def test_secrets_are_masked(text: str) -> None:
    """What stands behind a key that names a secret is not shown, in any common writing."""
    assert "hunter2" not in mask_secrets(text)


@given(st.text(alphabet="abc =:;.", max_size=50))
def test_plain_text_is_left_alone(text: str) -> None:
    """A text that names no secret stays as it is."""
    assert mask_secrets(text) == text


@pytest.mark.spec("M1")
def test_a_validation_error_is_a_value_error_that_names_all() -> None:
    """Field, rule and value, the value cut; so pydantic reports it with its path."""
    error = ValidationError("QueueName", "must be short", "x" * 500)
    assert isinstance(error, ValueError)
    assert "QueueName must be short; got 'xxx" in str(error)
    assert len(str(error)) < 120
    assert (error.field, error.rule, error.value) == (
        "QueueName",
        "must be short",
        "x" * 500,
    )


@pytest.mark.spec("M1", "P10")
def test_a_value_that_may_not_be_pickled_is_kept_as_text() -> None:
    """The offending value may be anything; the error can still travel."""
    error = pickle.loads(pickle.dumps(ValidationError("body", "must be bytes", lambda: None)))
    assert error.value.startswith("<function")


@pytest.mark.spec("P10")
def test_a_provider_error_is_as_transient_as_its_code() -> None:
    """The provider's code decides; other kinds are what their kind is."""
    assert not ProviderError("p", "c", "m").transient
    error = ProviderError("p", "c", "m", transient=True, retry_after=3)
    assert error.transient
    assert error.retry_after == 3
    assert Throttled("slow").transient
    assert not QueueError().transient


@pytest.mark.spec("P2")
def test_unsupported_names_operation_and_provider() -> None:
    """What to do instead stands behind, where there is something."""
    assert str(Unsupported("defer", "sqs")) == "sqs does not support defer"
    assert str(Unsupported("defer", "sqs", "wait")).endswith("defer: wait")
