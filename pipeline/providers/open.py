"""Which provider runs is chosen here, by the configuration, at run time (SPEC P1).

Whichever it is, it stands behind the gate of its connection, with the circuit breaker (SPEC R2).

Each provider is imported only when it is chosen, and with it its SDK. The configuration has already
refused a provider whose extra is not installed, naming the extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pipeline.breaker import BreakerPolicy
from pipeline.clock import Clock
from pipeline.config import (
    AwsConnection,
    AwsQueue,
    AzureConnection,
    AzureQueue,
    MemoryQueue,
    RuntimeConfig,
)
from pipeline.errors import ConfigurationError
from pipeline.providers.configured import Limits
from pipeline.providers.gate import ConnectionCalls, Gate
from pipeline.providers.guarded import GuardedProvider

if TYPE_CHECKING:
    from pipeline.providers.memory import BrokerCalls
    from pipeline.providers.port import Provider

_Queue = TypeVar("_Queue", MemoryQueue, AwsQueue, AzureQueue)


def open_provider(
    config: RuntimeConfig,
    connection: str,
    *,
    broker: BrokerCalls | None = None,
    clock: Clock,
    shared: ConnectionCalls | None = None,
    user: str | None = None,
) -> GuardedProvider:
    """Make the provider of a connection, for the queues that use it; no I/O until its `start()`.

    Args:
        config: the configuration that names the connection.
        connection: its name there.
        broker: memory: the broker to use, itself or a proxy; None makes one of its own, whose
            queues nobody else sees and which end with it.
        clock: calendar, chance and ids.
        shared: the connection actor, whose circuit breaker is shared by all in the cluster; None:
            a breaker of this provider's own.
        user: who this is, to the connection actor; None: somebody new.

    Raises:
        ConfigurationError: the configuration names no such connection.

    Example:
        >>> from pipeline.clock import SystemClock
        >>> from pipeline.config import parse
        >>> config = parse(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main"}},
        ...     }
        ... )
        >>> provider = open_provider(config, "main", clock=SystemClock())
        >>> provider.capabilities("orders").provider
        'memory'
    """
    settings = config.connections.get(connection)
    if settings is None:
        known = ", ".join(sorted(config.connections))
        raise ConfigurationError(f"there is no connection {connection!r}; there are: {known}")
    if isinstance(settings, AwsConnection):
        real = _aws(config, connection, settings, clock)
    elif isinstance(settings, AzureConnection):
        real = _azure(config, connection, settings, clock)
    else:
        real = _memory(config, connection, broker, clock)
    patience = config.timeouts.send
    gate = Gate(connection, breaker_policy(config), shared, user or clock.new_id(), patience)
    return GuardedProvider(real, gate, turn=min(config.breaker.open, patience))


def breaker_policy(config: RuntimeConfig) -> BreakerPolicy:
    """When the breakers of its connections open and close."""
    breaker, timeouts = config.breaker, config.timeouts
    return BreakerPolicy(
        failures=breaker.failures,
        open=breaker.open,
        successes=breaker.successes,
        probe=timeouts.connect + timeouts.send + timeouts.receive,
    )


def _memory(
    config: RuntimeConfig, connection: str, broker: BrokerCalls | None, clock: Clock
) -> Provider:
    from pipeline.providers.memory import MemoryBroker, MemoryProvider

    queues = _queues(config, connection, MemoryQueue)
    return MemoryProvider(
        broker or MemoryBroker(queues, clock),
        queues,
        send_timeout=config.timeouts.send,
        receive_timeout=config.timeouts.receive,
    )


def _aws(config: RuntimeConfig, connection: str, settings: AwsConnection, clock: Clock) -> Provider:
    from pipeline.providers.aws import AwsProvider

    return AwsProvider(
        connection,
        settings,
        _queues(config, connection, AwsQueue),
        _limits(config),
        clock,
        _attempts(config),
    )


def _azure(
    config: RuntimeConfig, connection: str, settings: AzureConnection, clock: Clock
) -> Provider:
    from pipeline.providers.azure import AzureProvider

    return AzureProvider(
        connection,
        settings,
        _queues(config, connection, AzureQueue),
        _limits(config),
        clock,
        _attempts(config),
    )


def _queues(config: RuntimeConfig, connection: str, kind: type[_Queue]) -> dict[str, _Queue]:
    """The keys of the queues that use a connection, by their names."""
    return {
        str(name): queue
        for name, queue in config.queues.items()
        if queue.connection == connection and isinstance(queue, kind)
    }


def _limits(config: RuntimeConfig) -> Limits:
    timeouts = config.timeouts
    return Limits(timeouts.connect, timeouts.send, timeouts.receive)


def _attempts(config: RuntimeConfig) -> dict[str, int]:
    """By queue, how often the handlers that read it may try a message."""
    attempts: dict[str, int] = {}
    for pipeline in config.pipelines.values():
        most = pipeline.retry.max_attempts
        attempts[pipeline.queue] = max(attempts.get(pipeline.queue, 0), most)
    return attempts
