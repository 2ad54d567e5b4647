"""The link that polls: what comes on it, what is taken back, and what is released on it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import MessageLockLost, QueueError
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.sdk import Ways
from pipeline.providers.azure.settle import Receipt
from pipeline.providers.azure.unreadable import Unreadable, watch
from pipeline.providers.configured import Limits

_log = logging.getLogger("queue_runtime.servicebus")
_FIRST, _LONGEST = 0.002, 0.02
"""Seconds to look for more when something has come: at first, and as long as more comes."""
_GLANCE = 0.001
"""Seconds that a read may take meanwhile."""
_IDLE = 0.02
"""Seconds without a poll after which what was asked for and has not come is taken back."""


class Polls:
    """Asks for messages on one link.

    Args:
        line: a receiver; nobody else uses it.
        limits: time-outs.
        late: takes what came when nobody waited for it any more, and the link it came on.
        unreadable: told of messages that can't be decoded.
    """

    def __init__(
        self,
        line: Line,
        limits: Limits,
        late: Callable[[list[Any], Any], object],
        unreadable: Callable[[Unreadable], object],
    ) -> None:
        self._line = line
        self._limits = limits
        self._late = late
        self._unreadable = unreadable
        self._idle: asyncio.TimerHandle | None = None
        self._draining: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect."""
        await self._line.open()

    async def poll(self, most: int, wait: float) -> tuple[list[Any], Any]:
        """Ask once; what comes, and the link it came on.

        Args:
            most: messages.
            wait: seconds for the first one.
        """
        self._stop_timer()
        link: Any = None

        async def call(receiver: Any) -> list[Any]:
            nonlocal link
            link = receiver
            watch(receiver, self._unreadable)
            return await pull(receiver, most, wait)

        messages = await self._line.do(
            "receive", call, wait + self._limits.receive, lambda found: self._late(found, link)
        )
        if len(messages) < most and not self._line.closed:
            self._idle = asyncio.get_running_loop().call_later(_IDLE, self._take_back)
        return messages, link

    def _stop_timer(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _take_back(self) -> None:
        """Nobody asks any more: nothing shall come and stay locked here."""
        self._idle = None
        if not self._line.busy and self._line.handler is not None:
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await self._line.do("drain", _drain, self._limits.send)
        except QueueError as error:
            _log.debug("taking back what was asked for: %s", error)

    async def release(self, receipts: Sequence[Receipt]) -> set[Receipt]:
        """Give messages back uncounted; those that came on this link, as it is now.

        Returns:
            Those that could be.
        """
        link = self._line.handler
        mine = [receipt for receipt in receipts if receipt.link is link]
        if not mine or link is None or not Ways.of(link).release:
            return set()
        released: set[Receipt] = set()

        async def call(receiver: Any) -> None:
            if receiver is not link:
                raise MessageLockLost("the link that they came on is gone")
            client = receiver._handler  # noqa: SLF001 - checked
            for receipt in mine:
                await client.settle_messages_async(
                    receipt.delivery, receipt.token.bytes_le, "released"
                )
            # Nothing answers that. But what is written to a connection that is gone is silence too:
            # a look at it tells, and the second one raises what the first one found.
            for _ in range(2):
                await client._connection.listen(wait=_GLANCE)  # noqa: SLF001 - checked
            for receipt in mine:
                receipt.ended = True
            released.update(mine)

        try:
            await self._line.do("release", call, self._limits.send)
        except QueueError as error:
            _log.debug("release: %s", error)
        return released

    async def close(self) -> None:
        """Let the poll in flight end, and close."""
        self._stop_timer()
        await self._line.close()
        if self._draining is not None:
            await asyncio.wait([self._draining])


async def _drain(receiver: Any) -> None:
    if Ways.of(receiver).drain:
        transport, handler = receiver._amqp_transport, receiver._handler  # noqa: SLF001 - checked
        await transport.drain_and_release_messages_async(handler)


async def pull(receiver: Any, most: int, wait: float) -> list[Any]:
    """Messages from one receiver of the SDK: the first, and those that are there with it.

    The SDK's own call would wait a fixed time after the first one for others. It is made to return
    with the first, and asked again, for longer and longer, until nothing more has come.
    """
    if not Ways.of(receiver).gap:
        found: list[Any] = await receiver.receive_messages(most, max_wait_time=wait)
        return found
    receiver._further_pull_receive_timeout = 0.0  # noqa: SLF001 - checked
    found = await receiver.receive_messages(most, max_wait_time=wait)
    window = _FIRST
    more = found
    while more and len(found) < most:
        client = receiver._handler  # noqa: SLF001 - checked
        usual, client._socket_timeout = client._socket_timeout, _GLANCE  # noqa: SLF001
        receiver._further_pull_receive_timeout = window  # noqa: SLF001
        try:
            more = await receiver.receive_messages(most - len(found), max_wait_time=window)
        except Exception as error:  # noqa: BLE001 - what has come must not be lost with it
            _log.debug("receive: %r", error)
            break
        finally:
            client._socket_timeout = usual  # noqa: SLF001
        found += more
        window = min(2 * window, _LONGEST)
    return found
