"""Which provider runs is chosen here, by the configuration, at run time (SPEC P1).

Each provider is imported only when it is chosen, and with it its SDK. The configuration has already
refused a provider whose extra is not installed, naming the extra.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.clock import Clock
from pipeline.config import AwsConnection, AwsQueue, MemoryQueue, RuntimeConfig
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from pipeline.providers.memory import BrokerCalls
    from pipeline.providers.port import Provider


def open_provider(
    config: RuntimeConfig, connection: str, *, broker: BrokerCalls | None = None, clock: Clock
) -> Provider:
    """Make the provider of a connection, for the queues that use it; no I/O until its `start()`.

    Args:
        config: the configuration that names the connection.
        connection: its name there.
        broker: memory: the broker to use, itself or a proxy; None makes one of its own, whose
            queues nobody else sees and which end with it.
        clock: calendar, chance and ids.

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
        return _aws(config, connection, settings, clock)
    return _memory(config, connection, broker, clock)


def _memory(
    config: RuntimeConfig, connection: str, broker: BrokerCalls | None, clock: Clock
) -> Provider:
    from pipeline.providers.memory import MemoryBroker, MemoryProvider

    queues = {
        str(name): queue
        for name, queue in config.queues.items()
        if queue.connection == connection and isinstance(queue, MemoryQueue)
    }
    return MemoryProvider(
        broker or MemoryBroker(queues, clock),
        queues,
        send_timeout=config.timeouts.send,
        receive_timeout=config.timeouts.receive,
    )


def _aws(config: RuntimeConfig, connection: str, settings: AwsConnection, clock: Clock) -> Provider:
    from pipeline.providers.aws import AwsProvider
    from pipeline.providers.aws.sdk import Limits

    attempts: dict[str, int] = {}
    for pipeline in config.pipelines.values():
        most = pipeline.retry.max_attempts
        attempts[pipeline.queue] = max(attempts.get(pipeline.queue, 0), most)
    return AwsProvider(
        connection,
        settings,
        {
            str(name): queue
            for name, queue in config.queues.items()
            if queue.connection == connection and isinstance(queue, AwsQueue)
        },
        Limits(config.timeouts.connect, config.timeouts.send, config.timeouts.receive),
        clock,
        attempts,
    )
