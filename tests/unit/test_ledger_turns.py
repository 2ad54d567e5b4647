"""The ledger of deliveries and the turns of a session, driven with every order of events."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from pipeline.batch import MessageBatch
from pipeline.errors import ValidationError
from pipeline.ledger import ENDED, IN_HAND, LOST, MOST_ROWS, SETTLING, Ledger, Lot
from pipeline.rows import Rows
from pipeline.turns import Held, Turns


def held(sequence: int) -> Held:
    return Held(sequence, sequence, MessageBatch.empty(), 0)


def admit(ledger: Ledger, count: int) -> Lot:
    return ledger.admit(
        [object()] * count,
        (),
        np.zeros(count, np.int32),
        np.arange(count),
        np.arange(10, 10 + count, dtype=np.int32),
        np.zeros(count),
    )


class Ledgers(RuleBasedStateMachine):
    """Rows come, are settled, lost and ended in any order; the model is a dict of states."""

    rows = Bundle("rows")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.states: dict[int, int] = {}
        self.lots: dict[int, int] = {}

    @rule(target=rows, count=st.integers(0, 4))
    def receive(self, count: int) -> Any:
        """The rows of one receive get numbers nobody else has."""
        lot = admit(self.ledger, count)
        numbers = [lot.base + at for at in range(count)]
        assert not set(numbers) & set(self.states)
        assert all(Ledger.base(number) == lot.base for number in numbers)
        self.states |= dict.fromkeys(numbers, IN_HAND)
        self.lots[lot.base] = count
        return multiple(*numbers)

    @rule(row=rows)
    def settle(self, row: int) -> None:
        """Only a row in hand is settled; a second outcome is refused; a lost one isn't ours."""
        state = self.states[row]
        if state == IN_HAND:
            assert self.ledger.settle(row)
            self.states[row] = SETTLING
        elif state == LOST:
            assert not self.ledger.settle(row)
        else:
            with pytest.raises(ValidationError):
                self.ledger.settle(row)

    @rule(row=rows)
    def lose(self, row: int) -> None:
        """A lock that ended is news once, and none after the row's end."""
        if not self.open_lot(row):
            with pytest.raises(ValidationError):
                self.ledger.lose(row)
            return
        assert self.ledger.lose(row) == (self.states[row] <= SETTLING)
        if self.states[row] <= SETTLING:
            self.states[row] = LOST

    @rule(some=st.lists(rows, unique=True))
    def settle_many(self, some: list[int]) -> None:
        """Rows of several receives are settled lot by lot, and those that were lost are named."""
        if any(self.states[row] in (SETTLING, ENDED) for row in some):
            return
        lost: set[int] = set()
        for lot, places in self.ledger.lots(some):
            lost |= set((lot.base + lot.settle(places)).tolist())
        assert lost == {row for row in some if self.states[row] == LOST}
        self.states |= dict.fromkeys(set(some) - lost, SETTLING)

    @rule(some=st.lists(rows, min_size=1, unique=True), data=st.data())
    def settle_again(self, some: list[int], data: st.DataObject) -> None:
        """A second outcome of a row is refused among many, and the others are as they were."""
        twice = data.draw(st.booleans())
        for lot, places in list(self.open_lots(some)):
            states = [self.states[lot.base + place] for place in places.tolist()]
            if SETTLING in states or ENDED in states or (twice and IN_HAND in states):
                with pytest.raises(ValidationError, match="must come once"):
                    lot.settle(np.repeat(places, 2) if twice else places)

    def open_lots(self, some: list[int]) -> Iterator[tuple[Lot, Rows]]:
        return self.ledger.lots([row for row in some if self.open_lot(row)])

    @rule(some=st.lists(rows, unique=True))
    def end(self, some: list[int]) -> None:
        """Rows end once, in any mixture of receives, and give their bytes back."""
        if any(self.states[row] == ENDED for row in some):
            row = next(row for row in some if self.states[row] == ENDED)
            with pytest.raises(ValidationError, match="must end once"):
                [self.ledger.end(*one) for one in self.ledger.lots([row])]
            return
        receipts = self.ledger.receipts(some)
        assert receipts == [self.ledger.find(row)[0].receipts[row & 0xFFFF] for row in some]
        size = sum(self.ledger.end(*one) for one in self.ledger.lots(some))
        assert size == sum(10 + row - Ledger.base(row) for row in some)
        self.states |= dict.fromkeys(some, ENDED)

    def open_lot(self, row: int) -> bool:
        base = Ledger.base(row)
        return any(self.states[base + at] != ENDED for at in range(self.lots[base]))

    @invariant()
    def it_knows_what_is_in_hand(self) -> None:
        open_rows = [row for row, state in self.states.items() if state != ENDED]
        assert self.ledger.open == len(open_rows)
        for row, state in self.states.items():
            assert self.ledger.state(row) == state
        for base, count in self.lots.items():
            lot = self.ledger.lot(base)
            states = [self.states[base + at] for at in range(count)]
            if all(state == ENDED for state in states):
                assert lot is None, "a lot goes with its last row"
            else:
                assert lot is not None
                assert lot.open == sum(state != ENDED for state in states)
                assert lot.unsettled() == [
                    base + at for at, state in enumerate(states) if state <= SETTLING
                ]
                assert self.ledger.find(base + 0) == (lot, 0)


TestLedgers = pytest.mark.spec("F2", "P14")(Ledgers.TestCase)


@pytest.mark.spec("F5")
def test_a_receive_has_a_largest_size() -> None:
    """More rows than there are numbers in a lot are refused."""
    ledger = Ledger()
    with pytest.raises(ValidationError, match="at most"):
        admit(ledger, MOST_ROWS + 1)
    assert ledger.open == 0


class Session(RuleBasedStateMachine):
    """A receiver with one session: rows come, go out, end well or badly; turns follow turns.

    The machine does what the receiver does; what it checks is what law 3 promises.
    """

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns("s", 1, 0)
        self.now = 0.0
        self.number = 0
        self.out: dict[int, int] = {}  # sequence to the turn it went out in
        self.failed: set[int] = set()
        self.ended: set[int] = set()
        self.given_back = False

    def go(self, sequence: int) -> None:
        assert sequence not in self.out
        older = [one for one in range(1, sequence) if one not in self.ended]
        assert all(one in self.out for one in older), "nothing overtakes what waits"
        self.turns.out += 1
        self.out[sequence] = self.turns.turn

    @rule()
    def arrive(self) -> None:
        """A new row goes out, or waits while the turn is stopped."""
        if self.given_back:
            return
        self.number += 1
        self.turns.held += 1
        if self.turns.stopped:
            self.turns.hold(held(self.number))
        else:
            self.go(self.number)

    @rule(data=st.data(), fate=st.sampled_from(["completed", "retry", "dead", "released"]))
    def outcome(self, data: st.DataObject, fate: str) -> None:
        """A row's outcome comes; behind a stop of its turn only releases come."""
        if not self.out:
            return
        sequence = data.draw(st.sampled_from(sorted(self.out)))
        if any(one < sequence for one in self.out):
            return  # the handler answers for them in order
        del self.out[sequence]
        self.turns.out -= 1
        if self.turns.stopped:
            fate = "released"
        if fate == "completed":
            self.ended.add(sequence)
            self.turns.held -= 1
        elif fate == "dead":
            self.turns.dispose()
            self.ended.add(sequence)
        else:
            self.turns.hold(held(sequence))
            if fate == "retry":
                delay = data.draw(st.sampled_from([0.5, 5.0, 100.0]))
                self.turns.wait(self.now, delay, 60.0)

    @rule()
    def confirmed(self) -> None:
        """A dead-lettering is confirmed."""
        if self.turns.disposing:
            self.turns.disposing -= 1
            self.turns.held -= 1

    @rule(seconds=st.sampled_from([0.1, 1.0, 30.0]))
    def time(self, seconds: float) -> None:
        """Time goes on; at its due time the session goes on, or back."""
        self.now += seconds
        due = self.turns.due()
        if due is None or due > self.now or self.given_back:
            return
        assert not self.out, "no turn begins while rows of the old one are out"
        assert not self.turns.disposing
        if self.turns.gives_back(self.now):
            self.given_back = True
            return
        before = self.turns.turn
        again = self.turns.resume(self.now)
        assert self.turns.turn == before + 1
        sequences = [one.sequence for one in again]
        assert sequences == sorted(sequences)
        for sequence in sequences:
            self.go(sequence)

    @invariant()
    def every_row_is_somewhere(self) -> None:
        waiting = {one.sequence for one in self.turns.waiting}
        assert waiting | set(self.out) | self.ended == set(range(1, self.number + 1))
        assert not waiting & set(self.out)
        assert self.turns.held == len(waiting) + len(self.out) + self.turns.disposing
        assert self.turns.quiet() == (not self.out and not self.turns.disposing)
        if not self.turns.stopped:
            assert self.turns.due() is None
            assert not waiting


TestSession = pytest.mark.spec("F3", "H5")(Session.TestCase)


@pytest.mark.spec("F3")
def test_a_stopped_turn_is_due_when_all_of_it_is_back() -> None:
    """Not while a row is out or being dead-lettered, not when the lock is lost."""
    turns = Turns("s", 1, 0)
    assert turns.due() is None
    turns.out = 1
    turns.hold(held(1))
    turns.wait(10.0, 2.0, 60.0)
    assert turns.due() is None
    turns.out = 0
    assert turns.due() == 12.0
    turns.dispose()
    assert turns.due() is None
    turns.disposing = 0
    turns.lost = True
    assert turns.due() is None


@pytest.mark.spec("F3", "H5")
def test_the_longest_delay_counts_and_a_long_one_gives_the_session_back() -> None:
    """Up to the limit a session waits in place; beyond it, it is given back when that is over."""
    turns = Turns("s", 1, 0)
    turns.hold(held(1))
    turns.wait(0.0, 5.0, 60.0)
    turns.wait(0.0, 2.0, 60.0)
    assert turns.due() == 5.0
    assert not turns.gives_back(1000.0)
    turns.wait(0.0, 61.0, 60.0)
    assert turns.due() == 60.0
    assert not turns.gives_back(59.0)
    assert turns.gives_back(60.0)
    assert [one.sequence for one in turns.resume(0.0)] == [1]
    assert turns.given_back_at is None


@pytest.mark.spec("F3")
def test_a_session_of_which_a_row_may_run_is_not_given_back() -> None:
    """Until a handler has told of a row that was sent behind that one."""
    turns = Turns("s", 1, 0)
    turns.hold(held(1), unknown=True)
    turns.give_back(0.0)
    turns.answered()
    assert (turns.due(), turns.gives_back(9.0)) == (0.0, False), "told of before: it says nothing"
    assert [one.sequence for one in turns.resume(1.0)] == [1]
    turns.hold(held(1))
    assert not turns.gives_back(9.0), "it came back, and reached nobody perhaps"
    turns.resume(2.0)
    turns.answered()
    turns.hold(held(2))
    assert (turns.due(), turns.gives_back(9.0)) == (0.0, True)


@pytest.mark.spec("H4")
def test_a_session_whose_last_row_was_dead_lettered_goes_on_at_once() -> None:
    """Nothing waits: the next turn may begin as soon as that is confirmed."""
    turns = Turns("s", 1, 0)
    turns.dispose()
    assert turns.due() is None
    turns.disposing -= 1
    assert turns.due() == 0.0
    assert turns.resume(0.0) == []
    assert not turns.stopped


@pytest.mark.spec("F3", "F5")
def test_a_turn_that_came_back_untried_is_followed_after_a_pause() -> None:
    """Who refused all of it would refuse it again in the same moment; what was tried goes on."""
    turns = Turns("s", 1, 0)
    turns.hold(held(1))
    assert turns.due() == 0.0, "the first time a row comes back"
    turns.resume(5.0)
    turns.hold(held(1))
    assert turns.due() == 5.2
    turns.resume(6.0)
    turns.wait(6.0, 0.0, 60.0)
    turns.hold(held(1))
    assert turns.due() == 6.0, "it failed, and its delay is the handler's to say"
    turns.hold(held(2))
    turns.resume(7.0)
    turns.hold(held(2))
    assert turns.due() == 0.0, "the first row was handled"


def test_held_rows_stand_in_the_order_of_their_sequence() -> None:
    """Where their copy lies plays no part while sequences differ."""
    rows = [held(3), held(1), held(2)]
    assert [one.sequence for one in sorted(rows)] == [1, 2, 3]
