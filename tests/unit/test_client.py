"""The client beside the contract: how it is made, what it refuses, and rules no broker shows."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.client import QueueClient, json_message
from pipeline.clock import SeededClock, SystemClock
from pipeline.config import parse
from pipeline.errors import ConfigurationError, ValidationError
from pipeline.message import Message
from pipeline.providers.memory import MemoryBroker, MemoryProvider
from pipeline.providers.open import open_provider
from pipeline.providers.port import Capabilities
from pipeline.testing.virtual_loop import VirtualLoop

CONFIG: dict[str, Any] = {
    "name": "shop",
    "connections": {"main": {"provider": "memory"}, "spare": {"provider": "memory"}},
    "queues": {
        "orders": {"connection": "main", "fifo": True},
        "mails": {"connection": "main"},
        "audit": {"connection": "spare"},
    },
}


class Order(BaseModel):
    lines: int
    colour: str = "red"


# --- how it is made -------------------------------------------------------------------------------


@pytest.mark.spec("F8", "P1")
async def test_a_client_without_a_broker_has_queues_of_its_own() -> None:
    """Two clients of one process don't see each other's; connections are apart too."""
    async with QueueClient.from_dict(CONFIG) as one, QueueClient.from_dict(CONFIG) as other:
        await one.send("mails", Message(b"mine"))
        assert (await other.depth("mails")).available == 0
        assert (await one.depth("mails")).available == 1
        assert (await one.depth("audit")).available == 0


@pytest.mark.spec("F8", "P11")
async def test_clients_that_are_given_one_broker_share_its_queues() -> None:
    """Per connection: the others stay their own."""
    config = parse(CONFIG)
    queues = {str(name): queue for name, queue in config.queues.items()}
    broker = MemoryBroker({"mails": queues["mails"], "orders": queues["orders"]}, SystemClock())
    brokers = {"main": broker}
    async with (
        QueueClient(config, brokers=brokers) as one,
        QueueClient.from_dict(CONFIG, brokers=brokers) as other,
    ):
        await one.send("mails", Message(b"shared"))
        [delivery] = await other.receive("mails")
        assert delivery.body == b"shared"
        await other.complete(delivery)
        await one.send("audit", Message(b"mine"))
        assert (await other.depth("audit")).available == 0


async def test_a_client_is_made_from_a_file(tmp_path: Path) -> None:
    """As from the mappings that the file holds; what is wrong in it is a ConfigurationError."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(
        "name: shop\nconnections: {main: {provider: memory}}\nqueues: {mails: {connection: main}}\n"
    )
    async with QueueClient.from_file(good) as client:
        await client.send("mails", Message(b"x"))
    bad.write_text(good.read_text().replace("connection:", "conection:"))
    with pytest.raises(ConfigurationError, match=r"queues\.mails\.connection"):
        QueueClient.from_file(bad)


@pytest.mark.spec("P1")
def test_a_connection_that_nobody_configured_cannot_be_opened() -> None:
    """The error names those that there are."""
    with pytest.raises(ConfigurationError, match="'elsewhere'; there are: main, spare"):
        open_provider(parse(CONFIG), "elsewhere", clock=SystemClock())


@pytest.mark.spec("P7")
def test_outside_its_loop_even_a_question_is_refused() -> None:
    """Where no loop runs at all, and while it is being started by another one."""
    client = QueueClient.from_dict(CONFIG)
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(client.start())
        with pytest.raises(ValidationError, match="run_coroutine_threadsafe"):
            client.capabilities("mails")
        runner.run(client.close())


# --- what it refuses ------------------------------------------------------------------------------


@pytest.mark.spec("M1", "P10")
@pytest.mark.parametrize("count", [0, -1, 1.5, "2", None])
async def test_a_number_of_messages_below_one_is_refused(count: Any) -> None:
    """Before anything is asked."""
    async with QueueClient.from_dict(CONFIG) as client:
        with pytest.raises(ValidationError, match="max_messages must be 1 or more"):
            await client.receive("mails", count)
        with pytest.raises(ValidationError, match="count must be 1 or more"):
            await client.peek("mails", count)


@pytest.mark.spec("P2", "P10")
@pytest.mark.parametrize("wait", [-1, float("inf"), float("nan")])
async def test_a_wait_for_ever_is_refused(wait: float) -> None:
    """Every wait is bounded."""
    async with QueueClient.from_dict(CONFIG) as client:
        with pytest.raises(ValidationError, match="wait must be 0 or more seconds"):
            await client.receive("mails", wait=wait)
        with pytest.raises(ValidationError, match="wait must be 0 or more seconds"):
            await client.accept_session("orders", wait=wait)


@pytest.mark.spec("P2", "P6")
async def test_the_default_wait_is_the_configurations() -> None:
    """`timeouts.receive`."""
    async with QueueClient.from_dict({**CONFIG, "timeouts": {"receive": 7.0}}) as client:
        start = asyncio.get_running_loop().time()
        assert await client.receive("mails") == []
        assert asyncio.get_running_loop().time() - start == pytest.approx(7.0)


# --- bodies ---------------------------------------------------------------------------------------


@pytest.mark.spec("M3")
def test_a_pydantic_object_becomes_a_json_message() -> None:
    """With whatever else a message has; the content type can be another."""
    message = json_message(Order(lines=2), session="s", id="m", content_type="application/x+json")
    assert message.body == b'{"lines":2,"colour":"red"}'
    assert (message.session, message.id) == ("s", "m")
    assert message.content_type == "application/x+json"


@pytest.mark.spec("M3", "M1")
async def test_a_body_that_breaks_the_model_is_named_without_its_contents() -> None:
    """The first problem and how many more there are; never what was in it."""
    async with QueueClient.from_dict(CONFIG) as client:
        body = b'{"lines": "secret-1", "colour": 7}'
        with pytest.raises(ValidationError) as caught:
            await client.send("mails", Message(body), model=Order)
        assert str(caught.value).startswith("messages[0].body must be a Order: lines: ")
        assert str(caught.value).endswith("(and 1 more); got '34 bytes'")
        assert "secret" not in str(caught.value)
        with pytest.raises(ValidationError, match=r"must be a Order: Invalid JSON"):
            await client.send("mails", Message(b"{"), model=Order)
        with pytest.raises(ValidationError, match=r"messages\[1\] must be a Message"):
            await client.send_many("mails", [Message(b"x"), b"bare"])  # type: ignore[list-item]
        assert (await client.depth("mails")).available == 0


@pytest.mark.spec("M3")
async def test_a_checked_body_keeps_the_content_type_it_has() -> None:
    """Only one without a type is called JSON."""
    async with QueueClient.from_dict(CONFIG) as client:
        message = Message(b'{"lines": 1}', content_type="text/plain")
        await client.send("mails", message, model=Order)
        [delivery] = await client.receive("mails")
        assert delivery.content_type == "text/plain"
        await client.send("mails", Order(lines=3))
        [delivery] = await client.receive("mails")
        assert Order.model_validate_json(delivery.body).lines == 3


# --- where messages of a session can only be given back together ----------------------------------


@pytest.mark.spec("P14")
async def test_without_single_release_a_message_comes_again_with_its_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on Azure: releasing one takes effect when nothing of the session is in hand."""
    real = MemoryProvider.capabilities

    def together(self: MemoryProvider, queue: str) -> Capabilities:
        return replace(real(self, queue), single_release=False)

    monkeypatch.setattr(MemoryProvider, "capabilities", together)
    clock = SeededClock(asyncio.get_running_loop().time)
    async with QueueClient.from_dict(CONFIG, clock=clock) as client:
        await client.send_many("orders", [Message(b"%d" % n, session="s") for n in range(3)])
        first, second = await client.receive("orders", 2)
        assert await client.release([first]) == {}
        assert await client.receive("orders", 5, wait=5) == []
        await client.complete(second)
        found = await client.receive("orders", 5)
        assert [one.body for one in found] == [b"0", b"2"]
        await client.dead_letter(found, "rejected")
        dead = await client.receive("orders", 5, dead_letters=True)
        assert await client.release(dead) == {}, "dead letters have no session to wait for"
        assert len(await client.receive("orders", 5, dead_letters=True)) == 2
