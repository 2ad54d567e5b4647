"""The connection actor on a real Ray: an endpoint that goes down, and an actor that dies."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.runtime import Runtime
from pipeline import CircuitOpen, Message
from pipeline.config import parse
from pipeline.errors import ConnectionFailed
from pipeline.message import to_row
from pipeline.providers.memory import MemoryBroker
from tests.cluster.work import messages
from tests.sqs.endpoint import Endpoint
from tests.sqs.faults import Refuse

ROOT = str(Path(__file__).parents[2])
FOREVER = 1_000_000


def runtime(name: str, handler: str, **more: Any) -> Runtime:
    config = {
        "name": name,
        "connections": {"main": {"provider": "memory"}},
        "queues": {"first": {"connection": "main", "fifo": True}},
        "pipelines": {
            "one": {"queue": "first", "handler": f"tests.cluster.work:{handler}", "receivers": 4}
        },
    }
    return Runtime(parse(config | more), path=[ROOT])


def go_down(broker: Any) -> None:
    """In the broker's process: refuse receives and sends, and count them."""
    real: MemoryBroker = broker._broker

    class Down:
        receives = 0
        sends = 0

        async def receive(self, *given: Any) -> Any:
            self.receives += 1
            raise ConnectionFailed("refused")

        async def send(self, *given: Any) -> Any:
            self.sends += 1
            raise ConnectionFailed("refused")

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    broker._broker = Down()
    broker._real = real


def reached(broker: Any) -> tuple[int, int]:
    """How many receives and sends reached the endpoint while it was down."""
    return broker._broker.receives, broker._broker.sends


def come_back(broker: Any) -> None:
    """In the broker's process: all is well again."""
    broker._broker = broker._real


async def inside(one: Runtime, function: Any) -> Any:
    return await one._brokers["main"]._actor.__ray_call__.remote(function)


async def state(one: Runtime, direction: str) -> str:
    look = await one.next_look()
    return look.shared.breakers["main"][direction][0]


async def until(one: Runtime, direction: str, wanted: str) -> None:
    async with asyncio.timeout(60):
        while await state(one, direction) != wanted:
            pass


async def until_sent(one: Runtime, message: Message) -> None:
    sent = False
    while not sent:
        try:
            await one.client.send_many("first", [message])
            sent = True
        except CircuitOpen as error:
            await asyncio.sleep(error.retry_after or 0.1)


@pytest.mark.spec("R2", "F1")
async def test_four_receivers_leave_an_endpoint_alone_that_is_down(ray_cluster: None) -> None:
    """Open, the endpoint is reached by one probe at a time of them all; back, all is handled."""
    one = runtime(
        "down",
        "in_order",
        timeouts={"receive": 1.0},
        breaker={"open": 4.0},
        retry={"max_attempts": 1},
    )
    async with one:
        await one.client.send_many("first", messages(10, 10))
        await one.until_empty()
        await inside(one, go_down)
        await until(one, "receive", "open")
        opened, _ = await inside(one, reached)
        await asyncio.sleep(9.0)
        probed, _ = await inside(one, reached)
        public = one._public()
        for _ in range(5):
            with pytest.raises(ConnectionFailed):
                await one.client.send("first", Message(b"0", session="x"))
        _, sends = await inside(one, reached)
        await until(one, "send", "open")
        for _ in range(20):
            with pytest.raises(CircuitOpen):
                await one.client.send("first", Message(b"0", session="x"))
        assert await inside(one, reached) == (pytest.approx(probed, abs=2), sends)
        await inside(one, come_back)
        await until(one, "receive", "closed")
        await until_sent(one, Message(b"10", session="s0"))
        await one.until_empty()
        totals = await one.totals()
    one_line = f"until open {opened}, as probes in 9 s {probed - opened}, sends {sends}"
    assert opened >= 5, one_line  # how many more, depends on how soon each of them hears
    assert 1 <= probed - opened <= 3, one_line
    assert not public["ready"]
    assert "circuit breaker" in public["reason"]
    assert public["connections"]["main"]["receive"]["since"] is not None
    assert totals.completed == 101
    assert one.drained is not None
    assert one.drained.clean


@pytest.mark.spec("R2", "F1")
async def test_four_receivers_leave_an_sqs_alone_that_is_down(
    ray_cluster: None, tmp_path: Path
) -> None:
    """The same over real sockets: open, one probe at a time of them all reaches it."""
    (tmp_path / "key").write_text("local")
    key = f"file:{tmp_path / 'key'}"
    async with Endpoint() as endpoint:
        endpoint.create("first.fifo")
        endpoint.create("first-dlq.fifo")
        keys = {"access_key_id": key, "secret_access_key": key, "region": "us-east-1"}
        one = runtime(
            "down-sqs",
            "in_order",
            connections={"main": {"provider": "aws_sqs", "endpoint": endpoint.url, **keys}},
            queues={"first": {"connection": "main", "name": "first.fifo", "fifo": True, "poll": 1}},
            breaker={"open": 4.0},
            retry={"max_attempts": 1},
        )
        async with one:
            await one.client.send_many("first", messages(10, 10))
            await one.until_empty()
            before = endpoint.calls.copy()
            endpoint.faults.next("*", Refuse(), FOREVER)
            await until(one, "receive", "open")
            opened = endpoint.calls - before
            await asyncio.sleep(9.0)
            probed = endpoint.calls - before - opened
            for _ in range(5):
                with pytest.raises(ConnectionFailed):
                    await one.client.send("first", Message(b"0", session="x"))
            await until(one, "send", "open")
            before = endpoint.calls.copy()
            for _ in range(20):
                with pytest.raises(CircuitOpen):
                    await one.client.send("first", Message(b"0", session="x"))
            refused = endpoint.calls - before
            endpoint.faults.clear()
            await until(one, "receive", "closed")
            await until_sent(one, Message(b"10", session="s0"))
            await one.until_empty()
            totals = await one.totals()
        left = endpoint.depth("first.fifo")
    told = f"until open {opened}, in 9 s {probed}, in 20 sends {refused}"
    assert opened["ReceiveMessage"] >= 5, told
    assert set(probed) == {"ReceiveMessage"}, told
    assert 1 <= probed["ReceiveMessage"] <= 3, told
    assert refused["SendMessageBatch"] == 0, told
    assert totals.completed == 101
    assert left == (0, 0, 0)


@pytest.mark.spec("R2", "F7")
async def test_a_connection_actor_that_is_killed_is_replaced_and_told(ray_cluster: None) -> None:
    """The run goes on meanwhile; an open breaker is open in the next actor too."""
    one = runtime("bereft", "in_order", breaker={"open": 20.0}, retry={"max_attempts": 1})
    async with one:
        gate: Any = one.client._core.connections._providers["main"]
        for _ in range(5):
            given = gate._gate.free("send")
            gate._gate.fail(given, ConnectionFailed("refused"))
        await until(one, "send", "open")
        before = one.processes["connection:main"].pid
        os.kill(before, signal.SIGKILL)
        rows = [to_row(message) for message in messages(20, 50)]
        await one._brokers["main"].send("first", rows)  # the client's sends are refused
        async with asyncio.timeout(60):
            while one.look.shared.replaced == 0:
                await one.next_look()
            await until(one, "send", "open")
        assert one.processes["connection:main"].pid != before
        with pytest.raises(CircuitOpen):
            await one.client.send("first", Message(b"0", session="x"))
        await one.until_empty()
        totals = await one.totals()
        states = (await one.states())["one"]
    assert totals.completed == 1_000
    assert {(seen.count, seen.out_of_order) for seen in states.values()} == {(50, 0)}
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor("connection:main", namespace="queue-runtime:bereft")
