"""Which sealed bodies came lately, to tell one that is sent again from one that comes again.

A nonce is one body's alone. When it comes a second time in the same message, the message was
delivered again, as it may be. In another message, somebody sent the body again: an attacker who
keeps what is bound (id and session) and is quick enough to be fresh (SPEC C8).

The book remembers for a bounded time, and a bounded number: replays beyond either are freshness's
to find. It lives where a session's messages go, so that all of them are in one book.
"""

from __future__ import annotations

from collections import OrderedDict

from pipeline.errors import ValidationError


class NonceBook:
    """Remembers nonces with the message they came in.

    Args:
        window: seconds that one is remembered after it was seen last.
        most: how many are; beyond, the one that was seen longest ago is forgotten.

    Raises:
        ValidationError: a number is not above 0.

    Example:
        >>> book = NonceBook()
        >>> book.seen(b"n", "sqs:orders", "id-1", 7, now=0.0)
        False
        >>> book.seen(b"n", "sqs:orders", "id-1", 7, now=30.0)  # delivered again
        False
        >>> book.seen(b"n", "sqs:orders", "id-2", 8, now=60.0)  # sent again
        True
    """

    __slots__ = ("_most", "_seen", "_window")

    def __init__(self, window: float = 600.0, most: int = 100_000) -> None:
        for name, value in (("window", window), ("most", most)):
            if not value > 0:
                raise ValidationError(f"NonceBook.{name}", "must be above 0", value)
        self._window = window
        self._most = most
        self._seen: OrderedDict[bytes, tuple[tuple[str, str, int], float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def seen(self, nonce: bytes, source: str, provider_id: str, sequence: int, now: float) -> bool:
        """Whether a body came before in another message; one that did not is remembered.

        Args:
            nonce: the body's, 24 bytes; empty for a plain body, which none can be told from.
            source: the queue, as its provider knows it.
            provider_id: the provider's id of the message.
            sequence: the provider's number of the message.
            now: seconds that only grow.
        """
        if not nonce:
            return False
        self._forget(now)
        message = (source, provider_id, sequence)
        known = self._seen.pop(nonce, (message, now))[0]
        # Seen again, it is remembered anew: the first message it came in stays the one it may.
        self._seen[nonce] = (known, now)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return known != message

    def _forget(self, now: float) -> None:
        seen = self._seen
        while seen:
            oldest = next(iter(seen))
            if now - seen[oldest][1] <= self._window:
                return
            del seen[oldest]
