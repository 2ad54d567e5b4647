"""Entries on their way to a queue, cut into calls so that nothing of a group overtakes (P3)."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence

from pipeline.errors import QueueError
from pipeline.providers.aws.calls import MOST_BYTES, MOST_ENTRIES, SEND, Answer, Batches
from pipeline.providers.aws.wire import Entry, sequence
from pipeline.providers.port import Sent


class Outbound:
    """Sends entries to one queue.

    Args:
        batches: makes the calls.
        url: the queue's.
        fifo: whether its groups are in order.
        batch_groups: whether one call may carry several entries of a group.
    """

    def __init__(self, batches: Batches, url: str, *, fifo: bool, batch_groups: bool) -> None:
        self._batches = batches
        self._url = url
        self._fifo = fifo
        self._at_once = MOST_ENTRIES if batch_groups or not fifo else 1

    async def send(self, entries: Sequence[Entry]) -> list[Sent | QueueError]:
        """Send entries; after a failure the later ones of its group fail with it, unsent."""
        results: dict[int, Sent | QueueError] = {}
        lines: dict[object, deque[int]] = {}
        for at, entry in enumerate(entries):
            # Without order every ten go on their own; with it, a group waits in line.
            lines.setdefault(entry.group if self._fifo else at // MOST_ENTRIES, deque()).append(at)
        while lines:
            parts = [self._part(line, entries) for line in lines.values()]
            calls = list(_packed(parts, entries))
            await asyncio.gather(*(self._send(entries, call, results) for call in calls))
            for part in parts:
                self._stop(part, lines, entries, results)
            lines = {name: line for name, line in lines.items() if line}
        return [results[at] for at in range(len(entries))]

    def _part(self, line: deque[int], entries: Sequence[Entry]) -> list[int]:
        """What may go next of a line."""
        part = [line.popleft()]
        size = entries[part[0]].size
        while line and len(part) < self._at_once:
            size += entries[line[0]].size
            if size > MOST_BYTES:
                break
            part.append(line.popleft())
        return part

    def _stop(
        self,
        part: list[int],
        lines: dict[object, deque[int]],
        entries: Sequence[Entry],
        results: dict[int, Sent | QueueError],
    ) -> None:
        """What is behind a failure in its group is not sent."""
        failed = next((at for at in part if isinstance(results[at], QueueError)), None)
        if failed is None or not self._fifo:
            return
        line = lines[entries[failed].group]
        results.update(dict.fromkeys(line, results[failed]))
        line.clear()

    async def _send(
        self, entries: Sequence[Entry], call: list[int], results: dict[int, Sent | QueueError]
    ) -> None:
        def succeeded(place: int, answer: Answer) -> None:
            number = answer.get("SequenceNumber")
            results[call[place]] = Sent(None if number is None else sequence(number))

        failures = await self._batches.once(
            SEND, self._url, [entries[at].fields for at in call], succeeded
        )
        results.update({call[place]: error for place, error in failures.items()})


def _packed(parts: list[list[int]], entries: Sequence[Entry]) -> Iterator[list[int]]:
    """Parts put together to calls as large as they may be; a part is never cut."""
    call: list[int] = []
    size = 0
    for part in parts:
        more = sum(entries[at].size for at in part)
        if call and (len(call) + len(part) > MOST_ENTRIES or size + more > MOST_BYTES):
            yield call
            call, size = [], 0
        call = call + part
        size += more
    if call:
        yield call
