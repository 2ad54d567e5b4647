"""Messages that end their process: found one by one, counted, dead-lettered, and no other is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from actors import crew
from actors.runtime import Runtime
from pipeline import Message
from pipeline.config import parse

ROOT = str(Path(__file__).parents[2])


def runtime(tmp_path: Path, handler: str, fifo: bool = True, **more: Any) -> Runtime:
    pipeline = {"retry": {"max_attempts": 3, "initial": 0.05}} | more
    config = {
        "name": "attempts",
        "connections": {"main": {"provider": "memory"}},
        "queues": {"q": {"connection": "main", "fifo": fifo}},
        "pipelines": {"p": {"queue": "q", "handler": f"tests.faults.work:{handler}"} | pipeline},
        "state": {"store": "sqlite", "path": str(tmp_path / "state.sqlite")},
        "timeouts": {"answer": 4.0},
    }
    return Runtime(parse(config), path=[ROOT])


@pytest.mark.spec("H5", "F7", "T3")
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    "handler", ["poisoned", "poisoned_async", "poisoned_batch", "poisoned_unordered"]
)
async def test_the_message_that_kills_is_found(
    fault_cluster: None, tmp_path: Path, handler: str
) -> None:
    """After three runs alone it is dead-lettered; the others are handled once and not counted."""
    ordered = handler != "poisoned_unordered"
    one = runtime(tmp_path, handler, ordered)
    messages = [
        Message(
            b"poison" if (session, number) == (3, 5) else str(number).encode(),
            session=f"s{session}" if ordered else None,
        )
        for number in range(10)
        for session in range(6)
    ]
    async with one:
        await one.client.send_many("q", messages)
        await one.until_empty()
        totals = await one.totals()
        letters = await one.client.receive("q", max_messages=10, wait=1, dead_letters=True)
        states = (await one.states()).get("p", {})
        replaced = one.look.pipelines["p"].replaced
    assert (totals.completed, totals.dead_lettered) == (59, 1)
    [letter] = letters
    assert letter.body == b"poison"
    assert letter.dead_letter_reason == "attempts_exhausted"
    facts = json.loads(letter.dead_letter_description or "")
    assert (facts["error"], facts["attempts"]) == ("HandlerDied", 3)
    assert replaced in (3, 4), "the first death may have had several rows in hand"
    if ordered:
        for session in range(6):
            counts = {str(n): 1 for n in range(10) if (session, n) != (3, 5)}
            assert states[f"s{session}"] == counts | {"attempts": 1}


@pytest.mark.spec("H6", "H5", "F7")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("handler", ["endless", "endless_async"])
async def test_a_handler_that_does_not_end_is_killed(
    fault_cluster: None, tmp_path: Path, handler: str
) -> None:
    """Ten seconds after its time-out: an attempt of that message, of none beside it."""
    one = runtime(tmp_path, handler, timeout=0.5, retry={"max_attempts": 2, "initial": 0.05})
    async with one:
        texts = [b"1", b"endless", b"2"]
        await one.client.send_many("q", [Message(t, session=s) for s in "ab" for t in texts[::2]])
        await one.client.send_many("q", [Message(t, session="c") for t in texts])
        await one.until_empty()
        totals = await one.totals()
        [letter] = await one.client.receive("q", max_messages=10, wait=1, dead_letters=True)
        states = (await one.states())["p"]
        replaced = one.look.pipelines["p"].replaced
    assert (totals.completed, totals.dead_lettered, replaced) == (6, 1, 2)
    assert json.loads(letter.dead_letter_description or "")["attempts"] == 2
    assert states == {session: {"1": 1, "2": 1, "attempts": 1} for session in "abc"}


@pytest.mark.spec("F7", "F3", "F4")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["handler", "router", "receiver"])
async def test_a_stopped_process_is_replaced_and_does_no_harm(
    fault_cluster: None, tmp_path: Path, kind: str
) -> None:
    """SIGSTOP: it is silent, is replaced, and what it would do when continued is refused."""
    one = runtime(tmp_path, "poisoned")
    async with one:
        await one.client.send_many(
            "q", [Message(str(n).encode(), session=f"s{s}") for n in range(300) for s in range(20)]
        )
        before = one.processes[f"{kind}:p:0"].pid
        os.kill(before, signal.SIGSTOP)
        async with asyncio.timeout(60):
            while (now := one.processes.get(f"{kind}:p:0")) is None or now.pid == before:
                await one.next_look()
        await one.until_empty()
        totals = await one.totals()
        states = (await one.states())["p"]
    assert totals.completed == 6_000
    expected = {str(n): 1 for n in range(300)} | {"attempts": 1}
    assert all(state == expected for state in states.values())
    assert len(states) == 20


@pytest.mark.spec("F7", "F3", "F4")
@pytest.mark.timeout(180)
async def test_a_handler_that_was_given_up_and_goes_on_does_no_harm(
    fault_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on another machine, where Ray can't end it while it is stopped: what it commits when it is
    continued is refused."""
    spared: list[int] = []

    def spare(place: Any, *_: Any) -> None:
        if place.process is not None:
            spared.append(place.process.pid)
        place.process = None

    monkeypatch.setattr(crew._Place, "_stop_for_good", spare)
    one = runtime(tmp_path, "poisoned")
    async with one:
        await one.client.send_many(
            "q", [Message(str(n).encode(), session=f"s{s}") for n in range(300) for s in range(20)]
        )
        before = one.processes["handler:p:0"].pid
        os.kill(before, signal.SIGSTOP)
        try:
            async with asyncio.timeout(60):
                while (now := one.processes.get("handler:p:0")) is None or now.pid == before:
                    await one.next_look()
        finally:
            os.kill(before, signal.SIGCONT)
        await one.until_empty()
        totals = await one.totals()
        states = (await one.states())["p"]
    assert spared == [before]
    assert totals.completed == 6_000
    expected = {str(n): 1 for n in range(300)} | {"attempts": 1}
    assert all(state == expected for state in states.values())
    assert len(states) == 20


@pytest.mark.spec("F7", "F3", "F4")
@pytest.mark.timeout(180)
async def test_who_dies_while_another_one_is_replaced_is_replaced_too(
    fault_cluster: None, tmp_path: Path
) -> None:
    """Nobody is given an actor that has not begun, and nobody is told twice of one that has."""
    one = runtime(tmp_path, "SlowToStart")
    async with one:
        await one.client.send_many(
            "q", [Message(str(n).encode(), session=f"s{s}") for n in range(400) for s in range(20)]
        )
        for kinds in (("handler", "router"), ("router", "receiver")):
            before = {kind: one.processes[f"{kind}:p:0"].pid for kind in kinds}
            for kind, pid in before.items():
                os.kill(pid, signal.SIGKILL)
                while not any(kind in why for why in one.look.missing):
                    await one.next_look()
            async with asyncio.timeout(60):
                for kind, pid in before.items():
                    name = f"{kind}:p:0"
                    while (now := one.processes.get(name)) is None or now.pid == pid:
                        await one.next_look()
        await one.until_empty()
        totals = await one.totals()
        states = (await one.states())["p"]
    assert totals.completed == 8_000
    expected = {str(n): 1 for n in range(400)} | {"attempts": 1}
    assert all(state == expected for state in states.values())
    assert len(states) == 20
