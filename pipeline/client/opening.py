"""Bodies of a client: sealed before they are sent, opened when they came.

It owns which messages are sealed and what is made of a body that can't be; how it is done is
`pipeline.crypto`'s, which needs an extra and is imported only where the configuration has it on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.batch import MessageBatch
from pipeline.config.providers import AnyQueue
from pipeline.crypto.envelope import PLAIN, only_begins_sealed
from pipeline.errors import QueueError, ValidationError
from pipeline.message import Message
from pipeline.names import QueueName, SessionId
from pipeline.refusals import Refusal
from pipeline.session_keys import spread_session

if TYPE_CHECKING:
    from pipeline.crypto.bodies import Bodies

_PORTION = 2**26
"""Bytes of bodies that are sealed at once."""
_AT_ONCE = 4096
"""Messages that are: the last one is sent before it is too old, though each takes a call."""


class ClientBodies:
    """What becomes of bodies in a client.

    Args:
        bodies: seals and opens them; None: cryptography is off, and they go as they are.
        queues: the configuration's, by name. One that gives sessions to messages without any does
            that before their bodies are sealed, because a body is bound to its session.
    """

    def __init__(self, bodies: Bodies | None, queues: Mapping[QueueName, AnyQueue]) -> None:
        self._bodies = bodies
        self._queues = queues

    async def start(self) -> None:
        """Make ready what seals and opens."""
        if self._bodies is not None:
            await self._bodies.start()

    async def close(self) -> None:
        """Let go of the keys."""
        if self._bodies is not None:
            await self._bodies.close()

    async def seal(self, queue: str, messages: Sequence[Message]) -> list[Message | QueueError]:
        """The messages as they are to be sent; or why one can't be."""
        if self._bodies is None:
            return [_plain(message) for message in messages]
        from pipeline.crypto.rows import PlainRows

        from_start = self._queues[QueueName(queue)].stamps_start
        sealed = await self._bodies.seal(PlainRows.of(messages), from_start=from_start)
        return sealed.put_into(messages)

    def with_sessions(self, queue: str, messages: Sequence[Message]) -> Sequence[Message]:
        """The messages with the sessions that the queue gives them, to which they are sealed."""
        if self._bodies is None or not self._queues[QueueName(queue)].spreads:
            return messages
        return [_with_session(message) for message in messages]

    def portions(self, messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
        """As many at once as are sealed in one column, and sent before the next are sealed."""
        return iter((messages,)) if self._bodies is None else _portions(messages)

    def ordered(self, queue: str) -> bool:
        """Whether the queue keeps sessions in order."""
        return self._queues[QueueName(queue)].ordered

    async def open(
        self, batch: MessageBatch, *, fresh: bool, peeked: QueueName | None = None
    ) -> MessageBatch:
        """A batch with its bodies opened; a row whose body can't be had carries why.

        Args:
            batch: as it came.
            fresh: whether the bodies' age is judged.
            peeked: the queue that it was peeked from, which is not received: what is not due yet
                was sealed as of the time when it is.
        """
        if self._bodies is None or not len(batch):
            return batch
        from pipeline.crypto.rows import SealedRows

        rows = SealedRows.of(batch)
        if peeked is not None and self._queues[peeked].stamps_start:
            rows = rows.from_start(batch.column("not_before"))
        opened = await self._bodies.open(rows, fresh=fresh)
        batch = batch.replacing({"body": opened.bodies, "nonce": opened.nonces})
        if not opened.errors:
            return batch
        refused = list(batch.values("refused"))
        for row, error in opened.errors.items():
            refused[row] = Refusal(error).text()
        return batch.with_columns(refused=refused)


def _plain(message: Message) -> Message | QueueError:
    """A message that goes plain; one that is sealed already, and goes on, is none."""
    if only_begins_sealed(message.body):
        return ValidationError("Message.body", PLAIN, f"{len(message.body)} bytes")
    return message


def _portions(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """As many at once as are sealed in one column: it must not hold more than 2 GiB."""
    begin = size = 0
    for at, message in enumerate(messages):
        full = at - begin == _AT_ONCE or size + len(message.body) > _PORTION
        if full and at > begin:
            yield messages[begin:at]
            begin, size = at, 0
        size += len(message.body)
    yield messages[begin:]


def _with_session(message: Message) -> Message:
    if message.session is not None:
        return message
    return replace(message, session=SessionId(spread_session(str(message.id))))
