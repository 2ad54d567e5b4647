"""The Azure Service Bus provider's own keys: of a connection, and of a queue."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from pipeline.config.aws import Proxy, address_of
from pipeline.config.references import Problem
from pipeline.config.rules import Count, Model, QueueModel, SecretReference, error_of, matching


def _endpoint(value: str) -> str:
    if address_of(value) is None:
        rule = "must be an address like sb://host:port, the port from 1 to 65535"
        raise PydanticCustomError("problem", "{text}", {"text": rule})
    return value


Namespace = Annotated[
    str,
    matching(
        r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)+",
        "a namespace's full name, as in orders.servicebus.windows.net",
    ),
]
Endpoint = Annotated[
    str,
    matching(r"sb://[^@\s/?#]+", "an address like sb://host:port, without a path or a password"),
    AfterValidator(_endpoint),
]
ClientId = Annotated[
    str, matching(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}", "an identity's client id")
]
EntityName = Annotated[
    str,
    matching(
        r"(?=.{1,260}\Z)[A-Za-z0-9]([A-Za-z0-9._/~-]*[A-Za-z0-9_])?",
        "1 to 260 letters, digits and . _ - / ~, the first a letter or digit",
    ),
]
Subscription = Annotated[
    str,
    matching(
        r"(?=.{1,50}\Z)[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9_])?",
        "1 to 50 letters, digits and . _ -, the first a letter or digit",
    ),
]
EntityLock = Annotated[float, Field(gt=0, le=300)]
"""Seconds: Service Bus locks for 5 minutes at most."""


class AzureConnection(Model):
    """A connection to an Azure Service Bus namespace.

    Args:
        provider: `azure_service_bus`.
        connection_string: where the namespace's connection string is, as a reference: `env:NAME` or
            `file:/path`.
        namespace: the namespace's full name, in place of a connection string: credentials are then
            found as every Azure tool does (environment, workload or managed identity, the CLI's
            login), and refreshed.
        client_id: with `namespace`: which user-assigned managed identity.
        endpoint: another address than the namespace's own, for a private endpoint or a gateway.
        transport: `amqp`, or `websocket` where only port 443 is open.
        proxy: the address of an HTTP proxy, for `websocket`; one with a password as a reference.
        ca_bundle: a file with the certificates to trust, for a private authority.

    Example:
        >>> AzureConnection(namespace="orders.servicebus.windows.net").transport
        'amqp'
    """

    provider: Literal["azure_service_bus"] = "azure_service_bus"
    connection_string: SecretReference | None = None
    namespace: Namespace | None = None
    client_id: ClientId | None = None
    endpoint: Endpoint | None = None
    transport: Literal["amqp", "websocket"] = "amqp"
    proxy: Proxy | None = None
    ca_bundle: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _keys_fit(self) -> Self:
        broken = list(self._broken())
        if broken:
            raise error_of(*broken)
        return self

    def _broken(self) -> list[Problem]:
        broken = []
        if self.connection_string is None and self.namespace is None:
            text = "missing: give it, or namespace and let the credentials be found"
            broken.append(Problem(("connection_string",), text))
        if self.connection_string is not None and self.namespace is not None:
            text = "has no use beside connection_string, which names the namespace"
            broken.append(Problem(("namespace",), text, self.namespace))
        if self.client_id is not None and self.connection_string is not None:
            text = "has no use beside connection_string, which has a key"
            broken.append(Problem(("client_id",), text, self.client_id))
        if self.proxy is not None and self.transport != "websocket":
            text = "needs transport: websocket, which HTTP proxies let through"
            broken.append(Problem(("proxy",), text, self.proxy))
        return broken


class AzureQueue(QueueModel):
    """A queue of Service Bus, a topic, or a topic's subscription.

    What the service keeps of it (lock duration, maximum delivery count, sessions) can't be read
    with the rights to send and listen: it is told here, and checked against what is seen.

    Args:
        connection: the name of its connection.
        name: the queue's name; unset: the name it has in the configuration. Not with `topic`.
        topic: the topic to send to.
        subscription: the topic's subscription to receive from; without one it is only sent to.
        fifo: whether it requires sessions, and each session's messages are handled in order.
        sessionless: what a message without a session is on a fifo queue: refused at send, or put
            into one of 64 sessions by a hash of its id.
        lock: seconds its messages or sessions are locked, as it is set there: at most 300.
        max_delivery_count: after so many failed deliveries it dead-letters, as it is set there.
        duplicate_detection: whether it drops a second message of one id, as it is set there.
        held_sessions: fifo: how many sessions one receiver holds at once, a connection each.
        max_message_size: the most bytes of one message, all of it, as its tier and settings allow.

    Example:
        >>> AzureQueue(connection="main", name="orders", fifo=True).ordered
        True
    """

    connection: str
    name: EntityName | None = None
    topic: EntityName | None = None
    subscription: Subscription | None = None
    fifo: bool = False
    sessionless: Literal["reject", "spread"] = "reject"
    lock: EntityLock = 60.0
    max_delivery_count: Count = 10
    duplicate_detection: bool = False
    held_sessions: Annotated[int, Field(ge=1, le=1_000)] = 8
    max_message_size: Count = 262_144

    @model_validator(mode="after")
    def _one_entity(self) -> Self:
        broken = []
        if self.name is not None and self.topic is not None:
            broken.append(Problem(("name",), "has no use beside topic", self.name))
        if self.subscription is not None and self.topic is None:
            text = "missing: a subscription is one of a topic"
            broken.append(Problem(("topic",), text))
        if broken:
            raise error_of(*broken)
        return self

    @property
    def spreads(self) -> bool:
        """Whether a message without a session is given one."""
        return self.fifo and self.sessionless == "spread"

    @property
    def ordered(self) -> bool:
        """Whether sessions are kept in order: it has them when it says so."""
        return self.fifo

    @property
    def path(self) -> str:
        """The entity's path in its namespace, to receive from: a queue, or a subscription.

        Example:
            >>> AzureQueue(connection="main", topic="events", subscription="audit").path
            'events/Subscriptions/audit'
        """
        if self.topic is None:
            return self.name or ""
        if self.subscription is None:
            return self.topic
        return f"{self.topic}/Subscriptions/{self.subscription}"
