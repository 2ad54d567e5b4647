"""Handlers that end their process, or never end themselves."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from pipeline import Context, MessageBatch, States, handler


@handler(state=dict)
def poisoned(body: str, state: dict[str, int], context: Context) -> None:
    """Counts its messages; one ends the process each time it is handled."""
    if body == "poison":
        os.kill(os.getpid(), signal.SIGKILL)
    state[body] = state.get(body, 0) + 1
    state["attempts"] = max(state.get("attempts", 0), context.attempt)


@handler(state=dict)
async def poisoned_async(body: str, state: dict[str, int], context: Context) -> None:
    """The same on the loop of async handlers."""
    poisoned.function(body, state, context)


@handler(batch=True, state=dict)
def poisoned_batch(rows: MessageBatch, states: States, context: Context) -> None:
    """The same for whole batches."""
    for delivery in rows:
        poisoned.function(delivery.body.decode(), states[delivery.session], context)


@handler
def poisoned_unordered(body: str) -> None:
    """The same without sessions and without a state."""
    if body == "poison":
        os.kill(os.getpid(), signal.SIGKILL)


@handler(state=dict)
def endless(body: str, state: dict[str, int], context: Context) -> None:
    """Counts its messages; one never comes to its end, whatever it is told."""
    while body == "endless":
        time.sleep(0.1)
    state[body] = state.get(body, 0) + 1
    state["attempts"] = max(state.get("attempts", 0), context.attempt)


@handler(state=dict)
async def endless_async(body: str, state: dict[str, int], context: Context) -> None:
    """The same on the loop of async handlers, which it blocks: it can't even be cancelled."""
    endless.function(body, state, context)


@handler(state=dict)
class SlowToStart:
    """Counts its messages; its process takes its time to begin."""

    async def start(self) -> None:
        """Be late."""
        await asyncio.sleep(2)

    def __call__(self, body: str, state: dict[str, int], context: Context) -> None:
        poisoned.function(body, state, context)
