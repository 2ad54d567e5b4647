"""Sealed messages on a real Ray: who opens them, where the keys are, and what nobody sees."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.handler import Checks
from actors.runtime import Runtime
from pipeline import EncryptionKeyId, Message, MessageTooLarge, QueueClient, ValidationError
from pipeline.config import parse
from pipeline.crypto.envelope import LARGEST_OVERHEAD, EncryptedMessage, is_sealed
from tests.cluster.work import messages

ROOT = str(Path(__file__).parents[2])
BIN = Path(sys.executable).parent
KEYS = {name: os.urandom(32) for name in "ab"}
"""Others in each process that imports this: an actor that is asked does."""


def key_file(directory: Path, *names: str) -> Path:
    path = directory / "keys.json"
    keys = {name: base64.b64encode(KEYS[name]).decode() for name in names}
    path.write_text(json.dumps({"current": names[0], "keys": keys}))
    return path


def config(name: str, keys: Path, handler: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "connections": {"main": {"provider": "memory"}},
        "queues": {
            "first": {"connection": "main", "fifo": True},
            "second": {"connection": "main", "fifo": True},
        },
        "pipelines": {
            "one": {
                "queue": "first",
                "handler": f"tests.cluster.work:{handler}",
                "receivers": 2,
                "routers": 2,
                "handlers": 2,
            }
        },
        "crypto": {
            "enabled": True,
            "keys": {"provider": "file", "path": str(keys)},
            "ttl": 0.5,
            "plaintext": "reject",
        }
        | more,
    }


def has(turned: list[bytes]) -> bool:
    """In an actor: whether its process has one of these keys, each given with its bytes turned."""
    wanted = [bytes(octet ^ 0x5A for octet in one) for one in turned]
    places = [(id(one), id(one) + 80) for one in wanted]
    with Path("/proc/self/mem").open("rb", buffering=0) as memory:
        for line in Path("/proc/self/maps").read_text().splitlines():
            spot = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw", line)
            if spot is None:
                continue
            begin, end = int(spot[1], 16), int(spot[2], 16)
            for start in range(begin, end, 1 << 20):
                memory.seek(start)
                try:
                    chunk = memory.read(min((1 << 20) + 31, end - start))
                except OSError:  # nothing is there any more
                    continue
                for one in wanted:
                    at = chunk.find(one)
                    while at >= 0:
                        if not any(low <= start + at < high for low, high in places):
                            return True
                        at = chunk.find(one, at + 1)
    return False


async def holders(runtime: Runtime) -> set[str]:
    """The kinds of actors in whose processes the keys are."""
    turned = [bytes(octet ^ 0x5A for octet in key) for key in KEYS.values()]
    kinds: dict[str, list[Any]] = {
        "broker": [broker._actor for broker in runtime._brokers.values()],
        **runtime._actors["one"].actors,
    }
    if runtime._shared is not None:
        kinds["connection"] = [place.actor for place in runtime._shared.connections.values()]
        kinds["crypto"] = [place.actor for place in runtime._shared.pool]
    found = set()
    for kind, actors in kinds.items():
        for actor in actors:
            call = actor.__ray_call__.remote(lambda _, given: has(given), turned)
            if await call:
                found.add(kind)
    return found


@pytest.mark.spec("C1", "C5", "C7", "F1", "F3", "H3")
@pytest.mark.parametrize(
    ("actors", "keepers"), [(0, {"receiver", "handlers"}), (2, {"crypto"})], ids=["own", "pool"]
)
async def test_keys_are_where_bodies_are_sealed_and_opened(
    ray_cluster: None, tmp_path: Path, actors: int, keepers: set[str]
) -> None:
    """Order, what handlers send, and a rotation on the way; and no other process has a key."""
    keys = key_file(tmp_path, "a")
    given = config(f"sealed-{actors}", keys, "forward", actors=actors)
    plain = parse(given | {"crypto": {}})
    async with Runtime(parse(given), path=[ROOT]) as one:
        await one.client.send_many("first", messages(20, 20))
        await one.until_empty()
        assert await holders(one) == keepers
        key_file(tmp_path, "b", "a")
        await asyncio.sleep(1.5)
        await one.client.send_many("first", messages(20, 20))
        await one.until_empty()
        brokers: Any = one._brokers
        async with QueueClient(plain, brokers=brokers) as outside:
            assert all(is_sealed(row.body) for row in await outside.peek("second", 1_000))
        came: dict[str, list[int]] = {}
        while rows := await one.client.receive("second", 100, wait=0):
            for row in rows:
                came.setdefault(str(row.session), []).append(int(row.body))
            await one.client.complete(rows)
        counts = (await one.refresh()).pipelines["one"].receivers
        pool = one.look.shared.counts
    assert came == {f"s{number}": [*range(20), *range(20)] for number in range(20)}
    assert (counts["sealed"], counts["plain"], counts["refused"]) == (800, 0, 0)
    if actors:
        assert pool["opened"] == pool["sealed"] == 800
        assert pool["batches"] < 800


@pytest.mark.spec("C5", "F7")
async def test_a_pool_waits_for_a_key_and_others_go_on(ray_cluster: None, tmp_path: Path) -> None:
    """What was sealed with a key that is not distributed yet is held; no attempt is counted."""
    keys = key_file(tmp_path, "a")
    given = config("sealed-late", keys, "in_order", actors=1)
    other = tmp_path / "elsewhere"
    other.mkdir()
    sender = parse(config("sender", key_file(other, "b", "a"), "in_order"))
    async with Runtime(parse(given), path=[ROOT]) as one:
        brokers: Any = one._brokers
        async with QueueClient(sender, brokers=brokers) as elsewhere:
            await elsewhere.send("first", Message(b"0", session="late"))
        await one.client.send("first", Message(b"0", session="early"))
        await asyncio.sleep(3.0)
        assert "early" in (await one.states())["one"]
        assert "late" not in (await one.states())["one"]
        key_file(tmp_path, "a", "b")
        await one.until_empty()
        assert (await one.states())["one"]["late"].count == 1
        totals = await one.totals()
    assert (totals.received, totals.redelivered, totals.dead_lettered) == (2, 0, 0)


@pytest.mark.spec("C3", "H3")
@pytest.mark.parametrize("enabled", [True, False])
def test_a_handler_can_not_send_what_could_not_be_sealed(tmp_path: Path, enabled: bool) -> None:
    """It is told at once: what can't be sent later would hold up its session for ever."""
    given = config("checks", key_file(tmp_path, "a"), "forward", enabled=enabled)
    given["queues"]["first"]["max_message_size"] = 1_000
    check = Checks(parse(given)).check
    with pytest.raises(ValidationError, match="must not begin with QRE1"):
        check("first", Message(b"QRE1 and so on", session="s"))
    envelope = EncryptedMessage(EncryptionKeyId("a"), bytes(24), b"", bytes(16), 0).encode()
    if enabled:
        with pytest.raises(ValidationError, match="must not begin with QRE1"):
            check("first", Message(envelope, session="s"))
    else:
        check("first", Message(envelope, session="s"))
    room = 1_000 - (LARGEST_OVERHEAD if enabled else 0)
    check("first", Message(bytes(room), session="s"))
    with pytest.raises(MessageTooLarge) as caught:
        check("first", Message(bytes(room + 1), session="s"))
    assert caught.value.size == 1_001


HANDLER = """
from pydantic import BaseModel
from pipeline import Context, Message, QueueError, Reject, handler


class Order(BaseModel):
    what: str
    how: str


@handler
def on_order(order: Order, context: Context) -> None:
    if order.how == "raises":
        raise ValueError(f"can't handle {order.what}")
    if order.how == "rejects":
        raise Reject(f"don't want {order.what}")


class Feed:
    async def feed(self, client):
        what = "planted-plaintext-4711"
        for how in ("handled", "raises", "rejects"):
            body = Order(what=what, how=how).model_dump_json().encode()
            await client.send("orders", Message(body, session="s"))
        await client.send("orders", Message(f'{{"what": "{what}"}}'.encode(), session="t"))
        sealed = client._core.bodies
        client._core.bodies = type(sealed)(None, sealed._queues)
        await client.send("orders", Message(what.encode(), session="u"))
        client._core.bodies = sealed
        [made] = await sealed.seal("orders", [Message(what.encode(), id="m1", session="v")])
        client._core.bodies = type(sealed)(None, sealed._queues)
        await client.send("orders", Message(made.body, id="m2", session="v"))
        client._core.bodies = sealed
"""

CONFIG = """
name: scanned
connections: {{main: {{provider: memory}}}}
queues: {{orders: {{connection: main, fifo: true}}}}
pipelines:
  orders:
    queue: orders
    handler: "beside:on_order"
    retry: {{max_attempts: 2, initial: 0.01}}
job: beside:Feed
state: {{store: memory}}
log: {{level: trace, format: json}}
crypto:
  enabled: true
  actors: {actors}
  plaintext: reject
  keys: {{provider: file, path: {keys}}}
"""


@pytest.mark.spec("C4", "C7", "C9", "O3", "R3")
@pytest.mark.parametrize("actors", [0, 1])
def test_neither_keys_nor_bodies_are_in_logs_and_errors(tmp_path: Path, actors: int) -> None:
    """Of messages that work, fail, are rejected, don't fit, are plain, and are forged."""
    (tmp_path / "beside.py").write_text(HANDLER)
    keys = key_file(tmp_path, "a")
    (tmp_path / "config.yaml").write_text(CONFIG.format(keys=keys, actors=actors))
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_DEDUP_LOGS": "0"}
    command = [str(BIN / "queue-runtime"), "run", "config.yaml", "--until-empty", "--json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=150,
        check=False,
    )
    said = done.stdout
    assert b'"dead_lettered": 5' in said, said[-3000:].decode()
    assert b"authentication_failed" in said or b"dead_letter" in said
    secrets = [b"planted-plaintext-4711", KEYS["a"], KEYS["a"].hex().encode()]
    secrets.append(base64.b64encode(KEYS["a"]))
    assert [secret for secret in secrets if secret in said] == []
    # The control: the search finds what is there.
    assert [one for one in secrets if one in said + keys.read_bytes()] == secrets[3:]
