"""`python -m tests.servicebus`: the server as a process of its own, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from azure.core.credentials import AzureNamedKeyCredential
from azure.servicebus import ServiceBusMessage, ServiceBusSubQueue, TransportType
from azure.servicebus.aio import ServiceBusClient

from tests.ports import free_port
from tests.servicebus.__main__ import arguments as arguments_of
from tests.servicebus.__main__ import listen, main, namespace, settings_of
from tests.servicebus.amqp.frames import AMQP_HEADER
from tests.servicebus.bus import KEY, KEY_NAME
from tests.servicebus.certificates import Certificates, make
from tests.servicebus.sdk import closing, received, texts

pytestmark = pytest.mark.spec("T2")

ROOT: Final = Path(__file__).parents[2]
READY: Final = re.compile(
    r"ready(?: on 127\.0\.0\.1((?: (?:tls|websocket)=\d+)+))?: "
    r"(Endpoint=sb://127\.0\.0\.1:(\d+);SharedAccessKeyName=[^;]+;SharedAccessKey=[^;]+;"
    r"UseDevelopmentEmulator=true)\n"
)


@dataclass
class Server:
    """A server that is ready."""

    process: Process
    connection_string: str
    port: int
    others: dict[str, int] = field(default_factory=dict)  # ports: tls, websocket

    async def ended(self, how: signal.Signals = signal.SIGTERM) -> str:
        """End it; returns what it said since it was ready."""
        self.process.send_signal(how)
        async with asyncio.timeout(20):
            out, _ = await self.process.communicate()
        assert self.process.returncode == 0
        return out.decode()


@contextlib.asynccontextmanager
async def serving(*arguments: str | Path) -> AsyncIterator[Server]:
    """Start it, and wait for its line."""
    command = (sys.executable, "-m", "tests.servicebus", *map(str, arguments))
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=ROOT)
    try:
        assert process.stdout is not None
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        ready = READY.fullmatch(line)
        assert ready, line
        ports = (word.split("=") for word in (ready[1] or "").split())
        others = {name: int(port) for name, port in ports}
        yield Server(process, ready[2], int(ready[3]), others)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def over(transport: TransportType, port: int, certificates: Certificates) -> ServiceBusClient:
    """A client that uses TLS, as if the namespace were a real one."""
    return ServiceBusClient(
        "a-name.servicebus.windows.net",
        AzureNamedKeyCredential(KEY_NAME, KEY),
        custom_endpoint_address=f"sb://127.0.0.1:{port}",
        connection_verify=str(certificates.ca),
        transport_type=transport,
        retry_total=0,
    )


async def exercised(client: ServiceBusClient, queue: str = "orders") -> None:
    async with closing(client):
        await client.get_queue_sender(queue).send_messages(ServiceBusMessage("hello"))
        receiver = client.get_queue_receiver(queue)
        (message,) = await received(receiver, 1)
        await receiver.complete_message(message)
        assert str(message) == "hello"


async def test_the_line_it_prints_is_all_a_client_needs() -> None:
    """Queues, sessions, topics and settings as asked for; SIGTERM ends it silently."""
    arguments = (
        *("--queue", "orders,deliveries=1", "--queue", "carts,session,lock=30"),
        *("--topic", "events:audit:billing"),
    )
    async with serving(*arguments) as server:
        client = ServiceBusClient.from_connection_string(server.connection_string, retry_total=0)
        async with closing(client):
            await client.get_queue_sender("orders").send_messages(ServiceBusMessage("once"))
            orders = client.get_queue_receiver("orders")
            (message,) = await received(orders, 1)
            await orders.abandon_message(message)
            dead = ServiceBusSubQueue.DEAD_LETTER
            (letter,) = await received(client.get_queue_receiver("orders", sub_queue=dead), 1)
            assert letter.dead_letter_reason == "MaxDeliveryCountExceeded"

            await client.get_queue_sender("carts").send_messages(
                ServiceBusMessage("in session", session_id="a")
            )
            cart = client.get_queue_receiver("carts", session_id="a")
            assert texts(await received(cart, 1)) == ["in session"]

            await client.get_topic_sender("events").send_messages(ServiceBusMessage("to both"))
            for name in ("audit", "billing"):
                subscription = client.get_subscription_receiver("events", name)
                assert texts(await received(subscription, 1)) == ["to both"]
        assert await server.ended() == ""


async def test_the_port_and_the_key_can_be_given() -> None:
    """They are in the connection string; SIGINT ends it as SIGTERM does."""
    port = free_port()
    async with serving(
        "--port", str(port), "--key", "mine=a=secret", "--queue", "orders"
    ) as server:
        assert server.port == port
        assert "SharedAccessKeyName=mine;SharedAccessKey=a=secret;" in server.connection_string
        client = ServiceBusClient.from_connection_string(server.connection_string, retry_total=0)
        await exercised(client)
        assert await server.ended(signal.SIGINT) == ""


async def test_tls_and_websockets_have_ports_of_their_own(tmp_path: Path) -> None:
    """With a certificate both are encrypted, and the SDK checks it."""
    certificates = make(tmp_path)
    arguments = (
        *("--tls-port", "0", "--websocket-port", "0", "--certificate", certificates.server),
        *("--queue", "orders"),
    )
    async with serving(*arguments) as server:
        assert set(server.others) == {"tls", "websocket"}
        tls = over(TransportType.Amqp, server.others["tls"], certificates)
        websocket = over(TransportType.AmqpOverWebsocket, server.others["websocket"], certificates)
        await asyncio.gather(exercised(tls), exercised(websocket))
        assert await server.ended() == ""


# The SDK's way to say "without TLS" to aiohttp.
@pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")
async def test_websockets_without_a_certificate_are_plain() -> None:
    """No certificate is needed for them."""
    async with serving("--websocket-port", "0", "--queue", "orders") as server:
        port = server.others["websocket"]
        client = ServiceBusClient(
            f"127.0.0.1:{port}",
            AzureNamedKeyCredential(KEY_NAME, KEY),
            custom_endpoint_address=f"sb://127.0.0.1:{port}",
            transport_type=TransportType.AmqpOverWebsocket,
            use_tls=False,
            retry_total=0,
        )
        await exercised(client)


@pytest.mark.parametrize("strict", [True, False])
async def test_strict_tells_at_the_end_what_was_broken(strict: bool) -> None:
    """A client that begins with AMQP's header breaks the first rule; lenient, nobody is told."""
    async with serving(*(["--strict"] if strict else [])) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(AMQP_HEADER)
        assert (await reader.read())[:4] == b"AMQP"  # to the end: the server's header, and no more
        writer.close()
        await writer.wait_closed()
        said = await server.ended()
    if strict:
        assert said.startswith("rule 1 (2.2): a connection begins with the header of SASL")
        assert said.count("\n") == 1
    else:
        assert said == ""


async def test_strict_tells_everything_that_was_broken() -> None:
    """A line for each time, with the connection that did it."""
    async with serving("--strict") as server:
        for _ in range(3):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(AMQP_HEADER)
            await reader.read()
            writer.close()
            await writer.wait_closed()
        said = await server.ended()
    numbers = re.findall(r"^rule 1 \(2\.2\): .*; connection (\d): .*$", said, re.MULTILINE)
    assert numbers == ["1", "2", "3"]
    assert said.count("\n") == 3


async def test_the_connection_string_is_always_last() -> None:
    """Whoever takes everything behind the first `: ` has it, with further ports and without."""
    for more in ([], ["--websocket-port", "0"]):
        bus = namespace(options := arguments_of(more))
        try:
            line = await listen(bus, options, None)
            assert line.partition(": ")[2] == bus.connection_string
            assert line.startswith("ready on 127.0.0.1 websocket=" if more else "ready: Endpoint=")
        finally:
            await bus.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("--queue orders,lock=long", "--queue orders,lock=long: lock='long': a number is wanted"),
        ("--queue orders,lock=0", "--queue orders,lock=0: lock_seconds is 0.0: it must be more"),
        ("--queue orders,fast", "--queue orders,fast: 'fast' is none of: session, lock=SECONDS"),
        ("--queue orders,session=1", "'session=1' is none of:"),
        ("--queue a --queue A", "--queue A: there is a queue or a topic named 'A'"),
        ("--queue $cbs", "'$cbs' can't be the name"),
        ("--queue", "argument --queue: expected one argument"),
        ("--topic events:", "--topic events:: a subscription has no name"),
        ("--topic events:a:A", "--topic events:a:A: events has a subscription 'A'"),
        (
            "--topic events:audit,session:billing",
            "--topic events:audit,session:billing: words belong to the topic: put them before",
        ),
        ("--queue q,lock=inf", "--queue q,lock=inf: lock_seconds is inf: it must be more than 0"),
        ("--queue q,ttl=nan", "--queue q,ttl=nan: ttl is nan: it must be more than 0"),
        ("--queue q/$management", "'q/$management' can't be the name of a queue or a topic"),
        ("--topic events:a/b", "--topic events:a/b: 'a/b' can't be the name of a subscription"),
        ("--key a=b;c", "--key: keys: 'a': neither name nor key is empty or has a semicolon"),
        ("--key secret", "--key 'secret': it is NAME=KEY"),
        ("--port 70000", "argument --port: '70000' is no port: 0 to 65535"),
        ("--port -1", "argument --port: '-1' is no port"),
        ("--tls-port 0", "--tls-port needs --certificate PEM"),
        ("--certificate missing.pem", "--certificate missing.pem: [Errno 2]"),
        ("--colour", "unrecognized arguments: --colour"),
    ],
)
def test_a_wrong_use_is_told_in_one_line(
    arguments: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The code is 2, nothing is served, and the line names what was wrong and what is right."""
    monkeypatch.setattr(sys, "argv", ["tests.servicebus", *arguments.split()])
    assert main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tests.servicebus: ")
    assert said in err
    assert err.count("\n") == 1


async def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    """By the process itself, which ends with 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = (sys.executable, "-m", "tests.servicebus", "--port", str(port))
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE, cwd=ROOT)
        async with asyncio.timeout(30):
            out, err = await process.communicate()
    assert (process.returncode, out) == (2, b"")
    assert b"address already in use" in err
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("text", "name", "settings"),
    [
        ("orders", "orders", {}),
        ("orders,session,lock=2.5", "orders", {"sessions": True, "lock_seconds": 2.5}),
        (
            "a/b,ttl=9,expired,duplicates=60,deliveries=3,size=1000",
            "a/b",
            {
                "ttl": 9.0,
                "dead_letter_on_expiry": True,
                "duplicate_window": 60.0,
                "max_delivery_count": 3,
                "max_message_bytes": 1000,
            },
        ),
    ],
)
def test_every_word_is_a_setting(text: str, name: str, settings: dict[str, Any]) -> None:
    """A name, and words after it."""
    assert settings_of(text) == (name, settings)
