"""The configuration as pydantic models: every key, its default, its unit and what is allowed.

The defaults are SPEC's; `configs/reference.yaml` shows them all and a test holds the two equal.
A key for something that does not exist yet is absent, not ignored. Reading files is load.py's,
saying what is wrong is wording.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.crypto import CryptoConfig
from pipeline.config.memory import MemoryConnection, MemoryQueue
from pipeline.config.providers import Connection, Queue, with_providers
from pipeline.config.references import Problem, broken_references
from pipeline.config.rules import (
    Count,
    ExceptionName,
    Few,
    LockSeconds,
    Model,
    Name,
    ObjectPath,
    RunName,
    Seconds,
    SomeSeconds,
    error_of,
)
from pipeline.names import QueueName

__all__ = [
    "Batch",
    "CallRetry",
    "CircuitBreaker",
    "Credit",
    "CryptoConfig",
    "DeadLetterConfig",
    "Drain",
    "HandlerRetry",
    "Log",
    "MemoryConnection",
    "MemoryQueue",
    "PipelineConfig",
    "RayConfig",
    "RuntimeConfig",
    "StateConfig",
    "Timeouts",
]


class CallRetry(Model):
    """How often and when a call to a provider is made again after a transient error (SPEC R1).

    Args:
        max_attempts: calls in all, the first included.
        initial: seconds before the second call.
        maximum: the most seconds between two calls.
        factor: each wait is so many times the one before.

    Example:
        >>> CallRetry().max_attempts
        3
    """

    max_attempts: Count = 3
    initial: Seconds = 1.0
    maximum: Seconds = 30.0
    factor: Annotated[float, Field(ge=1)] = 2.0

    @model_validator(mode="after")
    def _grows(self) -> Self:
        if self.maximum < self.initial:
            text = f"must be at least initial ({self.initial})"
            raise error_of(Problem(("maximum",), text, self.maximum))
        return self


class CircuitBreaker(Model):
    """When calls on a connection are given up for a while (SPEC R2).

    Each connection has one breaker for what receives, one for what sends and one for what settles,
    shared by all who use it in the cluster.

    Args:
        failures: so many calls in a row that failed open it: no connection, no answer in time, or
            an error of the service's own; an answer about the request itself is none.
        open: seconds until it lets a single call through, to see how the service is.
        successes: so many such calls in a row must work before it closes.

    Example:
        >>> CircuitBreaker().failures
        5
    """

    failures: Count = 5
    open: SomeSeconds = 30.0
    successes: Count = 3


class HandlerRetry(CallRetry):
    """How often and when a message is handled again after its handler failed (SPEC H5).

    Args:
        max_attempts: attempts in all, the first included; then the message is dead-lettered.
        initial: seconds before the second attempt.
        maximum: the most seconds between two attempts.
        factor: each wait is so many times the one before.
        hold: a wait of up to so many seconds keeps the message and its lock in hand; for a longer
            one it is given back (DESIGN law 3 c).
        exceptions: an exception's dotted name (`app.errors.Permanent`, `ValueError`) to what it
            means: `retry`, or `reject` at once.

    Example:
        >>> HandlerRetry(exceptions={"ValueError": "reject"}).max_attempts
        5
    """

    max_attempts: Count = 5
    maximum: Seconds = 300.0
    hold: Seconds = 60.0
    exceptions: dict[ExceptionName, Literal["retry", "reject"]] = Field(default_factory=dict)


class Credit(Model):
    """How much one receiver may have taken in and not yet settled.

    Args:
        messages: so many messages.
        bytes: so many bytes of bodies.

    Example:
        >>> Credit().messages
        65536
    """

    messages: Count = 65_536
    bytes: Count = 67_108_864


class Batch(Model):
    """How large a batch between two actors may grow under load; an idle one leaves at once.

    Args:
        rows: so many messages.
        bytes: so many bytes of bodies; one larger message travels alone.

    Example:
        >>> Batch().rows
        8192
    """

    rows: Count = 8_192
    bytes: Count = 16_777_216


class PipelineConfig(Model):
    """A queue, the handler of its messages, and how many actors do the work.

    Args:
        queue: the name of the queue it reads.
        handler: where the handler is, as `module:attribute`.
        receivers: receiving lanes (partitions), 1 to 64.
        routers: router actors, 1 to 64.
        handlers: handler actors, 1 to 64.
        credit: how much a receiver takes in.
        batch: how large batches grow.
        sessions: how many sessions one receiver holds at once; unset: as many as the provider says.
        retry: what a failed message meets.
        timeout: seconds a handler may run on one message (a batch handler: on one batch), at most
            12 h (SPEC H6).
        concurrency: sessions (without sessions: messages) an async handler runs at once in one
            actor.
        threads: the same for a sync handler.

    Example:
        >>> PipelineConfig(queue="orders", handler="app:on_order").timeout
        300.0
    """

    queue: str
    handler: ObjectPath
    receivers: Few = 1
    routers: Few = 1
    handlers: Few = 1
    credit: Credit = Field(default_factory=Credit)
    batch: Batch = Field(default_factory=Batch)
    sessions: Count | None = None
    retry: HandlerRetry = Field(default_factory=HandlerRetry)
    timeout: LockSeconds = 300.0
    concurrency: Count = 64
    threads: Count = 1


def _store(value: object) -> object:
    if value == "dynamodb":
        raise PydanticCustomError("problem", "is not in this version yet: must be sqlite or memory")
    return value


class StateConfig(Model):
    """Where handlers' state is kept (SPEC F4).

    Args:
        store: `sqlite`: in a file of this machine, for all runs on it; `memory`: in the handler's
            actor, lost with it; unset: sqlite on one machine, memory on a cluster of several.
        path: sqlite's file, relative to the current directory of the run, `~` expanded; unset:
            `NAME.sqlite`, by the configuration's name, in `~/.local/state/queue-runtime`
            (`$XDG_STATE_HOME/queue-runtime` where that is set).
        fresh: delete what earlier runs kept for these pipelines when a run starts: right where the
            queue is new at each start as well.

    Example:
        >>> StateConfig(store="sqlite", path="shop.sqlite").fresh
        False
    """

    store: Annotated[Literal["memory", "sqlite"] | None, BeforeValidator(_store)] = None
    path: Annotated[str, Field(min_length=1)] | None = None
    fresh: bool = False

    @model_validator(mode="after")
    def _path_has_a_use(self) -> Self:
        if self.store == "memory" and self.path is not None:
            raise error_of(Problem(("path",), "has no use with store: memory", self.path))
        return self


class DeadLetterConfig(Model):
    """What a dead letter tells of the failure (SPEC R3).

    Args:
        messages: `full`: an exception's type, text and stack; `redacted`: its type and a hash of
            its text, because the text may hold what a sealed body held; unset: redacted where
            cryptography is on.

    Example:
        >>> DeadLetterConfig(messages="full").redacts(CryptoConfig())
        False
    """

    messages: Literal["full", "redacted"] | None = None

    def redacts(self, crypto: CryptoConfig) -> bool:
        """Whether texts are left out."""
        return crypto.enabled if self.messages is None else self.messages == "redacted"


class Timeouts(Model):
    """How long one call may take, in seconds (SPEC P6); a queue's lock is its `visibility`.

    Args:
        connect: to connect to a provider.
        send: to send one batch.
        receive: to wait for the first message of a receive.
        start: for the actors to start, before the error that names what could not be had.
        answer: that an actor may be silent, before it is ended and replaced.

    Example:
        >>> Timeouts().receive
        30.0
    """

    connect: SomeSeconds = 30.0
    send: SomeSeconds = 10.0
    receive: SomeSeconds = 30.0
    start: SomeSeconds = 60.0
    answer: SomeSeconds = 30.0


class Drain(Model):
    """How a drain hurries, in seconds (SPEC F6).

    Args:
        release: until everything that has not begun is given back.
        running: that a running message may still take.
        cancel: that a cancelled handler may still take.

    Example:
        >>> Drain().running
        30.0
    """

    release: Seconds = 1.0
    running: Seconds = 30.0
    cancel: Seconds = 10.0


TRACE: Final = 5
"""The level of what a provider's protocol says."""


class Log(Model):
    """How logs look (SPEC O3).

    Args:
        format: `console` for people, `json` for machines: one object a line.
        level: what is written, this level and those above.

    Example:
        >>> Log(format="json").level
        'info'
    """

    format: Literal["console", "json"] = "console"
    level: Literal["trace", "debug", "info", "warning", "error"] = "info"


class RayConfig(Model):
    """What each actor asks of Ray, in CPUs; shares, so that a small machine can start them all.

    Args:
        receiver_cpus: each receiver.
        router_cpus: each router.
        handler_cpus: each handler; raise it to keep a heavy handler's core for itself.
        broker_cpus: each memory connection's broker.
        crypto_cpus: each crypto actor.

    Example:
        >>> RayConfig().handler_cpus
        0.1
    """

    receiver_cpus: Seconds = 0.1
    router_cpus: Seconds = 0.1
    handler_cpus: Seconds = 0.1
    broker_cpus: Seconds = 0.1
    crypto_cpus: Seconds = 0.1


class RuntimeConfig(Model):
    """A whole configuration; `pipeline.config.load` reads one from a file.

    Args:
        name: names the actors and their namespace; two runs of one name in a cluster are refused.
        connections: name to connection; `provider` chooses the kind.
        queues: name to queue; its keys are those of its connection's provider.
        pipelines: name to pipeline; none is needed where only a `QueueClient` is used.
        job: `module:Class` with `async feed(client)` and `async check(states)`, run beside the
            pipelines.
        state: where handlers' state is kept.
        crypto: how bodies are sealed.
        dead_letter: what a dead letter tells.
        retry: of calls to a provider.
        breaker: of every connection.
        timeouts: of calls.
        drain: of a drain.
        log: how logs look.
        ray: what actors ask of Ray.

    Raises:
        pydantic.ValidationError: something is wrong; `load` and `parse` turn it into a
            `ConfigurationError` that names every problem.

    Example:
        >>> config = RuntimeConfig(
        ...     name="shop",
        ...     connections={"main": MemoryConnection()},
        ...     queues={QueueName("orders"): MemoryQueue(connection="main", fifo=True)},
        ... )
        >>> config.queues[QueueName("orders")].visibility, config.retry.max_attempts
        (300.0, 3)
    """

    name: RunName
    connections: Annotated[dict[Name, Connection], Field(min_length=1)]
    queues: Annotated[dict[QueueName, Queue], Field(min_length=1)]
    pipelines: dict[Name, PipelineConfig] = Field(default_factory=dict)
    job: ObjectPath | None = None
    state: StateConfig = Field(default_factory=StateConfig)
    crypto: CryptoConfig = Field(default_factory=CryptoConfig)
    dead_letter: DeadLetterConfig = Field(default_factory=DeadLetterConfig)
    retry: CallRetry = Field(default_factory=CallRetry)
    breaker: CircuitBreaker = Field(default_factory=CircuitBreaker)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    drain: Drain = Field(default_factory=Drain)
    log: Log = Field(default_factory=Log)
    ray: RayConfig = Field(default_factory=RayConfig)

    @model_validator(mode="before")
    @classmethod
    def _each_queue_by_its_provider(cls, data: object) -> object:
        return with_providers(data) if isinstance(data, Mapping) else data

    @model_validator(mode="after")
    def _references_hold(self) -> Self:
        broken = list(broken_references(self.model_dump()))
        if broken:
            raise error_of(*broken)
        return self
