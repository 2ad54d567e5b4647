"""Settling what a client received: the calls, their retries, and what the ledger makes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias

from pipeline.client.core import Core
from pipeline.client.lanes import Lane
from pipeline.client.leases import Lease, Possession
from pipeline.errors import QueueError, SessionLockLost, ValidationError
from pipeline.message import Delivery
from pipeline.names import ReceiptHandle
from pipeline.providers.port import Failures, Renewed

Given: TypeAlias = Delivery | ReceiptHandle
"""What names a received message: the delivery itself, or its receipt."""

Act: TypeAlias = Callable[[Lane, Sequence[Lease[Lane]]], Awaitable[Failures]]
Row: TypeAlias = tuple[int, Lease[Lane]]

_log = logging.getLogger(__name__)


class Settler:
    """Makes the calls that settle and renew, for a client and its sessions.

    Args:
        core: the client's inside.
    """

    def __init__(self, core: Core) -> None:
        self._core = core
        self._leases = core.leases

    async def settle(
        self, given: Given | Sequence[Given], operation: str, act: Act
    ) -> dict[int, QueueError]:
        """Settle messages, each on the lane it came by; see `Settling` for what comes back."""
        self._core.check()
        handles, alone = _handles(given)
        rows, failures = self._sort(handles, lambda handle: self._leases.begin(handle, operation))
        for failed in await _together(
            self._settle_on(lane, part, operation, act) for lane, part in rows.items()
        ):
            failures |= failed
        return _result(failures, alone)

    async def renew(self, given: Given | Sequence[Given]) -> dict[int, QueueError]:
        """Renew the locks of messages, or of the sessions that lock them."""
        self._core.check()
        handles, alone = _handles(given)
        rows, failures = self._sort(handles, self._leases.find)
        for failed in await _together(self._renew_on(lane, part) for lane, part in rows.items()):
            failures |= failed
        return _result(failures, alone)

    async def renew_sessions(self, lane: Lane, held: Sequence[Possession]) -> Failures:
        """Renew the locks of sessions that came by one lane."""

        async def call(places: Sequence[int]) -> Failures:
            numbers = [held[place].holding.number for place in places]
            renewed = await lane.receiver.renew_sessions(numbers)
            left = {places[at]: error for at, error in renewed.failures.items()}
            for place in places:
                error = left.get(place)
                if error is None:
                    held[place].deadline = renewed.deadline
                elif isinstance(error, SessionLockLost):
                    self._leases.lose_session(held[place])
            return left

        return await self._core.each("renew_sessions", len(held), call)

    async def give_back(self, lane: Lane, numbers: Sequence[int]) -> Failures:
        """Give sessions back, whatever becomes of the task that asked for it."""

        async def call(places: Sequence[int]) -> Failures:
            failures = await lane.receiver.release_sessions([numbers[at] for at in places])
            return {places[at]: error for at, error in failures.items()}

        found: Failures = {}

        async def work() -> None:
            found.update(await self._core.each("release_sessions", len(numbers), call))

        await self._core.finish(work())
        return found

    def _sort(
        self, handles: Sequence[str], find: Callable[[str], Lease[Lane] | QueueError]
    ) -> tuple[dict[Lane, list[Row]], dict[int, QueueError]]:
        rows: dict[Lane, list[Row]] = {}
        failures: dict[int, QueueError] = {}
        for position, handle in enumerate(handles):
            lease = find(handle)
            if isinstance(lease, QueueError):
                failures[position] = lease
            else:
                rows.setdefault(lease.lane, []).append((position, lease))
        return rows, failures

    async def _settle_on(self, lane: Lane, rows: list[Row], operation: str, act: Act) -> Failures:
        leases = [lease for _, lease in rows]

        async def call(places: Sequence[int]) -> Failures:
            return await self._attempt(lane, [leases[place] for place in places], places, act)

        unknown = False
        try:
            failures = await self._core.each(operation, len(rows), call)
        except asyncio.CancelledError:
            unknown = True
            raise
        finally:
            for lease in leases:
                self._leases.give_up(lease, unknown=unknown)
        await self._end_sessions(lane, leases)
        return {rows[place][0]: error for place, error in failures.items()}

    async def _attempt(
        self, lane: Lane, leases: list[Lease[Lane]], places: Sequence[int], act: Act
    ) -> Failures:
        try:
            failures = await act(lane, leases)
        except QueueError as error:
            if not error.transient:
                raise
            failures = dict.fromkeys(range(len(leases)), error)
        left: Failures = {}
        for at, lease in enumerate(leases):
            counts = self._leases.conclude(lease, failures.get(at))
            if counts is not None:
                left[places[at]] = counts
        return left

    async def _end_sessions(self, lane: Lane, leases: Iterable[Lease[Lane]]) -> None:
        numbers = self._leases.emptied(leases)
        if not numbers:
            return
        for at, error in (await self.give_back(lane, numbers)).items():
            # The messages are settled: the caller's call worked. The session's lock runs out.
            _log.warning("holding %d of a session was not given back: %s", numbers[at], error)

    async def _renew_on(self, lane: Lane, rows: list[Row]) -> Failures:
        alone = [(position, lease) for position, lease in rows if lease.possession is None]
        failures = await self._renew_messages(lane, alone)
        by_session: dict[Possession, list[int]] = {}
        for position, lease in rows:
            if lease.possession is not None:
                by_session.setdefault(lease.possession, []).append(position)
        sessions = list(by_session)
        for at, error in (await self.renew_sessions(lane, sessions)).items():
            failures |= dict.fromkeys(by_session[sessions[at]], error)
        return failures

    async def _renew_messages(self, lane: Lane, rows: list[Row]) -> Failures:
        async def call(places: Sequence[int]) -> Failures:
            leases = [rows[place][1] for place in places]
            renewed: Renewed = await lane.receiver.renew([lease.receipt for lease in leases])
            for at, lease in enumerate(leases):
                error = renewed.failures.get(at)
                if error is None:
                    lease.until = renewed.deadline
                else:
                    self._leases.refused(lease, error)
            return {places[at]: error for at, error in renewed.failures.items()}

        failures = await self._core.each("renew", len(rows), call)
        return {rows[place][0]: error for place, error in failures.items()}


async def _together(work: Iterable[Coroutine[Any, Any, Failures]]) -> list[Failures]:
    parts = list(work)
    if len(parts) == 1:
        return [await parts[0]]
    return await asyncio.gather(*parts)


def _handles(given: Given | Sequence[Given]) -> tuple[list[str], bool]:
    if isinstance(given, Delivery | ReceiptHandle):
        return [_handle(given)], True
    return [_handle(one) for one in given], False


def _handle(one: object) -> str:
    if isinstance(one, Delivery):
        return one.receipt
    if isinstance(one, ReceiptHandle):
        return one
    rule = "must be a Delivery or its receipt, as this client gave it"
    raise ValidationError("deliveries", rule, type(one).__name__)


def _result(failures: dict[int, QueueError], alone: bool) -> dict[int, QueueError]:
    if alone and failures:
        raise failures[0]
    return failures
