"""What a test of ours could get wrong is told at once; and a server can be used again."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final

import aiohttp
import pytest

from tests.servicebus.amqp.frames import SASL_HEADER, Attach, Detach, Flow
from tests.servicebus.bus import ServiceBus
from tests.servicebus.entities.clock import ManualClock, SystemClock
from tests.servicebus.entities.numbers import finite
from tests.servicebus.entities.rig import messages, receiver
from tests.servicebus.entities.settings import Settings
from tests.servicebus.faults import Faults, Shape
from tests.servicebus.raw import Raw, sender
from tests.servicebus.sdk import until
from tests.servicebus.strict import Rule, Violations

pytestmark = pytest.mark.spec("T2")

NO_SECONDS: Final = (math.inf, -math.inf, math.nan, True, "30", timedelta(seconds=30), b"3")
NO_COUNTS: Final = (True, 1.0, "10", math.inf, -1, 0, timedelta(seconds=30))
NO_FLAGS: Final = (None, 0, 1, "no", "False")


def bus_with(*queues: str) -> ServiceBus:
    """A server that does not listen."""
    bus = ServiceBus(clock=ManualClock(0.0), strict=True)
    for name in queues:
        bus.queue(name)
    return bus


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(
            ("lock_seconds", "ttl", "duplicate_window"), (*NO_SECONDS, 10**400, 1e12, 0, -1)
        ),
        *itertools.product(("max_delivery_count", "max_message_bytes", "max_bytes"), NO_COUNTS),
        *itertools.product(("sessions", "dead_letter_on_expiry", "enabled"), NO_FLAGS),
        ("lock_seconds", None),
        ("max_delivery_count", None),
        ("max_message_bytes", None),
    ],
)
def test_a_setting_that_can_not_be(field: str, value: Any) -> None:
    """Not a number, a number without end, another type: the error names the field."""
    with pytest.raises(ValueError, match=rf"^{field} is .*: it must be "):
        bus_with().queue("orders", **{field: value})


def test_settings_that_can_be() -> None:
    """Whole seconds, fractions, the longest time of the service, and None where it means none."""
    Settings(lock_seconds=1, ttl=0.001, duplicate_window=922_337_203_685, max_bytes=1)
    Settings(ttl=None, duplicate_window=None, max_bytes=None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *itertools.product(("to_client", "to_server", "merge_outcomes"), NO_SECONDS),
        *itertools.product(("to_client", "to_server"), (None, -0.1)),
        *itertools.product(("transfer_bytes", "write_bytes"), NO_COUNTS),
        *itertools.product(("silent",), NO_FLAGS),
    ],
)
def test_a_shape_that_can_not_be(field: str, value: Any) -> None:
    """It is refused when it is set, and changes nothing."""
    shape = Shape()
    with pytest.raises(ValueError, match=rf"^{field} is "):
        setattr(shape, field, value)
    assert shape == Shape()


@pytest.mark.parametrize("seconds", [*NO_SECONDS, None, -1])
def test_a_delay_that_can_not_be(seconds: Any) -> None:
    """An answer that never comes is to swallow it, not to delay it without end."""
    faults = bus_with().faults
    with pytest.raises(ValueError, match=r"^seconds is "):
        faults.delay("send", seconds)
    assert faults.waiting == []


@pytest.mark.parametrize("seconds", [*NO_SECONDS, None, -1])
def test_a_clock_goes_on_by_seconds(seconds: Any) -> None:
    """Neither back nor to the end of time, which would leave a clock that never comes due again."""
    clock = ManualClock(100.0)
    ran: list[int] = []
    clock.at(50.0, lambda: ran.append(1))
    with pytest.raises(ValueError, match=r"^seconds is "):
        clock.advance(seconds)
    assert (clock.now(), ran) == (100.0, [])
    clock.advance(0)
    assert (clock.now(), ran) == (100.0, [1])


def test_a_number_is_one_to_reckon_with() -> None:
    """Not one that becomes infinite, or an error, with the next sum."""
    good, bad = (0, -1, 0.5, 1e300), (10**400, -(10**400), math.inf, math.nan, False, "1", None)
    assert [finite(each) for each in (*good, *bad)] == [True] * 4 + [False] * 7


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        *("orders/$deadletterqueue", "orders/$DeadLetterQueue", "orders/$management", "a/$b/c"),
        *("$cbs", "orders%2F$management", "events/subscriptions/a"),
        *("", " ", "\t\n", "/", "/ /", None, 3, b"orders"),
    ],
)
@pytest.mark.parametrize("kind", ["queue", "topic"])
def test_an_entity_that_could_not_be_reached(kind: str, name: Any) -> None:
    """Its name is one of a sub-queue, of a node, or none."""
    bus = bus_with()
    with pytest.raises(ValueError, match="can't be the name of a queue or a topic"):
        getattr(bus, kind)(name)
    assert bus._entities == {}


@pytest.mark.parametrize("name", ["", " ", "a/b", "a$b", "$deadletterqueue", None, 3])
def test_a_subscription_that_could_not_be_reached(name: Any) -> None:
    """Nor is its topic there then."""
    bus = bus_with()
    with pytest.raises(ValueError, match="can't be the name of a subscription"):
        bus.topic("events", ["good", name])
    assert bus._entities == {}
    topic = bus.topic("events", ["good"])
    with pytest.raises(ValueError, match="can't be the name of a subscription"):
        topic.subscribe(name)
    assert list(topic.subscriptions) == ["good"]


def test_subscriptions_are_a_list() -> None:
    """One string is not a subscription for each of its letters."""
    bus = bus_with()
    with pytest.raises(ValueError, match="subscriptions is 'audit': names are wanted"):
        bus.topic("events", "audit")
    assert bus._entities == {}


def test_a_topic_comes_with_all_its_subscriptions_or_not_at_all() -> None:
    """After an error the same name can be used."""
    bus = bus_with()
    with pytest.raises(ValueError, match="events has a subscription 'A'"):
        bus.topic("events", ["a", "A"])
    assert list(bus.topic("events", ["a"]).subscriptions) == ["a"]


@pytest.mark.parametrize(
    "keys",
    [
        *({}, {"": "key"}, {"name": ""}, {" ": "key"}, {"name": " "}),
        *({"a;b": "secret"}, {"name": "secret;"}, {"name": None}, {"name": b"secret"}),
        *({1: "secret"}, {"good": "secret", "name": ""}),
    ],
)
def test_a_key_that_no_connection_string_can_hold(keys: Any) -> None:
    """The error does not tell the key."""
    with pytest.raises(ValueError, match=r"^keys: ") as refused:
        ServiceBus(keys=keys)
    assert "secret" not in str(refused.value)


# --- who is meant ---------------------------------------------------------------------------------

ASKING: Final[tuple[Callable[[Faults, str], object], ...]] = (
    lambda faults, path: faults.drop("send", applied=True, entity=path),
    lambda faults, path: faults.swallow("complete", entity=path),
    lambda faults, path: faults.delay("peek-message", 1, entity=path),
    lambda faults, path: faults.refuse("attach", "amqp:internal-error", entity=path),
    lambda faults, path: faults.busy(1, entity=path),
)


@pytest.mark.parametrize("ask", ASKING)
def test_a_fault_of_an_entity_that_is_not_there(ask: Callable[[Faults, str], object]) -> None:
    """It would never happen; the error tells what there is."""
    bus = bus_with("orders")
    bus.topic("events", ["audit"])
    known = "orders, events, events/Subscriptions/audit$"
    for name in ("order", "orders2", "events/subscriptions/other", "events/$deadletterqueue", ""):
        with pytest.raises(ValueError, match=f"^'{name.replace('$', '.')}' is no entity.*{known}"):
            ask(bus.faults, name)
    assert bus.faults.waiting == []


@pytest.mark.parametrize(
    "path",
    [
        *("Orders", "/orders/", "amqp://localhost/orders", "orders/$DeadLetterQueue"),
        *("events", "Events/Subscriptions/Audit", "events/subscriptions/audit/$deadletterqueue"),
        *("$cbs", "orders/$management", "events/subscriptions/audit/$management"),
    ],
)
def test_a_fault_of_an_entity_that_is_there(path: str) -> None:
    """By every address that clients have for it."""
    bus = bus_with("orders")
    bus.topic("events", ["audit"])
    fault = bus.faults.refuse("attach", "amqp:internal-error", entity=path)
    assert fault.entity is not None
    assert bus.faults.next("attach", fault.entity) is fault
    assert bus.detach(path) == 0


def test_nobody_opens_at_an_entity() -> None:
    """A fault of `open` at one would never happen."""
    with pytest.raises(ValueError, match="open is of no entity"):
        bus_with("orders").faults.drop("open", applied=True, entity="orders")


def test_detach_an_entity_that_is_not_there() -> None:
    """0 would be an answer that a test takes for granted."""
    with pytest.raises(ValueError, match=r"'nope' is no entity; those there are: none yet"):
        bus_with().detach("nope")
    with pytest.raises(ValueError, match=r"'nope' is no entity; those there are: orders"):
        bus_with("orders").detach("nope")


async def test_detach_means_one_entity() -> None:
    """Not those whose names begin with its own, nor what lies below it."""
    bus = bus_with("orders", "orders2", "orders/old")
    raw = await Raw.ready(bus)
    await raw.sender("orders", 0)
    await raw.sender("orders2", 1)
    await raw.sender("orders/old", 2)
    await raw.receiver("orders/$deadletterqueue", 3)
    await raw.node("orders/$management", 4)
    assert bus.detach("orders") == 1
    assert [got.body.handle for got in await raw.all(Detach)] == [0]
    assert bus.detach("orders/$management") == 2
    assert {got.body.handle for got in await raw.all(Detach)} == {4, 5}


# --- what was found -------------------------------------------------------------------------------


def test_violations_are_false_without_one() -> None:
    """They can be counted and gone through: `assert not bus.violations` says what it seems to."""
    violations = Violations(strict=True)
    assert not violations
    assert (len(violations), list(violations)) == (0, [])
    violations.note(Rule.IDLE, "too long", 1)
    violations.note(Rule.OUTCOME, "none", 2)
    assert violations
    assert len(violations) == 2
    assert [violation.rule for violation in violations] == [Rule.IDLE, Rule.OUTCOME]


async def test_a_sender_has_a_thousand_credits_at_once() -> None:
    """As the service gives them, after attach and without being asked."""
    raw = await Raw.ready(bus_with("orders"))
    raw.put(sender("orders", 3))
    await raw.take(Attach)
    flow = (await raw.take(Flow)).body
    assert (flow.handle, flow.link_credit, flow.delivery_count) == (3, 1_000, 0)


# --- where it listens, and until when -------------------------------------------------------------


async def answered(port: int) -> bool:
    """Whether somebody who knows AMQP listens there."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(SASL_HEADER)
        return await reader.readexactly(8) == SASL_HEADER
    finally:
        writer.close()
        await writer.wait_closed()


async def test_there_is_no_connection_string_without_a_port() -> None:
    """Instead of one with port 0; a port of WebSockets is none for it."""
    bus = bus_with()
    try:
        for _ in range(2):
            with pytest.raises(RuntimeError, match="does not listen for plain TCP"):
                assert bus.connection_string
            await bus.listen_websocket()
        port = await bus.listen()
        assert f"://127.0.0.1:{port};" in bus.connection_string
    finally:
        await bus.close()


async def test_a_server_can_be_entered_again() -> None:
    """On a port of its own, with what it had; in between it is nowhere."""
    bus = ServiceBus()
    queue = bus.queue("orders")
    ports = []
    for _ in range(2):
        async with bus:
            ports.append(bus.port)
            assert f"://127.0.0.1:{bus.port};" in bus.connection_string
            assert await answered(bus.port)
            queue.send(messages("kept"))
        assert not bus._listeners
        assert not await answered(ports[-1])
        with pytest.raises(RuntimeError, match="does not listen"):
            assert bus.connection_string
    assert queue.counts().active == 2


async def test_locks_end_in_a_server_that_was_entered_again() -> None:
    """Those from before, and new ones."""
    bus = ServiceBus()
    queue = bus.queue("orders", lock_seconds=0.2)
    for count in (1, 2):
        async with bus:
            queue.send(messages("a"))
            consumer = receiver(queue, credit=count)
            await until(lambda count=count: queue.counts().locked == count)
            queue.detach(consumer)
    async with bus:
        await until(lambda: queue.counts().locked == 0)


async def test_close_closes_the_clock() -> None:
    """Nothing is left for the loop to call; what was due later comes when it is entered again."""
    clock = SystemClock()
    bus = ServiceBus(clock=clock)
    async with bus:
        ran: list[int] = []
        clock.at(clock.now() + 3_600, lambda: ran.append(1))
        handle = clock._handle
        assert handle is not None
        assert not handle.cancelled()
    assert handle.cancelled()
    assert clock._handle is None
    async with bus:
        assert clock._handle is not None
    assert (clock._handle, ran) == (None, [])


@pytest.mark.parametrize("path", ["/$servicebus/websocket", "/$servicebus/websocket/"])
async def test_a_websocket_with_a_slash_at_its_end(path: str) -> None:
    """Clients differ in that: both lead to AMQP."""
    bus = ServiceBus()
    bus.queue("orders")
    try:
        url = f"http://127.0.0.1:{await bus.listen_websocket()}{path}"
        async with (
            aiohttp.ClientSession() as client,
            client.ws_connect(url, protocols=["AMQPWSB10"]) as socket,
        ):
            assert socket.protocol == "AMQPWSB10"
            await socket.send_bytes(SASL_HEADER)
            assert (await socket.receive_bytes(timeout=20))[:8] == SASL_HEADER
    finally:
        await bus.close()
