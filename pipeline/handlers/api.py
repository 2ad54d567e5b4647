"""What a user imports to write a handler: `handler`, `Context`, `Retry`, `Reject`, `States`.

A handler is a function, or a class with `__call__` (one object an actor, made there), sync or
async. Its parameters are found by their annotations: `Context`, the state's type, `MessageBatch`
and `States` name themselves; the one that is left is the body, given as its annotation says.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias

from pydantic import TypeAdapter

from pipeline.batch import MessageBatch
from pipeline.errors import ConfigurationError, ValidationError
from pipeline.message import Delivery, Message
from pipeline.names import QueueName, SessionId


class Retry(Exception):
    """Return or raise it: handle this message again after a delay. It counts as an attempt.

    Args:
        delay: seconds to wait; None leaves it to the retry policy.

    Example:
        >>> Retry(2.5).delay
        2.5
    """

    def __init__(self, delay: float | None = None) -> None:
        if delay is not None and not (isinstance(delay, (int, float)) and 0 <= delay < inf):
            raise ValidationError("Retry.delay", "must be 0 or more seconds", delay)
        super().__init__(delay)
        self.delay = delay


class Reject(Exception):
    """Return or raise it: dead-letter this message now, without another attempt.

    Args:
        reason: why, in words; it stands in the dead letter's description.

    Example:
        >>> Reject("no such aircraft").reason
        'no such aircraft'
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = str(reason)


class Outgoing(Protocol):
    """Where a context's outgoing messages are checked and kept until the commit."""

    def check(self, queue: str, message: Message) -> None:
        """Raise `QueueNotFound`, `ValidationError` or `MessageTooLarge` when it can't be sent."""


_TURNS = 4096
"""How many turns of one possession of a session have fences of their own."""


class Context:
    """What a handler may know and do beside its message.

    `delivery` is the message with all it came with; `attempt` is 1 at the first run; `fence` only
    grows for a session: give it to a database of your own so that it can refuse an old run.
    `lock_lost` turns True when the message's lock ended while you run: what you commit will be
    refused. `stopping` turns True when the runtime waits for you to end.

    Example:
        >>> from pipeline.testing import run
        >>> @handler
        ... def count(body: bytes, context: Context) -> None:
        ...     context.send("audit", Message(body))
        >>> [str(sent.queue) for sent in run(count, [Message(b"x")]).sent]
        ['audit']
    """

    __slots__ = ("_batch", "_outgoing", "_row", "_signals", "attempt", "ended", "outbox")

    def __init__(
        self,
        batch: MessageBatch,
        row: int,
        attempt: int,
        outgoing: Outgoing | None,
        signals: Signals,
    ) -> None:
        self._batch = batch
        self._row = row
        self._outgoing = outgoing
        self._signals = signals
        self.attempt = attempt
        self.ended = False
        self.outbox: list[tuple[int, str, Message]] | None = None

    @property
    def delivery(self) -> Delivery:
        """The message being handled; of a batch handler, the batch's first."""
        return self._signals.delivery(self._batch, self._row)

    @property
    def fence(self) -> int:
        """A number that only grows for a session, with each possession and each retry of it."""
        batch, row = self._batch, self._row
        holding: int = batch.values("holding")[row]
        turn: int = batch.values("turn")[row]
        return holding * _TURNS + min(turn, _TURNS - 1)

    @property
    def lock_lost(self) -> bool:
        """True once the lock ended: another receiver may already have the message."""
        return self._signals.lost(self._batch, self._row)

    @property
    def stopping(self) -> bool:
        """True once the runtime asks the handler to end soon (drain, time-out)."""
        return self._signals.stopping or self._signals.late()

    def end_session(self) -> None:
        """Delete the session's state when this message is committed; the next one starts anew.

        In a batch handler: the states of all sessions of the batch.
        """
        self.ended = True

    def send(self, queue: str, message: Message, *, row: int = 0) -> None:
        """Send a message after the state is committed and before this message is completed.

        Its id is derived from this message's, so that a repeat is the same message.

        Args:
            queue: a queue of the configuration.
            message: what to send; its id is replaced.
            row: in a batch handler, the row that causes it.

        Raises:
            QueueNotFound: the configuration names no such queue.
            ValidationError: the queue orders its messages and this one has no session, or the batch
                has no such row.
            MessageTooLarge: it is larger than the queue takes.
        """
        name = QueueName(queue)
        if not 0 <= row < len(self._batch):
            rule = f"must be a row of the batch, 0 to {len(self._batch) - 1}"
            raise ValidationError("Context.send row", rule, row)
        if not isinstance(message, Message):
            rule = "must be a Message; wrap the body: Message(b'...')"
            raise ValidationError("Context.send.message", rule, message)
        if self._outgoing is not None:
            self._outgoing.check(name, message)
        if self.outbox is None:
            self.outbox = []
        self.outbox.append((row, name, message))


class Signals:
    """What the runtime tells a running handler; one object a handler actor."""

    def __init__(self, queue: QueueName | None = None) -> None:
        self.stopping = False
        self.queue = queue
        self.late: Callable[[], bool] = lambda: False
        """Whether what runs on this thread has been running for longer than it may."""
        self._lost: dict[str, int] = {}  # session, or id where there is none, to newest holding

    def delivery(self, batch: MessageBatch, row: int) -> Delivery:
        """The row as a delivery of this pipeline's queue."""
        return Delivery(batch, row, self.queue)

    def lose(self, session: str, holding: int) -> None:
        """The lock on this holding, and on every older one of the session, ended."""
        self._lost[session] = max(holding, self._lost.get(session, holding))

    def forget(self, session: str) -> None:
        """No row of the session is here any more."""
        self._lost.pop(session, None)

    def lost(self, batch: MessageBatch, row: int) -> bool:
        """Whether the row's lock ended."""
        if not self._lost:
            return False
        holding: int = batch.values("holding")[row]
        keys = (batch.values("session")[row], batch.provider_ids()[row])
        return any(self._lost.get(key, -1) >= holding for key in keys)


class States(Mapping[SessionId, Any]):
    """A batch handler's states: session to state, changed in place; kept as H1 says.

    Example:
        >>> States({"a": {"n": 1}})[SessionId("a")]
        {'n': 1}
    """

    __slots__ = ("_states",)

    def __init__(self, states: dict[str, Any]) -> None:
        self._states = states

    def __getitem__(self, session: str) -> Any:
        return self._states[session]

    def __iter__(self) -> typing.Iterator[SessionId]:
        return (SessionId.trusted(session) for session in self._states)

    def __len__(self) -> int:
        return len(self._states)


Migration: TypeAlias = Callable[[dict[str, Any], int], dict[str, Any]]
"""Makes of a state as plain data, and the version it was written with, data of the newest one."""


@dataclass(frozen=True, slots=True)
class Keeping:
    """How a handler's state is kept.

    Args:
        ttl: seconds it lives after its session's last commit; None: for ever.
        version: of the state's type.
        migrate: reads what older versions wrote.
    """

    ttl: float | None = None
    version: int = 1
    migrate: Migration | None = None


@dataclass(frozen=True, slots=True)
class Handler:
    """A user's handler with what the runtime has to know of it; `handler` makes it.

    Args:
        function: the user's function or class.
        state: the state's type, or None.
        batch: whether it takes a whole batch.
        asynchronous: whether it has to be awaited.
        arguments: what its parameters stand for, in their order.
        body: the body's type, or None where it takes none.
        name: how errors and dead letters call it.
        kept: how its state is kept.

    Example:
        >>> @handler
        ... def on_text(body: str) -> None: ...
        >>> on_text.name, on_text.arguments, on_text.batch
        ('on_text', ('body',), False)
    """

    function: Callable[..., Any]
    state: type[Any] | None
    batch: bool
    asynchronous: bool
    arguments: tuple[str, ...]
    body: Any
    name: str
    kept: Keeping = Keeping()

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the user's function directly, as a test of it may."""
        return self.function(*arguments, **named)


_RAW = (bytes, str, Delivery)


@typing.overload
def handler(function: Callable[..., Any], /) -> Handler: ...
@typing.overload
def handler(
    *,
    state: type[Any] | None = None,
    batch: bool = False,
    ttl: float | None = None,
    version: int = 1,
    migrate: Migration | None = None,
) -> Callable[[Callable[..., Any]], Handler]: ...
def handler(
    function: Callable[..., Any] | None = None,
    /,
    *,
    state: type[Any] | None = None,
    batch: bool = False,
    ttl: float | None = None,
    version: int = 1,
    migrate: Migration | None = None,
) -> Handler | Callable[[Callable[..., Any]], Handler]:
    """Make a handler of a function or of a class with `__call__`; sync or async.

    What it returns decides (SPEC H2): nothing completes the message; `Retry(delay)`, returned or
    raised, handles it again; `Reject(reason)` dead-letters it; any other exception is retried by
    the pipeline's policy, then dead-lettered. A batch handler returns a list with one of these
    (None completes) a row, or None when all are complete.

    Args:
        function: what to decorate, when used without parentheses.
        state: a type that is made without arguments (pydantic model, dataclass, dict …): one object
            a session, given to the handler and changed in place. Needs a `fifo` queue.
        batch: True to get a whole `MessageBatch` at once, and with a state a `States`.
        ttl: seconds that a state lives after its session's last commit, then the session starts
            anew; None: for ever, or until `context.end_session()`.
        version: the version of the state's type, 1 or more; it is kept with each state. Raise it
            when older states can't be read as they are any more, or would mean something else.
        migrate: a function that is given an older state as plain data, as JSON has it, and the
            version it was written with, and returns data of `version`. A state that it can't make,
            or of a newer version, is left as it is; its message fails by the retry policy.

    Raises:
        ConfigurationError: a parameter can't be told, the state can't be made or serialised, or
            `ttl`, `version` or `migrate` can't be what they are.

    Example:
        >>> @handler(state=dict)
        ... def tally(body: str, state: dict, context: Context) -> None:
        ...     state[body] = state.get(body, 0) + 1
        >>> tally.arguments, tally.asynchronous
        (('body', 'state', 'context'), False)
        >>> def renamed(old: dict, version: int) -> dict:
        ...     return {"total": old["sum"]}
        >>> @handler(state=dict, ttl=3600.0, version=2, migrate=renamed)
        ... def total(body: str, state: dict) -> None:
        ...     state["total"] = state.get("total", 0) + int(body)
        >>> total.kept.migrate({"sum": 3}, 1)
        {'total': 3}
    """
    kept = Keeping(ttl, version, migrate)

    def decorate(target: Callable[..., Any]) -> Handler:
        return _describe(target, state, kept, batch=batch)

    return decorate if function is None else decorate(function)


def _describe(
    target: Callable[..., Any], state: type[Any] | None, kept: Keeping, *, batch: bool
) -> Handler:
    name = getattr(target, "__qualname__", repr(target))
    if not callable(target):
        raise ConfigurationError(f"handler {name}: is not callable; decorate a function or class")
    call = _function_of(target)
    if inspect.isclass(target) and not inspect.isfunction(call):
        raise ConfigurationError(
            f"handler {name}: a handler class needs a __call__ method; add one"
        )
    if inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call):
        raise ConfigurationError(f"handler {name}: must return its result; it has a yield")
    _check_keeping(name, state, kept)
    if state is not None:
        _check_state(name, state)
    parameters = _parameters(name, call if inspect.isclass(target) else target)
    if inspect.isclass(target):
        parameters = parameters[1:]
    hints = _hints(call, parameters)
    arguments, body = _arguments(name, parameters, hints, state, batch=batch)
    return Handler(
        target,
        state,
        batch,
        inspect.iscoroutinefunction(call),
        tuple(arguments),
        body,
        name,
        kept,
    )


def _function_of(target: Any) -> Any:
    """The function that runs when it, or an object of it, is called."""
    while isinstance(target, partial):
        target = target.func
    if inspect.isclass(target):
        return target.__call__
    return target if inspect.isroutine(target) else type(target).__call__


def _parameters(name: str, call: Callable[..., Any]) -> list[inspect.Parameter]:
    found = []
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            found.append(parameter)
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            raise ConfigurationError(
                f"handler {name}: parameter {parameter.name!r} can be given by name only; "
                "remove the * before it, or give it a default"
            )
    return found


_UNKNOWN = object()
"""An annotation in quotes (or under `from __future__ import annotations`) that can't be looked up
where the handler's module is: a name of a function, or imported for a checker only."""


def _hints(call: Callable[..., Any], parameters: list[inspect.Parameter]) -> dict[str, Any]:
    scope = getattr(inspect.unwrap(call), "__globals__", {})
    hints: dict[str, Any] = {}
    for parameter in parameters:
        if parameter.annotation is parameter.empty:
            continue
        one = SimpleNamespace(__annotations__={"it": parameter.annotation})
        try:
            hints[parameter.name] = typing.get_type_hints(one, scope, include_extras=True)["it"]
        except Exception:  # noqa: BLE001 - evaluating an annotation may raise anything
            hints[parameter.name] = _UNKNOWN
    return hints


def _arguments(
    name: str,
    parameters: list[inspect.Parameter],
    hints: dict[str, Any],
    state: type[Any] | None,
    *,
    batch: bool,
) -> tuple[list[str], Any]:
    known: list[tuple[Any, str]] = [
        (Context, "context"),
        (MessageBatch, "rows"),
        (States, "states"),
    ]
    if state is not None and not batch:
        known.append((state, "state"))
    order = ["rows", "states", "context"] if batch else ["body", "state", "context"]
    if state is None:
        order.pop(1)
    arguments: list[str] = []
    body: Any = None
    for parameter in parameters:
        hint = hints.get(parameter.name, inspect.Parameter.empty)
        # The name decides first: a body and a state may be of one type, a dict for example.
        names = [(parameter.name, parameter.name)] if parameter.name in order else []
        kind = next((kind for one, kind in names + known if one in (hint, parameter.name)), None)
        if kind is None:
            kind = _by_position(parameter, hint, order, arguments, batch=batch)
        if kind is None or kind in arguments or kind not in order:
            raise ConfigurationError(
                f"handler {name}: can't tell what to give for parameter {parameter.name!r}; "
                f"its parameters may be {', '.join(order)}, each once, annotated with their types"
            )
        if kind == "body":
            body = _body_type(name, parameter, hint)
        arguments.append(kind)
    if body is not None and body not in _RAW:
        _adapter(name, "body", body)
    return arguments, body


def _body_type(name: str, parameter: inspect.Parameter, hint: Any) -> Any:
    if hint is _UNKNOWN:
        raise ConfigurationError(
            f"handler {name}: the type {parameter.annotation!r} of its parameter "
            f"{parameter.name!r} can't be found; define or import it in the handler's module"
        )
    return bytes if hint is inspect.Parameter.empty else hint


def _by_position(
    parameter: inspect.Parameter,
    hint: Any,
    order: list[str],
    arguments: list[str],
    *,
    batch: bool,
) -> str | None:
    if parameter.name in ("context", "state", "states", "rows"):
        return parameter.name
    if not batch and "body" not in arguments:
        return "body"
    if hint is not inspect.Parameter.empty and hint is not _UNKNOWN:
        return None
    return next((kind for kind in order if kind not in arguments), None)


def _adapter(name: str, what: str, kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind)
    except Exception as error:
        raise ConfigurationError(
            f"handler {name}: pydantic can't read or write its {what} type {kind!r}: {error}"
        ) from error


def _check_keeping(name: str, state: type[Any] | None, kept: Keeping) -> None:
    ttl, version, migrate = kept.ttl, kept.version, kept.migrate
    if state is None and kept != Keeping():
        raise ConfigurationError(
            f"handler {name}: ttl, version and migrate are about its state, and it has none; "
            "give it state=..., or leave them out"
        )
    if ttl is not None and not (_is(ttl, int, float) and 0 < ttl < inf):
        raise ConfigurationError(
            f"handler {name}: ttl must be more than 0 seconds, or None for ever; got {ttl!r}"
        )
    if not _is(version, int) or version < 1:
        raise ConfigurationError(
            f"handler {name}: version must be a whole number, 1 or more; got {version!r}"
        )
    if migrate is None:
        return
    if not callable(migrate) or inspect.iscoroutinefunction(migrate):
        raise ConfigurationError(
            f"handler {name}: migrate must be a function (not async) of an older state and its "
            f"version; got {migrate!r}"
        )
    if version == 1:
        raise ConfigurationError(
            f"handler {name}: version 1 has no older one to migrate from; raise the version"
        )


def _is(value: object, *kinds: type[Any]) -> bool:
    """Whether it is of one of these types; True and False are numbers only to Python."""
    return isinstance(value, kinds) and not isinstance(value, bool)


def _check_state(name: str, state: type[Any]) -> None:
    adapter = _adapter(name, "state", state)
    try:
        adapter.validate_json(adapter.dump_json(state()))
    except Exception as error:
        raise ConfigurationError(
            f"handler {name}: its state type {state!r} must be made without arguments and "
            f"survive JSON (give every field a default): {error}"
        ) from error
