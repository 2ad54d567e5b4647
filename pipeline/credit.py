"""Credit: how many messages and bytes a receiver may still take in.

It is taken when rows arrive (their bytes are known only then, so one receive may overdraw) and
given back with each outcome that ends them; rows held for a retry keep theirs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Credit:
    """A receiver's credit.

    Args:
        messages: how many messages it may hold.
        bytes: how many bytes of bodies it may hold.
    """

    messages: int
    bytes: int
    held_messages: int = 0
    held_bytes: int = 0

    def take(self, messages: int, size: int) -> None:
        """Rows came in."""
        self.held_messages += messages
        self.held_bytes += size

    def give(self, messages: int, size: int) -> None:
        """Rows ended."""
        self.held_messages -= messages
        self.held_bytes -= size

    @property
    def room(self) -> tuple[int, int]:
        """Messages and bytes that may still come."""
        return max(0, self.messages - self.held_messages), max(0, self.bytes - self.held_bytes)

    def worth_receiving(self, batch: int) -> bool:
        """Whether a receive now would bring a batch worth its call.

        A receive for every few rows that end would cut the traffic into small batches for ever; so
        once much is held, wait for room for a whole batch or a quarter of the credit.

        Args:
            batch: the largest batch in rows.
        """
        messages, size = self.room
        if not messages or not size:
            return False
        if not self.held_messages:
            return True
        return messages >= min(batch, max(1, self.messages // 4)) and size >= self.bytes // 4
