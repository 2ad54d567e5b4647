"""One session of a connection: AMQP's. It is a `Channel`, since Service Bus has sessions too.

It owns the windows, the numbers of deliveries, and which of them are unsettled; it knows links by
their handles and frames by their names. What a link is for is decided in attach.py.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tests.servicebus.amqp.frames import (
    Attach,
    Begin,
    Detach,
    Disposition,
    End,
    Flow,
    Transfer,
    disposition,
    frame,
    transfer,
)
from tests.servicebus.attach import attach
from tests.servicebus.entities.clock import Clock
from tests.servicebus.faults import Faults
from tests.servicebus.limits import HANDLE_MAX, OUTGOING_WINDOW, WINDOW
from tests.servicebus.links import Link, Outlet
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.connection import Connection

_OVERHEAD: Final = 64  # more than the bytes of a transfer before its payload


class Channel:
    """One session.

    Args:
        connection: whose.
        number: of the channel, the same on both sides.
        begin: what the client began it with.
    """

    def __init__(self, connection: Connection, number: int, begin: Begin) -> None:
        self.connection = connection
        self.channel = number
        self.links: dict[int, Link] = {}
        self.unsettled: dict[int, tuple[Outlet, bytes]] = {}
        self._crossed: set[int] = set()  # unsettled when we detached: the client may not know yet
        self._next_outgoing = 1
        self._next_incoming: int = begin.next_outgoing_id or 0
        self._received = 0
        # How many transfers there may have been in all: what we told, and what has left to say so.
        self._told = self._allowed = WINDOW
        self._room: int = begin.incoming_window or 0
        self._backlog: deque[bytes] = deque()  # frames that the client's window has no room for
        self._next_delivery = 0
        self._expected: int | None = None
        self._outcomes: list[tuple[bool, int, bytes]] = []  # gathered to be merged
        self.over = False
        if None in (begin.next_outgoing_id, begin.incoming_window, begin.outgoing_window):
            self.note(Rule.BEGIN_FIELDS, f"{begin}")
        self.send(Begin(number, self._next_outgoing, WINDOW, OUTGOING_WINDOW, HANDLE_MAX))

    @property
    def clock(self) -> Clock:
        """The server's."""
        return self.connection.bus.clock

    @property
    def faults(self) -> Faults:
        """The server's."""
        return self.connection.bus.faults

    def note(self, rule: Rule, detail: str) -> None:
        """The client broke a rule."""
        self.connection.note(rule, f"channel {self.channel}: {detail}")

    def send(self, body: Any) -> None:
        """Send a frame without a payload."""
        self.connection.send(frame(self.channel, body))

    # --- from the client ----------------------------------------------------------------------

    def take(self, body: Any, payload: bytes) -> None:
        """A frame came on this channel."""
        kind = type(body)
        if kind is Transfer:
            self._transfer(body, payload)
        elif kind is Disposition:
            self._disposition(body)
        elif kind is Flow:
            self._flow(body)
        elif kind is Attach:
            attach(self, body)
        elif kind is Detach:
            self._detach(body)

    def _link(self, handle: Any, what: str) -> Link | None:
        link = self.links.get(handle)
        if link is None:
            self.note(Rule.UNATTACHED, f"{what} on handle {handle}")
        return link

    def _transfer(self, body: Transfer, payload: bytes) -> None:
        self._next_incoming = (self._next_incoming + 1) & 0xFFFFFFFF
        self._received += 1
        if self._received > self._allowed:
            self.note(Rule.WINDOW, f"transfer {self._received}, and {self._allowed} were allowed")
        link = self._link(body.handle, "transfer")
        if link is not None and not link.closing:
            link.transfer(body, payload)
        if self._told - self._received <= WINDOW // 2:
            self._told = self._received + WINDOW
            self._tell_flow()
            self.connection.when_sent(partial(self._allow, self._told))

    def _allow(self, transfers: int) -> None:
        self._allowed = transfers

    def expect(self, number: int) -> None:
        """A delivery has this number: is it the next one?"""
        if self._expected is not None and number != self._expected:
            detail = f"delivery-id {number} after {self._expected - 1}"
            self.note(Rule.DELIVERY_SEQUENCE, detail)
        self._expected = (number + 1) & 0xFFFFFFFF

    def _flow(self, body: Flow) -> None:
        of_link = (body.delivery_count, body.link_credit, body.available, body.drain)
        if None in (body.incoming_window, body.next_outgoing_id, body.outgoing_window) or (
            body.handle is None and of_link != (None, None, None, None)
        ):
            self.note(Rule.FLOW_FIELDS, f"{body}")
        if body.incoming_window is not None:
            self._widen(body)
        if body.handle is None:
            if body.echo:
                self._tell_flow()
            return
        link = self._link(body.handle, "flow")
        if link is not None and not link.closing:
            link.flow(body)

    def _widen(self, body: Flow) -> None:
        """Take the client's window; what waited for room goes first."""
        starved = self._room <= 0
        known = 1 if body.next_incoming_id is None else body.next_incoming_id
        self._room = known + body.incoming_window - self._next_outgoing
        while self._backlog and self._room > 0:
            self._leave(self._backlog.popleft())
        if starved and self._room > 0:
            for link in tuple(self.links.values()):
                link.ready()

    def _disposition(self, body: Disposition) -> None:
        last = body.first if body.last is None else body.last
        if body.first is None or last < body.first:
            self.note(Rule.RANGE, f"{body.first} to {last}")
            return
        if body.role is not True:  # of deliveries the client sent: we have settled them ourselves
            if body.role is None or self._expected is None or last >= self._expected:
                self.note(Rule.ROLE, f"role {body.role} of {body.first} to {last}")
            return
        for number in range(body.first, min(last, self._next_delivery) + 1):
            known = self.unsettled.pop(number, None)
            if self.over:  # a fault has just dropped the connection
                return
            if known is None:
                self._settled_twice(number)
            else:
                link, token = known
                link.settle(number, token, body.state, bool(body.settled))
        if last > self._next_delivery:
            self.note(Rule.UNKNOWN_DELIVERY, f"disposition of {last}, which was never sent")

    def _settled_twice(self, number: int) -> None:
        if number in self._crossed:
            self._crossed.discard(number)
        else:
            self.note(Rule.UNKNOWN_DELIVERY, f"disposition of {number}")

    def _detach(self, body: Detach) -> None:
        link = self.links.pop(body.handle, None)
        if link is None:
            self.note(Rule.UNATTACHED, f"detach of handle {body.handle}")
        elif not link.closing:
            link.closing = True
            link.gone(broken=False)
            link.tell_attached()
            self.send(Detach(body.handle, bool(body.closed)))

    def ended(self, *, broken: bool) -> None:
        """The session or its connection is over: so are its links."""
        self.over = True
        for link in self.links.values():  # lest one of them gets the session of another
            link.give_up()
        for link in self.links.values():
            if not link.closing:
                link.closing = True
                link.gone(broken=broken)
        self.links.clear()
        self._backlog.clear()

    def end(self) -> None:
        """The client ended it."""
        self.ended(broken=False)
        self.send(End())

    # --- to the client ------------------------------------------------------------------------

    def room(self) -> int:
        """How many deliveries the client's window and the socket have room for."""
        return 0 if self._backlog or self.connection.choked else self._room

    def number(self) -> int:
        """The next delivery's number."""
        self._next_delivery += 1
        return self._next_delivery - 1

    def transfer(self, handle: int, number: int, tag: bytes, settled: bool, payload: bytes) -> None:
        """Send a delivery, in as many frames as it needs."""
        shape = self.faults.shape
        most = self.connection.frame_limit - _OVERHEAD
        if shape.transfer_bytes is not None:
            most = min(most, shape.transfer_bytes)
        at = 0
        while len(payload) - at > most:
            piece = payload[at : at + most]
            self._queue(transfer(self.channel, handle, number, tag, settled, True, piece))
            at += most
        rest = payload[at:] if at else payload
        self._queue(transfer(self.channel, handle, number, tag, settled, False, rest))

    def _queue(self, encoded: bytes) -> None:
        if self._room <= 0 or self._backlog:
            self._backlog.append(encoded)
        else:
            self._leave(encoded)

    def _leave(self, encoded: bytes) -> None:
        self._room -= 1
        self._next_outgoing = (self._next_outgoing + 1) & 0xFFFFFFFF
        shape = self.faults.shape
        if shape.split_transfers is not None:
            self.connection.send_alone(encoded, shape.split_transfers)
        elif shape.merge_transfers is not None:
            self.connection.send_together(encoded, shape.merge_transfers)
        else:
            self.connection.send(encoded)

    def answer(self, ours: bool, number: int, state: bytes) -> None:
        """Settle a delivery: one that we sent (`ours`) or one that the client sent."""
        shape = self.faults.shape
        merge = shape.merge_outcomes
        if merge is None and self.connection.bus.assumptions.merge_outcomes:
            merge = 0.0
        if merge is not None:
            if not self._outcomes:
                self.clock.at(self.clock.now() + merge, self._merged)
            self._outcomes.append((ours, number, state))
            return
        encoded = disposition(self.channel, ours, number, number, state)
        if shape.split_outcomes is not None:
            self.connection.send_alone(encoded, shape.split_outcomes)
        else:
            self.connection.send(encoded)

    def _merged(self) -> None:
        """Answer what was gathered: a range for each run of numbers with the same outcome."""
        gathered = [] if self.over else sorted(self._outcomes)
        self._outcomes = []
        start = 0
        for place in range(1, len(gathered) + 1):
            ours, first, state = gathered[start]
            following = (ours, first + place - start, state)
            if place < len(gathered) and gathered[place] == following:
                continue
            last = first + place - start - 1
            self.connection.send(disposition(self.channel, ours, first, last, state))
            start = place

    def flow(self, handle: int, count: int, credit: int, *, drain: bool = False) -> None:
        """Tell our side of a link."""
        self._tell_flow(handle, count, credit, drain)

    def _tell_flow(
        self,
        handle: int | None = None,
        count: int | None = None,
        credit: int | None = None,
        drain: bool = False,
    ) -> None:
        self.send(
            Flow(
                next_incoming_id=self._next_incoming,
                incoming_window=max(0, self._told - self._received),
                next_outgoing_id=self._next_outgoing,
                outgoing_window=OUTGOING_WINDOW,
                handle=handle,
                delivery_count=None if count is None else count & 0xFFFFFFFF,
                link_credit=credit,
                drain=True if drain else None,
            )
        )

    def excuse(self, outlet: Outlet) -> None:
        """We detach it: what the client says of its deliveries may cross that."""
        self._crossed.update(
            number for number, known in self.unsettled.items() if known[0] is outlet
        )

    def forget(self, outlet: Outlet) -> None:
        """Its deliveries can't be settled by number any more."""
        self.unsettled = {
            number: known for number, known in self.unsettled.items() if known[0] is not outlet
        }
