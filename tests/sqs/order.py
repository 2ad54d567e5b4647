"""Which message a queue may give next: any that is visible, or the next ones of a free group.

An order is told of every change and yields visible messages. Whoever takes one from `pick` changes
its state before asking for the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from tests.sqs.stored import State, Stored

_AT_ONCE = 10
"""The most that one receive gives."""


class Order(Protocol):
    """What a queue asks of it."""

    def added(self, message: Stored) -> None:
        """A message came; visible or not."""
        ...

    def shown(self, message: Stored, was: State) -> None:
        """One that was delayed or in flight is visible."""
        ...

    def hidden(self, message: Stored) -> None:
        """One that was visible is in flight."""
        ...

    def removed(self, message: Stored, was: State) -> None:
        """One is gone from where it was."""
        ...

    def pick(self) -> Generator[Stored]:
        """Those that may be given, one by one."""
        ...


class Standard:
    """About in the order in which they came; what comes back is given after what waits."""

    def __init__(self) -> None:
        self._visible: deque[Stored] = deque()

    def added(self, message: Stored) -> None:
        if message.state is State.VISIBLE:
            self._visible.append(message)

    def shown(self, message: Stored, was: State) -> None:
        self._visible.append(message)

    def hidden(self, message: Stored) -> None:
        pass

    def removed(self, message: Stored, was: State) -> None:
        pass  # one that was deleted while visible is passed over by `pick`

    def pick(self) -> Generator[Stored]:
        while self._visible:
            message = self._visible.popleft()
            if message.state is State.VISIBLE:
                yield message


@dataclass(slots=True)
class _Group:
    """The messages of a group, in order."""

    messages: dict[int, Stored] = field(default_factory=dict)
    in_flight: int = 0

    @property
    def free(self) -> bool:
        """Whether one of it may be given: none is in flight, and its first one is visible."""
        if self.in_flight or not self.messages:
            return False
        return next(iter(self.messages.values())).state is State.VISIBLE


class Fifo:
    """In order within a group, which gives nothing while one of it is in flight.

    Groups take turns: one that was blocked is given after those that wait.
    """

    def __init__(self) -> None:
        self._groups: dict[str, _Group] = {}
        self._free: dict[str, None] = {}

    def added(self, message: Stored) -> None:
        name = _name(message)
        self._groups.setdefault(name, _Group()).messages[message.number] = message
        self._refresh(name)

    def shown(self, message: Stored, was: State) -> None:
        name = _name(message)
        if was is State.IN_FLIGHT:
            self._groups[name].in_flight -= 1
        self._refresh(name)

    def hidden(self, message: Stored) -> None:
        name = _name(message)
        self._groups[name].in_flight += 1
        self._refresh(name)

    def removed(self, message: Stored, was: State) -> None:
        name = _name(message)
        group = self._groups[name]
        del group.messages[message.number]
        if was is State.IN_FLIGHT:
            group.in_flight -= 1
        self._refresh(name)

    def pick(self) -> Generator[Stored]:
        while self._free:
            name = next(iter(self._free))
            for message in tuple(islice(self._groups[name].messages.values(), _AT_ONCE)):
                if message.state is not State.VISIBLE:
                    break
                yield message

    def _refresh(self, name: str) -> None:
        group = self._groups[name]
        if group.free:
            self._free.setdefault(name)
        else:
            self._free.pop(name, None)
        if not group.messages:
            del self._groups[name]


def _name(message: Stored) -> str:
    assert message.group is not None, "a FIFO queue refuses messages without a group"
    return message.group
