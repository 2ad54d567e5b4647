"""What a lane and a sender do at Service Bus beyond the contract: gathering, and giving back."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.clock import SystemClock
from pipeline.errors import (
    Closed,
    MessageTooLarge,
    ProviderError,
    QueueError,
    Throttled,
    Timeout,
    Unsupported,
    ValidationError,
)
from pipeline.message import Message
from pipeline.providers.azure import sender as azure_sender
from pipeline.providers.azure import settle
from pipeline.providers.azure.line import Line
from pipeline.providers.azure.locks import QueueLocks
from pipeline.providers.azure.outgoing import encoded_size, message_of
from pipeline.providers.azure.receiver import AzureReceiver
from pipeline.providers.port import DeadLetter, Sent, Want
from tests.contract.azure.bench import broken_rules
from tests.contract.azure.scene import bodies, bring, messages, provided
from tests.servicebus.bus import ServiceBus
from tests.servicebus.sdk import until


@pytest.mark.spec("P2", "F5")
async def test_a_receive_brings_what_is_there_and_no_more_than_fits() -> None:
    """Messages that wait come together; by bytes as far as the sizes of earlier ones tell."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        await (await provider.sender("q")).send(messages(*[b"x" * 100] * 300))
        receiver = await provider.receiver("q")
        first = await bring(receiver, 200)
        assert len(first.receipts) == 200
        few = await receiver.receive(Want(messages=100, bytes=1_000, wait=2.0))
        assert len(few.receipts) == 10
        one = await receiver.receive(Want(messages=100, bytes=1, wait=2.0))
        assert len(one.receipts) == 1


@pytest.mark.spec("P2", "F2")
async def test_nothing_is_kept_back_by_a_lane_that_does_not_receive() -> None:
    """What it asked for and did not get is taken back: messages that come go to others."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        idle = await provider.receiver("q")
        assert bodies(await idle.receive(Want(messages=100, wait=0.0))) == []
        await asyncio.sleep(0.2)
        await (await provider.sender("q")).send(messages(b"1", b"2"))
        other = await provider.receiver("q")
        assert bodies(await bring(other)) == [b"1", b"2"]
        assert broken_rules(bus) == []


@pytest.mark.spec("P2")
async def test_a_receive_that_is_told_to_end_returns_with_nothing() -> None:
    """When its poll is over."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        receiver = await provider.receiver("q")
        receiving = asyncio.create_task(bring(receiver, wait=60.0))
        await asyncio.sleep(0.1)
        await receiver.end_wait()
        assert bodies(await receiving) == []
        await receiver.end_wait()


@pytest.mark.spec("P6", "P10", "F2")
async def test_a_poll_that_is_given_up_gives_back_what_it_brings_late() -> None:
    """Its time-out is an error; the messages that come after that are not lost."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await (await provider.sender("q")).send(messages(b"1"))
        receiver = await provider.receiver("q")
        assert isinstance(receiver, AzureReceiver)
        line = receiver._polls._line
        gate = asyncio.Event()
        real = line.handler.receive_messages

        async def slow(*given: Any, **options: Any) -> list[Any]:
            found = await real(*given, **options)
            await gate.wait()
            return list(found)

        line.handler.receive_messages = slow
        with pytest.raises(Timeout, match="no answer within"):
            await bring(receiver, wait=0.3)
        gate.set()
        await until(lambda: queue.counts().active == 1)
        again = await bring(receiver)
        assert bodies(again) == [b"1"]


@pytest.mark.spec("P13", "P16")
@pytest.mark.parametrize(("real", "told"), [(60.0, 60.0), (20.0, 60.0), (60.0, 20.0)])
async def test_a_lock_that_is_not_what_was_configured_is_told_of(
    real: float, told: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Once; the shorter of both counts."""
    async with ServiceBus() as bus, provided(bus, {"q": {"lock": told}}) as provider:
        bus.queue("q", lock_seconds=real)
        await (await provider.sender("q")).send(messages(b"1", b"2"))
        receiver = await provider.receiver("q")
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                received = await bring(receiver, 1)
                left = received.deadline - asyncio.get_running_loop().time()
                assert left <= min(real, told)
                assert left >= min(real, told) - 10
        assert caplog.text.count("Make it what the queue has") == int(real != told)


@pytest.mark.spec("P13")
async def test_a_lock_whose_end_is_not_told_lasts_as_configured() -> None:
    """Nor is one believed that has been already: the service's calendar need not be ours."""
    locks, now = QueueLocks("q", 30.0, SystemClock()), asyncio.get_running_loop().time()
    assert locks.deadline(now, None) == now + 30.0
    assert locks.deadline(now, SystemClock().now() - 5.0) == now + 30.0


@pytest.mark.spec("P3", "P14")
async def test_settlements_that_come_while_one_is_under_way_go_together() -> None:
    """Each is told its own result, by its own place."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await (await provider.sender("q")).send(messages(*map(str.encode, "abcdefgh")))
        receiver = await provider.receiver("q")
        receipts = (await bring(receiver)).receipts
        assert len(receipts) == 8
        answers = await asyncio.gather(
            receiver.complete(receipts[:1]),
            receiver.complete([receipts[1], receipts[0]]),
            receiver.complete(receipts[2:4]),
            receiver.abandon(receipts[4:5]),
            receiver.complete(receipts[5:6]),
            receiver.dead_letter(
                receipts[6:], [DeadLetter("rejected", "x" * 5_000), DeadLetter("rejected")]
            ),
        )
        assert [list(answer) for answer in answers] == [[], [1], [], [], [], []]
        assert await receiver.complete([]) == {}
        await until(lambda: queue.counts().dead_lettered == 2)
        assert broken_rules(bus) == []


@pytest.mark.spec("P3")
async def test_more_than_one_request_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "MOST", 3)
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        await (await provider.sender("q")).send(messages(*[b"x"] * 10))
        receiver = await provider.receiver("q")
        received = await bring(receiver)
        assert await receiver.complete(received.receipts) == {}
        assert queue.counts().locked == 0


@pytest.mark.spec("F5", "P13")
async def test_receipts_of_locks_that_ended_are_not_kept_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        receiver = await provider.receiver("q")
        assert isinstance(receiver, AzureReceiver)
        receiver._look_at = 2
        await (await provider.sender("q")).send(messages(b"1", b"2", b"3"))
        first = await bring(receiver, 1)
        first.receipts[0].deadline = -math.inf
        await bring(receiver, 2)
        assert len(receiver._in_hand) == 2
        await receiver.close()
        assert bodies(await bring(await provider.receiver("q"))) == [b"2", b"3"]


@pytest.mark.spec("P14")
async def test_what_can_t_be_given_back_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """A closed lane's messages come again when their locks end."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        await (await provider.sender("q")).send(messages(b"1"))
        receiver = await provider.receiver("q")
        await bring(receiver)
        bus.faults.refuse("update-disposition", "com.microsoft:server-busy", times=None)
        bus.drop()
        bus.faults.refuse("attach", "com.microsoft:server-busy", times=None)
        with caplog.at_level(logging.WARNING):
            await receiver.close()
        assert "1 messages could not be given back" in caplog.text


@pytest.mark.spec("P2", "P10")
async def test_what_a_lane_without_sessions_lacks() -> None:
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        receiver = await provider.receiver("q")
        for call in (
            receiver.accept("s", 1.0),
            receiver.release_sessions([1]),
            receiver.renew_sessions([1]),
            receiver.session_state(1),
            receiver.set_session_state(1, b""),
            receiver.release([], 1.0),
            receiver.abandon([], 1.0),
        ):
            with pytest.raises(Unsupported):
                await call


# --- sending --------------------------------------------------------------------------------------


@pytest.mark.spec("P3", "P7")
async def test_one_writer_puts_together_what_many_tasks_send() -> None:
    """In lists of up to 100, each message once."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        counted = bus.faults.delay("send", 0.0, times=None)
        answers = await asyncio.gather(
            *(sender.send(messages(str(number).encode())) for number in range(250))
        )
        assert answers == [[Sent()]] * 250
        assert queue.counts().active == 250
        assert counted.met <= 5
        assert await sender.send([]) == []
        assert broken_rules(bus) == []


@pytest.mark.spec("P3")
async def test_a_list_is_no_larger_than_the_link_takes() -> None:
    """Large messages go in several; none is refused for what is beside it."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        results = await (await provider.sender("q")).send(messages(*[b"x" * 100_000] * 5))
        assert results == [Sent()] * 5
        assert queue.counts().active == 5
        assert broken_rules(bus) == []


@pytest.mark.spec("P10", "P3", "F3")
@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("where", ["message_of", "encoded_size", "_added"])
async def test_a_message_that_can_not_be_written_fails_alone(
    where: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong with it is the cause; those beside it go, and so does what is sent after it."""
    real = getattr(azure_sender, where)
    made: dict[int, bytes] = {}

    def stumbling(*given: Any) -> Any:
        if isinstance(given[0], Message):
            result = real(*given)
            made[id(result)] = given[0].body
            if where == "message_of" and given[0].body == b"bad":
                raise OverflowError("too much")
            return result
        if made.get(id(given[-1])) == b"bad":
            raise OverflowError("too much")
        return real(*given)

    monkeypatch.setattr(azure_sender, where, stumbling)
    if where != "message_of":
        first = azure_sender.message_of

        def noted(message: Message, session: str | None) -> Any:
            result = first(message, session)
            made[id(result)] = message.body
            return result

        monkeypatch.setattr(azure_sender, "message_of", noted)
    due = datetime.now(UTC) + timedelta(hours=1) if later else None
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {"fifo": True}}) as provider:
        queue = bus.queue("q", sessions=True)
        sender = await provider.sender("q")
        bad = Message(b"bad", session="a", not_before=due)
        given = [*messages(b"1", session="a"), bad, *messages(b"3", session="a")]
        results = await sender.send([*given, *messages(b"4", session="b")])
        if (where == "encoded_size") != later and where != "message_of":
            assert all(isinstance(result, Sent) for result in results)  # it is not asked for then
            return
        assert [type(result) for result in results] == [
            Sent,
            ValidationError,
            ValidationError,
            Sent,
        ]
        assert "can't be written as AMQP: too much" in str(results[1])
        assert isinstance(results[1], ValidationError)
        assert isinstance(results[1].__cause__, OverflowError)
        assert await sender.send(messages(b"5", session="a")) == [Sent()]
        assert queue.counts().active == 3


@pytest.mark.spec("P10")
async def test_whatever_befalls_the_writer_every_message_has_a_result(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Those under way and those behind them; it is told of, and the next ones are sent."""
    due = datetime.now(UTC) + timedelta(hours=1)
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        bus.queue("q")
        sender = await provider.sender("q")
        real = sender._line.do

        async def answerless(action: str, *given: Any) -> Any:
            return [] if action == "schedule" else await real(action, *given)

        monkeypatch.setattr(sender._line, "do", answerless)
        with caplog.at_level(logging.ERROR, "queue_runtime.servicebus"):
            results = await asyncio.gather(
                sender.send([*messages(b"1"), Message(b"2", not_before=due), Message(b"3")]),
                sender.send(messages(b"4")),
            )
        kinds = [[type(result) for result in some] for some in results]
        assert kinds == [[Sent, ProviderError, ProviderError], [ProviderError]]
        assert "queue q: the task that sends failed" in caplog.text
        assert isinstance(results[1][0], ProviderError)
        assert isinstance(results[1][0].__cause__, ValueError)
        assert await sender.send(messages(b"5")) == [Sent()]


@pytest.mark.spec("P3")
async def test_a_message_that_is_as_large_as_may_be_is_sent() -> None:
    """A list of it would be larger, for it repeats its ids; so it goes by itself."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {"fifo": True}}) as provider:
        queue = bus.queue("q", sessions=True)
        sender = await provider.sender("q")
        most = 262_144
        bare = encoded_size(message_of(Message(b"x" * 100_000, id="i" * 128), "s" * 128)) - 100_000
        for less in (400, 300, 200, 100, 50, 0):
            body = b"x" * (most - bare - less)
            message = Message(body, id="i" * 128, session="s" * 128)  # type: ignore[arg-type]
            assert await sender.send([message]) == [Sent()], less
        bus.faults.refuse("send", "amqp:link:message-size-exceeded")
        assert await sender.send(messages(b"small", session="s")) == [Sent()]
        [result] = await sender.send(
            [Message(b"x" * (most - bare + 1), id="i" * 128, session="s" * 128)]  # type: ignore[arg-type]
        )
        assert isinstance(result, MessageTooLarge)
        assert (result.size, result.max_size) == (most + 1, most)
        assert queue.counts().active == 7
        assert broken_rules(bus) == []


@pytest.mark.spec("P3")
async def test_a_list_is_within_the_limit_with_all_that_is_around_it() -> None:
    """Ids as long as may be, in characters of many bytes, do not make it too large."""
    async with ServiceBus(strict=True) as bus, provided(bus, {"q": {"fifo": True}}) as provider:
        queue = bus.queue("q", sessions=True)
        sender = await provider.sender("q")
        sends = bus.faults.delay("send", 0.0, times=None)
        for size in range(129_000, 130_600, 200):
            both = [
                Message(b"x" * size, id="\N{SNOWMAN}" * 127 + str(at), session="\N{SNOWMAN}" * 128)  # type: ignore[arg-type]
                for at in range(2)
            ]
            assert await sender.send(both) == [Sent(), Sent()], size
        assert queue.counts().active == 16
        assert 8 < sends.met < 16, "some pairs fit into a list and some do not"
        assert broken_rules(bus) == []


@pytest.mark.spec("P2", "P3")
async def test_scheduled_messages_that_fail() -> None:
    """Too large, or refused: each is told; one whose time has come is sent as any other."""
    due = datetime.now(UTC) + timedelta(hours=1)
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        bus.faults.refuse("schedule-message", "com.microsoft:server-busy")
        results = await sender.send(
            [
                Message(b"1", not_before=due),
                Message(b"x" * 300_000, not_before=due),
                Message(b"3", not_before=datetime(2020, 1, 1, tzinfo=UTC)),
                Message(b"4", not_before=due),
                Message(b"5"),
            ]
        )
        kinds = [Throttled, MessageTooLarge, Sent, Sent, Sent]
        assert [type(result) for result in results] == kinds
        assert isinstance(results[3], Sent)
        assert results[3].sequence
        counts = queue.counts()
        assert (counts.active, counts.scheduled) == (2, 1)


@pytest.mark.spec("P2", "P10")
async def test_a_sender_that_is_closed_lets_what_is_under_way_end() -> None:
    """What was not begun is `Closed`."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        bus.faults.delay("send", 0.3)
        first = asyncio.create_task(sender.send(messages(b"1")))
        await until(lambda: queue.counts().active == 1)
        second = asyncio.create_task(sender.send(messages(b"2")))
        await asyncio.sleep(0)
        await sender.close()
        assert await first == [Sent()]
        [result] = await second
        assert isinstance(result, Closed)
        with pytest.raises(Closed):
            await sender.send(messages(b"3"))


@pytest.mark.spec("P2", "P7")
async def test_a_send_whose_caller_is_cancelled_is_carried_out() -> None:
    """Nobody else's message is lost with it."""
    async with ServiceBus() as bus, provided(bus, {"q": {}}) as provider:
        queue = bus.queue("q")
        sender = await provider.sender("q")
        gone = asyncio.create_task(sender.send(messages(b"1")))
        stays = asyncio.create_task(sender.send(messages(b"2")))
        await asyncio.sleep(0)
        gone.cancel()
        assert await stays == [Sent()]
        assert queue.counts().active == 2


# --- a line ---------------------------------------------------------------------------------------


@pytest.mark.spec("P2", "P10")
async def test_a_line_that_is_closed_while_it_connects() -> None:
    """What it opened in the meantime is closed."""
    closed: list[str] = []
    gate = asyncio.Event()

    class Slow:
        async def __aenter__(self) -> Slow:
            await gate.wait()
            return self

        async def close(self) -> None:
            closed.append("closed")
            raise OSError("no goodbye")

    line = Line(Slow, "line", 0.05)
    with pytest.raises(Timeout):
        await line.open()
    gate.set()
    await until(lambda: closed)
    assert line.lost
    second = asyncio.create_task(line.open())
    await asyncio.sleep(0)
    await line.close()
    with pytest.raises(QueueError):
        await second
    with pytest.raises(Closed):
        await line.open()
