"""The Service Bus of `azure`, in a process of its own, which fills its queues itself.

`python -m tests.benchmarks.bus` is told what to do by lines on its standard input, answers each
with one on its standard output, and ends with the input:

* `delay SECONDS`: how long what is sent takes, each way
* `queue NAME SESSIONS`: a new one; 0: without sessions
* `add NAME COUNT`: so many messages, of each session in turn
* `keep NAME LEVEL`: as many as are lacking, now and whenever some are; 0 ends it
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.types import Described, ULong
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.stored import Stored

SIZE: Final = 1_024
"""Bytes of a body."""
_PAUSE: Final = 0.05
_ROOT: Final = Path(__file__).parents[2]
_BODY: Final = encode(Described(ULong(0x75), b"x" * SIZE))


class Filled:
    """A queue and what is put into it."""

    def __init__(self, queue: Queue, sessions: int) -> None:
        self._queue = queue
        self._sessions = sessions
        self._count = 0
        self._level = 0
        self._keeping: asyncio.Task[None] | None = None

    def add(self, count: int) -> None:
        """So many messages, with an id, and of a session where there are sessions."""
        self._queue.send([self._message(at) for at in range(self._count, self._count + count)])
        self._count += count

    def _message(self, at: int) -> Stored:
        session = f"s{at % self._sessions}" if self._sessions else None
        fields = [f"m{at}", None, None, None, None, None, None, None, None, None, session]
        bare = encode(Described(ULong(0x73), fields)) + _BODY
        return Stored(bare, message_id=f"m{at}", session_id=session)

    def keep(self, level: int) -> None:
        """Have so many from now on."""
        self._level = level
        self._top_up()
        if self._keeping is None:
            self._keeping = asyncio.ensure_future(self._keep())

    def _top_up(self) -> None:
        lacking = self._level - self._queue.counts().active
        if lacking > 0:
            self.add(lacking)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE)
            self._top_up()


def obey(bus: ServiceBus, queues: dict[str, Filled], command: str, *words: str) -> None:
    """Do what one line says."""
    match command, words:
        case "delay", (seconds,):
            bus.faults.shape.to_client = bus.faults.shape.to_server = float(seconds)
        case "queue", (name, sessions):
            made = bus.queue(name, sessions=sessions != "0", max_delivery_count=100)
            queues[name] = Filled(made, int(sessions))
        case "add", (name, count):
            queues[name].add(int(count))
        case "keep", (name, level):
            queues[name].keep(int(level))
        case _:
            raise ValueError(f"{command} {words} is no command")


async def main() -> None:
    """Serve until the input ends."""
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    queues: dict[str, Filled] = {}
    async with ServiceBus() as bus:
        sys.stdout.write(f"{bus.connection_string}\n")
        sys.stdout.flush()
        async for line in lines:
            obey(bus, queues, *line.decode().split())
            sys.stdout.write("done\n")
            sys.stdout.flush()


class Bus:
    """That process, from here.

    Args:
        process: its pipes.
        connection_string: for clients.
    """

    def __init__(self, process: asyncio.subprocess.Process, connection_string: str) -> None:
        self._process = process
        self.connection_string = connection_string
        self._made = 0

    async def tell(self, *words: object) -> None:
        """One command, done when this returns."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{' '.join(map(str, words))}\n".encode())
        answer = await self._process.stdout.readline()
        assert answer == b"done\n", f"{words}: the server has ended"

    async def new_queue(self, sessions: int) -> str:
        """The name of a queue that nobody has used."""
        self._made += 1
        name = f"bench-{self._made}"
        await self.tell("queue", name, sessions)
        return name


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[Bus]:
    """A server, gone afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.bus"),
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Bus(process, (await process.stdout.readline()).decode().strip())
    finally:
        process.stdin.close()
        await process.wait()


if __name__ == "__main__":
    asyncio.run(main())
