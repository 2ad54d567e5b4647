"""Rows in, rows out: what is let through, what is sealed, and that one row stops no other."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.crypto.cipher import AesGcm
from pipeline.crypto.envelope import MARKER, EncryptedMessage, is_sealed
from pipeline.crypto.freshness import Freshness
from pipeline.crypto.key import EncryptionKey
from pipeline.crypto.plaintext import Plaintext
from pipeline.crypto.rows import Opener, PlainRows, SealedBodies, SealedRows, Sealer
from pipeline.errors import (
    BodyAuthenticationFailed,
    EncryptionFailed,
    InvalidEnvelope,
    KeyNotFound,
    MessageExpired,
    QueueError,
    UnencryptedMessage,
    UnsupportedVersion,
    ValidationError,
)
from pipeline.message import Message
from tests.unit.crypto.rig import NOW, Ring, crypto, done

COUNTS = pytest.mark.parametrize("many", [5, 100])


class Time:
    """The calendar's, as the test has it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def messages(many: int, body: bytes = b"hello") -> list[Message]:
    return [Message(body + b" %d" % at, f"m{at}", "s" if at % 2 else None) for at in range(many)]


def sealed(given: list[Message]) -> list[Message]:
    """Sealed at `NOW`."""
    out = done(Sealer(crypto(), SeededClock(lambda: 0.0, start=NOW)).seal(given))
    assert all(isinstance(one, Message) for one in out)
    return out  # type: ignore[return-value]


def rows_of(
    given: list[Message], enqueued_at: float | list[float] = NOW + 1, waited: float = 0.0
) -> SealedRows:
    batch = MessageBatch.from_messages(given)
    times = [enqueued_at] * len(given) if isinstance(enqueued_at, (int, float)) else enqueued_at
    return SealedRows(
        batch.column("id"),
        batch.column("session"),
        batch.column("body"),
        pa.array(times, pa.float64()),
        pa.array([waited] * len(given), pa.float64()),
    )


def opener(
    plaintext: str = "reject",
    freshness: Freshness | None = Freshness(),  # noqa: B008 - frozen
    time: Callable[[], float] = lambda: 0.0,
) -> Opener:
    return Opener(crypto(now=time), freshness, Plaintext(plaintext), SeededClock(time, start=NOW))


# --- opening --------------------------------------------------------------------------------------


@pytest.mark.spec("C1", "C2", "C4")
@COUNTS
def test_sealed_rows_open(many: int) -> None:
    """To their bodies, with a nonce each, and counted."""
    given = messages(many)
    opened = done(opener().open(rows_of(sealed(given))))
    assert opened.bodies.to_pylist() == [message.body for message in given]
    assert (dict(opened.errors), opened.sealed, opened.plain) == ({}, many, 0)
    nonces = opened.nonces.to_pylist()
    assert {len(nonce) for nonce in nonces} == {24}
    assert len(set(nonces)) == many == len(opened)


@pytest.mark.spec("C3", "C4", "C5", "C8", "C9")
@COUNTS
def test_a_bad_row_stops_no_other(many: int) -> None:
    """Each has its own error beside it, is as it came and has no nonce; the others open."""
    good = sealed(messages(9 + many))
    bad: list[tuple[Callable[[bytes], bytes], type[QueueError]]] = [
        (lambda body: body[:-1] + b"\xff", BodyAuthenticationFailed),
        (lambda body: body[:30], InvalidEnvelope),
        (lambda body: body[:4] + b"\7" + body[5:], UnsupportedVersion),
        (lambda body: body[:6] + b"x" + body[7:], KeyNotFound),
        (lambda body: b"plain", UnencryptedMessage),
        (lambda body: body, MessageExpired),
    ]
    rows = list(good)
    for at, (change, _) in enumerate(bad):
        rows[at] = replace(good[at], body=change(good[at].body))
    times = [float(NOW)] * len(rows)
    times[5] = NOW + 361.0
    opened = done(opener().open(rows_of(rows, times)))
    errors = {at: type(error) for at, error in opened.errors.items()}
    assert errors == {at: kind for at, (_, kind) in enumerate(bad)}
    assert (opened.sealed, opened.plain) == (len(rows) - 1, 1)
    for at, (body, nonce) in enumerate(
        zip(opened.bodies.to_pylist(), opened.nonces.to_pylist(), strict=True)
    ):
        if at < len(bad):
            assert (body, nonce) == (rows[at].body, b"")
        else:
            assert (body, len(nonce)) == (b"hello %d" % at, 24)


@pytest.mark.spec("C8")
@COUNTS
def test_waiting_makes_nothing_old(many: int) -> None:
    """A backlog of a week opens; with `against: receipt` it does not; off, nothing is judged."""
    rows = rows_of(sealed(messages(many)), NOW + 300.0)
    week = 7 * 86_400.0
    assert not done(opener(time=lambda: week).open(rows)).errors
    receipt = Freshness(against="receipt")
    assert len(done(opener(freshness=receipt, time=lambda: week).open(rows)).errors) == many
    assert not done(opener(freshness=receipt, time=lambda: 300.0).open(rows)).errors
    kept = rows_of(sealed(messages(many)), NOW + 300.0, waited=week - 300.0)
    assert not done(opener(freshness=receipt, time=lambda: week).open(kept)).errors
    old = rows_of(sealed(messages(many)), NOW + week)
    assert len(done(opener().open(old)).errors) == many
    assert not done(opener(freshness=None).open(old)).errors


@pytest.mark.spec("C8")
@COUNTS
@pytest.mark.parametrize(("skew", "opens"), [(-60, True), (-61, False), (360, True), (361, False)])
def test_clocks_may_be_apart(many: int, skew: float, opens: bool) -> None:
    """By a minute, on either side."""
    errors = done(opener().open(rows_of(sealed(messages(many)), NOW + skew))).errors
    assert len(errors) == (0 if opens else many)
    assert {type(error) for error in errors.values()} <= {MessageExpired}


@pytest.mark.spec("C8")
def test_a_message_whose_time_is_unknown_is_not_fresh() -> None:
    """Rather than let through: a provider that says no time can't be judged by."""
    rows = replace(rows_of(sealed(messages(1))), enqueued_at=pa.nulls(1, pa.float64()))
    assert type(done(opener().open(rows)).errors[0]) is MessageExpired


@pytest.mark.spec("C8", "R4")
@COUNTS
def test_dead_letters_open_whatever_their_age(many: int) -> None:
    """And plain ones are read, though they were dead-lettered for being so; damage stays damage."""
    given = sealed(messages(many))
    given[0] = replace(given[0], body=b"plain")
    given[1] = replace(given[1], body=given[2].body)
    opened = done(opener().open(rows_of(given, NOW + 1e6), fresh=False, reject_plain=False))
    assert {at: type(error) for at, error in opened.errors.items()} == {1: BodyAuthenticationFailed}
    assert (opened.sealed, opened.plain) == (many - 1, 1)
    assert opened.bodies[0].as_py() == b"plain"
    both = done(opener().open(rows_of(given, NOW + 1e6)))
    assert len(both.errors) == many
    assert type(both.errors[0]) is UnencryptedMessage


@pytest.mark.spec("C9")
@COUNTS
@pytest.mark.parametrize("rule", list(Plaintext))
def test_plain_rows_end_as_the_rule_says(
    many: int, rule: Plaintext, caplog: pytest.LogCaptureFixture
) -> None:
    """Let through or refused, as they came; counted, and told of as loud as the rule says."""
    given = messages(many)
    mixed = sealed(given)[:2] + given[2:]
    opened = done(opener(rule).open(rows_of(mixed)))
    refused = set() if rule.accepts else set(range(2, many))
    assert set(opened.errors) == refused
    assert {type(error) for error in opened.errors.values()} <= {UnencryptedMessage}
    assert opened.bodies.to_pylist() == [message.body for message in given]
    assert (opened.sealed, opened.plain) == (2, many - 2)
    (record,) = caplog.records
    assert record.levelno == rule.level
    assert record.getMessage().startswith(f"{many - 2} plain messages came")
    assert rule.value in record.getMessage()


@pytest.mark.spec("C9")
def test_plain_rows_are_told_of_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """With how many there were since; when the clock is set back, at once."""
    time = Time()
    receiver = opener("allow", time=time)

    def told(seconds: float) -> list[int]:
        caplog.clear()
        time.seconds = seconds
        done(receiver.open(rows_of(messages(3))))
        return [record.plain for record in caplog.records]  # type: ignore[attr-defined]

    assert told(0) == [3]
    assert told(59.9) == []
    assert told(60) == [6]
    assert told(61) == []
    assert told(-1000) == [6]
    assert told(-999) == []


@pytest.mark.spec("C9")
def test_sealed_rows_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is said where all is as it should be."""
    done(opener().open(rows_of(sealed(messages(3)))))
    assert not caplog.records


def test_no_rows() -> None:
    """Come to none."""
    opened = done(opener().open(rows_of([])))
    assert (len(opened), dict(opened.errors), opened.sealed, opened.plain) == (0, {}, 0, 0)
    assert done(Sealer(crypto(), SeededClock(lambda: 0.0)).seal([])) == []


# --- sealing --------------------------------------------------------------------------------------


@pytest.mark.spec("C1", "C4")
@COUNTS
def test_sealing_changes_the_body_alone(many: int) -> None:
    """Id, session, attributes and all else stay readable."""
    full = Message(
        b"secret",
        "m",
        "s",
        correlation_id="c",
        content_type="text/plain",
        attributes={"a": "b"},
        time_to_live=5.0,
        not_before=datetime.fromtimestamp(NOW + 900, UTC),
        deduplication_id="d",
    )
    given = [full, *messages(many)]
    out = sealed(given)
    for before, after in zip(given, out, strict=True):
        assert is_sealed(after.body)
        assert before.body not in after.body
        assert replace(after, body=before.body) == before
    assert EncryptedMessage.decode(out[0].body).encrypted_at == NOW


@pytest.mark.spec("C8", "C4")
@COUNTS
def test_a_scheduled_message_has_the_time_at_which_it_may_be_delivered(many: int) -> None:
    """Where the provider takes that for the time of enqueueing; one that has passed is nothing."""
    starts = [NOW + 900.5, None, NOW - 900.0]
    given = [
        replace(message, not_before=start and datetime.fromtimestamp(start, UTC))
        for message, start in zip(messages(many), starts * many, strict=False)
    ]
    sealer = Sealer(crypto(), SeededClock(lambda: 3.7, start=NOW))
    out = done(sealer.seal(given, from_start=True))
    times = [EncryptedMessage.decode(one.body).encrypted_at for one in out]  # type: ignore[union-attr]
    assert times == ([NOW + 900, NOW + 3, NOW + 3] * many)[:many]
    opened = done(opener().open(rows_of(out, [float(time) for time in times])))  # type: ignore[arg-type]
    assert not opened.errors
    unscheduled = done(sealer.seal(messages(many), from_start=True))
    assert {EncryptedMessage.decode(one.body).encrypted_at for one in unscheduled} == {  # type: ignore[union-attr]
        NOW + 3
    }


@pytest.mark.spec("C3")
@COUNTS
def test_a_plain_body_with_the_marker_is_refused(many: int) -> None:
    """It would be taken for a sealed one; the others of the batch are sealed."""
    given = messages(many)
    given[1] = replace(given[1], body=MARKER + b" secret")
    out = done(Sealer(crypto(), SeededClock(lambda: 0.0)).seal(given))
    assert isinstance(out[1], ValidationError)
    assert str(out[1]).startswith("Message.body must not begin with QRE1")
    assert "secret" not in str(out[1])
    assert sum(isinstance(one, Message) for one in out) == many - 1


@pytest.mark.spec("C5", "C11")
@COUNTS
@pytest.mark.parametrize("error", [KeyNotFound("k"), EncryptionFailed("x")], ids=["key", "failed"])
def test_what_concerns_all_is_beside_each(many: int, error: QueueError) -> None:
    """No key, or nothing can be sealed: every message has that error, and none is sent."""

    class Keyless(Ring):
        async def current(self) -> EncryptionKey:
            raise error

    aes = AesGcm(Keyless(), SeededClock(lambda: 0.0))
    assert done(Sealer(aes, SeededClock(lambda: 0.0)).seal(messages(many))) == [error] * many


# --- between processes ----------------------------------------------------------------------------


@pytest.mark.spec("F1")
@COUNTS
def test_rows_travel(many: int) -> None:
    """Each way, as one buffer; a slice doesn't take what it was cut from."""
    plain = PlainRows.of(messages(many))
    sealer = Sealer(crypto(), SeededClock(lambda: 0.0, start=NOW))
    bodies = done(sealer.seal_rows(travelled(plain)))
    out = travelled(bodies).put_into(messages(many))
    rows = travelled(rows_of(out))  # type: ignore[arg-type]
    opened = travelled(done(opener().open(rows)))
    assert opened.bodies.to_pylist() == [message.body for message in messages(many)]
    assert (dict(opened.errors), opened.sealed, opened.plain) == ({}, many, 0)
    assert opened.nonces.to_pylist() == done(opener().open(rows)).nonces.to_pylist()
    assert len(plain) == len(rows) == many
    large = rows_of([replace(message, body=bytes(10_000)) for message in messages(many)])
    parts = (large.ids, large.sessions, large.bodies, large.enqueued_at, large.waited)
    two = SealedRows(*(part.slice(1, 2) for part in parts))
    assert len(pickle.dumps(two)) < 25_000
    assert travelled(two).ids.to_pylist() == ["m1", "m2"]


@pytest.mark.spec("F1", "P10")
def test_errors_travel_with_their_rows() -> None:
    """With their kind and what they say."""
    given = sealed(messages(2))
    given[0] = replace(given[0], body=given[1].body)
    opened = travelled(done(opener().open(rows_of(given))))
    assert type(opened.errors[0]) is BodyAuthenticationFailed
    refused = travelled(SealedBodies(pa.array([b"x"]), {0: KeyNotFound("k")}))
    assert isinstance(refused.errors[0], KeyNotFound)
    assert refused.errors[0].key_id == "k"


def travelled(rows: Any) -> Any:
    """The rows behind a pickle."""
    return pickle.loads(pickle.dumps(rows, protocol=5))


# --- what is told ---------------------------------------------------------------------------------

PLANTED_KEY = bytes(range(160, 192))
PLANTED_BODY = b"planted-plaintext"


def forms(secret: bytes) -> list[str]:
    """How bytes come to be in a text."""
    return [
        repr(secret[:8])[2:-1],
        secret[:8].hex(),
        ", ".join(map(str, secret[:4])),
        secret.decode("latin-1")[:8],
    ]


def told_of(errors: list[BaseException], log: str) -> str:
    """All that anybody sees of errors: texts, reprs, causes, tracebacks, pickles; and the log."""
    parts = [log]
    for error in errors:
        parts += [str(error), repr(error), repr(getattr(error, "causes", ""))]
        parts += traceback.format_exception(error)
        parts.append(pickle.dumps(error).decode("latin-1"))
    return "\n".join(parts)


@pytest.mark.spec("C4", "C7", "T1")
@COUNTS
def test_neither_errors_nor_logs_have_keys_or_plaintext(
    many: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Of every kind of failure; the control: the same scan finds both where they are planted."""
    caplog.set_level(logging.DEBUG)
    key = EncryptionKey("2026-11", PLANTED_KEY)
    aes = AesGcm(Ring(key), SeededClock(lambda: 0.0, start=NOW))
    clock = SeededClock(lambda: 0.0, start=NOW)
    given = messages(many, PLANTED_BODY)
    good = [one for one in done(Sealer(aes, clock).seal(given)) if isinstance(one, Message)]
    changed = [replace(good[0], body=change(good[0].body)) for change in CHANGES]
    rows = rows_of([*changed, *good, *given], [float(NOW)] * len(CHANGES) + [NOW + 1e6] * 2 * many)
    opened = done(Opener(aes, Freshness(), Plaintext.REJECT, clock).open(rows))
    errors: list[BaseException] = list(opened.errors.values())
    assert len({type(error) for error in errors}) == 6
    marked = [replace(message, body=MARKER + message.body) for message in given]
    errors += [one for one in done(Sealer(aes, clock).seal(marked)) if isinstance(one, QueueError)]
    for failing in (
        lambda: EncryptionKey("k", PLANTED_KEY[:31]),
        lambda: pickle.dumps(key),
        lambda: done(aes.decrypt(EncryptedMessage.decode(changed[0].body), b"")),
        lambda: done(aes.encrypt("k", PLANTED_BODY, b"")),
        lambda: done(aes.encrypt(None, PLANTED_BODY, b"", 2**64)),
    ):
        with pytest.raises(Exception) as caught:  # noqa: PT011 - every kind, judged by its text
            failing()
        errors.append(caught.value)
    log = caplog.text + repr([record.__dict__ for record in caplog.records])
    assert "plain messages came" in log
    text = told_of(errors, log)
    for secret in (PLANTED_KEY, PLANTED_BODY):
        assert not [form for form in forms(secret) if form in text]
        for planted in (f"bad: {secret!r}", f"bad: {secret.hex()}", f"bad: {list(secret)}"):
            control = told_of([*errors, ValueError(planted)], log)
            assert [form for form in forms(secret) if form in control]


CHANGES: list[Callable[[bytes], bytes]] = [
    lambda body: body[:-1] + b"\xff",
    lambda body: body[:30],
    lambda body: body[:4] + b"\7" + body[5:],
    lambda body: body[:6] + b"x" + body[7:],
    lambda body: body[:6] + b"\xff" + body[7:],
]
