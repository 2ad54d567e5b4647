"""Freshness, plain messages and replays: the decisions alone."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crypto.freshness import Freshness
from pipeline.crypto.nonces import NonceBook
from pipeline.crypto.plaintext import Plaintext
from pipeline.errors import MessageExpired, ValidationError

SEALED = 1_700_000_000

# --- freshness ------------------------------------------------------------------------------------


def judge(age: float, rule: Freshness, waited: float = 1e6) -> MessageExpired | None:
    """A body that was so old when its message was sent, and is received so much later."""
    sent = SEALED + age
    return rule.judge(encrypted_at=SEALED, enqueued_at=sent, now=sent + waited)


@pytest.mark.spec("C8")
def test_the_defaults_are_the_specifications() -> None:
    """5 minutes, 60 s of skew, against the time of enqueueing."""
    assert Freshness() == Freshness(300.0, 60.0, "enqueue")


@pytest.mark.spec("C8")
@pytest.mark.parametrize(
    ("age", "fresh"),
    [
        (0, True),
        (300, True),
        (360, True),
        (360.1, False),
        (1e9, False),
        (-60, True),
        (-60.1, False),
        (-1e9, False),
        (float("nan"), False),
    ],
)
def test_how_old_a_body_may_be(age: float, fresh: bool) -> None:
    """Clocks may be 60 s apart in either direction; how long it waits in the queue is nothing."""
    assert (judge(age, Freshness()) is None) is fresh
    assert (judge(age / 2, Freshness(150, 30)) is None) is fresh


@pytest.mark.spec("C8")
def test_against_receipt_waiting_counts() -> None:
    """What waited too long in a backlog is refused as well, and the error says what it judged."""
    rule = Freshness(against="receipt")
    assert judge(0, rule, waited=360) is None
    error = judge(100, rule, waited=261)
    assert error is not None
    assert "sealed 361 s before its message was received" in str(error)
    assert "sealed 400 s before its message was sent" in str(judge(400, Freshness()))
    assert "sealed 90 s after its message was sent" in str(judge(-90, Freshness()))


@pytest.mark.spec("C8")
@given(
    st.lists(st.tuples(st.integers(-(2**62), 2**62), st.floats(-1e12, 1e12)), max_size=20),
    st.floats(0, 1e10),
    st.sampled_from([Freshness(), Freshness(0, 0), Freshness(against="receipt")]),
)
def test_a_column_is_judged_as_its_rows_are(
    rows: list[tuple[int, float]], now: float, rule: Freshness
) -> None:
    """At once or row by row; a row that is not to be judged is not."""
    rows = [*rows, (int(now), now), (int(now) - 300, now)] * 2
    sealed = np.array([row[0] for row in rows], np.int64)
    sent = np.array([row[1] for row in rows], np.float64)
    judged = np.arange(len(rows)) < len(rows) // 2
    expected = {
        at: error
        for at, (encrypted_at, enqueued_at) in enumerate(rows[: len(rows) // 2])
        if (error := rule.judge(encrypted_at=encrypted_at, enqueued_at=enqueued_at, now=now))
    }
    answer = rule.judge_all(sealed, sent, np.full(len(rows), now), judged)
    assert {at: str(error) for at, error in answer.items()} == {
        at: str(error) for at, error in expected.items()
    }


@pytest.mark.spec("C8")
@pytest.mark.parametrize(
    ("field", "value"),
    [("max_age", -1), ("skew", -0.1), ("max_age", float("nan")), ("against", "send")],
)
def test_a_rule_out_of_range_is_refused(field: str, value: object) -> None:
    """The error names the field and the value."""
    with pytest.raises(ValidationError, match=rf"Freshness\.{field} must be .*{value!r}"):
        Freshness(**{field: value})  # type: ignore[arg-type]


# --- plain messages -------------------------------------------------------------------------------


@pytest.mark.spec("C9")
def test_what_becomes_of_plain_messages() -> None:
    """Handled with a warning, handled with an alert, or not handled."""
    answers = {rule.value: (rule.accepts, rule.level) for rule in Plaintext}
    assert answers == {
        "allow": (True, logging.WARNING),
        "allow_with_alert": (True, logging.ERROR),
        "reject": (False, logging.WARNING),
    }


# --- replays --------------------------------------------------------------------------------------


@pytest.mark.spec("C8")
@pytest.mark.parametrize(
    "other", [("q2", "id", 1), ("q", "id-2", 1), ("q", "id", 2)], ids=["queue", "id", "sequence"]
)
def test_a_nonce_in_another_message_is_a_replay(other: tuple[str, str, int]) -> None:
    """In the same one it is a redelivery, as often as it comes, and after a replay too."""
    book = NonceBook()
    assert not book.seen(b"n", "q", "id", 1, 0.0)
    assert not book.seen(b"n", "q", "id", 1, 1.0)
    assert book.seen(b"n", *other, 2.0)
    assert book.seen(b"n", *other, 3.0)
    assert not book.seen(b"n", "q", "id", 1, 4.0)
    assert not book.seen(b"m", *other, 5.0)


@pytest.mark.spec("C8")
def test_plain_bodies_are_not_remembered() -> None:
    """They have no nonce, and none can be told from another."""
    book = NonceBook()
    assert not book.seen(b"", "q", "a", 1, 0.0)
    assert not book.seen(b"", "q", "b", 2, 0.0)
    assert len(book) == 0


@pytest.mark.spec("C8")
def test_a_nonce_is_remembered_for_the_window() -> None:
    """From when it was seen last; those that were not are forgotten then."""
    book = NonceBook(window=600)
    book.seen(b"a", "q", "1", 1, 0.0)
    book.seen(b"b", "q", "2", 2, 100.0)
    book.seen(b"a", "q", "1", 1, 300.0)
    assert book.seen(b"a", "q", "9", 9, 900.0)
    assert len(book) == 1
    assert not book.seen(b"b", "q", "9", 9, 900.0)
    assert not book.seen(b"a", "q", "8", 8, 1500.1)


@pytest.mark.spec("C8")
def test_the_book_is_bounded() -> None:
    """The one that was seen longest ago is forgotten first."""
    book = NonceBook(most=3)
    for at in range(4):
        book.seen(b"%d" % at, "q", str(at), at, 0.0)
        book.seen(b"1", "q", "1", 1, 0.0)
    assert len(book) == 3
    assert book.seen(b"1", "q", "x", 0, 0.0)
    assert book.seen(b"3", "q", "x", 0, 0.0)
    assert not book.seen(b"0", "q", "x", 0, 0.0)


@pytest.mark.spec("C8")
@pytest.mark.parametrize(("window", "most"), [(0, 1), (-1, 1), (1, 0), (float("nan"), 1)])
def test_a_book_out_of_range_is_refused(window: float, most: int) -> None:
    """It would remember nothing."""
    with pytest.raises(ValidationError, match=r"NonceBook\.(window|most) must be above 0"):
        NonceBook(window, most)
