"""Secrets Manager: what it and its SDK say went wrong, and who is trusted."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from botocore import exceptions as sdk

from pipeline import errors
from pipeline.clock import SystemClock
from pipeline.config import AwsKeys
from pipeline.crypto.keys.aws import AwsKeyProvider
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.ring import KeyRing
from pipeline.errors import ConfigurationError, QueueError
from tests.contract.crypto.places import Aws, until_current
from tests.keyvault.vault import cut, cut_in_the_answer, silent
from tests.ports import free_port
from tests.servicebus.certificates import Certificates

ONE = KeySet.first("a", 1_700_000_000.0)
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """An address whose every request is answered so."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def says(status: int, code: str = "", message: str = "told", **more: Any) -> Answer:
    async def answer(request: web.Request) -> web.StreamResponse:
        told = {"__type": code, "message": message} if code else more
        return web.json_response(told, status=status, content_type="application/x-amz-json-1.1")

    return answer


def holding(keys: KeySet) -> Answer:
    return says(200, SecretString=keys.text(), Name="x", ARN="arn:x")


def at(endpoint: str, timeout: float = 2.0, **more: Any) -> AwsKeyProvider:
    return AwsKeyProvider(Aws(endpoint, **more).settings, timeout)


async def failure(provider: AwsKeyProvider) -> QueueError:
    """What a reading fails with."""
    with pytest.raises(QueueError) as caught:
        await provider.current_key_id()
    await provider.close()
    return caught.value


@pytest.mark.spec("P10", "P12", "C6")
@pytest.mark.parametrize(
    ("status", "code", "kind", "transient", "told"),
    [
        (400, "AccessDeniedException", errors.PermissionDenied, False, "GetSecretValue, and kms"),
        (400, "x.y#DecryptionFailure", errors.PermissionDenied, False, "kms:Decrypt where a key"),
        (400, "UnrecognizedClientException", errors.AuthenticationFailed, False, "this machine's"),
        (400, "ExpiredTokenException", errors.AuthenticationFailed, False, "look at the keys or"),
        (400, "ThrottlingException", errors.Throttled, True, "told (ThrottlingException): it is"),
        (
            500,
            "InternalServiceError",
            errors.ProviderError,
            True,
            "AWS Secrets Manager: GetSecretValue failed: told",
        ),
        (503, "", errors.ProviderError, True, "GetSecretValue failed"),
        (429, "TooMany", errors.ProviderError, True, "TooMany"),
        (400, "InvalidRequestException", errors.ProviderError, False, "InvalidRequestException"),
    ],
)
async def test_what_the_service_refuses_is_translated(
    status: int, code: str, kind: type[QueueError], transient: bool, told: str
) -> None:
    """With what to do; the SDK's exception is the cause."""
    async with served(says(status, code)) as url:
        error = await failure(at(url))
    assert type(error) is kind
    assert error.transient is transient
    assert told in str(error)
    assert isinstance(error.__cause__, sdk.ClientError)


@pytest.mark.spec("P8", "P10")
async def test_a_refused_signature_shows_no_token() -> None:
    """The service explains it with the headers that were signed."""
    message = "The canonical request: x-amz-security-token:hunter2 host:x"
    async with served(says(403, "InvalidSignatureException", message)) as url:
        error = await failure(at(url))
    assert "hunter2" not in f"{error} {error.causes} {error.__cause__!r}"
    assert "x-amz-security-token:***" in str(error)


@pytest.mark.spec("P10", "P12", "T3")
@pytest.mark.parametrize(
    ("answer", "kind", "limit"),
    [
        (silent, errors.Timeout, 0.3),
        (cut, errors.ConnectionFailed, 30.0),
        (cut_in_the_answer, errors.ConnectionFailed, 30.0),
    ],
)
async def test_a_call_that_breaks_ends_in_time(
    answer: Answer, kind: type[QueueError], limit: float
) -> None:
    """No reply, cut before one, cut in one: transient, and bounded by the time-out."""
    async with served(answer) as url, asyncio.timeout(20.0):
        error = await failure(at(url, limit))
    assert type(error) is kind
    assert error.transient
    if kind is errors.Timeout:
        assert "gave no answer within 0.3 s" in str(error)


@pytest.mark.spec("P10", "P12")
async def test_nobody_listens() -> None:
    """The address is told, and what to look at."""
    url = f"http://127.0.0.1:{free_port()}"
    error = await failure(at(url))
    assert type(error) is errors.ConnectionFailed
    assert url in str(error)
    assert "look at region, endpoint and proxy of crypto.keys" in str(error)


@pytest.mark.spec("T3", "C6")
async def test_a_ring_lives_through_an_outage() -> None:
    """What is in hand serves; what isn't is `KeyNotFound`; the service's return is noticed."""
    now = [holding(ONE)]

    async def answering(request: web.Request) -> web.StreamResponse:
        return await now[0](request)

    async with served(answering) as url:
        ring = KeyRing(at(url), refresh=0.02, retry_miss=0.01, clock=SystemClock())
        await ring.start()
        for now[0] in (cut, says(500, "InternalServiceError"), says(400, "ThrottlingException")):
            await asyncio.sleep(0.1)
            assert (await ring.current()).id == "a"
            with pytest.raises(errors.KeyNotFound, match="the key provider can't be asked"):
                await ring.get(ONE.current.__class__("b"))
        now[0] = holding(ONE.adding("b", 0.0).making_current("b"))
        await until_current(ring, "b")
        await ring.close()


@pytest.mark.spec("P8", "P10")
@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (sdk.NoCredentialsError(), errors.AuthenticationFailed, "look at the keys or the profile"),
        (
            sdk.MetadataRetrievalError(error_msg="x"),
            errors.ConnectionFailed,
            "look at the keys or the profile",
        ),
        (sdk.ReadTimeoutError(endpoint_url="u"), errors.Timeout, "look at region, endpoint"),
        (sdk.ConnectTimeoutError(endpoint_url="u"), errors.ConnectionFailed, "look at region"),
        (sdk.ParamValidationError(report="r"), errors.ProviderError, "ParamValidationError"),
        (ConnectionResetError(), errors.ConnectionFailed, "ConnectionResetError: look at"),
    ],
)
async def test_what_the_sdk_raises_is_translated(
    moto_server: str, raised: Exception, kind: type[QueueError], told: str
) -> None:
    """By the table; whatever has no place in it keeps its name."""
    provider = at(moto_server)
    await provider.start()

    async def raises(**_: object) -> None:
        raise raised

    provider._client.get_secret_value = raises  # type: ignore[union-attr, method-assign]
    error = await failure(provider)
    assert type(error) is kind
    assert told in str(error)
    assert error.__cause__ is raised


@pytest.mark.spec("P10")
async def test_a_time_out_of_the_sdk_s_own_is_one(moto_server: str) -> None:
    """Though to Python it is an error of the system too."""
    provider = at(moto_server)
    await provider.start()

    async def late(**_: object) -> None:
        raise TimeoutError

    provider._client.get_secret_value = late  # type: ignore[union-attr, method-assign]
    assert type(await failure(provider)) is errors.Timeout


@pytest.mark.spec("P8", "P10")
async def test_credentials_and_region_are_found_or_missed_clearly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A profile, a region, a reference that names nothing."""
    found = {"access_key_id": None, "secret_access_key": None}
    more: dict[str, Any]
    for more, kind, told in (
        (
            {"region": None, "endpoint": None},
            ConfigurationError,
            "set crypto.keys.region, or AWS_DEFAULT_REGION",
        ),
        (found | {"profile": "nobody"}, ConfigurationError, "look at crypto.keys.profile"),
        ({"access_key_id": "env:NOBODY"}, ConfigurationError, "crypto.keys.access_key_id: env:NO"),
        (found, errors.AuthenticationFailed, "Unable to locate credentials"),
    ):
        settings = Aws("http://127.0.0.1:1").settings.model_copy(update=more)
        error = await failure(AwsKeyProvider(settings, 2.0))
        assert type(error) is kind
        assert told in str(error)
    monkeypatch.setenv("KEY_SECRET", "two\nlines")
    error = await failure(at("http://127.0.0.1:1"))
    assert "crypto.keys.secret_access_key: what env:KEY_SECRET names has a line brea" in str(error)
    assert "two" not in str(error)


@pytest.mark.spec("P9", "C6")
async def test_a_secret_without_text_is_told(moto_server: str) -> None:
    """Bytes are none: the document is text."""
    place = Aws(moto_server)
    async with place.client() as client:
        await client.create_secret(Name=place.settings.secret, SecretBinary=b"x")
    provider = AwsKeyProvider(place.settings, 5.0)
    error = await failure(provider)
    assert "holds no text: keep the key set in it as text, not as bytes" in str(error)


@pytest.mark.spec("C6")
async def test_a_secret_that_infrastructure_made_gets_its_first_key_set(moto_server: str) -> None:
    """By its name, and by its ARN, which can't be made where there is none of it."""
    place = Aws(moto_server)
    async with place.client() as client:
        made = await client.create_secret(Name=place.settings.secret)
    for secret, keys in (
        (place.settings.secret, ONE),
        (made["ARN"], ONE.adding("b", 0.0)),
    ):
        settings = place.settings.model_copy(update={"secret": secret})
        provider = AwsKeyProvider(settings, 5.0)
        await provider.create(keys)
        found = await provider.find()
        assert found is not None
        assert found.ids == keys.ids
        await provider.close()
    gone = place.settings.model_copy(update={"secret": made["ARN"].replace("keys/", "none/")})
    provider = AwsKeyProvider(gone, 5.0)
    with pytest.raises(ConfigurationError, match="does not exist"):
        await provider.create(ONE)
    await provider.close()


@pytest.mark.spec("P9")
async def test_the_certificate_is_checked(
    authority: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """Against a private authority, or not at all with a warning; nobody else's is believed."""
    async with served(holding(ONE), authority.context()) as url:
        trusting = at(url, ca_bundle=str(authority.ca))
        assert await trusting.current_key_id() == "a"
        await trusting.close()
        error = await failure(at(url))
        assert type(error) is errors.ConnectionFailed
        assert "CERTIFICATE_VERIFY_FAILED" in f"{error} {error.causes}"
        assert caplog.records == []
        blind = at(url, verify=False)
        assert await blind.current_key_id() == "a"
        await blind.close()
        assert "crypto.keys.verify is false: whoever answers is believed" in caplog.text
        error = await failure(at(url, ca_bundle="/nowhere/ca.pem"))
        assert type(error) is ConfigurationError
        assert "crypto.keys.ca_bundle: /nowhere/ca.pem can't be read" in str(error)


@pytest.mark.spec("P9")
async def test_an_address_without_tls_is_warned_of_unless_it_is_here(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Keys would go there readable."""
    for endpoint, warned in (
        ("http://127.0.0.1:1", 0),
        ("http://localhost:1", 0),
        ("http://[::1]:1", 0),
        ("https://keys.example", 0),
        ("http://keys.example", 1),
    ):
        caplog.clear()
        provider = at(endpoint)
        await provider.start()
        await provider.close()
        assert caplog.text.count("crypto.keys.endpoint begins with http://") == warned


@pytest.mark.spec("P9")
async def test_a_proxy_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its address may be a secret; requests then go there."""
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(f"{request.host} {request.headers.get('Proxy-Authorization', '')[:5]}")
        return await holding(ONE)(request)

    async with served(answer) as url:
        monkeypatch.setenv("PROXY", url.replace("://", "://me:pw%3A@"))
        provider = at("http://keys.example", proxy="env:PROXY")
        assert await provider.current_key_id() == "a"
        await provider.close()
        assert asked == ["keys.example Basic"]
        plain = at("http://keys.example", proxy=url)
        assert await plain.current_key_id() == "a"
        await plain.close()
    for wrong in ("ftp://me:hunter2@host", "http://me:hunter2/@host", "hunter2"):
        monkeypatch.setenv("PROXY", wrong)
        error = await failure(at("http://keys.example", proxy="env:PROXY"))
        assert "crypto.keys.proxy: what env:PROXY names must be an address like" in str(error)
        assert "hunter2" not in str(error)


@pytest.mark.spec("C7", "P8")
async def test_the_sdk_s_own_lines_have_no_secret_and_are_there_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At DEBUG it writes requests and answers in clear; a control shows that it would."""
    caplog.set_level(logging.DEBUG)
    async with served(holding(ONE)) as url:
        provider = at(url)
        await provider.current_key_id()
        await provider.close()
    text = ONE.texts[ONE.current]
    assert "(withheld: there is a secret in it)" in caplog.text
    assert "Making request for OperationModel(name=GetSecretValue)" in caplog.text
    assert text not in caplog.text
    assert json.dumps(text) in ONE.text()


def test_the_place_is_named() -> None:
    assert AwsKeyProvider(AwsKeys(secret="x"), 1.0).where.endswith(
        "secret x of AWS Secrets Manager"
    )
