"""What the two pools of connections do, in figures: the one for polls and the one for the rest."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import aiohttp


class Pool:
    """One pool: entered for as long as a call has, or waits for, a connection of it.

    Args:
        name: how its figures begin.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._in_use = 0
        self._opened = 0
        self._waited = 0

    def __enter__(self) -> None:
        self._in_use += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._in_use -= 1

    def trace(self) -> aiohttp.TraceConfig:
        """Counts what a session does with its connections."""
        config = aiohttp.TraceConfig()
        config.on_connection_create_end.append(self._open)
        config.on_connection_queued_start.append(self._wait)
        return config

    def figures(self) -> dict[str, int]:
        """Calls under way; connections opened; calls that had to wait for one."""
        name = self._name
        return {
            f"{name}_in_use": self._in_use,
            f"{name}_opened": self._opened,
            f"{name}_waited": self._waited,
        }

    async def _open(self, *_: Any) -> None:
        self._opened += 1

    async def _wait(self, *_: Any) -> None:
        self._waited += 1
