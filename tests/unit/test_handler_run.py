"""One run of a handler: what it is given, what its result means, and how a dead letter says so."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from pipeline.batch import MessageBatch
from pipeline.errors import KeyNotFound, UnencryptedMessage
from pipeline.handlers.api import Context, Keeping, Reject, Retry, Signals, States, handler
from pipeline.handlers.run import InvalidBody, Raised, Runner, StateCodec, Verdict
from pipeline.message import Delivery, Message
from pipeline.names import QueueName
from pipeline.outcomes import Reason
from pipeline.retry import RetryPolicy

POLICY = RetryPolicy(3, 1.0, 300.0, 2.0, jitter="half")


class Flight(BaseModel):
    tail: str
    seats: int = Field(default=1, gt=0)


@dataclass
class Point:
    x: int
    y: int = 0


def runner_of(body: Any = bytes, exceptions: Any = None, *, redacted: bool = False) -> Runner:
    def take(body) -> None: ...  # type: ignore[no-untyped-def]

    take.__annotations__["body"] = body
    signals = Signals(QueueName("q"))
    return Runner(handler(take), POLICY, exceptions or {}, signals, lambda: 0.5, redacted=redacted)


def body_of(runner: Runner, body: bytes) -> Any:
    batch = MessageBatch.from_messages([Message(body)])
    context = Context(batch, 0, 1, None, runner.signals)
    (given_,) = runner.arguments(batch, 0, None, context)
    return given_


# --- bodies ---------------------------------------------------------------------------------------


@pytest.mark.spec("M3")
@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        (bytes, b"\xff\x00", b"\xff\x00"),
        (str, "ü".encode(), "ü"),
        (Flight, b'{"tail": "N1"}', Flight(tail="N1")),
        (Point, b'{"x": 1}', Point(1)),
        (dict[str, int], b'{"a": 1}', {"a": 1}),
    ],
)
def test_a_body_is_given_as_its_annotation_says(kind: Any, body: bytes, expected: Any) -> None:
    """Raw, text, or read by pydantic."""
    assert body_of(runner_of(kind), body) == expected


@pytest.mark.spec("M3")
def test_a_body_may_be_the_whole_delivery() -> None:
    """With the pipeline's queue."""
    delivery = body_of(runner_of(Delivery), b"x")
    assert (delivery.body, delivery.queue) == (b"x", "q")


@pytest.mark.spec("M3")
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (str, b"\xff"),
        (Flight, b"not json"),
        (Flight, b'{"tail": "N1", "seats": 0}'),
        (Point, b"{}"),
    ],
)
def test_a_body_that_does_not_validate_is_dead_lettered(kind: Any, body: bytes) -> None:
    """At the first attempt, with the validation error; whatever the exceptions' rules are."""
    runner = runner_of(kind, {Exception: "retry"})
    with pytest.raises(InvalidBody) as caught:
        body_of(runner, body)
    verdict = runner.verdict(Raised(caught.value), 1)
    assert verdict is not None
    assert (verdict.retry, verdict.reason) == (None, Reason.INVALID_BODY)
    assert verdict.error is caught.value.__cause__


@pytest.mark.spec("H1")
def test_arguments_come_in_the_functions_order() -> None:
    """State and context beside the body, or without one; a batch handler's rows and states."""

    @handler(state=dict)
    def one(context: Context, state: dict[str, int], body: str) -> None: ...

    @handler(state=dict)
    def bodiless(state: dict[str, int], context: Context) -> None: ...

    @handler(state=dict, batch=True)
    def many(states: States, rows: MessageBatch, context: Context) -> None: ...

    batch = MessageBatch.from_messages([Message(b"x")])
    single = Runner(one, POLICY, {}, Signals(), lambda: 0)
    context = Context(batch, 0, 1, None, single.signals)
    assert single.arguments(batch, 0, {"n": 1}, context) == (context, {"n": 1}, "x")
    without = Runner(bodiless, POLICY, {}, Signals(), lambda: 0)
    assert without.arguments(batch, 0, {"n": 1}, context) == ({"n": 1}, context)
    whole = Runner(many, POLICY, {}, Signals(), lambda: 0)
    states = States({})
    assert whole.batch_arguments(batch, states, context) == (states, batch, context)


def test_a_class_is_made_once_in_its_actor() -> None:
    """Its object is what is called."""

    @handler
    class Counting:
        def __init__(self) -> None:
            self.count = 0

        def __call__(self, body: bytes) -> None:
            self.count += 1

    runner = Runner(Counting, POLICY, {}, Signals(), lambda: 0)
    runner.call(b"")
    runner.call(b"")
    assert runner.call.count == 2  # type: ignore[attr-defined]


# --- verdicts -------------------------------------------------------------------------------------


@pytest.mark.spec("H2")
@pytest.mark.parametrize("result", [None, 0, "text", ["x"], object()])
def test_what_returns_is_complete(result: Any) -> None:
    """Whatever it returns that is no exception."""
    assert runner_of().verdict(result, 1) is None


@pytest.mark.spec("H2")
@pytest.mark.parametrize("wrap", [lambda error: error, Raised], ids=["returned", "raised"])
def test_retry_reject_and_exceptions_returned_or_raised(wrap: Any) -> None:
    """Retry after its delay or the policy's, dead-letter a reject, retry any other exception."""
    runner = runner_of()
    assert runner.verdict(wrap(Retry(7)), 1) == Verdict(7, error=Any_())
    assert runner.verdict(wrap(Retry()), 2) == Verdict(1.5, error=Any_())
    assert runner.verdict(wrap(KeyError("x")), 1) == Verdict(0.75, error=Any_())
    verdict = runner.verdict(wrap(Reject("no aircraft")), 1)
    assert verdict == Verdict(None, Reason.REJECTED, words="no aircraft")


class Any_:  # noqa: N801 - reads as the value it stands for
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.spec("H2", "H5")
def test_the_last_attempt_is_dead_lettered() -> None:
    """Whether it raised or asked for another."""
    runner = runner_of()
    for result in (ValueError("x"), Retry(1)):
        verdict = runner.verdict(Raised(result), 3)
        assert verdict == Verdict(None, Reason.ATTEMPTS, result)
        assert runner.verdict(Raised(result), 2).retry is not None  # type: ignore[union-attr]


@pytest.mark.spec("H5")
def test_exceptions_have_rules_that_their_subclasses_follow() -> None:
    """The nearest kind's rule counts."""
    rules = {LookupError: "reject", KeyError: "retry", ValueError: "reject"}
    runner = runner_of(exceptions=rules)

    def outcome(error: BaseException) -> str:
        verdict = runner.verdict(Raised(error), 1)
        assert verdict is not None
        return "reject" if verdict.retry is None else "retry"

    assert outcome(IndexError()) == "reject"
    assert outcome(KeyError()) == "retry"
    assert outcome(UnicodeDecodeError("utf8", b"", 0, 1, "")) == "reject"
    assert outcome(OSError()) == "retry"
    assert outcome(KeyboardInterrupt()) == "retry"
    verdict = runner.verdict(Raised(IndexError("i")), 1)
    assert verdict is not None
    assert (verdict.reason, type(verdict.error)) == (Reason.REJECTED, IndexError)


@pytest.mark.spec("F2", "H2")
async def test_a_sync_handler_that_returns_something_to_await_has_not_handled_anything() -> None:
    """The work is still in the coroutine: completing the message would lose it."""
    waiting = asyncio.get_running_loop().create_future()
    verdict = runner_of().verdict(waiting, 1)
    assert verdict is not None
    assert "make it async" in str(verdict.error)


# --- state ----------------------------------------------------------------------------------------


@pytest.mark.spec("F4")
def test_a_state_is_written_and_read_as_its_type() -> None:
    """A value that doesn't fit its field is an error when it is written."""

    @dataclass
    class Tally:
        count: int = 0

    codec = StateCodec(Tally, Keeping())
    state = codec.new()
    state.count = 3
    assert codec.load(codec.dump(state), 1) == state
    state.count = "three"
    with pytest.raises(Exception, match=r"count|int"):
        codec.dump(state)


# --- descriptions ---------------------------------------------------------------------------------


class Broken(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def raised(error: BaseException, depth: int = 0) -> BaseException:
    def fail(deeper: int) -> None:
        if not deeper:
            raise error
        fail(deeper - 1)

    with pytest.raises(type(error)):
        fail(depth)
    return error


@pytest.mark.spec("R3")
@given(
    text=st.text(max_size=3000)
    | st.sampled_from(["\x00" * 3000, "😀" * 3000, '"\\' * 3000, "\ud800" * 3000, "\n" * 9000]),
    words=st.text(max_size=50) | st.sampled_from(["", "\x01" * 5000, "ü" * 5000]),
    depth=st.integers(0, 6),
)
def test_a_description_is_json_that_fits(text: str, words: str, depth: int) -> None:
    """At most 4,096 characters whatever the error says, and it can be written as UTF-8."""
    verdict = Verdict(None, "x", raised(ValueError(text), depth), words)
    description = runner_of().describe(verdict, 5, 1.23456, 2.0)
    assert len(description) <= 4096
    description.encode()
    facts = json.loads(description)
    assert (facts["attempts"], facts["first_failure"], facts["last_failure"]) == (5, 1.235, 2.0)
    assert facts["error"] == "ValueError"
    assert bool(facts["message"]) == bool(text)
    assert bool(facts.get("reason")) == bool(words)
    assert list(facts)[-1] == "stack"
    assert facts["stack"]
    assert next(iter(facts)) == "handler"


@pytest.mark.spec("R3")
def test_a_description_keeps_the_end_of_the_stack() -> None:
    """Where the error was raised stands last in a stack, so the beginning is cut."""
    error = raised(ValueError("the end"), 4)
    facts = json.loads(runner_of().describe(Verdict(None, "x", error), 1, 0, 0))
    assert facts["stack"].endswith("ValueError: the end\n")
    assert "in fail" in facts["stack"]


@pytest.mark.spec("R3", "P8")
def test_a_description_shows_no_secret() -> None:
    """Neither in the message, nor in the stack, nor in the user's words."""
    error = raised(ValueError("login failed: password=hunter2"))
    verdict = Verdict(None, "x", error, "token=hunter2")
    assert "hunter2" not in runner_of().describe(verdict, 1, 0, 0)


@pytest.mark.spec("R3")
def test_an_error_without_a_text_and_a_rejection_without_an_error() -> None:
    """An exception whose text can't be had is named; a rejection has its reason alone."""
    facts = json.loads(runner_of().describe(Verdict(None, "x", raised(Broken())), 1, 0, 0))
    assert facts["error"] == "Broken"
    assert "RuntimeError" in facts["message"]
    facts = json.loads(runner_of().describe(Verdict(None, "x", words="no"), 1, 0, 0))
    assert facts["reason"] == "no"
    assert "error" not in facts


@pytest.mark.spec("R3", "C4")
def test_a_redacted_description_tells_kinds_and_hashes() -> None:
    """Equal texts have equal hashes; what the cryptography says of a message has no secret."""
    runner = runner_of(redacted=True)

    def facts(error: BaseException | None, words: str = "") -> dict[str, Any]:
        verdict = Verdict(None, "x", error, words)
        told: dict[str, Any] = json.loads(runner.describe(verdict, 2, 0, 1))
        return told

    one, other = facts(raised(ValueError("secret"))), facts(raised(ValueError("secret")))
    assert one == other
    assert one["error"] == "ValueError"
    assert one["attempts"] == 2
    assert not {"message", "stack", "reason"} & set(one)
    assert one["message_hash"] != facts(ValueError("another"))["message_hash"]
    assert set(facts(None, "secret")) - set(facts(None)) == {"reason_hash"}
    assert "secret" not in json.dumps([one, facts(None, "secret"), facts(KeyError("\ud800secret"))])
    assert "2026-11" in facts(KeyNotFound("2026-11"))["message"]
    assert "plain" in facts(UnencryptedMessage("plain"))["message"]
