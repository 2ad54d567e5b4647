"""Faults on demand: what a test asks the server to do wrong, and to whom.

A `Fault` waits for an operation and happens to it: TCP is dropped before or after it is applied,
its answer is swallowed or late, it is refused. The `Shape` of what is sent is another matter:
outcomes merged or apart, transfers in pieces, latency. Links that are detached are a call of
`ServiceBus`, and locks that end now one of the entity. Operations are words:

* of links: open, attach, accept (of a session, after attach), put-token, send, deliver, complete,
  abandon, defer, dead-letter, release;
* of `$management`: its operations without `com.microsoft:`, as renew-lock or peek-message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, TypeVar

from tests.servicebus.entities.clock import Clock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.numbers import finite, whole

SETTLING: Final = ("complete", "abandon", "defer", "dead-letter", "release")
MANAGEMENT: Final = (
    "renew-lock",
    "renew-session-lock",
    "update-disposition",
    "receive-by-sequence-number",
    "peek-message",
    "schedule-message",
    "cancel-scheduled-message",
    "set-session-state",
    "get-session-state",
    "get-message-sessions",
)
OPERATIONS: Final = frozenset(
    ("open", "attach", "accept", "put-token", "send", "deliver", *SETTLING, *MANAGEMENT)
)
# What can't be answered can't be refused, and a delivery that never leaves is a delay without end.
_UNANSWERED: Final = frozenset({"deliver", "release"})
_BYTES: Final = ("transfer_bytes", "write_bytes")
_ALWAYS: Final = ("to_client", "to_server")  # these have a value, if only 0

Answer = TypeVar("Answer")
Kind = Literal["drop-before", "drop-after", "swallow", "ignore", "delay", "refuse"]


class Line(Protocol):
    """The connection that a fault happens to."""

    def drop(self) -> None:
        """End TCP now: nothing that was not sent yet is sent."""


@dataclass(slots=True)
class Fault:
    """One thing that will go wrong; `met` counts how often it has."""

    operation: str
    kind: Kind
    entity: str | None
    times: int | None
    skip: int
    seconds: float = 0.0
    refusal: Refused | None = None
    met: int = 0


@dataclass(slots=True)
class Shape:
    """How what the server sends is cut and timed; all off at first.

    Args:
        merge_outcomes: seconds to gather outcomes that are alike, answered as one range.
        split_outcomes: seconds between the outcomes, each sent alone.
        transfer_bytes: the most bytes of a message in one transfer.
        split_transfers: seconds between the frames of a delivery, each sent alone.
        merge_transfers: seconds to gather deliveries, sent in one write.
        write_bytes: the most bytes of one write to the socket.
        to_client: seconds of latency towards the client.
        to_server: seconds of latency towards the server.
        silent: send no empty frames, so that the client's own idle time-out runs out.
    """

    merge_outcomes: float | None = None
    split_outcomes: float | None = None
    transfer_bytes: int | None = None
    split_transfers: float | None = None
    merge_transfers: float | None = None
    write_bytes: int | None = None
    to_client: float = 0.0
    to_server: float = 0.0
    silent: bool = False

    def __setattr__(self, name: str, value: float | None) -> None:
        """Refuse what can't be: a field is most often set in the middle of a test."""
        if name == "silent":
            if not isinstance(value, bool):
                raise ValueError(f"silent is {value!r}: True or False")
        elif name in _BYTES:
            if value is not None and not (whole(value) and value >= 1):
                raise ValueError(f"{name} is {value!r}: 1 at least, a whole number, or None")
        elif value is None:
            if name in _ALWAYS:
                raise ValueError(f"{name} is None: 0 at least, seconds that end")
        elif not (finite(value) and value >= 0):
            raise ValueError(f"{name} is {value!r}: 0 at least, seconds that end")
        object.__setattr__(self, name, value)


@dataclass(slots=True)
class Faults:
    """The faults of one server; they happen in the order in which they were asked for.

    Args:
        clock: the server's.
        path_of: the path of an entity as operations give it; raises ValueError if there is none.
    """

    clock: Clock
    path_of: Callable[[str], str] = str.lower
    shape: Shape = field(default_factory=Shape)
    waiting: list[Fault] = field(default_factory=list)

    def drop(
        self,
        operation: str,
        *,
        applied: bool,
        entity: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Drop TCP at the operation: after it was applied, unanswered, or before.

        Args:
            operation: one of `OPERATIONS`.
            applied: whether it takes effect.
            entity: only at this one, by its path; there must be one.
            times: how often; None is always.
            skip: how many to let through first.
        """
        kind: Kind = "drop-after" if applied else "drop-before"
        return self._add(Fault(operation, kind, entity, times, skip))

    def swallow(
        self,
        operation: str,
        *,
        applied: bool = True,
        entity: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Never answer the operation, applied or not; the connection goes on."""
        kind: Kind = "swallow" if applied else "ignore"
        return self._add(Fault(operation, kind, entity, times, skip))

    def delay(
        self,
        operation: str,
        seconds: float,
        *,
        entity: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Apply the operation at once and answer it that much later; a delivery leaves later."""
        return self._add(Fault(operation, "delay", entity, times, skip, seconds))

    def refuse(
        self,
        operation: str,
        condition: str,
        description: str = "refused by the test",
        *,
        entity: str | None = None,
        times: int | None = 1,
        skip: int = 0,
    ) -> Fault:
        """Refuse the operation, not applied, with an error of this condition."""
        refusal = Refused(condition, description)
        return self._add(Fault(operation, "refuse", entity, times, skip, 0.0, refusal))

    def busy(self, requests: int, operation: str = "send", *, entity: str | None = None) -> Fault:
        """Answer so many requests with server-busy."""
        text = "The request was terminated because the namespace is being throttled."
        return self.refuse(
            operation, "com.microsoft:server-busy", text, entity=entity, times=requests
        )

    def refuse_auth(self, times: int | None = None) -> Fault:
        """Answer put-token with 401."""
        return self.refuse("put-token", "amqp:unauthorized-access", "InvalidSignature", times=times)

    def clear(self) -> None:
        """No more faults, and the shape as at first."""
        self.waiting.clear()
        self.shape = Shape()

    def _add(self, fault: Fault) -> Fault:
        if fault.operation not in OPERATIONS:
            known = ", ".join(sorted(OPERATIONS))
            raise ValueError(f"{fault.operation!r} is no operation: one of {known}")
        if fault.kind in ("refuse", "swallow", "ignore") and fault.operation in _UNANSWERED:
            raise ValueError(f"{fault.operation} has no answer to {fault.kind}")
        if fault.times is not None and not (whole(fault.times) and fault.times >= 1):
            raise ValueError(f"times is {fault.times!r}: how often it happens, or None for always")
        if not whole(fault.skip) or fault.skip < 0:
            raise ValueError(f"skip is {fault.skip!r}: how many to let through, 0 at least")
        if not finite(fault.seconds) or fault.seconds < 0:
            raise ValueError(f"seconds is {fault.seconds!r}: a finite number, 0 at least")
        if fault.entity is not None:
            if fault.operation == "open":
                raise ValueError("open is of no entity")
            fault.entity = self.path_of(fault.entity)
        self.waiting.append(fault)
        return fault

    def next(self, operation: str, entity: str) -> Fault | None:
        """What happens to this operation; it is used up by that."""
        for fault in self.waiting:
            if fault.operation != operation or not _concerns(fault, entity.lower()):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.met += 1
            if fault.times is not None and fault.met >= fault.times:
                self.waiting.remove(fault)
            return fault
        return None

    def perform(
        self,
        operation: str,
        entity: str,
        line: Line,
        apply: Callable[[], Answer],
        answer: Callable[[Answer | Refused], None],
    ) -> None:
        """Apply an operation and answer it, unless a fault is waiting for it.

        Args:
            operation: one of `OPERATIONS`.
            entity: its path.
            line: the connection it came on.
            apply: takes effect; raises `Refused`.
            answer: tells the client.
        """
        fault = self.next(operation, entity) if self.waiting else None
        if fault is None:
            answer(outcome_of(apply))
        elif fault.kind == "refuse":
            answer(fault.refusal or Refused("amqp:internal-error", "refused by the test"))
        elif fault.kind == "drop-before":
            line.drop()
        elif fault.kind == "drop-after":
            outcome_of(apply)
            line.drop()
        elif fault.kind == "swallow":
            outcome_of(apply)
        elif fault.kind == "delay":
            outcome = outcome_of(apply)
            self.clock.at(self.clock.now() + fault.seconds, lambda: answer(outcome))


def outcome_of(apply: Callable[[], Answer]) -> Answer | Refused:
    """What it returned, or why it was refused."""
    try:
        return apply()
    except Refused as refusal:
        return refusal


def _concerns(fault: Fault, entity: str) -> bool:
    """Whether it is for this entity; for the nodes `$cbs` and `$management` only by their names."""
    if fault.entity is None:
        return not entity.rpartition("/")[2].startswith(("$cbs", "$management"))
    return fault.entity == entity
