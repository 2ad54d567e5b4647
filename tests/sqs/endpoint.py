"""The project's own SQS endpoint: HTTP in front of the service, with faults on demand."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections import Counter, deque
from functools import partial
from typing import Any

from tests.sqs import clock as clocks
from tests.sqs.answers import Answer, refusal
from tests.sqs.canned import Canned
from tests.sqs.clock import Clock
from tests.sqs.errors import SqsError
from tests.sqs.exchange import Exchange
from tests.sqs.faults import Fault, Faults
from tests.sqs.service import Service
from tests.sqs.signing import Signatures
from tests.sqs.wire import Connection, Request

HOST = "127.0.0.1"
_ARRIVALS = 100_000
"""So many of the latest calls are kept with their times."""


class Endpoint:
    """An SQS for one test or one process; `async with Endpoint() as endpoint`.

    Args:
        port: 0: any that is free.
        tls: a server's context; None: plain HTTP.
        signatures: whose calls are answered; None: anybody's.
        clock: what visibility, delays and windows are measured by. A clock that was moved is
            followed by `look_again`. Long polls and slow replies take real time.
        calendar: what time stamps say.
        canned: the replies to the hot calls, prepared; everything else is served as usual.
        options: of `Service`.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        signatures: Signatures | None = None,
        clock: Clock = clocks.monotonic,
        calendar: Clock = clocks.calendar,
        canned: Canned | None = None,
        **options: Any,
    ) -> None:
        self.port = port
        self.faults = Faults()
        self.denied: set[str] = set()
        """The actions that are answered with AccessDenied."""
        self.calls: Counter[str] = Counter()
        """By action, those that reached it, also those that were refused."""
        self.arrivals: deque[tuple[float, str]] = deque(maxlen=_ARRIVALS)
        """Each call's time, monotonic and real, and its action."""
        self.accepted = 0
        """How many connections were ever made."""
        self.signatures = signatures
        self.service = Service(lambda: self.url, clock=clock, calendar=calendar, **options)
        self._canned = canned.replies if canned else {}
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()
        self._playing: set[asyncio.Task[None]] = set()
        self._called = asyncio.Event()
        self._broken: list[BaseException] = []

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._tls else 'http'}://{HOST}:{self.port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def __aenter__(self) -> Endpoint:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Accept connections; after `down` at the same port, with everything still there."""
        assert self._server is None, "the endpoint is up"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, HOST, self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Accept nothing and cut every connection; long polls end.

        Raises what a fault broke with, other than it was meant to.
        """
        if self._server is None:
            return
        self._server.close()
        for connection in tuple(self._connections):
            connection.abort()
        self.service.close()
        for task in tuple(self._playing):
            task.cancel()
        await asyncio.gather(*self._playing, return_exceptions=True)
        await self._server.wait_closed()
        self._server = None
        if self._broken:
            raise self._broken.pop(0)

    # --- what tests prepare and look at -----------------------------------------------------------

    def create(self, name: str, **attributes: str) -> str:
        """Make a queue, a FIFO one if its name says so; its URL."""
        fifo = {"FifoQueue": "true"} if name.endswith(".fifo") else {}
        made = self.service.create({"QueueName": name, "Attributes": fifo | attributes})
        return str(made["QueueUrl"])

    def arn(self, name: str) -> str:
        """A queue's ARN."""
        return self.service.arn(name)

    def expire(self, name: str) -> int:
        """End the locks of all that is in flight, now; how many there were."""
        queue = self.service.queues[name]
        ended = queue.expire()
        queue.look()
        return ended

    def depth(self, name: str) -> tuple[int, int, int]:
        """How many messages are visible, in flight and delayed."""
        queue = self.service.queues[name]
        queue.return_due()
        return queue.visible, queue.in_flight, queue.delayed

    async def reached(self, action: str, count: int = 1) -> None:
        """Wait until so many calls of an action have come; a long poll waits from then on."""
        while self.calls[action] < count:
            self._called.clear()
            await self._called.wait()

    def look_again(self) -> None:
        """Serve long polls with what the clock, having been moved, has shown."""
        self.service.look_again()

    # --- calls ------------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        self.accepted += 1
        return Connection(self._handle, self._connections)

    def _handle(self, connection: Connection, request: Request) -> None:
        self.calls[request.action] += 1
        self._called.set()
        self.arrivals.append((clocks.monotonic(), request.action))
        canned = self._canned.get(request.action)
        if canned:
            connection.reply(canned())
            return
        asked = partial(_parse, request.body)
        fault = self.faults.take(request.action, asked)
        answer = partial(self._answer, request)
        if fault:
            call = Exchange(asked(), self.service, connection, answer)
            self._play(fault, call)
            return
        now = answer(None)
        if isinstance(now, Answer):
            connection.reply(now.encode())
        else:
            now.add_done_callback(partial(_reply, connection))

    def _answer(
        self, request: Request, asked: dict[str, Any] | None
    ) -> Answer | asyncio.Future[Answer]:
        """Do an operation: with what is asked there, or else what the request says."""
        try:
            self._admit(request)
            result = self.service.call(
                request.action, _parse(request.body) if asked is None else asked
            )
        except SqsError as error:
            return refusal(error)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            # A request of other types than the SDK lets through; or a mistake of ours, and seen.
            return refusal(SqsError("SerializationException", f"{request.action}: {error!r}"))
        return Answer(result) if isinstance(result, dict) else _answered(result)

    def _admit(self, request: Request) -> None:
        if self.signatures:
            self.signatures.check(request)
        if request.action in self.denied:
            raise SqsError(
                "AccessDenied",
                f"The caller is not authorized to perform: sqs:{request.action.lower()}",
                403,
            )

    def _play(self, fault: Fault, call: Exchange) -> None:
        task = asyncio.get_running_loop().create_task(fault.play(call))
        self._playing.add(task)
        task.add_done_callback(self._played)

    def _played(self, task: asyncio.Task[None]) -> None:
        self._playing.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._broken.append(error)


def _parse(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body or b"{}")
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise SqsError("SerializationException", "The body is no JSON object.")
    return parsed


def _answered(result: asyncio.Future[dict[str, Any]]) -> asyncio.Future[Answer]:
    answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

    def tell(done: asyncio.Future[dict[str, Any]]) -> None:
        if answer.done():
            return
        if done.cancelled():
            answer.cancel()
        elif isinstance(error := done.exception(), SqsError):
            answer.set_result(refusal(error))
        elif error:
            answer.set_exception(error)
        else:
            answer.set_result(Answer(done.result()))

    result.add_done_callback(tell)
    return answer


def _reply(connection: Connection, done: asyncio.Future[Answer]) -> None:
    if not done.cancelled():
        connection.reply(done.result().encode())
