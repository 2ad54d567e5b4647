"""Sending: the methods of a client that put messages into queues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from pipeline.client.bodies import messages_of
from pipeline.client.core import Core
from pipeline.errors import QueueError
from pipeline.message import Message
from pipeline.providers.port import Failures, Sender, Sent


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
        made = messages_of(messages, model)
        sender = await self._core.sender(queue)
        given = self._core.bodies.with_sessions(queue, made)
        ordered = self._core.bodies.ordered(queue)
        results: list[Sent | QueueError] = []
        # By session, why what stands behind a message of it can't be sent.
        stopped: dict[str | None, QueueError] = {}
        for some in self._core.bodies.portions(given):
            try:
                sent, away = await self._send_some(queue, sender, some, stopped)
            except QueueError as error:
                if not results:
                    raise
                # What was sent before it is known: it is the error of the rest.
                return results + [error] * (len(given) - len(results))
            results += sent
            if away is not None:  # the rest would only wait for it too
                return results + [away] * (len(given) - len(results))
            if ordered:
                for message, one in zip(some, sent, strict=True):
                    if isinstance(one, QueueError) and message.session is not None:
                        stopped.setdefault(message.session, one)
        return results

    async def _send_some(
        self,
        queue: str,
        sender: Sender,
        given: Sequence[Message],
        stopped: dict[str | None, QueueError],
    ) -> tuple[list[Sent | QueueError], QueueError | None]:
        """Send a portion of them; they are sealed for each attempt, so that none grows old here.

        Returns:
            What became of each, and the error of the last attempt if it failed as a whole.
        """
        away: QueueError | None = None
        results: dict[int, Sent | QueueError] = {}
        stops: dict[str | None, QueueError] = {}

        async def call(places: Sequence[int]) -> Failures:
            nonlocal away
            made = await self._core.bodies.seal(queue, [given[place] for place in places])
            # Of an attempt alone: what is tried again stands before what stopped its session.
            stopped_here = dict(stopped)
            refused, ready = _apart(dict(zip(places, made, strict=True)), given, stopped_here)
            stops.update(stopped_here)
            results.update(refused)
            away, answers = None, list[Sent | QueueError]()
            try:
                if ready:
                    answers = await sender.send(list(ready.values()))
            except QueueError as error:
                if not error.transient:
                    raise
                away, answers = error, [error] * len(ready)  # not of what can't be sent at all
            sent = dict(zip(ready, answers, strict=True))
            results.update(sent)
            return {place: one for place, one in sent.items() if isinstance(one, QueueError)}

        self._core.check()  # it may have been closed meanwhile
        failed = await self._core.each("send", len(given), call)
        results |= failed
        stopped |= stops
        return [results[place] for place in range(len(given))], away

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
    made: Mapping[int, Message | QueueError],
    given: Sequence[Message],
    stopped: dict[str | None, QueueError],
) -> tuple[dict[int, QueueError], dict[int, Message]]:
    """Those that can't be sent, and the others, each by its position.

    On whatever queue, what stands behind one that can't be sent and is of its session can't either:
    it would come before it once that is sent again.
    """
    refused: dict[int, QueueError] = {}
    ready: dict[int, Message] = {}
    for place, one in made.items():
        session = given[place].session
        if isinstance(one, QueueError):
            refused[place] = one
            if session is not None:
                stopped.setdefault(session, one)
        elif session in stopped:
            refused[place] = stopped[session]
        else:
            ready[place] = one
    return refused, ready
