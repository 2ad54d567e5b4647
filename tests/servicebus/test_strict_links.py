"""Rules 14 to 32: windows and flow, handles and links, transfers, and dispositions."""

from __future__ import annotations

import pytest

from tests.servicebus.amqp.frames import (
    Attach,
    Detach,
    Disposition,
    Flow,
    Transfer,
)
from tests.servicebus.amqp.types import Described, ULong
from tests.servicebus.breaks import breaks
from tests.servicebus.bus import ServiceBus
from tests.servicebus.limits import CREDIT, WINDOW
from tests.servicebus.raw import ACCEPTED, Raw, message, refused, sender
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")


async def sent_one(bus: ServiceBus) -> Raw:
    """A client with a message in its hands, delivery 1 on handle 1, and a sender on handle 0."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message())
    await raw.take(Disposition)
    await raw.receiver("orders", credit=10)
    assert (await raw.take(Transfer)).body.delivery_id == 1  # 0 answered put-token
    return raw


@breaks(Rule.WINDOW)
async def test_more_transfers_than_the_window(bus: ServiceBus) -> None:
    """What comes before the server could tell of a new window is one too many; it is taken."""
    raw = await Raw.ready(bus)
    await raw.sender("small")
    allowed = WINDOW - 1  # put-token was one
    raw.put(raw.transfer(0, more=True), *[Transfer(0, more=True)] * (allowed - 1))
    assert bus.violations.noted == []
    raw.put(Transfer(0), payload=message())
    assert (await raw.take(Disposition)).body.state == ACCEPTED


@breaks(Rule.FLOW_FIELDS)
async def test_flow_without_its_fields(bus: ServiceBus) -> None:
    """Each is taken for what it says, and the session goes on."""
    raw = await Raw.ready(bus)
    for fields in (
        {"incoming_window": None},
        {"next_outgoing_id": None},
        {"outgoing_window": None},
        {"delivery_count": 0},
        {"link_credit": 1},
        {"available": 1},
        {"drain": True},
    ):
        told = {"incoming_window": 10, "next_outgoing_id": 0, "outgoing_window": 10} | fields
        before = len(bus.violations.noted)
        raw.put(Flow(1, **told, echo=True))
        await raw.take(Flow)
        assert len(bus.violations.noted) == before + bus.violations.strict


@breaks(Rule.HANDLE_MAX)
async def test_a_handle_above_the_highest(bus: ServiceBus) -> None:
    """The link is attached all the same."""
    raw = await Raw.ready(bus)
    await raw.sender("orders", 255)
    assert bus.violations.noted == []
    await raw.sender("orders", 256)


@breaks(Rule.HANDLE_IN_USE)
async def test_a_link_on_a_handle_that_has_one(bus: ServiceBus) -> None:
    """The new link takes the old one's place."""
    raw = await sent_one(bus)
    await raw.receiver("orders", 0, name="another")
    raw.credit(0, 1)
    assert await raw.quiet(Transfer)  # the message is locked for the link on handle 1


@breaks(Rule.UNATTACHED)
async def test_frames_on_a_handle_without_a_link(bus: ServiceBus) -> None:
    """They are dropped, before there was a link, after it was detached, and of the wrong kind."""
    raw = await Raw.ready(bus)
    raw.send(9, message())
    raw.credit(9, 1)
    raw.put(Detach(9, True))
    await raw.receiver("orders")
    raw.send(1, message())
    raw.put(Detach(1, True))
    await raw.take(Detach)
    raw.credit(1, 1)
    assert await raw.quiet()
    assert await raw.goes_on()
    assert len(bus.violations.noted) == 5 * bus.violations.strict


@breaks(Rule.ATTACH_FIELDS)
async def test_attach_without_a_role(bus: ServiceBus) -> None:
    """Without a name, a handle or a role there is no link to attach: the frame is dropped."""
    raw = await Raw.ready(bus)
    raw.put(sender("orders", role=None), sender("orders", name=None))
    raw.put(Attach("sender", None, False))
    assert await raw.quiet(Attach)
    assert await raw.goes_on()
    assert len(bus.violations.noted) == 3 * bus.violations.strict


@breaks(Rule.INITIAL_COUNT)
async def test_a_sender_that_does_not_say_what_it_counts_from(bus: ServiceBus) -> None:
    """It counts from 0."""
    raw = await Raw.ready(bus)
    raw.put(sender("orders", initial_delivery_count=None))
    await raw.take(Attach)
    assert (await raw.take(Flow)).body.delivery_count == 0


@breaks(Rule.LINK_CREDIT)
async def test_a_delivery_before_there_is_credit(bus: ServiceBus) -> None:
    """Who sends along with attach can't have had credit; the message is taken."""
    raw = await Raw.ready(bus)
    raw.put(sender("orders"), raw.transfer(0), payload=message())
    assert (await raw.take(Disposition)).body.state == ACCEPTED


@breaks(Rule.LINK_CREDIT)
async def test_more_deliveries_than_the_credit(bus: ServiceBus) -> None:
    """The server gives more early, but no client knows of that before it was sent."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.put(*(raw.transfer(0, settled=True) for _ in range(CREDIT)))
    noted = {violation.rule for violation in bus.violations.noted}
    assert noted <= {Rule.MESSAGE, Rule.SETTLE_MODE}
    bus.violations.noted.clear()
    raw.send(0, message())
    assert (await raw.take(Disposition)).body.state == ACCEPTED


@breaks(Rule.DELIVERY_ID)
async def test_a_delivery_without_an_id(bus: ServiceBus) -> None:
    """It is taken, and answered as delivery 0."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message(), delivery_id=None)
    assert (await raw.take(Disposition)).body.first == 0


@breaks(Rule.DELIVERY_SEQUENCE)
async def test_delivery_ids_that_are_reused(bus: ServiceBus) -> None:
    """The SDK for Python does that when requests are concurrent: each is taken and answered."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message(), delivery_id=1)
    raw.send(0, message(), delivery_id=1)
    assert [got.body.first for got in await raw.all(Disposition)] == [1, 1]


@breaks(Rule.DELIVERY_TAG)
async def test_a_delivery_without_a_good_tag(bus: ServiceBus) -> None:
    """Without a tag, or with one of 33 bytes, it is taken all the same."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message(), delivery_tag=None)
    raw.send(0, message(), delivery_tag=b"t" * 33)
    raw.send(0, message(), delivery_tag=b"t" * 32)
    assert len(await raw.all(Disposition)) == 3
    assert len(bus.violations.noted) == 2 * bus.violations.strict


@breaks(Rule.TAG_IN_USE)
async def test_a_tag_of_a_delivery_that_is_not_settled(bus: ServiceBus) -> None:
    """Once that one is settled, the tag is free again."""
    bus.faults.swallow("send", skip=1)
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    for _ in range(2):
        raw.send(0, message(), delivery_tag=b"same")
        await raw.read()
    assert bus.violations.noted == []
    raw.send(0, message(), delivery_tag=b"same")
    assert len(await raw.all(Disposition)) == 2


@breaks(Rule.CONTINUATION)
async def test_transfers_of_one_delivery_with_another_id_or_tag(bus: ServiceBus) -> None:
    """They are put together all the same."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.put(raw.transfer(0, more=True, delivery_tag=b"one"), payload=message()[:4])
    raw.put(Transfer(0, 7, more=True), Transfer(0, None, b"two", more=True))
    raw.put(Transfer(0, 1, b"one"), payload=message()[4:])
    assert (await raw.take(Disposition)).body.state == ACCEPTED
    assert len(bus.violations.noted) == 2 * bus.violations.strict


@breaks(Rule.SETTLE_MODE)
async def test_transfers_that_are_not_settled_as_was_said(bus: ServiceBus) -> None:
    """A settled one gets no answer, an unsettled one does, whatever was said at attach."""
    raw = await Raw.ready(bus)
    await raw.sender("orders", 0)
    await raw.sender("orders", 2, snd_settle_mode=1)
    await raw.sender("orders", 4, snd_settle_mode=2)  # mixed: either is right
    raw.send(0, message(), settled=True)
    unsettled = raw.send(2, message())
    raw.send(4, message(), settled=True)
    mixed = raw.send(4, message())
    assert [got.body.first for got in await raw.all(Disposition)] == [unsettled, mixed]
    assert len(bus.violations.noted) == 2 * bus.violations.strict


@breaks(Rule.MESSAGE_SIZE)
async def test_a_message_larger_than_the_link_takes(bus: ServiceBus) -> None:
    """It is refused with the condition for it, and the link goes on."""
    raw = await Raw.ready(bus)
    raw.put(sender("small"))
    assert (await raw.take(Attach)).body.max_message_size == 1_000
    await raw.take(Flow)
    raw.send(0, message(b"x" * 1_000))
    state = (await raw.take(Disposition)).body.state
    assert refused(state) == "amqp:link:message-size-exceeded"
    raw.send(0, message())
    assert (await raw.take(Disposition)).body.state == ACCEPTED


@breaks(Rule.ROLE)
async def test_a_disposition_of_the_wrong_end(bus: ServiceBus) -> None:
    """Who receives says so: as the sender it settles nothing, and hears nothing."""
    raw = await sent_one(bus)
    raw.put(Disposition(False, 5, 5, False, ACCEPTED), Disposition(None, 1, 1, False, ACCEPTED))
    assert await raw.quiet(Disposition)
    raw.settle(1, ACCEPTED)
    await raw.take(Disposition)


@breaks(Rule.RANGE)
async def test_a_range_that_ends_before_it_begins(bus: ServiceBus) -> None:
    """Nothing is settled by it, nor by a range without a beginning."""
    raw = await sent_one(bus)
    raw.settle(1, ACCEPTED, 0)
    raw.put(Disposition(True, None, 1, False, ACCEPTED))
    assert await raw.quiet(Disposition)
    raw.settle(1, ACCEPTED)
    await raw.take(Disposition)


@breaks(Rule.UNKNOWN_DELIVERY)
async def test_a_disposition_of_what_is_settled_or_was_never_sent(bus: ServiceBus) -> None:
    """Those are passed over; the others of the range are settled."""
    raw = await sent_one(bus)
    raw.settle(1, ACCEPTED, 2**32 - 1)
    assert (await raw.take(Disposition)).body.first == 1
    raw.settle(1, ACCEPTED)
    assert await raw.quiet(Disposition)


@breaks(Rule.OUTCOME)
async def test_a_disposition_that_is_no_outcome(bus: ServiceBus) -> None:
    """The delivery stays as it is; it goes back once the client says it has settled it."""
    raw = await sent_one(bus)
    raw.settle(1, None)
    raw.settle(1, Described(ULong(0x23), [0, 0]))
    assert await raw.quiet(Disposition)
    raw.settle(1, None, settled=True)
    assert (await raw.take(Transfer)).body.delivery_id == 2  # released, and delivered again
    raw.settle(2, ACCEPTED)
    assert refused((await raw.take(Disposition)).body.state) == ""


async def test_a_sender_may_settle_its_own_deliveries() -> None:
    """It forgets them: a disposition of the sender's end, about what it has sent, is in order."""
    bus = ServiceBus(strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    number = raw.send(0, message())
    raw.put(Disposition(False, number, number, True, ACCEPTED))
    await raw.take(Disposition)
    assert bus.violations.noted == []


async def test_the_count_of_a_sender_is_taken_as_it_is() -> None:
    """Credit is counted from what a sender says it counts from, also around the highest number."""
    bus = ServiceBus(strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    raw.put(sender("orders", initial_delivery_count=2**32 - 1))
    assert (await raw.take(Flow)).body.delivery_count == 2**32 - 1
    raw.put(*(raw.transfer(0) for _ in range(CREDIT // 2)), payload=message())
    assert (await raw.take(Flow)).body.delivery_count == CREDIT // 2 - 1
    assert bus.violations.noted == []
