"""`run`: a handler, some messages, and what came of them; without Ray, and without waiting."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from pipeline.clock import SeededClock, SystemClock
from pipeline.config import MemoryQueue
from pipeline.errors import QueueError
from pipeline.handlers.api import Handler
from pipeline.message import Delivery, Message
from pipeline.names import QueueName, SessionId
from pipeline.providers.port import UNBOUNDED, Sent, Want
from pipeline.retry import RetryPolicy
from pipeline.testing.flow import Flow, FlowSettings
from pipeline.testing.virtual_loop import VirtualLoop


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message that the handler sent.

    Args:
        queue: where to.
        message: what, with the id the runtime derived for it.

    Example:
        >>> SentMessage(QueueName("audit"), Message(b"x")).queue
        QueueName('audit')
    """

    queue: QueueName
    message: Message


@dataclass(slots=True)
class Result:
    """What came of a run.

    Args:
        completed: how many messages were handled.
        dead_letters: the messages that were dead-lettered, with `dead_letter_reason`.
        states: session to state.
        sent: what the handler sent, in order.
        seconds: how long it would have taken, waits for retries included.

    Example:
        >>> Result().completed
        0
    """

    completed: int = 0
    dead_letters: list[Delivery] = field(default_factory=list)
    states: dict[SessionId, Any] = field(default_factory=dict)
    sent: list[SentMessage] = field(default_factory=list)
    seconds: float = 0.0


def run(
    handler: Handler,
    messages: Sequence[Message],
    *,
    fifo: bool | None = None,
    max_attempts: int = 5,
    seed: int = 0,
) -> Result:
    """Run a handler on messages: the real flow over a memory queue, on a clock that never waits.

    Retries, dead letters, state and sent messages are as on Ray. Everything happens in this thread
    and waiting costs nothing, so a handler must not use threads or the network.

    Args:
        handler: what `@handler` made.
        messages: what the queue holds, in order.
        fifo: whether sessions are kept in order; None: when the handler has a state or a message a
            session. Messages without a session are then spread over 64.
        max_attempts: attempts of the handler before a message is dead-lettered.
        seed: what chance (the jitter of retries) is made from.

    Raises:
        QueueError: a message was refused by the queue.

    Example:
        >>> from pipeline import Context, Reject, handler
        >>> @handler(state=dict)
        ... def count(body: str, state: dict, context: Context) -> object:
        ...     if body == "bad":
        ...         return Reject("no use")
        ...     state[body] = state.get(body, 0) + 1
        >>> result = run(count, [Message(b, session="s") for b in (b"a", b"bad", b"a")])
        >>> result.states, [letter.dead_letter_reason for letter in result.dead_letters]
        ({SessionId('s'): {'a': 2}}, ['rejected'])
    """
    messages = list(messages)
    if fifo is None:
        fifo = handler.state is not None or any(one.session is not None for one in messages)
    work = _Work(handler, messages, fifo, max_attempts, seed)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    # A loop runs in this thread already (a notebook, an async test): another one needs its own.
    results: list[Result | BaseException] = []
    thread = threading.Thread(target=lambda: results.append(work.caught()))
    thread.start()
    thread.join()
    if isinstance(results[0], BaseException):
        raise results[0]
    return results[0]


@dataclass(frozen=True, slots=True)
class _Work:
    handler: Handler
    messages: Sequence[Message]
    fifo: bool
    max_attempts: int
    seed: int

    def caught(self) -> Result | BaseException:
        try:
            return self()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            return error

    def __call__(self) -> Result:
        loop = VirtualLoop()
        try:
            return loop.run_until_complete(self._run())
        finally:
            loop.close()

    async def _run(self) -> Result:
        loop = asyncio.get_running_loop()
        result = Result()
        # From now on, so that a message's `not_before` means what it says.
        clock = SeededClock(loop.time, self.seed, start=SystemClock().now())
        settings = FlowSettings(
            queue=MemoryQueue(connection="test", fifo=self.fifo, sessionless="spread"),
            retry=RetryPolicy(self.max_attempts, 1.0, 300.0, 2.0, jitter="half"),
        )

        async def send(queue: str, sent: Sequence[Message]) -> list[Sent | QueueError]:
            result.sent += [SentMessage(QueueName(queue), message) for message in sent]
            return [Sent() for _ in sent]

        flow = Flow(self.handler, settings, clock, send=send)
        await flow.send(self.messages)
        async with flow:
            await flow.settled()
            states = await flow.states()
            counters = await flow.broker.counters(flow.name)
            result.dead_letters = await _dead_letters(flow)
        flow.check()
        result.completed = counters.completed
        result.seconds = loop.time()
        if self.handler.state is not None:
            read: TypeAdapter[Any] = TypeAdapter(self.handler.state)
            result.states = {
                SessionId.trusted(session): read.validate_json(state)
                for session, state in states.items()
            }
        return result


async def _dead_letters(flow: Flow) -> list[Delivery]:
    receiver = await flow.provider.receiver(flow.name, dead_letters=True)
    letters: list[Delivery] = []
    while len(received := (await receiver.receive(Want(messages=4096, bytes=UNBOUNDED))).batch):
        letters += received
    return letters
