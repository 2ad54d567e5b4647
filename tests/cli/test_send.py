"""`queue-runtime send` without Ray: the lines of a file, and what is said of a wrong one."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli import cluster
from pipeline.errors import QueueError, QueueFull, ValidationError
from pipeline.message import Message
from pipeline.providers.port import Sent

CONFIG = """
name: shop
connections: {main: {provider: memory}}
queues: {orders: {connection: main}}
"""


class Client:
    """A queue's client, and the run it belongs to; takes `room` messages a call."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.room = 10**9
        self.refuses: bytes | None = None

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *ended: object) -> None: ...

    def client(self) -> Client:
        return self

    async def send_many(self, queue: str, messages: Sequence[Message]) -> list[Sent | QueueError]:
        assert queue == "orders"
        results: list[Sent | QueueError] = []
        for number, message in enumerate(messages):
            if message.body == self.refuses:
                results.append(ValidationError("Message.session", "must be given"))
            elif number >= self.room:
                results.append(QueueFull("no room"))
            else:
                self.sent.append(message)
                results.append(Sent())
        return results


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    """The run that `send` finds."""
    made = Client()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cluster, "attached", lambda config, address: made)
    Path("shop.yaml").write_text(CONFIG)
    return made


def send(command: Any, lines: bytes | None, *more: str) -> Any:
    if lines is not None:
        Path("events.ndjson").write_bytes(lines)
    file = "events.ndjson" if lines is not None else "-"
    return command("send", "shop.yaml", "orders", "--file", file, "--address", "a:1", *more)


def test_each_line_is_a_message_in_the_session_its_field_says(command: Any, client: Client) -> None:
    ended = send(command, b' {"c": "x"}\n\n{"c": 7}\r\n[1]', "--session-key", "c")
    assert (ended.code, ended.out, ended.err) == (0, "sent 3 messages to orders\n", "")
    assert [(one.body, one.session) for one in client.sent] == [
        (b'{"c": "x"}', "x"),
        (b'{"c": 7}', "7"),
        (b"[1]", None),
    ]
    assert {one.content_type for one in client.sent} == {"application/json"}


def test_stdin_is_read_and_pieces_may_end_anywhere(
    command: Any, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = b"".join(b'{"n": %d}\n' % number for number in range(20_000))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(lines))))
    assert send(command, None).code == 0
    assert len(client.sent) == 20_000
    assert client.sent[-1].body == b'{"n": 19999}'
    assert {one.session for one in client.sent} == {None}


@pytest.mark.parametrize("bad", [b"nope", b"{", b'{"a": NaN}', b"\xff"])
def test_a_line_that_is_no_json_ends_it_after_the_lines_before(
    command: Any, client: Client, bad: bytes
) -> None:
    ended = send(command, b"1\n2\n" + bad + b"\n4\n")
    assert (ended.code, ended.out) == (2, "")
    assert "line 3 is no JSON value" in ended.err
    assert "2 messages were sent, and nothing after line 2" in ended.err
    assert [one.body for one in client.sent] == [b"1", b"2"]


def test_the_first_line_can_be_the_wrong_one(command: Any, client: Client) -> None:
    ended = send(command, b"nope\n1\n")
    assert ended.code == 2
    assert "line 1 is no JSON value" in ended.err
    assert client.sent == []


def test_a_refused_message_is_named_and_what_was_sent_is_counted(
    command: Any, client: Client
) -> None:
    client.refuses = b"2"
    ended = send(command, b"1\n2\n3\n")
    assert ended.code == 2
    assert "line 2: Message.session must be given" in ended.err
    assert "(not sent: line 2); 2 messages were sent, and nothing after line 3" in ended.err


def test_a_full_queue_is_waited_for_in_order(command: Any, client: Client) -> None:
    client.room = 2
    assert send(command, b"1\n2\n3\n4\n5\n").code == 0
    assert [one.body for one in client.sent] == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("orders", "--file", "no.ndjson"), "--file no.ndjson: No such file"),
        (("orders", "--file", "."), "--file .: Is a directory"),
        (("order", "--file", "-"), "there is no queue 'order'; there are: orders"),
        (("orders", "--file", "shop.yaml", "--session-key", "a..b"), "field must be a path"),
        (("orders", "--file", "shop.yaml"), "no run of 'shop' is active on this machine"),
    ],
)
def test_what_can_not_be_done_ends_with_2(
    command: Any, client: Client, arguments: tuple[str, ...], says: str
) -> None:
    ended = command("send", "shop.yaml", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert says in ended.err
    assert client.sent == []
