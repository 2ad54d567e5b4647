"""Sockets: TCP, TLS and WebSockets, each a `Wire` below a connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, cast

from aiohttp import WSMsgType, web

from tests.servicebus.connection import Connection, Wire

HOST: Final = "127.0.0.1"
_WEBSOCKET: Final = ("AMQPWSB10", "amqp")  # the subprotocols of clients
_FULL: Final = 1 << 20  # bytes that wait in a socket before deliveries stop

Connected = Callable[[Wire], Connection]


@dataclass(frozen=True, slots=True)
class Listener:
    """Something that listens."""

    port: int
    close: Callable[[], Awaitable[None]]


class _Tcp(asyncio.Protocol):
    """A connection over TCP or TLS."""

    def __init__(self, connected: Connected) -> None:
        self._connected = connected
        self._connection: Connection | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_FULL)
        self._connection = self._connected(self._transport)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.arrive(data)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable(False)

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.lost(broken=True)


async def listen(connected: Connected, port: int, tls: ssl.SSLContext | None) -> Listener:
    """Listen on 127.0.0.1; port 0 is a free one."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Tcp(connected), HOST, port, ssl=tls)

    async def close() -> None:
        server.close()

    return Listener(server.sockets[0].getsockname()[1], close)


class _WebSocket:
    """What a connection writes goes into messages of a WebSocket, in order."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._out: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._send())

    def write(self, data: bytes) -> None:
        self._out.put_nowait(data)

    def close(self) -> None:
        self._out.put_nowait(None)

    def abort(self) -> None:
        self._task.cancel()
        transport = self._socket._req.transport if self._socket._req else None
        if transport is not None:
            transport.abort()

    async def _send(self) -> None:
        try:
            while (data := await self._out.get()) is not None:
                await self._socket.send_bytes(data)
        except ConnectionError:
            return  # the reader sees the same, and ends the connection
        await self._socket.close()


async def listen_websocket(connected: Connected, port: int, tls: ssl.SSLContext | None) -> Listener:
    """Listen on 127.0.0.1 for WebSockets that carry AMQP."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=_WEBSOCKET, max_msg_size=0)
        await socket.prepare(request)
        wire = _WebSocket(socket)
        connection = connected(wire)
        try:
            async for message in socket:
                if message.type is WSMsgType.BINARY:
                    connection.arrive(message.data)
        finally:
            connection.lost(broken=True)
            wire.close()
        return socket

    app = web.Application()
    app.router.add_get("/$servicebus/websocket", handle)
    app.router.add_get("/$servicebus/websocket/", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, HOST, port, ssl_context=tls)
    await site.start()
    listening: int = runner.addresses[0][1]
    return Listener(listening, runner.cleanup)
