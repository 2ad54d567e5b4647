"""`queue-runtime send FILE QUEUE --file EVENTS`: send lines of JSON to a queue."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.cluster import add_address, attach
from pipeline.cli.common import DONE, FAILED, MISUSED, add_config, complain, say
from pipeline.config import RuntimeConfig, load
from pipeline.errors import ConfigurationError, QueueError, ValidationError
from pipeline.message import Message
from pipeline.session_keys import Field, NoSession

if TYPE_CHECKING:
    from pipeline.cli.common import Subparsers
    from pipeline.client import QueueClient

_CHUNK = 1_000


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "send",
        help="send lines of JSON to a queue",
        description="Send each line of a file, one JSON value, as a message. A memory queue lives "
        "in a running job (`queue-runtime run`), which has to be there.",
    )
    add_config(parser)
    parser.add_argument("queue", metavar="QUEUE", help="a queue of the configuration")
    parser.add_argument(
        "--file",
        required=True,
        metavar="EVENTS",
        help="the file, one JSON value a line; - reads stdin",
    )
    parser.add_argument(
        "--session-key",
        metavar="FIELD",
        help="the field whose value is the session, as `tail` or `order.customer`",
    )
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    if arguments.queue not in config.queues:
        known = ", ".join(sorted(config.queues)) or "none"
        raise ConfigurationError(
            f"{arguments.config}: no queue {arguments.queue!r}; there are: {known}"
        )
    if arguments.file != "-" and not Path(arguments.file).is_file():
        raise ConfigurationError(f"--file: {arguments.file} is no file that can be read")
    return asyncio.run(_send(config, arguments))


async def _send(config: RuntimeConfig, arguments: argparse.Namespace) -> int:
    sent = 0
    async with attach(config, arguments.address) as attached, attached.client() as client:
        try:
            for chunk in _chunks(arguments.file, arguments.session_key):
                sent += await _send_chunk(client, arguments.queue, chunk)
        except QueueError as error:
            complain(f"error: {error}")
            complain(f"{sent:,} messages were sent before it, none after")
            return MISUSED if isinstance(error, ValidationError) else FAILED
    say(f"sent {sent:,} messages to {arguments.queue}")
    return DONE


async def _send_chunk(client: QueueClient, queue: str, chunk: list[Message]) -> int:
    for result in await client.send_many(queue, chunk):
        if isinstance(result, QueueError):
            raise result
    return len(chunk)


def _chunks(file: str, field: str | None) -> Iterator[list[Message]]:
    strategy = NoSession() if field is None else Field(field)
    chunk: list[Message] = []
    for number, line in _lines(file):
        try:
            json.loads(line)
        except ValueError as error:
            if chunk:
                yield chunk
            raise ValidationError(
                f"{file}, line {number}", f"must be JSON ({error})", line
            ) from error
        chunk.append(strategy(Message(line.encode(), content_type="application/json")))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _lines(file: str) -> Iterator[tuple[int, str]]:
    if file == "-":
        yield from _numbered(sys.stdin)
        return
    with Path(file).open(encoding="utf-8") as lines:
        yield from _numbered(lines)


def _numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield number, line.strip()
