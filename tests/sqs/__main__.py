"""The endpoint in a process of its own: `python -m tests.sqs --port 0 --queue NAME.fifo`.

It writes one line when it is ready, which ends with its URL, and ends at SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from tests.sqs.canned import Canned
from tests.sqs.endpoint import Endpoint


def main() -> None:
    """Serve until told to end."""
    asyncio.run(serve(_arguments()))


async def serve(options: argparse.Namespace) -> None:
    """Serve with these options until a signal comes."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    canned = None
    if options.canned is not None:
        canned = Canned(options.canned, options.groups, dict(options.attribute))
    async with Endpoint(port=options.port, canned=canned) as endpoint:
        for name in options.queue:
            endpoint.create(name)
        sys.stdout.write(f"ready at {endpoint.url}\n")
        sys.stdout.flush()
        await ended.wait()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.sqs")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--queue", action="append", default=[], help="made at the start")
    parser.add_argument(
        "--canned", type=int, metavar="BYTES", help="prepared replies, of this body"
    )
    parser.add_argument(
        "--groups", type=int, default=0, help="of the prepared messages, as of FIFO"
    )
    parser.add_argument(
        "--attribute",
        action="append",
        default=[],
        type=lambda text: tuple(text.split("=", 1)),
        metavar="NAME=VALUE",
        help="of the prepared messages",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
