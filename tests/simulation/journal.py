"""The journal: what really happened, and the laws it is held against at every step.

It stands outside the cores, at the broker, at the store and in the handler, so that it sees what
was done and not what a core believes. The first broken law ends the run.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.outcomes import Reason
from pipeline.providers.memory.calls import BrokerReceived
from pipeline.providers.port import DeadLetter
from pipeline.state.port import Change
from tests.simulation.plan import ATTEMPTS, Plan
from tests.simulation.processes import Process

Place = tuple[str, int]
"""A message: its session, and its position there."""


class Broken(AssertionError):
    """A law was broken.

    Args:
        law: which one, in a word or two: what a shrunk schedule must still break.
        what: how.
    """

    def __init__(self, law: str, what: str) -> None:
        super().__init__(f"{law}: {what}")
        self.law = law


@dataclass(eq=False)
class Runs:
    """One call of the user's handler.

    Args:
        process: where.
        session: whose message.
        positions: which of its messages, in order; one, or a batch's.
        holding: under which possession of the session.
    """

    process: Process
    session: str
    positions: Sequence[int]
    holding: int


@dataclass
class Journal:
    """What happened in one run.

    Args:
        plan: what was to happen.
        now: the loop's time.
        tell: told of the first broken law.
    """

    plan: Plan
    now: Callable[[], float]
    tell: Callable[[Broken], None]
    events: list[tuple[Any, ...]] = field(default_factory=list)
    places: dict[tuple[str, int], Place] = field(default_factory=dict)
    """(source, sequence) to message."""
    applied: dict[Place, Process] = field(default_factory=dict)
    """What is in the store, and who put it there."""
    completed: set[Place] = field(default_factory=set)
    dead: dict[Place, str] = field(default_factory=dict)
    states: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    attempts: Counter[Place] = field(default_factory=Counter)
    """How often a message failed, or died alone: no more may be counted."""
    failures: Counter[tuple[Place, int]] = field(default_factory=Counter)
    """The same, by its holding."""
    sent_on: dict[Place, str] = field(default_factory=dict)
    over: bool = False
    _open: dict[str, list[Runs]] = field(default_factory=lambda: defaultdict(list))
    _handled: dict[tuple[Process, str], set[int]] = field(default_factory=lambda: defaultdict(set))
    """Handled by a process, and not refused by the store since."""
    _rows: dict[tuple[int, int], tuple[Place, int]] = field(default_factory=dict)
    """(lane, receipt) to the message and its holding."""
    _sessions: dict[int, str] = field(default_factory=dict)
    """Native: holding to session."""

    def note(self, *what: Any) -> None:
        """Something happened."""
        self.events.append((round(self.now(), 6), *what))

    def broken(self, law: str, what: str) -> None:
        """A law was broken."""
        if not self.over:
            self.over = True
            self.tell(Broken(law, f"{what} (at {self.now():.3f} s)"))

    @property
    def finished(self) -> bool:
        """Whether every message that was sent has ended."""
        return len(self.completed) + len(self.dead) == len(self.places)

    # ---------------------------------------------------------------- the handler

    def begin(
        self, process: Process, session: str, rows: Sequence[tuple[int, int]], holding: int
    ) -> Runs | None:
        """The handler is called with these (position, attempt) of a session; None: by the dead."""
        if process.dead:
            return None
        run = Runs(process, session, [position for position, _ in rows], holding)
        self.note("begin", process.name, session, *rows)
        for other in self._open[session]:
            if self._excludes(other, run):
                self.broken(
                    "one at a time",
                    f"{process.name} begins {session}:{run.positions} while {other.process.name} "
                    f"runs {other.positions}",
                )
        self._open[session].append(run)
        handled = self._handled[process, session]
        before = set(handled)
        for position, attempt in rows:
            self._check_begin(run, position, attempt, before)
            before.add(position)
        handled.difference_update(run.positions)
        return run

    def _excludes(self, other: Runs, run: Runs) -> bool:
        """Whether a call may not begin while another of its session is running."""
        return not other.process.zombie and not run.process.zombie

    def _check_begin(self, run: Runs, position: int, attempt: int, handled: set[int]) -> None:
        process, session = run.process, run.session
        place = (session, position)
        missing = [
            one for one in range(position) if one not in handled and not self._ended((session, one))
        ]
        if missing:
            self.broken("order", f"{process.name} begins {session}:{position} before {missing}")
        writer = self.applied.get(place)
        if writer is not None and not writer.zombie and not process.zombie:
            self.broken("once", f"{process.name} begins {session}:{position}, which was applied")
        if place in self.dead and not process.zombie:
            self.broken("once", f"{process.name} begins {session}:{position}, a dead letter")
        if attempt - 1 > self.attempts[place]:
            self.broken(
                "attempts",
                f"{session}:{position} is at attempt {attempt}, and failed "
                f"{self.attempts[place]} times",
            )

    def _ended(self, place: Place) -> bool:
        return place in self.applied or place in self.dead

    def end(self, run: Runs, good: int, *, failed: int | None = None) -> None:
        """A call ended: its first `good` rows succeeded, the row at `failed` failed."""
        if run.process.dead or self.over:
            return
        self._close(run)
        self.note("end", run.process.name, run.session, good, failed)
        self._handled[run.process, run.session].update(run.positions[:good])
        if failed is not None:
            self._failed((run.session, run.positions[failed]), run.holding)

    def _failed(self, place: Place, holding: int) -> None:
        self.attempts[place] += 1
        self.failures[place, holding] += 1

    def _close(self, run: Runs) -> None:
        if run in self._open[run.session]:
            self._open[run.session].remove(run)

    def died(self, process: Process) -> None:
        """A process is dead, or taken for dead."""
        self.note("died", process.name, "for others" if process.zombie and not process.dead else "")
        if process.dead:
            for runs in self._open.values():
                runs[:] = [run for run in runs if run.process is not process]

    def died_alone(self, place: Place, holding: int) -> None:
        """A process died, and it can only have been of this message."""
        self.note("died alone", *place)
        self._failed(place, holding)

    def timed_out(self, process: Process) -> None:
        """A process is about to be killed for what it runs: an attempt, when that is one message.

        Of the rows of a batch nobody knows which it is; they run again one by one.
        """
        runs = [run for runs in self._open.values() for run in runs if run.process is process]
        places = [((run.session, at), run.holding) for run in runs for at in run.positions]
        self.note("timed out", process.name, *(place for place, _ in places))
        if len(places) == 1:
            self._failed(*places[0])

    def _running(self, session: str, holding: int) -> list[Runs]:
        """The calls under this holding, in processes that are taken to be alive."""
        return [
            run for run in self._open[session] if run.holding == holding and not run.process.zombie
        ]

    # ---------------------------------------------------------------- the store

    def loaded(self, process: Process, keys: Sequence[str]) -> None:
        """A process read these records."""

    def committed(self, process: Process, change: Change, refusal: object) -> None:
        """The store answered a change: it did it, or refused it."""
        session = change.key
        # The record may keep what was disposed of as well (SPEC F4); that has no effect.
        places = [self.places[change.source, sequence] for sequence, _ in change.applied]
        positions = [place[1] for place in places if place not in self.dead]
        if refusal is not None:
            self.note("refused", process.name, session, *positions)
            self._handled.pop((process, session), None)
            return
        self.note("commit", process.name, session, *positions)
        for position in positions:
            place = (session, position)
            if place in self.applied:
                self.broken("once", f"{session}:{position} was applied twice")
            self.applied[place] = process
        if change.writes_state:
            expected = [*self.states[session], *positions]
            found = json.loads(change.state or b"[]")
            if found != expected:
                self.broken("effect", f"the state of {session} is {found}, not {expected}")
            self.states[session] = expected
        elif positions:
            self.broken("effect", f"{session}:{positions} were applied without the state")

    def unknown(self, process: Process, change: Change, error: BaseException) -> None:
        """A process does not know what became of a change."""
        self.note("unknown", process.name, change.key, str(error))
        self._handled.pop((process, change.key), None)

    # ---------------------------------------------------------------- the broker

    def sent(self, source: str, places: Iterable[Place], sequences: Iterable[int]) -> None:
        """Messages went into the queue."""
        for place, sequence in zip(places, sequences, strict=True):
            self.places[source, sequence] = place

    def received(self, process: Process, lane: int, got: BrokerReceived) -> None:
        """A receive brought messages."""
        rows = [place_of(body) for body in got.batch.values("body")]
        self.note("received", process.name, lane, *rows)
        self._sessions.update((one.number, one.session) for one in got.opened)
        holdings = got.batch.values("holding")
        for receipt, place, holding in zip(got.receipts, rows, holdings, strict=True):
            self._rows[lane, receipt] = (place, holding)

    def settled(
        self,
        process: Process,
        how: str,
        lane: int,
        receipts: Sequence[int],
        failures: Iterable[int],
        reasons: Sequence[DeadLetter] = (),
    ) -> None:
        """The broker settled messages."""
        failed = set(failures)
        for at, receipt in enumerate(receipts):
            if at not in failed:
                place, holding = self._rows[lane, receipt]
                self.note(how, process.name, *place)
                self._check_settled(how, place, holding)
                if how == "dead_letter":
                    self._check_dead_letter(place, holding, reasons[at])

    def _check_settled(self, how: str, place: Place, holding: int) -> None:
        name = f"{place[0]}:{place[1]}"
        for run in self._running(place[0], holding):
            if place[1] in run.positions:
                self.broken(
                    "settled while it runs", f"{name}: {how}, and {run.process.name} runs it"
                )
        if how != "complete":
            return
        if place in self.dead or place in self.completed:
            self.broken("ends once", f"{name} is completed, and has ended before")
        self.completed.add(place)
        if place not in self.applied:
            self.broken("commit, then settle", f"{name} is completed and not applied")
        if self.plan.fates[place].sends and place not in self.sent_on:
            self.broken("send, then settle", f"{name} is completed, and nothing was sent on")

    def released(self, process: Process, holdings: Sequence[int], failures: Iterable[int]) -> None:
        """The broker took sessions back."""
        failed = set(failures)
        for at, holding in enumerate(holdings):
            session = self._sessions[holding]
            if at in failed:
                continue
            self.note("released", process.name, session)
            for run in self._running(session, holding):
                self.broken(
                    "settled while it runs",
                    f"session {session} is given back while {run.process.name} runs "
                    f"{run.positions}",
                )

    def _check_dead_letter(self, place: Place, holding: int, why: DeadLetter) -> None:
        name = f"{place[0]}:{place[1]}"
        if place in self.dead or place in self.completed:
            self.broken("ends once", f"{name} is dead-lettered, and has ended before")
        self.dead[place] = why.reason
        fate = self.plan.fates[place].kind
        expected = Reason.REJECTED if fate == "reject" else Reason.ATTEMPTS
        if why.reason != expected:
            self.broken("dead letters", f"{name} ({fate}) is dead-lettered as {why.reason}")
        if why.reason == Reason.ATTEMPTS:
            told = json.loads(why.description).get("attempts")
            if not self._may_end(place, holding, told):
                self.broken(
                    "attempts",
                    f"{name} is dead-lettered after {told} attempts, and failed "
                    f"{self.attempts[place]} times of {ATTEMPTS}",
                )
        if place in self.applied:
            self.broken("once", f"{name} is a dead letter, and was applied")

    def _may_end(self, place: Place, holding: int, told: int) -> bool:
        """Whether a message may be dead-lettered for so many attempts."""
        return told == ATTEMPTS and self.attempts[place] >= ATTEMPTS

    # ---------------------------------------------------------------- what is sent on

    def arrived(self, process: Process, place: Place, id_: str) -> None:
        """A message that the handler sent came to its target."""
        self.note("sent on", process.name, *place)
        if self.sent_on.setdefault(place, id_) != id_:
            self.broken("same id", f"what {place} sends came with another id")
        if place not in self.applied:
            self.broken("commit, then send", f"{place} sent before it was applied")


def place_of(body: bytes | str) -> Place:
    """Which message a body is."""
    text = body if isinstance(body, str) else bytes(body).decode()
    session, position = text.split(":")
    return session, int(position)
