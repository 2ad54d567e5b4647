"""Who may call: SigV4 signatures checked against known keys."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from tests.sqs.clock import Clock, calendar
from tests.sqs.errors import SqsError
from tests.sqs.wire import Request

_SKEW = 300.0
"""Seconds that a signature's time may be off."""
_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<scope>[^,]+), ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Key:
    """What belongs to an access key.

    Args:
        secret: that signatures are made with.
        token: of a session, for temporary credentials.
        expires: seconds since 1970; None: never.
    """

    secret: str
    token: str | None = None
    expires: float | None = None


class Signatures:
    """Checks each request's signature.

    Args:
        keys: by access key id; may be changed at any time, as a rotation does.
        clock: the calendar.
    """

    def __init__(self, keys: Mapping[str, Key], clock: Clock = calendar) -> None:
        self.keys = dict(keys)
        self._clock = clock

    def check(self, request: Request) -> None:
        """Refuse what isn't signed by somebody known, now."""
        headers = request.headers()
        found = _AUTHORIZATION.fullmatch(headers.get("authorization", ""))
        if not found:
            raise SqsError(
                "MissingAuthenticationToken",
                "Request must contain either a valid (registered) AWS access key ID or X.509"
                " certificate.",
                403,
            )
        key = self.keys.get(found["key"])
        if key is None or headers.get("x-amz-security-token") != key.token:
            raise SqsError(
                "InvalidClientTokenId",
                "The security token included in the request is invalid.",
                403,
            )
        if key.expires is not None and key.expires <= self._clock():
            raise SqsError(
                "ExpiredToken", "The security token included in the request is expired.", 403
            )
        self._check_time(headers.get("x-amz-date", ""))
        expected = _signature(key.secret, found["scope"], found["headers"], headers, request)
        if not hmac.compare_digest(expected, found["signature"]):
            raise SqsError(
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided."
                " Check your AWS Secret Access Key and signing method.",
                403,
            )

    def _check_time(self, text: str) -> None:
        try:
            signed = datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        except ValueError:
            signed = 0.0
        if abs(signed - self._clock()) > _SKEW:
            raise SqsError(
                "SignatureDoesNotMatch", f"Signature expired or not yet current: {text}", 403
            )


def _signature(
    secret: str, scope: str, names: str, headers: Mapping[str, str], request: Request
) -> str:
    method, target, _ = request.head.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    path, _, query = target.partition("?")
    signed = [f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in names.split(";")]
    body = hashlib.sha256(request.body).hexdigest()
    canonical = "\n".join((method, quote(path, "/~"), query, "".join(signed), names, body))
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = f"AWS4-HMAC-SHA256\n{headers.get('x-amz-date', '')}\n{scope}\n{digest}"
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()
