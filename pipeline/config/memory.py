"""The memory provider's own keys: of a connection, and of a queue."""

from __future__ import annotations

from typing import Literal

from pipeline.config.rules import (
    Count,
    LockSeconds,
    Model,
    QueueModel,
    RunName,
    Seconds,
    SomeSeconds,
)


class MemoryConnection(Model):
    """A connection to queues kept in memory: in this process, or in a broker actor of the cluster.

    Args:
        provider: `memory`.
        run: the name of another run in the same cluster, whose broker this is: its connection of
            the same name, with its queues, which outlive this run. Unset: a broker of its own.

    Example:
        >>> MemoryConnection().provider
        'memory'
    """

    provider: Literal["memory"] = "memory"
    run: RunName | None = None


Sessions = Literal["native", "groups", "none"]


class MemoryQueue(QueueModel):
    """A queue of the memory provider: a broker with locks, sessions, dead letters and bounds.

    Args:
        connection: the name of its connection.
        fifo: whether each session's messages are handled in order, one at a time (SPEC P5).
        sessionless: what a message without a session is on a fifo queue: refused at send, or put
            into one of 64 sessions by a hash of its id.
        on_unsupported_sessions: what asking for order without sessions does: fail at start, or go
            on unordered with a warning (SPEC P4).
        sessions: the dialect (SPEC P11): `native` locks whole sessions, as Azure; `groups` blocks
            a group while one of its messages is in flight, as SQS FIFO; `none`. Unset: `native`
            when fifo, else `none`; see `session_mode`.
        count: when the delivery count grows: at a failure (as Azure) or at each receive (as SQS).
        visibility: seconds a lock lasts unless it is renewed; at most 12 h.
        max_deliveries: after so many counted deliveries the broker dead-letters; unset: never.
        time_to_live: seconds an unread message lives when it names none itself; unset: for ever.
        on_expiry: what happens to an expired message: dead-lettered as `expired`, or dropped.
        duplicate_window: seconds during which a second message of one id is dropped; 0: never.
        max_messages: the most messages the queue holds, dead letters included; then sending is
            `QueueFull`.
        max_bytes: the most bytes it holds, dead letters included.
        max_message_size: the most bytes of one message, body and attributes; more is
            `MessageTooLarge`.

    Example:
        >>> MemoryQueue(connection="main", fifo=True).session_mode
        'native'
    """

    connection: str
    fifo: bool = False
    sessionless: Literal["reject", "spread"] = "reject"
    on_unsupported_sessions: Literal["fail", "unordered"] = "fail"
    sessions: Sessions | None = None
    count: Literal["on_failure", "on_receive"] = "on_failure"
    visibility: LockSeconds = 300.0
    max_deliveries: Count | None = None
    time_to_live: SomeSeconds | None = None
    on_expiry: Literal["dead_letter", "drop"] = "dead_letter"
    duplicate_window: Seconds = 0.0
    max_messages: Count = 1_000_000
    max_bytes: Count = 4_294_967_296
    max_message_size: Count = 1_048_576

    @property
    def session_mode(self) -> Sessions:
        """The dialect in force: what `sessions` says, or what follows from `fifo`."""
        if self.sessions is not None:
            return self.sessions
        return "native" if self.fifo else "none"

    @property
    def spreads(self) -> bool:
        """Whether a message without a session is given one."""
        return self.sessionless == "spread"

    @property
    def ordered(self) -> bool:
        """Whether sessions are kept in order: asked for, and possible."""
        return self.fifo and self.session_mode != "none"
