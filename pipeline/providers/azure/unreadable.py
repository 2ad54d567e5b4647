"""Messages that the SDK can't decode, each ended by itself: those around it come as ever.

AMQP has types that the SDK does not know (char, decimal32, decimal64), and it refuses values that
are nested deeper than 64. Left to itself it raises that out of whatever call reads the connection,
or ends the link without a word, and what came beside the message is lost until its lock ends.
So where this version of the SDK has its link's method for it, such a message is caught there, named
by its lock token, and dead-lettered: whoever receives next could not read it either.
"""

from __future__ import annotations

import inspect
import json
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from pipeline.outcomes import Reason
from pipeline.providers.azure.sdk import Ways
from pipeline.providers.azure.settle import Receipt
from pipeline.providers.port import DeadLetter, Failures

_log = logging.getLogger("queue_runtime.servicebus")
_SEQUENCE = b"x-opt-sequence-number"
_LONG, _SMALL = b"\x81", b"\x55"
"""AMQP's codes of a long: in eight bytes, and in one."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A message that can't be decoded.

    Args:
        token: its lock's.
        why: what the SDK said.
        sequence: the queue's number for it; None: that can't be read either.
    """

    token: UUID
    why: str
    sequence: int | None

    @property
    def receipt(self) -> Receipt:
        """What it is settled by."""
        return Receipt(self.token, None, None, math.inf)

    @property
    def reason(self) -> DeadLetter:
        """Why it is dead-lettered."""
        told = json.dumps({"error": f"the message can't be decoded: {self.why}"})
        return DeadLetter(Reason.INVALID_BODY, told)

    def tell(self, where: str, failures: Failures | None) -> None:
        """Log what became of it.

        Args:
            where: the queue or session that it is of.
            failures: of its dead-lettering; None: it stays where it is.
        """
        left = "it stays locked, and comes again when its lock ends"
        end = (
            left if failures is None else f"{left}: {failures[0]}" if failures else "dead-lettered"
        )
        _log.error(
            "%s: the message of sequence %s can't be decoded (%s): %s",
            where,
            self.sequence,
            self.why,
            end,
        )


def watch(receiver: Any, found: Callable[[Unreadable], object]) -> None:
    """Have what can't be decoded told, and not raised; more than once for one receiver is nothing.

    Args:
        receiver: the SDK's, connected; nothing has been asked of it yet.
        found: told of each, in the order in which they come.
    """
    link: Any = getattr(getattr(receiver, "_handler", None), "_link", None)
    take = getattr(link, "_incoming_transfer", None)
    if not inspect.iscoroutinefunction(take) or not Ways.of(receiver).settle_many:
        return  # the names are those of azure-servicebus 7.15; without them errors are raised
    if not getattr(take, "watches", False):
        link._incoming_transfer = _watching(link, take, found)  # noqa: SLF001 - checked


def _watching(
    link: Any, take: Callable[[Any], Awaitable[None]], found: Callable[[Unreadable], object]
) -> Callable[[Any], Awaitable[None]]:
    async def incoming(frame: Any) -> None:
        try:
            await take(frame)
        except Exception as error:
            told = _unreadable(link, frame, error)
            if told is None:
                raise
            link._received_payload = bytearray()  # noqa: SLF001 - as the SDK does of one it decoded
            found(told)

    incoming.watches = True  # type: ignore[attr-defined]
    return incoming


def _unreadable(link: Any, frame: Any, error: Exception) -> Unreadable | None:
    """The message whose last frame this is; None where the frame is not as expected."""
    try:
        tag = bytes(link._first_frame[2])  # noqa: SLF001 - checked
        payload = bytes(link._received_payload) or bytes(frame[11])  # noqa: SLF001
        return Unreadable(UUID(bytes_le=tag), _why(error), _sequence_in(payload))
    except (AttributeError, IndexError, TypeError, ValueError):
        return None


def _why(error: Exception) -> str:
    # What it has no decoder for the SDK stumbles over.
    return "a type that the SDK does not know" if isinstance(error, TypeError) else str(error)


def _sequence_in(payload: bytes) -> int | None:
    """The number of a message as it is on the wire."""
    _, _, behind = payload.partition(_SEQUENCE)
    size = {_LONG: 8, _SMALL: 1}.get(behind[:1], 0)
    return int.from_bytes(behind[1 : 1 + size], signed=True) if size else None
