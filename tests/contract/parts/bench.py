"""What a contract test stands on: a provider's queue with the wanted settings, and clients at it.

A provider's test class gives `open`, its capability table and how long things take there; a test
says with `needs` what it cannot do without, and is skipped with that reason where it is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar, TypeVar

import pytest

from pipeline.client import QueueClient
from pipeline.clock import Clock
from pipeline.message import Delivery, Message
from pipeline.providers.port import Capabilities, Count, Provider, SessionSupport

Test = TypeVar("Test", bound=Callable[..., Awaitable[None]])

_KINDS: dict[str, Callable[[Capabilities], bool]] = {
    "sessions": lambda able: able.sessions is not SessionSupport.UNSUPPORTED,
    "native sessions": lambda able: able.sessions is SessionSupport.NATIVE,
    "message groups": lambda able: able.sessions is SessionSupport.EMULATED,
    "unordered delivery": lambda able: able.sessions is SessionSupport.UNSUPPORTED,
}


def needs(*capabilities: str) -> Callable[[Test], Test]:
    """Say what a test can't do without: fields of `Capabilities`, or one of the kinds above."""

    def mark(test: Test) -> Test:
        test.needs = capabilities  # type: ignore[attr-defined]
        return test

    return mark


def lacking(test: object, able: Capabilities) -> list[str]:
    """Which of the capabilities that a test needs are not there."""
    wanted: tuple[str, ...] = getattr(test, "needs", ())
    return [
        name
        for name in wanted
        if not (_KINDS[name](able) if name in _KINDS else getattr(able, name))
    ]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a test asks of its queue; a provider that can't say so skips it in `open`.

    Args:
        lock: seconds; None: the provider's usual, long enough for the whole test.
        sessionless: `reject` or `spread`.
        max_deliveries: then dead-lettered.
        time_to_live: seconds, of messages that name none.
        on_expiry: `dead_letter` or `drop`.
        duplicate_window: seconds; 0: none.
        max_messages: a bound; None: none that matters.
    """

    lock: float | None = None
    sessionless: str = "reject"
    max_deliveries: int | None = None
    time_to_live: float | None = None
    on_expiry: str = "dead_letter"
    duplicate_window: float = 0.0
    max_messages: int | None = None


@dataclass
class Bench:
    """A queue and the clients at it.

    Args:
        queue: its name in the configuration.
        make: makes a client, not started, as another process would have one.
        clock: the calendar that `not_before` is measured by.
        provider: makes the provider itself, not started, as an actor would have it.
        clients: those that were opened.
    """

    queue: str
    make: Callable[[], QueueClient]
    clock: Clock
    provider: Callable[[], Provider]
    clients: list[QueueClient] = field(default_factory=list)

    async def another(self) -> QueueClient:
        """One more client, started."""
        client = self.make()
        self.clients.append(client)
        await client.start()
        return client


class Contract:
    """What the parts of the suite share. Times are in seconds.

    `soon` is within what something comes that is there, and how long it is listened to nothing;
    `lock` the lock of queues whose locks run out in a test; `bounded` whether a queue can be told
    how much it may hold; `keeps_reasons` whether a message that the service itself dead-letters
    says why; `takes_over` whether a new lane of an owner gets at once what its last one had in
    hand, and not as the locks end; `tells_duplicates` whether who sends a duplicate hears of it;
    `fixed_window` whether the service's window for them can't be chosen, and is a long one.
    """

    declared: ClassVar[Capabilities]
    soon: ClassVar[float] = 2.0
    lock: ClassVar[float] = 10.0
    bounded: ClassVar[bool] = True
    keeps_reasons: ClassVar[bool] = True
    takes_over: ClassVar[bool] = True
    tells_duplicates: ClassVar[bool] = True
    fixed_window: ClassVar[bool] = False

    def create(self, wanted: Wanted) -> AbstractAsyncContextManager[Bench]:
        """Make a queue of its own, and remove it afterwards."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Let time pass, as the provider measures it."""
        await asyncio.sleep(seconds)

    @pytest.fixture(autouse=True)
    def _skip_what_is_lacking(self, request: pytest.FixtureRequest) -> None:
        missing = lacking(request.function, self.declared)
        if missing:
            pytest.skip(f"{type(self).__name__[4:]} has no {' and no '.join(missing)}")

    @asynccontextmanager
    async def open(self, **wanted: Any) -> AsyncIterator[Bench]:
        """A queue with a started client; at the end nothing may be left in hand."""
        async with self.create(Wanted(**wanted)) as bench:
            await bench.another()
            yield bench
            for client in bench.clients:
                await client.close()
            async with bench.make() as last:
                depth = await last.depth(bench.queue)
                assert not depth.in_hand, "a closed client left messages in hand"

    # --- what tests say often ---------------------------------------------------------------------

    @property
    def ordered(self) -> bool:
        """Whether messages need a session."""
        return self.declared.sessions is not SessionSupport.UNSUPPORTED

    def message(self, body: bytes = b"x", session: str | None = None, **fields: Any) -> Message:
        """A message, in a session of its own where it needs one and none is given."""
        if session is None and self.ordered:
            session = f"session-{next(_numbers)}"
        return Message(body, session=session, **fields)  # type: ignore[arg-type]

    def count_after(self, *, failures: int, receives: int) -> int:
        """The delivery count of a message that failed so often, at its so manieth receive."""
        return receives if self.declared.count is Count.ON_RECEIVE else 1 + failures

    async def one(self, client: QueueClient, queue: str, **options: Any) -> Delivery:
        """The one message that is there."""
        deliveries = await client.receive(queue, wait=self.soon, **options)
        assert len(deliveries) == 1
        return deliveries[0]

    async def several(
        self, client: QueueClient, queue: str, most: int, **options: Any
    ) -> list[Delivery]:
        """Up to so many, in as many receives as it takes."""
        found: list[Delivery] = []
        while len(found) < most:
            more = await client.receive(queue, most - len(found), self.soon, **options)
            if not more:
                break
            found += more
        return found

    async def nothing(self, client: QueueClient, queue: str, **options: Any) -> None:
        """Nothing comes."""
        assert await client.receive(queue, 10, self.soon, **options) == []


_numbers = count()


def now() -> float:
    """The loop's time."""
    return asyncio.get_running_loop().time()


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    """What they hold, in order."""
    return [delivery.body for delivery in deliveries]
