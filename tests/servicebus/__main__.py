"""The server by itself, for any client: `python -m tests.servicebus --port 5672 --queue orders`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.servicebus.bus import KEY, KEY_NAME, ServiceBus
from tests.servicebus.wires import HOST

_SECONDS: Final = {"lock": "lock_seconds", "ttl": "ttl", "duplicates": "duplicate_window"}
_NUMBERS: Final = {"deliveries": "max_delivery_count", "size": "max_message_bytes"}
_FLAGS: Final = {"session": "sessions", "expired": "dead_letter_on_expiry"}
_LAST_PORT: Final = 65_535
_WORDS: Final = (
    "session, lock=SECONDS, deliveries=N, ttl=SECONDS, expired (to the dead letters), "
    "duplicates=SECONDS, size=BYTES"
)


def settings_of(text: str) -> tuple[str, dict[str, Any]]:
    """A name and settings: `orders,session,lock=30`.

    Raises:
        ValueError: a word is none of ours, or its value is no number.
    """
    name, *words = text.split(",")
    settings: dict[str, Any] = {}
    for word in words:
        key, _, value = word.partition("=")
        if key in _FLAGS and not value:
            settings[_FLAGS[key]] = True
        elif key in _SECONDS:
            settings[_SECONDS[key]] = _number(float, key, value)
        elif key in _NUMBERS:
            settings[_NUMBERS[key]] = _number(int, key, value)
        else:
            raise ValueError(f"{word!r} is none of: {_WORDS}")
    return name, settings


def _number(kind: Callable[[str], Any], key: str, value: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ValueError(f"{key}={value!r}: a number is wanted, as {key}=30") from None


class _Parser(argparse.ArgumentParser):
    """Leaves it to `main` to say what is wrong, in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _port(text: str) -> int:
    if not (text.isdecimal() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is no port: 0 to {_LAST_PORT}")
    return int(text)


def arguments(given: list[str]) -> argparse.Namespace:
    """The command line.

    Raises:
        ValueError: it can't be taken.
    """
    parser = _Parser(
        prog="python -m tests.servicebus",
        description="A Service Bus namespace on 127.0.0.1, for tests.",
        epilog=f"Words after a name, separated by commas: {_WORDS}.",
    )
    add = parser.add_argument
    add("--port", type=_port, default=0, help="for AMQP over TCP; 0 is a free one (default)")
    add("--queue", action="append", default=[], metavar="NAME[,WORD...]", help="may be repeated")
    add(
        "--topic",
        action="append",
        default=[],
        metavar="NAME[,WORD...][:SUBSCRIPTION...]",
        help="may be repeated",
    )
    add("--key", default=f"{KEY_NAME}={KEY}", metavar="NAME=KEY", help="the shared access key")
    add("--tls-port", type=_port, help="for AMQP over TLS; needs --certificate")
    add("--websocket-port", type=_port, help="for WebSockets; over TLS with --certificate")
    add("--certificate", type=Path, metavar="PEM", help="certificate and key in one file")
    add("--strict", action="store_true", help="tell at the end which rules of AMQP were broken")
    return parser.parse_args(given)


@contextlib.contextmanager
def _named(option: str) -> Iterator[None]:
    """Says which option an error is of."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def namespace(options: argparse.Namespace) -> ServiceBus:
    """The entities that were asked for.

    Raises:
        ValueError: an option can't be taken.
    """
    name, _, key = options.key.partition("=")
    if not (name and key):
        raise ValueError(f"--key {options.key!r}: it is NAME=KEY")
    with _named("--key"):
        bus = ServiceBus(strict=options.strict, keys={name: key})
    for text in options.queue:
        with _named(f"--queue {text}"):
            queue, settings = settings_of(text)
            bus.queue(queue, **settings)
    for text in options.topic:
        with _named(f"--topic {text}"):
            head, *subscriptions = text.split(":")
            if not all(subscriptions):
                raise ValueError("a subscription has no name")
            if "," in "".join(subscriptions):
                raise ValueError("words belong to the topic: put them before the first colon")
            topic, settings = settings_of(head)
            bus.topic(topic, subscriptions, **settings)
    return bus


def encryption(options: argparse.Namespace) -> ssl.SSLContext | None:
    """The certificate that was given.

    Raises:
        ValueError: it can't be read, or is lacking.
    """
    if options.certificate is None:
        if options.tls_port is not None:
            raise ValueError("--tls-port needs --certificate PEM, with certificate and key")
        return None
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(options.certificate)
    except OSError as error:
        raise ValueError(f"--certificate {options.certificate}: {error}") from error
    return tls


async def listen(bus: ServiceBus, options: argparse.Namespace, tls: ssl.SSLContext | None) -> str:
    """Listen wherever it was asked for; returns the line that says so.

    It ends with the connection string, behind the line's first ": ".

    Raises:
        OSError: a port is taken.
    """
    await bus.listen(options.port)
    others = ""
    if options.tls_port is not None:
        others += f" tls={await bus.listen(options.tls_port, tls)}"
    if options.websocket_port is not None:
        others += f" websocket={await bus.listen_websocket(options.websocket_port, tls)}"
    where = f" on {HOST}{others}" if others else ""
    return f"ready{where}: {bus.connection_string}"


async def serve(bus: ServiceBus, options: argparse.Namespace, tls: ssl.SSLContext | None) -> None:
    """Serve until SIGINT or SIGTERM, then say which rules were broken.

    Raises:
        OSError: a port is taken.
    """
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, over.set)
    try:
        sys.stdout.write(f"{await listen(bus, options, tls)}\n")
        sys.stdout.flush()
        await over.wait()
    finally:
        await bus.close()
    for violation in bus.violations:
        sys.stdout.write(f"{violation}\n")


def main() -> int:
    """Run the command; 2 is a wrong use of it."""
    try:
        options = arguments(sys.argv[1:])
        asyncio.run(serve(namespace(options), options, encryption(options)))
    except (ValueError, OSError) as error:
        sys.stderr.write(f"tests.servicebus: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
