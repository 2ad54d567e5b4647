"""What one part of a configuration asks of another: names that exist, settings that agree.

It reads plain mappings, whatever is wrong with them, so that a file with a misspelt key in one
place and a wrong name in another is told of both at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """One thing that is wrong: where, what is allowed, and the value that was given."""

    path: tuple[str | int, ...]
    text: str
    value: object = None


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: that it is none is told elsewhere."""
    return value if isinstance(value, Mapping) else {}


def closest(word: object, known: list[str]) -> str:
    """The hint `did you mean …? ` when a known word is close to the one given, else nothing."""
    found = get_close_matches(str(word), known, n=1)
    return f"did you mean {found[0]}? " if found else ""


def broken_references(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Find the names that name nothing and the settings that can't go together.

    Args:
        data: a whole configuration as plain mappings, valid or not.
    """
    connections, queues = mapping(data.get("connections")), mapping(data.get("queues"))
    for name, queue in queues.items():
        if isinstance(queue, Mapping):
            given = queue.get("connection")
            yield from _unnamed(("queues", name, "connection"), given, connections, "connections")
            provider = provider_of(given, connections)
            if provider == "aws_sqs":  # what is only sent to would lose its order too
                yield from _order_can_be_had(name, queue, provider)
    for name, pipeline in mapping(data.get("pipelines")).items():
        given = mapping(pipeline).get("queue")
        if given is None:
            continue  # a missing key is found by the model
        yield from _unnamed(("pipelines", name, "queue"), given, queues, "queues")
        if isinstance(given, str):
            queue = mapping(queues.get(given))
            provider = provider_of(queue.get("connection"), connections)
            if provider != "aws_sqs":
                yield from _order_can_be_had(given, queue, provider)
            yield from _order_fits(name, given, queue, provider)


def provider_of(connection: object, connections: Mapping[str, Any]) -> str:
    """The provider of a connection, as written or as a model; "" when nobody knows it."""
    found = connections.get(str(connection))
    given = getattr(found, "provider", None) or mapping(found).get("provider")
    return given if isinstance(given, str) else ""


def _unnamed(
    path: tuple[str, ...], given: object, named: Mapping[str, Any], section: str
) -> Iterator[Problem]:
    known = [str(name) for name in named]
    if isinstance(given, str) and given in known:
        return
    what = "missing: name one of" if given is None else f"{closest(given, known)}must be one of"
    yield Problem(path, f"{what} the {section}: {', '.join(known) or '(none is named)'}", given)


def _keeps_order(
    name: str, queue: Mapping[str, Any], provider: str
) -> tuple[str, Any, bool | None]:
    """Which key says whether a queue keeps sessions, what it says, and whether it does."""
    if provider == "aws_sqs":
        value = queue.get("name") or name
        return "name", value, str(value).endswith(".fifo")
    value = queue.get("sessions")
    return "sessions", value, {"none": False, "native": True, "groups": True}.get(str(value))


def _order_can_be_had(name: str, queue: Mapping[str, Any], provider: str) -> Iterator[Problem]:
    """SPEC P4: asking for order without sessions fails, unless the file says otherwise."""
    key, value, keeps = _keeps_order(name, queue, provider)
    unordered = queue.get("on_unsupported_sessions") == "unordered"
    if queue.get("fifo") is True and keeps is False and not unordered:
        sqs = provider == "aws_sqs"
        allowed = "end in .fifo, as a FIFO queue's does" if sqs else "be native or groups"
        yield Problem(
            ("queues", name, key),
            f"a fifo queue needs sessions: must {allowed}, or set on_unsupported_sessions: "
            "unordered to do without order",
            value,
        )


def _order_fits(
    pipeline: str, name: str, queue: Mapping[str, Any], provider: str
) -> Iterator[Problem]:
    """A queue that keeps sessions can't be read message by message, as `fifo: false` says."""
    fifo = queue.get("fifo", False)
    _, value, keeps = _keeps_order(name, queue, provider)
    if provider == "aws_sqs":
        kept, without = f"{value} is a FIFO queue", "read a standard queue"
    else:
        kept, without = f"sessions: {value} keeps order", "set sessions: none"
    if fifo is False and keeps is True:
        yield Problem(
            ("queues", name, "fifo"),
            f"{kept}, and pipeline {pipeline} reads this: must be true, or {without} to do "
            "without order",
            fifo,
        )
