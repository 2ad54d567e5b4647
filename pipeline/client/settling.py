"""How a received message ends: the methods that a client and its sessions share."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.client.core import Core
from pipeline.client.lanes import Lane
from pipeline.client.leases import Lease
from pipeline.client.settler import Given, Settler
from pipeline.errors import QueueError, ValidationError
from pipeline.providers.port import DeadLetter, Failures


class Settling:
    """Settle what was received: `complete`, `abandon`, `dead_letter`, `defer`.

    Every method takes one delivery (or its receipt), or a sequence of them.

    * One: it returns when the provider confirmed it, and raises what went wrong.
    * Several: it returns the failures, by position in the sequence; an empty dict means that all
      went well. It raises only where the call as a whole can't be made.

    What can go wrong, the same on every provider:

    * `MessageNotFound`: settled already, or received by another client. Nothing is to be done.
    * `MessageLockLost`: the lock ended first; the queue delivers the message again. Undo or ignore
      what was done for it, and `renew` in time, or raise the queue's lock duration.
    * `SessionLockLost`: the same for the lock on its session.
    * a transient error (`Timeout`, `ConnectionFailed`, `Throttled`): it was tried as often as the
      configuration's `retry` says. The message is still in hand and can be settled again.
    * `Unsupported`: the provider has no such operation; the error says what to do instead.
    * `Closed`, `ValidationError`: the client was closed, or belongs to another thread or loop.

    Example:
        >>> from pipeline import Message, QueueClient
        >>> client = QueueClient.from_dict(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main"}},
        ...     }
        ... )
        >>> async with client:
        ...     sent = await client.send_many("orders", [Message(b"1"), Message(b"2")])
        ...     first, second = await client.receive("orders", max_messages=2)
        ...     done = await client.complete(first)
        ...     failures = await client.complete([first, second])
        >>> done, {at: type(error).__name__ for at, error in failures.items()}
        ({}, {0: 'MessageNotFound'})
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._settler = Settler(core)

    async def complete(self, deliveries: Given | Sequence[Given]) -> dict[int, QueueError]:
        """They were handled: delete them from the queue.

        A session that `QueueClient.receive` opened is given back with its last message.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
        """

        async def act(lane: Lane, leases: Sequence[Lease[Lane]]) -> Failures:
            return await lane.receiver.complete([lease.receipt for lease in leases])

        return await self._settler.settle(deliveries, "complete", act)

    async def abandon(
        self, deliveries: Given | Sequence[Given], delay: float = 0.0
    ) -> dict[int, QueueError]:
        """Handling failed: have them delivered again. The delivery count grows.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
            delay: seconds until they may be delivered again. `Unsupported` where the provider can't
                wait (`Capabilities.abandon_delay`: SQS standard queues can): keep the message,
                `renew` it, and abandon it later. SQS waits for 12 hours after the receipt at most.
        """
        if not delay >= 0:
            raise ValidationError("delay", "must be 0 or more seconds", delay)

        async def act(lane: Lane, leases: Sequence[Lease[Lane]]) -> Failures:
            return await lane.receiver.abandon([lease.receipt for lease in leases], delay)

        return await self._settler.settle(deliveries, "abandon", act)

    async def dead_letter(
        self, deliveries: Given | Sequence[Given], reason: str, description: str = ""
    ) -> dict[int, QueueError]:
        """Move them to the queue's dead-letter queue.

        Read them back with `QueueClient.receive(queue, dead_letters=True)`.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
            reason: a code, such as those of `pipeline.providers.port.Reason`.
            description: more about it; a provider cuts it to its limit (Azure: 4,096 characters).
        """
        why = DeadLetter(str(reason), description)

        async def act(lane: Lane, leases: Sequence[Lease[Lane]]) -> Failures:
            receipts = [lease.receipt for lease in leases]
            return await lane.receiver.dead_letter(receipts, [why] * len(receipts))

        return await self._settler.settle(deliveries, "dead_letter", act)

    async def defer(self, deliveries: Given | Sequence[Given]) -> dict[int, QueueError]:
        """Set them aside until `receive_deferred` asks for them by their `sequence`: keep it.

        Args:
            deliveries: one, or several; see `Settling` for what comes back and what is raised.
                `Unsupported` on SQS: keep the message and renew it, or send it anew. So it is of
                messages that came from a dead-letter queue, on every provider.
        """

        async def act(lane: Lane, leases: Sequence[Lease[Lane]]) -> Failures:
            return await lane.receiver.defer([lease.receipt for lease in leases])

        return await self._settler.settle(deliveries, "defer", act)
