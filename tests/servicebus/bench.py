"""What the server costs, and whether its memory stays flat: `make bench-servicebus`.

The server is a process of its own. First the SDK works with it, on one connection a step, and both
processes' CPU is counted; then a bare client, which only writes and counts frames, shows what the
server does when the SDK is out of the way, and takes a million messages through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import statistics
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import psutil
from azure.servicebus import ServiceBusMessage, ServiceBusReceiveMode
from azure.servicebus.aio import ServiceBusClient

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import (
    AMQP_HEADER,
    SASL_FRAME,
    SASL_HEADER,
    Attach,
    Begin,
    Flow,
    Open,
    SaslInit,
    Transfer,
    frame,
    read,
)
from tests.servicebus.amqp.types import Described, Symbol, ULong
from tests.servicebus.bus import KEY, KEY_NAME
from tests.servicebus.messages import BATCH

BODY: Final = b"x" * 1_024
LIST: Final = 100
SDK_MESSAGES: Final = 5_000
BARE_MESSAGES: Final = 50_000
MEMORY_MESSAGES: Final = 1_000_000
ROUNDS: Final = 3


def tell(**figures: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


@dataclass(frozen=True, slots=True)
class Server:
    """The server's process, and how to reach it."""

    process: psutil.Process
    connection_string: str
    port: int


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Server]:
    """The server as a user starts it, with one queue."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.servicebus", "--queue", "q"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        line = (await child.stdout.readline()).decode().removeprefix("ready: ").strip()
        port = int(line.partition(";")[0].rpartition(":")[2])
        yield Server(psutil.Process(child.pid), line, port)
    finally:
        child.terminate()
        await child.wait()


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU it has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


async def measured(
    server: Server, count: int, work: Callable[[], Awaitable[None]]
) -> dict[str, float]:
    """Figures of one piece of work, for each of its messages."""
    own, loop = psutil.Process(), asyncio.get_running_loop()
    before, mine, began = cpu(server.process), cpu(own), loop.time()
    await work()
    took = loop.time() - began
    return {
        "messages_per_second": count / took,
        "server_us": (cpu(server.process) - before) / count * 1e6,
        "client_us": (cpu(own) - mine) / count * 1e6,
    }


def medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure over the rounds."""
    return {key: round(statistics.median(one[key] for one in rounds), 1) for key in rounds[0]}


# --- the SDK --------------------------------------------------------------------------------------


async def with_the_sdk(server: Server) -> None:
    """Each step on one connection: sends in lists, receives, and receives that are completed."""
    steps: dict[str, list[dict[str, float]]] = {}
    async with ServiceBusClient.from_connection_string(server.connection_string) as client:
        for _ in range(ROUNDS):
            await _round(server, client, steps)
    for step, rounds in steps.items():
        tell(bench="servicebus", client="azure-servicebus", step=step, **medians(rounds))


async def _round(
    server: Server, client: ServiceBusClient, steps: dict[str, list[dict[str, float]]]
) -> None:
    async with client.get_queue_sender("q") as sender:

        async def send(count: int = SDK_MESSAGES) -> None:
            for _ in range(count // LIST):
                await sender.send_messages([ServiceBusMessage(BODY) for _ in range(LIST)])

        steps.setdefault("send", []).append(await measured(server, SDK_MESSAGES, send))
        async with client.get_queue_receiver(
            "q", receive_mode=ServiceBusReceiveMode.RECEIVE_AND_DELETE, prefetch_count=500
        ) as receiver:

            async def receive() -> None:
                got = 0
                while got < SDK_MESSAGES:
                    got += len(await receiver.receive_messages(LIST))

            steps.setdefault("receive", []).append(await measured(server, SDK_MESSAGES, receive))
        some = SDK_MESSAGES // 2
        await send(some)
        async with client.get_queue_receiver("q") as receiver:

            async def complete() -> None:
                got = 0
                while got < some:
                    for message in await receiver.receive_messages(LIST):
                        await receiver.complete_message(message)
                        got += 1

            figures = await measured(server, some, complete)
            steps.setdefault("receive and complete", []).append(figures)


# --- a bare client --------------------------------------------------------------------------------


class Bare:
    """Writes frames and counts those that come; two links on one connection.

    Args:
        reader: of its socket.
        writer: of its socket.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._sent = 0  # batches
        self._received = 0
        data = encode(Described(ULong(0x75), BODY))
        self._batch = encode(Described(ULong(0x75), data)) * LIST

    @classmethod
    async def connected(cls, port: int) -> Bare:
        """A connection with a sender and a receiver that deletes."""
        made = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 24))
        plain = SaslInit(Symbol("PLAIN"), f"\0{KEY_NAME}\0{KEY}".encode())
        await made._exchange(SASL_HEADER, 8)
        await made._frame()
        made._writer.write(frame(0, plain, kind=SASL_FRAME))
        await made._frame()
        await made._exchange(AMQP_HEADER, 8)
        source, target = Described(ULong(0x28), ["q"]), Described(ULong(0x29), ["q"])
        for each in (
            Open("bare", None, 1 << 20),
            Begin(None, 0, 1 << 30, 1 << 30),
            Attach("out", 0, False, 0, 0, source, target, None, None, 0),
            Attach("in", 1, True, 1, 0, source, target),
        ):
            made._writer.write(frame(0, each))
        for _ in range(5):  # and the flow with the sender's credit
            await made._frame()
        return made

    async def _exchange(self, sent: bytes, size: int) -> None:
        self._writer.write(sent)
        await self._reader.readexactly(size)

    async def _frame(self) -> Any:
        size = await self._reader.readexactly(4)
        rest = await self._reader.readexactly(int.from_bytes(size, "big") - 4)
        body, _ = read(size + rest, rest[0])
        return body

    async def send(self, count: int) -> None:
        """Send batches, each awaited."""
        for _ in range(count // LIST):
            head = Transfer(0, self._sent, self._sent.to_bytes(4, "big"), BATCH, False, True)
            at, most = 0, 60_000
            while len(self._batch) - at > most:
                piece = self._batch[at : at + most]
                self._writer.write(frame(0, head, piece))
                head = Transfer(0, None, None, None, None, True)
                at += most
            self._writer.write(frame(0, head._replace(more=False), self._batch[at:]))
            self._sent += 1
            while type(await self._frame()).__name__ != "Disposition":
                pass

    async def receive(self, count: int) -> None:
        """Receive so many, counted by what their transfers carry; they are gone at once."""
        flow = Flow(None, 1 << 30, 0, 1 << 30, 1, self._received, count)
        self._writer.write(frame(0, flow))
        rest, got = b"", 0
        while got < count:
            rest += await self._reader.read(1 << 20)
            at = 0
            while len(rest) - at >= 4:
                size = int.from_bytes(rest[at : at + 4], "big")
                if len(rest) - at < size:
                    break
                got += rest[at + 10] == 0x14
                at += size
            rest = rest[at:]
        self._received += count


async def bare(server: Server) -> None:
    """What the server does for a client that costs next to nothing."""
    client = await Bare.connected(server.port)
    steps: dict[str, list[dict[str, float]]] = {"send": [], "receive": []}
    for _ in range(ROUNDS):
        for step, work in (("send", client.send), ("receive", client.receive)):
            figures = await measured(server, BARE_MESSAGES, partial(work, BARE_MESSAGES))
            steps[step].append(figures)
    for step, rounds in steps.items():
        tell(bench="servicebus", client="bare", step=step, **medians(rounds))


async def memory(server: Server) -> None:
    """A million messages through a queue: is the last third's resident size the second's?"""
    client = await Bare.connected(server.port)
    sizes = []
    for _ in range(MEMORY_MESSAGES // 5_000):
        await client.send(5_000)
        await client.receive(5_000)
        sizes.append(server.process.memory_info().rss)
    third = len(sizes) // 3
    second, last = statistics.median(sizes[third : 2 * third]), statistics.median(sizes[-third:])
    tell(
        bench="servicebus-memory",
        messages=MEMORY_MESSAGES,
        megabytes=round(last / 1e6, 1),
        ratio=round(last / second, 4),
    )


async def main() -> None:
    """All of it, in a minute or two."""
    async with served() as server:
        await with_the_sdk(server)
    async with served() as server:
        await bare(server)
    async with served() as server:
        await memory(server)


if __name__ == "__main__":
    asyncio.run(main())
