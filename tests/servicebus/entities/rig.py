"""What the tests of the entities share: a consumer that remembers, and messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.servicebus.assumptions import Assumptions
from tests.servicebus.entities.clock import ManualClock
from tests.servicebus.entities.errors import Refused
from tests.servicebus.entities.queue import Queue
from tests.servicebus.entities.session import Waiting
from tests.servicebus.entities.settings import Settings
from tests.servicebus.entities.stored import Stored

START = 1_700_000_000.0


class Receiver:
    """A consumer that keeps what it gets.

    Args:
        session: the one it holds.
        locks: peek-lock, or receive-and-delete.
        then: called with each message after it was kept.
    """

    def __init__(
        self,
        session: str | None = None,
        *,
        locks: bool = True,
        then: Callable[[Stored], None] | None = None,
    ) -> None:
        self.session = session
        self.locks = locks
        self.credit = 0
        self.got: list[Stored] = []
        self.tokens: list[bytes] = []
        self.errors: list[Refused] = []
        self.then = then

    def wanted(self) -> int:
        return self.credit

    def deliver(self, message: Stored) -> None:
        assert self.credit > 0
        assert (message.token is not None) == self.locks
        self.credit -= 1
        self.got.append(message)
        if message.token is not None:
            self.tokens.append(message.token)
        if self.then is not None:
            self.then(message)

    def lost(self, error: Refused) -> None:
        self.errors.append(error)

    @property
    def bodies(self) -> list[str]:
        """Of what it has got, in the order it came."""
        return [message.bare.decode() for message in self.got]


class Asking:
    """Somebody who has asked for a session, and what was answered.

    Args:
        queue: of whom.
        session: which; None: the next free one.
        timeout: seconds.
    """

    def __init__(self, queue: Queue, session: str | None = None, timeout: float = 65.0) -> None:
        self.granted: list[tuple[str, float]] = []
        self.refused: list[str] = []
        self.waiting: Waiting = queue.accept(
            session,
            lambda name, until: self.granted.append((name, until)),
            lambda error: self.refused.append(error.condition),
            timeout,
        )


def queue(
    settings: Settings | None = None, /, *, guesses: Assumptions | None = None, **changes: Any
) -> tuple[Queue, ManualClock]:
    """A queue named `q`, at START, with default settings but for the changes."""
    clock = ManualClock(START)
    return Queue("q", replace(settings or Settings(), **changes), clock, guesses), clock


def messages(*bodies: str, **rest: Any) -> list[Stored]:
    """With these bodies, and the rest alike."""
    return [Stored(bare=body.encode(), **rest) for body in bodies]


def receiver(of: Queue, credit: int = 0, **rest: Any) -> Receiver:
    """One that is attached, with that much credit."""
    made = Receiver(**rest)
    of.attach(made)
    give(of, made, credit)
    return made


def holder(of: Queue, session: str, credit: int = 0, **rest: Any) -> Receiver:
    """One that holds the session, with that much credit."""
    asking = Asking(of, session)
    assert [name for name, _ in asking.granted] == [session]
    made = Receiver(session, **rest)
    of.hold(session, made)
    give(of, made, credit)
    return made


def give(to: Queue, consumer: Receiver, credit: int) -> None:
    """More credit."""
    consumer.credit += credit
    to.ready(consumer)


def bodies(of: list[Stored]) -> list[str]:
    """Theirs, in order."""
    return [message.bare.decode() for message in of]


def refused(call: Callable[[], object]) -> str:
    """The condition that the call is refused with."""
    with pytest.raises(Refused) as caught:
        call()
    assert str(caught.value) == caught.value.description != ""
    return caught.value.condition
