"""Copies of a message for a dead-letter queue: everything it had, and why it is there.

A copy is a new message to SQS (SPEC P15): it keeps our id, in our attribute, and has an id for
deduplication of its own, equal when the same copy is sent again and different for each hop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.providers.aws.wire import (
    MOST_ATTRIBUTES,
    OURS,
    TRACE,
    Entry,
    Raw,
    digest,
    dumps,
    group_of,
    ours_of,
    shown,
    size_of,
    string,
)
from pipeline.providers.port import DeadLetter


def dead_letter_of(message: Raw, why: DeadLetter, *, fifo: bool, limit: int) -> Entry:
    """The copy for the dead-letter queue.

    Args:
        message: the message as it was received.
        why: the reason; its description is cut, or left out, where the copy would be too large,
            and without any room the copy is the message as it came.
        fifo: whether the dead-letter queue is FIFO.
        limit: the most bytes that the queue takes.
    """
    ours = ours_of(message)
    ours.setdefault("id", message["MessageId"])
    ours.setdefault("sent", (message.get("Attributes") or {}).get("SentTimestamp"))
    ours["hop"] = hop = int(ours.get("hop") or 0) + 1
    as_it_came = dict(message.get("MessageAttributes") or {})
    attributes = dict(as_it_came)
    attributes.pop(OURS, None)
    typed = ours.setdefault("typed", {})
    while len(attributes) >= MOST_ATTRIBUTES:  # of other software: one makes room for ours
        name = next(name for name in reversed(attributes) if name not in TRACE)
        one = attributes.pop(name)
        typed[name] = [one["DataType"], shown(one)]
    text = message.get("Body", "")
    for mine in _shorter(ours, why, limit - size_of(text, attributes)):
        given = attributes | {OURS: string(mine)} if mine else as_it_came
        size = size_of(text, given)
        if size <= limit:
            break
    fields: dict[str, Any] = {"MessageBody": text, "MessageAttributes": given}
    group = group_of(message)
    if group is not None or fifo:
        fields["MessageGroupId"] = group = group or "none"
    if fifo:
        purpose = (str(ours["id"]), message["MessageId"], "dead-letter", str(hop))
        fields["MessageDeduplicationId"] = digest(*purpose)
    return Entry(fields, group, size)


def _shorter(ours: Mapping[str, Any], why: DeadLetter, room: int) -> Iterator[str]:
    """Our attribute with less and less about the failure, until it fits; at last "": as it came.

    What it said already stays in any case: without it the body might not be read any more.
    """
    description = why.description
    while True:
        dead = {"reason": why.reason} | ({"description": description} if description else {})
        told = dumps({**ours, "dead": dead})
        yield told
        over = len(OURS) + len("String") + len(told) - room
        if over <= 0 or not description:
            break
        description = description[: max(0, len(description) - over)]
    yield ""
