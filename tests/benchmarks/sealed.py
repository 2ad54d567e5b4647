"""What sealed bodies cost the pipeline: the same runs with plain ones and with sealed ones.

1 KB, 1,000 sessions in order, the engine's own batches; a filled queue, from the first receive to
the last settled, as in `engine.py`. In turn, three rounds, medians. What the cipher costs by itself
is `crypto.py`'s.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.crypto.keyset import KeySet
from tests.benchmarks import alone
from tests.benchmarks.ours import Case, Result, ours

ROUNDS = 3
COUNT = 400_000
POOLS = (1, 2)


async def measure(count: int = COUNT, rounds: int = ROUNDS) -> AsyncIterator[dict[str, Any]]:
    """Each way of opening as a JSON line."""
    with tempfile.TemporaryDirectory(prefix="qr-") as directory:
        keys = Path(directory) / "keys.json"
        keys.write_text(KeySet.first("bench", 0.0).text())
        plain = Case(count=count, distinct=True)
        sealed = replace(plain, keys=str(keys))
        cases = {"plain": plain, "receiver": sealed}
        cases |= {f"pool of {pool}": replace(sealed, pool=pool) for pool in POOLS}
        results: dict[str, list[Result]] = {name: [] for name in cases}
        for _ in range(rounds):
            for name, case in cases.items():
                results[name].append(await ours(case))
    before = _rate(results["plain"])
    for name, found in results.items():
        yield {
            "bench": "sealed",
            "opened_by": "nobody: plain" if name == "plain" else name,
            "ratio_plain": round(_rate(found) / before, 3),
            "messages_per_second": round(_rate(found)),
            "cpu_us_per_message": round(sum(_cpu(found).values()), 1),
            "cpu_us_by_actor": {kind: round(spent, 1) for kind, spent in _cpu(found).items()},
        }


def _rate(results: list[Result]) -> float:
    return statistics.median(result.rate for result in results)


def _cpu(results: list[Result]) -> dict[str, float]:
    kinds = results[0].cpu
    return {kind: statistics.median(result.cpu[kind] for result in results) for kind in kinds}


if __name__ == "__main__":
    alone.run(measure())
