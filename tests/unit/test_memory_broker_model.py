"""The memory broker against a model of a few lines: whatever is done to it, in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pipeline.clock import SeededClock
from pipeline.message import Message, to_row
from pipeline.providers.memory import MemoryBroker
from pipeline.providers.port import DeadLetter, Want
from pipeline.testing import VirtualLoop
from tests.unit.memory_rig import settings

T = TypeVar("T")
LOCK = 30.0
SESSIONS = ("a", "b", "c")


@dataclass
class Letter:
    """What the model knows of one message."""

    sequence: int
    session: str
    count: int = 1
    lane: int | None = None
    token: int = 0
    ends: float = 0.0


@dataclass
class Possession:
    """What the model knows of one held session."""

    lane: int
    number: int
    ends: float


@dataclass
class Model:
    """The queue as it should be."""

    waiting: dict[int, Letter] = field(default_factory=dict)
    hand: dict[int, Letter] = field(default_factory=dict)
    held: dict[str, Possession] = field(default_factory=dict)
    completed: int = 0
    dead: int = 0
    void: list[tuple[int, int]] = field(default_factory=list)

    def of(self, session: str) -> list[int]:
        """The sequences that wait in a session."""
        return sorted(s for s, letter in self.waiting.items() if letter.session == session)


class BrokerMachine(RuleBasedStateMachine):
    """Two lanes, three sessions; a receive, a settlement or a lapse of time at every step."""

    dialect: ClassVar[str]
    on_receive: ClassVar[bool]

    @initialize()
    def start(self) -> None:
        self.loop = VirtualLoop()
        self.broker = MemoryBroker(
            {
                "q": settings(
                    fifo=self.dialect != "none",
                    sessions=self.dialect,
                    count="on_receive" if self.on_receive else "on_failure",
                    visibility=LOCK,
                )
            },
            SeededClock(self.loop.time),
        )
        self.model = Model()
        self.sent = self.last = 0
        self.numbers: set[int] = set()
        self.lanes = [self.run(self.broker.open_lane("q")) for _ in range(2)]

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        for lane in self.lanes:
            self.run(self.broker.close_lane(lane))
        lane = self.run(self.broker.open_lane("q"))
        want = Want(messages=10_000, new_sessions=10)
        got = self.run(self.broker.receive(lane, want)).batch
        left = {**self.model.waiting}
        left.update({letter.sequence: letter for letter in self.model.hand.values()})
        assert sorted(got.values("sequence")) == sorted(left)
        for session in SESSIONS:
            rows = zip(got.values("sequence"), got.values("session"), strict=True)
            own = [sequence for sequence, of in rows if of == session]
            assert self.dialect == "none" or own == sorted(own)
        assert self.sent == len(left) + self.model.completed + self.model.dead
        self.loop.close()

    # What is done.

    @rule(sessions=st.lists(st.sampled_from(SESSIONS), min_size=1, max_size=4))
    def send(self, sessions: list[str]) -> None:
        rows = [to_row(Message(b"x", session=session)) for session in sessions]
        sent = self.run(self.broker.send("q", rows))
        for sequence, session in zip(sent.sequences, sessions, strict=True):
            assert sequence > self.last  # dead letters take numbers too
            self.last = sequence
            self.sent += 1
            self.model.waiting[sequence] = Letter(sequence, session)

    @rule(
        at=st.integers(0, 1),
        messages=st.sampled_from([1, 2, 3, 100]),
        each=st.sampled_from([1, 2, 100]),
        new=st.sampled_from([0, 1, 3]),
        named=st.booleans(),
    )
    def receive(self, at: int, messages: int, each: int, new: int, named: bool) -> None:
        lane = self.lanes[at]
        mine = {s: p.number for s, p in self.model.held.items() if p.lane == lane}
        held = dict.fromkeys(mine.values(), each) if named else {}
        want = Want(messages=messages, per_session=each, new_sessions=new, held=held)
        free = [s for s in SESSIONS if s not in self.model.held and self.model.of(s)]
        got = self.run(self.broker.receive(lane, want))
        self.check_opened(lane, got.opened, new)
        if self.dialect == "native":
            assert got.others_wait == (len(free) > len(got.opened))
            assert len(got.opened) == min(new, len(free)) or len(got.receipts) == messages
        rows = got.batch
        columns = ("sequence", "session", "holding", "delivery_count")
        came: dict[str, list[int]] = {}
        expected = self.expected(lane, held, {holding.number for holding in got.opened})
        for token, sequence, session, holding, count in zip(
            got.receipts, *[rows.values(name) for name in columns], strict=True
        ):
            letter = self.model.waiting.pop(sequence)  # it waited, and so is in no other hand
            assert (letter.session, letter.count) == (session, count)
            if self.dialect == "native":
                assert holding == self.model.held[session].number
            came.setdefault(session, []).append(sequence)
            letter.lane, letter.token, letter.ends = lane, token, self.loop.time() + LOCK
            self.model.hand[token] = letter
            if self.on_receive:
                letter.count += 1
        self.check_what_came(came, expected, messages, each)

    def check_opened(self, lane: int, opened: Any, most: int) -> None:
        assert len(opened) <= most
        for holding in opened:
            assert holding.session not in self.model.held
            assert holding.number > max(self.numbers, default=0)
            self.numbers.add(holding.number)
            self.model.held[holding.session] = Possession(
                lane, holding.number, self.loop.time() + LOCK
            )

    def expected(self, lane: int, named: dict[int, int], opened: set[int]) -> dict[str, list[int]]:
        """What may come, by session, after the opened ones were noted as held."""
        may: dict[str, list[int]] = {}
        for session in SESSIONS:
            possession = self.model.held.get(session)
            blocked = any(letter.session == session for letter in self.model.hand.values())
            if self.dialect == "native" and (
                possession is None
                or possession.lane != lane
                or possession.number not in opened.union(named)
            ):
                continue
            if self.dialect == "groups" and blocked:
                continue
            may[session] = self.model.of(session)
        return may

    def check_what_came(
        self, came: dict[str, list[int]], expected: dict[str, list[int]], messages: int, each: int
    ) -> None:
        assert set(came) <= set(expected)
        if self.dialect == "none":
            every = sum(map(len, expected.values()))
            assert sum(map(len, came.values())) == min(messages, every)
            return
        for session, sequences in came.items():
            assert (
                sequences == expected[session][: len(sequences)]
            )  # the first that wait, ascending
            assert len(sequences) <= each
        total = sum(map(len, came.values()))
        assert total <= messages
        if total < messages:  # then nothing that may come was left behind
            most = {session: min(each, len(waits)) for session, waits in expected.items()}
            found = {session: len(sequences) for session, sequences in came.items()}
            assert found == {session: count for session, count in most.items() if count}

    @precondition(lambda self: self.model.hand)
    @rule(
        data=st.data(),
        how=st.sampled_from(["complete", "complete", "abandon", "release", "dead_letter"]),
    )
    def settle(self, data: st.DataObject, how: str) -> None:
        tokens = data.draw(
            st.lists(st.sampled_from(sorted(self.model.hand)), unique=True, min_size=1)
        )
        lane = self.model.hand[tokens[0]].lane
        assert lane is not None
        mine = [token for token in tokens if self.model.hand[token].lane == lane]
        more = ([DeadLetter("r")] * len(mine),) if how == "dead_letter" else ()
        failures = self.run(getattr(self.broker, how)(lane, mine, *more))
        assert failures == {}
        for token in mine:
            letter = self.model.hand.pop(token)
            self.model.void.append((lane, token))
            if how == "complete":
                self.model.completed += 1
            elif how == "dead_letter":
                self.model.dead += 1
            else:
                self.again(letter, failed=how == "abandon")

    def again(self, letter: Letter, *, failed: bool) -> None:
        if failed and not self.on_receive:
            letter.count += 1
        letter.lane = None
        self.model.waiting[letter.sequence] = letter

    @precondition(lambda self: self.model.void)
    @rule(data=st.data())
    def settle_again(self, data: st.DataObject) -> None:
        lane, token = data.draw(st.sampled_from(self.model.void))
        failures = self.run(self.broker.complete(lane, [token]))
        assert list(failures) == [0]

    @precondition(lambda self: self.model.held)
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        session = data.draw(st.sampled_from(sorted(self.model.held)))
        possession = self.model.held.pop(session)
        assert self.run(self.broker.release_sessions(possession.lane, [possession.number])) == {}
        hand = [letter for letter in self.model.hand.values() if letter.session == session]
        self.lose(hand, failed=False)

    @precondition(lambda self: self.model.held or self.model.hand)
    @rule()
    def renew(self) -> None:
        ends = self.loop.time() + LOCK
        for lane in self.lanes:
            if self.dialect == "native":
                mine = [p for p in self.model.held.values() if p.lane == lane]
                call = self.broker.renew_sessions(lane, [p.number for p in mine])
                for possession in mine:
                    possession.ends = ends
            else:
                letters = [at for at in self.model.hand.values() if at.lane == lane]
                call = self.broker.renew(lane, [letter.token for letter in letters])
                for letter in letters:
                    letter.ends = ends
            assert self.run(call).failures == {}

    @rule(seconds=st.sampled_from([1.0, 10.0, 29.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))
        now = self.loop.time()
        if self.dialect == "native":
            for session, possession in list(self.model.held.items()):
                if possession.ends <= now:
                    del self.model.held[session]
                    hand = self.model.hand.values()
                    self.lose([letter for letter in hand if letter.session == session], failed=True)
        else:
            late = [letter for letter in self.model.hand.values() if letter.ends <= now]
            self.lose(late, failed=True)

    def lose(self, letters: list[Letter], *, failed: bool) -> None:
        for letter in letters:
            del self.model.hand[letter.token]
            assert letter.lane is not None
            self.model.void.append((letter.lane, letter.token))
            self.again(letter, failed=failed)

    @rule(at=st.integers(0, 1))
    def close_lane(self, at: int) -> None:
        lane = self.lanes[at]
        self.run(self.broker.close_lane(lane))
        self.lanes[at] = self.run(self.broker.open_lane("q"))
        self.model.held = {s: p for s, p in self.model.held.items() if p.lane != lane}
        hand = [letter for letter in self.model.hand.values() if letter.lane == lane]
        self.lose(hand, failed=False)
        self.model.void = [(of, token) for of, token in self.model.void if of != lane]

    # What always holds.

    @invariant()
    def the_counts_agree(self) -> None:
        if not hasattr(self, "loop"):
            return
        depth = self.run(self.broker.depth("q"))
        assert depth.available == len(self.model.waiting)
        assert depth.in_hand == len(self.model.hand)
        assert depth.dead_lettered == self.model.dead
        counters = self.run(self.broker.counters("q"))
        assert counters.completed == self.model.completed
        assert counters.sent == self.sent


def machine(dialect: str, on_receive: bool) -> type[BrokerMachine]:
    """The machine of one dialect."""
    name = f"{dialect}-{'on_receive' if on_receive else 'on_failure'}"
    return type(name, (BrokerMachine,), {"dialect": dialect, "on_receive": on_receive})


@pytest.mark.spec("P11", "P14", "F2", "F3")
@pytest.mark.parametrize("dialect", ["native", "groups", "none"])
@pytest.mark.parametrize("on_receive", [False, True], ids=["on_failure", "on_receive"])
def test_the_broker_does_what_the_model_does(dialect: str, on_receive: bool) -> None:
    """Nothing is lost or in two hands; sessions are exclusive, in order and counted rightly."""
    machine(dialect, on_receive).TestCase("runTest").runTest()
