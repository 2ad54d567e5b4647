"""Frames and performatives: from bytes to tuples with names, and back.

It knows the shapes of AMQP 1.0 (part 2, transport, and part 5, SASL), not what they mean to a
connection. Fields keep AMQP's names and order; those left out at the end are None.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from tests.servicebus.amqp.codec import DecodeError, decode, encode
from tests.servicebus.amqp.types import Described, Symbol, UByte, UInt, ULong, UShort

AMQP_HEADER: Final = b"AMQP\x00\x01\x00\x00"
SASL_HEADER: Final = b"AMQP\x03\x01\x00\x00"
EMPTY: Final = b"\x00\x00\x00\x08\x02\x00\x00\x00"
AMQP_FRAME: Final = 0
SASL_FRAME: Final = 1


class Open(NamedTuple):
    container_id: Any = None
    hostname: Any = None
    max_frame_size: Any = None
    channel_max: Any = None
    idle_time_out: Any = None
    outgoing_locales: Any = None
    incoming_locales: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


class Begin(NamedTuple):
    remote_channel: Any = None
    next_outgoing_id: Any = None
    incoming_window: Any = None
    outgoing_window: Any = None
    handle_max: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


class Attach(NamedTuple):
    name: Any = None
    handle: Any = None
    role: Any = None
    snd_settle_mode: Any = None
    rcv_settle_mode: Any = None
    source: Any = None
    target: Any = None
    unsettled: Any = None
    incomplete_unsettled: Any = None
    initial_delivery_count: Any = None
    max_message_size: Any = None
    offered_capabilities: Any = None
    desired_capabilities: Any = None
    properties: Any = None


class Flow(NamedTuple):
    next_incoming_id: Any = None
    incoming_window: Any = None
    next_outgoing_id: Any = None
    outgoing_window: Any = None
    handle: Any = None
    delivery_count: Any = None
    link_credit: Any = None
    available: Any = None
    drain: Any = None
    echo: Any = None
    properties: Any = None


class Transfer(NamedTuple):
    handle: Any = None
    delivery_id: Any = None
    delivery_tag: Any = None
    message_format: Any = None
    settled: Any = None
    more: Any = None
    rcv_settle_mode: Any = None
    state: Any = None
    resume: Any = None
    aborted: Any = None
    batchable: Any = None


class Disposition(NamedTuple):
    role: Any = None
    first: Any = None
    last: Any = None
    settled: Any = None
    state: Any = None
    batchable: Any = None


class Detach(NamedTuple):
    handle: Any = None
    closed: Any = None
    error: Any = None


class End(NamedTuple):
    error: Any = None


class Close(NamedTuple):
    error: Any = None


class SaslMechanisms(NamedTuple):
    mechanisms: Any = None


class SaslInit(NamedTuple):
    mechanism: Any = None
    initial_response: Any = None
    hostname: Any = None


class SaslOutcome(NamedTuple):
    code: Any = None
    additional_data: Any = None


Performative = (
    Open | Begin | Attach | Flow | Transfer | Disposition | Detach | End | Close
)  # of a connection; SASL's are told apart by the frame's type

_KINDS: Final[dict[int, type[Any]]] = {
    0x10: Open,
    0x11: Begin,
    0x12: Attach,
    0x13: Flow,
    0x14: Transfer,
    0x15: Disposition,
    0x16: Detach,
    0x17: End,
    0x18: Close,
    0x40: SaslMechanisms,
    0x41: SaslInit,
    0x44: SaslOutcome,
}
_CODES: Final = {kind: code for code, kind in _KINDS.items()}
_NAMES: Final = {
    "amqp:open:list": Open,
    "amqp:begin:list": Begin,
    "amqp:attach:list": Attach,
    "amqp:flow:list": Flow,
    "amqp:transfer:list": Transfer,
    "amqp:disposition:list": Disposition,
    "amqp:detach:list": Detach,
    "amqp:end:list": End,
    "amqp:close:list": Close,
}

# What an integer of ours is on the wire; everything else says so by its own type.
_TYPES: Final[dict[type[Any], dict[str, type[int]]]] = {
    Open: {"max_frame_size": UInt, "channel_max": UShort, "idle_time_out": UInt},
    Begin: dict.fromkeys(
        ("next_outgoing_id", "incoming_window", "outgoing_window", "handle_max"), UInt
    )
    | {"remote_channel": UShort},
    Attach: {
        "handle": UInt,
        "snd_settle_mode": UByte,
        "rcv_settle_mode": UByte,
        "initial_delivery_count": UInt,
        "max_message_size": ULong,
    },
    Flow: dict.fromkeys(Flow._fields[:8], UInt),
    Transfer: {
        "handle": UInt,
        "delivery_id": UInt,
        "message_format": UInt,
        "rcv_settle_mode": UByte,
    },
    Disposition: {"first": UInt, "last": UInt},
    Detach: {"handle": UInt},
    SaslOutcome: {"code": UByte},
}
_BY_PLACE: Final = {
    kind: tuple(_TYPES.get(kind, {}).get(field) for field in kind._fields)
    for kind in _KINDS.values()
}

# What the fields may be, in their order; whatever is not named here may be anything.
_FIELDS: Final[dict[type[Any], tuple[Any, ...]]] = {
    Open: (str, str, int, int, int),
    Begin: (int, int, int, int, int),
    Attach: (str, int, bool, int, int, Described, Described, dict, bool, int, int),
    Flow: (int, int, int, int, int, int, int, int, bool, bool),
    Transfer: (int, int, bytes, int, bool, bool, int, Described, bool, bool, bool),
    Disposition: (bool, int, int, bool, Described, bool),
    Detach: (int, bool, Described),
    SaslInit: (str, bytes, str),
}

_HEAD: Final = struct.Struct(">IBBH")


def frame(channel: int, body: Any, payload: bytes = b"", kind: int = AMQP_FRAME) -> bytes:
    """One frame: its header, the performative, and for a transfer its payload."""
    values = [
        value if made is None or value is None else made(value)
        for value, made in zip(body, _BY_PLACE[type(body)], strict=True)
    ]
    while values and values[-1] is None:
        values.pop()
    encoded = encode(Described(ULong(_CODES[type(body)]), values))
    return b"".join(
        (_HEAD.pack(8 + len(encoded) + len(payload), 2, kind, channel), encoded, payload)
    )


def read(data: bytes, doff: int) -> tuple[Any, bytes]:
    """The performative of one whole frame, and what follows it.

    Raises:
        DecodeError: it is none.
    """
    at = doff * 4
    if data[at : at + 2] == b"\x00\x53":
        descriptor: Any = data[at + 2] if at + 2 < len(data) else None
        fields, after = decode(data, at + 3)
        kind = _KINDS.get(descriptor)
    else:
        described, after = decode(data, at)
        if not isinstance(described, Described):
            raise DecodeError("a frame's body is no performative")
        descriptor, fields = described.descriptor, described.value
        if isinstance(descriptor, Symbol):
            kind = _NAMES.get(descriptor)
        else:
            kind = _KINDS.get(descriptor) if isinstance(descriptor, int) else None
    if kind is None or not isinstance(fields, list):
        raise DecodeError(f"{descriptor!r} is no performative")
    if len(fields) > len(kind._fields):
        raise DecodeError(f"{kind.__name__} has no {len(fields)} fields")
    for place, (value, wanted) in enumerate(zip(fields, _FIELDS.get(kind, ()), strict=False)):
        if value is not None and not isinstance(value, wanted):
            name = kind._fields[place]
            raise DecodeError(f"{name} of {kind.__name__} is {value!r}, no {wanted.__name__}")
    return kind(*fields), data[after:]


# --- the two frames there are many of -------------------------------------------------------------
# Each is a list with one byte for its size; the packed layouts name every constructor.

_TRANSFER: Final = struct.Struct(">IBBH 3sBBB BI BI BB16s BBB")
_DISPOSITION: Final = struct.Struct(">IBBH 3sBBB B BI BI B")
_BEFORE_LIST: Final = 13  # bytes of a frame before what the list's size counts
_UINT, _BINARY, _UINT_0, _TRUE, _FALSE = 0x70, 0xA0, 0x43, 0x41, 0x42


def transfer(
    channel: int, handle: int, number: int, tag: bytes, settled: bool, more: bool, payload: bytes
) -> bytes:
    """A transfer from us: its tag is 16 bytes long, its message format 0."""
    size = _TRANSFER.size
    done = _TRUE if settled else _FALSE
    goes_on = _TRUE if more else _FALSE
    # fmt: off
    head = _TRANSFER.pack(
        size + len(payload), 2, AMQP_FRAME, channel,
        b"\x00\x53\x14", 0xC0, size - _BEFORE_LIST, 6,
        _UINT, handle, _UINT, number, _BINARY, 16, tag, _UINT_0, done, goes_on,
    )
    # fmt: on
    return head + payload


def disposition(channel: int, ours: bool, first: int, last: int, state: bytes) -> bytes:
    """Deliveries `first` to `last` are settled.

    Args:
        channel: of the connection.
        ours: we sent them; else we received them.
        first: the first one's number.
        last: the last one's.
        state: the outcome, encoded.
    """
    size = _DISPOSITION.size + len(state)
    if size - _BEFORE_LIST > 255:  # a long description
        outcome, _ = decode(state, 0)
        return frame(channel, Disposition(not ours, first, last, True, outcome))
    # fmt: off
    head = _DISPOSITION.pack(
        size, 2, AMQP_FRAME, channel,
        b"\x00\x53\x15", 0xC0, size - _BEFORE_LIST, 5,
        _FALSE if ours else _TRUE, _UINT, first, _UINT, last, _TRUE,
    )
    # fmt: on
    return head + state
