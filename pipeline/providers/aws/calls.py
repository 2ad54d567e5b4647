"""The seam that calls to SQS go through: who makes them can be changed without anybody noticing.

Four actions are made for every few messages (receive, send batch, delete batch, change visibility
batch); `Calls` is what a client must do to make them. It retries nothing, raises only errors of
`pipeline.errors`, and takes and gives what the SDK's methods do: names as SQS spells them, bytes as
bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from pipeline.errors import ProviderError, QueueError
from pipeline.providers.aws.errors import PROVIDER, from_entry
from pipeline.providers.port import Failures

Answer: TypeAlias = Mapping[str, Any]

RECEIVE = "ReceiveMessage"
SEND = "SendMessageBatch"
DELETE = "DeleteMessageBatch"
CHANGE = "ChangeMessageVisibilityBatch"

MOST_ENTRIES = 10
MOST_BYTES = 1_048_576
"""What one batch call may carry in all."""


class Calls(Protocol):
    """Makes calls to one SQS endpoint."""

    async def call(
        self, action: str, parameters: Mapping[str, Any], seconds: float = 0.0
    ) -> Answer:
        """Make one call.

        Args:
            action: one of the four.
            parameters: what SQS takes.
            seconds: of a receive, how long SQS may keep it; the time-out comes on top. A receive
                has connections of its own, so that long ones never hold up the others.

        Raises:
            QueueError: it failed; `Timeout`, `ConnectionFailed` and a transient `ProviderError`
                leave open whether it was done.
        """


def about(action: str, parameters: Mapping[str, Any]) -> str:
    """What a call does and to which queue, for its errors: SQS's own words name none.

    Example:
        >>> about("SendMessageBatch", {"QueueUrl": "https://sqs.eu-central-1.aws/1234/orders"})
        'SendMessageBatch: queue orders'
    """
    name = parameters.get("QueueName") or parameters.get("QueueUrl", "").rpartition("/")[2]
    return f"{action}: queue {name}"


class Batches:
    """Makes a call for any number of things: ten at a time, some calls at once.

    Args:
        calls: makes one call.
        most: how many calls run at once.
    """

    def __init__(self, calls: Calls, most: int) -> None:
        self._calls = calls
        self._slots = asyncio.Semaphore(most)

    async def each(self, action: str, url: str, entries: Sequence[Mapping[str, Any]]) -> Failures:
        """Do the same to each; what fails, by position."""
        failures: Failures = {}

        async def part(start: int) -> None:
            found = await self.once(action, url, entries[start : start + MOST_ENTRIES])
            failures.update({start + at: error for at, error in found.items()})

        starts = range(0, len(entries), MOST_ENTRIES)
        if len(starts) == 1:
            await part(0)
        elif starts:
            await asyncio.gather(*map(part, starts))
        return failures

    async def once(
        self,
        action: str,
        url: str,
        entries: Sequence[Mapping[str, Any]],
        succeeded: Callable[[int, Answer], None] | None = None,
    ) -> Failures:
        """One call with up to ten entries.

        Args:
            action: what to do.
            url: the queue's.
            entries: without their `Id`, which is their position.
            succeeded: told of each that was done, with what SQS said of it.
        """
        numbered = [{"Id": str(at), **entry} for at, entry in enumerate(entries)]
        try:
            async with self._slots:
                answer = await self._calls.call(action, {"QueueUrl": url, "Entries": numbered})
        except QueueError as error:
            return dict.fromkeys(range(len(entries)), error)
        done = answer.get("Successful") or ()
        if succeeded is not None:
            for entry in done:
                succeeded(int(entry["Id"]), entry)
        failed = answer.get("Failed") or ()
        failures: Failures = {}
        for entry in failed:
            failures[int(entry["Id"])] = from_entry(about(action, {"QueueUrl": url}), entry)
        if len(done) + len(failed) < len(entries):
            told = {int(entry["Id"]) for entry in done} | set(failures)
            unknown = ProviderError(PROVIDER, "NoResult", f"{action}: no result", transient=True)
            failures |= {at: unknown for at in range(len(entries)) if at not in told}
        return failures
