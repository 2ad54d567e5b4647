"""Both ends of a call: what is lost, late or repeated is asked again, and taken in once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pipeline.batch import MessageBatch
from pipeline.errors import Closed
from pipeline.outcomes import Kind, Outcome, OutcomeBook, Part
from pipeline.stages.calls import Header, Line, NoAnswer, ProcessDied, Reception

EMPTY = MessageBatch.empty()


def now() -> float:
    return asyncio.get_running_loop().time()


class Told:
    """A call's rows at the caller: what they were told."""

    def __init__(self) -> None:
        self.parts: list[Part] = []
        self.deaths = 0

    def apply(self, part: Part) -> None:
        self.parts.append(part)

    def died(self) -> None:
        self.deaths += 1


class Script:
    """A called process that answers as told; what is not told it never answers.

    Answers are a `Part`, an error to raise, or a future to wait for.
    """

    def __init__(self, **answers: list[Any]) -> None:
        self.answers = answers
        self.headers: list[Header] = []
        self.asked: list[tuple[float, str, int, int, int]] = []

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        self.headers.append(header)
        return await self._answer("run")

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        self.asked.append((now(), caller, epoch, number, part))
        return await self._answer("more")

    async def _answer(self, method: str) -> Part:
        left = self.answers.get(method)
        answer = left.pop(0) if left else asyncio.get_running_loop().create_future()
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, BaseException):
            raise answer
        return answer


def line(script: Any, errors: list[BaseException] | None = None) -> Line:
    stray: list[BaseException] = [] if errors is None else errors
    return Line("caller", 7, script, stray.append, lambda: None)


# --- the calling end ------------------------------------------------------------------------------


@pytest.mark.spec("F2", "F7")
async def test_a_lost_answer_is_asked_for_again_until_it_comes() -> None:
    """Every half second, the same part; what came before is not applied twice."""
    script = Script(
        run=[NoAnswer("lost")],
        more=[NoAnswer("lost"), Part([0]), NoAnswer("lost"), Part([1], last=True)],
    )
    calls, told = line(script), Told()
    calls.call(EMPTY, told, source="q")
    await calls.close()
    assert [list(part.completed) for part in told.parts] == [[0], [1]]
    assert script.asked == [
        (0.5, "caller", 7, 1, 0),
        (1.0, "caller", 7, 1, 0),
        (1.0, "caller", 7, 1, 1),
        (1.5, "caller", 7, 1, 1),
    ]
    assert (told.deaths, calls.dead) == (0, False)


@pytest.mark.spec("F2", "F7")
async def test_a_void_answer_ends_the_call() -> None:
    """It never came: its rows are told so once, and nothing more is asked."""
    script = Script(run=[NoAnswer("lost")], more=[Part(last=True, void=True)])
    calls, told = line(script), Told()
    calls.call(EMPTY, told, source="q")
    await calls.close()
    assert [part.void for part in told.parts] == [True]
    assert len(script.asked) == 1


@pytest.mark.spec("F2", "F7")
async def test_a_death_ends_every_open_call() -> None:
    """Those that wait for their first answer, for a later one, and for a lost one."""
    gone: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    script = Script(
        run=[gone, Part(), NoAnswer("lost")],
        more=[gone, gone],
    )
    calls, told = line(script), [Told(), Told(), Told()]
    for one in told:
        calls.call(EMPTY, one, source="q")
    await asyncio.sleep(2)
    assert [one.deaths for one in told] == [0, 0, 0]
    assert not calls.dead
    gone.set_result(ProcessDied("killed"))
    await calls.close()
    assert [one.deaths for one in told] == [1, 1, 1]
    assert calls.dead


@pytest.mark.spec("F3", "F5")
async def test_calls_are_numbered_and_say_up_to_where_all_is_answered() -> None:
    """The oldest open call, or this one: what stands before it can be forgotten."""
    first: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    script = Script(run=[first, Part(last=True), Part(last=True), Part(last=True)])
    calls = line(script)
    for _ in range(3):
        calls.call(EMPTY, Told(), source="q")
        await asyncio.sleep(1)
    first.set_result(Part(last=True))
    await asyncio.sleep(1)
    notes = {"closed": (("s", 1),), "lost": (("t", 2),), "alone": True, "generation": 5}
    calls.call(EMPTY, Told(), source="other", **notes)  # type: ignore[arg-type]
    await calls.close()
    assert [(head.number, head.answered) for head in script.headers] == [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 4),
    ]
    assert script.headers[-1] == Header(
        "caller",
        7,
        4,
        "other",
        answered=4,
        **notes,  # type: ignore[arg-type]
    )
    assert calls.number == 4


@pytest.mark.spec("F6")
async def test_open_calls_are_waited_for_or_abandoned() -> None:
    """Nobody will answer: their rows hear nothing, and the line is closed at once."""
    script, errors = Script(), list[BaseException]()
    calls, told = line(script, errors), Told()
    calls.call(EMPTY, told, source="q")
    waiting = asyncio.ensure_future(calls.close())
    await asyncio.sleep(100)
    assert not waiting.done()
    await calls.close(abandon=True)
    await waiting
    assert (told.parts, told.deaths, errors) == ([], 0, [])


@pytest.mark.spec("P10", "F2")
@pytest.mark.parametrize("where", ["run", "more", "apply"])
async def test_any_other_error_is_fatal(where: str) -> None:
    """A defect, here or there, is no lost answer: it is told, and not asked again."""

    class Picky(Told):
        def apply(self, part: Part) -> None:
            if where == "apply":
                raise broken

    broken, errors = Closed("a defect"), list[BaseException]()
    script = Script(run=[broken if where == "run" else Part()], more=[broken])
    calls = line(script, errors)
    calls.call(EMPTY, Picky(), source="q")
    await calls.close()
    assert errors == [broken]
    assert len(script.asked) == (where == "more")


# --- the called end -------------------------------------------------------------------------------


class Taken:
    """A core that takes calls in; their rows end when a test says so."""

    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.books: dict[tuple[int, int], OutcomeBook] = {}
        self.reception = Reception(self._take_in)

    def _take_in(self, header: Header, batch: MessageBatch) -> OutcomeBook:
        book = OutcomeBook(self.rows, 0.0)
        self.books[header.epoch, header.number] = book
        return book

    def call(
        self, number: int, *, epoch: int = 1, caller: str = "c", **header: Any
    ) -> asyncio.Task[Part]:
        batch = MessageBatch.from_columns(self.rows, {})
        return asyncio.ensure_future(
            self.reception.run(Header(caller, epoch, number, "q", **header), batch)
        )

    async def more(self, number: int, part: int = 0, *, epoch: int = 1, caller: str = "c") -> Part:
        return await self.reception.more(caller, epoch, number, part)


async def passes(when: Callable[[], object]) -> None:
    """Let the loop go on until something is so."""
    for _ in range(100):
        if when():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def refused(answer: Awaitable[Part], why: str) -> None:
    with pytest.raises(Closed, match=why):
        await answer


@pytest.mark.spec("F2", "F7")
async def test_a_call_that_never_came_is_given_up() -> None:
    """Asked again, or coming late, it is void again; those behind it go on.

    But not one that was made before its caller knew: its rows may belong behind the lost ones.
    """
    core = Taken(2)
    unaware, behind = core.call(2), core.call(3, voids=1)
    await asyncio.sleep(1)
    assert core.books == {}, "it waits for the one before it"
    for _ in range(2):
        part = await core.more(1)
        assert (part.void, part.last, list(part.completed), part.others) == (True, True, [], [])
    await passes(lambda: core.books)
    assert list(core.books) == [(1, 3)]
    part = await unaware
    assert [(one.row, one.kind) for one in part.others] == [(0, Kind.RELEASED), (1, Kind.RELEASED)]
    assert part.last
    assert (await core.call(1)).void
    core.books[1, 3].complete([0, 1])
    assert list((await behind).completed) == [0, 1]
    assert core.reception.open == 0


@pytest.mark.spec("F2", "F7")
async def test_a_call_that_waits_for_an_earlier_one_can_be_given_up() -> None:
    """It had come, and was not let in: its rows are not handled, whatever comes before it."""
    core = Taken()
    early = core.call(2)
    await asyncio.sleep(1)
    assert (await core.more(2)).void
    assert (await early).void
    first = core.call(1, voids=1)
    await passes(lambda: core.books)
    core.books[1, 1].complete([0])
    assert (await first).last
    assert list(core.books) == [(1, 1)]


@pytest.mark.spec("F2", "F7")
async def test_a_call_that_comes_twice_is_taken_in_once() -> None:
    """Early, late or both, each copy has the same answer, for as long as that is kept."""
    core = Taken(2)
    early = [core.call(2), core.call(2)]
    await asyncio.sleep(1)
    first = core.call(1)
    await passes(lambda: len(core.books) == 2)
    core.books[1, 1].complete([0, 1])
    core.books[1, 2].complete([0, 1])
    for answer in [first, *early, core.call(1), core.call(2)]:
        assert list((await answer).completed) == [0, 1]
    third = core.call(3, answered=3)
    await passes(lambda: (1, 3) in core.books)
    await refused(core.call(2), "call 2 of c is over")
    core.books[1, 3].complete([0, 1])
    assert (await third).last


@pytest.mark.spec("F2", "F7")
async def test_a_call_that_was_taken_in_is_never_void() -> None:
    """Its answer was lost: who asks again, even while it runs, gets the same one."""
    core = Taken(2)
    first = core.call(1)
    again = asyncio.ensure_future(core.more(1))
    await passes(lambda: core.books)
    assert core.reception.open == 1
    core.books[1, 1].complete([1])
    part = await again
    assert (part.void, list(part.completed), part.last) == (False, [1], False)
    assert await first is part
    assert await core.more(1) is part
    core.books[1, 1].end(Outcome(0, Kind.RELEASED))
    assert (await core.more(1, 1)).last
    assert core.reception.open == 0


@pytest.mark.spec("F5", "F2")
async def test_answers_are_kept_until_the_caller_has_them_all() -> None:
    """`answered` lets the ones below go; any later question for them is a defect of the caller."""
    core = Taken()
    for number in (1, 2):
        call = core.call(number, answered=1)
        await passes(lambda: (1, number) in core.books)  # noqa: B023
        core.books[1, number].complete([0])
        await call
    assert list((await core.more(1)).completed) == [0]
    third = core.call(3, answered=2)
    await passes(lambda: (1, 3) in core.books)
    await refused(core.more(1), "answers to call 1 of c were let go")
    assert list((await core.more(2)).completed) == [0]
    core.books[1, 3].complete([0])
    await third


@pytest.mark.spec("F3", "F7")
async def test_a_new_epoch_forgets_the_books_of_the_old_one() -> None:
    """By its first call or its first question; of other callers nothing is forgotten."""
    core = Taken()
    old, others = core.call(1), core.call(1, caller="d")
    await passes(lambda: core.reception.open == 2)
    assert (await core.more(1, epoch=2)).void, "of the new epoch no call has come"
    await refused(core.more(1, epoch=1), "epoch 1 is over")
    await refused(core.call(2, epoch=1), "epoch 1 is over")
    assert core.reception.open == 1
    new = core.call(2, epoch=2, voids=1)
    await passes(lambda: (2, 2) in core.books)
    core.books[2, 2].complete([0])
    assert list((await new).completed) == [0]
    for task in (old, others):
        assert not task.done()
        task.cancel()
