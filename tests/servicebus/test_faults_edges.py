"""Single values that are well-formed and still no use: too rare for chance to find them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote

import pytest

from tests.servicebus.amqp.codec import encode
from tests.servicebus.amqp.frames import Disposition
from tests.servicebus.amqp.types import Array, Described, Symbol, ULong
from tests.servicebus.authority import SAS
from tests.servicebus.bus import KEY, KEY_NAME, ServiceBus
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.fault_cases import Stage
from tests.servicebus.raw import Raw, refused, request

pytestmark = pytest.mark.spec("T2")


async def held() -> Stage:
    """A client that has a message, and a link for requests."""
    stage = Stage()
    stage.raw = await Raw.ready(stage.bus)
    await stage.holding(stage.orders)
    await stage.raw.node("orders/$management", 4)
    return stage


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("peek-message", {"from-sequence-number": 0, "message-count": float("inf")}),
        ("peek-message", {"from-sequence-number": float("nan"), "message-count": 1}),
        ("peek-message", {"from-sequence-number": 0, "message-count": 1, "session-id": 7}),
        ("receive-by-sequence-number", {"sequence-numbers": Array([float("-inf")])}),
        ("renew-lock", {"lock-tokens": Array([1, 2])}),
        ("update-disposition", {"disposition-status": [], "lock-tokens": []}),
        ("schedule-message", {"messages": [{"message": "no bytes"}]}),
    ],
)
async def test_a_request_with_a_value_of_no_use(operation: str, body: object) -> None:
    """It is answered with 400, and nothing was done."""
    stage = await held()
    words, _ = await stage.raw.ask(4, operation, body)
    assert (words["statusCode"], words["errorCondition"]) == (400, "com.microsoft:argument-error")
    assert stage.orders.counts().locked == 1


@pytest.mark.parametrize("descriptor", [[1], {"a": 1}, None, 1.5, b"accepted", Symbol("other")])
async def test_an_outcome_described_by_anything(descriptor: object) -> None:
    """It is no outcome: the delivery stays locked."""
    stage = await held()
    stage.raw.settle(stage.number, Described(descriptor, []))
    assert await stage.raw.quiet(Disposition)
    assert stage.orders.counts().locked == 1


@pytest.mark.parametrize("told", [7, [], [None, None, 5], [Symbol("why"), "text", {1: [2]}]])
async def test_a_rejection_with_any_error(told: object) -> None:
    """The message is dead-lettered, with the reason if one can be read."""
    stage = await held()
    error = Described(ULong(0x1D), told)
    stage.raw.settle(stage.number, Described(ULong(0x25), [error]))
    assert refused((await stage.raw.take(Disposition)).body.state) == ""
    assert stage.orders.counts().dead_lettered == 1


def token(resource: str, end: str, name: str = "sr") -> str:
    """A signature that is right, whatever was signed."""
    quoted = quote(resource, safe="")
    made = hmac.new(KEY.encode(), f"{quoted}\n{end}".encode(), hashlib.sha256).digest()
    signature = quote(base64.b64encode(made).decode(), safe="")
    return f"SharedAccessSignature {name}={quoted}&sig={signature}&se={quote(end)}&skn={KEY_NAME}"


@pytest.mark.parametrize(
    "given",
    [
        token("amqp://here/orders", "\u00b2"),  # a digit to Python, not to float
        token("amqp://here/orders", "1e99"),
        token("amqp://here/orders", "9999999999", "s%72"),
        token("amqps://[", "9999999999"),
        "SharedAccessSignature",
        "SharedAccessSignature sr=&sig=&se=&skn=",
    ],
)
async def test_a_token_with_a_value_of_no_use(given: str) -> None:
    """It is refused with 401."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    raw = await Raw.ready(bus)
    words = {"operation": "put-token", "type": SAS, "name": "amqp://here/orders"}
    raw.send(250, request(words, given))
    assert (await raw.answer())[0]["status-code"] == 401


async def test_a_token_that_is_right() -> None:
    """The tests above would prove nothing if this one were refused too."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    raw = await Raw.ready(bus)
    words = {"operation": "put-token", "type": SAS, "name": "amqp://here/orders"}
    raw.send(250, request(words, token("amqp://here/orders", "9999999999")))
    assert (await raw.answer())[0]["status-code"] == 202


async def test_a_message_id_of_any_hashable_kind() -> None:
    """Numbers, binaries and strings are ids of messages; a list is none."""
    bus = ServiceBus(clock=ManualClock(), strict=True)
    queue = bus.queue("orders", duplicate_window=60)
    raw = await Raw.ready(bus)
    await raw.sender("orders")
    answers = []
    for message_id in (ULong(7), b"seven", "seven", [7]):
        body = encode(Described(ULong(0x75), b"body"))
        raw.send(0, encode(Described(ULong(0x73), [message_id])) + body)
        answers.append(refused((await raw.take(Disposition)).body.state))
    assert answers == ["", "", "", "amqp:decode-error"]
    assert queue.counts().active == 3
