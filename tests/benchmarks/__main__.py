"""`make bench`: every benchmark once, a JSON line each; ratios matter, not the figures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from tests.benchmarks import alone, engine, latency, memory, profile, state


async def everything() -> AsyncIterator[dict[str, Any]]:
    """All of them, on one Ray, the headline first."""
    yield await engine.measure()
    yield await profile.measure()
    yield await state.measure()
    async for result in latency.each_rate():
        yield result
    async for result in engine.cases():
        yield result
    async for result in memory.both(memory.SHORT, memory.SHORT):
        yield result


if __name__ == "__main__":
    alone.run(everything())
