"""Every fault at every operation: what the client sees of it, and whether it was done."""

from __future__ import annotations

import pytest

from tests.servicebus.amqp.frames import Disposition, Transfer
from tests.servicebus.fault_cases import CASES, Stage, answered
from tests.servicebus.faults import OPERATIONS, Faults
from tests.servicebus.raw import ACCEPTED, Raw, message, refused

pytestmark = pytest.mark.spec("T2")

BUSY = "com.microsoft:server-busy"
every_operation = pytest.mark.parametrize("operation", sorted(CASES))
every_answered = pytest.mark.parametrize("operation", sorted(CASES.keys() - {"release"}))


def test_the_tables_are_complete() -> None:
    """Each operation that has an answer is in the tables of these tests."""
    assert set(CASES) | {"deliver"} == OPERATIONS


@every_operation
async def test_without_a_fault_it_is_done_and_answered(operation: str) -> None:
    """The tests below show something only if this one does."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    assert case.done is None or not case.done(stage)
    case.do(stage)
    assert await answered(stage, case) == ""
    assert case.done is None or case.done(stage)
    assert stage.bus.violations.noted == []


@every_operation
@pytest.mark.parametrize("applied", [False, True])
async def test_drop(operation: str, applied: bool) -> None:
    """TCP ends at the operation, which is not answered, and has or has not taken effect."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    fault = stage.bus.faults.drop(operation, applied=applied)
    case.do(stage)
    assert stage.raw.wire.ended == "aborted"
    assert await answered(stage, case) is None
    assert case.done is None or case.done(stage) is applied
    assert (fault.met, stage.bus.faults.waiting) == (1, [])
    assert stage.bus.connections == set()
    assert stage.bus.violations.noted == []


@every_answered
@pytest.mark.parametrize("applied", [False, True])
async def test_swallow(operation: str, applied: bool) -> None:
    """The operation is never answered, has or has not taken effect, and the connection goes on."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    stage.bus.faults.swallow(operation, applied=applied)
    case.do(stage)
    assert await answered(stage, case) is None
    assert case.done is None or case.done(stage) is applied
    stage.clock.advance(20)
    assert await answered(stage, case) is None
    assert stage.raw.wire.ended == ""


@every_operation
async def test_delay(operation: str) -> None:
    """The operation takes effect at once, and is answered later."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    stage.bus.faults.delay(operation, 5)
    case.do(stage)
    assert case.done is None or case.done(stage)
    stage.clock.advance(4.9)
    assert await answered(stage, case) is None
    stage.clock.advance(0.1)
    assert await answered(stage, case) == ""
    assert stage.bus.violations.noted == []


@every_operation
async def test_delay_of_who_has_left(operation: str) -> None:
    """An answer whose client is gone is dropped; nobody is blamed."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    stage.bus.faults.delay(operation, 5)
    case.do(stage)
    stage.bus.drop()
    stage.clock.advance(5)
    assert await answered(stage, case) is None
    assert stage.bus.violations.noted == []


@every_answered
async def test_refuse(operation: str) -> None:
    """The operation has no effect, and is answered with the condition."""
    case, stage = CASES[operation], Stage()
    await case.prepare(stage)
    stage.bus.faults.refuse(operation, BUSY)
    case.do(stage)
    assert await answered(stage, case) == ("401" if operation == "put-token" else BUSY)
    assert case.done is None or not case.done(stage)


# --- deliveries, which nobody asks for and nobody answers -----------------------------------------


async def _about_to_receive() -> Stage:
    stage = Stage()
    stage.raw = await Raw.ready(stage.bus)
    await stage.raw.receiver("orders", credit=10)
    return stage


@pytest.mark.parametrize("applied", [False, True])
async def test_drop_at_a_delivery(applied: bool) -> None:
    """The message is locked for a client that is gone; it has got it before that, or not."""
    stage = await _about_to_receive()
    stage.bus.faults.drop("deliver", applied=applied)
    stage.stored(stage.orders)
    assert len(await stage.raw.all(Transfer)) == applied
    assert stage.raw.wire.ended == "aborted"
    assert stage.orders.counts().locked == 1


async def test_delay_of_a_delivery() -> None:
    """It is locked at once and leaves later; those behind it do not overtake it."""
    stage = await _about_to_receive()
    stage.bus.faults.delay("deliver", 5)
    for _ in range(3):
        stage.stored(stage.orders)
    assert stage.orders.counts().locked == 1
    stage.clock.advance(4.9)
    assert await stage.raw.quiet(Transfer)
    stage.clock.advance(0.1)
    assert [got.body.delivery_id for got in await stage.raw.all(Transfer)] == [1, 2, 3]


async def test_a_delayed_delivery_of_a_link_that_is_gone() -> None:
    """It never leaves."""
    stage = await _about_to_receive()
    stage.bus.faults.delay("deliver", 5)
    stage.stored(stage.orders)
    stage.bus.detach("orders")
    stage.clock.advance(5)
    assert await stage.raw.quiet(Transfer)
    assert stage.orders.counts().locked == 1


# --- which, how often, in which order -------------------------------------------------------------


async def _sent(stage: Stage, handle: int = 0) -> str | None:
    """How a message that is sent was answered."""
    stage.raw.send(handle, message())
    came = await stage.raw.all(Disposition)
    return refused(came[0].body.state) if came else None


async def _with_two_senders() -> Stage:
    stage = Stage()
    stage.bus.queue("Others")
    stage.raw = await Raw.ready(stage.bus)
    await stage.raw.sender("orders", 0)
    await stage.raw.sender("others", 2)
    return stage


async def test_times_and_skip() -> None:
    """A fault lets so many through, happens so often, and is over."""
    stage = await _with_two_senders()
    fault = stage.bus.faults.refuse("send", BUSY, skip=1, times=2)
    assert [await _sent(stage) for _ in range(4)] == ["", BUSY, BUSY, ""]
    assert fault.met == 2


async def test_times_without_end() -> None:
    """It happens until it is cleared."""
    stage = await _with_two_senders()
    stage.bus.faults.refuse("send", BUSY, times=None)
    assert [await _sent(stage) for _ in range(9)] == [BUSY] * 9
    stage.bus.faults.clear()
    assert await _sent(stage) == ""


async def test_entity() -> None:
    """A fault of one entity leaves the others alone; names are compared without their case."""
    stage = await _with_two_senders()
    stage.bus.faults.refuse("send", BUSY, entity="OTHERS")
    assert await _sent(stage, 0) == ""
    assert await _sent(stage, 2) == BUSY


async def test_faults_happen_in_the_order_in_which_they_were_asked_for() -> None:
    """One after the other, not both at once."""
    stage = await _with_two_senders()
    stage.bus.faults.refuse("send", "first")
    stage.bus.faults.refuse("send", "second")
    assert [await _sent(stage) for _ in range(3)] == ["first", "second", ""]


async def test_busy() -> None:
    """So many requests are answered with server-busy."""
    stage = await _with_two_senders()
    stage.bus.faults.busy(2)
    assert [await _sent(stage) for _ in range(3)] == [BUSY, BUSY, ""]


async def test_refuse_auth() -> None:
    """Every token is refused, until that is cleared."""
    stage = await _with_two_senders()
    stage.bus.faults.refuse_auth()
    assert (await stage.raw.put_token("orders"))["status-code"] == 401
    assert (await stage.raw.put_token("orders"))["status-code"] == 401
    stage.bus.faults.clear()
    assert (await stage.raw.put_token("orders"))["status-code"] == 202


async def test_a_range_that_is_dropped_in_its_middle() -> None:
    """What is behind the drop in one disposition was not applied."""
    stage = await _about_to_receive()
    for _ in range(4):
        stage.stored(stage.orders)
    stage.bus.faults.drop("complete", applied=False, skip=2)
    stage.raw.settle(1, ACCEPTED, 4)
    assert stage.orders.counts().locked == 2
    assert stage.bus.violations.noted == []


# --- wrong use ------------------------------------------------------------------------------------


def test_an_operation_that_nobody_knows() -> None:
    """The error names it, and those there are."""
    with pytest.raises(ValueError, match=r"'completed' is no operation: one of .*complete.*"):
        Stage().bus.faults.drop("completed", applied=True)


@pytest.mark.parametrize("operation", ["deliver", "release"])
def test_what_has_no_answer_can_not_be_refused_or_swallowed(operation: str) -> None:
    """A delivery can be late or lost with TCP, not refused."""
    faults: Faults = Stage().bus.faults
    with pytest.raises(ValueError, match=f"{operation} has no answer to refuse"):
        faults.refuse(operation, BUSY)
    with pytest.raises(ValueError, match=f"{operation} has no answer to swallow"):
        faults.swallow(operation)
    with pytest.raises(ValueError, match=f"{operation} has no answer to ignore"):
        faults.swallow(operation, applied=False)
    assert faults.waiting == []


def test_numbers_that_make_no_sense() -> None:
    """How often, how many first, and how long: none is negative, and never is not how often."""
    faults: Faults = Stage().bus.faults
    with pytest.raises(ValueError, match="times is 0"):
        faults.drop("send", applied=True, times=0)
    with pytest.raises(ValueError, match="times is 0"):
        faults.busy(0)
    with pytest.raises(ValueError, match="skip is -1"):
        faults.drop("send", applied=True, skip=-1)
    with pytest.raises(ValueError, match="seconds is -1"):
        faults.delay("send", -1)
    assert faults.waiting == []
