"""Shutdown: one numbered sequence (SPEC F6), over ports, so that it is tested step by step.

Workers stop before the receivers that keep their locks alive.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from pipeline.stages.calls import ProcessDied

_log = logging.getLogger("queue_runtime.drain")
_ANSWER = 10.0
"""Seconds that a step that needs no user code may take before it is given up."""
_GIVEN_BACK = 5.0
"""Seconds in which what a killed handler had in hand is known to be free, and given back."""

T = TypeVar("T")


class ReceiverControl(Protocol):
    """A receiver as the drain sees it."""

    async def stop_receiving(self) -> None:
        """No new receive."""

    async def idle(self) -> None:
        """Return when nothing is in hand."""

    async def nothing_runs(self) -> None:
        """No handler runs anything any more: give back what a dead router had (DESIGN law 3 d)."""

    async def close(self) -> int:
        """Give back what can be; returns how many messages had no outcome."""


class RouterControl(Protocol):
    """A router as the drain sees it."""

    async def drain(self) -> None:
        """What has not gone to a handler comes back."""


class HandlerControl(Protocol):
    """A handler as the drain sees it."""

    async def drain(self) -> None:
        """No row begins any more."""

    async def idle(self) -> None:
        """Return when nothing runs any more."""

    async def stop_running(self) -> None:
        """Cancel async handlers, tell sync ones."""

    async def close(self) -> None:
        """Send what was sent, close what is open."""

    async def kill(self) -> None:
        """End its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the steps may take, in seconds.

    Args:
        release: to give back what nobody works on.
        running: for running messages to finish.
        cancel: for cancelled ones to end, before their actors are killed.
    """

    release: float = 1.0
    running: float = 30.0
    cancel: float = 10.0


@dataclass(slots=True)
class Drained:
    """How a drain went.

    Args:
        left: messages whose end is left to lock expiry.
        unknown: receivers that did not say how many they left.
        killed: handler actors that had to be killed; what they had in hand is given back.
        steps: the steps, in order.
        errors: what went wrong on the way.
    """

    left: int = 0
    unknown: int = 0
    killed: int = 0
    steps: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether nothing had to be left to lock expiry."""
        return not self.left and not self.unknown


async def drain(
    receivers: Sequence[ReceiverControl],
    routers: Sequence[RouterControl],
    handlers: Sequence[HandlerControl],
    limits: Limits,
) -> Drained:
    """Stop one pipeline so that nothing is lost; the steps are those of SPEC F6."""
    report = Drained()

    async def step(name: str, calls: Sequence[Awaitable[T]], limit: float) -> list[T]:
        report.steps.append(name)
        return await _all(name, calls, limit, report)

    await step(
        "1 no new receive",
        [receiver.stop_receiving() for receiver in receivers],
        limits.release + _ANSWER,
    )
    await step(
        "2 rows not begun come back",
        [part.drain() for part in (*routers, *handlers)],
        limits.release + _ANSWER,
    )

    async def idle(name: str, limit: float) -> bool:
        report.steps.append(name)
        return await _idle(name, receivers, handlers, limit, report)

    finished = await idle("3 running messages finish", limits.running)
    if not finished:
        await step(
            "4 running messages are cancelled",
            [handler.stop_running() for handler in handlers],
            _ANSWER,
        )
        finished = await idle("4 cancelled messages end", limits.cancel)
        if not finished:
            # Whose message it is that does not end isn't known here: none of them ends by itself.
            await step("4 handlers are killed", [handler.kill() for handler in handlers], _ANSWER)
            report.killed = len(handlers)
            await idle("4 what they had in hand comes back", _GIVEN_BACK)
    left = await step("5 sessions are given back", [one.close() for one in receivers], _ANSWER)
    report.left = sum(left)
    report.unknown = len(receivers) - len(left)
    if not report.killed:
        await step("5 handlers close", [handler.close() for handler in handlers], _ANSWER)
    report.steps.append("6 report")
    return report


async def _idle(
    name: str,
    receivers: Sequence[ReceiverControl],
    handlers: Sequence[HandlerControl],
    limit: float,
    report: Drained,
) -> bool:
    """Wait until no receiver has anything in hand; False when that takes longer."""

    async def one(call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except Exception as error:  # noqa: BLE001 - a dead receiver must not end the drain
            _note(name, error, report)

    async def nothing_runs() -> None:
        if all(await asyncio.gather(*(_ran(handler, name, report) for handler in handlers))):
            await asyncio.gather(*(one(receiver.nothing_runs) for receiver in receivers))

    telling = asyncio.ensure_future(nothing_runs())
    try:
        idle = asyncio.gather(*(one(receiver.idle) for receiver in receivers))
        await asyncio.wait_for(idle, limit)
    except TimeoutError:
        return False
    finally:
        telling.cancel()
        await asyncio.wait([telling])
    return True


async def _ran(handler: HandlerControl, name: str, report: Drained) -> bool:
    """Wait until a handler runs nothing; whether that is known."""
    try:
        await handler.idle()
    except ProcessDied:
        return True
    except Exception as error:  # noqa: BLE001 - nor must a handler that can't be asked
        _note(name, error, report)
        return False
    return True


async def _all(name: str, calls: Sequence[Awaitable[T]], limit: float, report: Drained) -> list[T]:
    """Make all calls of a step; one that fails or hangs must not keep the others from ending."""

    async def one(call: Awaitable[T]) -> T | None:
        try:
            async with asyncio.timeout(limit):
                return await call
        except Exception as error:  # noqa: BLE001 - the drain goes on whatever happens
            _note(name, error, report)
            return None

    answers = await asyncio.gather(*(one(call) for call in calls))
    return [answer for answer in answers if answer is not None]


def _note(name: str, error: Exception, report: Drained) -> None:
    told = f"{name}: {type(error).__name__}: {error}"
    report.errors.append(told)
    _log.warning("drain: %s", told)
