"""A client's own life: cancelling, closing, threads and loops; and its capabilities."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from pipeline.client import QueueClient
from pipeline.errors import Closed, MessageNotFound, ValidationError
from tests.contract.parts.bench import Bench, Contract, bodies, needs, now
from tests.contract.parts.sessions import send


class LifeContract(Contract):
    """Nothing is lost or leaked, whatever is cancelled or closed."""

    @pytest.mark.spec("P4", "P14")
    async def test_the_queue_can_do_what_the_table_declares(self) -> None:
        """The table in the provider's tests is the specification; `Capabilities` says the same."""
        async with self.open(duplicate_window=60.0) as bench:
            [client] = bench.clients
            assert client.capabilities(bench.queue) == self.declared
        async with self.open() as bench:
            [client] = bench.clients
            plain = client.capabilities(bench.queue)
            always = self.declared.duplicate_detection  # or only where a window is asked for
            assert replace(plain, duplicate_detection=always) == self.declared

    # --- cancelling -------------------------------------------------------------------------------

    @pytest.mark.spec("P2")
    async def test_a_cancelled_receive_leaves_the_queue_to_others(self) -> None:
        """Cancelled while it waits, it takes nothing that comes later."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            receiving = asyncio.create_task(client.receive(bench.queue, 10, 20 * self.soon))
            await self.sleep(self.soon)
            receiving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await receiving
            await self.sleep(self.soon)
            await client.send(bench.queue, self.message(b"free"))
            await other.complete(await self.one(other, bench.queue))

    @pytest.mark.spec("P2")
    @pytest.mark.parametrize("before", range(3))
    async def test_a_receive_that_is_cancelled_as_a_message_comes_loses_nothing(
        self, before: int
    ) -> None:
        """At whatever moment: who was cancelled has it, or another gets it at once, not counted."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            session = "s" if self.ordered else None
            for after in range(12):
                receiving = asyncio.create_task(client.receive(bench.queue, 10, 20 * self.soon))
                await steps(before)
                sending = asyncio.create_task(other.send(bench.queue, self.message(b"1", session)))
                await steps(after)
                receiving.cancel()
                await sending
                try:
                    mine = await receiving
                except asyncio.CancelledError:
                    mine = []
                await client.complete(mine)
                if not mine:
                    theirs = await self.one(other, bench.queue)
                    assert theirs.delivery_count <= self.count_after(failures=0, receives=2)
                    await other.complete(theirs)
                await self.nothing(other, bench.queue)

    @pytest.mark.spec("P2")
    @needs("native sessions")
    @pytest.mark.parametrize("named", [True, False], ids=["named", "next-free"])
    async def test_an_accept_that_is_cancelled_leaves_the_session_free(self, named: bool) -> None:
        """At whatever moment: nobody waits for a lock that no one has."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            session = "s" if named else None
            for after in range(14):
                holding = await other.accept_session(bench.queue, "s", 20 * self.soon)
                await send(other, bench.queue, "s", b"1")
                accepting = asyncio.create_task(
                    client.accept_session(bench.queue, session, 20 * self.soon)
                )
                await steps(3)
                releasing = asyncio.create_task(holding.release())
                await steps(after)
                accepting.cancel()
                await releasing
                try:
                    async with await accepting:
                        pass
                except asyncio.CancelledError:
                    pass
                async with await other.accept_session(bench.queue, "s", self.soon) as held:
                    await held.complete(await held.receive(1, self.soon))

    @pytest.mark.spec("P2", "P14")
    async def test_a_settling_that_is_cancelled_can_be_repeated(self) -> None:
        """Whether it had worked or not, the repeat ends well and the message is gone."""
        async with self.open() as bench:
            [client] = bench.clients
            for after in range(8):
                await client.send(bench.queue, self.message())
                delivery = await self.one(client, bench.queue)
                settling = asyncio.create_task(client.complete(delivery))
                await steps(after)
                settling.cancel()
                await asyncio.wait([settling])
                if settling.cancelled():
                    failures = await client.complete([delivery])
                    assert all(isinstance(error, MessageNotFound) for error in failures.values())
                await self.nothing(client, bench.queue)

    @pytest.mark.spec("P7", "F5")
    async def test_a_receive_without_a_turn_gets_nothing_within_its_wait(self) -> None:
        """Eight receive at once; a ninth waits for its turn, and takes it when one is over."""
        async with self.open() as bench:
            [client] = bench.clients
            long = [
                asyncio.create_task(client.receive(bench.queue, 1, 20 * self.soon))
                for _ in range(8)
            ]
            await asyncio.sleep(0)
            start = now()
            assert await client.receive(bench.queue, 1, self.soon) == []
            assert now() - start <= self.soon + 1
            ninth = asyncio.create_task(client.receive(bench.queue, 1, 20 * self.soon))
            await client.send_many(bench.queue, [self.message() for _ in range(9)])
            for found in await asyncio.gather(*long, ninth):
                assert len(found) == 1
                await client.complete(found)

    # --- closing ----------------------------------------------------------------------------------

    @pytest.mark.spec("P2", "P10")
    async def test_closing_is_idempotent_and_every_call_after_it_raises_closed(self) -> None:
        """However often, and from several tasks at once."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            await asyncio.gather(client.close(), client.close())
            await client.close()
            for call in calls(client, bench, delivery).values():
                with pytest.raises(Closed):
                    await call()
            with pytest.raises(Closed):
                client.capabilities(bench.queue)
            with pytest.raises(Closed):
                await client.start()

    @pytest.mark.spec("P2", "F2")
    async def test_closing_gives_back_what_is_in_hand(self) -> None:
        """At once, in order, uncounted where releasing is; nobody waits for a lock to end."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            session = "s" if self.ordered else None
            for body in (b"1", b"2", b"3"):
                await client.send(bench.queue, self.message(body, session))
            await client.receive(bench.queue, 2, self.soon)
            await client.close()
            found = await self.several(other, bench.queue, 3)
            assert sorted(bodies(found)) == [b"1", b"2", b"3"]
            if self.ordered:
                assert bodies(found) == [b"1", b"2", b"3"]
            counts = [self.count_after(failures=0, receives=2), 1]
            assert {one.delivery_count for one in found} <= set(counts)
            await other.complete(found)

    @pytest.mark.spec("P2")
    async def test_closing_ends_the_calls_that_wait(self) -> None:
        """They raise `Closed`, and take nothing with them."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            waiting = [
                asyncio.create_task(client.receive(bench.queue, 1, 20 * self.soon))
                for _ in range(12)
            ]
            await self.sleep(self.soon)
            start = now()
            await client.close()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert {type(answer) for answer in answers} == {Closed}
            assert now() - start < 2 * self.soon
            await other.send(bench.queue, self.message())
            await other.complete(await self.one(other, bench.queue))

    @pytest.mark.spec("P2")
    @needs("native sessions")
    async def test_closing_gives_held_sessions_back(self) -> None:
        """Pending accepts and receives raise `Closed`; releasing the session then is nothing."""
        async with self.open() as bench:
            [client] = bench.clients
            other = await bench.another()
            await send(client, bench.queue, "s", b"1")
            held = await client.accept_session(bench.queue, "s")
            await held.receive()
            receiving = asyncio.create_task(held.receive(1, 20 * self.soon))
            accepting = asyncio.create_task(client.accept_session(bench.queue, "s"))
            await self.sleep(self.soon)
            await client.close()
            for task in (receiving, accepting):
                with pytest.raises(Closed):
                    await task
            await held.release()
            with pytest.raises(Closed):
                await held.state()
            await other.complete(await self.one(other, bench.queue))

    @pytest.mark.spec("P2")
    @needs("native sessions")
    async def test_releasing_a_session_ends_its_pending_receive(self) -> None:
        """With `Closed`; what was about to come stays in the session."""
        async with self.open() as bench:
            [client] = bench.clients
            held = await client.accept_session(bench.queue, "s")
            receiving = asyncio.create_task(held.receive(1, 20 * self.soon))
            await self.sleep(self.soon)
            await held.release()
            with pytest.raises(Closed):
                await receiving
            await send(client, bench.queue, "s", b"1")
            await client.complete(await self.one(client, bench.queue))

    @pytest.mark.spec("P2", "F8")
    async def test_starting_is_idempotent(self) -> None:
        """One that was never started can be closed; a call before the start says what to do."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.start()
            fresh = bench.make()
            with pytest.raises(ValidationError, match="must be started"):
                await fresh.depth(bench.queue)
            await asyncio.gather(fresh.start(), fresh.start())
            await fresh.depth(bench.queue)
            await fresh.close()
            await bench.make().close()

    # --- threads and loops ------------------------------------------------------------------------

    @pytest.mark.spec("P7")
    async def test_another_loop_or_thread_is_refused(self) -> None:
        """Every call, with an error that says what to do; the client goes on where it belongs."""
        async with self.open() as bench:
            [client] = bench.clients
            await client.send(bench.queue, self.message())
            delivery = await self.one(client, bench.queue)
            found: dict[str, BaseException | None] = {}

            async def elsewhere() -> None:
                refused = calls(client, bench, delivery)
                for name, call in {**refused, "start": client.start, "close": client.close}.items():
                    try:
                        await call()
                    except ValidationError as error:
                        found[name] = error
                    else:
                        found[name] = None

            thread = threading.Thread(target=run_on_a_real_loop, args=(elsewhere,))
            thread.start()
            thread.join()
            assert len(found) >= 15
            for name, error in found.items():
                assert error is not None, f"{name} worked on another loop"
                assert "run_coroutine_threadsafe" in str(error)
            await client.complete(delivery)

    @pytest.mark.spec("P7", "M1")
    async def test_a_client_cannot_be_pickled(self) -> None:
        """It belongs to its process; the error says what to do."""
        async with self.open() as bench:
            with pytest.raises(ValidationError, match="make one from the configuration"):
                pickle.dumps(bench.clients[0])


async def steps(count: int) -> None:
    """Let the loop go round so often."""
    for _ in range(count):
        await asyncio.sleep(0)


def run_on_a_real_loop(work: Callable[[], Awaitable[None]]) -> None:
    """Run it on a new loop of this thread's own."""

    async def main() -> None:
        await work()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def calls(client: QueueClient, bench: Bench, delivery: Any) -> dict[str, Callable[[], Any]]:
    """Every call of a client, ready to be made."""
    queue = bench.queue
    return {
        "send": lambda: client.send(queue, delivery.message),
        "send_many": lambda: client.send_many(queue, [delivery.message]),
        "cancel_scheduled": lambda: client.cancel_scheduled(queue, 1),
        "receive": lambda: client.receive(queue),
        "receive_deferred": lambda: client.receive_deferred(queue, [1]),
        "peek": lambda: client.peek(queue),
        "accept_session": lambda: client.accept_session(queue),
        "complete": lambda: client.complete(delivery),
        "abandon": lambda: client.abandon(delivery),
        "release": lambda: client.release(delivery),
        "dead_letter": lambda: client.dead_letter(delivery, "rejected"),
        "defer": lambda: client.defer(delivery),
        "renew": lambda: client.renew(delivery),
        "depth": lambda: client.depth(queue),
    }
