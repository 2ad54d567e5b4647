"""CPU time of actors' processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any


async def cpu_seconds(actors: Sequence[Any]) -> float:
    """Seconds of CPU time that the actors' processes have used, all their threads together."""
    return sum(
        await asyncio.gather(
            *(actor.__ray_call__.remote(lambda _: time.process_time()) for actor in actors)
        )
    )
