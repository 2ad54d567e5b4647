"""Bodies by the batch: the port of whoever seals and opens them, and this process as one.

The other one is the pool of crypto actors, as those that call it see it (`actors.crypto`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pipeline.crypto.ring import KeyRing
    from pipeline.crypto.rows import (
        OpenedRows,
        Opener,
        PlainRows,
        SealedBodies,
        SealedRows,
        Sealer,
    )


class Bodies(Protocol):
    """Seals and opens bodies. Any number of calls may be under way at once.

    Each may wait: for a key, or for an actor of the pool. The caller bounds that by cancelling,
    which costs nothing, because no call changes anything anywhere.
    """

    async def start(self) -> None:
        """Make ready what is needed; idempotent.

        Raises:
            ConfigurationError: the configuration's keys can't be used.
            QueueError: they can't be had just now.
        """

    async def close(self) -> None:
        """Let go of the keys; idempotent."""

    async def seal(self, rows: PlainRows, *, from_start: bool) -> SealedBodies:
        """Seal rows.

        Args:
            rows: to be sealed.
            from_start: what is scheduled is sealed as of its time, which its provider takes for
                the one at which it was sent.

        Returns:
            For each row its body, or why it could not be sealed.
        """

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        """Open rows that are sealed.

        Args:
            rows: as they came.
            fresh: whether their age is judged, and plain ones are refused where they may be.

        Returns:
            For each row its body, and why where it can't be had: such a row stops no other.
        """


class OwnBodies(Bodies):
    """Bodies sealed and opened in this process, which has the keys.

    Args:
        ring: the keys.
        sealer: seals.
        opener: opens.
    """

    def __init__(self, ring: KeyRing, sealer: Sealer, opener: Opener) -> None:
        self._ring = ring
        self._sealer = sealer
        self._opener = opener

    async def start(self) -> None:
        """See `Bodies`, as for every method here."""
        await self._ring.start()

    async def close(self) -> None:
        """Let go of the keys."""
        await self._ring.close()

    async def seal(self, rows: PlainRows, *, from_start: bool) -> SealedBodies:
        """Seal in this process."""
        return await self._sealer.seal_rows(rows, from_start=from_start)

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        """Open in this process."""
        return await self._opener.open(rows, fresh=fresh, reject_plain=fresh)
