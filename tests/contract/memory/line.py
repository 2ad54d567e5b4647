"""A bad line between a provider and its broker: refuses, cuts, swallows, throttles, on demand."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pipeline.errors import ConnectionFailed, QueueError, Throttled
from pipeline.message import Row
from pipeline.providers.memory.broker import MemoryBroker
from pipeline.providers.memory.calls import BrokerSent

REFUSE = "refuse"
"""The call never reaches the broker: connection refused."""
CUT = "cut"
"""The broker acts, and the connection is cut before its answer: outcome unknown to the caller."""
SILENCE = "silence"
"""The call is swallowed: nothing happens, and no answer ever comes."""
MUTE = "mute"
"""The broker acts, and its answer never comes."""
PASS = "pass"
"""Nothing is wrong with this one."""


class Answer:
    """The call never reaches the broker, and this is the answer."""

    def __init__(self, value: object) -> None:
        self.value = value


class Late:
    """The broker acts, and its answer takes so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Throttle:
    """The broker asks for patience, in seconds."""

    def __init__(self, retry_after: float | None) -> None:
        self.retry_after = retry_after


class Line:
    """A broker at the end of a line that can be told what to do with the next calls.

    It has the methods of `BrokerCalls`. `calls` counts what was tried, by method.
    """

    def __init__(self, broker: MemoryBroker) -> None:
        self.broker = broker
        self.calls: Counter[str] = Counter()
        self._plans: dict[str, deque[object]] = {}

    def plan(self, method: str, *events: object) -> None:
        """What happens to the next calls of a method; after them all is well again."""
        self._plans[method] = deque(events)

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        real = getattr(self.broker, method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            self.calls[method] += 1
            plan = self._plans.get(method)
            event = plan.popleft() if plan else PASS
            return await self._do(event, lambda: real(*args, **kwargs))

        return call

    async def send(self, queue: str, rows: Sequence[Row]) -> BrokerSent:
        """As the others; and a dict as event fails the sessions it names, with their errors."""
        plan = self._plans.get("send")
        if plan and isinstance(plan[0], dict):
            self.calls["send"] += 1
            return await self._send_in_part(queue, rows, plan.popleft())  # type: ignore[arg-type]
        result: BrokerSent = await self.__getattr__("send")(queue, rows)
        return result

    async def _send_in_part(
        self, queue: str, rows: Sequence[Row], refused: dict[str, QueueError]
    ) -> BrokerSent:
        failures = {at: refused[row[1]] for at, row in enumerate(rows) if row[1] in refused}
        going = [at for at in range(len(rows)) if at not in failures]
        sent = await self.broker.send(queue, [rows[at] for at in going])
        numbers = dict(zip(going, sent.sequences, strict=True))
        return BrokerSent([numbers.get(at, 0) for at in range(len(rows))], (), failures)

    async def _do(self, event: object, call: Callable[[], Awaitable[Any]]) -> Any:
        if event == REFUSE:
            refused = ConnectionRefusedError(111, "Connection refused; password=hunter2")
            raise ConnectionFailed("the broker could not be reached") from refused
        if isinstance(event, QueueError):
            raise event
        if isinstance(event, Throttle):
            raise Throttled("slower, please", retry_after=event.retry_after)
        if event == SILENCE:
            await asyncio.get_running_loop().create_future()
        result = event.value if isinstance(event, Answer) else await call()
        if event == CUT:
            raise ConnectionFailed("the line was cut") from ConnectionResetError("reset by peer")
        if isinstance(event, Late):
            await asyncio.sleep(event.seconds)
        if event == MUTE:
            await asyncio.get_running_loop().create_future()
        return result
