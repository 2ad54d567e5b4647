"""The client's ledger: what is in hand, what ended how, and that it does not grow for ever."""

from __future__ import annotations

import math

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from pipeline.client.leases import Lease, Leases, Possession
from pipeline.errors import (
    ConnectionFailed,
    MessageLockLost,
    MessageNotFound,
    QueueError,
    SessionLockLost,
    Throttled,
    Timeout,
)
from pipeline.names import ReceiptHandle
from pipeline.providers.port import Holding


class Ledger(Leases[str]):
    """A ledger whose time is set by hand."""

    def __init__(self, remembered: int = 10_000) -> None:
        self.now = 0.0
        super().__init__(lambda: self.now, remembered)

    def taken(self, until: float = 60.0, possession: Possession | None = None) -> ReceiptHandle:
        return self.grant("receipt", "lane", until, possession)

    def begun(self, handle: ReceiptHandle, operation: str = "complete") -> Lease[str]:
        lease = self.begin(handle, operation)
        assert isinstance(lease, Lease)
        return lease

    def kind(self, handle: str) -> type[object]:
        return type(self.find(handle))


def held(number: int = 7, *, kept: bool = False, deadline: float = 60.0) -> Possession:
    return Possession(Holding(number, "s", deadline), kept, deadline)


@pytest.mark.spec("P14", "M1")
def test_handles_are_unlike_in_every_client() -> None:
    """A handle of one is unknown in the other."""
    one, other = Ledger(), Ledger()
    assert other.kind(one.taken()) is MessageNotFound
    assert one.taken() != other.taken()


@pytest.mark.spec("P14")
def test_a_settled_row_leaves_nothing_behind() -> None:
    """Its receipt is then as good as unknown, which is what it should be."""
    ledger = Ledger()
    handle = ledger.taken()
    lease = ledger.begun(handle)
    assert ledger.conclude(lease, None) is None
    ledger.give_up(lease, unknown=False)
    assert len(ledger) == 0
    assert ledger.kind(handle) is MessageNotFound
    assert ledger._lost == {}


@pytest.mark.spec("P14")
def test_a_row_is_lost_at_its_deadline() -> None:
    """And stays told from a settled one."""
    ledger = Ledger()
    handle = ledger.taken(until=60)
    ledger.now = 59.9
    assert ledger.kind(handle) is Lease
    ledger.now = 60
    assert ledger.kind(handle) is MessageLockLost
    assert isinstance(ledger.begin(handle, "complete"), MessageLockLost)
    assert len(ledger) == 0


@pytest.mark.spec("P14")
def test_while_it_is_settled_its_deadline_waits_and_others_are_refused() -> None:
    """The call under way decides; who comes meanwhile is told to wait for it."""
    ledger = Ledger()
    handle = ledger.taken(until=60)
    lease = ledger.begun(handle)
    ledger.now = 61
    assert ledger.kind(handle) is Lease
    refused = ledger.begin(handle, "abandon")
    assert isinstance(refused, MessageNotFound)
    assert "complete" in str(refused)
    ledger.conclude(lease, None)
    assert ledger.kind(handle) is MessageNotFound


@pytest.mark.spec("P14")
@pytest.mark.parametrize(
    ("error", "then"),
    [
        (MessageNotFound("x"), MessageNotFound),
        (MessageLockLost("x"), MessageLockLost),
        (SessionLockLost("x"), MessageLockLost),
        (Timeout("x"), Lease),
        (ConnectionFailed("x"), Lease),
        (Throttled("x"), Lease),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_the_provider_answers_decides(error: QueueError, then: type[object]) -> None:
    """A transient failure leaves the row in hand."""
    ledger = Ledger()
    handle = ledger.taken()
    lease = ledger.begun(handle)
    assert ledger.conclude(lease, error) is error
    ledger.give_up(lease, unknown=False)
    assert ledger.kind(handle) is then


@pytest.mark.spec("P14", "R1")
@pytest.mark.parametrize("unknown", [Timeout("x"), ConnectionFailed("x"), None], ids=repr)
@pytest.mark.parametrize("second", ["complete", "abandon"])
def test_not_found_after_an_unknown_outcome_of_the_same_operation_is_success(
    unknown: QueueError | None, second: str
) -> None:
    """Of another operation it is what it says; None here stands for a cancelled call."""
    ledger = Ledger()
    handle = ledger.taken()
    lease = ledger.begun(handle, "complete")
    if unknown is not None:
        ledger.conclude(lease, unknown)
    ledger.give_up(lease, unknown=unknown is None)
    gone = MessageNotFound("gone")
    again = ledger.begun(handle, second)
    assert ledger.conclude(again, gone) is (None if second == "complete" else gone)
    assert ledger.kind(handle) is MessageNotFound


@pytest.mark.spec("P14", "R1")
def test_a_refusal_leaves_nothing_unknown() -> None:
    """Throttled means that nothing was done: not found is then an error."""
    ledger = Ledger()
    lease = ledger.begun(ledger.taken())
    ledger.conclude(lease, Throttled("x"))
    assert isinstance(ledger.conclude(lease, MessageNotFound("gone")), MessageNotFound)


@pytest.mark.spec("P13")
def test_a_row_that_could_not_be_renewed() -> None:
    """Lost when its lock is, ended when it is not found, else still in hand."""
    ledger = Ledger()
    lost, gone, kept, settling = (ledger.taken() for _ in range(4))
    for handle, error in (
        (lost, MessageLockLost("x")),
        (gone, MessageNotFound("x")),
        (kept, Timeout("x")),
    ):
        lease = ledger.find(handle)
        assert isinstance(lease, Lease)
        ledger.refused(lease, error)
    ledger.refused(ledger.begun(settling), MessageNotFound("x"))
    kinds = [ledger.kind(handle) for handle in (lost, gone, kept, settling)]
    assert kinds == [MessageLockLost, MessageNotFound, Lease, Lease]


@pytest.mark.spec("P13", "P14")
def test_the_lock_of_a_session_is_that_of_all_its_rows() -> None:
    """Renewed or lost, together; a row's own deadline does not count."""
    ledger, session = Ledger(), held()
    first, second = ledger.taken(0, session), ledger.taken(0, session)
    alone = ledger.taken(1000)
    session.deadline = 120
    ledger.now = 100
    assert ledger.kind(first) is Lease
    lease = ledger.begun(first)
    ledger.conclude(lease, SessionLockLost("x"))
    assert ledger.kind(second) is MessageLockLost
    assert ledger.lost_session(session)
    assert ledger.kind(alone) is Lease
    assert session.rows == set()


@pytest.mark.spec("F3")
def test_a_session_that_a_receive_opened_ends_with_its_last_row() -> None:
    """Named once, to whoever settled the last one."""
    ledger, session = Ledger(), held()
    leases = [ledger.begun(ledger.taken(0, session)) for _ in range(2)]
    ledger.conclude(leases[0], None)
    assert ledger.emptied(leases[:1]) == []
    ledger.conclude(leases[1], None)
    assert ledger.emptied(leases) == [7]
    assert ledger.emptied(leases) == []


@pytest.mark.spec("F3")
def test_a_session_that_is_kept_or_lost_does_not_end_with_its_rows() -> None:
    """A user holds the one, nobody the other; and a row alone has none."""
    ledger = Ledger()
    kept, lost = held(1, kept=True), held(2, deadline=50)
    leases = [ledger.begun(ledger.taken(60, one)) for one in (kept, lost, None)]
    for lease in leases:
        ledger.conclude(lease, None)
    ledger.now = 50
    assert ledger.emptied(leases) == []


@pytest.mark.spec("P14")
def test_giving_a_session_back_ends_its_rows() -> None:
    """They are settled, not lost: their receipts are unknown from then on."""
    ledger, session = Ledger(), held(kept=True)
    handles = [ledger.taken(0, session) for _ in range(3)]
    ledger.give_back(session)
    assert {ledger.kind(handle) for handle in handles} == {MessageNotFound}
    assert ledger.lost_session(session)
    assert len(ledger) == 0


@pytest.mark.spec("F5")
def test_only_the_latest_lost_receipts_are_remembered() -> None:
    """An older one is answered like one that was settled."""
    ledger = Ledger(remembered=3)
    handles = [ledger.taken(until=10) for _ in range(5)]
    ledger.now = 10
    kinds = [ledger.kind(handle) for handle in handles]
    assert kinds == [MessageLockLost] * 5
    kinds = [ledger.kind(handle) for handle in handles]
    assert kinds == [MessageNotFound] * 2 + [MessageLockLost] * 3


@pytest.mark.spec("F5")
def test_rows_that_nobody_settles_are_swept_out() -> None:
    """Never more than twice those whose lock runs, and a thousand."""
    ledger = Ledger(remembered=100)
    most = 0
    for number in range(20_000):
        ledger.now = number * 0.1
        ledger.taken(until=ledger.now + 60)  # 600 at a time have a lock that runs
        most = max(most, len(ledger))
    assert most <= 2 * 600 + 1_024
    assert len(ledger._lost) <= 100


@pytest.mark.spec("F5")
def test_sweeping_spares_what_is_being_settled() -> None:
    """Its call decides."""
    ledger = Ledger()
    lease = ledger.begun(ledger.taken(until=1))
    ledger.now = 2
    for _ in range(3_000):
        ledger.taken(until=2)
    assert ledger.find(lease.handle) is lease


def test_a_closed_ledger_knows_nothing() -> None:
    """The client is closed before anybody could ask."""
    ledger = Ledger()
    lease = ledger.begun(ledger.taken())
    ledger.clear()
    ledger.conclude(lease, None)
    assert len(ledger) == 0


class LedgerAgainstAModel(RuleBasedStateMachine):
    """Whatever happens in whatever order, each row is in hand, settled or lost, and says so."""

    rows = Bundle("rows")
    begun = Bundle("begun")

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(remembered=10**6)
        self.session: Possession | None = None
        self.number = 0
        self.ended: set[int] = set()
        self.model: dict[ReceiptHandle, str] = {}  # live, settling, settled, lost
        self.until: dict[ReceiptHandle, float] = {}
        self.of: dict[ReceiptHandle, Possession] = {}

    def deadline(self, handle: ReceiptHandle) -> float:
        session = self.of.get(handle)
        return self.until[handle] if session is None else session.deadline

    def expire(self) -> None:
        for handle, state in self.model.items():
            if state == "live" and self.deadline(handle) <= self.ledger.now:
                self.model[handle] = "lost"

    @rule(target=rows, seconds=st.integers(1, 50))
    def receive(self, seconds: int) -> ReceiptHandle:
        handle = self.ledger.taken(self.ledger.now + seconds)
        self.model[handle], self.until[handle] = "live", self.ledger.now + seconds
        return handle

    @rule(target=rows, seconds=st.integers(1, 50), count=st.integers(1, 3))
    def receive_a_session(self, seconds: int, count: int) -> object:
        self.number += 1
        session = held(self.number, deadline=self.ledger.now + seconds)
        handles = [self.ledger.taken(math.inf, session) for _ in range(count)]
        for handle in handles:
            self.model[handle], self.of[handle] = "live", session
        return multiple(*handles)

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.ledger.now += seconds
        self.expire()

    @rule(target=begun, handle=rows, operation=st.sampled_from(["complete", "abandon"]))
    def begin(self, handle: ReceiptHandle, operation: str) -> object:
        lease = self.ledger.begin(handle, operation)
        if self.model[handle] == "live":
            assert isinstance(lease, Lease)
            self.model[handle] = "settling"
            return lease
        lost = self.model[handle] == "lost"
        assert isinstance(lease, MessageLockLost if lost else MessageNotFound)
        return multiple()

    @rule(lease=consumes(begun), error=st.sampled_from([None, Timeout, Throttled, MessageLockLost]))
    def conclude(self, lease: Lease[str], error: type[QueueError] | None) -> None:
        answer = self.ledger.conclude(lease, error and error("x"))
        self.ledger.give_up(lease, unknown=False)
        assert (answer is None) == (error is None)
        state = {None: "settled", MessageLockLost: "lost"}.get(error, "live")
        self.model[lease.handle] = state
        if error is MessageLockLost and lease.handle in self.of:
            self.expire()
        self.expire()
        for number in self.ledger.emptied([lease]):
            assert number not in self.ended, "a holding was named twice"
            self.ended.add(number)
            of_it = [h for h, session in self.of.items() if session.holding.number == number]
            assert {self.model[handle] for handle in of_it} <= {"settled", "lost"}

    @invariant()
    def every_row_says_what_it_is(self) -> None:
        kinds = {
            "live": Lease,
            "settling": Lease,
            "settled": MessageNotFound,
            "lost": MessageLockLost,
        }
        for handle, state in self.model.items():
            assert self.ledger.kind(handle) is kinds[state], (handle, state)
        in_hand = sum(state in ("live", "settling") for state in self.model.values())
        assert len(self.ledger) == in_hand


TestLedgerAgainstAModel = pytest.mark.spec("P14", "F2")(LedgerAgainstAModel.TestCase)
