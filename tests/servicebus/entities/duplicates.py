"""Which message ids have come inside the window."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from tests.servicebus.entities.stored import Stored


class Duplicates:
    """The history of duplicate detection, never longer than what came in a window.

    The window of an id begins when it is first seen; a duplicate does not prolong it.

    Args:
        window: seconds.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self._seen: dict[object, float] = {}
        self._order: deque[tuple[float, object]] = deque()

    def __len__(self) -> int:
        return len(self._order)

    def new(self, messages: Iterable[Stored], now: float) -> list[Stored]:
        """Those whose ids are new, which they then are no more. One without an id always is."""
        self._forget_before(now - self._window)
        seen, order = self._seen, self._order
        kept = []
        for message in messages:
            identifier = message.message_id
            if identifier is not None:
                if identifier in seen:
                    continue
                seen[identifier] = now
                order.append((now, identifier))
            kept.append(message)
        return kept

    def forget(self, identifier: object) -> None:
        """Let it come again."""
        self._seen.pop(identifier, None)

    def _forget_before(self, then: float) -> None:
        seen, order = self._seen, self._order
        while order and order[0][0] <= then:
            when, identifier = order.popleft()
            # Another time: it was forgotten by request and has come again since.
            if seen.get(identifier) == when:
                del seen[identifier]
