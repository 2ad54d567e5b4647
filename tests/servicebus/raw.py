"""A client by hand: each frame is put as a test wants it, and each one that comes back can be read.

It speaks to a connection without a socket, so that a test decides what arrives in one piece, and on
a `ManualClock` when. It keeps no rule by itself: that is what it is for.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import Any, Final, NamedTuple, Self, cast
from urllib.parse import quote

from tests.servicebus.amqp.codec import decode, encode
from tests.servicebus.amqp.frames import (
    AMQP_HEADER,
    SASL_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Close,
    Disposition,
    Flow,
    Open,
    SaslInit,
    Transfer,
    frame,
    read,
)
from tests.servicebus.amqp.types import Described, Symbol, Timestamp, ULong
from tests.servicebus.authority import SAS
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import Clock

PATIENCE: Final = 1_000  # turns of the loop to wait for what no clock holds back
ACCEPTED: Final = Described(ULong(0x24), [])
RELEASED: Final = Described(ULong(0x26), [])
ABANDONED: Final = Described(ULong(0x27), [True, False])
DEFERRED: Final = Described(ULong(0x27), [True, True])
REJECTED: Final = Described(ULong(0x25), [])


class Got(NamedTuple):
    """A frame from the server: when it was written, in which write, and what it is."""

    at: float
    write: int
    channel: int
    body: Any
    payload: bytes


class Recorder:
    """The wire: everything that was written, and how it ended ("closed", "aborted", or "")."""

    def __init__(self, clock: Clock) -> None:
        self.writes: list[tuple[float, bytes]] = []
        self.ended = ""
        self._clock = clock

    def write(self, data: bytes) -> None:
        assert not self.ended, "the server writes to a socket that it has ended"
        self.writes.append((self._clock.now(), data))

    def close(self) -> None:
        self.ended = self.ended or "closed"

    def abort(self) -> None:
        self.ended = "aborted"


class Raw:
    """One connection of a client that is written by hand.

    Args:
        bus: the server; it needs not listen.
    """

    def __init__(self, bus: ServiceBus) -> None:
        self.bus = bus
        self.wire = Recorder(bus.clock)
        self.connection = bus.connected(self.wire)
        self.frames: list[Got] = []  # come, and not taken yet
        self.empty = 0  # frames without a body
        self.headers: list[bytes] = []
        self._rest = b""
        self._written = 0
        self._next = 0  # delivery-id

    @classmethod
    async def ready(cls, bus: ServiceBus, *paths: str) -> Self:
        """One that has opened, begun channel 0, and put a token for each path (or for all)."""
        made = cls(bus)
        await made.shake()
        made.put(Open("by hand"), Begin(None, 0, 5_000, 5_000))
        await made.take(Open)
        await made.take(Begin)
        await made.node("$cbs", 250)
        for path in paths or ("",):
            await made.put_token(path)
        return made

    # --- out ----------------------------------------------------------------------------------

    def arrive(self, data: bytes) -> None:
        """Bytes, as they are, in one piece."""
        self.connection.arrive(data)

    def put(self, *bodies: Any, payload: bytes = b"", channel: int = 0) -> None:
        """Frames in one piece; the payload is each one's."""
        self.arrive(b"".join(frame(channel, body, payload) for body in bodies))

    async def shake(self) -> None:
        """Both headers, and SASL between them."""
        init = frame(0, SaslInit(Symbol("ANONYMOUS")), kind=SASL_FRAME)
        self.arrive(SASL_HEADER + init + AMQP_HEADER)
        await self.read()
        assert self.headers == [SASL_HEADER, AMQP_HEADER]
        self.frames.clear()

    def number(self) -> int:
        """The next delivery-id."""
        self._next += 1
        return self._next - 1

    def transfer(self, handle: int, **fields: Any) -> Transfer:
        """A transfer with the next delivery-id and a tag of its own, but for what is given."""
        if "delivery_id" not in fields:
            fields["delivery_id"] = self.number()
        tag = f"tag {self._next}".encode()
        return Transfer(handle, **{"delivery_tag": tag, "message_format": 0} | fields)

    def send(self, handle: int, payload: bytes, **fields: Any) -> int:
        """Send a message; returns its delivery-id."""
        body = self.transfer(handle, **fields)
        self.put(body, payload=payload)
        return cast("int", body.delivery_id)

    def credit(self, handle: int, credit: int, **fields: Any) -> None:
        """Ask for so many deliveries, counted from the first one."""
        told = {"delivery_count": 0, "link_credit": credit} | fields
        self.put(Flow(1, 5_000, 0, 5_000, handle, **told))

    def settle(self, first: int, state: Any, last: int | None = None, **fields: Any) -> None:
        """Say how deliveries ended."""
        self.put(Disposition(True, first, last, **{"settled": False, "state": state} | fields))

    # --- links --------------------------------------------------------------------------------

    async def sender(self, path: str, handle: int = 0, **fields: Any) -> int:
        """Attach a link to send on, and wait for its credit; returns its handle."""
        self.put(sender(path, handle, **fields))
        await self.take(Attach)
        await self.take(Flow)
        return handle

    async def receiver(self, path: str, handle: int = 1, credit: int = 0, **fields: Any) -> int:
        """Attach a link to receive on; returns its handle."""
        self.put(receiver(path, handle, **fields))
        await self.take(Attach)
        if credit:
            self.credit(handle, credit)
        return handle

    async def node(self, path: str, handle: int) -> int:
        """The pair of links to a node that answers; returns the sender's handle."""
        await self.sender(path, handle)
        await self.receiver(path, handle + 1, 100)
        return handle

    async def put_token(self, path: str, seconds: float = 3_600) -> Any:
        """Put a token that lasts so long, on handle 250; returns the answer's words."""
        clock = self.bus.clock
        now = clock.now() - clock.lead()  # clients sign by the machine's time
        words = {
            "operation": "put-token",
            "type": SAS,
            "name": f"amqp://here/{path}",
            "expiration": Timestamp((now + seconds) * 1000),
        }
        token = signed(self.bus, f"amqp://here/{path}", now + seconds)
        self.send(250, request(words, token))
        return (await self.answer())[0]

    async def ask(self, handle: int, operation: str, body: Any) -> tuple[Any, Any]:
        """A request to `$management`; returns the answer's words and body."""
        self.send(handle, request({"operation": f"com.microsoft:{operation}"}, body))
        return await self.answer()

    async def answer(self) -> tuple[Any, Any]:
        """The words and the body of the next answer."""
        got = await self.take(Transfer)
        await self.take(Disposition)
        found = sections(got.payload)
        return found[0x74], found.get(0x77)

    # --- in -----------------------------------------------------------------------------------

    async def read(self) -> list[Got]:
        """Every frame that has come and was not taken, once the loop has turned."""
        for _ in range(3):
            await asyncio.sleep(0)
        while self._written < len(self.wire.writes):
            at, data = self.wire.writes[self._written]
            self._rest += data
            self._parse(at, self._written)
            self._written += 1
        return self.frames

    def _parse(self, at: float, write: int) -> None:
        while len(self._rest) >= 8:
            if self._rest.startswith(b"AMQP"):
                self.headers.append(self._rest[:8])
                self._rest = self._rest[8:]
                continue
            size = int.from_bytes(self._rest[:4], "big")
            if len(self._rest) < size:
                return
            whole, self._rest = self._rest[:size], self._rest[size:]
            if size == 8:
                self.empty += 1
                continue
            body, payload = read(whole, whole[4])
            channel = int.from_bytes(whole[6:8], "big")
            self.frames.append(Got(at, write, channel, body, payload))

    async def take(self, kind: type[Any]) -> Any:
        """The first frame of the kind that was not taken: its `Got`."""
        for _ in range(PATIENCE):
            for got in await self.read():
                if type(got.body) is kind:
                    self.frames.remove(got)
                    return got
            if self.wire.ended:
                break
        there = [type(got.body).__name__ for got in self.frames]
        raise AssertionError(f"no {kind.__name__} came, but {there}; {self.wire.ended or 'open'}")

    async def all(self, kind: type[Any]) -> list[Got]:
        """The frames of the kind that were not taken."""
        found = [got for got in await self.read() if type(got.body) is kind]
        self.frames = [got for got in self.frames if got not in found]
        return found

    async def quiet(self, *kinds: type[Any]) -> bool:
        """Whether nothing has come (of these kinds, if any are given) that was not taken."""
        return not [got for got in await self.read() if not kinds or type(got.body) in kinds]

    async def goes_on(self) -> bool:
        """Whether the connection still answers: a session more is begun, and ended."""
        self.put(Begin(None, 0, 10, 10), channel=77)
        came = [got for got in await self.all(Begin) if got.channel == 77]
        return len(came) == 1 and not self.wire.ended

    async def closed_with(self) -> str:
        """The condition with which the server has closed, after which it ended the socket."""
        got = await self.take(Close)
        assert self.wire.ended == "closed"
        return condition(got.body.error)


def condition(error: Any) -> str:
    """The condition of an error; "" without one."""
    return str(error.value[0]) if isinstance(error, Described) else ""


def refused(state: Any) -> str:
    """The condition in a rejected outcome; "" for any other."""
    rejected = isinstance(state, Described) and state.descriptor == 0x25 and state.value
    return condition(state.value[0]) if rejected else ""


def sender(path: str, handle: int = 0, **fields: Any) -> Attach:
    """An attach to send, as clients have it but for what is given."""
    told = {
        "name": f"sender {handle}",
        "role": False,
        "snd_settle_mode": 0,
        "source": Described(ULong(0x28), ["here"]),
        "target": Described(ULong(0x29), [path]),
        "initial_delivery_count": 0,
    }
    return Attach(handle=handle, **told | fields)


def receiver(path: str, handle: int = 1, session: Any = ..., **fields: Any) -> Attach:
    """An attach to receive, from a session when one is given (None is the next one)."""
    source: list[Any] = [path]
    if session is not ...:
        source += [None] * 6 + [{Symbol("com.microsoft:session-filter"): session}]
    told = {
        "name": f"receiver {handle}",
        "role": True,
        "snd_settle_mode": 0,
        "rcv_settle_mode": 1,
        "source": Described(ULong(0x28), source),
        "target": Described(ULong(0x29), [f"answers {handle}"]),
    }
    return Attach(handle=handle, **told | fields)


def message(body: bytes = b"hello", session: str | None = None) -> bytes:
    """A message with a body of data."""
    fields = [None] * 10 + [session] if session is not None else []
    return encode(Described(ULong(0x73), fields)) + encode(Described(ULong(0x75), body))


def request(words: dict[str, Any], body: Any, message_id: Any = "request") -> bytes:
    """A request to a node."""
    parts = ((0x73, [message_id]), (0x74, words), (0x77, body))
    return b"".join(encode(Described(ULong(code), value)) for code, value in parts)


def sections(payload: bytes) -> dict[int, Any]:
    """A message's sections by their numbers, decoded."""
    found: dict[int, Any] = {}
    at = 0
    while at < len(payload):
        section, at = decode(payload, at)
        found[int(section.descriptor)] = section.value
    return found


def signed(bus: ServiceBus, resource: str, until: float) -> str:
    """A shared access signature by the server's first key."""
    name, key = next(iter(bus.keys.items()))
    quoted, end = quote(resource, safe=""), str(int(until))
    made = hmac.new(key.encode(), f"{quoted}\n{end}".encode(), hashlib.sha256).digest()
    signature = quote(base64.b64encode(made).decode(), safe="")
    return f"SharedAccessSignature sr={quoted}&sig={signature}&se={end}&skn={quote(name)}"
