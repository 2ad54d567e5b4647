"""Calls are let in by their numbers, whatever order they come in."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.admission import Admission
from pipeline.errors import Closed
from pipeline.testing.virtual_loop import VirtualLoop


def run(work: object) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(work)  # type: ignore[arg-type]
    finally:
        loop.close()


async def turn(admission: Admission, caller: str, epoch: int, number: int) -> None:
    admission.enter(caller, epoch)
    await admission.turn(caller, number)


@pytest.mark.spec("F3")
@given(
    order=st.permutations([("a", n) for n in range(1, 6)] + [("b", n) for n in range(1, 4)]),
    pauses=st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_any_order_of_arrival_is_admitted_in_order(
    order: list[tuple[str, int]], pauses: list[bool]
) -> None:
    """Each caller's calls act as 1, 2, 3 …; callers don't wait for one another."""

    async def scene() -> None:
        admission = Admission()
        acted: list[tuple[str, int]] = []

        async def call(caller: str, number: int) -> None:
            await turn(admission, caller, 1, number)
            acted.append((caller, number))
            admission.advance(caller)

        tasks = []
        for (caller, number), pause in zip(order, pauses, strict=True):
            tasks.append(asyncio.ensure_future(call(caller, number)))
            if pause:
                await asyncio.sleep(0.01)
        await asyncio.gather(*tasks)
        for name, count in (("a", 5), ("b", 3)):
            assert [n for caller, n in acted if caller == name] == list(range(1, count + 1))

    run(scene())


@pytest.mark.spec("F3", "F7")
async def test_a_new_epoch_begins_at_one_and_ends_the_old() -> None:
    """A caller that started anew is let in from 1; what waited of the old start is refused."""
    admission = Admission()
    await turn(admission, "a", 1, 1)
    admission.advance("a")
    other = asyncio.ensure_future(turn(admission, "b", 1, 2))
    early = asyncio.ensure_future(turn(admission, "a", 1, 3))
    gone = asyncio.ensure_future(turn(admission, "a", 1, 4))
    await asyncio.sleep(1)
    gone.cancel()
    await asyncio.sleep(1)
    await turn(admission, "a", 2, 1)
    admission.advance("a")
    with pytest.raises(Closed, match="started anew"):
        await early
    with pytest.raises(Closed, match="epoch 1 is over"):
        await turn(admission, "a", 1, 2)
    await turn(admission, "a", 2, 2)
    await turn(admission, "b", 1, 1)
    admission.advance("b")
    await other


@pytest.mark.spec("F3")
async def test_a_call_is_let_in_once() -> None:
    """A repeat of a call that was let in is refused."""
    admission = Admission()
    await turn(admission, "a", 1, 1)
    admission.advance("a")
    with pytest.raises(Closed, match="call 1 of a"):
        await turn(admission, "a", 1, 1)


@pytest.mark.spec("F3", "F7")
async def test_a_call_whose_turn_came_as_its_caller_started_anew_is_refused() -> None:
    """It must not use up the number of the new start."""
    admission = Admission()
    await turn(admission, "a", 1, 1)
    early = asyncio.ensure_future(turn(admission, "a", 1, 2))
    await asyncio.sleep(1)
    admission.advance("a")  # the turn has come; before the call goes on, the new start is here
    await turn(admission, "a", 2, 1)
    admission.advance("a")
    with pytest.raises(Closed, match="started anew"):
        await early
    await turn(admission, "a", 2, 2)


@pytest.mark.spec("F3")
async def test_a_cancelled_early_call_holds_up_nobody_else() -> None:
    """The call before it goes on as if it had never come."""
    admission = Admission()
    early = asyncio.ensure_future(turn(admission, "a", 1, 2))
    await asyncio.sleep(1)
    early.cancel()
    await asyncio.sleep(1)
    await turn(admission, "a", 1, 1)
    admission.advance("a")
    await turn(admission, "a", 1, 2)


@pytest.mark.spec("F3", "F7")
async def test_a_call_that_was_given_up_is_let_in_no_more() -> None:
    """Whether it waits early, is on its way, or is the next one; those behind it go on."""
    admission = Admission()
    early = asyncio.ensure_future(turn(admission, "a", 1, 3))
    await asyncio.sleep(1)
    assert admission.give_up("a", 3)
    with pytest.raises(Closed, match="given up"):
        await early
    assert admission.give_up("a", 2)
    with pytest.raises(Closed, match="call 2 of a is over"):
        await turn(admission, "a", 1, 2)
    behind = asyncio.ensure_future(turn(admission, "a", 1, 4))
    await asyncio.sleep(1)
    assert not behind.done()
    assert admission.give_up("a", 1)
    await behind
    assert not admission.give_up("a", 3)


@pytest.mark.spec("F3", "F7")
async def test_a_call_given_up_as_its_turn_has_come_is_refused() -> None:
    """It had been let in, and had not gone on yet."""
    admission = Admission()
    await turn(admission, "a", 1, 1)
    early = asyncio.ensure_future(turn(admission, "a", 1, 2))
    await asyncio.sleep(1)
    admission.advance("a")
    assert admission.give_up("a", 2)
    with pytest.raises(Closed, match="gave call 2 up"):
        await early
    await turn(admission, "a", 1, 3)


@pytest.mark.spec("F7")
async def test_a_new_epoch_forgets_what_was_given_up() -> None:
    """The number is another call's there; and another caller's are its own."""
    admission = Admission()
    admission.enter("a", 1)
    admission.enter("b", 1)
    assert admission.give_up("a", 2)
    assert admission.give_up("b", 2)
    await turn(admission, "a", 2, 1)
    admission.advance("a")
    await turn(admission, "a", 2, 2)
    with pytest.raises(Closed, match="call 2 of b"):
        await turn(admission, "b", 1, 2)
