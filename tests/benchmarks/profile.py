"""Where a message's CPU time goes: the real broker and cores in one process, sampled, without Ray.

A timer signal looks at the stack after every millisecond of CPU time and books the sample to the
step of the innermost function of ours that has one. It distorts little of what it measures, as a
tracing profiler would not.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

from actors.process import tune
from pipeline.clock import SystemClock
from pipeline.config import MemoryQueue
from pipeline.testing.flow import Flow, FlowSettings
from tests.benchmarks.ours import Case, on_message

EVERY = 0.001
FUNCTIONS = 25
_PACKAGE = str(Path(__file__).parents[2] / "pipeline") + "/"
_BATCH = {
    "to_buffer": "serialisation",
    "from_buffer": "serialisation",
    "__reduce__": "serialisation",
    "split": "hashing and splitting",
    "distinct": "hashing and splitting",
    "take": "hashing and splitting",
    "concat": "hashing and splitting",
}
_FILES = {
    "testing/flow": "serialisation",
    "slots": "hashing and splitting",
    "stages/router": "router",
    "stages/stints": "handler calls",
    "stages/workers": "handler calls",
    "handlers/run": "handler calls",
    "handlers/api": "handler calls",
    "stages/handler": "handler core",
    "state/memory": "state and record",
    "state/port": "state and record",
    "outcomes": "outcomes",
    "ledger": "ledger",
    "credit": "ledger",
    "stages/settling": "settle",
    "stages/receiver": "receiver",
    "stages/holdings": "receiver",
    "stages/outgo": "receiver",
    "telemetry/counters": "receiver",
    "turns": "receiver",
}


def step_of(module: str, function: str) -> str | None:
    """Which step of a message's way a function belongs to; None: ask who called it."""
    if module.startswith("providers/memory"):
        return "broker"
    if module == "batch":
        return _BATCH.get(function, "rows and columns")
    return _FILES.get(module)


class Sampler:
    """Counts samples of CPU time by step and by function."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()
        self.functions: Counter[str] = Counter()

    def sample(self, _: int, frame: FrameType | None) -> None:
        """Book one sample."""
        first = True
        while frame is not None:
            code = frame.f_code
            if code.co_filename.startswith(_PACKAGE):
                module = code.co_filename[len(_PACKAGE) : -3]
                if first:
                    self.functions[f"{module}: {code.co_qualname}"] += 1
                    first = False
                step = step_of(module, code.co_name)
                if step is not None:
                    self.steps[step] += 1
                    return
            frame = frame.f_back
        self.steps["event loop"] += 1

    def __enter__(self) -> Sampler:
        signal.signal(signal.SIGPROF, self.sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY, EVERY)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)


async def measure(count: int = 200_000) -> dict[str, Any]:
    """Microseconds of CPU time a message, by step; the most expensive functions beside them."""
    case = Case(count=count)
    queue = MemoryQueue(connection="main", fifo=True)
    flow = Flow(on_message, FlowSettings(queue=queue, handlers=2), SystemClock())
    for messages in case.messages():
        await flow.send(messages)
    tune()
    with Sampler() as sampler:
        began = time.process_time()
        await flow.start()
        while (await flow.broker.counters(flow.name)).completed < case.count:
            await asyncio.sleep(0.01)
        spent = time.process_time() - began
    await flow.close()
    each = spent * 1e6 / case.count
    share = each / max(1, sampler.steps.total())
    return {
        "bench": "profile",
        "cpu_us_per_message": round(each, 2),
        "steps": {name: round(share * count, 2) for name, count in sampler.steps.most_common()},
        "functions": {
            name: round(share * count, 2)
            for name, count in sampler.functions.most_common(FUNCTIONS)
        },
    }


if __name__ == "__main__":
    # Without a Ray: nothing beside the cores takes time.
    result = asyncio.run(measure(*map(int, sys.argv[1:2])))
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
