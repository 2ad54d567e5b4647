"""What one receive of a lane with sessions brings: messages and receipts, session by session."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage

from pipeline.batch import MessageBatch
from pipeline.providers.azure.session import HeldSession, SessionReceipt
from pipeline.providers.azure.wire import columns_of


class Brought:
    """What one receive brings.

    Args:
        room: how many messages.
        size: bytes of bodies at which it stops.
    """

    def __init__(self, room: int, size: int) -> None:
        self._room = room
        self._size = size
        self.messages: list[ServiceBusReceivedMessage] = []
        self.receipts: list[SessionReceipt] = []

    def take(self, held: HeldSession, most: int) -> bool:
        """Messages of one session; False when there is room for none."""
        taken, self._size = held.take(min(self._room, most), self._size)
        self.add(held, taken)
        return bool(taken)

    def add(self, held: HeldSession, messages: Sequence[ServiceBusReceivedMessage]) -> None:
        """These of one session."""
        self._room -= len(messages)
        self.messages += messages
        self.receipts += held.hand_out(messages)

    def batch(self, now: float) -> MessageBatch:
        """Their columns.

        Args:
            now: seconds since 1970.
        """
        if not self.messages:
            return MessageBatch.empty()
        columns: dict[str, Any] = columns_of(self.messages)
        ahead = now - asyncio.get_running_loop().time()
        columns["holding"] = [receipt.held.number for receipt in self.receipts]
        columns["locked_until"] = [receipt.held.deadline + ahead for receipt in self.receipts]
        return MessageBatch.from_columns(len(self.messages), columns)


def by_session(receipts: Sequence[SessionReceipt]) -> dict[HeldSession, list[int]]:
    """Positions by session."""
    found: dict[HeldSession, list[int]] = {}
    for at, receipt in enumerate(receipts):
        found.setdefault(receipt.held, []).append(at)
    return found
