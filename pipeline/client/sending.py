"""Sending: the methods of a client that put messages into queues."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel

from pipeline.client.bodies import messages_of
from pipeline.client.core import Core
from pipeline.errors import QueueError
from pipeline.message import Message
from pipeline.providers.port import Failures, Sent


class Sending:
    """Send messages, one or many, and take back what was scheduled.

    Example:
        >>> from pipeline import Message, QueueClient
        >>> client = QueueClient.from_dict(
        ...     {
        ...         "name": "shop",
        ...         "connections": {"main": {"provider": "memory"}},
        ...         "queues": {"orders": {"connection": "main", "max_message_size": 10}},
        ...     }
        ... )
        >>> async with client:
        ...     results = await client.send_many("orders", [Message(b"1"), Message(b"x" * 20)])
        >>> results[0]
        Sent(sequence=1, duplicate=False)
        >>> str(results[1]).split(":")[0]
        'the message has 20 bytes, the queue takes at most 10'
    """

    _core: Core

    async def send(
        self,
        queue: str,
        message: Message | BaseModel,
        *,
        model: type[BaseModel] | None = None,
    ) -> Sent:
        """Send one message.

        Args:
            queue: a queue of the configuration.
            message: a `Message`, or a pydantic object, which is sent as JSON; `json_message` makes
                one of those with a session and the other fields.
            model: what the body must be, checked before it is sent.

        Returns:
            The queue's number for it, where the provider tells it, and whether it was a duplicate.

        Raises:
            ValidationError: the body is not what the model says, or an ordered queue got a message
                without a session (see `sessionless` in the queue's configuration).
            MessageTooLarge: it is larger than the queue takes.
            QueueFull: the queue holds as much as it may; send again when some was handled.
            QueueNotFound: no such queue, in the configuration or at the provider.
            Unsupported: on SQS a `not_before` beyond 15 minutes, or any on a FIFO queue.
        """
        [result] = await self.send_many(queue, [message], model=model)
        if isinstance(result, QueueError):
            raise result
        return result

    async def send_many(
        self,
        queue: str,
        messages: Sequence[Message | BaseModel],
        *,
        model: type[BaseModel] | None = None,
    ) -> list[Sent | QueueError]:
        """Send many messages; each has a result of its own.

        On an ordered queue no message of a session is sent before the earlier ones of that session
        in this call were taken; when one fails, the later ones of its session fail with its error.

        Args:
            queue: a queue of the configuration.
            messages: any number; they are cut into batches as large as the provider takes.
            model: what every body must be; a `ValidationError` before anything is sent.

        Returns:
            For each message, in order, what `send` would return or raise.
        """
        self._core.check()
        given = messages_of(messages, model)
        sender = await self._core.sender(queue)
        made = await self._core.bodies.seal(queue, given)
        results, ready = _apart(given, made)

        async def call(places: Sequence[int]) -> Failures:
            answers = await sender.send([ready[place][1] for place in places])
            sent = dict(zip(places, answers, strict=True))
            results.update((ready[place][0], one) for place, one in sent.items())
            return {place: one for place, one in sent.items() if isinstance(one, QueueError)}

        failed = await self._core.each("send", len(ready), call)
        results |= {ready[place][0]: error for place, error in failed.items()}
        return [results[place] for place in range(len(given))]

    async def cancel_scheduled(self, queue: str, sequence: int) -> None:
        """Take back a message that was sent with a `not_before` still to come.

        Args:
            queue: where it was sent.
            sequence: what `send` returned as its sequence.

        Raises:
            MessageNotFound: it was delivered, taken back already, or never there.
            Unsupported: the provider can't (SQS).
        """
        self._core.check()
        sender = await self._core.sender(queue)
        await self._core.call("cancel_scheduled", lambda: sender.cancel(sequence))


def _apart(
    given: Sequence[Message], made: Sequence[Message | QueueError]
) -> tuple[dict[int, Sent | QueueError], list[tuple[int, Message]]]:
    """The results of those that can't be sent, and the others, each with its position.

    On whatever queue, what stands behind one that can't be sent and is of its session can't either:
    it would come before it once that is sent again.
    """
    results: dict[int, Sent | QueueError] = {}
    ready: list[tuple[int, Message]] = []
    stopped: dict[str, QueueError] = {}
    for place, (message, one) in enumerate(zip(given, made, strict=True)):
        if isinstance(one, QueueError):
            results[place] = one
            if message.session is not None:
                stopped.setdefault(message.session, one)
        elif message.session in stopped:
            results[place] = stopped[message.session]
        else:
            ready.append((place, one))
    return results, ready
