"""Branded names: what they let in, and how they travel."""

from __future__ import annotations

import pickle

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline.errors import ValidationError
from pipeline.names import EncryptionKeyId, MessageId, QueueName, ReceiptHandle, SessionId

NAMES = (QueueName, MessageId, SessionId, ReceiptHandle, EncryptionKeyId)


@pytest.mark.spec("M1")
@pytest.mark.parametrize("kind", NAMES)
@given(value=st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9._/~-]{0,100}[A-Za-z0-9])?", fullmatch=True))
def test_a_name_is_its_string_and_survives_pickling(kind: type[str], value: str) -> None:
    """Equal to the plain string, hashed alike, and of the same type in another process."""
    name = kind(value)
    assert name == value
    assert hash(name) == hash(value)
    copy = pickle.loads(pickle.dumps(name))
    assert copy == value
    assert type(copy) is kind
    assert kind(name) is name


@pytest.mark.spec("M1")
def test_an_empty_name_that_came_from_elsewhere_is_not_let_in_again() -> None:
    """Other software may have given it; whoever names it in a call of ours is told the rule."""
    came = SessionId.trusted("")
    with pytest.raises(ValidationError, match="SessionId must not be empty"):
        SessionId(came)


@pytest.mark.spec("M1")
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("value", ["", 7, None, b"x", "a\nb", "\ud800", "a" * 5000])
def test_a_wrong_value_is_refused_with_its_name(kind: type[str], value: object) -> None:
    """Empty, not a string, unprintable or too long: the error names the type and is short."""
    with pytest.raises(ValidationError, match=kind.__name__) as caught:
        kind(value)  # type: ignore[call-overload]
    assert len(str(caught.value)) < 250


@pytest.mark.spec("M1")
@pytest.mark.parametrize("value", ["-a", "a-", "a b", ".", "a?"])
def test_a_queue_name_keeps_to_what_every_provider_takes(value: str) -> None:
    """Letters, digits and a few signs, not at the ends."""
    with pytest.raises(ValidationError, match="first and last a letter or digit"):
        QueueName(value)


@pytest.mark.spec("M1", "C3")
def test_the_id_of_a_key_fits_its_byte_of_length() -> None:
    """In UTF-8, where a character may take four."""
    assert EncryptionKeyId("ü" * 127)
    with pytest.raises(ValidationError, match="at most 255 bytes in UTF-8"):
        EncryptionKeyId("ü" * 128)


@pytest.mark.spec("M1", "P8")
def test_a_receipt_is_never_shown() -> None:
    """Not in its repr, and not in an error about it."""
    assert "hunter2" not in repr(ReceiptHandle("hunter2"))
    assert repr(SessionId("a")) == "SessionId('a')"
    for wrong in ("hunter2\n", "hunter2" * 1000):
        with pytest.raises(ValidationError) as caught:
            ReceiptHandle(wrong)
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in str(caught.value.value)


class _Model(BaseModel):
    queue: QueueName
    session: SessionId


@pytest.mark.spec("M1")
def test_a_model_carries_names_through_json() -> None:
    """Checked when read, a plain string in JSON, branded again; a wrong one has a path."""
    model = _Model.model_validate_json('{"queue": "orders", "session": "s1"}')
    assert type(model.queue) is QueueName
    assert model.model_dump_json() == '{"queue":"orders","session":"s1"}'
    assert _Model.model_validate_json(model.model_dump_json()) == model
    with pytest.raises(pydantic.ValidationError, match=r"(?s)queue.*first and last"):
        _Model(queue="-", session="s")
    with pytest.raises(pydantic.ValidationError, match="queue"):
        _Model.model_validate({"queue": 5, "session": "s"})


@pytest.mark.spec("M1")
def test_a_trusted_value_is_branded_without_a_check() -> None:
    """Rows of a batch were checked when they were sent."""
    assert type(MessageId.trusted("x\n")) is MessageId
