"""What the server tells a client about itself, and how long it bears silence.

The first figures are those of the service's own log in azure-sdk-for-python#38629; the times are
from its documents and from #33013, #18795 and #34212 there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

CBS: Final = "$cbs"
MAX_FRAME: Final = 65_536  # bytes
CHANNEL_MAX: Final = 4_999
HANDLE_MAX: Final = 255
WINDOW: Final = 5_000  # transfers that a client may send before we tell it more
OUTGOING_WINDOW: Final = 65_536
CREDIT: Final = 1_000  # deliveries that a sender may send at once
MAX_MESSAGE: Final = 262_144  # bytes, of the tier Standard
MAX_REQUEST: Final = 4 * MAX_MESSAGE  # bytes: one may carry many messages to schedule


_LONGEST: Final = 0xFFFFFFFF / 1000  # seconds: open tells milliseconds in 32 bits


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds of silence; infinity is for ever.

    Args:
        idle_timeout: what `open` tells: a connection silent for twice as long is closed.
        idle_link: a link on which nothing is awaited is detached after that.
        bare_connection: a connection without links is closed after that.
    """

    idle_timeout: float = 120.0
    idle_link: float = 600.0
    bare_connection: float = 60.0

    def __post_init__(self) -> None:
        """Refuse what can't be borne."""
        for name in ("idle_timeout", "idle_link", "bare_connection"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"{name} is {value!r}: seconds over 0, or math.inf")
        if _LONGEST < self.idle_timeout < math.inf:
            raise ValueError(f"idle_timeout is {self.idle_timeout!r}: at most {_LONGEST:.0f}")


FOREVER: Final = Limits(math.inf, math.inf, math.inf)
