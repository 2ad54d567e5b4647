"""Running one benchmark by itself: the same Ray as `make bench` has."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

from tests.rays import own_ray


def run(results: AsyncIterator[dict[str, Any]]) -> None:
    """Print what a benchmark brings, a JSON line each, as it comes."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with own_ray(logging_level=logging.ERROR):
        asyncio.run(show(results))


async def show(results: AsyncIterator[dict[str, Any]]) -> None:
    """Print them without a Ray."""
    async for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
