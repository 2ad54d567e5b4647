"""Processes: the counterparts start and end, our endpoint too; TLS; prepared replies."""

from __future__ import annotations

from pathlib import Path

import pytest
from botocore.exceptions import SSLError

from tests.servicebus import certificates
from tests.sqs import servers
from tests.sqs.canned import Canned
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import At, bodies, client


@pytest.mark.parametrize("server", [servers.moto, servers.ministack])
async def test_a_counterpart_serves_sqs(server: type) -> None:
    with server() as url:
        async with client(url) as sqs:
            made = await sqs.create_queue(QueueName="q.fifo", Attributes={"FifoQueue": "true"})
            queue = At(sqs, made["QueueUrl"])
            await queue.send("a", group="g")
            assert bodies(await queue.receive()) == ["a"]


async def test_our_endpoint_in_a_process_of_its_own() -> None:
    with servers.own("one", "two.fifo") as url:
        async with client(url) as sqs:
            assert len((await sqs.list_queues())["QueueUrls"]) == 2


def test_a_server_that_does_not_start_says_why() -> None:
    wrong = servers.own("not a name")
    with pytest.raises(servers.ServerError, match="Can only include alphanumeric"):
        wrong.__enter__()


def test_a_server_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(servers, "_SERVERS", tmp_path)
    with pytest.raises(servers.ServerError, match="`make` installs it"):
        servers.moto().__enter__()


async def test_tls_with_a_private_ca(tmp_path: Path) -> None:
    """Who knows the CA gets through, others don't."""
    made = certificates.make(tmp_path)
    async with Endpoint(tls=made.context()) as endpoint:
        endpoint.create("q")
        async with client(endpoint.url, verify=str(made.ca)) as sqs:
            assert (await sqs.get_queue_url(QueueName="q"))["QueueUrl"].startswith("https://")
        async with client(endpoint.url) as sqs:
            with pytest.raises(SSLError):
                await sqs.get_queue_url(QueueName="q")


@pytest.mark.parametrize("groups", [0, 4])
async def test_prepared_replies(groups: int) -> None:
    """They are what the client expects, with new ids each time; the rest is served as usual."""
    canned = Canned(100, groups, {"own": "100%"})
    async with Endpoint(canned=canned) as endpoint, client(endpoint.url) as sqs:
        queue = At(sqs, endpoint.create("q.fifo" if groups else "q"))
        messages = await queue.receive() + await queue.receive()
        assert bodies(messages) == ["x" * 100] * 20
        assert len({message["ReceiptHandle"] for message in messages}) == 20
        assert messages[0]["MessageAttributes"]["own"]["StringValue"] == "100%"
        if groups:
            numbers = [message["Attributes"]["SequenceNumber"] for message in messages]
            assert numbers == sorted(set(numbers))
            assert len({message["Attributes"]["MessageGroupId"] for message in messages}) == groups
        entries = [
            {"Id": str(number), "ReceiptHandle": message["ReceiptHandle"]}
            for number, message in enumerate(messages[:10])
        ]
        deleted = await sqs.delete_message_batch(QueueUrl=queue.url, Entries=entries)
        assert len(deleted["Successful"]) == 10
        assert (await queue.attributes())["VisibilityTimeout"] == "30"
