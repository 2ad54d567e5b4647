"""How a message that is to be sent gets its session."""

from __future__ import annotations

import json
import pickle
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ValidationError
from pipeline.message import Message
from pipeline.session_keys import (
    ORIGINAL,
    Composite,
    Computed,
    Field,
    FirstOf,
    NoSession,
    SessionKey,
)

pytestmark = pytest.mark.spec("M4")


def body(value: object, **attributes: str) -> Message:
    return Message(json.dumps(value).encode(), attributes=attributes)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"a": {"b": "x"}}, "p-x"),
        ({"a": {"b": 7}}, "p-7"),
        ({"a": {"b": 1.5}}, "p-1.5"),
        ({"a": {"b": True}}, "p-true"),
        ({"a": {"b": ""}}, None),
        ({"a": {"b": None}}, None),
        ({"a": {"b": {}}}, None),
        ({"a": {"b": ["x"]}}, None),
        ({"a": {}}, None),
        ({"a": "b"}, None),
        (["a"], None),
        ("a", None),
    ],
)
def test_a_field_of_the_body_is_the_session(value: object, key: str | None) -> None:
    assert Field("a.b", prefix="p-").key(body(value)) == key


@pytest.mark.parametrize(
    "given", [b"", b"not JSON", b"\xff\xfe\xfd", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1} x']
)
def test_a_body_that_is_no_json_has_no_answer(given: bytes) -> None:
    assert Field("a").key(Message(given)) is None


def test_an_attribute_is_the_session_whatever_the_body_is() -> None:
    message = Message(b"\x00", attributes={"tenant.id": "t1", "empty": ""})
    assert Field("attribute:tenant.id").key(message) == "t1"
    assert Field("attribute:empty").key(message) is None
    assert Field("attribute:other").key(message) is None


@pytest.mark.parametrize("field", ["", ".", "a.", ".a", "a..b", "attribute:", None, 5])
def test_a_field_that_can_name_nothing_is_refused(field: object) -> None:
    for make in (Field, Composite):
        with pytest.raises(ValidationError, match="must be a path as in"):
            make(field)  # type: ignore[arg-type]


def test_a_composite_needs_all_its_fields() -> None:
    strategy = Composite("attribute:tenant", "order", "line")
    assert strategy.key(body({"order": 7, "line": "a"}, tenant="t")) == "t|7|a"
    assert strategy.key(body({"order": 7}, tenant="t")) is None


texts = st.text(alphabet="ab|\\", min_size=1, max_size=4)


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_two_different_lists_of_values_never_make_one_id(
    one: tuple[str, str], two: tuple[str, str]
) -> None:
    strategy = Composite("a", "b")
    keys = {strategy.key(body({"a": first, "b": second})) for first, second in (one, two)}
    assert len(keys) == len({one, two})


def test_the_first_strategy_with_an_answer_wins_and_those_behind_it_are_not_asked() -> None:
    def never(message: Message) -> str:
        raise AssertionError

    strategy = FirstOf(Field("tail"), Field("attribute:airline"), Computed(never))
    assert strategy.key(body({"tail": "N1"})) == "N1"
    assert strategy.key(body({}, airline="UA")) == "UA"
    assert FirstOf(Field("tail"), NoSession()).key(body({})) is None


def test_a_composition_of_nothing_is_refused() -> None:
    for make in (Composite, FirstOf):
        with pytest.raises(ValidationError, match="must be at least one"):
            make()


def test_a_function_s_answer_is_the_session_and_its_errors_are_the_sender_s() -> None:
    def fail(message: Message) -> str:
        raise KeyError("mine")

    assert Computed(lambda message: message.body.decode()).key(Message(b"s")) == "s"
    assert Computed(lambda message: "").key(Message(b"s")) is None
    assert Computed(lambda message: None).key(Message(b"s")) is None
    with pytest.raises(KeyError, match="mine"):
        Computed(fail)(Message(b""))
    with pytest.raises(ValidationError, match="must be a string or None; got 'int'"):
        Computed(lambda message: 5)(Message(b""))  # type: ignore[arg-type, return-value]


def test_a_strategy_replaces_the_session_and_nothing_else() -> None:
    message = Message(b'{"a": "new"}', id="m", session="old", attributes={"k": "v"})
    sent = Field("a")(message)
    assert (sent.session, sent.id, sent.body, sent.attributes) == (
        "new",
        "m",
        message.body,
        {"k": "v"},
    )
    assert Field("b")(message).session is None
    assert NoSession()(message).session is None


@pytest.mark.parametrize(("length", "hashed"), [(128, False), (129, True), (100_000, True)])
def test_an_id_over_128_characters_is_hashed_and_kept(length: int, hashed: bool) -> None:
    key = "é" * length
    sent = Field("a")(body({"a": key}, k="v"))
    if not hashed:
        assert (sent.session, ORIGINAL in sent.attributes) == (key, False)
        return
    assert sent.session == blake2b(key.encode(), digest_size=32).hexdigest()
    assert sent.attributes == {"k": "v", ORIGINAL: key}
    assert Field("a")(sent) == sent


@pytest.mark.parametrize("value", ["a\nb", "\ud800", "\ud800" * 200])
def test_an_id_that_no_queue_could_carry_is_refused(value: str) -> None:
    with pytest.raises(ValidationError):
        Field("a")(body({"a": value}))


def test_the_body_is_parsed_once_however_many_fields_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = []
    loads = json.loads
    monkeypatch.setattr(
        json, "loads", lambda *args, **more: parsed.append(1) or loads(*args, **more)
    )
    strategy = FirstOf(Field("x"), Composite("a", "b"))
    assert strategy.key(body({"a": 1, "b": 2})) == "1|2"
    assert len(parsed) == 1


@pytest.mark.parametrize(
    "strategy",
    [Field("a", "p"), Composite("a", "b"), FirstOf(Field("a"), NoSession()), Computed(str)],
)
def test_strategies_are_values(strategy: SessionKey) -> None:
    copy = pickle.loads(pickle.dumps(strategy))
    assert copy == strategy
    assert hash(copy) == hash(strategy)
