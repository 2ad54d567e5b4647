"""Columns of bodies: they come to the same as bodies one by one, wherever they lie in memory."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.crypto import column, sealing
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.column import are_few, bindings
from pipeline.crypto.envelope import MARKER, EncryptedMessage, binding, is_sealed
from pipeline.crypto.key import EpochLimits
from pipeline.errors import (
    BodyAuthenticationFailed,
    EncryptionFailed,
    InvalidEnvelope,
    KeyNotFound,
    QueueError,
    UnsupportedVersion,
    ValidationError,
)
from tests.unit.crypto.rig import a_key, binary, bound_to, crypto, done

T = TypeVar("T")
KEYS = (a_key("a", 1), a_key("key-b", 2), a_key("schlüssel-c", 3))
MIXED: list[Callable[[bytes], bytes]] = [
    lambda body: body,
    lambda body: body[:-1] + bytes([body[-1] ^ 1]),
    lambda body: body[:20],
    lambda body: body[:5],
    lambda body: body[:4] + b"\2" + body[5:],
    lambda body: body[:5] + b"\xff" + body[6:],
    lambda body: body[:5] + b"\0" + body[6:],
    lambda body: body[:6] + b"\xff" + body[7:],
    lambda body: body[:6] + b"z" + body[7:],
    lambda body: b"plain",
    lambda body: b"",
    lambda body: b"QRE",
    lambda body: MARKER,
]
"""What may become of a sealed body on its way."""

plain_bodies = st.binary(max_size=40).filter(lambda body: not is_sealed(body))
rows = st.lists(
    st.tuples(plain_bodies, st.sampled_from(KEYS), st.sampled_from(MIXED), st.booleans()),
    max_size=12,
)


def mixed(given: list[Any]) -> tuple[list[bytes], list[bytes]]:
    """Bodies, and what they are bound to; some are bound to something else."""
    aes = crypto(*KEYS)
    bodies, bound = [], []
    for at, (body, key, change, moved) in enumerate(given):
        own = binding(f"m{at}", None)
        bodies.append(change(done(aes.encrypt(key.id, body, own)).encode()))
        bound.append(binding("another", None) if moved else own)
    return bodies, bound


def one_by_one(aes: AesGcm, bodies: list[bytes], bound: list[bytes]) -> list[Any]:
    """What each row comes to by itself: (body, nonce, time, error's kind)."""
    answers: list[Any] = []
    for body, own in zip(bodies, bound, strict=True):
        if not is_sealed(body):
            answers.append((body, b"", 0, None))
            continue
        try:
            message = EncryptedMessage.decode(body)
            opened = done(aes.decrypt(message, own))
            answers.append((opened, message.nonce, message.encrypted_at, None))
        except QueueError as error:
            answers.append((body, b"", 0, (type(error), str(error))))
    return answers


def in_a_column(aes: AesGcm, bodies: pa.Array, bound: Any) -> list[Any]:
    """The same of the rows of a column."""
    opened = done(aes.decrypt_column(bodies, bound))
    assert opened.plain.tolist() == [not is_sealed(body or b"") for body in bodies.to_pylist()]
    errors = [opened.errors.get(at) for at in range(len(bodies))]
    return list(
        zip(
            opened.bodies.to_pylist(),
            opened.nonces.to_pylist(),
            opened.encrypted_at.tolist(),
            [error and (type(error), str(error)) for error in errors],
            strict=True,
        )
    )


@pytest.mark.spec("C2", "C3", "C4", "C11", "T1")
@settings(deadline=None, max_examples=150)
@given(rows)
def test_opening_a_column_is_opening_each(given: list[Any]) -> None:
    """Mixed keys and every kind of damage, by the loop and by the column's way."""
    aes = crypto(*KEYS[:2])
    bodies, bound = mixed(given)
    expected = one_by_one(aes, bodies, bound)
    assert in_a_column(aes, binary(bodies), bound) == expected
    many = 70 // len(bodies) + 1 if bodies else 0
    assert in_a_column(aes, binary(bodies * many), bound * many) == expected * many


@pytest.mark.spec("C2", "C3", "C11", "T1")
@settings(deadline=None, max_examples=100)
@given(st.lists(st.binary(max_size=40) | st.just(MARKER + b"x"), max_size=12), st.integers(-5, 5))
def test_sealing_a_column_is_sealing_each(bodies: list[bytes], at: int) -> None:
    """Each row opens by itself to what was sealed; a body with the marker is left and told of."""
    aes = crypto()
    for many in (1, 70 // len(bodies) + 1 if bodies else 0):
        all_ = bodies * many
        bound = [binding(f"m{row}", "s") for row in range(len(all_))]
        sealed = done(aes.encrypt_column(None, binary(all_), bound, at))
        assert sorted(sealed.errors) == [row for row, one in enumerate(all_) if is_sealed(one)]
        for row, body in enumerate(sealed.bodies.to_pylist()):
            if row in sealed.errors:
                assert isinstance(sealed.errors[row], ValidationError)
                assert body == all_[row]
            else:
                message = EncryptedMessage.decode(body)
                assert message.encrypted_at == at
                assert done(aes.decrypt(message, bound[row])) == all_[row]


@pytest.mark.spec("C3", "C11")
def test_every_kind_of_damage_has_its_error() -> None:
    """In one column, beside rows that open."""
    aes = crypto(*KEYS)
    given = [(b"hello", KEYS[0], change, False) for change in MIXED for _ in range(6)]
    bodies, bound = mixed(given)
    kinds = [None, BodyAuthenticationFailed, InvalidEnvelope, InvalidEnvelope, UnsupportedVersion]
    kinds += [InvalidEnvelope, InvalidEnvelope, InvalidEnvelope, KeyNotFound]
    kinds += [None, None, None, InvalidEnvelope]
    opened = done(aes.decrypt_column(binary(bodies), bound))
    for row in range(len(bodies)):
        error = opened.errors.get(row)
        assert (None if error is None else type(error)) is kinds[row // 6], row


@pytest.mark.spec("C11")
@pytest.mark.parametrize("many", [10, 100])
def test_slices_and_nulls(many: int) -> None:
    """A column that begins inside of a larger one opens; a null body is an empty one."""
    aes = crypto()
    bound = [binding(f"m{at}", None) for at in range(many)]
    plain = [b"%d" % at * (at % 7) for at in range(many)]
    sealed = done(aes.encrypt_column(None, binary(plain), bound)).bodies
    larger = pa.concat_arrays([binary([b"before"] * 3), sealed, binary([b"behind"])])
    opened = done(aes.decrypt_column(larger.slice(3, many), bound))
    assert not opened.errors
    assert opened.bodies.to_pylist() == plain
    again = done(aes.encrypt_column(None, larger.slice(1, 2), bound[:2]))
    assert not again.errors
    without = pa.array([None, *plain[1:]], pa.binary())
    assert done(aes.decrypt_column(without, bound)).bodies.to_pylist() == [b"", *plain[1:]]
    bodies = done(aes.encrypt_column(None, without, bound)).bodies
    assert done(aes.decrypt_column(bodies, bound)).bodies.to_pylist() == [b"", *plain[1:]]


@pytest.mark.spec("C11")
@pytest.mark.parametrize("many", [10, 100])
def test_a_null_body_is_empty_whatever_lies_under_it(many: int) -> None:
    """Arrow lets a null have bytes; they are nobody's body."""
    edges = pa.py_buffer((np.arange(many + 1) * 6).astype(np.int32))
    nothing = pa.py_buffer(bytes(many // 8 + 1))
    hidden = pa.py_buffer(b"QRE1.." * many)
    nulls = pa.Array.from_buffers(pa.binary(), many, [nothing, edges, hidden])
    opened = done(crypto().decrypt_column(nulls, [b""] * many))
    assert opened.bodies.to_pylist() == [b""] * many
    assert not opened.errors


@pytest.mark.spec("C11")
@pytest.mark.parametrize("many", [0, 1, 65, 200])
@pytest.mark.parametrize("body", [b"", b"x"])
def test_columns_of_nothing(many: int, body: bytes) -> None:
    """No rows, plain rows, empty bodies."""
    aes = crypto()
    bound = [binding("m", None)] * many
    column = binary([body] * many)
    opened = done(aes.decrypt_column(column, bound))
    assert opened.bodies.equals(column)
    assert opened.plain.all()
    sealed = done(aes.encrypt_column(None, column, bound)).bodies
    assert done(aes.decrypt_column(sealed, bound)).bodies.equals(column)
    refused = done(aes.encrypt_column(None, sealed, bound))
    assert len(refused.errors) == many
    assert refused.bodies.equals(sealed)


@pytest.mark.spec("C2")
def test_nothing_that_is_not_authentic_comes_back() -> None:
    """The buffers of what was opened have no plaintext of a row whose tag is wrong."""
    aes = crypto()
    secret = b"planted-and-altered-"
    bound = [binding(f"m{at}", None) for at in range(100)]
    bodies = done(aes.encrypt_column(None, binary([secret * 5] * 100), bound)).bodies.to_pylist()
    good = done(aes.decrypt_column(binary(bodies), bound))
    assert secret in good.bodies.buffers()[2].to_pybytes(), "the control: the scan finds it"
    altered = [body[:-9] + bytes([body[-9] ^ 1]) + body[-8:] for body in bodies]
    opened = done(aes.decrypt_column(binary(altered), bound))
    assert len(opened.errors) == 100
    assert secret not in opened.bodies.buffers()[2].to_pybytes()


@pytest.mark.spec("C2", "C10")
@pytest.mark.parametrize(("at_once", "served"), [(40, [80, 80, 90]), (4096, [100, 100, 50])])
def test_a_long_column_goes_through_epochs(
    at_once: int, served: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No salt serves more messages than it may, and what each seals opens."""
    monkeypatch.setattr(sealing, "AT_ONCE", at_once)
    aes = crypto(a_key(limits=EpochLimits(messages=100)))
    bound = [binding(f"m{at}", None) for at in range(250)]
    plain = [b"%d" % at for at in range(250)]
    sealed = done(aes.encrypt_column(None, binary(plain), bound)).bodies
    nonces = [EncryptedMessage.decode(body).nonce for body in sealed.to_pylist()]
    salts = [nonce[:12] for nonce in nonces]
    assert [salts.count(salt) for salt in dict.fromkeys(salts)] == served
    assert len(set(nonces)) == 250
    assert done(aes.decrypt_column(sealed, bound)).bodies.to_pylist() == plain


@pytest.mark.spec("C2")
def test_the_rows_asked_of_an_epoch_at_once_fit_into_one() -> None:
    """By far, or sealing a long column would fail."""
    assert EpochLimits().messages >= sealing.AT_ONCE * 16
    assert EpochLimits().size >= column.MOST_BYTES * 16


async def while_others_run(work: Awaitable[T], other: Callable[[], object]) -> tuple[T, int]:
    """What comes of the work, and how often the other ran meanwhile."""
    turns = 0

    async def ask() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            other()
            turns += 1

    asking = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    answer = await work
    asking.cancel()
    return answer, turns


LONG = 5 * column.STRETCH // column.A_CALL
"""Rows that take some five stretches."""


@pytest.mark.spec("C11")
async def test_a_long_column_leaves_others_their_turns() -> None:
    """While it is opened: a receiver asks for more meanwhile, and renews its locks."""
    aes = crypto()
    bound = [binding(f"m{at}", None) for at in range(LONG)]
    plain = binary([b"%d" % at for at in range(LONG)])
    sealed = (await aes.encrypt_column(None, plain, bound)).bodies
    opened, turns = await while_others_run(aes.decrypt_column(sealed, bound), int)
    assert 4 <= turns <= 8
    assert opened.bodies.equals(plain)


@pytest.mark.spec("C7", "C11")
async def test_a_key_that_is_closed_while_a_column_is_opened() -> None:
    """What was begun goes on to its end."""
    key = a_key()
    aes = crypto(key)
    bound = [binding(f"m{at}", None) for at in range(LONG)]
    plain = binary([b"%d" % at for at in range(LONG)])
    sealed = (await aes.encrypt_column(None, plain, bound)).bodies
    opened, _ = await while_others_run(aes.decrypt_column(sealed, bound), key.close)
    assert not opened.errors
    assert opened.bodies.equals(plain)


@pytest.mark.spec("C11")
@pytest.mark.parametrize("many", [3, 100])
@pytest.mark.parametrize(
    ("bodies", "bound", "at", "told"),
    [
        (pa.large_binary(), None, 1, "bodies must be a pyarrow array of type binary; got 'large_"),
        (pa.string(), None, 1, "bodies must be a pyarrow array of type binary; got 'string'"),
        (None, pa.string(), 1, "associated_data must be a pyarrow array of type binary"),
        (None, "text", 1, "associated_data must be bytes; got 'str'"),
        (None, None, 1.7, "encrypted_at must be whole seconds since 1970; got 'float'"),
    ],
)
def test_what_is_no_column_is_refused(
    many: int, bodies: Any, bound: Any, at: Any, told: str
) -> None:
    """However many rows it has: read as one it would be bytes of anything."""
    aes = crypto()
    column_ = pa.array([b"x"] * many, bodies or pa.binary())
    to: Any = [b"m"] * many
    if bound is not None:
        to = ["m"] * many if bound == "text" else pa.array(["m"] * many, bound)
    with pytest.raises(ValidationError, match=told):
        done(aes.encrypt_column(None, column_, to, at))
    if at == 1:
        with pytest.raises(ValidationError, match=told):
            done(aes.decrypt_column(column_, to))
        with pytest.raises(ValidationError, match="bodies must be a pyarrow array"):
            done(aes.decrypt_column(pa.chunked_array([[b"x"] * many]), [b"m"] * many))


@pytest.mark.spec("C11")
def test_a_column_that_would_be_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sealed; the error says how large it would be."""
    monkeypatch.setattr(sealing, "MOST_BYTES", 100 * 62 - 1)
    with pytest.raises(EncryptionFailed, match="100 sealed bodies would have 6200 bytes"):
        done(crypto().encrypt_column(None, binary([b"x"] * 100), [b""] * 100))


@pytest.mark.spec("C11")
def test_large_rows_take_the_columns_way() -> None:
    """However few they are: a loop copies each of them several times."""
    assert are_few(binary([b"x"] * 64))
    assert not are_few(binary([b"x"] * 65))
    assert are_few(binary([bytes(2**18 - 50)] * 2))
    large = binary([bytes(2**18 + 50)] * 2)
    assert not are_few(large)
    aes, bound = crypto(), [binding("m", None)] * 2
    sealed = done(aes.encrypt_column(None, large, bound)).bodies
    assert done(aes.decrypt_column(sealed, bound)).bodies.equals(large)


# --- bindings -------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@pytest.mark.spec("C4")
@given(st.lists(st.tuples(names, names | st.none()), max_size=8))
def test_a_columns_bindings_are_each_messages(pairs: list[tuple[str, str | None]]) -> None:
    """Whatever their names; few and many."""
    for many in (1, 70):
        ids, sessions = [list(one) for one in zip(*(pairs * many), strict=True)] or [[], []]
        bound = bound_to(ids, sessions)
        rows = bound if isinstance(bound, list) else bound.to_pylist()
        assert rows == [binding(*pair) for pair in pairs * many]


@pytest.mark.spec("C4")
@pytest.mark.parametrize("many", [1, 20])
def test_names_that_are_too_long_to_be_bound(many: int) -> None:
    """Nothing is sealed for them and nothing opens in them; the other rows go on."""
    long = "x" * 65_535
    ids, sessions = ["m", long, "m", "m"] * many, [None, None, long, "s"] * many
    bound = bindings(pa.array(ids), pa.array(sessions))
    aes = crypto()
    sealed = done(aes.encrypt_column(None, binary([b"x"] * 4 * many), bound))
    refused = [row for row in range(4 * many) if row % 4 in (1, 2)]
    assert sorted(sealed.errors) == refused
    assert all(isinstance(error, ValidationError) for error in sealed.errors.values())
    good = sealed.bodies.to_pylist()[0]
    bodies = [good, good, good, b"plain"] * many
    opened = done(aes.decrypt_column(binary(bodies), bound))
    assert sorted(opened.errors) == refused
    assert {type(error) for error in opened.errors.values()} == {BodyAuthenticationFailed}
    assert "longer than any" in str(opened.errors[1])


@pytest.mark.spec("C4")
@pytest.mark.parametrize("many", [1, 70])
def test_a_message_without_an_id_is_bound_to_none(many: int) -> None:
    """A provider that gives none doesn't stop a column."""
    nothing = pa.nulls(many, pa.string())
    bound = bindings(nothing, nothing)
    rows = bound if isinstance(bound, list) else bound.to_pylist()
    assert rows == [binding("", None)] * many


def test_errors_of_a_column_can_travel() -> None:
    """They go to another process with the rows."""
    opened = done(crypto().decrypt_column(binary([MARKER] * 100), [b""] * 100))
    for error in pickle.loads(pickle.dumps(opened.errors)).values():
        assert type(error) is InvalidEnvelope
    assert np.array_equal(opened.encrypted_at, np.zeros(100))
