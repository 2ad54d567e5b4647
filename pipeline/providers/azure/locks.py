"""How long a lock lasts: the entity decides, the configuration can only say what it should be.

The service tells when a lock ends, by its own calendar. That becomes a time on the loop's clock
when it is heard (SPEC P13), and is never later than what is configured.
"""

from __future__ import annotations

import asyncio
import logging

from pipeline.clock import Clock

_log = logging.getLogger("queue_runtime.servicebus")


class QueueLocks:
    """The locks of one queue, as one receiver sees them.

    Args:
        queue: whose, for the warning.
        lock: seconds that they should last.
        clock: the calendar.
    """

    def __init__(self, queue: str, lock: float, clock: Clock) -> None:
        self._queue = queue
        self._lock = lock
        self._clock = clock
        self._warned = False

    def deadline(self, since: float, end: float | None) -> float:
        """`loop.time()` at which a lock ends.

        Args:
            since: `loop.time()` before which it can't have begun.
            end: when it ends by the service, in seconds since 1970; None: it did not tell.
        """
        return min(since + self._lock, asyncio.get_running_loop().time() + self._left(end))

    def _left(self, end: float | None) -> float:
        """Seconds that are left of it.

        The service's calendar need not be ours: what can't be is not believed, and told once.
        """
        if end is None:
            return self._lock
        left = end - self._clock.now()
        if abs(left - self._lock) > max(5.0, self._lock / 5) and not self._warned:
            self._warned = True
            _log.warning(
                "queue %s: it seems to lock for %.0f s, and the configuration says lock: %g. Make "
                "it what the queue has; or this machine's clock is off",
                self._queue,
                left,
                self._lock,
            )
        return left if 0 < left < self._lock else self._lock
