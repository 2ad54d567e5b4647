"""The memory provider: one configured connection to a memory broker."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.providers.configured import keys_of
from pipeline.providers.guard import Guard
from pipeline.providers.memory.calls import BrokerCalls, Counters
from pipeline.providers.memory.receiver import MAX_RECEIVE, MemoryReceiver
from pipeline.providers.memory.sender import MemorySender
from pipeline.providers.memory.settings import QueueSettings, dialect_of
from pipeline.providers.port import Capabilities, Count, Depth, SessionSupport

_SESSIONS = {
    "native": SessionSupport.NATIVE,
    "groups": SessionSupport.EMULATED,
    "none": SessionSupport.UNSUPPORTED,
}


class MemoryProvider:
    """Connects to a memory broker (see `pipeline.providers.port.Provider`).

    Providers that are given one broker see the same queues; the broker outlives them.

    Args:
        broker: the broker itself, in one process, or a proxy of it.
        queues: settings by queue name, as the broker has them.
        send_timeout: seconds for every call that does not wait for messages.
        receive_timeout: seconds that a receive or accept may take beyond its wait.
    """

    def __init__(
        self,
        broker: BrokerCalls,
        queues: Mapping[str, QueueSettings],
        *,
        send_timeout: float = 10.0,
        receive_timeout: float = 30.0,
    ) -> None:
        self._broker = broker
        self._queues = dict(queues)
        self._send_timeout = send_timeout
        self._receive_timeout = receive_timeout
        self._guard = Guard("the memory provider", send_timeout)
        self._started = False
        self._open: set[MemorySender | MemoryReceiver] = set()

    async def start(self) -> None:
        """Ask the broker for every queue of the configuration; idempotent."""
        if self._started:
            self._guard.check()
            return
        self._guard.bind()
        self._guard.check()
        for queue in self._queues:
            await self._guard.bounded(self._broker.source(queue))
        self._started = True

    def capabilities(self, queue: str) -> Capabilities:
        """What that queue can do; its dialect decides."""
        settings = self._settings(queue)
        sessions = _SESSIONS[dialect_of(settings)]
        count = Count(settings.count)
        on_receive = count is Count.ON_RECEIVE
        return Capabilities(
            provider="memory",
            sessions=sessions,
            count=count,
            release_counts=on_receive,
            abandon_delay=on_receive and sessions is SessionSupport.UNSUPPORTED,
            group_delay=sessions is SessionSupport.EMULATED,
            single_release=True,
            session_state=sessions is SessionSupport.NATIVE,
            scheduling=True,
            cancel_scheduled=True,
            defer=True,
            peek=True,
            duplicate_detection=settings.duplicate_window > 0,
            exact_depth=True,
            bounds_sessions=True,
            max_receive=MAX_RECEIVE,
            max_message_size=settings.max_message_size,
            held_sessions=8_192,  # opening one costs no call of its own here
            session_idle=0.0,
        )

    async def source(self, queue: str) -> str:
        """`memory:<broker id>/<queue>`; a broker has a new id at each start."""
        self._guard.check()
        self._settings(queue)
        return await self._guard.bounded(self._broker.source(queue))

    async def sender(self, queue: str) -> MemorySender:
        """A new sending side."""
        self._guard.check()
        settings = self._settings(queue)
        guard = Guard(f"the sender of queue {queue}", self._send_timeout)
        guard.bind()
        ordered = dialect_of(settings) != "none"
        sender = MemorySender(
            self._broker, queue, settings.max_message_size, ordered, guard, self._open.discard
        )
        self._open.add(sender)
        return sender

    async def receiver(
        self,
        queue: str,
        *,
        partition: int = 0,  # noqa: ARG002 - every lane of a memory queue gets of all its messages
        dead_letters: bool = False,
        owner: str = "",
    ) -> MemoryReceiver:
        """A new receiving lane, of the queue or of its dead-letter queue."""
        self._guard.check()
        self._settings(queue)
        lane = await self._guard.bounded(self._broker.open_lane(queue, dead_letters, owner))
        guard = Guard(f"the receiver of queue {queue}", self._send_timeout)
        guard.bind()
        receiver = MemoryReceiver(
            self._broker, queue, lane, self._receive_timeout, guard, self._open.discard
        )
        self._open.add(receiver)
        return receiver

    async def depth(self, queue: str) -> Depth:
        """How much it holds now, exactly."""
        self._guard.check()
        self._settings(queue)
        return await self._guard.bounded(self._broker.depth(queue))

    async def counters(self, queue: str) -> Counters:
        """What happened on a queue since the broker was made."""
        self._guard.check()
        self._settings(queue)
        return await self._guard.bounded(self._broker.counters(queue))

    def figures(self) -> dict[str, int]:
        """None: the broker is called without connections, and counts by itself."""
        return {}

    async def close(self) -> None:
        """Close every sender and receiver; idempotent. The broker goes on."""
        self._guard.close()
        for each in list(self._open):
            await each.close()

    def _settings(self, queue: str) -> QueueSettings:
        return keys_of(self._queues, queue)
