"""`$management`: operations on an entity by request and answer.

It turns requests into calls of an entity and their results into bodies; which link an answer leaves
on is attach.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from tests.servicebus.amqp.codec import DecodeError
from tests.servicebus.amqp.types import Array, Int, Symbol, Timestamp
from tests.servicebus.entities.errors import SESSION_LOST, Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored
from tests.servicebus.entities.topic import Topic
from tests.servicebus.messages import delivered, taken
from tests.servicebus.requests import Request, reply

PREFIX: Final = "com.microsoft:"
_ALL_SESSIONS: Final = 253_402_300_800_000  # the last-updated-time that means: whenever
_ARGUMENT: Final = "com.microsoft:argument-error"
_STATUS: Final = {
    "com.microsoft:message-lock-lost": 410,
    "com.microsoft:session-lock-lost": 410,
    "com.microsoft:session-cannot-be-locked": 410,
    "com.microsoft:message-not-found": 404,
    "amqp:not-found": 404,
    "com.microsoft:entity-disabled": 403,
    "com.microsoft:auth-failed": 401,
    "amqp:unauthorized-access": 401,
    "com.microsoft:timeout": 408,
    "com.microsoft:server-busy": 503,
    "amqp:resource-limit-exceeded": 403,
    "amqp:not-allowed": 403,
    "amqp:not-implemented": 501,
    _ARGUMENT: 400,
}

# What only the holder of a session may do to it.
_OF_HOLDERS: Final = frozenset(
    (
        "renew-session-lock",
        "update-disposition",
        "receive-by-sequence-number",
        "set-session-state",
        "get-session-state",
    )
)

# What an operation gives: the body of its answer, or None when there is nothing to give (204).
Body = dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Desk:
    """The management node of one entity.

    Args:
        entity: a queue, subscription or dead-letter queue; a topic only schedules.
        fills_id: give messages a message-id when they have none.
        fenced: what is done to a session is done by its holder alone.
    """

    entity: Queue | Topic
    fills_id: bool
    fenced: bool

    def perform(self, operation: str, body: Any, held: Container[str]) -> Body:
        """Do what a request asks for.

        Args:
            operation: its name, without the prefix.
            body: the request's value.
            held: the sessions that who asks holds.

        Raises:
            Refused: it can't be done; nothing was.
        """
        if operation in ("add-rule", "remove-rule", "enumerate-rules"):
            raise Refused("amqp:not-implemented", "This server has no rules.")
        known = _FOR_SENDERS.get(operation)
        if known is None and isinstance(self.entity, Queue):
            known = _OPERATIONS.get(operation)
        if known is None:
            raise Refused("amqp:not-allowed", f"{operation!r} is no operation of this entity")
        self._check(operation, body, held)
        try:
            return known(self, body)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Refused(_ARGUMENT, f"{operation}: {type(error).__name__}: {error}") from error

    def _check(self, operation: str, body: Any, held: Container[str]) -> None:
        if not isinstance(body, dict):
            raise Refused(_ARGUMENT, f"{operation}: the body is no map")
        if not isinstance(body.get("session-id"), str | None):
            raise Refused(_ARGUMENT, f"{operation}: a session-id is a string")
        if self.fenced and operation in _OF_HOLDERS:
            session = body.get("session-id")
            if session is not None and session not in held:
                text = f"{operation}: the lock of session {session!r} is not held, or was lost"
                raise Refused(SESSION_LOST, text)

    @property
    def queue(self) -> Queue:
        """The entity, which is a queue or one of its kind."""
        assert isinstance(self.entity, Queue)
        return self.entity


def answered(asked: Request, outcome: Body | Refused) -> bytes:
    """The answer to a request."""
    if isinstance(outcome, Refused):
        words = {
            "statusCode": _STATUS.get(outcome.condition, 500),
            "statusDescription": outcome.description,
            "errorCondition": Symbol(outcome.condition),
        }
        return reply(asked.id, words, {})
    if outcome is None:
        return reply(asked.id, {"statusCode": 204, "statusDescription": "No Content"}, {})
    return reply(asked.id, {"statusCode": 200, "statusDescription": "OK"}, outcome)


def _tokens(body: Mapping[Any, Any]) -> list[bytes]:
    return [token.bytes for token in body["lock-tokens"]]


def _renew(desk: Desk, body: Mapping[Any, Any]) -> Body:
    tokens = _tokens(body)
    _check_locked(desk.queue, tokens, None)
    until = [Timestamp(desk.queue.renew(token) * 1000) for token in tokens]
    return {"expirations": Array(until, of=Timestamp)}


def _renew_session(desk: Desk, body: Mapping[Any, Any]) -> Body:
    return {"expiration": Timestamp(desk.queue.renew_session(body["session-id"]) * 1000)}


def _check_locked(queue: Queue, tokens: list[bytes], session: str | None) -> None:
    """All of them or none: an unknown one is refused before any is touched."""
    for token in tokens:
        if queue.locked(token) is None:
            queue.complete(token, session)  # says which lock was lost


def _update(desk: Desk, body: Mapping[Any, Any]) -> Body:
    queue, status, session = desk.queue, body["disposition-status"], body.get("session-id")
    tokens = _tokens(body)
    changes = body.get("properties-to-modify")
    changes = dict(changes) if changes else None
    reason, description = body.get("deadletter-reason"), body.get("deadletter-description")
    apply: dict[str, Callable[[bytes], object]] = {
        "completed": lambda token: queue.complete(token, session),
        "abandoned": lambda token: queue.abandon(token, changes, session),
        "defered": lambda token: queue.defer(token, changes, session),
        "suspended": lambda token: queue.dead_letter(token, reason, description, changes, session),
    }
    if status not in apply:
        raise Refused(_ARGUMENT, f"disposition-status {status!r}: one of {', '.join(apply)}")
    _check_locked(queue, tokens, session)
    for token in tokens:
        apply[status](token)
    return {}


def _receive(desk: Desk, body: Mapping[Any, Any]) -> Body:
    locks = body.get("receiver-settle-mode", 1) == 1
    messages = desk.queue.receive_deferred(
        [int(number) for number in body["sequence-numbers"]],
        locks=locks,
        session=body.get("session-id"),
    )
    found = [_found(message, locks) for message in messages]
    return {"messages": found}


def _found(message: Stored, locks: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"message": delivered(message, locked=locks)}
    if locks and message.token is not None:
        entry["lock-token"] = UUID(bytes=message.token)
    return entry


def _peek(desk: Desk, body: Mapping[Any, Any]) -> Body:
    start, count = int(body["from-sequence-number"]), int(body["message-count"])
    messages = desk.queue.peek(start, count, body.get("session-id"))
    found = [{"message": delivered(message, locked=False)} for message in messages]
    return {"messages": found} if found else None


def _schedule(desk: Desk, body: Mapping[Any, Any]) -> Body:
    try:
        messages = [taken(entry["message"], fills_id=desk.fills_id) for entry in body["messages"]]
    except DecodeError as error:
        raise Refused(_ARGUMENT, f"a message can't be read: {error}") from error
    return {"sequence-numbers": Array(desk.entity.schedule(messages), of=int)}


def _cancel(desk: Desk, body: Mapping[Any, Any]) -> Body:
    desk.entity.cancel_scheduled([int(number) for number in body["sequence-numbers"]])
    return {}


def _set_state(desk: Desk, body: Mapping[Any, Any]) -> Body:
    state = body["session-state"]
    desk.queue.set_state(body["session-id"], None if state is None else bytes(state))
    return {}


def _get_state(desk: Desk, body: Mapping[Any, Any]) -> Body:
    return {"session-state": desk.queue.get_state(body["session-id"])}


def _sessions(desk: Desk, body: Mapping[Any, Any]) -> Body:
    since, skip = int(body["last-updated-time"]), int(body["skip"])
    after = None if since >= _ALL_SESSIONS else since / 1000
    names = desk.queue.list_sessions(after, skip, int(body["top"]))
    if not names:
        return None
    return {"skip": Int(skip + len(names)), "sessions-ids": Array(names, of=str)}


_FOR_SENDERS: Final[dict[str, Callable[[Desk, Mapping[Any, Any]], Body]]] = {
    "schedule-message": _schedule,
    "cancel-scheduled-message": _cancel,
}
_OPERATIONS: Final[dict[str, Callable[[Desk, Mapping[Any, Any]], Body]]] = {
    "renew-lock": _renew,
    "renew-session-lock": _renew_session,
    "update-disposition": _update,
    "receive-by-sequence-number": _receive,
    "peek-message": _peek,
    "set-session-state": _set_state,
    "get-session-state": _get_state,
    "get-message-sessions": _sessions,
}
