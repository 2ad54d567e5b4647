"""Calling an actor: its answer, its errors as ours (Ray's own never reach a caller), its end."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayTaskError

from pipeline.batch import MessageBatch
from pipeline.errors import QueueError
from pipeline.outcomes import Part
from pipeline.stages.calls import Header, NoAnswer, ProcessDied, RunCalls

T = TypeVar("T")


def unwrap(error: BaseException) -> QueueError:
    """What a call to an actor failed with, as one of our errors."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, QueueError):
        return error.cause
    if isinstance(error, ActorDiedError):
        return ProcessDied(f"the actor is gone: {str(error).strip().splitlines()[0]}")
    if isinstance(error, RayActorError):
        return NoAnswer("the actor does not answer; whether it acted is unknown")
    return QueueError(f"a call to an actor failed: {type(error).__name__}: {error}")


async def answer(call: Awaitable[T]) -> T:
    """Wait for an actor's answer.

    Raises:
        ProcessDied: it is gone.
        NoAnswer: whether it acted is unknown.
        QueueError: the actor's own error.
    """
    try:
        return await call
    except (RayTaskError, RayActorError) as error:
        raise unwrap(error) from error


def end(actor: Any) -> None:
    """End an actor's process now; what it was doing is cut off."""
    ray.kill(actor)


class RemoteRuns(RunCalls):
    """A router as its receivers call it, or a handler as its router does.

    Args:
        actor: a handle with `run` and `more`.
    """

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        """Bring rows; the first outcomes come back."""
        part: Part = await answer(self._actor.run.remote(header, batch))
        return part

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        """Ask for more outcomes of a call."""
        found: Part = await answer(self._actor.more.remote(caller, epoch, number, part))
        return found
