"""What can go wrong between a client and SQS, each as an object that plays one call's part.

A test says `endpoint.faults.next("ReceiveMessage", throttle())`; the next such call is answered by
the fault, in the order in which faults were given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from tests.sqs import batches
from tests.sqs.answers import Answer, refusal
from tests.sqs.errors import SqsError
from tests.sqs.exchange import Exchange

Entry = dict[str, Any]
_PAUSE = 0.02


class Fault(Protocol):
    """Plays the part of the service in one call."""

    async def play(self, call: Exchange) -> None:
        """Answer the call, or don't."""
        ...


@dataclass(frozen=True)
class Refusal:
    """An error in place of the operation."""

    error: SqsError

    async def play(self, call: Exchange) -> None:
        call.reply(refusal(self.error))


def throttle(code: str = "ThrottlingException", retry_after: float | None = None) -> Refusal:
    """Too many calls: `ThrottlingException` or `RequestThrottled`, perhaps with Retry-After."""
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Refusal(SqsError(code, "Rate exceeded", 400, headers))


def server_error(status: int = 500) -> Refusal:
    """The service's own failure: InternalFailure, or ServiceUnavailable for 503."""
    code = "ServiceUnavailable" if status == 503 else "InternalFailure"
    return Refusal(SqsError(code, "The request processing has failed.", status))


def over_limit() -> Refusal:
    """Too many messages in flight."""
    return Refusal(SqsError("OverLimit", "Too many messages in flight."))


def access_denied() -> Refusal:
    """No right to this action."""
    return Refusal(SqsError("AccessDenied", "Access to the resource is denied.", 403))


@dataclass(frozen=True)
class Refuse:
    """The connection is closed and nothing was done."""

    async def play(self, call: Exchange) -> None:
        call.close()


@dataclass(frozen=True)
class CutReply:
    """The operation is done; of the reply come some bytes, then a reset.

    Args:
        after: bytes; negative: all but so many; by default half of it.
    """

    after: int | None = None

    async def play(self, call: Exchange) -> None:
        data = (await call.answer()).encode()
        call.write(data[: len(data) // 2 if self.after is None else self.after])
        await asyncio.sleep(_PAUSE)  # a reset at once would take back what was written
        call.reset()


@dataclass(frozen=True)
class ApplyThenCut:
    """The operation is done and the connection ends: the caller can't know."""

    async def play(self, call: Exchange) -> None:
        await call.answer()
        call.reset()


@dataclass(frozen=True)
class Swallow:
    """No reply ever comes, and the connection stays open.

    Args:
        applied: whether the operation is done.
    """

    applied: bool = False

    async def play(self, call: Exchange) -> None:
        if self.applied:
            await call.answer()


@dataclass(frozen=True)
class Slow:
    """The operation is done; the reply comes late, or bit by bit.

    Args:
        before: seconds until its first byte.
        rate: bytes a second; None: all at once.
    """

    before: float = 0.0
    rate: float | None = None

    async def play(self, call: Exchange) -> None:
        answer = await call.answer()
        await asyncio.sleep(self.before)
        if self.rate is None:
            call.reply(answer)
            return
        data = answer.encode()
        step = max(1, int(self.rate * _PAUSE))
        for at in range(0, len(data) - step, step):
            call.write(data[at : at + step])
            await asyncio.sleep(step / self.rate)
        rest = (len(data) - 1) // step * step
        call.finish(data[rest:])


@dataclass(frozen=True)
class Duplicate:
    """What a receive brings is given to the next receive as well (standard queues)."""

    async def play(self, call: Exchange) -> None:
        answer = await call.answer()
        for message in answer.payload.get("Messages", ()):
            call.give_again(message["ReceiptHandle"])
        call.reply(answer)


@dataclass(frozen=True)
class Late:
    """What is sent is accepted now and can be received only later.

    Args:
        seconds: by the endpoint's clock.
    """

    seconds: float

    async def play(self, call: Exchange) -> None:
        with call.delayed(self.seconds):
            answer = await call.answer()
        call.reply(answer)


@dataclass(frozen=True)
class Empty:
    """A receive that finds nothing though something is there."""

    async def play(self, call: Exchange) -> None:
        call.reply(Answer({}))


@dataclass(frozen=True)
class Partial:
    """Some entries of a batch fail and nothing is done for them.

    Args:
        chosen: which.
        code: that `Failed` gives.
        sender_fault: whether the caller did wrong.
        message: for people.
    """

    chosen: Callable[[Entry], bool]
    code: str = "InternalError"
    sender_fault: bool = False
    message: str = "We encountered an internal error. Please try again."

    async def play(self, call: Exchange) -> None:
        entries = batches.entries(call.request)
        error = SqsError(self.code, self.message, 400 if self.sender_fault else 500)
        failed = [batches.failure(entry["Id"], error) for entry in entries if self.chosen(entry)]
        rest = [entry for entry in entries if not self.chosen(entry)]
        answer = Answer({})
        if rest:
            call.request["Entries"] = rest
            answer = await call.answer()
        if answer.status == 200:
            failed += answer.payload.get("Failed", [])
            answer.payload = batches.merged(answer.payload.get("Successful", []), failed)
        call.reply(answer)


@dataclass
class _Planned:
    fault: Fault
    left: int
    when: Callable[[dict[str, Any]], bool] | None


class Faults:
    """The faults to come, by action."""

    def __init__(self) -> None:
        self._planned: dict[str, list[_Planned]] = {}

    def next(
        self,
        action: str,
        fault: Fault,
        count: int = 1,
        when: Callable[[dict[str, Any]], bool] | None = None,
    ) -> None:
        """Let the next calls fail.

        Args:
            action: like `ReceiveMessage`; `*`: any.
            fault: what happens to them.
            count: how many.
            when: which, by what they ask for; others pass.
        """
        self._planned.setdefault(action, []).append(_Planned(fault, count, when))

    def clear(self) -> None:
        """Let nothing fail any more."""
        self._planned.clear()

    @property
    def left(self) -> int:
        """How many calls will still fail."""
        return sum(planned.left for line in self._planned.values() for planned in line)

    def take(self, action: str, request: Callable[[], dict[str, Any]]) -> Fault | None:
        """The fault that this call gets."""
        if not self._planned:
            return None
        for name in (action, "*"):
            line = self._planned.get(name, [])
            for planned in line:
                if planned.when is None or planned.when(request()):
                    self._use(name, planned)
                    return planned.fault
        return None

    def _use(self, name: str, planned: _Planned) -> None:
        planned.left -= 1
        if not planned.left:
            self._planned[name].remove(planned)
            if not self._planned[name]:
                del self._planned[name]
