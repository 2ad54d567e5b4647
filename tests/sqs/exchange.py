"""One call as a fault sees it: what is asked, the operation, and the ways to answer or not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.sqs.answers import Answer
from tests.sqs.service import Service
from tests.sqs.wire import Connection


class Exchange:
    """One call and its connection.

    Args:
        request: what is asked; may be changed before the operation is done.
        service: whose operation it is.
        connection: that the reply goes to.
        answer: does the operation with what `request` says then.
    """

    def __init__(
        self,
        request: dict[str, Any],
        service: Service,
        connection: Connection,
        answer: Callable[[dict[str, Any]], Answer | asyncio.Future[Answer]],
    ) -> None:
        self.request = request
        self._service = service
        self._connection = connection
        self._answer = answer

    async def answer(self) -> Answer:
        """Do the operation."""
        answer = self._answer(self.request)
        return await answer if isinstance(answer, Awaitable) else answer

    def reply(self, answer: Answer) -> None:
        """Answer as the service does."""
        self._connection.reply(answer.encode())

    def write(self, data: bytes) -> None:
        """A part of the reply."""
        self._connection.write(data)

    def finish(self, data: bytes) -> None:
        """The last part of it."""
        self._connection.reply(data)

    def close(self) -> None:
        """End the connection in good order."""
        self._connection.close()

    def reset(self) -> None:
        """End the connection at once."""
        self._connection.abort()

    def give_again(self, handle: str) -> None:
        """Let a message that was just given be given again."""
        self._service.give_again(str(self.request["QueueUrl"]), handle)

    @contextmanager
    def delayed(self, seconds: float) -> Iterator[None]:
        """What is sent meanwhile can be received only so much later."""
        self._service.sending.later = seconds
        try:
            yield
        finally:
            self._service.sending.later = 0.0
