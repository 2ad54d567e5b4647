"""Strict mode as a whole: every rule has its test, and who keeps them all is not complained of.

The tests of the rules, each of which breaks one, are in the other test_strict_*.py.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.servicebus.amqp.frames import (
    Attach,
    Begin,
    Close,
    Detach,
    Disposition,
    End,
    Open,
    Transfer,
)
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.raw import ACCEPTED, Raw, message
from tests.servicebus.strict import Rule, Violations

pytestmark = pytest.mark.spec("T2")


def test_every_rule_has_a_test_and_its_number() -> None:
    """The rules are numbered from 1 on, and a test is named for each that breaks it."""
    assert [rule.value[0] for rule in Rule] == list(range(1, len(Rule) + 1))
    tested = [
        name
        for path in Path(__file__).parent.glob("test_strict_*.py")
        for name in re.findall(r"^@breaks\(Rule\.(\w+)\)$", path.read_text(), re.MULTILINE)
    ]
    assert set(tested) == {rule.name for rule in Rule}


@pytest.mark.parametrize("strict", [True, False])
async def test_who_keeps_the_rules_is_not_noted(strict: bool) -> None:
    """A conversation of every kind of frame, in order and answered, breaks nothing."""
    bus = ServiceBus(clock=ManualClock(), strict=strict)
    bus.queue("orders")
    raw = Raw(bus)
    await raw.shake()
    raw.put(Open("by hand", idle_time_out=30_000))
    await raw.take(Open)
    raw.put(Begin(None, 0, 5_000, 5_000))
    await raw.take(Begin)
    await raw.node("$cbs", 250)
    assert (await raw.put_token("orders"))["status-code"] == 202
    await raw.sender("orders", 0)
    whole = message(b"x" * 1_000)
    first = raw.transfer(0, more=True)
    raw.put(first, payload=whole[:400])
    raw.put(Transfer(0, first.delivery_id, first.delivery_tag, more=True), payload=whole[400:800])
    raw.put(Transfer(0), payload=whole[800:])
    assert (await raw.take(Disposition)).body.state == ACCEPTED
    await raw.receiver("orders", 1, credit=2)
    got = (await raw.take(Transfer)).body
    raw.settle(got.delivery_id, ACCEPTED)
    assert (await raw.take(Disposition)).body.settled is True
    await raw.node("orders/$management", 4)
    assert (await raw.ask(4, "peek-message", {}))[0]["statusCode"] == 400
    raw.credit(1, 0, drain=True)
    raw.put(Detach(1, True), Detach(0, True))
    await raw.take(Detach)
    raw.put(End())
    await raw.take(End)
    raw.put(Close())
    await raw.take(Close)
    assert raw.wire.ended == "closed"
    assert bus.violations.noted == []


async def test_links_come_and_go_on_the_same_handle() -> None:
    """A handle is free again once its link is detached, and a channel once its session is ended."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    bus.queue("orders")
    raw = await Raw.ready(bus)
    for _ in range(2):
        await raw.sender("orders", 3)
        raw.put(Detach(3, True))
        await raw.take(Detach)
        raw.put(Begin(None, 0, 10, 10), End(), channel=9)
        await raw.take(End)
    assert await raw.quiet(Attach)
    assert bus.violations.noted == []


async def test_what_is_in_flight_when_the_server_detaches_is_no_violation() -> None:
    """A client can't know yet that its link or connection is over: what it sent is dropped."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    queue = bus.queue("orders")
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    bus.detach("orders")
    raw.send(0, message())
    raw.put(Detach(0, True))
    assert await raw.goes_on()
    bus.close_connections("amqp:connection:forced")
    raw.put(Begin(None, 0, 10, 10))
    raw.put(Close())
    assert queue.counts().active == 0
    assert bus.violations.noted == []


def test_a_violation_says_what_was_asked_and_what_was_done() -> None:
    """It names the rule, its number and section, the connection, and the detail."""
    violations = Violations(strict=True)
    violations.note(Rule.CONTAINER_ID, "container-id None", 3)
    assert str(violations.noted[0]) == (
        "rule 7 (2.7.1): open carries a container-id; connection 3: container-id None"
    )


def test_only_so_many_are_kept() -> None:
    """A client that breaks a rule with every message does not fill the memory."""
    violations = Violations(strict=True, most=2)
    for number in range(5):
        violations.note(Rule.IDLE, str(number), 1)
    assert [violation.detail for violation in violations.noted] == ["0", "1"]
