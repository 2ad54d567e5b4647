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
        self._void: set[tuple[str, int]] = set()

    def enter(self, caller: str, epoch: int) -> bool:
        """A caller is heard in an epoch; whether it is a new one, in which it begins at 1 again.

        Args:
            caller: who calls.
            epoch: grows with each start of the caller.

        Raises:
            Closed: the caller has started anew since.
        """
        known = self._next.get(caller)
        if known is not None and epoch < known[0]:
            raise Closed(f"{caller} started anew: its epoch {epoch} is over, it is {known[0]} now")
        if known is not None and epoch == known[0]:
            return False
        for key in [key for key in self._early if key[0] == caller]:
            self._refuse(key, f"{caller} started anew")
        self._void = {key for key in self._void if key[0] != caller}
        self._next[caller] = (epoch, 1)
        return True

    async def turn(self, caller: str, number: int) -> None:
        """Wait until this is the caller's next call; then act without waiting and `advance`.

        Args:
            caller: who calls, and has entered.
            number: 1, 2, 3 … within the epoch.

        Raises:
            Closed: the caller has started anew since, or the call was let in or given up before;
                of a call that came twice, the later one always.
        """
        key = (caller, number)
        epoch, expected = self._next[caller]
        if number < expected or key in self._void:
            raise Closed(f"call {number} of {caller} is over: the next one is {expected}")
        if number > expected:
            if key not in self._early:
                self._early[key] = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._early[key])  # the same call, come again, waits for it too
            if self._next[caller] != (epoch, number):
                raise Closed(f"{caller} started anew, gave call {number} up, or it came twice")

    def advance(self, caller: str) -> None:
        """The call that had its turn was taken in: the next may come."""
        epoch, number = self._next[caller]
        number += 1
        while (caller, number) in self._void:
            self._void.remove((caller, number))
            number += 1
        self._next[caller] = (epoch, number)
        waiter = self._early.pop((caller, number), None)
        if waiter is not None:
            waiter.set_result(None)

    def give_up(self, caller: str, number: int) -> bool:
        """The caller does not know whether a call came: if it was not let in, it never will be.

        Returns:
            Whether it was not let in.
        """
        expected = self._next[caller][1]
        if number < expected:
            return False
        key = (caller, number)
        if key in self._early:
            self._refuse(key, f"call {number} was given up")
        self._void.add(key)
        if number == expected:
            self._next[caller] = (self._next[caller][0], number - 1)
            self.advance(caller)
        return True

    def _refuse(self, key: tuple[str, int], why: str) -> None:
        self._early.pop(key).set_exception(Closed(why))
