"""`QueueClient`: send to, receive from and settle at the queues of a configuration, without Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self

from pipeline.client.connections import Connections
from pipeline.client.core import Core
from pipeline.client.lanes import Lane
from pipeline.client.leases import Lease
from pipeline.client.opening import ClientBodies
from pipeline.client.receiving import Receiving
from pipeline.client.sending import Sending
from pipeline.client.settler import Given
from pipeline.client.settling import Settling
from pipeline.clock import Clock, SystemClock
from pipeline.config import RuntimeConfig, load, parse
from pipeline.errors import QueueError, ValidationError
from pipeline.providers.open import open_provider
from pipeline.providers.port import Capabilities, Depth, Failures
from pipeline.retry import RetryPolicy

if TYPE_CHECKING:
    from pipeline.crypto.bodies import Bodies
    from pipeline.providers.gate import ConnectionCalls
    from pipeline.providers.memory import BrokerCalls


class QueueClient(Sending, Receiving, Settling):
    """Send, receive and settle, from any number of tasks of one event loop at once.

    `async with` starts and closes it. Closing ends calls that wait (they raise `Closed`), gives
    back what was received and not settled, and lets sends under way finish.

    * Settling is described in `Settling`: settling twice is `MessageNotFound`, too late is
      `MessageLockLost`, and both are known without a call to the provider.
    * After calls that failed in a row (the configuration's `breaker`) a send is `CircuitOpen` at
      once, and a receive when its wait is over, until the provider answers again; settling and
      renewing are still tried, now and then.
    * Nothing is renewed by itself: call `renew` for what takes longer than its lock.
    * Transient failures are tried again as the configuration's `retry` says (3 attempts); then the
      error is raised, with a note of how often it was tried. A send that timed out may have worked:
      its repeat is a second message unless the queue detects duplicates.
    * From another thread or event loop every call is a `ValidationError`: make a client there, or
      hand the call over with `asyncio.run_coroutine_threadsafe`. A client can't be pickled.

    Sessions (`Capabilities.sessions`): a receive brings messages of sessions that nobody holds, in
    order. Until the last message of a session that it brought is settled, nothing more of that
    session is delivered to anyone; then the session is free again. So it is on every provider with
    sessions. To hold one for longer, `accept_session` (NATIVE only).

    Provider differences: on a memory connection a client without a shared broker (`brokers`) has
    queues of its own, which are gone when it closes; in a running job the runtime hands out clients
    that share the job's. Receipts are good only in the client that received.

    Args:
        config: the configuration: its `connections`, `queues`, `retry` and `timeouts` are used.
        brokers: for memory connections: name of the connection to the broker to use.
        clock: calendar, chance and ids; the machine's own unless given.
        shared: name of the connection to its actor, whose circuit breaker is used; without one the
            client has a breaker of its own.
        user: who this is, to those actors.
        bodies: where cryptography is on: what seals and opens bodies in place of this process.

    Example:
        >>> from pipeline import Message, QueueClient
        >>> client = QueueClient.from_dict(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main", "fifo": True}},
        ...     }
        ... )
        >>> async with client:
        ...     sent = await client.send("orders", Message(b"two shoes", session="customer-7"))
        ...     for delivery in await client.receive("orders", max_messages=10, wait=5):
        ...         print(delivery.session, delivery.body, delivery.delivery_count)
        ...         failures = await client.complete(delivery)
        customer-7 b'two shoes' 1
    """

    def __init__(
        self,
        config: RuntimeConfig,
        *,
        brokers: Mapping[str, BrokerCalls] | None = None,
        clock: Clock | None = None,
        shared: Mapping[str, ConnectionCalls] | None = None,
        user: str | None = None,
        bodies: Bodies | None = None,
    ) -> None:
        clock = clock or SystemClock()
        brokers, shared = brokers or {}, shared or {}
        retry = config.retry
        policy = RetryPolicy(retry.max_attempts, retry.initial, retry.maximum, retry.factor)
        connections = Connections(
            config,
            lambda name: open_provider(
                config,
                name,
                broker=brokers.get(name),
                clock=clock,
                shared=shared.get(name),
                user=user,
            ),
        )
        if bodies is None and config.crypto.enabled:
            from pipeline.crypto.open import open_bodies

            bodies = open_bodies(config.crypto, clock)
        made = ClientBodies(bodies, config.queues)
        super().__init__(Core(connections, policy, clock, config.timeouts, made))

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        brokers: Mapping[str, BrokerCalls] | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Make a client from a configuration file.

        Args:
            path: the YAML file.
            brokers: as in the class.
            clock: as in the class.

        Raises:
            ConfigurationError: the file is wrong; the message names every problem.
        """
        return cls(load(path), brokers=brokers, clock=clock)

    @classmethod
    def from_dict(
        cls,
        config: Mapping[str, Any],
        *,
        brokers: Mapping[str, BrokerCalls] | None = None,
        clock: Clock | None = None,
    ) -> Self:
        """Make a client from a configuration as plain mappings, as YAML gives them.

        Args:
            config: the mappings.
            brokers: as in the class.
            clock: as in the class.

        Raises:
            ConfigurationError: it is wrong; the message names every problem.
        """
        return cls(parse(config), brokers=brokers, clock=clock)

    async def start(self) -> None:
        """Connect; a repeat does nothing. From now on the client belongs to this event loop.

        Raises:
            ConfigurationError: a provider's extra is not installed, or a secret can't be found.
            ConnectionFailed: a connection could not be made; start again.
            AuthenticationFailed: a provider refused the credentials.
            Closed: it was closed before.
        """
        await self._core.start()

    async def close(self) -> None:
        """Give back what is in hand and disconnect; a repeat does nothing."""
        await self._core.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def release(self, deliveries: Given | Sequence[Given]) -> dict[int, QueueError]:
        """Nobody handled them: have them delivered again now, in front of later ones.

        Whether this makes the delivery count grow is `Capabilities.release_counts` (SQS: yes).
        Where a session's messages can only be given back together (`single_release` is False:
        Azure), they come again when the session is given back: once nothing of it is in hand, or
        with `ClientSession.release`.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
        """
        return await self._settler.settle(deliveries, "release", _release)

    async def renew(self, deliveries: Given | Sequence[Given]) -> dict[int, QueueError]:
        """Prolong their locks by the queue's lock duration from now.

        Whoever keeps a message for longer than its lock (`delivery.lock.locked_until`) calls this
        in time: as a rule at half of what remains. Where sessions are locked as a whole (NATIVE),
        the session's lock is renewed, and with it that of all its messages in hand.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
                `MessageLockLost` or `SessionLockLost`: too late, the message comes again.
        """
        return await self._settler.renew(deliveries)

    async def depth(self, queue: str) -> Depth:
        """How much a queue holds now; see `Depth`. A guess where `exact_depth` is False (SQS).

        Service Bus tells no counts: the age of the oldest message, and how many scheduled ones are
        among the first.

        Args:
            queue: a queue of the configuration.
        """
        self._core.check()
        name, provider = self._core.connections.provider(queue)
        return await self._core.call("depth", lambda: provider.depth(name))

    def capabilities(self, queue: str) -> Capabilities:
        """What a queue can do at its provider; known without asking it.

        Args:
            queue: a queue of the configuration.

        Raises:
            QueueNotFound: the configuration names no such queue.
        """
        self._core.check()
        name, provider = self._core.connections.provider(queue)
        return provider.capabilities(name)

    def __reduce__(self) -> NoReturn:
        rule = "can't be pickled: make one from the configuration where it is needed"
        raise ValidationError("QueueClient", rule)


async def _release(lane: Lane, leases: Sequence[Lease[Lane]]) -> Failures:
    single = lane.capabilities.single_release
    places = [at for at, lease in enumerate(leases) if single or lease.possession is None]
    if not places:
        return {}
    failures = await lane.receiver.release([leases[at].receipt for at in places])
    return {places[at]: error for at, error in failures.items()}
