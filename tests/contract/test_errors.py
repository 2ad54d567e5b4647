"""Errors travel: between the processes of a cluster they are pickled, and must lose nothing."""

from __future__ import annotations

import pickle
from itertools import pairwise

import pytest

from pipeline import errors
from pipeline.errors import QueueError

SPECIAL = {
    errors.KeyNotFound: lambda: errors.KeyNotFound("2026-11"),
    errors.UnsupportedVersion: lambda: errors.UnsupportedVersion(2),
    errors.MessageTooLarge: lambda: errors.MessageTooLarge(300, 256),
    errors.Unsupported: lambda: errors.Unsupported("defer", "aws_sqs", "renew it"),
    errors.ProviderError: lambda: errors.ProviderError(
        "aws_sqs", "InternalError", "try again", transient=True, retry_after=2.0
    ),
    errors.ValidationError: lambda: errors.ValidationError("QueueName", "must not be empty", ""),
}


def kinds(base: type[QueueError] = QueueError) -> list[type[QueueError]]:
    """Every error of the tree, the root included."""
    return [base, *(kind for child in base.__subclasses__() for kind in kinds(child))]


def chained(error: QueueError, *below: BaseException) -> QueueError:
    """The error as if raised from those below it."""
    for upper, lower in pairwise([error, *below]):
        upper.__cause__ = lower
    return error


@pytest.mark.spec("P10")
def test_the_tree_has_every_error_of_the_specification() -> None:
    """Under one root, so that one `except` catches them all."""
    lines = (
        "QueueNotFound MessageNotFound SessionLocked SessionNotFound SessionLockLost",
        "MessageLockLost Timeout ConnectionFailed AuthenticationFailed PermissionDenied",
        "MessageTooLarge BatchTooLarge Throttled QueueFull CircuitOpen Unsupported Closed",
        "StateConflict HandlerTimeout UnencryptedMessage ProviderError SerializationError",
        "ConfigurationError ValidationError CryptoError",
    )
    names = " ".join(lines).split()
    assert set(names) <= {kind.__name__ for kind in kinds()}


@pytest.mark.spec("P10")
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_pickles_with_its_causes(kind: type[QueueError]) -> None:
    """Its type, text, fields, notes, and the chain below it with secrets masked."""
    make = SPECIAL.get(kind, lambda: kind("what was wrong", retry_after=1.5))
    low = OSError("reset by peer; SharedAccessKey=abc123")
    error = chained(make(), KeyError("amqp:connection:forced"), low)
    error.add_note("send was tried 3 times")
    there = pickle.loads(pickle.dumps(error))
    back = pickle.loads(pickle.dumps(there))
    assert back.causes == (
        ("KeyError", "'amqp:connection:forced'"),
        ("OSError", "reset by peer; SharedAccessKey=***"),
    )
    assert (type(back), str(back), back.args) == (kind, str(error), error.args)
    assert (back.transient, back.retry_after) == (error.transient, error.retry_after)
    assert back.__notes__ == ["send was tried 3 times"]
    fields = {name: value for name, value in vars(error).items() if not name.startswith("_")}
    assert {name: getattr(back, name) for name in fields} == fields


@pytest.mark.spec("P10")
def test_a_cause_of_our_own_brings_its_chain_along() -> None:
    """Also when it was pickled before, as errors are that come from another actor."""
    cut = chained(errors.ConnectionFailed("cut"), ConnectionResetError("reset"))
    late = chained(errors.Timeout("no answer"), pickle.loads(pickle.dumps(cut)))
    assert pickle.loads(pickle.dumps(late)).causes == (
        ("ConnectionFailed", "cut"),
        ("ConnectionResetError", "reset"),
    )
