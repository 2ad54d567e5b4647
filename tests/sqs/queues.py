"""One queue: its messages, where each stands, and until when."""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable
from contextlib import closing

from tests.sqs.clock import Clock
from tests.sqs.errors import SqsError, invalid_value
from tests.sqs.order import Fifo, Order, Standard
from tests.sqs.settings import LONGEST_LOCK, Settings
from tests.sqs.stored import State, Stored, parse_handle
from tests.sqs.waiters import Waiters

_OUTDATED = 1_000
"""Alarms that are kept though nobody waits for them."""
_EXPIRED = "The receipt handle has expired."
_UNKNOWN = "Message does not exist or is not available for visibility timeout change."
_TOO_LONG = f"Total VisibilityTimeout for the message is beyond the limit [{LONGEST_LOCK} seconds]"


class Queue:
    """The messages of a queue; whoever changes something calls `look` afterwards.

    Args:
        name: with `.fifo`, if it is one.
        settings: its attributes.
        clock: what visibility is measured by.
        tag: tells its receipt handles from those of any other queue, also of its own name.
        bury: takes a message that was received too often; false: it can't, so it is given again.
    """

    def __init__(
        self,
        name: str,
        settings: Settings,
        clock: Clock,
        tag: int,
        bury: Callable[[Queue, Stored], bool],
    ) -> None:
        self.name = name
        self.settings = settings
        self.tag = tag
        self.waiters = Waiters()
        self._again: deque[Stored] = deque()
        self.in_flight = self.delayed = 0
        self.numbers = 0
        self._bury = bury
        self._clock = clock
        self._messages: dict[int, Stored] = {}
        self._order: Order = Fifo() if settings.fifo else Standard()
        self._alarms: list[tuple[float, int, int, Stored]] = []
        self._watch: asyncio.TimerHandle | None = None

    @property
    def fifo(self) -> bool:
        """Whether it keeps the order of each group."""
        return self.settings.fifo

    @property
    def visible(self) -> int:
        """How many could be received."""
        return len(self._messages) - self.in_flight - self.delayed

    def put(self, message: Stored, delay: float = 0.0) -> None:
        """Take a new message."""
        self._messages[message.number] = message
        if delay > 0:
            self._hide(message, State.DELAYED, self._clock() + delay)
        self._order.added(message)

    def take(self, most: int, visibility: float) -> list[Stored]:
        """Up to so many, in flight from now on for so many seconds."""
        self.return_due()
        now = self._clock()
        taken: list[Stored] = []
        while self._again and len(taken) < most:
            message = self._again.popleft()
            if message.state is State.IN_FLIGHT:
                self._deliver(message, now)
                taken.append(message)
        with closing(self._order.pick()) as candidates:
            while len(taken) < most and (found := next(candidates, None)):
                if not self._is_buried(found):
                    self._hide(found, State.IN_FLIGHT, now + visibility)
                    found.flight = found.receipt + 1
                    self._deliver(found, now)
                    self._order.hidden(found)
                    taken.append(found)
        return taken

    def delete(self, handle: object) -> None:
        """Remove what was delivered with this handle, as far as the kind of the queue does."""
        message, receipt = self._find(handle)
        if message is None:
            return
        if message.state is State.IN_FLIGHT and message.flight <= receipt:
            self._remove(message)
        elif self.fifo:
            raise invalid_value(handle, "ReceiptHandle", _EXPIRED)
        elif receipt == message.receipt:
            self._remove(message)
        # An older handle of a standard queue: it succeeds, and nothing is deleted.

    def change(self, handle: object, seconds: int) -> None:
        """Let a delivery be invisible for so long from now on."""
        if not 0 <= seconds <= LONGEST_LOCK:
            raise invalid_value(
                seconds, "VisibilityTimeout", f"Must be between 0 and {LONGEST_LOCK}, if provided."
            )
        message, receipt = self._find(handle)
        if message is None:
            raise invalid_value(handle, "ReceiptHandle", _UNKNOWN)
        if message.state is not State.IN_FLIGHT or receipt < message.flight:
            if self.fifo:
                raise invalid_value(handle, "ReceiptHandle", _EXPIRED)
            return  # the service says yes and does nothing
        now = self._clock()
        if now - message.received + seconds > LONGEST_LOCK:
            raise invalid_value(seconds, "VisibilityTimeout", _TOO_LONG)
        self.renew(message, seconds)

    def renew(self, message: Stored, seconds: float) -> None:
        """Let one that is in flight be so for so long from now on."""
        if seconds:
            self._alarm(message, self._clock() + seconds)
        else:
            self._show(message)

    def still(self, message: Stored, receipt: int, stamp: int) -> bool:
        """Whether a message is in flight as it was delivered, and nobody has changed that."""
        self.return_due()
        return (message.state, message.receipt, message.stamp) == (State.IN_FLIGHT, receipt, stamp)

    def give_again(self, handle: object) -> None:
        """Let the next receive have this delivery's message too."""
        message, _ = self._find(handle)
        if message is not None:
            self._again.append(message)

    def expire(self) -> int:
        """End every lock now; how many there were."""
        held = [m for m in self._messages.values() if m.state is State.IN_FLIGHT]
        for message in held:
            self._show(message)
        return len(held)

    def purge(self) -> None:
        """Remove everything."""
        for message in list(self._messages.values()):
            self._remove(message)

    def return_due(self) -> None:
        """Show what is invisible no longer."""
        now = self._clock()
        while self._alarms and self._alarms[0][0] <= now:
            _, stamp, _, message = heapq.heappop(self._alarms)
            if stamp == message.stamp:
                self._show(message)

    def look(self) -> None:
        """Serve those that wait, now and when the next message becomes visible."""
        self.waiters.serve()
        if self._watch:
            self._watch.cancel()
            self._watch = None
        if self.waiters and self._alarms:
            delay = max(0.001, self._alarms[0][0] - self._clock())
            self._watch = asyncio.get_running_loop().call_later(delay, self.look)

    def close(self, error: Exception | None = None) -> None:
        """Let nobody wait any longer: with this error, or without an answer."""
        if error:
            self.waiters.fail(error)
        else:
            self.waiters.drop()
        self.look()

    # --- a message's way --------------------------------------------------------------------------

    def _find(self, handle: object) -> tuple[Stored | None, int]:
        number, receipt = parse_handle(self.tag, handle)
        self.return_due()
        return self._messages.get(number), receipt

    def _is_buried(self, message: Stored) -> bool:
        redrive = self.settings.redrive
        if not redrive or message.receives - message.elsewhere < redrive.most:
            return False
        if not self._bury(self, message):
            return False
        self._remove(message)
        return True

    def _deliver(self, message: Stored, now: float) -> None:
        message.receives += 1
        message.receipt += 1
        message.received = now

    def _hide(self, message: Stored, state: State, until: float) -> None:
        self._count(message.state, -1)
        message.state = state
        self._count(state, 1)
        self._alarm(message, until)

    def _alarm(self, message: Stored, until: float) -> None:
        message.until = until
        message.stamp += 1
        heapq.heappush(self._alarms, (until, message.stamp, message.number, message))
        if len(self._alarms) > 2 * (self.in_flight + self.delayed) + _OUTDATED:
            # Those of messages that are gone would stay until they ring: minutes of traffic.
            self._alarms = [alarm for alarm in self._alarms if alarm[1] == alarm[3].stamp]
            heapq.heapify(self._alarms)

    def _show(self, message: Stored) -> None:
        was = message.state
        self._count(was, -1)
        message.state = State.VISIBLE
        message.stamp += 1
        self._order.shown(message, was)

    def _remove(self, message: Stored) -> None:
        was = message.state
        self._count(was, -1)
        message.state = State.GONE
        message.stamp += 1
        del self._messages[message.number]
        self._order.removed(message, was)

    def _count(self, state: State, by: int) -> None:
        if state is State.IN_FLIGHT:
            self.in_flight += by
        elif state is State.DELAYED:
            self.delayed += by


def full() -> SqsError:
    """A standard queue that has given out as much as it may."""
    return SqsError("OverLimit", "Too many messages in flight.")
