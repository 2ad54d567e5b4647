"""What the endpoint's tests share: the real client, and short ways to say what it is asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.sqs.signing import Key

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI"
KEYS = {KEY: Key(SECRET)}
_SESSION = aioboto3.Session()
"""Shared for what it has read of the SDK's models, which takes longer than most tests."""


@asynccontextmanager
async def client(url: str, secret: str = SECRET, **options: Any) -> AsyncIterator[Any]:
    """The SDK's client, which retries nothing."""
    config = Config(retries={"total_max_attempts": 1}, read_timeout=30, connect_timeout=30)
    named = {
        "endpoint_url": url,
        "region_name": "us-east-1",
        "aws_access_key_id": KEY,
        "aws_secret_access_key": secret,
        "config": config,
    }
    async with _SESSION.client("sqs", **(named | options)) as made:
        yield made


class At:
    """A client at one queue."""

    def __init__(self, sqs: Any, url: str) -> None:
        self.sqs = sqs
        self.url = url

    async def send(self, body: str = "x", group: str | None = None, **more: Any) -> dict[str, Any]:
        """Send one; in a FIFO queue the body is also the deduplication id."""
        if group is not None:
            more = {"MessageGroupId": group, "MessageDeduplicationId": body} | more
        sent: dict[str, Any] = await self.sqs.send_message(
            QueueUrl=self.url, MessageBody=body, **more
        )
        return sent

    async def receive(self, most: int = 10, **more: Any) -> list[dict[str, Any]]:
        """Receive what is there."""
        found = await self.sqs.receive_message(
            QueueUrl=self.url,
            MaxNumberOfMessages=most,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
            **more,
        )
        messages: list[dict[str, Any]] = found.get("Messages", [])
        return messages

    async def delete(self, message: dict[str, Any]) -> None:
        """Delete what was received."""
        await self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])

    async def change(self, message: dict[str, Any], seconds: int) -> None:
        """Change its visibility."""
        await self.sqs.change_message_visibility(
            QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=seconds
        )

    async def attributes(self, *names: str) -> dict[str, str]:
        """The queue's attributes."""
        told = await self.sqs.get_queue_attributes(
            QueueUrl=self.url, AttributeNames=list(names or ("All",))
        )
        attributes: dict[str, str] = told["Attributes"]
        return attributes


def bodies(messages: list[dict[str, Any]]) -> list[str]:
    """What they hold, in order."""
    return [message["Body"] for message in messages]


def code(error: ClientError) -> str:
    """What the service called it."""
    return str(error.response["Error"]["Code"])
