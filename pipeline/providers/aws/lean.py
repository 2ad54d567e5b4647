"""The four hot calls over aiohttp, signed by botocore: a third of the SDK's CPU.

Credentials, region and endpoint are the SDK's; credentials are asked for at each call, so that
those that expire are refreshed as there. Both ways it is JSON, and an error is told by its code, as
the SDK does; nothing is retried. The body that was signed is the body that is sent.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Mapping
from typing import Any

import aiohttp
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.utils import get_environ_proxies

from pipeline.errors import AuthenticationFailed, ProviderError
from pipeline.providers.aws.calls import RECEIVE, Answer, about
from pipeline.providers.aws.errors import PROVIDER, from_exception
from pipeline.providers.aws.pools import Pool
from pipeline.providers.aws.sdk import KEPT, Sdk

_LARGE = 2**20
_TYPE = "application/x-amz-json-1.0"


class Lean:
    """Makes the four calls (see `Calls`).

    Args:
        sdk: where credentials, region, endpoint, proxy and trust come from; started.
    """

    def __init__(self, sdk: Sdk) -> None:
        self._sdk = sdk
        self._url = sdk.rest.meta.endpoint_url
        self._proxy = sdk.proxy() or _proxy_of_environment(self._url)
        self._region = sdk.rest.meta.region_name
        self._polls = self._session(sdk.poll_pool)
        self._rest = self._session(sdk.call_pool)

    def _session(self, pool: Pool) -> aiohttp.ClientSession:
        """As many connections as calls may be under way, and some."""
        settings = self._sdk.settings
        connector = aiohttp.TCPConnector(
            limit=settings.calls * 2, ssl=self._sdk.trust(), keepalive_timeout=KEPT
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None, connect=self._sdk.limits.connect),
            cookie_jar=aiohttp.DummyCookieJar(),
            trace_configs=[pool.trace()],
        )

    async def close(self) -> None:
        """Close both pools of connections."""
        await asyncio.gather(self._polls.close(), self._rest.close())

    async def call(
        self, action: str, parameters: Mapping[str, Any], seconds: float = 0.0
    ) -> Answer:
        """One of the four calls."""
        polls = action == RECEIVE
        limit = seconds + self._sdk.limits.receive if polls else self._sdk.limits.send
        session = self._polls if polls else self._rest
        body = json.dumps(parameters, separators=(",", ":"), default=_binary).encode()
        try:
            with self._sdk.poll_pool if polls else self._sdk.call_pool:
                async with asyncio.timeout(limit):
                    headers = await self._signed(action, body)
                    async with session.post(
                        self._url,
                        # A large one in parts, as aiohttp wants it: it would hold up the loop.
                        data=body if len(body) < _LARGE else io.BytesIO(body),
                        headers=headers,
                        proxy=self._proxy,
                        allow_redirects=False,
                    ) as response:
                        content = await response.read()
        except (aiohttp.ClientError, BotoCoreError, ClientError, OSError, RuntimeError) as error:
            raise self._sdk.failed(about(action, parameters), error, limit) from error
        if response.status != 200:
            refused = _refused(action, response.status, response.headers, content)
            raise from_exception(about(action, parameters), refused) from refused
        answer = _parsed(action, content)
        if polls:
            _restore(answer)
        return answer

    async def _signed(self, action: str, body: bytes) -> dict[str, str]:
        """The headers of a request, with the signature of today's credentials."""
        source = await self._sdk.session.get_credentials()
        if source is None:
            raise AuthenticationFailed(
                f"{PROVIDER}: {action}: no credentials were found: give keys or a profile in the "
                "connection, or what AWS's own tools read"
            )
        request = AWSRequest(
            "POST",
            self._url,
            headers={"X-Amz-Target": f"AmazonSQS.{action}", "Content-Type": _TYPE},
            data=body,
        )
        SigV4Auth(await source.get_frozen_credentials(), "sqs", self._region).add_auth(request)
        return dict(request.headers.items())


def _proxy_of_environment(url: str) -> str | None:
    """What the environment says, read once and as the SDK reads it.

    Aiohttp's `trust_env` would read it at each call, in a thread, and `~/.netrc` too: it puts a
    password that is there in the place of the signature.
    """
    proxy: str | None = get_environ_proxies(url).get(url.partition(":")[0])
    return proxy


def _binary(value: object) -> str:
    if isinstance(value, (bytes, bytearray)):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def _parsed(action: str, content: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(content) if content else {}
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ProviderError(
            PROVIDER, "InvalidAnswer", f"{action}: the answer is no JSON object", transient=True
        )
    return answer


def _refused(action: str, status: int, headers: Mapping[str, str], content: bytes) -> ClientError:
    """The error in an answer as the SDK would have raised it.

    Its code is in a header in the older spelling, which the SDK prefers, or else in the body.
    """
    try:
        told = json.loads(content)
    except ValueError:
        told = {}
    if not isinstance(told, dict):
        told = {}
    code = headers.get("x-amzn-query-error", "").partition(";")[0] or told.get("__type")
    answer: Any = {
        "Error": {
            "Code": str(code or status),
            "Message": str(told.get("message") or told.get("Message") or ""),
        },
        "ResponseMetadata": {
            "HTTPStatusCode": status,
            "HTTPHeaders": {name.lower(): value for name, value in headers.items()},
        },
    }
    return ClientError(answer, action)


def _restore(answer: Mapping[str, Any]) -> None:
    """Bytes are base64 in JSON."""
    for message in answer.get("Messages") or ():
        for attribute in (message.get("MessageAttributes") or {}).values():
            if "BinaryValue" in attribute:
                attribute["BinaryValue"] = base64.b64decode(attribute["BinaryValue"])
