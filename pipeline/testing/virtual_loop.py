"""An event loop on which waiting costs no time: its clock moves when nothing else can.

Its selector adds the time-out to the loop's clock instead of waiting for it. So order is fixed, an
hour's sleep returns at once, and a deadlock (nothing ready and no timer) is an error, not a hang.
Nothing on it may use threads or the network: their answers would come while the clock runs away.
"""

from __future__ import annotations

import asyncio
import selectors

MAX_JUMPS = 10_000_000
"""How often the clock may move before the loop is taken to run away."""


class _JumpingSelector(selectors.DefaultSelector):
    """Moves a clock where another selector waits."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0.0
        self.jumps = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("deadlock: nothing ready and no timer")
        if timeout > 0:
            self.jumps += 1
            if self.jumps > MAX_JUMPS:
                raise RuntimeError(
                    f"runaway: the clock moved {MAX_JUMPS} times; it says {self.clock}"
                )
            self.clock += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose `time()` starts at 0 and moves without waiting.

    Example:
        >>> loop = VirtualLoop()
        >>> loop.run_until_complete(asyncio.sleep(3600))
        >>> loop.time()
        3600.0
        >>> loop.close()
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds that all waiting so far would have taken."""
        return self._jumping.clock
