"""azure-servicebus: its client with the credentials, and what each of its objects is made with.

The SDK tries nothing again: our own policy decides about a repeat (SPEC R1). Its private fast paths
are looked for here (`Ways`), each with the public one that takes its place.
"""

from __future__ import annotations

import inspect
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote, urlsplit

import certifi  # the SDK brings it
from azure.servicebus import NEXT_AVAILABLE_SESSION, ServiceBusSubQueue, TransportType
from azure.servicebus.aio import ServiceBusClient

from pipeline.config import AzureConnection, AzureQueue
from pipeline.config.access import secret_of
from pipeline.config.aws import address_of
from pipeline.errors import ConfigurationError
from pipeline.providers.azure import chatter
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.times import tell_times
from pipeline.providers.configured import Limits

_log = logging.getLogger("queue_runtime.servicebus")
_READ = 0.02
"""Seconds after which a read that brings nothing lets go of the socket: what waits to be written,
or for an answer that another call has read, waits so long."""


@dataclass(frozen=True, slots=True)
class Next:
    """The next session that has messages and that nobody holds.

    Args:
        wait: seconds the service may keep the accept waiting.
    """

    wait: float


class Sdk:
    """A client, for one process and loop.

    Args:
        name: the connection's name, for errors.
        settings: its keys.
        limits: its time-outs.
    """

    def __init__(self, name: str, settings: AzureConnection, limits: Limits) -> None:
        self._path = f"connections.{name}"
        self.settings = settings
        self.limits = limits
        self._client: Any = None
        self._credential: Any = None

    async def start(self, entities: Mapping[str, str] = MappingProxyType({})) -> None:
        """Make the client; nothing is called yet.

        Args:
            entities: by queue of the configuration, the queue or topic that it is.
        """
        chatter.hush()
        tell_times()
        options = self._options()
        if self.settings.namespace is not None:
            self._credential = _found_credential(self.settings.client_id)
            self._client = ServiceBusClient(self.settings.namespace, self._credential, **options)
            return
        given = self._checked(self._secret("connection_string"), entities)
        try:
            self._client = ServiceBusClient.from_connection_string(given, **options)
        except (ValueError, IndexError) as error:
            raise ConfigurationError(
                f"{self._path}.connection_string: what {self.settings.connection_string} names is "
                f"no connection string of a namespace: {error}"
            ) from None
        if "usedevelopmentemulator=true" in given.lower() and not self._near():
            _log.warning(
                "%s.connection_string says UseDevelopmentEmulator: messages and signatures go to "
                "%s readable for everybody on the way",
                self._path,
                self.namespace,
            )

    @property
    def namespace(self) -> str:
        """The namespace's full name."""
        name: str = self._client.fully_qualified_namespace
        return name

    def sender(self, queue: AzureQueue) -> Line:
        """A line to send on; nothing is called until it is used."""

        def make() -> Any:
            if queue.topic is not None:
                return self._client.get_topic_sender(queue.topic)
            return self._client.get_queue_sender(queue.name)

        return Line(make, f"sender of {queue.topic or queue.name}", self.limits.connect)

    def receiver(
        self,
        queue: AzureQueue,
        *,
        dead_letters: bool = False,
        session: str | Next | None = None,
        prefetch: int = 0,
    ) -> Line:
        """A line to receive on; nothing is called until it is used.

        Args:
            queue: whose.
            dead_letters: whether of its dead-letter queue.
            session: a session by its name, or the next one; `Line.open` accepts it, or raises
                `SessionLocked` (the name is another's) or `Timeout` (there was no next one).
            prefetch: how many messages the SDK may hold that nobody asked for yet.
        """
        options: dict[str, Any] = {"prefetch_count": prefetch, "socket_timeout": _READ}
        if dead_letters:
            options["sub_queue"] = ServiceBusSubQueue.DEAD_LETTER
        limit = self.limits.connect
        if session is not None:
            # Its owner looks after it: the SDK's own task would make its end last a second longer.
            options["keep_alive"] = 0
        if isinstance(session, Next):
            options |= {"session_id": NEXT_AVAILABLE_SESSION, "max_wait_time": session.wait}
            limit += session.wait
        elif session is not None:
            options["session_id"] = session

        def make() -> Any:
            if queue.topic is not None:
                return self._client.get_subscription_receiver(
                    queue.topic, queue.subscription, **options
                )
            return self._client.get_queue_receiver(queue.name, **options)

        once = session is not None  # a session that was lost is accepted anew, by a line of its own
        return Line(make, f"receiver of {queue.path}", limit, once=once)

    @property
    def client(self) -> Any:
        """The SDK's client."""
        return self._client

    async def close(self) -> None:
        """Close the client; the lines are closed by who has them."""
        if self._client is not None:
            await self._client.close()
        if self._credential is not None:
            await self._credential.close()

    # --- what the keys come to --------------------------------------------------------------------

    def _checked(self, given: str, entities: Mapping[str, str]) -> str:
        """A connection string as the SDK is given it: without the entity, which it may name.

        The SDK finds out at the first call that the string is of another one, or that its endpoint
        is none. Malformed in another way, it is left to the SDK.
        """
        parts = [part.split("=", 1) for part in given.strip().rstrip(";").split(";")]
        found = {part[0].lower(): part[-1] for part in parts}
        endpoint = found.get("endpoint", "sb://the.sdk.misses.it")
        if address_of(endpoint) is None:
            raise ConfigurationError(
                f"{self._path}.connection_string: the Endpoint in what "
                f"{self.settings.connection_string} names must be an address like sb://host:port, "
                "the port from 1 to 65535"
            )
        entity = found.get("entitypath")
        if entity is None:
            return given
        for queue, name in entities.items():
            if name.lower() != entity.lower():
                raise ConfigurationError(
                    f"{self._path}.connection_string: what {self.settings.connection_string} names "
                    f"is good for {entity} alone (EntityPath), and queues.{queue} is {name}: take "
                    "the namespace's own, or a connection for each"
                )
        return ";".join("=".join(part) for part in parts if part[0].lower() != "entitypath")

    def _options(self) -> dict[str, Any]:
        settings = self.settings
        websocket = settings.transport == "websocket"
        options: dict[str, Any] = {
            "retry_total": 0,
            "try_timeout": self.limits.connect,
            "transport_type": TransportType.AmqpOverWebsocket if websocket else TransportType.Amqp,
            "user_agent": "queue-runtime",
            "ssl_context": self._trusted(),
        }
        if settings.endpoint is not None:
            options["custom_endpoint_address"] = settings.endpoint
        if settings.proxy is not None:
            options["http_proxy"] = self._proxy(settings.proxy)
        return options

    def _trusted(self) -> ssl.SSLContext:
        """What certificates are checked against, read once.

        As the SDK makes it, which reads its file anew for each connection: that takes 20 ms, in
        which nothing else of this process runs, and an accepted session is a connection.
        """
        bundle = self.settings.ca_bundle
        if bundle is not None and not Path(bundle).is_file():
            raise ConfigurationError(f"{self._path}.ca_bundle: there is no file {bundle}")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            context.load_verify_locations(bundle or certifi.where())
        except OSError as error:  # what can't be read, and, of ssl, what holds no certificate
            text = f"{self._path}.ca_bundle: {bundle} can't be read, or is no certificate: {error}"
            raise ConfigurationError(text) from None
        return context

    def _proxy(self, given: str) -> dict[str, Any]:
        found = self._secret("proxy") if given.startswith(("env:", "file:")) else given
        parts = address_of(found)
        if parts is None or parts.scheme not in ("http", "https"):
            raise ConfigurationError(
                f"{self._path}.proxy: what {given} names must be an address like "
                "http://user:password@host:port; what is no letter or digit in user and password "
                "is written as %XX"
            )
        proxy: dict[str, Any] = {
            "proxy_hostname": f"{parts.scheme}://{parts.hostname}",
            "proxy_port": parts.port or (443 if parts.scheme == "https" else 80),
        }
        if parts.username is not None:
            proxy |= {
                "username": unquote(parts.username),
                "password": unquote(parts.password or ""),
            }
        return proxy

    def _secret(self, key: str) -> str:
        return secret_of(getattr(self.settings, key), f"{self._path}.{key}") or ""

    def _near(self) -> bool:
        """Whether the namespace is on this machine."""
        host = urlsplit(f"sb://{self.namespace}").hostname or ""
        return host == "localhost" or host.startswith("127.") or host == "::1"


def _found_credential(client_id: str | None) -> Any:
    """What finds a token as every Azure tool does, and refreshes it."""
    from azure.identity.aio import DefaultAzureCredential

    return DefaultAzureCredential(managed_identity_client_id=client_id)


@dataclass(frozen=True, slots=True)
class Ways:
    """Which of the SDK's private fast paths a receiver of it has.

    Args:
        settle_many: many messages in one request: `_settle_message_via_mgmt_link(status, tokens,
            dead_letter_details)`. Else one after another, `complete_message` and its like.
        renew_many: many locks in one request: `_renew_locks(*tokens)`. Else one after another.
        release: giving a message back without counting it, by the disposition `released` on the
            link it came on. Else it is abandoned, which counts.
        gap: ending a receive at the first gap: `_further_pull_receive_timeout`, and
            `_handler._socket_timeout`. Else it waits 0.2 s for more.
        drain: taking back what was asked for and has not come:
            `_amqp_transport.drain_and_release_messages_async(_handler)`. Else the SDK releases what
            comes late within about 6 s.
    """

    settle_many: bool
    renew_many: bool
    release: bool
    gap: bool
    drain: bool

    @classmethod
    def of(cls, receiver: Any) -> Ways:
        """What this receiver has; the names and arguments are those of azure-servicebus 7.15."""
        transport = getattr(receiver, "_amqp_transport", None)
        client = getattr(receiver, "_handler", None)
        return cls(
            settle_many=_takes(
                receiver,
                "_settle_message_via_mgmt_link",
                ("settlement", "lock_tokens", "dead_letter_details"),
            ),
            renew_many=_takes(receiver, "_renew_locks", ("lock_tokens", "timeout")),
            release=_takes(
                client, "settle_messages_async", ("delivery_id", "delivery_tag", "outcome")
            )
            and _takes(getattr(client, "_connection", None), "listen", ("wait",)),
            gap=isinstance(getattr(receiver, "_further_pull_receive_timeout", None), float)
            and isinstance(getattr(client, "_socket_timeout", None), float),
            drain=_takes(transport, "drain_and_release_messages_async", ("handler",)),
        )


def _takes(owner: Any, method: str, names: tuple[str, ...]) -> bool:
    """Whether it has a coroutine method with these arguments."""
    found = getattr(owner, method, None)
    if found is None or not inspect.iscoroutinefunction(found):
        return False
    return set(names) <= set(inspect.signature(found).parameters)
