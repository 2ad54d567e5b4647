"""Order under deaths and lost calls: every kind of process dies, lines lose calls and answers."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter, defaultdict
from typing import Any

import pytest

from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.handlers.api import Context, Reject, Retry, handler
from pipeline.message import Message
from pipeline.retry import RetryPolicy
from pipeline.state.memory import MemoryStore
from pipeline.testing.flow import FlowSettings
from pipeline.testing.virtual_loop import VirtualLoop
from tests.simulation.crew import Crew, Trouble

SEEDS = 1_000 if os.environ.get("QR_SOAK") else 20
KINDS = ("handler", "router", "receiver")


class Journal:
    """What began although something before it had no end, or beside another of its session."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.faults: list[str] = []
        self.disposed: defaultdict[str, set[int]] = defaultdict(set)
        self.running: set[str] = set()

    def handler(self) -> Any:
        """Its state is the positions that were applied: what is not committed is not in it."""

        @handler(state=list)
        async def one(body: str, state: list[int], context: Context) -> Any:
            session, position = body.split(":")
            self.begin(session, int(position), state)
            try:
                return await self.work(session, int(position), state, context.attempt)
            finally:
                self.running.discard(session)

        return one

    def begin(self, session: str, at: int, state: list[int]) -> None:
        missing = set(range(at)) - set(state) - self.disposed[session]
        if missing or at in state or session in self.running:
            self.faults.append(f"{session}: {at} began; before it: {missing}, applied: {state}")
        self.running.add(session)

    async def work(self, session: str, at: int, state: list[int], attempt: int) -> Any:
        kinds = ("ok", "raise", "retry", "reject", "slow")
        what = self.chance.choices(kinds, (70, 8, 6, 4, 8))[0]
        if what == "slow":
            await asyncio.sleep(self.chance.random() * 0.3)
        if what in ("ok", "slow"):
            state.append(at)
            return None
        if what == "reject" or attempt >= 5:
            self.disposed[session].add(at)
            return Reject("no")
        if what == "retry":
            return Retry(self.chance.random() * 5)
        raise ValueError(what)


async def scenario(dialect: str, seed: int, deaths: int, share: float) -> None:
    chance = random.Random(seed)
    journal = Journal(chance)
    stores: defaultdict[int, MemoryStore] = defaultdict(MemoryStore)
    settings = FlowSettings(
        queue=MemoryQueue(connection="m", fifo=True, sessions=dialect, visibility=30.0),
        receivers=chance.randint(1, 2),
        routers=chance.randint(1, 2),
        handlers=chance.randint(2, 3),
        messages=chance.choice((4, 16, 1000)),
        batch_rows=chance.choice((1, 3, 1000)),
        sessions=chance.choice((None, 2)),
        wait=chance.choice((0.5, 20.0)),
        timeout=10.0,
        # Deaths are attempts too: none may use them up.
        retry=RetryPolicy(50, 0.5, 5.0, 2.0, jitter="half"),
        store_of=stores.__getitem__,
    )
    clock = SeededClock(asyncio.get_running_loop().time, seed)
    crew = Crew(journal.handler(), settings, clock, Trouble(chance, share))
    flow = crew.flow
    names = [f"s{number}" for number in range(chance.randint(1, 6))]
    sessions = chance.choices(names, k=chance.randint(1, 120))
    numbers: Counter[str] = Counter()
    messages = []
    for name in sessions:
        messages.append(Message(f"{name}:{numbers[name]}".encode(), session=name))
        numbers[name] += 1
    half = chance.randint(0, len(messages))
    await flow.send(messages[:half])
    await flow.start()
    await asyncio.sleep(chance.random())
    await flow.send(messages[half:])
    for _ in range(deaths):
        await asyncio.sleep(chance.choice((0.01, 0.1, 1, 5)))
        kind = chance.choice(KINDS)
        number = chance.randrange(getattr(settings, f"{kind}s"))
        getattr(crew, f"kill_{kind}")(number)
        await asyncio.sleep(chance.choice((0, 0.01, 0.3, 3)))
        await getattr(crew, f"replace_{kind}")(number)
    async with asyncio.timeout(20_000):
        await flow.settled()
    flow.check()
    assert journal.faults == []
    counters = await flow.broker.counters("queue")
    assert counters.completed + counters.dead_lettered == len(messages)
    states = {name: json.loads(state) for name, state in (await flow.states()).items()}
    assert all(state == sorted(set(state)) for state in states.values())
    assert sum(map(len, states.values())) == counters.completed


@pytest.mark.spec("F2", "F3", "F7", "T6")
@pytest.mark.parametrize("dialect", ["native", "groups"])
@pytest.mark.parametrize(
    ("deaths", "share"), [(4, 0.0), (0, 0.1), (4, 0.05)], ids=["deaths", "losses", "both"]
)
def test_no_session_is_out_of_order_whatever_dies_or_is_lost(
    dialect: str, deaths: int, share: float
) -> None:
    """One at a time, each after all before it were applied or disposed of, each applied once."""
    for seed in range(SEEDS):
        loop = VirtualLoop()
        try:
            loop.run_until_complete(scenario(dialect, seed, deaths, share))
        except BaseException as error:
            error.add_note(f"seed {seed}, {dialect}, {deaths} deaths, {share} lost")
            raise
        finally:
            # What the dead left behind waits for ever.
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
