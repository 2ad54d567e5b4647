"""A counterpart of Azure Key Vault's secrets: its REST over HTTPS, with its challenge, and faults.

It knows nothing of `pipeline`. What it says is as in the service's REST reference, version 7.x: a
request without a token is answered 401 with a challenge, a secret's newest version is what a name
alone means, a version that was set stays, and an error is `{"error": {"code", "message"}}`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

from aiohttp import web

TOKEN = "a token of the tests"
_HOST = "127.0.0.1"
# The SDK wants an address below the resource that the challenge names.
_RESOURCE = "https://0.0.1"

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Version:
    """One version of a secret."""

    value: str
    content_type: str | None
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = 1_780_000_000


class Vault:
    """A vault of this process's loop.

    Args:
        tls: the server's certificate; see `tests.servicebus.certificates`.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        self.secrets: dict[str, list[Version]] = {}
        self.faults: deque[Fault] = deque()
        """Each takes the place of one answer to an authorized request."""
        self.calls: Counter[str] = Counter()
        self.resource = _RESOURCE
        self.tokens = {TOKEN}
        self.tenant = "11111111-2222-3333-4444-555555555555"
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"https://{_HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.down()

    async def up(self) -> None:
        """Listen, at the port it had if it had one."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, _HOST, self.port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def down(self) -> None:
        """Listen no more: a connection is refused."""
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = None

    def set(self, name: str, value: str, content_type: str | None = None) -> Version:
        made = Version(value, content_type)
        self.secrets.setdefault(name, []).append(made)
        return made

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization", "")[7:] not in self.tokens:
            self.calls["challenge"] += 1
            return self._challenge()
        self.calls[request.method] += 1
        if self.faults:
            return await self.faults.popleft()(request)
        if "api-version" not in request.query:
            return failure(400, "BadParameter", "api-version is missing")
        parts = request.path.strip("/").split("/")
        if parts[0] != "secrets" or len(parts) not in (2, 3):
            return failure(404, "NotFound", f"there is no {request.path}")
        if request.method == "PUT" and len(parts) == 2:
            given = await request.json()
            made = self.set(parts[1], given["value"], given.get("contentType"))
            return web.json_response(self._shown(parts[1], made))
        return self._found(*parts[1:])

    def _challenge(self) -> web.Response:
        authorization = f"https://login.microsoftonline.com/{self.tenant}"
        resource = f"{self.resource}:{self.port}"
        challenge = f'Bearer authorization="{authorization}", resource="{resource}"'
        return failure(401, "Unauthorized", "AKV10000", {"WWW-Authenticate": challenge})

    def _found(self, name: str, which: str = "") -> web.Response:
        versions = self.secrets.get(name, [])
        if which == "versions":
            listed = [
                {key: value for key, value in self._shown(name, one).items() if key != "value"}
                for one in versions
            ]
            return web.json_response({"value": listed, "nextLink": None})
        found = [one for one in versions if which in ("", one.id)]
        if not found:
            told = f"A secret with (name/id) {name} was not found in this key vault."
            return failure(404, "SecretNotFound", told)
        return web.json_response(self._shown(name, found[-1]))

    def _shown(self, name: str, version: Version) -> dict[str, Any]:
        times = {"created": version.created, "updated": version.created}
        shown: dict[str, Any] = {
            "id": f"{self.url}/secrets/{name}/{version.id}",
            "value": version.value,
            "attributes": {"enabled": True, **times, "recoveryLevel": "Recoverable"},
        }
        return shown | ({"contentType": version.content_type} if version.content_type else {})


def failure(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> web.Response:
    """What the service answers when it refuses."""
    told = {"error": {"code": code, "message": message}}
    return web.json_response(told, status=status, headers=headers)


# --- faults ---------------------------------------------------------------------------------------


def refuses(
    status: int, code: str, message: str = "no", headers: dict[str, str] | None = None
) -> Fault:
    """Answers with an error."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return failure(status, code, message, headers)

    return fault


def answers(text: str, content_type: str = "application/json") -> Fault:
    """Answers 200 with some text."""

    async def fault(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text, content_type=content_type)

    return fault


async def silent(request: web.Request) -> web.StreamResponse:
    """Never answers."""
    await asyncio.sleep(3600)
    raise AssertionError


async def cut(request: web.Request) -> web.StreamResponse:
    """Ends the connection before the answer."""
    _abort(request)
    return web.Response()


async def cut_in_the_answer(request: web.Request) -> web.StreamResponse:
    """Ends the connection in the middle of the answer."""
    response = web.StreamResponse(headers={"Content-Length": "4096"})
    response.content_type = "application/json"
    await response.prepare(request)
    await response.write(b'{"value": "{\\"current\\": \\"')
    _abort(request)
    return response


def _abort(request: web.Request) -> None:
    assert request.transport is not None
    request.transport.abort()


def slow(seconds: float, value: str) -> Fault:
    """Answers right, byte by byte, over so many seconds."""

    async def fault(request: web.Request) -> web.StreamResponse:
        content = web.json_response({"value": value, "id": "https://127.0.0.1/secrets/x/1"}).body
        assert isinstance(content, bytes)
        response = web.StreamResponse(headers={"Content-Length": str(len(content))})
        response.content_type = "application/json"
        await response.prepare(request)
        for at in range(len(content)):
            await response.write(content[at : at + 1])
            await asyncio.sleep(seconds / len(content))
        return response

    return fault
