"""What makes a token good: its form, its signature, its time and what it is for."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import quote_plus

import pytest

from tests.servicebus.authority import JWT, SAS, Authority, Claims, path_of
from tests.servicebus.entities.errors import Refused

pytestmark = pytest.mark.spec("T2")

UNAUTHORIZED = "amqp:unauthorized-access"
NOW = 1_700_000_000.0


def signature(
    resource: str = "sb://host/orders",
    name: str = "policy",
    key: str = "secret",
    end: object = int(NOW) + 60,
) -> str:
    """A shared access signature, as Microsoft's documents make it."""
    quoted = quote_plus(resource)
    digest = hmac.new(key.encode(), f"{quoted}\n{end}".encode(), hashlib.sha256).digest()
    signed = quote_plus(base64.b64encode(digest))
    return f"SharedAccessSignature sr={quoted}&sig={signed}&se={end}&skn={name}"


@pytest.fixture
def authority() -> Authority:
    return Authority({"policy": "secret", "other": "another secret"})


def put(
    authority: Authority, token: str, name: str = "amqps://host/orders", kind: str = SAS
) -> str:
    """The refusal's description; "" when the token is taken."""
    claims = Claims()
    try:
        authority.put(claims, kind, name, token, NOW)
    except Refused as refusal:
        return refusal.description if refusal.condition == UNAUTHORIZED else refusal.condition
    assert list(claims.until) == [path_of(name)]
    return ""


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ("sb://host/orders", "sb://host/orders"),
        ("sb://host:5672/Orders/", "amqps://host:5672/orders"),
        ("sb://host/orders", "sb://host/orders/$DeadLetterQueue"),
        ("sb://host/topic", "sb://host/topic/Subscriptions/all"),
        ("sb://host", "sb://host/orders"),
        ("sb://host/", "sb://host/anything/at/all"),
        ("http://host/orders", "orders"),
    ],
)
def test_a_signature_is_good_for_its_resource_and_what_lies_below(
    authority: Authority, resource: str, name: str
) -> None:
    """Scheme, port, case and a slash at the end mean nothing."""
    assert put(authority, signature(resource), name) == ""


@pytest.mark.parametrize(
    "name", ["sb://host/order", "sb://host/orders2", "sb://host/", "sb://host"]
)
def test_a_signature_is_not_good_for_another_resource(authority: Authority, name: str) -> None:
    """Neither for what has a similar name nor for what lies above."""
    assert put(authority, signature(), name).startswith("InvalidAudience")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "SharedAccessSignature",
        "sr=a&sig=b&se=c&skn=d",
        signature().replace("SharedAccessSignature", "Bearer"),
        signature().replace("sr=", "rs="),
        signature().replace("&sig=", "&gis="),
        signature().replace("&se=", "&es="),
        signature().replace("&skn=policy", ""),
    ],
)
def test_a_malformed_token_is_refused(authority: Authority, token: str) -> None:
    """Each field must be there, after the scheme's name."""
    assert put(authority, token).startswith("MalformedToken")


def test_what_is_refused_leaves_no_claim(authority: Authority) -> None:
    """Not even for a moment."""
    claims = Claims()
    with pytest.raises(Refused):
        authority.put(claims, SAS, "sb://host/orders", signature(key="wrong"), NOW)
    assert not claims.cover("orders", NOW)


def test_a_signature_is_checked(authority: Authority) -> None:
    """By the key that it names, over its resource and its end: no part can be changed."""
    good = signature()
    for bad in (
        signature(key="wrong"),
        signature(name="other"),
        signature(name="nobody"),
        good.replace("orders", "ordersx"),
        good.replace(f"se={int(NOW) + 60}", f"se={int(NOW) + 600}"),
    ):
        assert put(authority, bad).startswith("InvalidSignature")
    assert put(authority, signature(key="another secret", name="other")) == ""


@pytest.mark.parametrize("end", [int(NOW), int(NOW) - 1, 0, "", "never", "-5", "1e99", "١٢"])
def test_a_signature_that_has_ended_or_says_no_time_is_refused(
    authority: Authority, end: object
) -> None:
    """Its end is whole seconds since the epoch, in the future."""
    refusal = put(authority, signature(end=end))
    assert refusal.startswith(("ExpiredToken", "MalformedToken", "InvalidSignature"))


def test_tokens_of_the_cloud_are_asked_about() -> None:
    """With a judge, as it says; without one, every token but the empty."""
    strict, lenient = Authority({}, jwt=lambda token: token == "good"), Authority({})
    assert put(strict, "good", kind=JWT) == ""
    assert put(strict, "bad", kind=JWT).startswith("InvalidToken")
    assert put(lenient, "any", kind=JWT) == ""
    assert put(lenient, "", kind=JWT).startswith("InvalidToken")


def test_a_signature_that_is_put_as_a_token_of_the_cloud_is_checked_all_the_same(
    authority: Authority,
) -> None:
    """The SDK for Python says `jwt` of every token, also of the signatures it makes of a key."""
    assert put(authority, signature(), kind=JWT) == ""
    assert put(authority, signature(key="wrong"), kind=JWT).startswith("InvalidSignature")


def test_other_kinds_of_token_are_refused(authority: Authority) -> None:
    """Only the two that the service knows."""
    assert put(authority, signature(), kind="something").startswith("UnsupportedTokenType")


def test_a_claim_ends_and_covers_what_lies_below(authority: Authority) -> None:
    """A later token prolongs it; one for the namespace covers everything."""
    claims = Claims()
    assert authority.put(claims, SAS, "sb://host/orders", signature(), NOW) == NOW + 60
    assert claims.cover("orders", NOW)
    assert claims.cover("orders/$management", NOW + 59)
    assert not claims.cover("orders", NOW + 60)
    assert not claims.cover("ordersx", NOW)
    assert not claims.cover("other", NOW)
    authority.put(claims, SAS, "sb://host/orders", signature(end=int(NOW) + 600), NOW)
    assert claims.cover("orders", NOW + 599)
    everything = signature("sb://host/", end=int(NOW) + 60)
    authority.put(claims, SAS, "sb://host/", everything, NOW)
    assert claims.cover("other", NOW + 59)
    assert not claims.cover("other", NOW + 60)


@pytest.mark.parametrize(
    ("mechanism", "response", "known", "everything"),
    [
        ("ANONYMOUS", b"", True, False),
        ("EXTERNAL", None, True, False),
        ("MSSBCBS", None, True, False),
        ("PLAIN", b"\x00policy\x00secret", True, True),
        ("PLAIN", b"somebody\x00policy\x00secret", True, True),
        ("PLAIN", b"\x00policy\x00wrong", False, False),
        ("PLAIN", b"\x00nobody\x00secret", False, False),
        ("PLAIN", b"\x00policy", False, False),
        ("PLAIN", b"", False, False),
        ("PLAIN", None, False, False),
        ("PLAIN", b"\x00\xff\xfe\x00\xff", False, False),
    ],
)
def test_sasl(
    authority: Authority, mechanism: str, response: bytes | None, known: bool, everything: bool
) -> None:
    """Anybody may go on to put a token; a policy's name and key do without one."""
    claims = Claims()
    assert authority.identify(claims, mechanism, response) is known
    assert (claims.identified, claims.everything) == (known, everything)
    assert claims.cover("orders", NOW) is everything
