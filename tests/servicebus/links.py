"""The links of a session: deliveries that a client sends, and those that it is sent.

An `Intake` puts transfers together and keeps its sender in credit; an `Outlet` hands out an
entity's messages and settles them. Whom a link is for is decided in attach.py, what a message does
in entities/.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from tests.servicebus import outcomes
from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import Attach, Detach, Flow, Transfer
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored
from tests.servicebus.limits import CREDIT
from tests.servicebus.messages import delivered
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.channel import Channel

_LONGEST_TAG: Final = 32


def credit_left(frame: Flow, count: int) -> int:
    """Of the credit a client gave, what it has not been sent yet; its count may be behind ours."""
    told: int = (frame.delivery_count or 0) + frame.link_credit
    return max(0, told - count)


class Link:
    """What every link has: its place in a session, and whether it is still attached."""

    def __init__(self, channel: Channel, handle: int, path: str) -> None:
        self.channel = channel
        self.handle = handle
        self.path = path
        self.closing = False  # we detached it; what still comes on it is dropped
        self.unanswered: Attach | None = None  # the client's, until it has got ours
        self.used_at = channel.clock.now()

    def transfer(self, frame: Transfer, payload: bytes) -> None:
        """The client sent a transfer."""
        self.channel.note(Rule.UNATTACHED, f"transfer on handle {self.handle}, a receiver's link")

    def flow(self, frame: Flow) -> None:
        """The client told its side of the link."""

    def ready(self) -> None:
        """There may be room to send again."""

    def idle(self) -> bool:
        """It waits for nothing: the service ends such links after a while."""
        return True

    def give_up(self) -> None:
        """Wait for nothing any more."""

    def gone(self, *, broken: bool) -> None:
        """It is detached, by either side, or its connection is lost."""

    def tell_attached(self) -> None:
        """Send our attach, if it was not: without one there is nothing to detach."""
        asked, self.unanswered = self.unanswered, None
        if asked is not None:
            count = 0 if asked.role else None
            ours = Attach(asked.name, asked.handle, not asked.role, initial_delivery_count=count)
            self.channel.send(ours)

    def detach(self, refusal: Refused | None) -> None:
        """End it from our side."""
        if not self.closing:
            self.closing = True
            self.gone(broken=False)
            self.tell_attached()
            error = None if refusal is None else outcomes.error(refusal)
            self.channel.send(Detach(self.handle, True, error))


class Refusal(Link):
    """A link that was refused: there until its client has detached it too."""

    def __init__(self, channel: Channel, handle: int, path: str) -> None:
        super().__init__(channel, handle, path)
        self.closing = True


class Intake(Link):
    """A link on which the client sends.

    Args:
        channel: its session.
        handle: its handle, the same on both sides.
        path: the entity or node it is attached to.
        take: a delivery is here whole: its number, format, bytes, and whether it is settled.
        limit: the most bytes of a message; 0 for any.
        settled: what the link's settle mode says of its transfers; None for mixed.
        count: what the client counts its deliveries from.
    """

    def __init__(
        self,
        channel: Channel,
        handle: int,
        path: str,
        take: Callable[[Intake, int, int, bytes, bool], None],
        limit: int,
        settled: bool | None,
        count: int,
    ) -> None:
        super().__init__(channel, handle, path)
        self._take = take
        self._limit = limit
        self._settled = settled
        self._count = count
        # Up to which count the client may send: what we told, and what has left to say so.
        self._told = self._allowed = count
        self._parts: list[bytes] = []
        self._size = 0
        self._first = Transfer()
        self._tags: dict[bytes, int] = {}  # of deliveries that we have not settled

    def give_credit(self) -> None:
        """Let the client send, up to a thousand deliveries."""
        self._told = self._count + CREDIT
        self.channel.flow(self.handle, self._count, CREDIT)
        self.channel.connection.when_sent(partial(self._allow, self._told))

    def _allow(self, count: int) -> None:
        self._allowed = count

    def transfer(self, frame: Transfer, payload: bytes) -> None:
        """Put a delivery together, and take it when it is whole."""
        self.used_at = self.channel.clock.now()
        if self._parts:
            self._continued(frame)
        else:
            self._begun(frame)
        if not self._limit or self._size <= self._limit:  # else it is refused: keep no more of it
            self._parts.append(payload)
        self._size += len(payload)
        if frame.more and not frame.aborted:
            return
        self._count += 1
        whole = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        size, self._size, self._parts = self._size, 0, []
        if not frame.aborted:
            self._whole(frame, whole, size)
        if self._told - self._count <= CREDIT // 2 and not self.closing:
            self.give_credit()

    def _whole(self, frame: Transfer, whole: bytes, size: int) -> None:
        first = self._first
        settled = bool(frame.settled or first.settled)
        if self._settled is not None and settled is not self._settled:
            self.channel.note(Rule.SETTLE_MODE, f"settled is {settled} on handle {self.handle}")
        if self._limit and size > self._limit:
            self.channel.note(Rule.MESSAGE_SIZE, f"{size} bytes, limit {self._limit}")
        number = 0 if first.delivery_id is None else first.delivery_id
        if not settled and first.delivery_tag is not None:
            self._tags[first.delivery_tag] = number
        self._take(self, number, first.message_format or 0, whole, settled)

    def _begun(self, frame: Transfer) -> None:
        self._first = frame
        note = self.channel.note
        if self._count >= self._allowed:
            note(Rule.LINK_CREDIT, f"a delivery on handle {self.handle} without credit")
        if frame.delivery_id is None:
            note(Rule.DELIVERY_ID, f"a delivery on handle {self.handle} has no delivery-id")
        else:
            self.channel.expect(frame.delivery_id)
        tag = frame.delivery_tag
        if tag is None or len(tag) > _LONGEST_TAG:
            note(Rule.DELIVERY_TAG, f"delivery {frame.delivery_id} has the tag {tag!r}")
        elif tag in self._tags:
            note(Rule.TAG_IN_USE, f"delivery {frame.delivery_id} has the tag {tag!r} of another")

    def _continued(self, frame: Transfer) -> None:
        first = self._first
        if frame.delivery_id not in (None, first.delivery_id) or frame.delivery_tag not in (
            None,
            first.delivery_tag,
        ):
            detail = f"id {frame.delivery_id}, tag {frame.delivery_tag!r} in {first.delivery_id}"
            self.channel.note(Rule.CONTINUATION, detail)

    def settle(self, number: int, state: bytes) -> None:
        """Tell the client how its delivery ended."""
        for tag, known in self._tags.items():  # the oldest is the first, and as a rule the one
            if known == number:
                del self._tags[tag]
                break
        if not self.closing:
            self.channel.answer(False, number, state)


class Outlet(Link):
    """A link on which a client receives an entity's messages: the entity's `Consumer`.

    Args:
        channel: its session.
        handle: its handle, the same on both sides.
        path: the entity.
        queue: the entity.
        locks: peek-lock, else receive-and-delete.
        name: the link's name, by which requests refer to it.
    """

    def __init__(
        self, channel: Channel, handle: int, path: str, queue: Queue, locks: bool, name: str
    ) -> None:
        super().__init__(channel, handle, path)
        self.name = name
        self.queue = queue
        self.locks = locks
        self.session: str | None = None
        self._count = 0
        self._credit = 0
        self._waiting: deque[Callable[[], None]] = deque()  # behind a delivery that is delayed
        self._cancel: Callable[[], None] | None = None

    # --- sessions -----------------------------------------------------------------------------

    def waits(self, cancel: Callable[[], None]) -> None:
        """It asked for a session, and is not attached yet if none is free."""
        if self.session is None and not self.closing:
            self._cancel = cancel

    def holds(self, session: str) -> None:
        """It was granted a session."""
        self._cancel = None
        self.session = session
        self.queue.hold(session, self)

    def lost(self, error: Refused) -> None:
        """Its session's lock is gone."""
        self.session = None
        self.detach(error)

    # --- deliveries ---------------------------------------------------------------------------

    def wanted(self) -> int:
        """How many messages it may be sent now."""
        if self.closing or self._waiting or self.unanswered is not None:
            return 0
        return min(self._credit, self.channel.room())

    def deliver(self, message: Stored) -> None:
        """Send a message; it is locked for this link, or gone from the entity."""
        channel = self.channel
        number = channel.number()
        self._count += 1
        self._credit -= 1
        token = message.token
        if self.locks and token is not None:
            channel.unsettled[number] = (self, token)
            tag = UUID(bytes=token).bytes_le
        else:
            tag = number.to_bytes(16, "big")
        payload = delivered(message, locked=self.locks)
        if channel.faults.waiting or self._waiting:
            self._faulty(number, tag, payload)
        else:
            channel.transfer(self.handle, number, tag, not self.locks, payload)

    def _faulty(self, number: int, tag: bytes, payload: bytes) -> None:
        def leave() -> None:
            self.channel.transfer(self.handle, number, tag, not self.locks, payload)

        fault = self.channel.faults.next("deliver", self.path)
        if fault is None:
            self._waiting.append(leave) if self._waiting else leave()
        elif fault.kind == "delay":
            self._waiting.append(leave)
            clock = self.channel.clock
            clock.at(clock.now() + fault.seconds, self._leave)
        else:
            if fault.kind == "drop-after":
                leave()
                self.channel.connection.flush()
            self.channel.connection.drop()

    def _leave(self) -> None:
        """The delay is over: what waited behind it goes too."""
        while self._waiting and not self.closing:
            self._waiting.popleft()()
        self.ready()

    def flow(self, frame: Flow) -> None:
        """Take the client's credit; drain it when it asks for that."""
        self.used_at = self.channel.clock.now()
        if frame.link_credit is not None:
            self._credit = credit_left(frame, self._count)
        if self.unanswered is not None:
            return
        self.ready()
        if frame.drain:
            self._count += self._credit
            self._credit = 0
            self.channel.flow(self.handle, self._count, 0, drain=True)
        elif frame.echo:
            self.channel.flow(self.handle, self._count, self._credit)

    def ready(self) -> None:
        """Take what the entity has, as far as there is credit and room."""
        if self._credit and not self.closing and self._cancel is None:
            self.queue.ready(self)

    def idle(self) -> bool:
        """No credit: nothing is being waited for."""
        return self._credit == 0 and self.unanswered is None

    def detach(self, refusal: Refused | None) -> None:
        """End it from our side."""
        if not self.closing:
            self.channel.excuse(self)
        super().detach(refusal)

    # --- settlement ---------------------------------------------------------------------------

    def settle(self, number: int, token: bytes, state: Any, settled: bool) -> None:
        """The client said how a delivery ended.

        Args:
            number: of the delivery.
            token: its lock.
            state: the outcome, decoded.
            settled: the client has settled it: it wants no answer.
        """
        self.used_at = self.channel.clock.now()
        operation, fields = outcomes.operation_of(state)
        if not operation:
            self.channel.note(Rule.OUTCOME, f"delivery {number} ended with {state!r}")
            if not settled:
                self.channel.unsettled[number] = (self, token)
                return
            operation = "release"

        def apply() -> bytes:
            return self._apply(operation, token, fields, state)

        def answer(outcome: bytes | Refused) -> None:
            if not settled and not self.closing:
                told = outcomes.rejected(outcome) if isinstance(outcome, Refused) else outcome
                self.channel.answer(True, number, told)

        self.channel.faults.perform(operation, self.path, self.channel.connection, apply, answer)

    def _apply(self, operation: str, token: bytes, fields: list[Any], state: Any) -> bytes:
        queue, session = self.queue, self.session
        if operation == "complete":
            queue.complete(token, session)
            return outcomes.ACCEPTED
        if operation == "release":
            queue.release(token, session)
            return outcomes.RELEASED
        if operation == "dead-letter":
            reason, description, others = outcomes.dead_letter_words(fields)
            queue.dead_letter(token, reason, description, others, session)
            return outcomes.REJECTED
        change = queue.defer if operation == "defer" else queue.abandon
        change(token, outcomes.properties_to_modify(fields), session)
        return encode(state)

    def give_up(self) -> None:
        """Don't wait for a session any more."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def gone(self, *, broken: bool) -> None:
        """Its locks stay, without a session; a session goes back when the link is closed."""
        self._waiting.clear()
        self.channel.forget(self)
        self.give_up()
        if self.session is not None:
            frees = self.channel.connection.bus.assumptions.lost_connection_frees_session
            stays = broken and not frees
            leave = self.queue.desert_session if stays else self.queue.close_session
            leave(self.session, self)
            self.session = None
        else:
            self.queue.detach(self)
