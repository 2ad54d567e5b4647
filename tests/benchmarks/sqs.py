"""`make bench-sqs`: our receiver at SQS beside a bare loop of the SDK, and the whole pipeline.

The receiver alone (`one_receiver`); our endpoint, in a process of its own, answers with prepared
replies. The bare loop receives ten and deletes ten, with as many calls under way, in the same
process. In turn, three rounds, medians. The pipeline runs on Ray and at ministack, whose speed it
mostly is.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config

from actors.process import tune
from actors.runtime import Runtime
from pipeline import Message
from pipeline.config import RuntimeConfig, parse
from tests.benchmarks.alone import run, show
from tests.benchmarks.one_receiver import receiving, timed
from tests.benchmarks.ours import ROOT
from tests.sqs.servers import ministack, own

QUEUE = "bench"
CALLS = 16
"""Receives at once, and so many deletes: what a connection has unless told otherwise."""
SIZE = 256
OURS = 'queue-runtime={"id":"0190a0b1-0000-7000-8000-000000000000","type":"application/json"}'
ROUNDS = 3
COUNT, PORTION = 4_000, 200
_KEYS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_DEFAULT_REGION": "us-east-1",
}


async def looped(
    work: list[Coroutine[Any, Any, None]], done: Callable[[], int]
) -> tuple[float, float]:
    """What `timed` finds while these loops run, which end with it."""
    loops = [asyncio.ensure_future(each) for each in work]
    try:
        return await timed(done)
    finally:
        for each in loops:
            each.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def config(endpoint: str, client: str = "lean", **queue: Any) -> RuntimeConfig:
    """A pipeline at one queue."""
    return parse(
        {
            "name": "bench-sqs",
            "connections": {
                "main": {"provider": "aws_sqs", "endpoint": endpoint, "client": client}
            },
            "queues": {"events": {"connection": "main", "name": QUEUE} | queue},
            "pipelines": {
                "events": {"queue": "events", "handler": "tests.benchmarks.ours:on_message"}
            },
            "state": {"store": "memory"},
        }
    )


async def ours(endpoint: str, client: str) -> tuple[float, float]:
    """Our receiver."""
    async with receiving(config(endpoint, client)) as core:
        return await timed(lambda: core.counts["completed"])


async def bare(endpoint: str) -> tuple[float, float]:
    """What the SDK does by itself: as many loops as we have calls under way at most."""
    done = 0

    async def loop(sqs: Any, url: str) -> None:
        nonlocal done
        while True:
            found = await sqs.receive_message(
                QueueUrl=url,
                MaxNumberOfMessages=10,
                MessageAttributeNames=["All"],
                MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
            )
            entries = [
                {"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]}
                for at, message in enumerate(found["Messages"])
            ]
            deleted = await sqs.delete_message_batch(QueueUrl=url, Entries=entries)
            done += len(deleted["Successful"])

    options = Config(max_pool_connections=2 * CALLS)
    async with aioboto3.Session().client("sqs", endpoint_url=endpoint, config=options) as sqs:
        url = (await sqs.get_queue_url(QueueName=QUEUE))["QueueUrl"]
        return await looped([loop(sqs, url) for _ in range(2 * CALLS)], lambda: done)


async def plain(endpoint: str) -> tuple[float, float]:
    """What the endpoint gives: the same two calls over bare HTTP, neither signed nor read."""
    done = 0

    async def loop(http: aiohttp.ClientSession) -> None:
        nonlocal done
        while True:
            for action in ("ReceiveMessage", "DeleteMessageBatch"):
                target = {"X-Amz-Target": f"AmazonSQS.{action}"}
                async with http.post(endpoint, data=b"{}", headers=target) as answer:
                    await answer.read()
            done += 10

    async with aiohttp.ClientSession() as http:
        return await looped([loop(http) for _ in range(CALLS)], lambda: done)


async def receiver() -> AsyncIterator[dict[str, Any]]:
    """Both clients beside the bare loop; first, that the endpoint is not what limits them."""
    found: dict[str, list[tuple[float, float]]] = {"bare": [], "lean": [], "sdk": []}
    with own(QUEUE, options=["--canned", str(SIZE), "--attribute", OURS]) as endpoint:
        rate, _ = await plain(endpoint)
        yield {"bench": "sqs_endpoint", "messages_per_second": round(rate)}
        for _ in range(ROUNDS):
            found["bare"].append(await bare(endpoint))
            for client in ("lean", "sdk"):
                found[client].append(await ours(endpoint, client))
    bare_rate, bare_cpu = map(statistics.median, zip(*found["bare"], strict=True))
    for client in ("lean", "sdk"):
        rate, cpu = map(statistics.median, zip(*found[client], strict=True))
        pairs = zip(found[client], found["bare"], strict=True)
        yield {
            "bench": "sqs_receiver",
            "client": client,
            "ratio_bare": round(statistics.median(one[0] / other[0] for one, other in pairs), 2),
            "messages_per_second": round(rate),
            "bare_per_second": round(bare_rate),
            "cpu_us_per_message": round(cpu, 1),
            "bare_cpu_us_per_message": round(bare_cpu, 1),
        }


async def pipeline() -> AsyncIterator[dict[str, Any]]:
    """The whole runtime, FIFO, fed while it works: ministack is slower the more it holds."""
    body = b"x" * SIZE
    with ministack() as endpoint:
        settings = config(endpoint, name=f"{QUEUE}.fifo", fifo=True, create=True, poll=1.0)
        async with Runtime(settings, path=[str(ROOT)]) as runtime:
            began = time.perf_counter()
            for start in range(0, COUNT, PORTION):
                messages = [Message(body, session=f"s{at}") for at in range(start, start + PORTION)]
                for sent in await runtime.client.send_many("events", messages):
                    if isinstance(sent, Exception):
                        raise sent
            while (await runtime.totals()).completed < COUNT:
                await runtime.next_look()
            seconds = time.perf_counter() - began
    yield {
        "bench": "sqs_pipeline",
        "messages": COUNT,
        "messages_per_second": round(COUNT / seconds),
    }


if __name__ == "__main__":
    os.environ.update(_KEYS)
    tune()  # as in an actor's process
    asyncio.run(show(receiver()))
    run(pipeline())
