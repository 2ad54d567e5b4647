"""The keys of Service Bus connections and queues."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import AzureConnection, AzureQueue, dump, parse, resolved
from pipeline.errors import ConfigurationError
from pipeline.providers.open import open_provider
from pipeline.providers.port import Count, SessionSupport

STRING = {"connection_string": "env:BUS"}
NAMESPACE = {"namespace": "orders.servicebus.windows.net"}
ID = "01234567-89ab-cdef-0123-456789abcdef"


def given(connection: dict[str, Any] | None = None, **queues: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "shop",
        "connections": {"main": {"provider": "azure_service_bus", **(connection or STRING)}},
        "queues": {name: {"connection": "main", **queue} for name, queue in queues.items()}
        or {"orders": {"connection": "main"}},
    }


@pytest.mark.spec("P8", "P16")
@pytest.mark.parametrize(
    ("connection", "text"),
    [
        ({"transport": "amqp"}, "main.connection_string: missing: give it, or namespace and let"),
        (STRING | NAMESPACE, "main.namespace: has no use beside connection_string, which names"),
        (STRING | {"client_id": ID}, "main.client_id: has no use beside connection_string"),
        (
            {"connection_string": "Endpoint=sb://x/;SharedAccessKeyName=n;SharedAccessKey=secret"},
            "main.connection_string: must be a reference to the secret, env:NAME or file:/path, "
            "never the secret itself",
        ),
        (
            {"namespace": "orders"},
            "main.namespace: must be a namespace's full name, as in orders.s",
        ),
        (NAMESPACE | {"client_id": "me"}, "main.client_id: must be an identity's client id"),
        (STRING | {"endpoint": "https://host"}, "main.endpoint: must be an address like sb://host"),
        (STRING | {"endpoint": "sb://host:0"}, "endpoint: must be an address like sb://host:port"),
        (STRING | {"endpoint": "sb://me:pw@host"}, "without a path or a password"),
        (STRING | {"proxy": "http://p:1"}, "main.proxy: needs transport: websocket, which HTTP"),
        (STRING | {"region": "eu"}, "the keys here are: provider, connection_string, namespace,"),
    ],
)
def test_keys_of_a_connection_that_do_not_fit_are_told(
    connection: dict[str, Any], text: str
) -> None:
    """With the path and what is allowed, and never with a secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given(connection))
    told = str(caught.value)
    assert text in told
    assert "=secret" not in told
    assert "me:pw" not in told


@pytest.mark.spec("P16")
@pytest.mark.parametrize(
    ("queue", "text"),
    [
        ({"name": "q", "topic": "t"}, "orders.name: has no use beside topic; got 'q'"),
        ({"subscription": "s"}, "orders.topic: missing: a subscription is one of a topic"),
        ({"lock": 301.0}, "orders.lock: must be less than or equal to 300"),
        ({"lock": 0.0}, "orders.lock: must be greater than 0"),
        ({"name": "/x"}, "orders.name: must be 1 to 260 letters, digits and . _ - / ~"),
        ({"topic": "t", "subscription": "s" * 51}, "orders.subscription: must be 1 to 50 letters"),
        ({"held_sessions": 0}, "orders.held_sessions: must be greater than or equal to 1"),
        ({"visibility": 30.0}, "the keys here are: connection, name, topic, subscription, fifo"),
    ],
)
def test_keys_of_a_queue_that_do_not_fit_are_told(queue: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(given(None, orders=queue))
    assert text in str(caught.value)


@pytest.mark.spec("P8", "P16")
def test_a_configuration_written_out_and_read_again_is_equal() -> None:
    """References stay references; a queue has the name it is found by, a topic has its own."""
    connection = STRING | {
        "endpoint": "sb://10.0.0.4:5671",
        "transport": "websocket",
        "proxy": "env:PROXY",
        "ca_bundle": "/etc/ca.pem",
    }
    config = parse(
        given(
            connection,
            orders={"fifo": True},
            bills={"name": "b/2024"},
            events={"topic": "events", "subscription": "audit"},
            told={"topic": "events"},
        )
    )
    assert parse(dump(config)) == config
    queues = config.queues
    assert [queue.path for queue in queues.values() if isinstance(queue, AzureQueue)] == [
        "orders",
        "b/2024",
        "events/Subscriptions/audit",
        "events",
    ]
    assert (queues["orders"].ordered, queues["bills"].ordered) == (True, False)
    assert "connection_string: env:BUS" in resolved(config)


@pytest.mark.spec("P8")
def test_a_namespace_is_enough() -> None:
    """Credentials are then found; a managed identity may be named."""
    config = parse(given(NAMESPACE | {"client_id": ID}))
    found = config.connections["main"]
    assert isinstance(found, AzureConnection)
    assert (found.client_id, found.connection_string) == (ID, None)


def test_a_queue_made_without_a_configuration_may_have_no_name_yet() -> None:
    assert AzureQueue(connection="main").path == ""


@pytest.mark.spec("P1", "P4", "P14")
@pytest.mark.parametrize("fifo", [True, False])
def test_the_configuration_chooses_the_provider(fifo: bool) -> None:
    """Without a call: what the queue can do is known from its keys."""
    queue = {"fifo": fifo, "held_sessions": 3, "max_message_size": 1000}
    pipelines = {"pipelines": {"p": {"queue": "orders", "handler": "app:on_order"}}}
    config = parse(given(None, orders=queue) | pipelines)
    able = open_provider(config, "main", clock=SystemClock()).capabilities("orders")
    assert able.provider == "azure_service_bus"
    assert able.sessions is (SessionSupport.NATIVE if fifo else SessionSupport.UNSUPPORTED)
    assert (able.count, able.single_release, able.session_state) == (
        Count.ON_FAILURE,
        not fifo,
        fifo,
    )
    assert (able.held_sessions, able.max_message_size) == (3, 1000)
