"""The router when a handler dies, is replaced, or is told what it is ended for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.batch import MessageBatch
from pipeline.outcomes import Kind, Outcome, Part
from pipeline.slots import SlotTable
from pipeline.stages.calls import Header, NoAnswer, ProcessDied
from pipeline.stages.router import RouterCore, RouterSettings

TABLE = SlotTable.spread(2, 1)
MINE = [f"s{n}" for n in range(99) if TABLE.handler_of(f"s{n}") == 0][:4]
"""Sessions of handler 0."""
OTHER = next(f"s{n}" for n in range(99) if TABLE.handler_of(f"s{n}") == 1)
"""A session of handler 1."""


class Handler:
    """A handler that takes runs and answers each when a test says so, until it dies."""

    def __init__(self) -> None:
        self.headers: list[Header] = []
        self.batches: list[MessageBatch] = []
        self._answers: dict[tuple[int, int], asyncio.Future[Part]] = {}
        self.dead = False

    @property
    def runs(self) -> list[list[str]]:
        """The ids of the rows of each run."""
        return [list(batch.provider_ids()) for batch in self.batches if len(batch)]

    async def run(self, header: Header, batch: MessageBatch) -> Part:
        if self.dead:
            raise ProcessDied("killed")
        self.headers.append(header)
        self.batches.append(batch)
        if not len(batch):
            return Part(last=True)
        return await self._answer(header.number, 0)

    async def more(self, caller: str, epoch: int, number: int, part: int) -> Part:
        return await self._answer(number, part)

    async def _answer(self, number: int, part: int) -> Part:
        if self.dead:
            raise ProcessDied("killed")
        future = self._answers[number, part] = asyncio.get_running_loop().create_future()
        return await future

    async def say(self, number: int, part: int = 0, *, last: bool = True, **given: Any) -> None:
        """Answer a question for a part of a call."""
        self._answers.pop((number, part)).set_result(Part(last=last, **given))
        await settle()

    async def lose(self, number: int) -> None:
        """The answer to a call's first question is lost."""
        self._answers.pop((number, 0)).set_exception(NoAnswer("lost"))
        await settle()

    async def die(self) -> None:
        """The process is gone, and whoever waits learns it."""
        self.dead = True
        for answer in self._answers.values():
            answer.set_exception(ProcessDied("killed"))
        self._answers.clear()
        await settle()


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


class Rig:
    """A router with two handlers, and the calls of one receiver."""

    def __init__(self, **settings: Any) -> None:
        self.handlers = [Handler(), Handler()]
        self.errors: list[BaseException] = []
        made = {"name": "r", "epoch": 3, "batch_rows": 100, "batch_bytes": 10**6} | settings
        self.core = RouterCore(
            RouterSettings(**made), dict(enumerate(self.handlers)), TABLE, self.errors.append
        )
        for way in self.core._ways.values():
            way._greeted = True  # they were there before the first call
        self.number = 0

    @property
    def handler(self) -> Handler:
        """Handler 0."""
        return self.handlers[0]

    async def send(self, batch: MessageBatch, **header: Any) -> Sent:
        """Make a call as a receiver would."""
        self.number += 1
        sent = Sent(len(batch))
        head = Header("c", 1, self.number, "q", **header)
        sent.task = asyncio.ensure_future(sent.drive(self.core, head, batch))
        await settle()
        return sent

    async def replace(self) -> Handler:
        """Handler 0's follower is made known."""
        new = self.handlers[0] = Handler()
        await self.core.join(0, new)
        await settle()
        return new


class Sent:
    """One call of the receiver, and how its rows ended."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.others: dict[int, Outcome] = {}
        self.completed: set[int] = set()
        self.generations: list[int] = []
        self.task: asyncio.Task[None] | None = None

    async def drive(self, core: RouterCore, header: Header, batch: MessageBatch) -> None:
        part, number = await core.run(header, batch), 0
        while True:
            self.generations.append(part.generation)
            self.completed |= set(part.completed)
            self.others |= {outcome.row: outcome for outcome in part.others}
            if part.last:
                return
            number += 1
            part = await core.more(header.caller, header.epoch, header.number, number)

    @property
    def words(self) -> list[str]:
        """How each row ended: `open` while it has not."""
        return [self._word(row) for row in range(self.count)]

    def _word(self, row: int) -> str:
        if row in self.completed:
            return "completed"
        outcome = self.others.get(row)
        if outcome is None:
            return "open"
        if outcome.kind is Kind.DIED:
            return "died" if outcome.counted else "died uncounted"
        return outcome.kind.name.lower()


def rows(*ids: str, session: str | Sequence[str] = MINE[0], turn: int = 0) -> MessageBatch:
    sessions = [session] * len(ids) if isinstance(session, str) else list(session)
    return MessageBatch.from_columns(
        len(ids),
        {
            "id": list(ids),
            "session": sessions,
            "body": [b""] * len(ids),
            "holding": [1] * len(ids),
            "turn": [turn] * len(ids),
        },
    )


# --- who comes back, and how ----------------------------------------------------------------------


@pytest.mark.spec("F7", "H5")
async def test_the_only_row_in_a_dead_handlers_hands_is_the_one_it_died_of() -> None:
    """It is counted; what was completed before stays so."""
    rig = Rig()
    sent = await rig.send(rows("a", "b"))
    await rig.handler.say(1, last=False, completed=[0])
    await rig.handler.die()
    assert sent.words == ["completed", "died"]
    assert rig.core.stats()["waiting"] == 0


@pytest.mark.spec("F7", "H5")
async def test_of_several_rows_none_is_counted() -> None:
    """Whether of one run or of two: which of them it was will be found out."""
    for split in (False, True):
        rig = Rig()
        if split:
            one, two = await rig.send(rows("a")), await rig.send(rows("b"))
            await rig.handler.die()
            assert one.words + two.words == ["died uncounted"] * 2
        else:
            sent = await rig.send(rows("a", "b"))
            await rig.handler.die()
            assert sent.words == ["died uncounted"] * 2


@pytest.mark.spec("F7", "H5", "F3")
async def test_what_waited_for_a_dead_handler_comes_back_released() -> None:
    """Its turn may have been stopped by a row of which nobody heard; others' rows stay."""
    rig = Rig()
    sent = [await rig.send(rows(name)) for name in "abcd"]
    theirs = await rig.send(rows("x", session=OTHER))
    assert rig.handler.runs == [["a"], ["b"]]
    assert rig.core.stats()["waiting"] == 2
    await rig.handler.die()
    assert [one.words for one in sent] == [
        ["died uncounted"],
        ["died uncounted"],
        ["released"],
        ["released"],
    ]
    assert rig.core.stats()["waiting"] == 0
    assert theirs.words == ["open"]
    await rig.handlers[1].say(1, completed=[0])
    assert theirs.words == ["completed"]
    assert theirs.generations == [1], "whoever is answered hears that a handler has died"


@pytest.mark.spec("F7", "H5", "H6")
@pytest.mark.parametrize("blamed", [[(1, 1)], [(1, 1), (1, 2)]], ids=["one", "two"])
async def test_rows_that_are_blamed_died_and_all_others_are_released(
    blamed: list[tuple[int, int]],
) -> None:
    """A handler that is ended because rows ran for too long: they are attempts, if it is known.

    What a router before this one had sent is nobody's here: its calls had the same numbers.
    """
    rig = Rig()
    sent, behind = await rig.send(rows("a", "b", "c")), await rig.send(rows("d"))
    rig.core.overdue(0, [(3, *one) for one in blamed])
    await rig.handler.die()
    how = "died" if len(blamed) == 1 else "died uncounted"
    assert sent.words == ["released", *[how] * len(blamed), "released"][:3]
    assert behind.words == ["released"]
    # The next one has not been blamed for anything: its numbers begin anew.
    new = await rig.replace()
    sent = await rig.send(rows("a", "b"), generation=1)
    await new.die()
    assert sent.words == ["died uncounted"] * 2
    newer = await rig.replace()
    sent = await rig.send(rows("a"), generation=2)
    rig.core.overdue(0, [(2, 1, 0)])
    await newer.die()
    assert sent.words == ["released"]


@pytest.mark.spec("F3", "F7")
async def test_rows_sent_before_the_receiver_knew_of_a_death_are_released() -> None:
    """Each death is a generation; they come back with it, and what is sent with it goes on."""
    rig = Rig()
    await rig.send(rows("a"))
    await rig.handler.die()
    late = await rig.send(rows("b"))
    assert (late.words, late.generations) == (["released"], [1])
    theirs = await rig.send(rows("x", session=OTHER))
    assert theirs.words == ["released"], "it is not known which sessions the call would let go on"
    new = await rig.replace()
    late = await rig.send(rows("b"))
    assert (late.words, new.runs) == (["released"], [])
    sent = await rig.send(rows("b", turn=1), generation=1)
    assert new.runs == [["b"]]
    await new.say(1, completed=[0])
    assert sent.words == ["completed"]
    await rig.send(rows("c", turn=1), generation=1)
    await new.die()
    late = await rig.send(rows("d", turn=1), generation=1)
    assert (late.words, late.generations) == (["released"], [2])


@pytest.mark.spec("F7")
async def test_a_run_that_never_reached_its_handler_comes_back_released() -> None:
    """Nobody handled its rows, nobody died of them, and the next run goes on."""
    rig = Rig()
    sent = await rig.send(rows("a", "b"))
    await rig.handler.lose(1)
    await asyncio.sleep(1)
    await rig.handler.say(1, void=True)
    assert sent.words == ["released"] * 2
    assert rig.core._ways[0]._unanswered == 0
    assert rig.errors == []


# --- who comes next -------------------------------------------------------------------------------


@pytest.mark.spec("F7", "F3")
async def test_a_new_handler_gets_only_what_comes_after() -> None:
    """What comes while nobody is there waits for it, and it is called from number 1."""
    rig = Rig()
    await rig.send(rows("a"))
    await rig.handler.die()
    sent = await rig.send(rows("a", "b", turn=1), generation=1)
    assert rig.core.stats()["waiting"] == 2
    assert sent.words == ["open"] * 2
    new = await rig.replace()
    assert new.runs == [["a", "b"]]
    assert [(head.caller, head.epoch, head.number) for head in new.headers] == [("r", 3, 1)]
    await new.say(1, completed=[0, 1])
    assert sent.words == ["completed"] * 2
    assert rig.errors == []


@pytest.mark.spec("F7", "F3")
async def test_joining_waits_until_the_old_handlers_calls_have_ended() -> None:
    """Its death may be learned late: no row runs at two handlers."""
    rig = Rig()
    old = rig.handler
    sent = await rig.send(rows("a"))
    joining = asyncio.ensure_future(rig.replace())
    await asyncio.sleep(100)
    assert not joining.done()
    await old.die()
    new = await joining
    assert sent.words == ["died"]
    again = await rig.send(rows("a", turn=1), generation=1)
    assert new.runs == [["a"]]
    await new.say(1, completed=[0])
    assert again.words == ["completed"]


@pytest.mark.spec("F7")
async def test_of_two_new_handlers_that_wait_only_the_newest_gets_rows() -> None:
    """The older one has died since; it takes no rows, in whatever order the two waits end."""
    rig = Rig()
    old = rig.handler
    await rig.send(rows("a"))
    first = asyncio.ensure_future(rig.replace())
    await settle()
    died_since = rig.handler
    await rig.send(rows("a"))
    second = asyncio.ensure_future(rig.replace())
    await old.say(1, completed=[0])  # the first wait goes on to the later run, behind the second
    await old.die()
    await first
    await second
    again = await rig.send(rows("a", turn=1), generation=1)
    assert died_since.runs == []
    assert rig.handler.runs == [["a"]]
    await rig.handler.say(1, completed=[0])
    assert again.words == ["completed"]


@pytest.mark.spec("F6", "F7")
async def test_a_drain_while_a_handler_is_dead_gives_back_what_waits_for_it() -> None:
    """And what comes after; the router can be closed."""
    rig = Rig()
    await rig.send(rows("a"))
    await rig.handler.die()
    sent = await rig.send(rows("a", turn=1), generation=1)
    await rig.core.drain()
    await settle()
    late = await rig.send(rows("b", turn=1), generation=1)
    assert sent.words + late.words == ["released"] * 2
    await rig.core.close()
    assert rig.core.stats()["waiting"] == 0


@pytest.mark.spec("F7", "P13")
async def test_notes_for_a_dead_handler() -> None:
    """What is lost concerns the rows it had; what is closed the next one hears with its rows."""
    rig = Rig()
    await rig.send(MessageBatch.empty(), lost=((MINE[0], 1),))
    assert rig.handler.headers[0].lost == ((MINE[0], 1),)
    assert rig.handlers[1].headers[0].lost == ((MINE[0], 1),)
    await rig.send(rows("a"))
    await rig.handler.die()
    await rig.send(MessageBatch.empty(), lost=((MINE[0], 1),), closed=((MINE[1], 4),), generation=1)
    assert len(rig.handlers[1].headers) == 2
    new = await rig.replace()
    assert new.headers == []
    await rig.send(rows("b"), generation=1)
    assert (new.headers[0].closed, new.headers[0].lost) == (((MINE[1], 4),), ())
    assert rig.errors == []


@pytest.mark.spec("F7", "F3")
async def test_a_death_may_be_learned_by_a_note() -> None:
    """No row was in its hands: none is said to have died, and the receivers hear of the death."""
    rig = Rig()
    rig.handler.dead = True
    await rig.send(MessageBatch.empty(), lost=((MINE[0], 1),))
    late = await rig.send(rows("a"))
    assert (late.words, late.generations) == (["released"], [1])


# --- one by one -----------------------------------------------------------------------------------


@pytest.mark.spec("H5", "F3")
async def test_rows_that_must_run_alone_go_one_at_a_time_and_in_order() -> None:
    """Nothing is beside them, before they begin and until they end; others wait their turn."""
    rig = Rig()
    before = await rig.send(rows("a"))
    alone = await rig.send(rows("b", "c", session=MINE[:2]), alone=True)
    behind = await rig.send(rows("d", "e"))
    new = rig.handler
    assert new.runs == [["a"]], "they wait until nothing runs"
    await new.say(1, completed=[0])
    assert new.runs[1:] == [["b"]]
    assert new.headers[1].alone
    # A first answer is not the end: still nothing may go.
    await new.say(2, last=False)
    assert new.runs[1:] == [["b"]]
    await new.say(2, 1, completed=[0])
    assert new.runs[1:] == [["b"], ["c"]]
    await new.say(3, others=[Outcome(0, Kind.RETRY, delay=5.0)])
    assert new.runs[1:] == [["b"], ["c"], ["d", "e"]]
    assert not new.headers[3].alone
    await new.say(4, completed=[0, 1])
    assert before.words == ["completed"]
    assert alone.words == ["completed", "retry"]
    assert behind.words == ["completed"] * 2


@pytest.mark.spec("H5", "F3")
async def test_rows_before_those_that_run_alone_are_no_part_of_their_run() -> None:
    """What waits together is cut where one must run alone."""
    rig = Rig()
    for name in "abc":
        await rig.send(rows(name))
    await rig.send(rows("d"), alone=True)
    await rig.send(rows("e"))
    await rig.handler.say(1, completed=[0])
    await rig.handler.say(2, completed=[0])
    assert rig.handler.runs == [["a"], ["b"], ["c"]]
    await rig.handler.say(3, completed=[0])
    assert rig.handler.runs[3:] == [["d"]]
    await rig.handler.say(4, completed=[0])
    assert rig.handler.runs[4:] == [["e"]]


@pytest.mark.spec("H5", "F7")
async def test_a_row_that_runs_alone_is_counted_when_its_process_dies() -> None:
    """The rows behind it were not begun."""
    rig = Rig()
    alone = await rig.send(rows("a", "b"), alone=True)
    behind = await rig.send(rows("c"))
    assert rig.handler.runs == [["a"]]
    await rig.handler.die()
    assert alone.words == ["died", "released"]
    assert behind.words == ["released"]


@pytest.mark.spec("F3", "F7")
async def test_a_death_of_which_no_call_told_is_a_death_all_the_same() -> None:
    """Nothing was in hand; rows on their way belong to turns that the old handler had stopped."""
    rig = Rig()
    sent = await rig.send(rows("a"))
    await rig.handler.say(1, others=[Outcome(0, Kind.RETRY, delay=5.0)])
    assert sent.words == ["retry"]
    rig.handler.dead = True
    new = await rig.replace()
    late = await rig.send(rows("b"))
    assert new.runs == []
    assert (late.words, late.generations) == (["released"], [1])


@pytest.mark.spec("H5", "F7")
@pytest.mark.parametrize("there", [True, False])
async def test_who_was_dead_before_did_not_die_of_its_rows(there: bool) -> None:
    """A new router greets the handlers it is given: only one that answered can have got a row."""
    rig = Rig()
    rig.core._ways[0]._greeted = False
    if there:
        rig.core.greet()
        await settle()
    sent = await rig.send(rows("a"))
    await rig.handler.die()
    [outcome] = sent.others.values()
    assert (outcome.kind, outcome.counted) == (Kind.DIED, there)


@pytest.mark.spec("F3", "P13")
async def test_what_waits_for_a_handler_comes_back_when_its_lock_ends() -> None:
    """The handler forgets the note with its last row, and must not get another one of it later."""
    rig = Rig()
    busy = [await rig.send(rows("x", session=MINE[1])) for _ in range(2)]
    waiting = await rig.send(rows("a", "b", session=[MINE[0], MINE[2]]), alone=True)
    labelled = await rig.send(rows("c", "d", session=[MINE[1], MINE[1]]), alone=True)
    await rig.send(MessageBatch.empty(), lost=((MINE[0], 1), (MINE[2], 0), ("d", 1)))
    assert {row: one.kind for row, one in waiting.others.items()} == {0: Kind.RELEASED}
    assert {row: one.kind for row, one in labelled.others.items()} == {1: Kind.RELEASED}
    assert rig.handler.headers[-1].lost == ((MINE[0], 1), (MINE[2], 0), ("d", 1))
    await rig.core.drain()
    await settle()
    assert len(waiting.others) == 2
    assert [sent.others for sent in busy] == [{}, {}]
