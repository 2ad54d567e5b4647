"""Each operation that a fault can happen to, done by hand: how it begins, and what shows it worked.

The tables are complete: tests go through `OPERATIONS` of faults.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import Attach, Begin, Close, Detach, Disposition, Open, Transfer
from tests.servicebus.amqp.types import Array, Described, Symbol, Timestamp, UInt, ULong
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored
from tests.servicebus.faults import MANAGEMENT
from tests.servicebus.raw import (
    ABANDONED,
    ACCEPTED,
    DEFERRED,
    REJECTED,
    RELEASED,
    Raw,
    condition,
    message,
    receiver,
    refused,
    request,
    sections,
    sender,
    signed,
)


@dataclass
class Stage:
    """A server, a client by hand, and what an operation needs."""

    clock: ManualClock = field(default_factory=ManualClock)
    raw: Raw = field(init=False)

    def __post_init__(self) -> None:
        self.bus = ServiceBus(clock=self.clock, strict=True)
        self.orders = self.bus.queue("orders")
        self.sessions = self.bus.queue("sessions", sessions=True)
        self.token: bytes = b""
        self.number = 0  # of the delivery that is held
        self.locked_until = 0.0

    def stored(self, queue: Queue) -> None:
        """Put a message into a queue."""
        session = "s" if queue is self.sessions else None
        queue.send([Stored(bare=message(session=session), session_id=session)])

    async def holding(self, queue: Queue) -> None:
        """Receive a message on handle 1, and keep its lock."""
        self.stored(queue)
        if queue is self.sessions:
            await self.raw.receiver("sessions", session="s", credit=1)
        else:
            await self.raw.receiver("orders", credit=1)
        got = (await self.raw.take(Transfer)).body
        self.number = got.delivery_id
        (self.token,) = queue._store.locks
        self.clock.advance(1)

    def until(self) -> float:
        """When the lock of the message that is held ends."""
        found = self.orders.locked(self.token) or self.sessions.locked(self.token)
        assert found is not None
        return found.locked_until


Doing = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Case:
    """One operation.

    Args:
        prepare: everything before it.
        do: it, in one piece.
        done: whether it took effect; None when nobody can tell afterwards.
        answer: what it is answered by.
    """

    prepare: Doing
    do: Callable[[Stage], None]
    done: Callable[[Stage], bool] | None
    answer: type[Any]


async def answered(stage: Stage, case: Case) -> str | None:
    """None: not yet. "": it was done. Else the condition, or status, with which it was refused."""
    came = await stage.raw.all(case.answer)
    if not came:
        return None
    body, payload = came[-1].body, came[-1].payload
    if case.answer in (Open, Attach):
        end = await stage.raw.all(Close if case.answer is Open else Detach)
        return condition(end[0].body.error) if end else ""
    if case.answer is Disposition:
        return refused(body.state)
    words = sections(payload)[0x74]
    status = words.get("statusCode", words.get("status-code"))
    return "" if status < 300 else str(words.get("errorCondition", status))


# --- links ----------------------------------------------------------------------------------------


async def _ready(stage: Stage) -> None:
    stage.raw = await Raw.ready(stage.bus)


async def _shaken(stage: Stage) -> None:
    stage.raw = Raw(stage.bus)
    await stage.raw.shake()


async def _unauthorized(stage: Stage) -> None:
    await _shaken(stage)
    stage.raw.put(Open("by hand"), Begin(None, 0, 5_000, 5_000))
    await stage.raw.take(Open)
    await stage.raw.node("$cbs", 250)


async def _with_session(stage: Stage) -> None:
    await _ready(stage)
    stage.stored(stage.sessions)


async def _with_sender(stage: Stage) -> None:
    await _ready(stage)
    await stage.raw.sender("orders")


async def _holding(stage: Stage) -> None:
    await _ready(stage)
    await stage.holding(stage.orders)


def _put_token(stage: Stage) -> None:
    until = stage.clock.now() + 60
    token = signed(stage.bus, "amqp://here/orders", until)
    kind = "servicebus.windows.net:sastoken"
    words = {"operation": "put-token", "type": kind, "name": "amqp://here/orders"}
    stage.raw.send(250, request(words, token))


def _covered(stage: Stage) -> bool:
    return stage.raw.connection.claims.cover("orders", stage.clock.now())


def _settling(outcome: Any, place: str) -> Case:
    def done(stage: Stage) -> bool:
        counts = stage.orders.counts()
        assert counts.locked + counts.active + counts.deferred + counts.dead_lettered <= 1
        return counts.locked == 0 and (not place or getattr(counts, place) == 1)

    return Case(_holding, lambda stage: stage.raw.settle(stage.number, outcome), done, Disposition)


# --- requests -------------------------------------------------------------------------------------


def _asking(
    operation: str,
    body: Callable[[Stage], dict[str, Any]],
    done: Callable[[Stage], bool] | None,
    prepare: Doing = _ready,
    path: str = "orders",
) -> Case:
    async def prepared(stage: Stage) -> None:
        await prepare(stage)
        await stage.raw.node(f"{path}/$management", 4)
        if stage.token:
            stage.locked_until = stage.until()

    def do(stage: Stage) -> None:
        words = {"operation": f"com.microsoft:{operation}"}
        stage.raw.send(4, request(words, body(stage)))

    return Case(prepared, do, done, Transfer)


async def _holding_session(stage: Stage) -> None:
    await _ready(stage)
    await stage.holding(stage.sessions)


async def _deferred(stage: Stage) -> None:
    await _ready(stage)
    await stage.holding(stage.orders)
    stage.orders.defer(stage.token)
    stage.token = b""


async def _scheduled(stage: Stage) -> None:
    await _ready(stage)
    later = Stored(bare=message(), scheduled_for=stage.clock.now() + 600)
    stage.orders.schedule([later])


def _tokens(stage: Stage) -> Array:
    return Array([UUID(bytes=stage.token)])


def _to_schedule(stage: Stage) -> dict[str, Any]:
    when = Timestamp((stage.clock.now() + 600) * 1000)
    annotations = {Symbol("x-opt-scheduled-enqueue-time"): when}
    whole = encode(Described(ULong(0x72), annotations)) + message()
    return {"messages": [{"message-id": "one", "message": whole}]}


CASES: Final[dict[str, Case]] = {
    "open": Case(
        _shaken,
        lambda stage: stage.raw.put(Open("by hand")),
        lambda stage: stage.raw.connection._opened,
        Open,
    ),
    "attach": Case(_ready, lambda stage: stage.raw.put(sender("orders")), None, Attach),
    "accept": Case(
        _with_session, lambda stage: stage.raw.put(receiver("sessions", session="s")), None, Attach
    ),
    "put-token": Case(_unauthorized, _put_token, _covered, Transfer),
    "send": Case(
        _with_sender,
        lambda stage: stage.raw.put(stage.raw.transfer(0), payload=message()),
        lambda stage: stage.orders.counts().active == 1,
        Disposition,
    ),
    "complete": _settling(ACCEPTED, ""),
    "abandon": _settling(ABANDONED, "active"),
    "defer": _settling(DEFERRED, "deferred"),
    "dead-letter": _settling(REJECTED, "dead_lettered"),
    "release": _settling(RELEASED, "active"),
    "renew-lock": _asking(
        "renew-lock",
        lambda stage: {"lock-tokens": _tokens(stage)},
        lambda stage: stage.until() > stage.locked_until,
        _holding,
    ),
    "renew-session-lock": _asking(
        "renew-session-lock",
        lambda stage: {"session-id": "s"},
        lambda stage: stage.sessions._sessions._sessions["s"].locked_until > stage.locked_until,  # type: ignore[union-attr]
        _holding_session,
        "sessions",
    ),
    "update-disposition": _asking(
        "update-disposition",
        lambda stage: {"disposition-status": "completed", "lock-tokens": _tokens(stage)},
        lambda stage: stage.orders.counts().locked == 0,
        _holding,
    ),
    "receive-by-sequence-number": _asking(
        "receive-by-sequence-number",
        lambda stage: {"sequence-numbers": Array([1]), "receiver-settle-mode": UInt(1)},
        lambda stage: stage.orders.counts().locked == 1,
        _deferred,
    ),
    "peek-message": _asking(
        "peek-message", lambda _: {"from-sequence-number": 0, "message-count": 1}, None
    ),
    "schedule-message": _asking(
        "schedule-message", _to_schedule, lambda stage: stage.orders.counts().scheduled == 1
    ),
    "cancel-scheduled-message": _asking(
        "cancel-scheduled-message",
        lambda _: {"sequence-numbers": Array([1])},
        lambda stage: stage.orders.counts().scheduled == 0,
        _scheduled,
    ),
    "set-session-state": _asking(
        "set-session-state",
        lambda _: {"session-id": "s", "session-state": b"state"},
        lambda stage: stage.sessions.get_state("s") == b"state",
        _holding_session,
        "sessions",
    ),
    "get-session-state": _asking(
        "get-session-state", lambda _: {"session-id": "s"}, None, _holding_session, "sessions"
    ),
    "get-message-sessions": _asking(
        "get-message-sessions",
        lambda _: {"last-updated-time": 253_402_300_800_000, "skip": 0, "top": 10},
        None,
        _with_session,
        "sessions",
    ),
}
assert set(MANAGEMENT) <= set(CASES)
