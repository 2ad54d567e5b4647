"""The keys of SQS connections and queues, and the references that stand for secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.config import AwsQueue, dump, parse, resolve, resolved
from pipeline.config.aws import AwsConnection
from pipeline.errors import ConfigurationError
from pipeline.providers.open import open_provider
from pipeline.providers.port import Count, SessionSupport


def given(connection: dict[str, Any] | None = None, **queues: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "shop",
        "connections": {"main": {"provider": "aws_sqs", **(connection or {})}},
        "queues": {name: {"connection": "main", **queue} for name, queue in queues.items()}
        or {"orders": {"connection": "main"}},
    }


KEY = {"access_key_id": "env:KEY", "secret_access_key": "file:/run/secrets/key"}


@pytest.mark.spec("P8", "P16")
@pytest.mark.parametrize(
    ("connection", "text"),
    [
        ({"access_key_id": "env:KEY"}, "main.secret_access_key: missing: a static key has an id"),
        ({"secret_access_key": "env:KEY"}, "main.access_key_id: missing: a static key has an id"),
        ({"session_token": "env:T"}, "main.session_token: has no use without a static key"),
        ({"profile": "dev", **KEY}, "main.profile: has no use beside a static key; got 'dev'"),
        ({"verify": False, "ca_bundle": "/ca.pem"}, "main.ca_bundle: has no use with verify"),
        ({"endpoint": "https://me:pw@host"}, "without a password"),
        ({"secret_access_key": "wJalrXUtn", "access_key_id": "env:K"}, "never the secret itself"),
        ({"region": "EU"}, "main.region: must be a region, as in eu-central-1; got 'EU'"),
        ({"endpoint": "http://127.0.0.1:99999"}, "the port from 1 to 65535; got 'http://127.0.0"),
        (
            {"endpoint": "http://[::1"},
            "main.endpoint: must be an address like https://host:port, t",
        ),
        ({"endpoint": "http://:80"}, "main.endpoint: must be an address like https://host:port, t"),
        (
            {"proxy": "http://host:99999"},
            "main.proxy: must be an address like https://host:port, t",
        ),
        ({"calls": 0}, "main.calls: must be greater than or equal to 1"),
        ({"visibility": 3}, "the keys here are: provider, region, endpoint, profile"),
    ],
)
def test_keys_of_a_connection_that_do_not_fit_are_told(
    connection: dict[str, Any], text: str
) -> None:
    """With the path and what is allowed, and never with a secret."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given(connection))
    assert text in str(caught.value)
    assert "wJalrXUtn" not in str(caught.value)
    assert "pw" not in str(caught.value).replace("password", "")


@pytest.mark.spec("P8", "P16")
def test_a_configuration_written_out_and_read_again_is_equal() -> None:
    """References stay references; a queue has the name it is found by."""
    config = parse(given({**KEY, "proxy": "env:PROXY"}, orders={}, bills={"name": "b.fifo"}))
    assert parse(dump(config)) == config
    assert (config.queues["orders"].name, config.queues["bills"].name) == ("orders", "b.fifo")
    shown = resolved(config)
    assert "secret_access_key: file:/run/secrets/key" in shown
    assert "\n    sessions:" not in shown


@pytest.mark.spec("P4", "P5")
def test_order_needs_a_fifo_queue_and_a_fifo_queue_order() -> None:
    """`fifo` says what is wanted, the queue's name what it is; both must agree where it is read."""
    pipelines = {"pipelines": {"p": {"queue": "orders", "handler": "app:on_order"}}}
    for more in (pipelines, {}):  # a queue that is only sent to would lose the order too
        with pytest.raises(ConfigurationError, match=r"orders\.name: a fifo queue needs sess"):
            parse(given(orders={"fifo": True}) | more)
    with pytest.raises(ConfigurationError, match=r"x\.fifo is a FIFO queue, and pipeline"):
        parse(given(orders={"name": "x.fifo"}) | pipelines)
    unordered = {"fifo": True, "on_unsupported_sessions": "unordered"}
    assert not parse(given(orders=unordered) | pipelines).queues["orders"].ordered
    fifo = parse(given(orders={"name": "x.fifo", "fifo": True}) | pipelines).queues["orders"]
    assert fifo.ordered
    assert not AwsQueue(connection="main").has_groups


@pytest.mark.spec("R3", "P10")
def test_dead_letters_go_to_another_queue() -> None:
    """A copy in the same queue would be a new message, with new attempts."""
    for queue in ({"dead_letter_queue": "orders"}, {"name": "x", "dead_letter_queue": "x"}):
        with pytest.raises(ConfigurationError, match="dead_letter_queue: must be another queue"):
            parse(given(orders=queue))


@pytest.mark.spec("P10", "P16")
def test_a_poll_that_does_not_wait_is_refused() -> None:
    """An idle receiver would make calls, and pay for them, as fast as it can."""
    with pytest.raises(
        ConfigurationError, match=r"orders\.poll: must be greater than or equal to 1"
    ):
        parse(given(orders={"poll": 0}))


@pytest.mark.spec("P10", "P16")
def test_nothing_is_made_in_another_account() -> None:
    """It would be made in our own, and then not be found."""
    with pytest.raises(ConfigurationError, match=r"orders\.create: has no use beside account"):
        parse(given(orders={"create": True, "account": "123456789012"}))


@pytest.mark.spec("P9", "P10")
def test_a_proxy_with_a_password_is_told_of_once() -> None:
    """By the key that it stands at."""
    with pytest.raises(ConfigurationError) as caught:
        parse(given({"proxy": "http://u:secret@host:1"}, orders={}))
    told = str(caught.value)
    assert (
        "connections.main.proxy: must be an address like http://host:port; one with a pass" in told
    )
    assert "secret" not in told
    assert "problems" not in told


@pytest.mark.spec("P8")
def test_a_reference_is_resolved_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the environment or a file; what names nothing is told by its reference."""
    monkeypatch.setenv("QR_KEY", "k1")
    monkeypatch.setenv("QR_EMPTY", "")
    file = tmp_path / "key"
    file.write_text("k2\r\n")
    assert resolve("env:QR_KEY", "x") == "k1"
    assert resolve(f"file:{file}", "x") == "k2"
    file.write_text("\n")
    for reference, text in (
        ("env:QR_EMPTY", "main.key: env:QR_EMPTY: the environment has no QR_EMPTY here"),
        (f"file:{file}", "the file is empty"),
        (f"file:{tmp_path}", "can't be read"),
    ):
        with pytest.raises(ConfigurationError, match=text):
            resolve(reference, "main.key")


@pytest.mark.spec("P1", "P4", "P14")
@pytest.mark.parametrize("fifo", [True, False])
def test_the_configuration_chooses_the_provider(fifo: bool) -> None:
    """Without a call: what the queue can do is known from its keys."""
    name = "orders.fifo" if fifo else "orders"
    queue = {"name": name, "fifo": fifo, "poll": 7.0, "max_message_size": 1000}
    pipelines = {"pipelines": {"p": {"queue": "orders", "handler": "app:on_order"}}}
    config = parse(given(orders=queue) | pipelines)
    able = open_provider(config, "main", clock=SystemClock()).capabilities("orders")
    assert able.provider == "aws_sqs"
    assert able.sessions is (SessionSupport.EMULATED if fifo else SessionSupport.UNSUPPORTED)
    assert (able.abandon_delay, able.duplicate_detection) == (not fifo, fifo)
    assert (able.count, able.max_wait, able.max_message_size) == (Count.ON_RECEIVE, 7.0, 1000)
    with pytest.raises(ConfigurationError, match="no connection 'other'; there are: main"):
        open_provider(config, "other", clock=SystemClock())


def test_a_connection_of_the_environment_needs_no_key() -> None:
    assert AwsConnection().model_dump(exclude_defaults=True) == {}
