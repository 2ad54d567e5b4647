"""HTTP/1.1 with keep-alive: requests out of a connection's bytes, one at a time, and replies."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

_REASONS = {200: "OK", 400: "Bad Request", 403: "Forbidden", 500: "Internal Server Error"}
_TARGET = b"AmazonSQS."
_MOST = 4 * 1_048_576
"""Bytes of a request: a batch of 1 MiB in JSON, every character of it escaped, is less."""
_requests = count(1)


@dataclass(slots=True)
class Request:
    """One call as it came.

    Args:
        action: without the prefix of the target.
        head: the request line and the headers, each with its line end.
        body: JSON.
    """

    action: str
    head: bytes
    body: bytes

    def headers(self) -> dict[str, str]:
        """By name in lower case."""
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        pairs = (line.partition(":") for line in lines if line)
        return {name.lower(): value.strip() for name, _, value in pairs}


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        handle: answers a request with `reply`, at once or later; the next one waits until then.
        known: the connections that are open, among which it is while it is.
    """

    def __init__(
        self, handle: Callable[[Connection, Request], None], known: set[Connection]
    ) -> None:
        self._handle = handle
        self._known = known
        self._transport: Any = None
        self._buffer = bytearray()
        self._head = b""
        self._length = 0
        self._action = ""
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._known.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._known.discard(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def reply(self, data: bytes) -> None:
        """Answer the request in hand, and go on with the next one."""
        self.write(data)
        self._busy = False
        if self._buffer:
            self._next()

    def write(self, data: bytes) -> None:
        """Write, if anybody is still there."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close in good order."""
        self._transport.close()

    def abort(self) -> None:
        """Close with a reset."""
        sock: socket.socket | None = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            # Zero seconds of lingering: the kernel sends RST in place of FIN.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _next(self) -> None:
        while not self._busy and self._has_head() and len(self._buffer) >= self._length:
            request = Request(self._action, self._head, bytes(self._buffer[: self._length]))
            del self._buffer[: self._length]
            self._head = b""
            self._busy = True
            self._handle(self, request)

    def _has_head(self) -> bool:
        if self._head:
            return True
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[: end + 2])
        del self._buffer[: end + 4]
        small = head.lower()
        length = _field(head, small, b"content-length")
        self._action = _field(head, small, b"x-amz-target").removeprefix(_TARGET).decode("latin-1")
        self._length = int(length) if length.isdigit() else 0
        if self._length > _MOST:
            self.close()
            return False
        self._head = head
        return True


def _field(head: bytes, small: bytes, name: bytes) -> bytes:
    """A header's value; the head is searched in lower case and read as it came."""
    at = small.find(b"\r\n" + name + b":")
    if at < 0:
        return b""
    start = at + len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip()


def reply(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> bytes:
    """A reply's bytes."""
    more = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\n"
        f"x-amzn-RequestId: 00000000-0000-4000-8000-{next(_requests):012x}\r\n"
        f"Content-Type: application/x-amz-json-1.0\r\n{more}"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode("latin-1") + body
