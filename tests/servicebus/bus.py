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
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Self

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.authority import Authority, path_of
from tests.servicebus.connection import Connection, Wire
from tests.servicebus.entities.clock import Clock, ManualClock, SystemClock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.topic import Topic
from tests.servicebus.faults import Faults
from tests.servicebus.limits import CBS, FOREVER, Limits
from tests.servicebus.strict import Violations
from tests.servicebus.wires import Listener, listen, listen_websocket

KEY_NAME: Final = "RootManageSharedAccessKey"
KEY: Final = "a key of a server for tests, and no secret"
_DEAD: Final = "/$deadletterqueue"
_MANAGEMENT: Final = "/$management"
_SUBSCRIPTIONS: Final = "/subscriptions/"


def _usable(keys: Mapping[str, str]) -> dict[str, str]:
    """The keys, each of which can stand in a connection string."""
    for name, key in keys.items():
        good = (isinstance(each, str) and each.strip() and ";" not in each for each in (name, key))
        if not all(good):
            raise ValueError(f"keys: {name!r}: neither name nor key is empty or has a semicolon")
    if not keys:
        raise ValueError("keys: there must be one")
    return dict(keys)


class ServiceBus:
    """A namespace. As a context it listens on a free port of 127.0.0.1, and closes at the end.

    Args:
        clock: the one clock of everything here; of its own a clock of the system.
        strict: write down which rules of the protocol clients break, in `violations`.
        assumptions: guesses about the service.
        keys: shared access policies: name to key. The first is in `connection_string`, so neither
            is empty or has a semicolon.
        jwt: whether a token of the cloud is good; without it every one is.
        limits: how long silence is borne; without them as the service does, and for ever on a
            `ManualClock`.

    Raises:
        ValueError: a key can't be used.
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
        self.keys = _usable({KEY_NAME: KEY} if keys is None else keys)
        self.authority = Authority(self.keys, jwt)
        # Nobody keeps a connection alive while a clock jumps.
        self.limits = limits or (FOREVER if isinstance(clock, ManualClock) else Limits())
        self.faults = Faults(self.clock, self._path_of)
        self.violations = Violations(strict)
        self.connections: set[Connection] = set()
        self.port = 0
        self._entities: dict[str, Queue | Topic] = {}
        self._listeners: list[Listener] = []
        self._made = 0

    # --- entities -----------------------------------------------------------------------------

    def queue(self, name: str, **settings: Any) -> Queue:
        """Create a queue; the settings are those of `Settings`.

        Raises:
            ValueError: the name or a setting can't be, or the name is taken.
        """
        path = self._free(name)
        made = Queue(name, Settings(**settings), self.clock, self.assumptions)
        self._entities[path] = made
        return made

    def topic(self, name: str, subscriptions: Iterable[str] = (), **settings: Any) -> Topic:
        """Create a topic; the settings are also those of its subscriptions.

        Raises:
            ValueError: a name or a setting can't be, or a name is taken; then there is no topic.
        """
        path = self._free(name)
        if isinstance(subscriptions, str):  # which is iterable too: a subscription per letter
            text = f"subscriptions is {subscriptions!r}: names are wanted, as a list"
            raise ValueError(text)  # noqa: TRY004  the error of every misuse here
        given = Settings(**settings)
        made = Topic(name, replace(given, sessions=False), self.clock, self.assumptions)
        for each in subscriptions:
            made.subscribe(each, given)
        self._entities[path] = made
        return made

    def _free(self, name: str) -> str:
        """The path of an entity to come."""
        path = path_of(name) if isinstance(name, str) else ""
        reserved = _SUBSCRIPTIONS in path or any(part[:1] == "$" for part in path.split("/"))
        if not path.strip() or reserved:
            raise ValueError(f"{name!r} can't be the name of a queue or a topic")
        if path in self._entities:
            raise ValueError(f"there is a queue or a topic named {name!r}")
        return path

    def _path_of(self, address: str) -> str:
        """The path of an entity that there is, or of a node: `$cbs`, or `$management` below one.

        Raises:
            ValueError: there is none.
        """
        path = path_of(address)
        if path != CBS:
            try:
                self.find(path.removesuffix(_MANAGEMENT))
            except Refused as refusal:
                known = ", ".join(self._names()) or "none yet"
                raise ValueError(f"{address!r} is no entity; those there are: {known}") from refusal
        return path

    def _names(self) -> Iterator[str]:
        for entity in self._entities.values():
            yield entity.name
            if isinstance(entity, Topic):
                yield from (queue.name for queue in entity.subscriptions.values())

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
        """For any client that knows the emulator's flag: plain TCP.

        Raises:
            RuntimeError: the server does not listen for that.
        """
        if not self.port:
            raise RuntimeError(
                "the server does not listen for plain TCP: enter it with `async with`, "
                "or await its listen()"
            )
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
        if isinstance(self.clock, SystemClock):
            self.clock.resume()
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
        """Stop listening, drop every connection, and stop the clock. It can be entered again."""
        listeners, self._listeners, self.port = self._listeners, [], 0
        for listener in listeners:
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
        """Detach every link of an entity with an error; returns how many.

        Raises:
            ValueError: there is no such entity.
        """
        wanted, refusal = self._path_of(path), Refused(condition, description)
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
