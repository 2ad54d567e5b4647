"""Whether a queue takes a message: its session, its size, the room left, and duplicates."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.errors import MessageTooLarge, QueueError, QueueFull, ValidationError
from pipeline.message import Row
from pipeline.providers.memory.settings import Rules
from pipeline.providers.port import Failures
from pipeline.session_keys import spread_session


def message_size(row: Row) -> int:
    """What counts against the limits: bytes of the body and of the attributes' text.

    Example:
        >>> message_size(("id", None, b"1234", None, None, {"kind": "x"}))
        9
    """
    size = len(row[2])
    attributes: Mapping[str, str] | None = row[5]
    if attributes:
        for key, value in attributes.items():
            size += len(key.encode()) + len(value.encode())
    return size


class Room:
    """How much a queue and its dead letters hold together, and the last sequence of both."""

    __slots__ = ("bytes", "messages", "sequence")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.sequence = 0

    def next_sequence(self) -> int:
        """One more than the last."""
        self.sequence += 1
        return self.sequence


@dataclass(slots=True)
class Admitted:
    """What a queue takes of the messages of one call.

    Args:
        rows: those it takes, each with a session where the queue wants one.
        sizes: their sizes.
        positions: where those were in the call, when not all were taken.
        duplicates: positions of those that duplicate detection drops.
        failures: position to the reason for refusing it.
    """

    rows: Sequence[Row]
    sizes: Sequence[int]
    positions: list[int] = field(default_factory=list)
    duplicates: list[int] = field(default_factory=list)
    failures: Failures = field(default_factory=dict)


class Admission:
    """The rules that a message must meet on its way in."""

    def __init__(self, rules: Rules, room: Room) -> None:
        self._rules = rules
        self._room = room
        self._seen: OrderedDict[str, float] = OrderedDict()  # key to the end of its window

    def admit(self, rows: Sequence[Row], now: float) -> Admitted:
        """Judge the messages of one call; after a refusal the later ones of its session fail."""
        sizes = [message_size(row) if row[5] else len(row[2]) for row in rows]
        if self._takes_all(rows, sizes):
            return Admitted(rows, sizes)
        return self._one_by_one(rows, sizes, now)

    def _takes_all(self, rows: Sequence[Row], sizes: Sequence[int]) -> bool:
        rules, room = self._rules, self._room
        return not (
            rules.duplicate_window
            or max(sizes, default=0) > rules.max_message_size
            or room.messages + len(rows) > rules.max_messages
            or room.bytes + sum(sizes) > rules.max_bytes
            or (rules.needs_session and None in [row[1] for row in rows])
        )

    def _one_by_one(self, rows: Sequence[Row], sizes: Sequence[int], now: float) -> Admitted:
        taken: list[Row] = []
        taken_sizes: list[int] = []
        admitted = Admitted(taken, taken_sizes)
        stopped: dict[str | None, QueueError] = {}
        total = 0
        for position, (given, size) in enumerate(zip(rows, sizes, strict=True)):
            row = self._with_session(given)
            error = stopped.get(row[1])
            if error is None and self._duplicate(row, now):
                admitted.duplicates.append(position)
                continue
            error = error or self._refusal(row, size, len(taken), total)
            if error is None:
                taken.append(row)
                taken_sizes.append(size)
                total += size
                admitted.positions.append(position)
                self._note(row, now)
            else:
                admitted.failures[position] = error
                if self._rules.dialect != "none":
                    stopped[row[1]] = error
        return admitted

    def _with_session(self, row: Row) -> Row:
        if row[1] is not None or not self._rules.spread:
            return row
        return (row[0], spread_session(row[0]), *row[2:])

    def _refusal(self, row: Row, size: int, messages: int, size_before: int) -> QueueError | None:
        """What speaks against taking a message after others of its call."""
        rules, room = self._rules, self._room
        if row[1] is None and rules.needs_session:
            return ValidationError(
                "Message.session",
                f"must be given, for queue {rules.name} is ordered "
                "(`sessionless: spread` gives one to messages without)",
            )
        if size > rules.max_message_size:
            return MessageTooLarge(size, rules.max_message_size)
        if room.messages + messages >= rules.max_messages:
            held, most = f"{room.messages + messages} messages", str(rules.max_messages)
        elif room.bytes + size_before + size > rules.max_bytes:
            held, most = f"{room.bytes + size_before} bytes", str(rules.max_bytes)
        else:
            return None
        return QueueFull(
            f"queue {rules.name} holds {held}, dead letters included, and takes at most {most}: "
            "try again when messages were handled"
        )

    def _duplicate(self, row: Row, now: float) -> bool:
        seen = self._seen
        while seen and next(iter(seen.values())) <= now:
            seen.popitem(last=False)
        return (row[8] or row[0]) in seen

    def _note(self, row: Row, now: float) -> None:
        if self._rules.duplicate_window:
            self._seen[row[8] or row[0]] = now + self._rules.duplicate_window
            if len(self._seen) > self._rules.max_messages:  # bounded, as the queue is
                self._seen.popitem(last=False)
