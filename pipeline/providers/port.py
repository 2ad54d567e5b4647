"""The provider port: what a message service must do for this runtime, as prose.

A newcomer writes a provider from this file alone. Four objects:

`Provider`   one configured connection. Made without I/O; `start()` connects.
`Sender`     the sending side of one queue.
`Receiver`   one receiving lane of one queue: it receives, and it alone settles what it received.
`Capabilities`  what the service can do on one queue; the contract suite holds every provider to it.

Rules for every method:

* All are coroutines, called on the event loop that ran `start()`; from another thread or loop
  they raise `ValidationError`. The runtime calls a `Receiver` from many tasks at once (a receive is
  nearly always pending while others settle and renew), so an SDK that can't do that is owned by one
  task inside the provider. A `Sender` too is called concurrently.
* Every wait is bounded by the configured time-outs (SPEC P6); running over is `Timeout`.
* Errors are those of `pipeline.errors`, translated at this edge with the SDK's as `__cause__`. The
  provider retries nothing: the caller's retry policy decides (SPEC R1).
* Results come back per message. A call over many receipts returns only the failures, as a mapping
  from the position in the argument to the error; an empty mapping says that all went well. It
  raises only when the call as a whole can't be made (closed, wrong loop, unsupported).
* Batches of any length are taken; the provider cuts them to the service's limits (SPEC P3).
* `close()` may be called at any time and any number of times; every other call after it raises
  `Closed`, and so does a receive or accept that was waiting. What is still in hand then comes again
  by the service's own rules.
* A receipt is whatever the provider chose (an int, a string, an SDK object). Nobody else looks into
  it, and it never leaves the process of the `Receiver` that gave it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from pipeline.batch import MessageBatch
from pipeline.errors import QueueError
from pipeline.message import Message

Receipt: TypeAlias = Any
Failures: TypeAlias = dict[int, QueueError]

UNBOUNDED = 2**62


class SessionSupport(StrEnum):
    """How a service keeps a session's messages in order."""

    NATIVE = "native"
    EMULATED = "emulated"
    UNSUPPORTED = "unsupported"


class Count(StrEnum):
    """When a service's delivery count grows."""

    ON_FAILURE = "on_failure"
    ON_RECEIVE = "on_receive"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What one queue at one provider can do, and what settling does there (SPEC P4, P14).

    Args:
        provider: the provider's name in the configuration.
        sessions: how sessions are kept in order.
        count: when the delivery count grows.
        release_counts: whether giving a message back unhandled makes the count grow.
        abandon_delay: whether the service itself can delay an abandoned message; where it can't,
            the runtime holds the message and handles it again in place.
        group_delay: EMULATED: whether the first message of a group can be given back for later, and
            the group waits with it.
        single_release: whether one message can be given back alone (an Azure session's can't).
        session_state: whether a held session can keep bytes at the service.
        scheduling: whether `Message.not_before` is kept by the service.
        cancel_scheduled: whether a scheduled message can be taken back.
        defer: whether a message can be set aside and received by its sequence later.
        peek: whether messages can be read without locking them.
        duplicate_detection: whether the service drops a second message of one id.
        exact_depth: whether `depth` counts exactly; a guess otherwise.
        bounds_sessions: whether `receive` keeps to `Want.per_session` and `Want.held`.
        max_receive: the most messages one receive brings.
        max_message_size: the largest message in bytes.
        held_sessions: how many sessions one receiver holds at once unless configured.
        session_idle: seconds an empty session is kept while others wait.
        max_wait: the longest one receive should wait, in seconds, because it can't be ended sooner.
        max_lock: seconds from receipt after which the service refuses to renew; None: no limit.
    """

    provider: str
    sessions: SessionSupport
    count: Count
    release_counts: bool
    abandon_delay: bool
    group_delay: bool
    single_release: bool
    session_state: bool
    scheduling: bool
    cancel_scheduled: bool
    defer: bool
    peek: bool
    duplicate_detection: bool
    exact_depth: bool
    bounds_sessions: bool
    max_receive: int
    max_message_size: int
    held_sessions: int = 8
    session_idle: float = 1.0
    max_wait: float = math.inf
    max_lock: float | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """How much a queue holds; None where the service does not say.

    Args:
        available: messages a receiver could have now, those of locked sessions included.
        in_hand: messages received and not settled.
        scheduled: messages whose time has not come.
        deferred: messages set aside.
        dead_lettered: messages in its dead-letter queue.
        oldest_age: seconds since the oldest available message was enqueued.
    """

    available: int | None = None
    in_hand: int | None = None
    scheduled: int | None = None
    deferred: int | None = None
    dead_lettered: int | None = None
    oldest_age: float | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """A message the service took.

    Args:
        sequence: the queue's number for it, where the service tells it: cancels a scheduled one.
        duplicate: True when duplicate detection dropped it because it was there already.
    """

    sequence: int | None = None
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Why a message goes to the dead-letter queue.

    Args:
        reason: the code.
        description: compact JSON or text; a provider cuts it to its limit.

    Halves of surrogate pairs, as in the names of files that are not UTF-8, are written as escapes.
    """

    reason: str
    description: str = ""

    def __post_init__(self) -> None:
        for name in ("reason", "description"):
            text = getattr(self, name).encode(errors="backslashreplace").decode()
            object.__setattr__(self, name, text)


@dataclass(frozen=True, slots=True)
class Holding:
    """One possession of one session by one receiver (NATIVE only).

    Args:
        number: grows for a session with each holding, whoever holds it: the fence.
        session: which one.
        deadline: `loop.time()` at which the lock ends unless renewed.
    """

    number: int
    session: str
    deadline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """What one receive may bring.

    Args:
        messages: at most so many.
        bytes: stop when so many bytes of bodies are reached; the message that crosses it may come.
        wait: seconds to wait for the first message; 0 asks once.
        per_session: at most so many of one session or group that is not in `held`.
        new_sessions: NATIVE: at most so many free sessions are opened by this receive.
        held: NATIVE: holding to how many more of its messages may come; one not named brings none.
    """

    messages: int
    bytes: int = UNBOUNDED
    wait: float = 0.0
    per_session: int = UNBOUNDED
    new_sessions: int = 0
    held: Mapping[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Received:
    """What one receive brought.

    Args:
        batch: the rows, of each session in ascending sequence; `session`, `holding`, `sequence`,
            `delivery_count`, `enqueued_at`, `locked_until` are set. EMULATED and UNSUPPORTED: the
            holding is a number that grows with each receive.
        receipts: one a row.
        deadline: `loop.time()` at which the rows' locks end; with NATIVE sessions the holding's
            lock counts instead and this is infinite.
        opened: NATIVE: the sessions this receive opened; each has at least one row here.
        others_wait: NATIVE: whether sessions that nobody holds have messages.
    """

    batch: MessageBatch
    receipts: Sequence[Receipt]
    deadline: float
    opened: tuple[Holding, ...] = ()
    others_wait: bool = False


@dataclass(slots=True)
class Renewed:
    """How a renewal went.

    Args:
        deadline: `loop.time()` at which the renewed locks end.
        failures: position in the argument to error; `MessageLockLost` or `SessionLockLost` is
            final, a transient one may be tried again before the old deadline.
    """

    deadline: float
    failures: Failures = field(default_factory=dict)


class Sender(Protocol):
    """The sending side of one queue."""

    async def send(self, messages: Sequence[Message]) -> list[Sent | QueueError]:
        """Send many; one result per message, in order.

        Called by `QueueClient` and by handlers' outgoing messages, concurrently. On an ordered
        queue no message of a session is taken before the earlier ones of that session in this call
        were: after a failure the later ones of that session fail with the same error, unsent. A
        message over the size limit is `MessageTooLarge`, known before the call. Without duplicate
        detection a repeat is a second message.
        """

    async def cancel(self, sequence: int) -> None:
        """Take back a scheduled message. `MessageNotFound` when it is no longer scheduled."""

    async def close(self) -> None:
        """End what is open; sends under way may finish first."""


class Receiver(Protocol):
    """One receiving lane of one queue, or of its dead-letter queue."""

    async def receive(self, want: Want) -> Received:
        """Bring messages, waiting for the first one; the moment there is one it returns.

        Called by one task at a time, again and again. An empty batch after `want.wait` is the
        normal answer of an empty queue; a broken connection is an error, never an empty batch.
        Cancelled: the call under it ends by itself, soon, and what it brings is released; nothing
        is lost and nothing stays locked. With NATIVE sessions it brings messages of `want.held`
        and opens up to `want.new_sessions` free ones that have messages.
        """

    async def end_wait(self) -> None:
        """Let a pending receive return now with what it has, as if its wait were over.

        Called by the receive's caller, from another task, when it could ask for more than it did:
        a session has room again, or another one may be opened. Nothing is lost by it. Without a
        pending receive it does nothing; where a poll can't be ended it does nothing either, and the
        caller hears when the wait is over.
        """

    async def complete(self, receipts: Sequence[Receipt]) -> Failures:
        """They were handled: delete them. A repeat is `MessageNotFound`."""

    async def abandon(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Handling failed: deliver them again, not before `delay` seconds; the count grows.

        A delay where `Capabilities.abandon_delay` is False raises `Unsupported`.
        """

    async def release(self, receipts: Sequence[Receipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: deliver them again now, in front. See `release_counts`.

        With a delay they, and their groups, come after so many seconds; where
        `Capabilities.group_delay` is False that raises `Unsupported`.
        """

    async def dead_letter(
        self, receipts: Sequence[Receipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead-letter queue; a position without failure is confirmed there."""

    async def defer(self, receipts: Sequence[Receipt]) -> Failures:
        """Set them aside until `receive_deferred` asks for their sequences, or `Unsupported`.

        Of a dead-letter queue it is always that: nobody could ask for them there. Given back after
        `receive_deferred` in whatever way, they are aside again.
        """

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:
        """Bring messages that were set aside, locked; `MessageNotFound` if one isn't there."""

    async def renew(self, receipts: Sequence[Receipt]) -> Renewed:
        """Prolong message locks by the queue's lock duration from now."""

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Read up to `count` messages with a sequence above `after` without locking, in order."""

    async def accept(self, session: str | None, wait: float) -> Holding:
        """NATIVE: lock one session, a named one (which may be empty), or the next free one.

        `SessionLocked` when the named one is held past the wait, `SessionNotFound` when no session
        with messages came free. Used by `QueueClient`; the runtime's receiver opens sessions
        through `receive`. Cancelled: what is granted late is given back at once.
        """

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:
        """NATIVE: give sessions back; their unsettled messages come again, counts unchanged."""

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:
        """NATIVE: prolong session locks by the queue's lock duration from now."""

    async def session_state(self, holding: int) -> bytes | None:
        """NATIVE: the bytes kept with a held session; `SessionLockLost` if it isn't held."""

    async def set_session_state(self, holding: int, state: bytes | None) -> None:
        """NATIVE: keep bytes with a held session, or forget them."""

    async def close(self) -> None:
        """Give back what is in hand where the service can, and end what is open."""


class Provider(Protocol):
    """One configured connection to a service."""

    async def start(self) -> None:
        """Connect and check the credentials; idempotent."""

    def capabilities(self, queue: str) -> Capabilities:
        """What that queue can do. `QueueNotFound` when the configuration does not name it."""

    async def source(self, queue: str) -> str:
        """Where its messages come from; sequences of different sources can't be compared.

        Provider, namespace or account, queue, and its creation where the service tells it.
        """

    async def sender(self, queue: str) -> Sender:
        """A new sending side; `QueueNotFound` when the service has no such queue."""

    async def receiver(
        self, queue: str, *, partition: int = 0, dead_letters: bool = False, owner: str = ""
    ) -> Receiver:
        """A new receiving lane, of the queue or of its dead-letter queue.

        `owner` is who it is over all its starts: what a lane of the same owner still has in hand,
        whose process is gone, is given back now where the service can, and else as its locks end.
        """

    async def depth(self, queue: str) -> Depth:
        """How much it holds now."""

    def figures(self) -> dict[str, int]:
        """Plain counters of this connection in this process: its pools, and what is counted here.

        Those whose names end in `_in_use` say how it is; the others what has happened.
        """

    async def close(self) -> None:
        """Close every sender and receiver, then the connection; idempotent."""
