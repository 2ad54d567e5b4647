"""Signatures, checked as the service does: a wrong secret is found out over the socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.sqs.clock import MovableClock, calendar
from tests.sqs.endpoint import Endpoint
from tests.sqs.rig import KEY, KEYS, SECRET, At, client, code
from tests.sqs.signing import Key, Signatures


@pytest.fixture
async def guarded() -> AsyncIterator[Endpoint]:
    async with Endpoint(signatures=Signatures(KEYS)) as endpoint:
        endpoint.create("q")
        yield endpoint


async def ask(endpoint: Endpoint, **options: Any) -> int:
    """One call; the status."""
    async with client(endpoint.url, **options) as sqs:
        result = await sqs.get_queue_url(QueueName="q")
        return int(result["ResponseMetadata"]["HTTPStatusCode"])


async def refused(endpoint: Endpoint, **options: Any) -> str:
    """The code of one call's refusal, which has status 403."""
    with pytest.raises(ClientError) as caught:
        await ask(endpoint, **options)
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return code(caught.value)


async def test_the_right_secret(guarded: Endpoint) -> None:
    """Also for a call with a body beyond ASCII."""
    assert await ask(guarded) == 200
    async with client(guarded.url) as sqs:
        await At(sqs, guarded.service.url("q")).send("größer")


async def test_a_wrong_secret(guarded: Endpoint) -> None:
    assert await refused(guarded, secret="wrong") == "SignatureDoesNotMatch"


async def test_an_unknown_key(guarded: Endpoint) -> None:
    assert await refused(guarded, aws_access_key_id="AKIDOTHER") == "InvalidClientTokenId"


async def test_a_session_token(guarded: Endpoint) -> None:
    """One that is right, one that isn't, one that has expired."""
    assert guarded.signatures is not None
    guarded.signatures.keys[KEY] = Key(SECRET, token="token")
    assert await ask(guarded, aws_session_token="token") == 200
    assert await refused(guarded, aws_session_token="other") == "InvalidClientTokenId"
    guarded.signatures.keys[KEY] = Key(SECRET, token="token", expires=calendar())
    assert await refused(guarded, aws_session_token="token") == "ExpiredToken"


async def test_a_clock_that_is_wrong() -> None:
    """A signature's time is checked against the service's own."""
    late = MovableClock(calendar() + 900)
    async with Endpoint(signatures=Signatures(KEYS, late)) as endpoint:
        endpoint.create("q")
        assert await refused(endpoint) == "SignatureDoesNotMatch"


async def test_an_action_that_is_denied(guarded: Endpoint) -> None:
    guarded.denied.add("GetQueueUrl")
    assert await refused(guarded) == "AccessDenied"
