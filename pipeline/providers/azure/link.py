"""The calls of one session's line."""

from __future__ import annotations

from collections.abc import Sequence

from azure.servicebus import ServiceBusReceivedMessage

from pipeline.providers.azure import settle
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Ways
from pipeline.providers.azure.unreadable import Unreadable, watch
from pipeline.providers.port import DeadLetter, Failures


class Link:
    """What a session's task calls, one at a time.

    Args:
        line: a receiver that has accepted a session.
        limit: seconds that a call may take which waits for nothing but its answer.
    """

    def __init__(self, line: Line, limit: float) -> None:
        self._line = line
        self._limit = limit
        self.session = str(line.handler.session.session_id)
        self.unreadable: list[Unreadable] = []
        """What came and can't be decoded."""
        watch(line.handler, self.unreadable.append)
        self.keeps_messages = not Ways.of(line.handler).settle_many
        """Whether a message is needed to settle it, and not its token alone."""

    @property
    def lost(self) -> bool:
        """Whether it is gone, and the session with it."""
        return self._line.lost

    async def receive(self, most: int, wait: float) -> list[ServiceBusReceivedMessage]:
        """Up to so many messages; of more than one it waits for all, as long as that lasts."""
        return await self._line.do(
            "receive", lambda handler: handler.receive_messages(most, wait), wait + self._limit
        )

    async def settle(
        self, status: str, receipts: Sequence[settle.Receipt], why: DeadLetter | None = None
    ) -> Failures:
        """Settle up to `settle.MOST`."""
        return await settle.settle(self._line, status, receipts, self._limit, why)

    async def deferred(self, sequences: Sequence[int]) -> list[ServiceBusReceivedMessage]:
        """Messages that were set aside, all of them or none."""
        return await self._line.do(
            "receive_deferred",
            lambda handler: handler.receive_deferred_messages(list(sequences)),
            self._limit,
        )

    async def renew(self) -> float:
        """Prolong the session's lock; returns its end by the service, in seconds since 1970."""
        end = await self._line.do(
            "renew_session", lambda handler: handler.session.renew_lock(), self._limit
        )
        return float(end.timestamp())

    async def state(self) -> bytes | None:
        """The bytes kept with the session."""
        found = await self._line.do(
            "session_state", lambda handler: handler.session.get_state(), self._limit
        )
        return None if found is None else bytes(found)

    async def set_state(self, state: bytes | None) -> None:
        """Keep bytes with the session."""
        await self._line.do(
            "set_session_state", lambda handler: handler.session.set_state(state), self._limit
        )

    async def close(self) -> None:
        """Let go of the session."""
        await self._line.close()
