"""Sealed bodies on their way through the real cores: order, missing keys, drains, refusals."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest

from pipeline.batch import MessageBatch
from pipeline.clock import SeededClock
from pipeline.config import MemoryQueue
from pipeline.crypto.nonces import NonceBook
from pipeline.crypto.rows import OpenedRows, SealedRows
from pipeline.errors import BodyAuthenticationFailed, KeyNotFound, QueueError, UnencryptedMessage
from pipeline.handlers.api import Context, Reject, handler
from pipeline.message import Delivery, Message
from pipeline.retry import RetryPolicy
from pipeline.stages.opening import Opening
from pipeline.testing.flow import Flow, FlowSettings


@dataclass
class Opener:
    """Opens bodies that say what happens: `how:nonce:payload`, how being `ok`, `bad`, `plain`,
    `key NAME` or `slow SECONDS`; a batch takes as long as its slowest body.
    """

    keys: set[str] = field(default_factory=set)
    asked: list[list[str]] = field(default_factory=list)
    waited: dict[str, list[float]] = field(default_factory=dict)
    error: Exception | None = None

    async def open(self, rows: SealedRows, *, fresh: bool = True) -> OpenedRows:
        if self.error is not None:
            raise self.error
        given = rows.bodies.to_pylist()
        bodies = [body.decode().split(":") for body in given]
        self.asked.append([payload for _, _, payload in bodies])
        for payload, seconds in zip(self.asked[-1], rows.waited.to_pylist(), strict=True):
            self.waited.setdefault(payload, []).append(seconds)
        slowest = max(float(how[5:]) if how.startswith("slow") else 0.0 for how, _, _ in bodies)
        await asyncio.sleep(slowest)
        errors: dict[int, QueueError] = {}
        for row, (how, _, _) in enumerate(bodies):
            if how == "bad":
                errors[row] = BodyAuthenticationFailed("altered")
            elif how == "plain":
                errors[row] = UnencryptedMessage("plain")
            elif how.startswith("key") and how[4:] not in self.keys:
                errors[row] = KeyNotFound(how[4:])
        opened = [
            given[row] if row in errors else payload.encode()
            for row, (_, _, payload) in enumerate(bodies)
        ]
        nonces = [
            b"" if row in errors else nonce.encode() for row, (_, nonce, _) in enumerate(bodies)
        ]
        return OpenedRows(
            pa.array(opened, pa.binary()), pa.array(nonces, pa.binary()), errors, len(bodies), 0
        )


class Seen:
    """What a handler was given, in order, and at what time."""

    def __init__(self) -> None:
        self.bodies: list[str] = []
        self.times: dict[str, float] = {}
        self.fails: dict[str, int] = {}
        self.takes: dict[str, float] = {}
        self.attempts: dict[str, int] = {}

    def handler(self) -> Any:
        @handler
        async def see(body: str, context: Context) -> None:
            self.bodies.append(body)
            self.times[body] = asyncio.get_running_loop().time()
            self.attempts[body] = context.attempt
            await asyncio.sleep(self.takes.get(body, 0.0))
            if self.fails.get(body, 0):
                self.fails[body] -= 1
                raise RuntimeError("once more")

        return see


def message(body: str, session: str | None = "s") -> Message:
    return Message(body.encode(), id=f"m-{body.rsplit(':')[-1]}", session=session)


class Rig:
    """A flow of one queue, its opener, and what its handler saw."""

    def __init__(self, *, fifo: bool = True, sessions: str = "native", **settings: Any) -> None:
        self.opener = Opener()
        self.seen = Seen()
        queue = MemoryQueue(
            connection="m", fifo=fifo, sessions=sessions if fifo else "none", visibility=30.0
        )
        self.flow = Flow(
            settings.pop("by", None) or self.seen.handler(),
            FlowSettings(queue=queue, opener=self.opener, **settings),
            SeededClock(asyncio.get_running_loop().time, 1),
        )

    async def __aenter__(self) -> Rig:
        await self.flow.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.flow.close()
        self.flow.check()

    async def send(self, *bodies: str, session: str | None = "s") -> None:
        await self.flow.send([message(body, session) for body in bodies])

    async def dead(self) -> list[Delivery]:
        receiver = await self.flow.provider.receiver(self.flow.name, dead_letters=True)
        return list(await receiver.peek(100, 0))


@pytest.mark.spec("F1", "F3")
@pytest.mark.parametrize("sessions", ["native", "groups"])
async def test_a_session_stays_in_order_and_others_do_not_wait(sessions: str) -> None:
    """A batch that takes long to open holds back the later ones of its sessions, and no others."""
    async with Rig(sessions=sessions, batch_rows=1) as rig:
        await rig.send("slow 5:n:a1")
        await rig.send("ok:n:a2", "ok:n:a3")
        await rig.send("ok:n:b1", session="other")
        await rig.flow.settled()
    assert [body for body in rig.seen.bodies if body[0] == "a"] == ["a1", "a2", "a3"]
    assert rig.seen.times["b1"] < rig.seen.times["a1"]


@pytest.mark.spec("C4", "R3", "F3")
@pytest.mark.parametrize(
    ("how", "reason"), [("bad", "authentication_failed"), ("plain", "unencrypted_message")]
)
async def test_what_can_not_be_opened_is_dead_lettered_as_it_came(how: str, reason: str) -> None:
    """In its session's order, with its reason, the body untouched, and no handler sees it."""
    async with Rig() as rig:
        rig.seen.takes["a1"] = 3.0
        await rig.send("ok:n:a1", f"{how}:n:a2", "ok:n:a3")
        await asyncio.sleep(2.0)
        assert await rig.dead() == []  # not before what stands in front of it
        await rig.flow.settled()
        [dead] = await rig.dead()
    assert rig.seen.bodies == ["a1", "a3"]
    assert (dead.body, dead.dead_letter_reason) == (f"{how}:n:a2".encode(), reason)
    told = json.loads(dead.dead_letter_description or "")
    assert told["attempts"] == 0
    assert told["error"] in ("BodyAuthenticationFailed", "UnencryptedMessage")


@pytest.mark.spec("C5", "H5")
@pytest.mark.parametrize("sessions", ["native", "groups", None])
async def test_a_missing_key_is_waited_for(sessions: str | None) -> None:
    """The message is held, its session behind it, nobody else; it costs no attempt."""
    async with Rig(fifo=sessions is not None, sessions=sessions or "none") as rig:
        keyed, other = ("s", "t") if sessions else (None, None)
        await rig.send("key k2:n:a1", "ok:n:a2", session=keyed)
        await rig.send("ok:n:b1", session=other)
        await asyncio.sleep(200.0)
        assert set(rig.seen.bodies) == ({"b1"} if sessions else {"a2", "b1"})
        rig.opener.keys.add("k2")
        await rig.flow.settled()
        [receiver] = rig.flow.receivers
        assert not receiver._opening._missing
    assert set(rig.seen.bodies) == {"a1", "a2", "b1"}
    if sessions:
        assert rig.seen.bodies == ["b1", "a1", "a2"]
    assert rig.seen.attempts["a1"] == 1
    assert rig.seen.times["a1"] < 200.0 + 15.1
    counters = await rig.flow.broker.counters(rig.flow.name)
    assert (counters.received, counters.redelivered) == (3, 0)


@pytest.mark.spec("C5", "C8")
async def test_a_message_that_waits_for_its_key_was_received_when_it_came() -> None:
    """With `freshness.against: receipt` the wait makes it no older, nor others beside it."""
    async with Rig(fifo=False) as rig:
        await rig.send("key k2:n:a1", session=None)
        await asyncio.sleep(100.0)
        await rig.send("ok:n:a2", session=None)
        rig.opener.keys.add("k2")
        await rig.flow.settled()
    first, *later = rig.opener.waited["a1"]
    assert first == 0.0
    assert later == sorted(later)
    assert 100.0 <= later[-1] < 120.0
    assert rig.opener.waited["a2"] == [0.0]


@pytest.mark.spec("C5", "P14")
@pytest.mark.parametrize("sessions", ["native", "groups"])
@pytest.mark.parametrize("hold", [0.0, 5.0])
async def test_a_missing_key_is_waited_for_here_however_short_retries_are(
    sessions: str, hold: float
) -> None:
    """Given back, the message would be received again and again, and the wait would never end."""
    async with Rig(sessions=sessions, hold=hold, key_wait=120.0) as rig:
        await rig.send("key k2:n:a1", "ok:n:a2")
        await rig.flow.settled()
        [dead] = await rig.dead()
    assert dead.dead_letter_reason == "key_not_found"
    assert 120.0 <= rig.seen.times["a2"] < 140.0
    counters = await rig.flow.broker.counters(rig.flow.name)
    assert (counters.received, counters.redelivered) == (2, 0)


@pytest.mark.spec("C5")
async def test_a_key_that_does_not_come_ends_the_wait() -> None:
    """After `key_wait` the message is dead-lettered as key_not_found, and its session goes on."""
    async with Rig(key_wait=60.0) as rig:
        await rig.send("key k2:n:a1", "ok:n:a2")
        await rig.flow.settled()
        [dead] = await rig.dead()
        [receiver] = rig.flow.receivers
        assert not receiver._opening._missing
        assert receiver.stats()["refused"] == 1
    assert dead.dead_letter_reason == "key_not_found"
    assert "k2" in (dead.dead_letter_description or "")
    assert rig.seen.bodies == ["a2"]
    assert 60.0 <= rig.seen.times["a2"] < 75.0


@pytest.mark.spec("F6")
@pytest.mark.parametrize("sessions", ["native", "groups", None])
async def test_a_drain_does_not_wait_for_a_body_to_be_opened(sessions: str | None) -> None:
    """Rows that are being opened are given back at once, uncounted, and none is left."""
    async with Rig(fifo=sessions is not None, sessions=sessions or "none") as rig:
        await rig.send("slow 500:n:a1", "ok:n:a2", session="s" if sessions else None)
        await asyncio.sleep(1.0)
        begun = asyncio.get_running_loop().time()
        assert await rig.flow.close() == 0
        assert asyncio.get_running_loop().time() - begun < 1.0
        depth = await rig.flow.broker.depth(rig.flow.name)
        assert (depth.available, depth.in_hand) == (2, 0)
    assert rig.seen.bodies == []


@pytest.mark.spec("F6")
async def test_what_is_given_back_comes_back_once() -> None:
    """Its opening goes on to nothing; what is sent later goes its way."""
    given: list[Any] = []
    sent: list[Any] = []
    opening = Opening(
        Opener(),
        lambda batch, rows, *, alone=False: sent.append(list(rows)),
        lambda rows: rows >= 0,
        lambda batch, rows, *, alone=False: given.append((len(batch), list(rows), alone)),
        1.0,
        given.append,
    )
    batch = MessageBatch.from_messages([message("slow 1:n:a1")])
    opening.send(batch, pa.array([7]).to_numpy(), alone=True)
    opening.send(batch, pa.array([8]).to_numpy())
    await asyncio.sleep(0.5)
    opening.give_back()
    opening.give_back()
    await asyncio.sleep(5.0)
    assert given == [(1, [7], True), (1, [8], False)]
    opening.send(batch, pa.array([9]).to_numpy())
    await asyncio.sleep(5.0)
    assert (sent, len(given)) == ([[9]], 2)


@pytest.mark.spec("F3", "P13")
@pytest.mark.parametrize("sessions", ["native", "groups"])
async def test_a_row_that_fails_stops_what_is_still_being_opened(sessions: str) -> None:
    """What is opened after its session stopped does not go on, but waits for the retry."""
    retry = RetryPolicy(5, 4.0, 4.0, 1.0, jitter="half")
    async with Rig(sessions=sessions, batch_rows=1, retry=retry) as rig:
        rig.seen.fails["a1"] = 1
        await rig.send("ok:n:a1", "slow 1:n:a2", "ok:n:a3")
        await rig.flow.settled()
    assert rig.seen.bodies == ["a1", "a1", "a2", "a3"]


@pytest.mark.spec("F3")
async def test_what_was_opened_is_not_opened_again() -> None:
    """A retry in place takes the body that was opened; only what waits for its key is tried."""
    async with Rig(fifo=False) as rig:
        rig.seen.fails["a1"] = 2
        await rig.send("ok:n:a1", "key k2:n:a2", session=None)
        await asyncio.sleep(50.0)
        rig.opener.keys.add("k2")
        await rig.flow.settled()
    assert sorted(rig.seen.bodies) == ["a1", "a1", "a1", "a2"]
    assert sum("a1" in asked for asked in rig.opener.asked) == 1
    assert sum("a2" in asked for asked in rig.opener.asked) > 2


@pytest.mark.spec("P13")
async def test_rows_whose_lock_ended_while_they_were_opened_do_not_go_on() -> None:
    """The queue delivers them again; nobody handles them for the old receipt."""
    async with Rig(sessions="groups") as rig:
        await rig.send("slow 20:n:a1")
        await asyncio.sleep(1.0)
        [receiver] = rig.flow.receivers
        [turns] = receiver._holdings
        receiver._lose(turns)
        await asyncio.sleep(25.0)
        assert rig.seen.bodies == []
        assert receiver.stats()["lost"] == 1
        await rig.flow.settled()
    assert rig.seen.bodies == ["a1"]


@pytest.mark.spec("C8")
@pytest.mark.parametrize("fifo", [True, False])
async def test_a_body_that_is_sent_again_is_found(fifo: bool) -> None:
    """The same nonce in another message is dead-lettered; in the same one it is a redelivery."""
    async with Rig(fifo=fifo, nonces_of=lambda: NonceBook(600.0, 100)) as rig:
        rig.seen.fails["a1"] = 1
        session = "s" if fifo else None
        await rig.send("ok:n1:a1", session=session)
        await rig.flow.settled()
        await rig.send("ok:n1:a2", "ok:n3:a3", session=session)
        await rig.flow.settled()
        [dead] = await rig.dead()
    assert rig.seen.bodies == ["a1", "a1", "a3"]
    assert (dead.body, dead.dead_letter_reason) == (b"ok:n1:a2", "nonce_reused")


@pytest.mark.spec("C8")
async def test_without_sessions_what_is_sent_again_comes_to_the_same_handler() -> None:
    """Whichever of several it is: by the message's id, which the body is bound to."""
    made = {"handlers": 4, "routers": 2, "nonces_of": lambda: NonceBook(600.0, 1_000)}
    async with Rig(fifo=False, batch_rows=7, **made) as rig:
        for _ in range(2):
            await rig.flow.send([Message(b"ok:n%d:a%d" % (at, at), f"m{at}") for at in range(99)])
            await rig.flow.settled()
        dead = await rig.dead()
    assert sorted(rig.seen.bodies) == sorted(f"a{number}" for number in range(99))
    assert {one.dead_letter_reason for one in dead} == {"nonce_reused"}
    assert len(dead) == 99


@pytest.mark.spec("H1")
async def test_a_batch_handler_gets_only_what_was_opened() -> None:
    """A row that can't be opened stops its session, and is in no batch."""
    batches: list[list[bytes]] = []

    @handler(batch=True)
    async def many(rows: MessageBatch) -> list[Any]:
        batches.append(rows.values("body"))
        return [Reject("no") if body == b"a4" else None for body in rows.values("body")]

    async with Rig(by=many) as rig:
        await rig.send("ok:n:a1", "bad:n:a2", "ok:n:a3", "ok:n:a4")
        await rig.send("ok:n:b1", session="t")
        await rig.flow.settled()
        dead = [(one.body, one.dead_letter_reason) for one in await rig.dead()]
    assert sorted(body for batch in batches for body in batch) == [b"a1", b"a3", b"a4", b"b1"]
    assert dead == [(b"bad:n:a2", "authentication_failed"), (b"ok:n:a4", "rejected")]


@pytest.mark.spec("C5", "O3")
async def test_missing_keys_are_warned_of_and_not_once_a_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once a key and minute, and for no more keys than somebody would read of."""
    async with Rig(fifo=False, key_wait=30.0) as rig:
        await rig.send(*(f"key k{number // 2}:n:{number}" for number in range(80)), session=None)
        await rig.flow.settled()
    told = [record.getMessage() for record in caplog.records if "their key" in record.message]
    assert len(told) == len(set(told)) == 16
    assert "k0" in told[0]


async def test_a_defect_of_the_opener_is_told_of() -> None:
    """Rows that nobody will answer for end the run, and not in silence."""
    rig = Rig()
    rig.opener.error = RuntimeError("defect")
    await rig.flow.start()
    await rig.send("ok:n:a1")
    await asyncio.sleep(1.0)
    assert [str(error) for error in rig.flow.errors] == ["defect"]
    rig.flow.errors.clear()
    assert await rig.flow.close() == 0


async def test_a_mixed_batch_keeps_its_order() -> None:
    """Some rows of a batch opened before, others not: each keeps its place."""
    sent: list[tuple[list[bytes], list[int]]] = []
    opening = Opening(
        Opener(),
        lambda batch, rows, *, alone=False: sent.append((batch.values("body"), list(rows))),
        lambda rows: rows >= 0,
        lambda *_, **__: pytest.fail("given up"),
        1.0,
        lambda error: pytest.fail(str(error)),
    )
    batch = MessageBatch.from_messages([message(f"ok:n:a{number}") for number in range(5)])
    batch = batch.with_columns(nonce=[b"x", None, b"", None, b"y"])
    opening.send(batch, pa.array([3, 4, 5, 6, 7]).to_numpy())
    await asyncio.sleep(0.1)
    assert sent == [([b"ok:n:a0", b"a1", b"ok:n:a2", b"a3", b"ok:n:a4"], [3, 4, 5, 6, 7])]


async def test_of_a_batch_only_what_may_still_go_goes() -> None:
    """The rest comes back, each with its number."""
    sent: list[list[int]] = []
    given: list[list[int]] = []
    opening = Opening(
        Opener(),
        lambda batch, rows, *, alone=False: sent.append(list(rows)),
        lambda rows: rows % 2 == 0,
        lambda batch, rows, *, alone=False: given.append(list(rows)),
        1.0,
        lambda error: pytest.fail(str(error)),
    )
    batch = MessageBatch.from_messages([message(f"ok:n:a{number}") for number in range(4)])
    opening.send(batch, pa.array([3, 4, 5, 6]).to_numpy())
    opening.send(batch.take([0]), pa.array([7]).to_numpy())
    await asyncio.sleep(0.1)
    assert (sent, given) == ([[4, 6]], [[3, 5], [7]])


@pytest.mark.spec("F1", "F3", "F5")
async def test_thousands_of_batches_wait_for_one() -> None:
    """A session whose first batch takes long, and all others are opened: they go, in order."""
    sent: list[int] = []
    opening = Opening(
        Opener(),
        lambda batch, rows, *, alone=False: sent.extend(rows.tolist()),
        lambda rows: rows >= 0,
        lambda *_, **__: pytest.fail("given up"),
        1.0,
        lambda error: pytest.fail(str(error)),
    )
    opening.send(MessageBatch.from_messages([message("slow 5:n:a")]), pa.array([0]).to_numpy())
    quick = MessageBatch.from_messages([message("ok:n:a")])
    for number in range(1, 3_000):
        opening.send(quick, pa.array([number]).to_numpy())
    await asyncio.sleep(6.0)
    assert sent == list(range(3_000))
