"""Running one benchmark by itself: the same Ray as `make bench` has."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import ray


def run(results: AsyncIterator[dict[str, Any]]) -> None:
    """Print what a benchmark brings, a JSON line each, as it comes."""
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="qr-", dir="/tmp") as directory:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=4,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=directory,
        )
        try:
            asyncio.run(_print(results))
        finally:
            ray.shutdown()


async def _print(results: AsyncIterator[dict[str, Any]]) -> None:
    async for result in results:
        sys.stdout.write(json.dumps(result) + "\n")
        sys.stdout.flush()
