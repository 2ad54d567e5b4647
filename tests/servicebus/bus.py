"""The server: a namespace of entities, where it listens, and what a test may do to it.

```python
async with ServiceBus() as bus:
    orders = bus.queue("orders", sessions=True, lock_seconds=30)
    client = ServiceBusClient.from_connection_string(bus.connection_string)
    bus.faults.drop("complete", applied=True)
    ...
    assert orders.counts().active == 0
```
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.authority import Authority, path_of
from tests.servicebus.connection import Connection, Wire
from tests.servicebus.entities.clock import Clock, SystemClock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.topic import Topic
from tests.servicebus.faults import Faults
from tests.servicebus.limits import Limits
from tests.servicebus.strict import Violations
from tests.servicebus.wires import Listener, listen, listen_websocket

KEY_NAME: Final = "RootManageSharedAccessKey"
KEY: Final = "a key of a server for tests, and no secret"
_DEAD: Final = "/$deadletterqueue"
_SUBSCRIPTIONS: Final = "/subscriptions/"


class ServiceBus:
    """A namespace. As a context it listens on a free port of 127.0.0.1, and closes at the end.

    Args:
        clock: the one clock of everything here; of its own a clock of the system.
        strict: write down which rules of the protocol clients break, in `violations`.
        assumptions: guesses about the service.
        keys: shared access policies: name to key. The first is in `connection_string`.
        jwt: whether a token of the cloud is good; without it every one is.
        limits: how long silence is borne.
    """

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        strict: bool = False,
        assumptions: Assumptions | None = None,
        keys: Mapping[str, str] | None = None,
        jwt: Callable[[str], bool] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self.assumptions = assumptions or Assumptions()
        self.keys = dict(keys or {KEY_NAME: KEY})
        self.authority = Authority(self.keys, jwt)
        self.limits = limits or Limits()
        self.faults = Faults(self.clock)
        self.violations = Violations(strict)
        self.connections: set[Connection] = set()
        self.port = 0
        self._entities: dict[str, Queue | Topic] = {}
        self._listeners: list[Listener] = []
        self._made = 0

    # --- entities -----------------------------------------------------------------------------

    def queue(self, name: str, **settings: Any) -> Queue:
        """Create a queue; the settings are those of `Settings`."""
        made = Queue(name, Settings(**settings), self.clock, self.assumptions)
        self._add(name, made)
        return made

    def topic(self, name: str, subscriptions: Iterable[str] = (), **settings: Any) -> Topic:
        """Create a topic; the settings are also those of its subscriptions."""
        given = Settings(**settings)
        made = Topic(name, replace(given, sessions=False), self.clock, self.assumptions)
        self._add(name, made)
        for each in subscriptions:
            made.subscribe(each, given)
        return made

    def _add(self, name: str, made: Queue | Topic) -> None:
        path = path_of(name)
        if not path or path.startswith("$") or _SUBSCRIPTIONS in path:
            raise ValueError(f"{name!r} can't be the name of a queue or a topic")
        if path in self._entities:
            raise ValueError(f"there is a queue or a topic named {name!r}")
        self._entities[path] = made

    def find(self, address: str) -> Queue | Topic:
        """An entity by its path: a queue, a topic, a subscription, or a dead-letter queue.

        Raises:
            Refused: there is none.
        """
        path = path_of(address)
        above = path.removesuffix(_DEAD)
        name, _, subscription = above.partition(_SUBSCRIPTIONS)
        found: Queue | Topic | None = self._entities.get(name)
        if subscription and isinstance(found, Topic):
            known = {each.lower(): queue for each, queue in found.subscriptions.items()}
            found = known.get(subscription)
        elif subscription:
            found = None
        if above != path:
            found = found.dead_letters if isinstance(found, Queue) else None
        if found is None:
            text = f"The messaging entity {address!r} could not be found."
            raise Refused("amqp:not-found", text)
        return found

    def target(self, address: str) -> Queue | Topic:
        """An entity that can be sent to.

        Raises:
            Refused: there is none, or it is fed by the service itself.
        """
        found, path = self.find(address), path_of(address)
        if path.endswith(_DEAD) or _SUBSCRIPTIONS in path:
            raise Refused("amqp:not-allowed", f"Nobody sends to {address!r}: the service does.")
        return found

    # --- where it listens ---------------------------------------------------------------------

    @property
    def connection_string(self) -> str:
        """For any client that knows the emulator's flag: plain TCP."""
        name, key = next(iter(self.keys.items()))
        return (
            f"Endpoint=sb://127.0.0.1:{self.port};SharedAccessKeyName={name};"
            f"SharedAccessKey={key};UseDevelopmentEmulator=true"
        )

    async def listen(self, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen for AMQP over TCP, or over TLS; returns the port."""
        listener = await listen(self.connected, port, tls)
        self._listeners.append(listener)
        if not self.port and tls is None:
            self.port = listener.port
        return listener.port

    async def listen_websocket(self, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen for AMQP over WebSockets, at `/$servicebus/websocket`; returns the port."""
        listener = await listen_websocket(self.connected, port, tls)
        self._listeners.append(listener)
        return listener.port

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening, drop every connection, and stop the clock."""
        for listener in self._listeners:
            await listener.close()
        self.drop()
        if isinstance(self.clock, SystemClock):
            self.clock.close()

    def connected(self, wire: Wire) -> Connection:
        """A client connected."""
        self._made += 1
        made = Connection(self, wire, self._made)
        self.connections.add(made)
        return made

    def forget(self, connection: Connection) -> None:
        """A connection is over."""
        self.connections.discard(connection)

    # --- faults that happen now ---------------------------------------------------------------

    def drop(self) -> int:
        """Drop every TCP connection; returns how many."""
        dropped = tuple(self.connections)
        for connection in dropped:
            connection.drop()
        return len(dropped)

    def close_connections(self, condition: str, description: str = "closed by the test") -> int:
        """Close every connection with an error; returns how many."""
        closed = tuple(self.connections)
        for connection in closed:
            connection.close(Refused(condition, description))
        return len(closed)

    def detach(
        self,
        path: str,
        condition: str = "amqp:link:detach-forced",
        description: str = "detached by the test",
    ) -> int:
        """Detach every link of an entity with an error; returns how many."""
        wanted, refusal = path_of(path), Refused(condition, description)
        found = [
            link
            for connection in self.connections
            for channel in connection.channels.values()
            for link in channel.links.values()
            if link.path == wanted and not link.closing
        ]
        for link in found:
            link.detach(refusal)
        return len(found)
