"""The book of one call: none missing, none twice, and answers in parts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from pipeline.errors import Closed, ValidationError
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part
from pipeline.testing.virtual_loop import VirtualLoop


def now() -> float:
    return asyncio.get_running_loop().time()


def rows_of(part: Part) -> list[int]:
    return list(part.completed) + [outcome.row for outcome in part.others]


def missing(book: OutcomeBook) -> list[int]:
    return [row for row, seen in enumerate(book._seen) if not seen]


class Books(RuleBasedStateMachine):
    """Rows end in any order and by any call, time goes on, and somebody asks for answers."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualLoop()

    def teardown(self) -> None:
        asked = getattr(self, "asked", None)
        if asked is not None:
            asked.cancel()
            self.loop.run_until_complete(asyncio.wait([asked]))
        self.loop.close()

    @initialize(rows=st.integers(1, 8), pause=st.sampled_from([0.0, 1.0]))
    def begin(self, rows: int, pause: float) -> None:
        async def make() -> OutcomeBook:
            return OutcomeBook(rows, pause)

        self.rows = rows
        self.book = self.loop.run_until_complete(make())
        self.ended: list[int] = []
        self.answered: list[int] = []
        self.last = False
        self.parts = 0
        self.given: Part | None = None
        self.asked: asyncio.Task[Part] | None = None

    def within(self, change: object) -> None:
        async def act() -> None:
            change()  # type: ignore[operator]
            # Two passes, so that a woken answer gets to its end.
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        self.loop.run_until_complete(act())
        self.note()

    def note(self) -> None:
        if self.asked is not None and self.asked.done():
            part = self.given = self.asked.result()
            self.asked = None
            self.parts += 1
            self.answered += rows_of(part)
            self.last = part.last

    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Some open rows are completed, none of them twice."""
        left = [row for row in range(self.rows) if row not in self.ended]
        rows = data.draw(st.lists(st.sampled_from(left), unique=True)) if left else []
        self.ended += rows
        self.within(lambda: self.book.complete(rows))

    @rule(data=st.data(), kind=st.sampled_from(Kind))
    def end(self, data: st.DataObject, kind: Kind) -> None:
        """A row ends otherwise; a second end of it is refused and changes nothing."""
        row = data.draw(st.integers(0, self.rows - 1))
        if row in self.ended:
            with pytest.raises(ValidationError, match="once a row"):
                self.within(lambda: self.book.end(Outcome(row, kind)))
            with pytest.raises(ValidationError, match="once a row"):
                self.within(lambda: self.book.complete([row]))
        else:
            self.ended.append(row)
            self.within(lambda: self.book.end(Outcome(row, kind)))

    @precondition(lambda self: self.asked is None and not self.last)
    @rule()
    def ask(self) -> None:
        """The caller asks for the next part."""
        self.asked = self.loop.create_task(self.book.answer(self.parts))
        self.within(lambda: None)

    @precondition(lambda self: self.given is not None)
    @rule()
    def ask_again(self) -> None:
        """The answer was lost on its way: the same part comes again, at once."""
        again = self.loop.run_until_complete(self.book.answer(self.parts - 1))
        assert again is self.given
        self.note()

    @precondition(lambda self: self.asked is not None)
    @rule()
    def ask_twice(self) -> None:
        """Two questions for one part have one answer."""
        second = self.loop.create_task(self.book.answer(self.parts))
        first, number = self.asked, self.parts
        self.within(lambda: [self.book.complete([row]) for row in missing(self.book)])
        self.ended = list(range(self.rows))
        self.note()
        assert first is not None
        assert first.result() is second.result()
        assert self.parts == number + 1

    @rule(seconds=st.floats(0.1, 2))
    def wait(self, seconds: float) -> None:
        """Time passes; what is known for as long as the pause is answered."""
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.within(lambda: None)
        if seconds > 1 and self.asked is not None:
            assert sorted(self.answered) == sorted(self.ended)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        if not hasattr(self, "book"):
            return
        assert len(set(self.answered)) == len(self.answered)
        assert set(self.answered) <= set(self.ended)
        assert missing(self.book) == [r for r in range(self.rows) if r not in self.ended]
        assert self.last == (len(self.answered) == self.rows and self.last)
        if not missing(self.book):
            assert self.asked is None, "at the end the answer comes at once"
        if self.last:
            assert sorted(self.answered) == list(range(self.rows))


TestBooks = pytest.mark.spec("F2")(Books.TestCase)


@pytest.mark.spec("F2")
async def test_an_empty_call_is_answered_at_once() -> None:
    """No rows: the first part is the last."""
    part = await OutcomeBook(0, 1.0).answer(0)
    assert part == Part(last=True)


@pytest.mark.spec("F2")
async def test_the_end_does_not_wait_for_the_pause() -> None:
    """When every row has its outcome, the answer comes in the same moment."""
    book = OutcomeBook(2, 60.0)
    asyncio.get_running_loop().call_later(1, book.complete, [0])
    asyncio.get_running_loop().call_later(2, book.complete, [1])
    part = await book.answer(0)
    assert (now(), list(part.completed), part.last) == (2, [0, 1], True)


@pytest.mark.spec("F2")
async def test_what_is_known_comes_after_the_pause() -> None:
    """A slow row holds back the others' outcomes no longer than the pause."""
    book = OutcomeBook(3, 0.5)
    loop = asyncio.get_running_loop()
    loop.call_later(0.1, book.complete, [0])
    loop.call_later(0.2, book.end, Outcome(1, Kind.RELEASED))
    loop.call_later(9.0, book.complete, [2])
    part = await book.answer(0)
    assert now() == 0.5
    assert (list(part.completed), part.others, part.last) == (
        [0],
        [Outcome(1, Kind.RELEASED)],
        False,
    )
    part = await book.answer(1)
    assert (now(), list(part.completed), part.last) == (9.0, [2], True)


@pytest.mark.spec("F2")
async def test_known_outcomes_wait_for_the_pause_after_the_last_answer() -> None:
    """What came between two questions goes out when the pause since the last answer is over."""
    book = OutcomeBook(3, 0.5)
    book.complete([0])
    part = await book.answer(0)
    assert (now(), list(part.completed)) == (0.5, [0])
    book.complete([1])
    await asyncio.sleep(0.2)
    part = await book.answer(1)
    assert (now(), list(part.completed)) == (1.0, [1])
    await asyncio.sleep(2)
    book.complete([2])
    part = await book.answer(2)
    assert (now(), part.last) == (3.0, True)


@pytest.mark.spec("F2")
async def test_the_first_answer_tells_that_the_rows_run() -> None:
    """After `first` seconds it comes though nothing is known; later ones wait for something."""
    book = OutcomeBook(1, 0.5, first=0.5)
    part = await book.answer(0)
    assert (now(), part) == (0.5, Part())
    asyncio.get_running_loop().call_later(100, book.complete, [0])
    part = await book.answer(1)
    assert (now(), list(part.completed), part.last) == (100.5, [0], True)


@pytest.mark.spec("F2")
async def test_an_outcome_ends_the_wait_for_the_first_answer() -> None:
    """At the end of all rows the first answer doesn't wait, and its timer later wakes nobody."""
    book = OutcomeBook(1, 0.5, first=0.5)
    asyncio.get_running_loop().call_later(0.1, book.complete, [0])
    part = await book.answer(0)
    assert (now(), part.last) == (0.1, True)
    await asyncio.sleep(1)


@pytest.mark.spec("F2")
async def test_rows_that_are_named_twice_have_no_outcome() -> None:
    """Who names a row twice is refused, and told which; none of the rows it names counts."""
    book = OutcomeBook(3, 0.0)
    with pytest.raises(ValidationError, match="got 1"):
        book.complete([0, 1, 1])
    book.complete([1])
    with pytest.raises(ValidationError, match="got 1"):
        book.complete([0, 1, 2])
    book.complete([0, 2])
    assert sorted((await book.answer(0)).completed) == [0, 1, 2]


@pytest.mark.spec("F2", "F3")
async def test_only_the_next_part_and_the_last_one_given_can_be_had() -> None:
    """A caller that asks for any other has lost its place, which is an error and not a wait."""
    book = OutcomeBook(2, 0.0)
    for number in (1, -1):
        with pytest.raises(Closed, match=f"part {number} of a call"):
            await book.answer(number)
    book.complete([0])
    await book.answer(0)
    book.complete([1])
    assert (await book.answer(1)).last
    with pytest.raises(Closed, match="part 0 of a call"):
        await book.answer(0)
    assert (book.ended(0), book.ended(1)) == (True, True)
