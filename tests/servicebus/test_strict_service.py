"""Rules 33 to 40: what Service Bus asks beyond AMQP: outcomes, tokens, requests, and messages."""

from __future__ import annotations

import pytest

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import Attach, Detach, Disposition, Transfer
from tests.servicebus.amqp.types import Described, ULong
from tests.servicebus.breaks import breaks
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.messages import BATCH
from tests.servicebus.raw import Raw, condition, message, receiver, refused, request, sender
from tests.servicebus.strict import Rule

pytestmark = pytest.mark.spec("T2")


def modified(failed: bool | None, elsewhere: bool) -> Described:
    """The outcome of abandon and defer."""
    return Described(ULong(0x27), [failed, elsewhere])


async def test_abandon_and_defer_need_not_say_that_the_delivery_failed() -> None:
    """The SDK for JavaScript does not: they are applied, answered as they came, and no rule's."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    raw.send(0, message())
    await raw.take(Disposition)
    await raw.receiver("orders", credit=10)
    for state in (modified(None, False), modified(False, True)):
        number = (await raw.take(Transfer)).body.delivery_id
        raw.settle(number, state)
        assert (await raw.take(Disposition)).body.state.value[1] is state.value[1]
    assert await raw.quiet(Transfer)  # deferred
    assert bus.violations.noted == []


@breaks(Rule.CBS_REQUEST)
async def test_put_token_that_lacks_something(bus: ServiceBus) -> None:
    """It is refused with 401, and so is what is no put-token at all."""
    raw = await Raw.ready(bus)
    whole = {"operation": "put-token", "type": "jwt", "name": "amqp://here/orders"}
    for words, token in (
        (whole, None),
        ({**whole, "type": ""}, "token"),
        ({**whole, "name": None}, ""),
    ):
        raw.send(250, request(words, token))
        assert (await raw.answer())[0]["status-code"] == 401
    assert len(bus.violations.noted) == 3 * bus.violations.strict


@breaks(Rule.AUTHORIZED)
async def test_a_link_without_a_token_for_its_entity(bus: ServiceBus) -> None:
    """It is attached without source and target, and detached with the error."""
    raw = await Raw.ready(bus, "small")
    raw.put(sender("orders"), receiver("orders"))
    for _ in range(2):
        got = (await raw.take(Attach)).body
        assert (got.source, got.target) == (None, None)
        error = (await raw.take(Detach)).body.error
        assert condition(error) == "amqp:unauthorized-access"
    await raw.sender("small", 5)
    raw.put(Detach(0, True), Detach(1, True))  # the client's half of it
    assert await raw.quiet(Detach)


@breaks(Rule.SESSION_FILTER)
async def test_a_session_that_is_named_by_a_number(bus: ServiceBus) -> None:
    """The link is refused."""
    raw = await Raw.ready(bus)
    raw.put(receiver("sessions", session=7))
    await raw.take(Attach)
    assert condition((await raw.take(Detach)).body.error) == "amqp:invalid-field"


@breaks(Rule.REQUEST_ID)
async def test_a_request_without_an_id(bus: ServiceBus) -> None:
    """It is answered, though nobody can tell what the answer is to."""
    raw = await Raw.ready(bus)
    await raw.node("orders/$management", 4)
    body = {"from-sequence-number": 1, "message-count": 1}
    raw.send(4, request({"operation": "com.microsoft:peek-message"}, body, None))
    assert (await raw.answer())[0]["statusCode"] == 204


@breaks(Rule.REPLY_LINK)
async def test_a_request_without_a_link_for_its_answer(bus: ServiceBus) -> None:
    """It is taken, and not answered."""
    raw = await Raw.ready(bus)
    await raw.sender("orders/$management", 4)
    raw.send(4, request({"operation": "com.microsoft:peek-message"}, {}))
    await raw.take(Disposition)
    assert await raw.quiet(Transfer)
    assert await raw.goes_on()


@breaks(Rule.BATCH)
async def test_a_batch_that_is_none(bus: ServiceBus) -> None:
    """A body that is no data, or data that is no message: the batch is refused as a whole."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    for payload in (
        encode(Described(ULong(0x77), "a value")),
        encode(Described(ULong(0x75), message())) + encode(Described(ULong(0x75), b"no message")),
    ):
        raw.send(0, payload, message_format=BATCH)
        assert refused((await raw.take(Disposition)).body.state) == "amqp:decode-error"
    assert len(bus.violations.noted) == 2 * bus.violations.strict
    await raw.receiver("orders", credit=10)
    assert await raw.quiet(Transfer)


@breaks(Rule.MESSAGE)
async def test_a_message_that_is_none(bus: ServiceBus) -> None:
    """It is refused; a request to a node as well."""
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    whole = message()
    twice = encode(Described(ULong(0x73), [])) + whole
    for payload in (b"no message", twice, whole[:-1]):
        raw.send(0, payload)
        assert refused((await raw.take(Disposition)).body.state) == "amqp:decode-error"
    raw.send(250, b"no message")
    assert refused((await raw.take(Disposition)).body.state) == "amqp:decode-error"
    assert len(bus.violations.noted) == 4 * bus.violations.strict
