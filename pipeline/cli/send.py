"""`queue-runtime send FILE QUEUE --file events.ndjson`: each line of a file becomes a message."""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from pipeline.cli import addresses, cluster
from pipeline.cli.common import DONE, MISUSED, add_config, complain, exit_code, say
from pipeline.cli.status import add_address
from pipeline.client import QueueClient
from pipeline.config import load
from pipeline.errors import ConfigurationError, QueueError, QueueFull
from pipeline.message import Message
from pipeline.session_keys import Field, NoSession, SessionKey

if TYPE_CHECKING:
    from actors.attach import Attached
    from pipeline.cli.common import Subparsers

_PIECE: Final = 65_536
_PAUSE: Final = 0.1


def add(subparsers: Subparsers) -> None:
    """Declare the command."""
    parser = subparsers.add_parser(
        "send",
        help="send each line of a file to a queue",
        description="Send each line of a file, a JSON value, as a message. A queue in memory lives "
        "in a running job, which is found on this machine or at --address.",
    )
    add_config(parser)
    parser.add_argument("queue", metavar="QUEUE", help="a queue of the configuration")
    parser.add_argument(
        "--file", required=True, metavar="NDJSON", help="the file, a JSON value a line; - is stdin"
    )
    parser.add_argument(
        "--session-key",
        metavar="FIELD",
        help="the field whose value is the message's session, such as order.id",
    )
    add_address(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; what is wrong is raised."""
    config = load(arguments.config)
    if arguments.queue not in config.queues:
        known = ", ".join(sorted(config.queues))
        raise ConfigurationError(
            f"{arguments.config}: there is no queue {arguments.queue!r}; there are: {known}"
        )
    key = NoSession() if arguments.session_key is None else Field(arguments.session_key)
    with _opened(arguments.file) as stream:
        if all(one.provider != "memory" for one in config.connections.values()):
            return asyncio.run(_send(QueueClient(config), arguments.queue, stream, key))
        where = addresses.find(config.name, arguments.address)
        run_there = cluster.attached(config, where)
        return asyncio.run(_send_there(run_there, arguments.queue, stream, key))


async def _send_there(run_there: Attached, queue: str, stream: BinaryIO, key: SessionKey) -> int:
    async with run_there:
        return await _send(run_there.client(), queue, stream, key)


def _opened(file: str) -> AbstractContextManager[BinaryIO]:
    if file == "-":
        return nullcontext(sys.stdin.buffer)
    try:
        return Path(file).open("rb")
    except OSError as error:
        raise ConfigurationError(f"--file {file}: {error.strerror or error}") from error


async def _send(client: QueueClient, queue: str, stream: BinaryIO, key: SessionKey) -> int:
    # Waiting for a line blocks the loop; nothing else is to be done, and an interrupt ends it.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)
    sent = 0
    async with client:
        try:
            for lines in _pieces(stream, key):
                sent += await _send_piece(client, queue, lines)
        except _Unsent as error:
            sent += error.sent
            complain(f"error: {error}; {sent:,} messages were sent, and nothing after {error.last}")
            return error.code
    say(f"sent {sent:,} messages to {queue}")
    return DONE


class _Unsent(Exception):
    """Sending ends here.

    Args:
        told: what was wrong, and on which line.
        code: the exit code it means.
        last: the last line that may have been sent, in words.
        sent: messages of the piece that were sent all the same.
    """

    def __init__(self, told: str, code: int, last: str, sent: int = 0) -> None:
        super().__init__(told)
        self.code = code
        self.last = last
        self.sent = sent


async def _send_piece(client: QueueClient, queue: str, lines: dict[int, Message]) -> int:
    """Send all, in order; a full queue is waited for."""
    waiting = dict(lines)
    while waiting:
        results = await client.send_many(queue, list(waiting.values()))
        failed = {
            number: result
            for number, result in zip(waiting, results, strict=True)
            if isinstance(result, QueueError)
        }
        for number, error in failed.items():
            if not isinstance(error, QueueFull):
                numbers = ", ".join(map(str, failed))
                raise _Unsent(
                    f"line {number}: {error} (not sent: line {numbers})",
                    exit_code(error),
                    f"line {max(lines)}",
                    len(lines) - len(failed),
                )
        waiting = {number: waiting[number] for number in failed}
        if waiting:
            asked = [error.retry_after or 0.0 for error in failed.values()]
            await asyncio.sleep(max(_PAUSE, *asked))
    return len(lines)


def _pieces(stream: BinaryIO, key: SessionKey) -> Iterator[dict[int, Message]]:
    """The messages by line, as many at a time as there are to be had without waiting.

    Raises:
        _Unsent: after the messages before it: a line is wrong.
    """
    piece: dict[int, Message] = {}
    for lines in _lines(stream):
        for number, line in lines:
            try:
                piece[number] = _message(line, key)
            except ValueError as error:
                if piece:
                    yield piece
                told = f"line {number} is no JSON value that can be sent: {error}"
                raise _Unsent(told, MISUSED, f"line {number - 1}") from error
        if piece:
            yield piece
            piece = {}


def _lines(stream: BinaryIO) -> Iterator[list[tuple[int, bytes]]]:
    """The lines that are not empty with their numbers from 1, in pieces as they come."""
    rest, number = b"", 0
    while True:
        read = stream.read1(_PIECE)  # type: ignore[attr-defined] # every buffered reader has it
        *whole, rest = (rest + read).split(b"\n")
        if not read:
            whole, rest = [*whole, rest], b""
        yield [(number + at, line) for at, line in enumerate(whole, 1) if line.strip()]
        number += len(whole)
        if not read:
            return


def _message(line: bytes, key: SessionKey) -> Message:
    json.loads(line, parse_constant=_refuse)
    return key(Message(line.strip(), content_type="application/json"))


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")
