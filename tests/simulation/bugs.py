"""Bugs to plant: each breaks one law in one place, and the simulation has to find it.

A bug is put into the source text as its module is imported, so that only the process that asked
for it has it. Text that is no longer there exactly once is an error: a bug that can't be planted
would prove nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder, SourceLoader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_PIPELINE = importlib.util.find_spec("pipeline")
assert _PIPELINE is not None
assert _PIPELINE.origin is not None
ROOT = Path(_PIPELINE.origin).parents[1]


@dataclass(frozen=True, slots=True)
class Bug:
    """One law broken.

    Args:
        name: what it is called.
        law: which law of DESIGN or requirement of SPEC it breaks.
        module: where.
        before: what stands there, once.
        after: what would be wrong.
        start: not long before the first seed that has found it, so that its test is short.
    """

    name: str
    law: str
    module: str
    before: str
    after: str
    start: int = 0

    @property
    def path(self) -> Path:
        """The module's file."""
        return ROOT.joinpath(*self.module.split(".")).with_suffix(".py")

    def planted(self) -> str:
        """The module's source with the bug.

        Raises:
            ValueError: what the bug replaces is not there exactly once.
        """
        source = self.path.read_text()
        found = source.count(self.before)
        if found != 1:
            raise ValueError(f"bug {self.name}: {self.path} has its text {found} times, not once")
        return source.replace(self.before, self.after)


BUGS = (
    Bug(
        "later rows go on",
        "law 3 a: a row that is not completed stops its session",
        "pipeline.stages.stints",
        """        if self._here.ordered:
            self.lane.stopped = True
""",
        """        return
""",
    ),
    Bug(
        "settle before commit",
        "law 5: state, then settle",
        "pipeline.stages.handler",
        """            await self._commit(stints)
""",
        """            for one in stints:
                for run, rows in one.completed.items():
                    run.book.complete(rows)
                one.completed.clear()
            await asyncio.sleep(0)
            await self._commit(stints)
""",
    ),
    Bug(
        "no fence in the store",
        "law 5: a handler that lost its slot can't write",
        "pipeline.state.memory",
        """        if record.version != change.version:
""",
        """        if record.version < change.version:
""",
        start=30,
    ),
    Bug(
        "the turn is not waited for",
        "law 3 b: the next turn begins when every row of the old one has an outcome",
        "pipeline.turns",
        """        return not self.out and not self.disposing
""",
        """        return not self.disposing
""",
    ),
    Bug(
        "the dead letter is not waited for",
        "H4: the next message is handled when the dead-lettering is confirmed",
        "pipeline.turns",
        """        return not self.out and not self.disposing
""",
        """        return not self.out
""",
    ),
    Bug(
        "the record is keyed by sequence alone",
        "F4: only a delivery in the record is completed without a run",
        "pipeline.state.port",
        """        applied = self.applied.get(source)
        return applied is not None and message in applied
""",
        """        return any(message[0] <= one.top for one in self.applied.values())
""",
    ),
    Bug(
        "no record of what was applied",
        "F4: a message already applied is not handled again",
        "pipeline.state.port",
        """        return message[0] <= self.top and message in self._recent
""",
        """        return False
""",
    ),
    Bug(
        "locks are not renewed",
        "P13, law 6: locks are kept while rows are in hand",
        "pipeline.stages.renewal",
        """            except TimeoutError:
                await self._round()
""",
        """            except TimeoutError:
                await asyncio.sleep(1e6)
""",
    ),
    Bug(
        "credit is not given back",
        "F5: credit returns with each outcome",
        "pipeline.stages.receiver",
        """        self._credit.give(len(rows), freed)
""",
        """        self._credit.give(len(rows) - (how is How.DEAD_LETTERED), freed)
""",
    ),
    Bug(
        "an old call is let in",
        "law 3 f: calls are let in once, in order",
        "pipeline.admission",
        """        if number > expected:
            if key""",
        """        if number > expected + 1:
            if key""",
    ),
    Bug(
        "an old epoch is heard",
        "law 3 f: a caller that started anew is not heard in its old epoch",
        "pipeline.admission",
        """        if known is not None and epoch < known[0]:
""",
        """        if known is not None and epoch < 0:
""",
    ),
    Bug(
        "a call is not given up",
        "law 3 d: a call that did not come is let in no more",
        "pipeline.admission",
        """        self._void.add(key)
""",
        "",
        start=30,
    ),
    Bug(
        "an answer is not repeated",
        "law 3 d: an answer that was lost can be asked for again",
        "pipeline.outcomes",
        """        if self._given is None or number != self._next - 1:
""",
        """        if self._given is None or number != self._next - 1 or len(self._given.completed):
            return Part(last=not self.open)
        if False:
""",
    ),
    Bug(
        "every death is counted",
        "H5: of rows that died together none is counted",
        "pipeline.stages.router",
        """            return Outcome(row, Kind.DIED, counted=sure)
""",
        """            return Outcome(row, Kind.DIED, counted=True)
""",
    ),
    Bug(
        "a death is not counted",
        "H5: a row that its process died of has had an attempt",
        "pipeline.stages.router",
        """            return Outcome(row, Kind.DIED, counted=sure)
""",
        """            return Outcome(row, Kind.DIED, counted=False)
""",
    ),
    Bug(
        "sent after it is completed",
        "H3: what a handler sends leaves before its message is completed",
        "pipeline.stages.handler",
        """            elif stint.record.outbox or stint.change.outbox:
""",
        """            elif stint.record.outbox:
""",
    ),
    Bug(
        "rows of a lost lock go out",
        "P13: nothing of a lost holding begins",
        "pipeline.stages.receiver",
        """        turns.waiting = []
        for stretch in turns.stretches:
            for row in [stretch.lot.base + place for place in stretch.places[stretch.next :]]:
                if self.held(row):
                    self._ledger.lose(row)
""",
        """        turns.waiting = []
""",
        start=620,
    ),
    Bug(
        "a release is an attempt",
        "H5: without order a release is never an attempt",
        "pipeline.stages.receiver",
        """        failed = outcome.kind is Kind.RETRY and outcome.counted
""",
        """        failed = True
""",
    ),
    Bug(
        "without order the record is not read",
        "F4: a message that is in the record is not handled again",
        "pipeline.stages.stints",
        """        if self.record.has(run.source, message) or self._handled(run, message):
""",
        """        if here.ordered and self.record.has(run.source, message):
""",
    ),
    Bug(
        "a time-out is not an attempt",
        "H6: a sync handler that was killed for its time-out has had an attempt",
        "pipeline.stages.router",
        """        sure = way.alive and (self.alone or way.sole or len(way.overdue) == 1)
""",
        """        sure = way.alive and (self.alone or way.sole) and not way.overdue
""",
    ),
    Bug(
        "a probe is given once",
        "R2: the probe of a process that died is given to somebody else",
        "pipeline.breaker",
        """        if self._ticket is not None and now < self._given + self._policy.probe:
            return self._given + self._policy.probe - now
""",
        """        if self._ticket is not None:
            return self._policy.probe
""",
        start=3100,
    ),
    Bug(
        "what a handler may run is given back",
        "law 3 d: no giving back until the old run can't be running",
        "pipeline.turns",
        """            self.unknown, self.asked = True, False
""",
        """            self.unknown, self.asked = False, False
""",
        start=5_003_400,
    ),
    Bug(
        "a time-out is everybody's attempt",
        "H6: only the message that ran for too long has had an attempt, the others are released",
        "pipeline.stages.router",
        """            if way.overdue and (self.number, row) not in way.overdue:
                return Outcome(row, Kind.RELEASED)
""",
        "",
    ),
    Bug(
        "an opened batch overtakes",
        "F1, F3: a batch goes on when every earlier one that holds one of its sessions has",
        "pipeline.stages.opening",
        """        if not job.opened or job.behind or job not in self._jobs:
""",
        """        if not job.opened or job not in self._jobs:
""",
    ),
    Bug(
        "what is opened too late goes on",
        "law 3 b: of a turn that is stopped nothing begins",
        "pipeline.stages.opening",
        """        if may_go.all():
""",
        """        if len(may_go):
""",
    ),
    Bug(
        "a missing key is an attempt",
        "C5, H5: a missing key costs no attempt",
        "pipeline.stages.stints",
        "counted=False, reason=refusal.reason",
        "reason=refusal.reason",
    ),
)


def bug_of(name: str) -> Bug:
    """The bug of this name."""
    return next(bug for bug in BUGS if bug.name == name)


class _Planted(SourceLoader):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def get_filename(self, fullname: str) -> str:
        return str(self._bug.path)

    def get_data(self, path: str | bytes) -> bytes:
        return self._bug.planted().encode()

    def path_stats(self, path: str) -> dict[str, float]:
        raise OSError("never from a cache of byte code")


class _Finder(MetaPathFinder):
    def __init__(self, bug: Bug) -> None:
        self._bug = bug

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._bug.module:
            return None
        return importlib.util.spec_from_file_location(
            name, self._bug.path, loader=_Planted(self._bug)
        )


def plant(name: str) -> None:
    """Plant a bug into this process, in which the module has not been imported.

    Raises:
        ValueError: there is nothing to plant it into, or it is too late.
    """
    bug = bug_of(name)
    bug.planted()
    if bug.module in sys.modules:
        raise ValueError(f"{bug.module} was imported before bug {name} was planted")
    sys.meta_path.insert(0, _Finder(bug))
