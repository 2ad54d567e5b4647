"""The journal of a queue without order: what holds where messages are handled each on its own.

Nothing is said of order. A message may run in two processes at once: its lock may end while it
runs, or its router die; its effect is applied once all the same (SPEC F4). Its attempts are what
the provider counted and what failed since it was delivered (SPEC H5).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.providers.memory.calls import BrokerReceived
from pipeline.state.port import Change
from tests.simulation.journal import Journal, Place, Runs, place_of
from tests.simulation.plan import ATTEMPTS
from tests.simulation.processes import Process


@dataclass
class UnorderedJournal(Journal):
    """What happened in one run without order; see `Journal`."""

    _counts: dict[tuple[Place, int], int] = field(default_factory=dict)
    """(message, holding) to how often the provider says it was delivered."""
    _known: set[tuple[Process, Place]] = field(default_factory=set)
    """Who has read that a message was applied."""

    def _excludes(self, other: Runs, run: Runs) -> bool:
        """One process does not run one message twice at once."""
        return other.process is run.process and not set(other.positions).isdisjoint(run.positions)

    def _check_begin(self, run: Runs, position: int, attempt: int, handled: set[int]) -> None:
        place = (run.session, position)
        if (run.process, place) in self._known:
            self.broken(
                "once",
                f"{run.process.name} begins {run.session}:{position}, and read that it was applied",
            )
        if self.plan.kind.endswith("batch"):
            return  # a batch handler is told of its first row's attempts only
        most = self._counts[place, run.holding] + self.failures[place, run.holding]
        if attempt > most:
            self.broken(
                "attempts",
                f"{run.session}:{position} is at attempt {attempt}, of {most} by the provider's "
                "count and the failures of this delivery",
            )

    def _running(self, session: str, holding: int) -> list[Runs]:
        """None that a settlement has to wait for.

        A row that comes back from a dead router may be dealt to another handler than the one that
        still runs it, and end there.
        """
        return []

    def loaded(self, process: Process, keys: Sequence[str]) -> None:
        """A process reads these messages' records."""
        for key in keys:
            _, session, position = key.split("-")
            place = (session, int(position))
            if place in self.applied:
                self._known.add((process, place))

    def committed(self, process: Process, change: Change, refusal: object) -> None:
        """The store answered a change: it did it, or refused it."""
        places = [self.places[change.source, sequence] for sequence, _ in change.applied]
        if refusal is not None:
            self.note("refused", process.name, *places)
            return
        self.note("commit", process.name, *places)
        for place in places:
            if place in self.applied:
                self.broken("once", f"{place[0]}:{place[1]} was applied twice")
            self.applied[place] = process

    def received(self, process: Process, lane: int, got: BrokerReceived) -> None:
        """A receive brought messages."""
        super().received(process, lane, got)
        columns = (got.batch.values(name) for name in ("body", "holding", "delivery_count"))
        for body, holding, count in zip(*columns, strict=True):
            self._counts[place_of(body), holding] = count

    def released(self, process: Process, holdings: Sequence[int], failures: Iterable[int]) -> None:
        """The broker took sessions back: there are none."""
        self.broken("no defects", f"{process.name} gives sessions back")

    def _check_settled(self, how: str, place: Place, holding: int) -> None:
        if how == "abandon" and not self.failures[place, holding]:
            self.broken(
                "attempts", f"{place[0]}:{place[1]} is abandoned, and did not fail in this delivery"
            )
        super()._check_settled(how, place, holding)

    def _may_end(self, place: Place, holding: int, told: int) -> bool:
        """Only a delivery in which the handler failed is dead-lettered for its count."""
        failed = self.failures[place, holding]
        return bool(failed) and ATTEMPTS <= told < self._counts[place, holding] + failed
