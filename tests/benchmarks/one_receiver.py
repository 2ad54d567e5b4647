"""A receiver alone, as its actor has it: how fast it is, and its CPU time.

The real core with its ledger and settler, the real provider behind its guard, and a router that
completes every row at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.batch import MessageBatch
from pipeline.clock import SystemClock
from pipeline.config import RuntimeConfig
from pipeline.outcomes import Part
from pipeline.providers.open import open_provider
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header
from pipeline.stages.receiver import ReceiverCore, ReceiverSettings


@dataclass(frozen=True, slots=True)
class Span:
    """How long one measurement takes, in seconds: until it is warm, and after that."""

    warm: float = 1.0
    measured: float = 3.0


SPAN = Span()
_LOOK = 0.01


class Everything:
    """A router that has handled every row already."""

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """All of them are completed."""
        return Part(completed=np.arange(len(batch)), last=True)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """Nobody has to ask."""
        raise AssertionError("every call was answered in one part")


async def timed(done: Callable[[], int], span: Span = SPAN) -> tuple[float, float]:
    """Messages a second, and microseconds of CPU a message, once some are done and it is warm."""
    while not done():
        await asyncio.sleep(_LOOK)
    await asyncio.sleep(span.warm)
    count, began, cpu = done(), time.perf_counter(), time.process_time()
    await asyncio.sleep(span.measured)
    count, seconds, cpu = done() - count, time.perf_counter() - began, time.process_time() - cpu
    return count / seconds, cpu * 1e6 / max(1, count)


@asynccontextmanager
async def receiving(settings: RuntimeConfig, number: int = 0) -> AsyncIterator[ReceiverCore]:
    """A receiver of the queue `events` at work, as its actor makes it.

    Args:
        settings: with a connection `main`, and a queue and a pipeline `events`.
        number: which of them it is.
    """
    clock = SystemClock()
    provider = open_provider(settings, "main", clock=clock)
    await provider.start()
    errors: list[BaseException] = []
    limits = settings.pipelines["events"]
    core = ReceiverCore(
        ReceiverSettings(
            name=f"events/{number}",
            epoch=1,
            ordered=settings.queues["events"].ordered,
            messages=limits.credit.messages,
            bytes=limits.credit.bytes,
            batch_rows=limits.batch.rows,
            batch_bytes=limits.batch.bytes,
        ),
        await provider.receiver("events", partition=number),
        provider.capabilities("events"),
        await provider.source("events"),
        [Everything()],
        SlotTable.spread(1, 1),
        clock,
        errors.append,
    )
    await core.start()
    try:
        yield core
        if errors:
            raise errors[0]
    finally:
        await core.close()
        await provider.close()
