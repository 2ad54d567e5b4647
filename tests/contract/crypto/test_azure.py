"""Key Vault: its challenge, what it and its SDK say went wrong, and who is trusted."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ServiceResponseTimeoutError,
)
from azure.identity import CredentialUnavailableError
from azure.identity.aio import DefaultAzureCredential

from pipeline import errors
from pipeline.clock import SystemClock
from pipeline.config import AzureKeys
from pipeline.crypto.keys.azure import AzureKeyProvider
from pipeline.crypto.keyset import KeySet
from pipeline.crypto.ring import KeyRing
from pipeline.errors import ConfigurationError, QueueError
from pipeline.names import EncryptionKeyId
from tests.contract.crypto.places import Azure, Credential, until_current
from tests.keyvault import vault as faults
from tests.keyvault.vault import Fault, Vault
from tests.servicebus.certificates import Certificates, make

ONE = KeySet.first("a", 1_700_000_000.0)


def at(
    vault: Vault, authority: Certificates, timeout: float = 2.0, **more: Any
) -> AzureKeyProvider:
    place = Azure(vault, authority, **more)
    return AzureKeyProvider(place.settings, timeout, place.credential)


async def failure(provider: AzureKeyProvider) -> QueueError:
    """What a reading fails with."""
    with pytest.raises(QueueError) as caught:
        await provider.current_key_id()
    await provider.close()
    return caught.value


@pytest.mark.spec("P8", "C6")
async def test_a_token_is_asked_for_as_the_vault_says(
    vault: Vault, authority: Certificates
) -> None:
    """One challenge, then the token; the newest version is read, and its kind is told."""
    place = Azure(vault, authority)
    provider = AzureKeyProvider(place.settings, 2.0, place.credential)
    await provider.create(ONE)
    assert vault.secrets["queue-keys"][0].content_type == "application/json"
    await provider.store(ONE.adding("b", 0.0))
    assert len(vault.secrets["queue-keys"]) == 2
    assert sorted(await provider.valid_key_ids()) == ["a", "b"]
    assert vault.calls["challenge"] == 1
    [asked] = place.credential.asked
    assert asked["scopes"] == (f"https://0.0.1:{vault.port}/.default",)
    assert asked["tenant_id"] == vault.tenant
    await provider.close()
    assert place.credential.closed


@pytest.mark.spec("P10", "P12", "C6")
@pytest.mark.parametrize(
    ("fault", "kind", "transient", "told"),
    [
        (
            faults.refuses(403, "Forbidden", "not you"),
            errors.PermissionDenied,
            False,
            "get: not you (Forbidden): the identity needs the right to get secrets",
        ),
        (faults.refuses(429, "Throttled"), errors.Throttled, True, "no (Throttled)"),
        (faults.refuses(500, "Internal"), errors.ProviderError, True, "no (Internal)"),
        (faults.refuses(408, "Slow"), errors.ProviderError, True, "no (Slow)"),
        (faults.refuses(409, "Conflict"), errors.ProviderError, False, "no (Conflict)"),
        (faults.answers("", "text/plain"), errors.ProviderError, True, "the answer can't be read"),
        (faults.answers("{nope"), errors.ProviderError, True, "the answer can't be read"),
        (faults.answers("[]"), errors.ProviderError, True, "the answer can't be read"),
        (faults.answers("{}"), errors.ProviderError, False, "the answer has no value"),
    ],
)
async def test_what_the_service_answers_is_translated(
    vault: Vault,
    authority: Certificates,
    fault: Fault,
    kind: type[QueueError],
    transient: bool,
    told: str,
) -> None:
    """With what to do."""
    vault.faults.append(fault)
    error = await failure(at(vault, authority))
    assert type(error) is kind
    assert error.transient is transient
    assert told in str(error)
    assert "\n" not in str(error)


@pytest.mark.spec("P10")
@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("soon", None), ("inf", None), (None, None), ("-1", 0.0)]
)
async def test_a_throttled_call_says_how_long_to_wait(
    vault: Vault, authority: Certificates, header: str | None, seconds: float | None
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    vault.faults.append(faults.refuses(429, "Throttled", headers=headers))
    error = await failure(at(vault, authority))
    assert error.retry_after == seconds


@pytest.mark.spec("C4")
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
async def test_an_answer_that_can_t_be_read_is_in_no_error(
    vault: Vault, authority: Certificates, kind: str
) -> None:
    """It may be the key set, cut; the SDK's own error has it."""
    vault.faults.append(faults.answers('{"value": "' + ONE.texts[ONE.current], kind))
    error = await failure(at(vault, authority))
    assert error.__cause__ is None
    assert error.__context__ is None
    assert ONE.texts[ONE.current] not in f"{error!r} {error.causes}"


@pytest.mark.spec("P10", "P12", "T3")
@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        ([faults.silent], errors.Timeout),
        ([faults.slow(60, ONE.text())], errors.Timeout),
        ([faults.cut, faults.cut, faults.cut], errors.ConnectionFailed),
        ([faults.cut_in_the_answer], errors.ProviderError),
    ],
)
async def test_a_call_that_breaks_ends_in_time(
    vault: Vault, authority: Certificates, broken: list[Fault], kind: type[QueueError]
) -> None:
    """No reply, a drip, cut before one, cut in one: transient, and bounded by the time-out."""
    loop = asyncio.get_running_loop()
    provider = at(vault, authority, 0.5)
    assert await provider.find() is None
    vault.faults.extend(broken)
    began = loop.time()
    error = await failure(provider)
    assert loop.time() - began < 2.5
    assert type(error) is kind
    assert error.transient
    vault.faults.clear()


@pytest.mark.spec("T3", "P12", "C6")
async def test_a_ring_lives_through_an_outage(vault: Vault, authority: Certificates) -> None:
    """Nobody listens; what is in hand serves; the service's return is noticed."""
    vault.set("queue-keys", ONE.text())
    ring = KeyRing(at(vault, authority), refresh=0.02, retry_miss=0.01, clock=SystemClock())
    await ring.start()
    await vault.down()
    await asyncio.sleep(0.1)
    assert (await ring.current()).id == "a"
    with pytest.raises(errors.KeyNotFound, match="look at vault and proxy of crypto"):
        await ring.get(EncryptionKeyId("b"))
    vault.set("queue-keys", ONE.adding("b", 0.0).making_current("b").text())
    await vault.up()
    await until_current(ring, "b")
    await ring.close()


@pytest.mark.spec("P8", "P10")
async def test_credentials_that_are_refused_or_not_found(
    vault: Vault, authority: Certificates
) -> None:
    """The identity is what to look at."""
    for token, raised, told in (
        ("another", None, "AKV10000 (Unauthorized): look at the identity that Azure's own tools"),
        ("", CredentialUnavailableError(message="nobody"), "nobody: look at the identity"),
        ("", ClientAuthenticationError(message="bad secret=hunter2"), "secret=***: look at the id"),
    ):
        place = Azure(vault, authority)
        place.credential.token, place.credential.failure = token, raised
        error = await failure(AzureKeyProvider(place.settings, 2.0, place.credential))
        assert type(error) is errors.AuthenticationFailed
        assert told in str(error)


@pytest.mark.spec("P8", "P9")
async def test_a_challenge_for_somebody_else_gets_no_token(
    vault: Vault, authority: Certificates
) -> None:
    """Who pretends to be a vault would else be given a token for another one."""
    vault.resource = "https://other.example"
    place = Azure(vault, authority)
    error = await failure(AzureKeyProvider(place.settings, 2.0, place.credential))
    assert type(error) is ConfigurationError
    assert "look at crypto.keys.vault" in str(error)
    assert place.credential.asked == []


@pytest.mark.spec("P10")
@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (ServiceResponseTimeoutError("late"), errors.Timeout),
        (HttpResponseError("odd"), errors.ProviderError),
        (ConnectionResetError(), errors.ConnectionFailed),
        (TimeoutError(), errors.Timeout),
    ],
)
async def test_what_the_sdk_raises_is_translated(
    vault: Vault, authority: Certificates, raised: Exception, kind: type[QueueError]
) -> None:
    """By its kind; whatever has no place keeps its name."""
    provider = at(vault, authority)
    await provider.start()

    async def raises(*_: object) -> None:
        raise raised

    provider._client.get_secret = raises  # type: ignore[union-attr, method-assign]
    error = await failure(provider)
    assert type(error) is kind
    assert error.__cause__ is (None if isinstance(raised, TimeoutError) else raised)


@pytest.mark.spec("P9")
async def test_the_certificate_is_checked(
    vault: Vault, authority: Certificates, tmp_path: Path
) -> None:
    """Another authority's isn't believed, nor the private one's without its bundle."""
    vault.set("queue-keys", ONE.text())
    other = make(tmp_path)
    for bundle in (None, str(other.ca)):
        place = Azure(vault, authority, ca_bundle=bundle)
        error = await failure(AzureKeyProvider(place.settings, 2.0, place.credential))
        assert type(error) is errors.ConnectionFailed
        assert "CERTIFICATE_VERIFY_FAILED" in f"{error} {error.causes}"
    error = await failure(at(vault, authority, ca_bundle="/nowhere/ca.pem"))
    assert "crypto.keys.ca_bundle: /nowhere/ca.pem can't be read" in str(error)
    assert vault.calls.total() == 0


@pytest.mark.spec("P9")
async def test_a_proxy_is_used(vault: Vault, authority: Certificates) -> None:
    """The vault's address goes there, to be connected with; the connection itself is TLS."""
    asked: list[bytes] = []

    async def proxied(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        inner, outer = await asyncio.open_connection("127.0.0.1", vault.port)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(piped(reader, outer), piped(inner, writer))

    async def piped(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while given := await source.read(65_536):
            target.write(given)
        target.close()

    vault.set("queue-keys", ONE.text())
    server = await asyncio.start_server(proxied, "127.0.0.1", 0)
    proxy = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        provider = at(vault, authority, proxy=proxy)
        assert await provider.current_key_id() == "a"
        await provider.close()
        await asyncio.sleep(0.05)
    assert asked[0].startswith(f"CONNECT 127.0.0.1:{vault.port} HTTP/1.1".encode())


@pytest.mark.spec("P8")
async def test_credentials_are_found_as_every_azure_tool_does() -> None:
    """Where none is given; closed with the provider."""
    keys = AzureKeys(vault="https://shop.vault.azure.net", secret="queue-keys")
    provider = AzureKeyProvider(keys, 1.0)
    await provider.start()
    await provider.start()
    assert isinstance(provider._credential, DefaultAzureCredential)
    await provider.close()
    unused = AzureKeyProvider(keys, 1.0, Credential())  # type: ignore[arg-type]
    await unused.close()


@pytest.mark.spec("C7", "P8")
async def test_the_sdk_s_own_lines_have_no_secret(
    vault: Vault, authority: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    """At its most talkative."""
    caplog.set_level(1)
    provider = at(vault, authority)
    await provider.create(ONE)
    await provider.current_key_id()
    await provider.close()
    assert any(record.levelno <= logging.INFO for record in caplog.records)
    assert ONE.texts[ONE.current] not in caplog.text
    assert faults.TOKEN not in caplog.text
