"""The status actor: the one thing about a run that others can find by its name.

It keeps the last figures the driver gave it, and passes requests on to the driver, which asks for
them when it brings new figures. Its death costs nothing.
"""

from __future__ import annotations

from typing import Any

import ray


class StatusActor:
    """Figures out, requests in."""

    def __init__(self, name: str) -> None:
        self._figures: dict[str, Any] = {"name": name, "live": True, "ready": False}
        self._requests: list[str] = []

    @ray.method
    async def exchange(self, figures: dict[str, Any]) -> list[str]:
        """The driver brings figures and takes the requests that came since."""
        self._figures = figures
        requests, self._requests = self._requests, []
        return requests

    @ray.method
    async def figures(self) -> dict[str, Any]:
        """The last figures."""
        return self._figures

    @ray.method
    async def request(self, what: str) -> None:
        """Ask the driver for something: `drain`."""
        self._requests.append(what)
