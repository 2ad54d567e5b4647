"""aioboto3: the session with its credentials, and clients for polls and for all else."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import AioSession
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import get_cert_path

from pipeline.config import AwsConnection
from pipeline.config.access import proxy_of, secret_of
from pipeline.errors import ConfigurationError, QueueError
from pipeline.providers.aws.calls import CHANGE, DELETE, RECEIVE, SEND, Answer, about
from pipeline.providers.aws.errors import from_exception
from pipeline.providers.aws.pools import Pool
from pipeline.providers.configured import Limits

if TYPE_CHECKING:
    from types_aiobotocore_sqs import SQSClient

_log = logging.getLogger("queue_runtime.sqs")
_SPARE = 10.0
"""Seconds that a socket may be silent after our own limit: that one is the rule."""
KEPT = 75.0
"""Seconds that an idle connection is kept: longer than the longest poll."""
_METHODS = {
    RECEIVE: "receive_message",
    SEND: "send_message_batch",
    DELETE: "delete_message_batch",
    CHANGE: "change_message_visibility_batch",
}


class Sdk:
    """A session and its clients, for one process and loop.

    Args:
        name: the connection's name, for errors.
        settings: its keys.
        limits: its time-outs.
    """

    def __init__(self, name: str, settings: AwsConnection, limits: Limits) -> None:
        self._path = f"connections.{name}"
        self.settings = settings
        self.limits = limits
        self.session: Any = None
        self._authorities = ""
        self.poll_pool, self.call_pool = Pool("polls"), Pool("calls")
        self._stack = AsyncExitStack()
        self._clients: dict[str, SQSClient] = {}

    async def start(self) -> None:
        """Make the session and its two clients; nothing is called yet."""
        if not self.settings.verify:
            _log.warning(
                "%s.verify is false: whoever answers is believed to be SQS; trust a private "
                "authority with ca_bundle instead",
                self._path,
            )
        if (self.settings.endpoint or "").startswith("http://") and not self._near():
            _log.warning(
                "%s.endpoint begins with http://: messages and signatures go there readable for "
                "everybody on the way; use https://",
                self._path,
            )
        try:
            self.session = self._make_session()
            for pool, longest in (
                ("polls", 20.0 + self.limits.receive),
                ("rest", self.limits.send),
            ):
                self._clients[pool] = await self._stack.enter_async_context(
                    self._client(longest + _SPARE)
                )
        except (BotoCoreError, ClientError, ValueError, OSError) as error:
            await self.close()
            raise from_exception(f"{self._path}: connect", error) from error

    def _near(self) -> bool:
        """Whether the endpoint is on this machine."""
        host = urlsplit(self.settings.endpoint or "").hostname or ""
        return host == "localhost" or host.startswith("127.") or host == "::1"

    @property
    def rest(self) -> SQSClient:
        """The client for everything that is no poll."""
        return self._clients["rest"]

    @property
    def polls(self) -> SQSClient:
        """The client for receives."""
        return self._clients["polls"]

    async def close(self) -> None:
        """Close both pools of connections."""
        await self._stack.aclose()
        self._clients.clear()

    async def ask(self, method: str, **parameters: Any) -> Answer:
        """Call any method of the SDK, bounded by the send time-out."""
        try:
            with self.call_pool:
                async with asyncio.timeout(self.limits.send):
                    answer: Answer = await getattr(self.rest, method)(**parameters)
        except (BotoCoreError, ClientError, OSError) as error:
            raise self.failed(about(method, parameters), error, self.limits.send) from error
        return answer

    async def call(
        self, action: str, parameters: Mapping[str, Any], seconds: float = 0.0
    ) -> Answer:
        """One of the four calls (see `Calls`)."""
        polls = action == RECEIVE
        limit = seconds + self.limits.receive if polls else self.limits.send
        method = getattr(self.polls if polls else self.rest, _METHODS[action])
        try:
            with self.poll_pool if polls else self.call_pool:
                async with asyncio.timeout(limit):
                    answer: Answer = await method(**parameters)
        except (BotoCoreError, ClientError, OSError) as error:
            raise self.failed(about(action, parameters), error, limit) from error
        return answer

    def failed(self, what: str, error: BaseException, limit: float) -> QueueError:
        """The error for what a call raised, which was given so many seconds."""
        silence = f"{self.rest.meta.endpoint_url} gave no answer within {limit:g} s"
        return from_exception(what, error, silence)

    def proxy(self) -> str | None:
        """The proxy's address, its password resolved."""
        return proxy_of(self.settings.proxy, f"{self._path}.proxy")

    def trust(self) -> ssl.SSLContext | bool:
        """What the certificate is checked against, as the SDK does; False: it is not checked."""
        if not self.settings.verify:
            return False
        try:
            return ssl.create_default_context(cafile=self._authorities)
        except (OSError, ssl.SSLError) as error:
            told = "" if self.settings.ca_bundle else ", which AWS_CA_BUNDLE or the profile names,"
            raise ConfigurationError(
                f"{self._path}.ca_bundle: {self._authorities}{told} can't be read: {error}"
            ) from error

    def _make_session(self) -> Any:
        settings = self.settings
        core = AioSession()
        made = aioboto3.Session(
            botocore_session=core,
            profile_name=settings.profile,
            region_name=settings.region,
            aws_access_key_id=self._secret("access_key_id"),
            aws_secret_access_key=self._secret("secret_access_key"),
            aws_session_token=self._secret("session_token"),
        )
        named = settings.ca_bundle or core.get_config_variable("ca_bundle")
        self._authorities = named or str(get_cert_path(verify=True))
        self.trust()  # an unreadable bundle is told of now
        return made

    def _secret(self, key: str) -> str | None:
        return secret_of(getattr(self.settings, key), f"{self._path}.{key}")

    def _client(self, read_timeout: float) -> Any:
        settings = self.settings
        proxy = self.proxy()
        config = AioConfig(
            # Our own policy decides about a repeat (SPEC R1): one attempt a call.
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=self.limits.connect,
            read_timeout=read_timeout,
            max_pool_connections=settings.calls * 2,
            proxies=None if proxy is None else {"http": proxy, "https": proxy},
            connector_args={"keepalive_timeout": KEPT},
            parameter_validation=False,  # what we send we check ourselves, at a third of the cost
            user_agent_extra="queue-runtime",
        )
        return self.session.client(
            "sqs",
            endpoint_url=settings.endpoint,
            verify=self._authorities if settings.verify else False,
            config=config,
        )
