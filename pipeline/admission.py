"""Admission: the calls of each caller are let in as 1, 2, 3 … whatever order they arrive in.

Ray reorders calls into async actors (DESIGN law 3 f). An early call waits here, holding its rows,
which its caller's credit bounds.
"""

from __future__ import annotations

import asyncio

from pipeline.errors import Closed


class Admission:
    """Lets each caller's calls in by their number within an epoch."""

    def __init__(self) -> None:
        self._next: dict[str, tuple[int, int]] = {}
        self._early: dict[tuple[str, int], asyncio.Future[None]] = {}

    async def turn(self, caller: str, epoch: int, number: int) -> None:
        """Wait until this is the caller's next call; then act without waiting and `advance`.

        Args:
            caller: who calls.
            epoch: grows with each start of the caller; a newer one begins at 1 again.
            number: 1, 2, 3 … within the epoch.

        Raises:
            Closed: the caller has started anew since, or the call was let in before.
        """
        known, expected = self._next.get(caller, (epoch, 1))
        if epoch > known:
            self._forget(caller)
            known, expected = epoch, 1
        self._next[caller] = (known, expected)
        if epoch < known or number < expected:
            raise Closed(f"call {number} of {caller} in epoch {epoch} is over: {known}/{expected}")
        if number > expected:
            waiter = self._early[caller, number] = asyncio.get_running_loop().create_future()
            await waiter
            if self._next[caller] != (epoch, number):
                raise Closed(f"{caller} started anew")

    def advance(self, caller: str) -> None:
        """The call that had its turn was taken in: the next may come."""
        epoch, number = self._next[caller]
        self._next[caller] = (epoch, number + 1)
        waiter = self._early.pop((caller, number + 1), None)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _forget(self, caller: str) -> None:
        for key in [key for key in self._early if key[0] == caller]:
            waiter = self._early.pop(key)
            if not waiter.done():
                waiter.set_exception(Closed(f"{caller} started anew"))
