"""One receiving lane of a queue that requires sessions: it holds some, and brings of all of them.

Each session is `session`'s, how it is come by `accepts`'. Here is what a receive brings of which,
and whose each receipt is.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from pipeline.batch import MessageBatch
from pipeline.clock import Clock
from pipeline.config import AzureQueue
from pipeline.errors import (
    Closed,
    MessageNotFound,
    QueueError,
    SessionLockLost,
    SessionNotFound,
    Unsupported,
    ValidationError,
)
from pipeline.providers.azure import settle
from pipeline.providers.azure.accepts import Accepts
from pipeline.providers.azure.brought import Brought, by_session
from pipeline.providers.azure.errands import of_each
from pipeline.providers.azure.errors import PROVIDER
from pipeline.providers.azure.sdk import Sdk
from pipeline.providers.azure.session import HeldSession, SessionReceipt
from pipeline.providers.guard import Guard
from pipeline.providers.port import (
    UNBOUNDED,
    DeadLetter,
    Failures,
    Holding,
    Received,
    Renewed,
    Want,
)

T = TypeVar("T")
Peek = Callable[[int, int], Awaitable[MessageBatch]]
_log = logging.getLogger("queue_runtime.servicebus")

_LINGER = 1.0
"""Seconds that accepts go on after a receive: its caller asks again, or wants no more."""
_ONCE = 1.5
"""Seconds that a receive takes at most that asks once, while an accept is under way."""
_REMEMBERED = 1_000
"""So many holdings that were lost are told from unknown ones."""


class AzureSessionReceiver:
    """Receives from one queue with sessions and settles what it received (see `port.Receiver`).

    Args:
        queue: its name in the configuration.
        settings: its keys, the entity's name filled in.
        sdk: makes the lines.
        clock: the calendar.
        guard: says whether a call can be made.
        counts: of the provider's receivers.
        forget: tells the provider that this receiver was closed.
        peek: reads messages without a session: so many, after a sequence; None: nothing can.
    """

    def __init__(
        self,
        queue: str,
        settings: AzureQueue,
        sdk: Sdk,
        clock: Clock,
        guard: Guard,
        counts: Counter[str],
        forget: Callable[[AzureSessionReceiver], None],
        *,
        peek: Peek | None = None,
    ) -> None:
        self._queue = queue
        self._clock = clock
        self._guard = guard
        self._forget = forget
        self._peek = peek
        self._held: dict[int, HeldSession] = {}
        self._lost: OrderedDict[int, QueueError] = OrderedDict()
        self._accepts = Accepts(settings, sdk, clock, counts, self._budget, self._stirred)
        self._accepting: set[asyncio.Task[HeldSession]] = set()
        self._stir = asyncio.Event()
        self._most = 0
        self._turn = 0
        self._opens = False
        self._ended = False
        self._lapsing: asyncio.TimerHandle | None = None
        self._closing: asyncio.Task[None] | None = None

    # --- receiving --------------------------------------------------------------------------------

    async def receive(self, want: Want) -> Received:
        """Bring messages, waiting for the first one; the moment there is one it returns."""
        loop = self._guard.check()
        self._ask(want)
        try:
            await self._something(want, loop.time())
        except asyncio.CancelledError:
            self._lapse()
            raise
        except QueueError:
            self._linger(loop)
            raise
        self._check()
        received = self._gather(want)
        self._linger(loop)
        return received

    async def end_wait(self) -> None:
        """Let a pending receive return now with what it has, as if its wait were over."""
        self._guard.check()
        self._ended = True
        self._stir.set()

    def _check(self) -> None:
        if self._guard.closed:
            raise Closed(f"the receiver of queue {self._queue} was closed")

    def _ask(self, want: Want) -> None:
        """Let come what is wanted."""
        if self._lapsing is not None:
            self._lapsing.cancel()
            self._lapsing = None
        self._ended = False
        self._most = want.messages
        self._opens = self._opens or want.new_sessions > 0
        for number, held in self._held.items():
            held.allow(want.held.get(number, 0))
        # With every place taken one accept goes on: whether it is granted says that others wait.
        spare = 1 if self._opens else 0
        rows = min(want.per_session, want.messages)
        self._accepts.want(max(want.new_sessions, spare), rows, want.wait)

    def _budget(self) -> int:
        """How many more messages may come, of all sessions together.

        Those of new ones are not counted: they are few, and must not keep held ones from coming.
        """
        return self._most - sum([held.waiting for held in self._held.values()])

    async def _something(self, want: Want, began: float) -> None:
        """Return when there is something to bring, or the wait is over.

        An accept that fails meanwhile is raised at once; an earlier failure at the end, when no
        accept has ended well since: a service that can't be reached is no empty queue.
        """
        loop = asyncio.get_running_loop()
        before = self._accepts.failure
        while not self._ready(want):
            failure = self._accepts.failure
            if self._guard.closed or self._ended:
                return
            if failure is not None and failure is not before and want.new_sessions:
                raise failure
            until = self._until(want, began, failing=failure is not None)
            if loop.time() >= until:
                if failure is not None and want.new_sessions:
                    raise failure
                return
            self._stir.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._stir.wait()
            except TimeoutError:
                continue

    def _until(self, want: Want, began: float, *, failing: bool) -> float:
        """When the wait is over; an accept under way may end it later, for an answer that is known.

        Args:
            want: what is waited for.
            began: when it began to wait.
            failing: whether the accept before failed: this one tells whether that is still so.
        """
        end = began + want.wait
        if asyncio.get_running_loop().time() < end:
            return end
        if not want.new_sessions or not self._accepts.asking(began):
            return end
        return end + _ONCE if failing else began + _ONCE

    def _stirred(self) -> None:
        """Something came, or a session ended."""
        for number in [number for number, held in self._held.items() if held.lost is not None]:
            self._lose(number)
        for held in [held for held in self._accepts.fresh if held.lost is not None]:
            self._accepts.tell(held)
        self._stir.set()

    def _lose(self, number: int) -> None:
        held = self._held.pop(number)
        self._lost[number] = held.lost or SessionLockLost(f"session {held.session!r} was lost")
        while len(self._lost) > _REMEMBERED:
            self._lost.popitem(last=False)

    def _ready(self, want: Want) -> bool:
        if want.messages <= 0 or want.bytes <= 0:
            return False
        held = self._held
        return any(
            most > 0 and number in held and held[number].ready for number, most in want.held.items()
        ) or (want.new_sessions > 0 and any(fresh.ready for fresh in self._accepts.fresh))

    def _gather(self, want: Want) -> Received:
        """What there is, of each session in turn; then sessions that were granted."""
        brought = Brought(want.messages, want.bytes)
        for held, most in self._in_turn(want):
            brought.take(held, most)
        opened: list[Holding] = []
        for held in [held for held in self._accepts.fresh if held.ready]:
            if len(opened) >= want.new_sessions or not brought.take(held, want.per_session):
                break
            self._accepts.tell(held)
            self._held[held.number] = held
            opened.append(Holding(held.number, held.session, held.deadline))
        others_wait = any(held.ready for held in self._accepts.fresh)
        batch = brought.batch(self._clock.now())
        return Received(batch, brought.receipts, math.inf, tuple(opened), others_wait)

    def _in_turn(self, want: Want) -> Iterable[tuple[HeldSession, int]]:
        """The held sessions with messages; each receive begins with another one."""
        held = self._held
        found = [
            (held[number], most)
            for number, most in want.held.items()
            if most > 0 and number in held and held[number].ready
        ]
        self._turn += 1
        first = self._turn % len(found) if found else 0
        return found[first:] + found[:first]

    def _linger(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lapsing = loop.call_later(_LINGER, self._lapse)

    def _lapse(self) -> None:
        """Nobody receives any more: free is what nobody was told of."""
        self._lapsing = None
        self._accepts.stop()

    # --- sessions ---------------------------------------------------------------------------------

    async def accept(self, session: str | None, wait: float) -> Holding:
        """Lock one session, a named one (which may be empty), or the next free one."""
        loop = self._guard.check()
        accepting = loop.create_task(self._accepts.named(session, wait))
        self._accepting.add(accepting)
        accepting.add_done_callback(self._accepting.discard)
        try:
            await asyncio.wait({accepting})
        except asyncio.CancelledError:
            accepting.cancel()
            self._accepts.later(self._accepts.undo(accepting))
            raise
        if self._guard.closed:
            self._accepts.later(self._accepts.undo(accepting))
            self._check()
        held = accepting.result()
        self._held[held.number] = held
        return Holding(held.number, held.session, held.deadline)

    async def release_sessions(self, holdings: Sequence[int]) -> Failures:
        """Give sessions back; their unsettled messages come again, counts unchanged."""
        self._guard.check()

        async def leave(number: int) -> None:
            held = self._find(number)
            del self._held[number]
            await held.leave()

        _, failures = await of_each(holdings, leave)
        return failures

    async def renew_sessions(self, holdings: Sequence[int]) -> Renewed:
        """Prolong session locks, by what the entity says."""
        self._guard.check()
        deadlines, failures = await of_each(holdings, lambda number: self._find(number).renew())
        return Renewed(min(deadlines, default=0.0), failures)

    async def session_state(self, holding: int) -> bytes | None:
        """The bytes kept with a held session; `SessionLockLost` if it isn't held."""
        self._guard.check()
        return await self._find(holding).state()

    async def set_session_state(self, holding: int, state: bytes | None) -> None:
        """Keep bytes with a held session, or forget them."""
        self._guard.check()
        await self._find(holding).set_state(state)

    def _find(self, number: int) -> HeldSession:
        held = self._held.get(number)
        if held is not None:
            return held
        lost = self._lost.get(number)
        if lost is not None:
            raise lost
        raise SessionNotFound(f"holding {number} is not one that this receiver holds")

    # --- settling ---------------------------------------------------------------------------------

    async def complete(self, receipts: Sequence[SessionReceipt]) -> Failures:
        """They were handled: delete them."""
        return await self._settle(settle.COMPLETED, receipts)

    async def abandon(self, receipts: Sequence[SessionReceipt], delay: float = 0.0) -> Failures:
        """Handling failed: the count grows, and they come again when their session is given back.

        Until then no more comes of it: what is behind them must not overtake them.
        """
        if delay:
            self._lacks("abandon with a delay", "hold the message and renew its session")
        return await self._settle(settle.ABANDONED, receipts)

    async def release(self, receipts: Sequence[SessionReceipt], delay: float = 0.0) -> Failures:
        """Nobody handled them: they come again when their session is given back; see `abandon`."""
        self._guard.check()
        if delay:
            self._lacks("release with a delay", "hold the message and renew its session")
        failures: Failures = {}
        for held, places in by_session(receipts).items():
            for at, error in held.put_back([receipts[place] for place in places]).items():
                failures[places[at]] = error
        return failures

    async def dead_letter(
        self, receipts: Sequence[SessionReceipt], reasons: Sequence[DeadLetter]
    ) -> Failures:
        """Move them to the dead-letter queue."""
        if len(reasons) != len(receipts):
            rule = f"must be one for each of the {len(receipts)} receipts"
            raise ValidationError("reasons", rule, len(reasons))
        return await self._settle(settle.SUSPENDED, receipts, reasons)

    async def defer(self, receipts: Sequence[SessionReceipt]) -> Failures:
        """Set them aside until `receive_deferred` asks for their sequences."""
        return await self._settle(settle.DEFERRED, receipts)

    async def _settle(
        self, status: str, receipts: Sequence[SessionReceipt], reasons: Sequence[DeadLetter] = ()
    ) -> Failures:
        self._guard.check()

        async def of(held: HeldSession, places: list[int]) -> Failures:
            some = [reasons[at] for at in places] if reasons else ()
            failures = await held.settle(status, [receipts[at] for at in places], some)
            return {places[at]: error for at, error in failures.items()}

        groups = by_session(receipts)
        found: Failures = {}
        for failures in await asyncio.gather(*(of(*group) for group in groups.items())):
            found |= failures
        return found

    async def receive_deferred(self, sequences: Sequence[int]) -> Received:
        """Bring messages that were set aside, locked; those of one held session."""
        self._guard.check()
        brought = Brought(len(sequences), UNBOUNDED)
        for held in list(self._held.values()) if sequences else ():
            try:
                brought.add(held, await held.deferred(sequences))
                break
            except (MessageNotFound, SessionLockLost, SessionNotFound) as error:
                _log.debug("session %s: %s", held.session, error)
        if len(brought.messages) < len(sequences):
            text = "these messages are not set aside in a session that is held here: accept it"
            raise MessageNotFound(f"queue {self._queue}: {text}")
        return Received(brought.batch(self._clock.now()), brought.receipts, math.inf)

    async def renew(self, receipts: Sequence[SessionReceipt]) -> Renewed:  # noqa: ARG002
        """The lock of a message is its session's."""
        self._guard.check()
        raise Unsupported("renew", PROVIDER, "renew the session: renew_sessions")

    async def peek(self, count: int, after: int = 0) -> MessageBatch:
        """Read up to `count` messages with a sequence above `after` without locking, in order."""
        self._guard.check()
        if self._peek is None:
            raise Unsupported("peek", PROVIDER, "accept the session and receive")
        return await self._peek(count, after)

    def _lacks(self, operation: str, hint: str) -> None:
        self._guard.check()
        raise Unsupported(operation, f"{PROVIDER} (sessions)", hint)

    # --- the end ----------------------------------------------------------------------------------

    async def close(self) -> None:
        """Give every session back; a pending receive or accept raises `Closed`."""
        self._guard.close()
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._stir.set()
        if self._lapsing is not None:
            self._lapsing.cancel()
        for accepting in list(self._accepting):
            accepting.cancel()
        for held in self._held.values():
            self._accepts.later(held.leave())
        self._held.clear()
        await self._accepts.close()
        self._forget(self)
