"""What `@handler` accepts and what it makes of it."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from pipeline.batch import MessageBatch
from pipeline.errors import ConfigurationError, QueueNotFound, ValidationError
from pipeline.handlers.api import Context, Handler, Reject, Retry, Signals, States, handler
from pipeline.message import Delivery, Message
from pipeline.names import QueueName


class Flight(BaseModel):
    tail: str = ""


@dataclass
class Tally:
    count: int = 0


class NeedsArguments(BaseModel):
    tail: str


class Opaque:
    """Nothing that pydantic knows."""


def rows(*sessions: str | None, holding: int = 1) -> MessageBatch:
    return MessageBatch.from_columns(
        len(sessions),
        {
            "id": [f"m{n}" for n in range(len(sessions))],
            "session": list(sessions),
            "body": [b""] * len(sessions),
            "holding": [holding] * len(sessions),
        },
    )


# --- forms ----------------------------------------------------------------------------------------


@pytest.mark.spec("H1", "M3")
def test_a_function_is_read_by_its_annotations() -> None:
    """In any order; what is left is the body, given as its annotation says."""

    @handler(state=Tally)
    def count(context: Context, tally: Tally, flight: Flight) -> None: ...

    assert count.arguments == ("context", "state", "body")
    assert (count.body, count.state) == (Flight, Tally)
    assert not count.asynchronous
    assert not count.batch
    assert count.name.endswith("count")


@pytest.mark.spec("H1")
def test_parameters_without_annotations_are_told_by_name_then_by_place() -> None:
    """Body, state, context; the body is bytes."""

    @handler(state=dict)
    async def one(payload, seen, rest):  # type: ignore[no-untyped-def]
        return None

    @handler
    def two(context, payload):  # type: ignore[no-untyped-def]
        return None

    @handler()
    def three() -> None: ...

    assert (one.arguments, one.body, one.asynchronous) == (
        ("body", "state", "context"),
        bytes,
        True,
    )
    assert two.arguments == ("context", "body")
    assert (three.arguments, three.body) == ((), None)


@pytest.mark.spec("H1")
def test_a_batch_handler_gets_rows_states_and_context() -> None:
    """By annotation, by name or by place."""

    @handler(state=Tally, batch=True)
    def by_type(c: Context, s: States, r: MessageBatch) -> None: ...

    @handler(state=Tally, batch=True)
    async def by_place(r, s, c):  # type: ignore[no-untyped-def]
        return None

    @handler(batch=True)
    def alone(rows, context):  # type: ignore[no-untyped-def]
        return None

    assert by_type.arguments == ("context", "states", "rows")
    assert by_place.arguments == ("rows", "states", "context")
    assert by_place.asynchronous
    assert alone.arguments == ("rows", "context")
    assert alone.batch


@pytest.mark.spec("H1")
def test_classes_and_other_callables() -> None:
    """A class is made in its actor; objects and partial functions are called; sync or async."""

    class Sync:
        def __call__(self, body: str, context: Context) -> None: ...

    class Async:
        async def __call__(self, body: bytes) -> None: ...

    async def bound(limit: int, body: str) -> None: ...

    assert (handler(Sync).arguments, handler(Sync).asynchronous) == (("body", "context"), False)
    assert (handler(Async).arguments, handler(Async).asynchronous) == (("body",), True)
    assert (handler(Async()).arguments, handler(Async()).asynchronous) == (("body",), True)
    assert handler(Sync().__call__).body is str
    partial = handler(functools.partial(bound, 5))
    assert (partial.arguments, partial.asynchronous, partial.body) == (("body",), True, str)


@pytest.mark.spec("H1")
def test_a_decorated_function_is_read_through_its_wrapper() -> None:
    """A wrapper that keeps the signature keeps the annotations too."""

    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **named: Any) -> Any:
            return function(*arguments, **named)

        return wrapper

    @handler
    @logged
    def on_flight(flight: Flight, where: Context) -> None: ...

    assert (on_flight.arguments, on_flight.body) == (("body", "context"), Flight)


@pytest.mark.spec("H1")
def test_a_handler_can_still_be_called() -> None:
    """As a test of the function may do."""

    @handler
    def twice(body: str) -> None:
        seen.append(body)

    seen: list[str] = []
    twice("a")
    twice(body="b")
    assert seen == ["a", "b"]


@pytest.mark.spec("M3", "H1")
def test_one_annotation_that_is_not_found_does_not_spoil_the_others() -> None:
    """All annotations here are in quotes; one that only a checker sees goes by name or place."""

    @handler
    def one(flight: Flight, context: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    @handler
    def two(flight: Flight, it: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    for made in (one, two):
        assert (made.arguments, made.body) == (("body", "context"), Flight)


@pytest.mark.spec("M3")
@pytest.mark.parametrize(
    "kind", [bytes, str, Delivery, Flight, Tally, dict[str, int], Annotated[int, Field(gt=0)]]
)
def test_bodies_of_many_types(kind: Any) -> None:
    """What pydantic can read, and the three raw forms; constraints on the annotation stay."""

    def take(body) -> None: ...  # type: ignore[no-untyped-def]

    take.__annotations__["body"] = kind
    assert handler(take).body == kind


# --- refused --------------------------------------------------------------------------------------


def _of_two_bodies(a: bytes, b: bytes) -> None: ...
def _of_an_unknown(a: bytes, b: int) -> None: ...
def _of_state(body: bytes, state: dict[str, int]) -> None: ...
def _of_four(body, state, context, more) -> None: ...  # type: ignore[no-untyped-def]
def _of_rows(body: bytes, rows: MessageBatch) -> None: ...
def _twice(one: Context, two: Context) -> None: ...
def _opaque(body: Opaque) -> None: ...
def _only_by_name(body: bytes, *, limit: int) -> None: ...
def _of_a_missing_type(body: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def _generator(body: bytes) -> Any:
    yield


async def _async_generator(body: bytes) -> Any:
    yield


class _NoCall:
    pass


@pytest.mark.spec("H1", "P10")
@pytest.mark.parametrize(
    ("target", "told"),
    [
        (_of_two_bodies, "parameter 'b'"),
        (_of_an_unknown, "parameter 'b'"),
        (_of_state, "parameter 'state'"),
        (_of_four, "parameter 'state'"),
        (_of_rows, "parameter 'rows'"),
        (_twice, "parameter 'two'"),
        (_opaque, "body type"),
        (_only_by_name, "'limit' can be given by name only"),
        (_of_a_missing_type, "'Missing' of its parameter 'body' can't be found"),
        (_generator, "yield"),
        (_async_generator, "yield"),
        (_NoCall, "__call__"),
        (5, "not callable"),
    ],
)
def test_a_signature_that_can_not_be_served_is_refused(target: Any, told: str) -> None:
    """When it is decorated, not when the first message comes; the error names what is wrong."""
    with pytest.raises(ConfigurationError, match=told):
        handler(target)


@pytest.mark.spec("H1")
def test_a_batch_handler_has_no_body() -> None:
    """A fourth parameter, or one of another type, has nothing to be given."""

    def with_body(rows: MessageBatch, body: bytes) -> None: ...
    def with_four(rows, states, context, more) -> None: ...  # type: ignore[no-untyped-def]

    for target in (with_body, with_four):
        with pytest.raises(ConfigurationError, match="can't tell"):
            handler(state=dict, batch=True)(target)


@pytest.mark.spec("H1")
def test_parameters_that_need_nothing_are_left_alone() -> None:
    """Those by name only with a default, and collected ones."""

    @handler
    def loose(body: str, *more: int, limit: int = 3, **rest: int) -> None: ...

    assert loose.arguments == ("body",)


@pytest.mark.spec("F4", "P10")
@pytest.mark.parametrize("state", [NeedsArguments, Opaque, open, object])
def test_a_state_that_can_not_be_kept_is_refused(state: Any) -> None:
    """It is made without arguments and survives JSON, or it is a ConfigurationError."""
    with pytest.raises(ConfigurationError, match="state type"):

        @handler(state=state)
        def count(body: bytes, state: Any) -> None: ...


@pytest.mark.spec("F4", "P10")
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ttl": 0}, "ttl must be more than 0 seconds, or None for ever; got 0"),
        ({"ttl": float("inf")}, "ttl must be more than 0 seconds"),
        ({"ttl": True}, "got True"),
        ({"ttl": "1 h"}, "got '1 h'"),
        ({"version": 0}, "version must be a whole number, 1 or more; got 0"),
        ({"version": 1.5}, "version must be a whole number, 1 or more; got 1.5"),
        ({"version": True}, "version must be a whole number, 1 or more; got True"),
        ({"version": 2, "migrate": "rename"}, "migrate must be a function .* got 'rename'"),
        ({"migrate": lambda old, version: old}, "version 1 has no older one to migrate from"),
    ],
)
def test_how_a_state_is_kept_is_checked(given: dict[str, Any], told: str) -> None:
    """At once, and by name."""
    with pytest.raises(ConfigurationError, match=told):

        @handler(state=dict, **given)
        def count(body: bytes, state: dict[str, int]) -> None: ...


@pytest.mark.spec("F4", "P10")
def test_a_migration_is_not_async_and_has_a_state() -> None:
    """What would never be awaited, or never be used, is refused."""

    async def later(old: dict[str, Any], version: int) -> dict[str, Any]:
        return old

    with pytest.raises(ConfigurationError, match="must be a function \\(not async\\)"):
        handler(state=dict, version=2, migrate=later)(lambda body, state: None)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="are about its state, and it has none"):
        handler(ttl=5.0)(lambda body: None)


# --- results, context, signals, states ------------------------------------------------------------


@pytest.mark.spec("H2")
@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "5"])
def test_a_delay_is_a_number_of_seconds(delay: Any) -> None:
    """Anything else is refused where it is written."""
    with pytest.raises(ValidationError, match=r"Retry\.delay"):
        Retry(delay)


@pytest.mark.spec("H2")
def test_retry_and_reject_say_what_they_were_given() -> None:
    """No delay leaves it to the policy; a reason is words."""
    assert (Retry().delay, Retry(0).delay) == (None, 0)
    assert Reject("no such aircraft").reason == "no such aircraft"
    assert Reject(KeyError("tail")).reason == "'tail'"  # type: ignore[arg-type]


class Only:
    """Knows one queue."""

    def check(self, queue: str, message: Message) -> None:
        if queue != "audit":
            raise QueueNotFound(queue)


@pytest.mark.spec("H3", "F3")
def test_a_context_knows_its_message_and_its_locks_fate() -> None:
    """The delivery, the attempt, the fence, and what the runtime says meanwhile."""
    signals = Signals(QueueName("flights"))
    context = Context(rows("a", "b"), 1, 2, None, signals)
    assert (context.delivery.session, context.delivery.queue) == ("b", "flights")
    assert context.attempt == 2
    assert not context.lock_lost
    assert not context.stopping
    assert not context.ended
    signals.lose("b", 1)
    signals.stopping = True
    context.end_session()
    assert context.lock_lost
    assert context.stopping
    assert context.ended


@pytest.mark.spec("H3")
def test_sends_are_checked_when_they_are_made() -> None:
    """An unknown queue, a bad name or a row that isn't there fail in the user's code."""
    context = Context(rows("a", "b"), 0, 1, Only(), Signals())
    message = Message(b"x")
    context.send("audit", message)
    context.send("audit", message, row=1)
    with pytest.raises(QueueNotFound):
        context.send("other", message)
    with pytest.raises(ValidationError):
        context.send("-", message)
    for row in (-1, 2):
        with pytest.raises(ValidationError, match="0 to 1"):
            context.send("audit", message, row=row)
    assert context.outbox == [(0, "audit", message), (1, "audit", message)]
    free = Context(rows("a"), 0, 1, None, Signals())
    free.send("anything", message)
    assert free.outbox == [(0, "anything", message)]


@pytest.mark.spec("P13")
def test_a_lost_lock_counts_for_its_holding_and_older_ones() -> None:
    """By session, or by the message's id where messages have no order; until it is forgotten."""
    signals = Signals()
    assert not signals.lost(rows("a"), 0)
    signals.lose("a", 5)
    signals.lose("a", 3)
    assert signals.lost(rows("a", holding=5), 0)
    assert signals.lost(rows("a", holding=4), 0)
    assert not signals.lost(rows("a", holding=6), 0)
    assert not signals.lost(rows("b", holding=1), 0)
    signals.forget("a")
    signals.forget("a")
    signals.lose("m0", 1)
    assert signals.lost(rows(None), 0)


@pytest.mark.spec("H1")
def test_states_are_a_mapping_of_sessions() -> None:
    """A batch handler looks a row's state up by its session."""
    states = States({"a": {"n": 1}, "b": {}})
    states["a"]["n"] = 2
    assert dict(states) == {"a": {"n": 2}, "b": {}}
    assert len(states) == 2
    with pytest.raises(KeyError):
        states["c"]


def test_a_handler_is_a_value() -> None:
    """Two descriptions of one function are equal."""

    def f(body: bytes) -> None: ...

    assert handler(f) == handler(f)
    assert isinstance(handler(f), Handler)
