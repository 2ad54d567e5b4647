"""The flow on a real Ray: order, dead letters, outgoing messages, several pipelines, drains."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.runtime import Runtime
from pipeline import ConfigurationError, Message, Timeout
from pipeline.config import parse

ROOT = str(Path(__file__).parents[2])


def runtime(name: str, pipelines: dict[str, Any], queues: dict[str, Any], **more: Any) -> Runtime:
    config = {
        "name": name,
        "connections": {"main": {"provider": "memory"}},
        "queues": {queue: {"connection": "main"} | rest for queue, rest in queues.items()},
        "pipelines": pipelines,
    }
    return Runtime(parse(config | more), path=[ROOT])


def pipeline(handler: str, queue: str = "first", **more: Any) -> dict[str, Any]:
    return {"queue": queue, "handler": f"tests.cluster.work:{handler}"} | more


@pytest.mark.spec("F1", "F3", "F4", "H1", "P11")
@pytest.mark.parametrize(
    ("handler", "dialect"),
    [
        ("in_order", "native"),
        ("in_order", "groups"),
        ("in_order_async", "native"),
        ("in_batches", "groups"),
    ],
)
async def test_sessions_stay_in_order_across_actors(
    ray_cluster: None, handler: str, dialect: str
) -> None:
    """Two receivers, two routers and three handlers keep 40 sessions in order, failures and all."""
    from tests.cluster.work import messages

    one = runtime(
        f"order-{handler.replace('_', '-')}-{dialect}",
        {"one": pipeline(handler, receivers=2, routers=2, handlers=3)},
        {"first": {"fifo": True, "sessions": dialect}},
    )
    async with one:
        await one.client.send_many("first", messages(40, 50))
        await one.until_empty()
        states = (await one.states())["one"]
        totals = await one.totals()
    assert {session: (seen.count, seen.out_of_order) for session, seen in states.items()} == {
        f"s{number}": (50, 0) for number in range(40)
    }
    assert (totals.completed, totals.dead_lettered) == (2_000, 0)
    assert one.drained is not None
    assert one.drained.clean


@pytest.mark.spec("H2", "H5", "R3")
async def test_what_can_not_be_handled_is_dead_lettered_with_its_reason(ray_cluster: None) -> None:
    """A rejected message and one that fails at every attempt end in the dead-letter queue."""
    one = runtime(
        "dead",
        {"one": pipeline("picky", retry={"max_attempts": 2, "initial": 0.05})},
        {"first": {"fifo": True}},
    )
    async with one:
        for body in (b"reject", b"fail", b"good"):
            await one.client.send("first", Message(body, session="s"))
        await one.until_empty()
        letters = await one.client.receive("first", max_messages=9, dead_letters=True)
        totals = await one.totals()
    reasons = {letter.body: letter.dead_letter_reason for letter in letters}
    assert reasons == {b"reject": "rejected", b"fail": "attempts_exhausted"}
    described = {
        letter.body: json.loads(letter.dead_letter_description or "{}") for letter in letters
    }
    assert described[b"reject"]["reason"] == "not wanted"
    assert described[b"fail"]["attempts"] == 2
    assert described[b"fail"]["error"] == "RuntimeError"
    assert totals.completed == 1


@pytest.mark.spec("H3", "F8")
async def test_what_a_handler_sends_reaches_another_pipeline_in_order(ray_cluster: None) -> None:
    """One pipeline sends on, the other counts: everything arrives once and in order."""
    from tests.cluster.work import messages

    both = runtime(
        "chain",
        {
            "one": pipeline("forward"),
            "two": pipeline("in_order", queue="second", handlers=2),
        },
        {"first": {"fifo": True}, "second": {"fifo": True}},
    )
    async with both:
        await both.client.send_many("first", messages(5, 40))
        await both.until_empty()
        states = (await both.states())["two"]
    assert sorted((seen.count, seen.out_of_order) for seen in states.values()) == [(40, 0)] * 5


@pytest.mark.spec("F6")
async def test_a_drain_lets_running_messages_finish_and_gives_the_rest_back(
    ray_cluster: None,
) -> None:
    """What runs is settled; what has not begun is available again at once, uncounted."""
    one = runtime("drain", {"one": pipeline("slow_async")}, {"first": {"fifo": True}})
    async with one:
        await one.client.send("first", Message(b"1.5", session="a"))
        await one.client.send_many("first", [Message(b"0", session="a") for _ in range(20)])
        await asyncio.sleep(1.0)
        drained = await one.drain()
        totals = await one.totals()
        depth = await one.client.depth("first")
    assert drained.clean
    assert totals.completed == 1
    assert (depth.available, depth.in_hand) == (20, 0)


@pytest.mark.spec("F6")
async def test_a_handler_that_does_not_end_is_killed(ray_cluster: None) -> None:
    """A sync handler deaf to the drain is killed, and what it had in hand is given back."""
    one = runtime(
        "deaf",
        {"one": pipeline("slow")},
        {"first": {"fifo": True}},
        drain={"running": 0.5, "cancel": 0.5},
    )
    async with one:
        await one.client.send("first", Message(b"600", session="a"))
        await asyncio.sleep(1.0)
        drained = await one.drain()
        depth = await one.client.depth("first")
    assert drained.clean
    assert (drained.left, drained.killed) == (0, 1)
    assert (depth.available, depth.in_hand) == (1, 0)


@pytest.mark.spec("F6", "F7", "F3")
async def test_a_router_that_dies_while_it_drains_holds_nothing_up(ray_cluster: None) -> None:
    """What its handler runs ends, and only then it is given back; nobody is killed for it."""
    one = runtime("router-gone", {"one": pipeline("slow_async")}, {"first": {"fifo": True}})
    async with one:
        await one.client.send("first", Message(b"4", session="a"))
        await one.client.send_many("first", [Message(b"0", session="a") for _ in range(20)])
        await asyncio.sleep(1.0)
        draining = asyncio.ensure_future(one.drain())
        await asyncio.sleep(1.0)
        [pid] = [each.pid for name, each in one.processes.items() if "router" in name]
        os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(1.0)
        before = await one.client.depth("first")
        drained = await draining
        depth = await one.client.depth("first")
    assert before.in_hand == 21, "a session is given back as a whole"
    assert drained.clean
    assert drained.killed == 0
    assert (depth.available, depth.in_hand) == (21, 0)


@pytest.mark.spec("F6", "H6")
async def test_an_async_handler_is_cancelled_and_its_message_given_back(ray_cluster: None) -> None:
    """After the time for running messages an async handler is cancelled: that is no attempt."""
    one = runtime(
        "cancel",
        {"one": pipeline("slow_async")},
        {"first": {"fifo": True}},
        drain={"running": 0.5, "cancel": 5.0},
    )
    async with one:
        await one.client.send("first", Message(b"600", session="a"))
        await asyncio.sleep(1.0)
        drained = await one.drain()
        depth = await one.client.depth("first")
    assert drained.clean
    assert (depth.available, depth.in_hand) == (1, 0)


@pytest.mark.spec("F8")
async def test_a_second_run_of_one_name_is_refused(ray_cluster: None) -> None:
    """Two runs with one name in one cluster would share their actors' names."""
    parts = ({"one": pipeline("picky")}, {"first": {}})
    async with runtime("twice", *parts):
        with pytest.raises(ConfigurationError, match="a run named 'twice' is active"):
            await runtime("twice", *parts).start()


@pytest.mark.spec("F9")
async def test_a_start_that_can_not_have_its_place_says_so(ray_cluster: None) -> None:
    """Ray waits for ever without a word; the runtime names the actor and what it asks for."""
    one = runtime(
        "greedy",
        {"one": pipeline("picky")},
        {"first": {}},
        ray={"handler_cpus": 64.0},
        timeouts={"start": 2.0},
    )
    with pytest.raises(Timeout, match=r"handler:one:0 .* 64 CPU"):
        await one.start()


@pytest.mark.spec("P4", "H6")
async def test_messages_without_order_run_side_by_side(ray_cluster: None) -> None:
    """On a queue without sessions a slow message holds back nobody."""
    one = runtime("side", {"one": pipeline("slow_async")}, {"first": {}})
    async with one:
        await one.client.send("first", Message(b"600"))
        await one.client.send_many("first", [Message(b"0") for _ in range(50)])
        async with asyncio.timeout(20):
            while (await one.totals()).completed < 50:
                await one.next_look()
        one_left = (await one.client.depth("first")).in_hand
        await one.client.depth("first")
        # The slow one is cancelled by the drain at once, to keep the test short.
        for actors in one._actors.values():
            for place in actors.handlers:
                await place.stop_running()
    assert one_left == 1
