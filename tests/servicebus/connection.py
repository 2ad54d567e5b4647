"""One connection: headers, SASL, open and close, and frames to their channels.

It knows no socket: bytes come in by `arrive`, and leave through a `Wire`.
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.servicebus import outcomes
from tests.servicebus.amqp.codec import DecodeError
from tests.servicebus.amqp.frames import (
    AMQP_FRAME,
    AMQP_HEADER,
    SASL_FRAME,
    SASL_HEADER,
    Begin,
    Close,
    End,
    Open,
    SaslInit,
    SaslMechanisms,
    SaslOutcome,
    frame,
    read,
)
from tests.servicebus.amqp.types import Array, Symbol
from tests.servicebus.authority import Claims
from tests.servicebus.channel import Channel
from tests.servicebus.entities.clock import Timer
from tests.servicebus.entities.errors import Refused
from tests.servicebus.late import Late
from tests.servicebus.limits import CBS, CHANNEL_MAX, MAX_FRAME
from tests.servicebus.silence import Silence
from tests.servicebus.strict import Rule

if TYPE_CHECKING:
    from tests.servicebus.bus import ServiceBus

_LEAST_FRAME: Final = 512  # what the text lets every peer send
_HEAD: Final = struct.Struct(">IBBH")
_MECHANISMS: Final = ("MSSBCBS", "PLAIN", "ANONYMOUS", "EXTERNAL")
_MISFRAMED: Final = "amqp:connection:framing-error"


class _FrameError(Exception):
    """A frame's head says what no frame can be, so that nobody knows where the next one starts."""


class Wire(Protocol):
    """The socket below a connection."""

    def write(self, data: bytes) -> None:
        """Send bytes."""

    def close(self) -> None:
        """End it when what was written has left."""

    def abort(self) -> None:
        """End it now."""


class Connection:
    """One client's connection.

    Args:
        bus: the server.
        wire: the socket.
        number: tells connections apart in what was noted.
    """

    def __init__(self, bus: ServiceBus, wire: Wire, number: int) -> None:
        self.bus = bus
        self.number = number
        self.claims = Claims()
        self.channels: dict[int, Channel] = {}
        self.frame_limit = _LEAST_FRAME
        self.choked = False  # the socket takes no more for now
        self.container = ""
        self._wire = wire
        self._rest = b""
        self._read: Callable[[], bool] = self._header
        self._framed = False  # AMQP's header was exchanged
        self._opened = self._closed = self._over = False
        self._ended: set[int] = set()
        # What comes and what leaves, and when.
        self._incoming = Late(bus.clock, self._take)
        self._outgoing = Late(bus.clock, self._write)
        self._out: list[bytes] = []
        self._flushing = False
        self._silence = Silence(self)
        self._tokens: list[Timer] = []  # each ends a token

    # --- bytes in -----------------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        """Bytes came; they are read now, or after the latency that was asked for."""
        self._incoming.put(data, self.bus.faults.shape.to_server)

    def _take(self, data: bytes) -> None:
        if self._over:
            return
        self._silence.heard()
        self._rest = self._rest + data if self._rest else data
        try:
            self._read_all()
        except DecodeError as error:
            self.note(Rule.DECODABLE, str(error))
            self.close(Refused("amqp:decode-error", str(error)))
            self._read = self._deaf  # also when the client had closed before
        except _FrameError as error:
            self.close(Refused(_MISFRAMED, str(error)))
            self._read = self._deaf

    def _read_all(self) -> None:
        while not self._over and self._read():
            pass

    def _deaf(self) -> bool:
        """It is over from our side: what still comes is dropped unread."""
        self._rest = b""
        return False

    def _header(self) -> bool:
        """The protocol's header: SASL's first, then AMQP's."""
        if len(self._rest) < len(AMQP_HEADER):
            return False
        header, self._rest = self._rest[:8], self._rest[8:]
        wanted = AMQP_HEADER if self.claims.identified else SASL_HEADER
        if header != wanted:
            self.note(Rule.HEADER, f"{header!r} where {wanted!r} was expected")
            self._depart(wanted)
            self._end()
            return False
        self._depart(wanted)
        self._framed = wanted is AMQP_HEADER
        if not self._framed:
            offered = Array([Symbol(name) for name in _MECHANISMS])
            self._depart(frame(0, SaslMechanisms(offered), kind=SASL_FRAME))
        self._read = self._frames
        return True

    def _frames(self) -> bool:
        """Every frame that is here whole."""
        data, at, end = self._rest, 0, len(self._rest)
        reading = self._read
        try:
            while end - at >= _HEAD.size and not self._over:
                size, doff, kind, channel = _HEAD.unpack_from(data, at)
                self._check_head(size, doff)
                if end - at < size:
                    break
                whole = data[at : at + size]
                at += size
                if size > doff * 4:
                    if kind != (AMQP_FRAME if self._framed else SASL_FRAME):
                        self._wrong_kind(kind)
                    body, payload = read(whole, doff)
                    if self._framed:
                        self._amqp(channel, body, payload)
                    else:
                        self._sasl(body)
                    if self._read != reading:
                        return True
        finally:
            self._rest = data[at:]
        return False

    def _check_head(self, size: int, doff: int) -> None:
        if size > MAX_FRAME:
            self.note(Rule.FRAME_SIZE, f"{size} bytes")
            raise _FrameError(f"a frame of {size} bytes, and {MAX_FRAME} is the most")
        if doff < 2 or doff * 4 > size:
            self.note(Rule.DATA_OFFSET, f"data offset {doff} in {size} bytes")
            raise _FrameError(f"a frame of {size} bytes with the data offset {doff}")

    def _wrong_kind(self, kind: int) -> None:
        if not self._framed:
            self.note(Rule.SASL_INIT, f"a frame of type {kind} before the end of SASL")
            raise _FrameError(f"a frame of type {kind} before the end of SASL")
        raise DecodeError(f"a frame of type {kind}, where AMQP's is {AMQP_FRAME}")

    # --- frames in ----------------------------------------------------------------------------

    def _sasl(self, body: Any) -> None:
        if not isinstance(body, SaslInit) or body.mechanism not in _MECHANISMS:
            self.note(Rule.SASL_INIT, f"{body}")
            self._depart(frame(0, SaslOutcome(1), kind=SASL_FRAME))
            self._end()
            return
        known = self.bus.authority.identify(self.claims, body.mechanism, body.initial_response)
        self._depart(frame(0, SaslOutcome(0 if known else 1), kind=SASL_FRAME))
        if known:
            self._read = self._header
        else:
            self._end()

    def _amqp(self, number: int, body: Any, payload: bytes) -> None:
        kind = type(body)
        if self._closed:
            self.note(Rule.AFTER_CLOSE, f"{kind.__name__} on channel {number}")
        elif kind is Open:
            self._open(number, body)
        elif not self._opened:
            self.note(Rule.OPEN_FIRST, f"{kind.__name__} before open")
            self.close(Refused("amqp:not-allowed", "the first frame is no open"))
        elif kind is Close:
            self._closed = True
            self.send(frame(0, Close()))
            self._end()
            self._read = self._frames  # nothing should follow: to see whether something does
        elif kind is Begin:
            self._begin(number, body)
        else:
            self._on_channel(number, body, payload)

    def _on_channel(self, number: int, body: Any, payload: bytes) -> None:
        channel = self.channels.get(number)
        if channel is None:
            after = "after its end" if number in self._ended else "never begun"
            self.note(Rule.UNMAPPED, f"{type(body).__name__} on channel {number}, {after}")
        elif type(body) is End:
            del self.channels[number]
            self._ended.add(number)
            channel.end()
        else:
            channel.take(body, payload)

    def _open(self, number: int, body: Open) -> None:
        if self._opened or number:
            self.note(Rule.OPEN_FIRST, f"open on channel {number}, opened: {self._opened}")
        if self._opened:
            return
        if not isinstance(body.container_id, str):
            self.note(Rule.CONTAINER_ID, f"container-id {body.container_id!r}")
        self.container = str(body.container_id)

        def apply() -> Open:
            self._opened = True
            limit = body.max_frame_size or MAX_FRAME
            self.frame_limit = max(_LEAST_FRAME, min(limit, MAX_FRAME))
            if body.idle_time_out:
                self._silence.borne(body.idle_time_out / 1000)
            return self._our_open()

        def answer(outcome: Open | Refused) -> None:
            if isinstance(outcome, Refused):
                self.close(outcome)
            else:
                self.send(frame(0, outcome))

        self.bus.faults.perform("open", "", self, apply, answer)

    def _our_open(self) -> Open:
        borne = self.bus.limits.idle_timeout
        idle = None if math.isinf(borne) else int(borne * 1000)
        return Open("servicebus", None, MAX_FRAME, CHANNEL_MAX, idle)

    def _begin(self, number: int, body: Begin) -> None:
        if number > CHANNEL_MAX:
            self.note(Rule.CHANNEL_MAX, f"channel {number}")
            self.close(Refused(_MISFRAMED, f"channel {number}: {CHANNEL_MAX} is the most"))
            return
        before = self.channels.get(number)
        if before is not None:
            self.note(Rule.CHANNEL_IN_USE, f"channel {number}")
            before.ended(broken=False)
        self._ended.discard(number)
        self.channels[number] = Channel(self, number, body)

    def note(self, rule: Rule, detail: str) -> None:
        """The client broke a rule."""
        self.bus.violations.note(rule, detail, self.number)

    # --- bytes out ----------------------------------------------------------------------------

    def send(self, encoded: bytes) -> None:
        """Send a frame, with what else is sent before the loop turns."""
        if self._over:
            return
        self._out.append(encoded)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def send_alone(self, encoded: bytes, pause: float) -> None:
        """Send a frame in a write of its own; what comes next is that much later."""
        self.flush()
        self._depart(encoded)
        self._outgoing.pause(pause)

    def send_together(self, encoded: bytes, gather: float) -> None:
        """Send a frame with what else is sent in that time."""
        self._out.append(encoded)
        if not self._flushing:
            self._flushing = True
            self.bus.clock.at(self.bus.clock.now() + gather, self.flush)

    def when_sent(self, call: Callable[[], None]) -> None:
        """Call once what was sent up to now has left: a client can't have known it before."""
        asyncio.get_running_loop().call_soon(call)

    def flush(self) -> None:
        """Write what is waiting to be sent."""
        self._flushing = False
        if self._out and not self._over:
            data = b"".join(self._out)
            self._out.clear()
            self._depart(data)

    def _depart(self, data: bytes) -> None:
        self._outgoing.put(data, self.bus.faults.shape.to_client)

    def _write(self, data: bytes) -> None:
        if self._over:
            return
        self._silence.spoke()
        most = self.bus.faults.shape.write_bytes
        if most is None:
            self._wire.write(data)
            return
        for at in range(0, len(data), most):
            self._wire.write(data[at : at + most])

    def writable(self, yes: bool) -> None:
        """The socket is full, or has room again."""
        self.choked = not yes
        if yes:
            for channel in tuple(self.channels.values()):
                for link in tuple(channel.links.values()):
                    link.ready()

    # --- the end ------------------------------------------------------------------------------

    def close(self, refusal: Refused) -> None:
        """End the connection from our side, with an error."""
        if self._over or self._closed:
            return
        self._closed = True
        if self._framed:
            if not self._opened:
                self.send(frame(0, self._our_open()))
            self.send(frame(0, Close(outcomes.error(refusal))))
        self._end()

    def drop(self) -> None:
        """End TCP now; what was not written is not sent."""
        self._out.clear()
        self._wire.abort()
        self.lost(broken=True)

    def lost(self, *, broken: bool) -> None:
        """The socket is gone."""
        if self._over:
            return
        self._over = True
        self._silence.over()
        for timer in self._tokens:
            timer.cancel()
        for channel in tuple(self.channels.values()):
            channel.ended(broken=broken)
        self.channels.clear()
        self.bus.forget(self)

    def _end(self) -> None:
        """Nothing more is done; what is still to be sent goes first."""
        for channel in tuple(self.channels.values()):
            channel.ended(broken=False)
        self.channels.clear()
        self._read = self._deaf
        self._silence.over()
        self.flush()
        self._outgoing.afterwards(self._wire.close)

    def authorized_until(self, end: float) -> None:
        """A token was put that ends then: links that no other covers will be detached."""
        self._tokens = [timer for timer in self._tokens if timer.when > self.bus.clock.now()]
        self._tokens.append(self.bus.clock.at(end, self._unauthorize))

    def _unauthorize(self) -> None:
        now = self.bus.clock.now()
        for channel in tuple(self.channels.values()):
            for link in tuple(channel.links.values()):
                covered = link.path == CBS or self.claims.cover(link.path, now)
                if not covered and not link.closing:
                    text = "The token has expired: put a new one."
                    link.detach(Refused("amqp:unauthorized-access", text))
