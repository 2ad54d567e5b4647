"""TLS to SQS: checked unless the configuration says otherwise, against a private authority too."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from pipeline import errors
from pipeline.message import Message
from pipeline.providers.port import Sent
from tests.contract.aws.own import STANDARD, bodies, both_clients, own, want
from tests.servicebus import certificates
from tests.sqs.endpoint import Endpoint


@both_clients
@pytest.mark.spec("P9")
async def test_a_private_authority(
    client: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It works with its bundle, or unchecked with a warning, and else with nobody."""
    made = certificates.make(tmp_path)
    endpoint = Endpoint(tls=made.context())
    trusted = {"ca_bundle": str(made.ca)}
    async with own(client, STANDARD, sqs=endpoint, keys=trusted) as at:
        [sent] = await at.send(Message(b"x"))
        assert isinstance(sent, Sent)
        assert bodies(await (await at.receiver()).receive(want(wait=1.0))) == ["x"]
        before = at.sqs.calls.total()
        with pytest.raises(errors.ConnectionFailed) as caught:
            await at.another(ca_bundle=None)
        assert "CERTIFICATE_VERIFY_FAILED" in repr(caught.value.causes)
        assert at.sqs.calls.total() == before
        assert "verify" not in caplog.text
        with caplog.at_level(logging.WARNING):
            unchecked = await at.another(ca_bundle=None, verify=False)
        assert "connections.main.verify is false" in caplog.text
        sender = await unchecked.sender(at.queue)
        assert isinstance((await sender.send([Message(b"y")]))[0], Sent)
        lane = await unchecked.receiver(at.queue)
        assert bodies(await lane.receive(want(wait=1.0))) == ["y"]


@both_clients
@pytest.mark.spec("P9", "P10")
async def test_the_hot_calls_check_the_certificate_too(client: str, tmp_path: Path) -> None:
    """A server that shows another certificate later is refused by each of them."""
    first = certificates.make(_at(tmp_path, "first"))
    second = certificates.make(_at(tmp_path, "second"))
    endpoint = Endpoint(tls=first.context())
    async with own(client, STANDARD, sqs=endpoint, keys={"ca_bundle": str(first.ca)}) as at:
        sender, lane = await at.provider.sender(at.queue), await at.receiver()
        await endpoint.down()
        endpoint._tls = second.context()
        await endpoint.up()
        [sent] = await sender.send([Message(b"x")])
        assert isinstance(sent, errors.ConnectionFailed)
        assert "CERTIFICATE_VERIFY_FAILED" in repr(sent.causes)
        with pytest.raises(errors.ConnectionFailed):
            await lane.receive(want())


def _at(directory: Path, name: str) -> Path:
    (directory / name).mkdir()
    return directory / name


@pytest.mark.spec("P9")
async def test_a_bundle_that_cannot_be_read(tmp_path: Path) -> None:
    """Is told of at start, by the key's path."""
    async with own("lean", STANDARD) as at:
        with pytest.raises(errors.ConfigurationError, match=r"connections\.main\.ca_bundle"):
            await at.another(ca_bundle=str(tmp_path / "none.pem"))


@both_clients
@pytest.mark.spec("P8", "P9")
async def test_what_awss_own_tools_trust_is_trusted(
    client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`AWS_CA_BUNDLE` holds for every call where the connection names no bundle."""
    made = certificates.make(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(made.ca))
    async with own(client, STANDARD, sqs=Endpoint(tls=made.context())) as at:
        [sent] = await at.send(Message(b"x"))
        assert isinstance(sent, Sent)
        assert bodies(await (await at.receiver()).receive(want(wait=1.0))) == ["x"]
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none.pem"))
        with pytest.raises(errors.ConfigurationError, match=r"none\.pem, which AWS_CA_BUNDLE or"):
            await at.another()
