"""The document that key providers keep: what one is, what changes it, and what is never shown."""

from __future__ import annotations

import base64
import copy
import dataclasses
import gc
import json
import pickle
import random
import traceback
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto import keyset
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.material import KeyText
from pipeline.errors import ConfigurationError, KeyNotFound, ValidationError

A, B = bytes(range(32)), bytes(range(100, 132))


def text(material: bytes) -> str:
    return base64.b64encode(material).decode()


def document(**more: Any) -> str:
    return json.dumps({"current": "a", "keys": {"a": text(A), "b": text(B)}} | more)


@pytest.mark.spec("C5", "C6")
def test_a_document_gives_keys_by_their_ids() -> None:
    """In its order; each time a new object, and none for an id that it lacks."""
    keys = KeySet.parse(document(), "here")
    assert (keys.current, keys.ids, keys.added) == ("a", ("a", "b"), {})
    first, second = keys.key("b"), keys.key("b")
    assert first is not second
    assert first.matches(second)
    assert first.matches(EncryptionKey("b", B))
    assert not keys.key("a").matches(first)
    with pytest.raises(KeyNotFound) as caught:
        keys.key("c")
    assert caught.value.key_id == "c"


@pytest.mark.spec("C5")
@pytest.mark.parametrize(
    ("ids", "added", "newest"),
    [
        ("a", {}, "a"),
        ("ab", {}, None),
        ("ab", {"a": 1.0, "b": 2.0}, "b"),
        ("ab", {"a": 2.0, "b": 1.0}, "a"),
        ("ab", {"a": 1.0, "b": 1.0}, "b"),
        ("ab", {"b": 1.0}, "b"),
        ("ab", {"a": 1.0}, None),
        ("abc", {"a": 1.0, "c": 2.0}, "c"),
        ("abc", {"a": 3.0, "c": 2.0}, None),
    ],
)
def test_which_key_is_the_newest(ids: str, added: dict[str, float], newest: str | None) -> None:
    """By the time at which it came: a tool that sorts the document's members changes nothing."""
    moments = {key: datetime.fromtimestamp(at, UTC).isoformat() for key, at in added.items()}
    keys = dict.fromkeys(ids, text(A))
    assert KeySet.parse(document(current="a", keys=keys, added=moments), "x").newest == newest


@pytest.mark.spec("C7")
@pytest.mark.parametrize(
    "more",
    [
        {"current": "c"},
        {"current": text(B)},
        {"keys": {"a": text(A), "b": text(B)[:-4]}},
        {"added": {"a": text(B)}},
        {"more": text(B)},
    ],
)
def test_a_traceback_that_shows_locals_shows_no_key(more: dict[str, Any]) -> None:
    """As error reporters write them; a key that stands in the wrong place isn't told either."""
    with pytest.raises(ConfigurationError) as caught:
        KeySet.parse(KeyText(document(**more)), "here")
    # Without this test's own frame, which has the keys in clear.
    frames = None if caught.value.__traceback__ is None else caught.value.__traceback__.tb_next
    error = caught.value.with_traceback(frames)
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown = "".join(told.format())
    assert "what it holds is no key set" in shown
    assert not [key for key in (A, B) if text(key)[:8] in shown]


@pytest.mark.spec("C7")
def test_a_key_in_the_place_of_an_id_is_not_told() -> None:
    """Which may be its name all the same."""
    keys = {"a": text(A), text(B): text(B)}
    with pytest.raises(ConfigurationError, match=r"must be one of its keys: a, \(a key\?\)"):
        KeySet.parse(document(current="c", keys=keys), "here")


@pytest.mark.spec("C7")
def test_a_key_set_is_no_dict_of_keys() -> None:
    """Also not by dataclasses' own function."""
    with pytest.raises(TypeError, match="neither pickled nor copied"):
        dataclasses.asdict(KeySet.parse(document(), "here"))


@pytest.mark.spec("C6")
@given(material=st.binary(min_size=32, max_size=32))
def test_every_key_is_decoded_as_it_was(material: bytes) -> None:
    """Four characters at a time give what all at once do."""
    keys = KeySet.parse(json.dumps({"current": "k", "keys": {"k": text(material)}}), "here")
    assert keys.key("k").matches(EncryptionKey("k", material))


@pytest.mark.spec("C6", "P10")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", 'it is empty: it must be {"current": ID, "keys": {ID: "32 bytes in base64", ...}}'),
        (" \n", "it is empty"),
        ("{", "it is not JSON (line 1, column 2: Expecting property name"),
        ("[" * 100_000, "it is not JSON that can be read"),
        ('{"current": ' + "9" * 5000 + "}", "it is not JSON that can be read"),
        ("[]", "the document must be an object"),
        ("null", "the document must be an object"),
        (document(curent="a"), "it has an unknown member 'curent'"),
        ('{"keys": {"a": "1", "a": "2"}}', "it names 'a' twice"),
        ('{"current": "a"}', 'its member "keys" must be an object with at least one key'),
        (document(keys={}), 'its member "keys" must be an object with at least one key'),
        (document(keys=["a"]), 'its member "keys" must be an object with at least one key'),
        (document(current="c"), "its member \"current\" is 'c' and must be one of its keys: a, b"),
        (document(current=None), 'its member "current" is missing and must be one of its keys'),
        (document(current=7), 'its member "current" is of type int and must be'),
        (document(keys={"a": 7}), "key 'a' must be 32 bytes in base64, 44 characters: it is no te"),
        (document(keys={"a": "QUJD"}), "key 'a' must be 32 bytes in base64, 44 characters: it has"),
        (document(keys={"a": "-" * 43 + "="}), "it has others than letters, digits, + and /"),
        (document(keys={"a": "A" * 44}), "or no = at its end"),
        (document(keys={"": text(A)}), "a key's id must not be empty; got ''"),
        (document(keys={"x" * 256: text(A)}), "a key's id must have at most 255 characters"),
        (document(keys={"a\nb": text(A)}), "a key's id must have printable characters only"),
        *(
            (document(added={"a": moment}), "the moment at which key 'a' was added must be like")
            for moment in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026", 7)
        ),
        (document(added=[]), 'its member "added" must be an object of ids and moments'),
        (document(added={"a": "soon"}), "the moment at which key 'a' was added must be like 1970-"),
        (document(added={"a": 5}), "the moment at which key 'a' was added must be like 1970-01-"),
        (document(added={"a": "2026-11-27T07:00:00"}), "the moment at which key 'a' was added"),
    ],
)
def test_what_is_wrong_with_a_document_is_told(given: str, told: str) -> None:
    """With the key that it is wrong with, and where the document is kept."""
    with pytest.raises(ConfigurationError) as caught:
        KeySet.parse(given, "file x")
    assert str(caught.value).startswith("file x: what it holds is no key set: ")
    assert told in str(caught.value)


@pytest.mark.spec("C4", "C7")
@pytest.mark.parametrize(
    "given",
    [
        document()[:-1],
        document(current=text(B)),
        document(keys={"a": text(A)[:-1]}),
        document(keys={"a": text(A) + "A"}),
        document(keys={"a": "-" + text(A)[1:]}),
        document(keys={text(A): "a"}),
        document(keys={"a": [text(A)]}),
        document(**{text(A): "a"}),
        document(added={text(A): "x"}),
        document().replace('"b"', '"a"'),
        "[" + text(A),
    ],
)
def test_no_error_shows_a_key(given: str) -> None:
    """Wherever in the document it stands by mistake; not in what the error was raised from."""
    with pytest.raises(ConfigurationError) as caught:
        KeySet.parse(given, "here")
    error = caught.value
    for said in (str(error), repr(error.causes), repr(pickle.dumps(error))):
        assert text(A)[4:30] not in said
        assert text(B)[4:30] not in said
    assert error.__cause__ is None
    assert error.__context__ is None  # JSON's own error has the document in it


@pytest.mark.spec("C5")
def test_a_key_is_distributed_then_current_then_retired() -> None:
    """Each step makes a new set, in the order that the keys came."""
    first = KeySet.first("a", 1_700_000_000.0)
    both = first.adding("b", 1_800_000_000.0)
    assert (first.ids, both.ids, both.current) == (("a",), ("a", "b"), "a")
    assert both.key("a").matches(first.key("a"))
    assert not both.key("b").matches(EncryptionKey("b", bytes(32)))
    rotated = both.making_current("b")
    assert (rotated.ids, rotated.current) == (("a", "b"), "b")
    last = rotated.retiring("a")
    assert (last.ids, last.current, last.added) == (("b",), "b", {"b": 1_800_000_000.0})
    again = KeySet.parse(both.text(), "here")
    assert (again.current, again.texts, again.added) == (both.current, both.texts, both.added)
    assert "added" not in json.loads(KeySet.parse(document(), "here").text())


@pytest.mark.spec("C5", "P10")
def test_a_step_that_makes_no_sense_is_refused() -> None:
    """And told with the ids that there are."""
    keys = KeySet.parse(document(), "here")
    with pytest.raises(ConfigurationError, match="there is a key 'b' already: choose another id"):
        keys.adding("b", 0.0)
    with pytest.raises(ConfigurationError, match="there is no key 'c'; there are: a, b"):
        keys.making_current("c")
    with pytest.raises(ConfigurationError, match="there is no key 'c'; there are: a, b"):
        keys.retiring("c")
    with pytest.raises(ConfigurationError, match="key 'a' is the current one: make another one cu"):
        keys.retiring("a")
    for make in (keys.adding, KeySet.first):
        with pytest.raises(ValidationError, match="EncryptionKeyId must not be empty"):
            make("", 0.0)


@pytest.mark.spec("C2", "C7")
def test_a_new_key_is_drawn_from_chance() -> None:
    """All 32 bytes of it, never so many at a time that a whole key lies in `bytes`."""
    chance = random.Random(7)
    asked: list[int] = []

    def draw(size: int) -> bytes:
        asked.append(size)
        return chance.randbytes(size)

    keys = KeySet.first("a", 0.0, draw)
    repeated = random.Random(7)
    expected = b"".join(repeated.randbytes(size) for size in asked)
    assert (sum(asked), max(asked)) == (32, 3)
    assert keys.key("a").matches(EncryptionKey("a", expected))
    grown = keys.adding("b", 0.0, draw)
    assert sum(asked) == 64
    assert not grown.key("b").matches(EncryptionKey("b", expected))


@pytest.mark.spec("C7", "P8")
def test_a_key_set_shows_ids_alone() -> None:
    """And goes nowhere by pickle or copy."""
    keys = KeySet.parse(document(), "here")
    for shown in (repr(keys), str(keys), f"{keys}"):
        assert shown == "KeySet(a (current), b)"
    for act in (pickle.dumps, copy.copy, copy.deepcopy, lambda one: copy.deepcopy({"x": one})):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            act(keys)


@pytest.mark.spec("C7")
def test_a_decoded_key_is_overwritten_when_the_key_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when making the key fails: its own buffer is then the only one."""
    decoded = []
    real = keyset._decoded

    def watched(given: str) -> Any:
        decoded.append(real(given))
        return decoded[-1]

    monkeypatch.setattr(keyset, "_decoded", watched)
    keys = KeySet.parse(document(), "here")
    key = keys.key("b")
    assert key.matches(EncryptionKey("b", B))

    def fails(*_: object) -> None:
        raise ValidationError("x", "y", "z")

    monkeypatch.setattr(keyset, "EncryptionKey", fails)
    with pytest.raises(ValidationError):
        keys.key("a")
    gc.collect()
    assert [bytes(one) for one in decoded] == [bytes(32)] * 2
