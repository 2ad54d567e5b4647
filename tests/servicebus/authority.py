"""Who may do what: shared access signatures, keys given by SASL PLAIN, and tokens of the cloud.

A connection's `Claims` grow with every token it puts. A claim covers the entity it names and what
lies below it, as sub-queues and `$management`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servicebus.entities.errors import Refused

SAS: Final = "servicebus.windows.net:sastoken"
JWT: Final = "jwt"
_SIGNATURE: Final = "SharedAccessSignature"
_UNAUTHORIZED: Final = "amqp:unauthorized-access"
_ANONYMOUS: Final = frozenset(("ANONYMOUS", "EXTERNAL", "MSSBCBS"))


def path_of(address: str) -> str:
    """The entity of an address, with or without scheme and authority, in small letters."""
    try:
        path = urlsplit(address).path if "://" in address else address
    except ValueError:  # no URL, and no entity's name either
        path = address
    return unquote(path).strip("/").lower()


@dataclass(slots=True)
class Claims:
    """What one connection may do."""

    identified: bool = False  # SASL is over
    everything: bool = False  # a key was given by SASL PLAIN
    until: dict[str, float] = field(default_factory=dict)  # path to the end of its token

    def cover(self, path: str, now: float) -> bool:
        """Whether a token for this path, or for one above it, is valid now."""
        if self.everything:
            return True
        return any(
            end > now and (not claimed or path == claimed or path.startswith(claimed + "/"))
            for claimed, end in self.until.items()
        )


class Authority:
    """The keys of a namespace.

    Args:
        keys: name to key, of shared access policies that may do everything.
        jwt: decides on a token of the cloud: whether it is good. Without it, every one that is
            not empty is: nobody here can check a signature of Microsoft's.
    """

    def __init__(self, keys: Mapping[str, str], jwt: Callable[[str], bool] | None = None) -> None:
        self._keys = dict(keys)
        self._jwt = jwt

    def identify(self, claims: Claims, mechanism: str, response: bytes | None) -> bool:
        """SASL: anybody may go on to put a token; a name and a key do without."""
        if mechanism in _ANONYMOUS:
            claims.identified = True
        else:
            _, name, key = ([*(response or b"").split(b"\x00"), b"", b"", b""])[:3]
            known = self._keys.get(name.decode("utf-8", "replace"))
            claims.everything = claims.identified = known is not None and hmac.compare_digest(
                known.encode(), key
            )
        return claims.identified

    def put(
        self, claims: Claims, kind: str, name: str, token: str, now: float, lead: float = 0.0
    ) -> float:
        """Take a token for an entity; returns when it ends.

        Args:
            claims: of the connection.
            kind: the token's type.
            name: what it is for.
            token: the token.
            now: the server's time.
            lead: how far that is ahead of the client's, who signed until a time of its own.

        Raises:
            Refused: it is not good.
        """
        path = path_of(name)
        # The SDK for Python says `jwt` of every token, also of the signatures it makes of a key.
        if kind == SAS or (kind == JWT and token.startswith(_SIGNATURE + " ")):
            end = self._signed(path, token, now, lead)
        elif kind == JWT:
            if not (self._jwt(token) if self._jwt else token):
                raise Refused(_UNAUTHORIZED, "InvalidToken: the token is not accepted")
            end = now + 3_600
        else:
            raise Refused(_UNAUTHORIZED, f"UnsupportedTokenType: {kind!r}, known: {SAS}, {JWT}")
        claims.until[path] = end
        return end

    def _signed(self, path: str, token: str, now: float, lead: float) -> float:
        scheme, _, rest = token.partition(" ")
        fields = {key: values[0] for key, values in parse_qs(rest).items()}
        if scheme != _SIGNATURE or not {"sr", "sig", "se", "skn"} <= fields.keys():
            raise Refused(_UNAUTHORIZED, "MalformedToken: a signature has sr, sig, se and skn")
        key = self._keys.get(fields["skn"])
        if key is None:
            raise Refused(_UNAUTHORIZED, f"InvalidSignature: no key is named {fields['skn']!r}")
        # What was signed is the resource as it stands in the token, still quoted.
        quoted = next((part[3:] for part in rest.split("&") if part.startswith("sr=")), "")
        signed = f"{quoted}\n{fields['se']}".encode()
        wanted = base64.b64encode(hmac.new(key.encode(), signed, hashlib.sha256).digest())
        if not hmac.compare_digest(wanted, fields["sig"].encode()):
            raise Refused(_UNAUTHORIZED, "InvalidSignature: the token has an invalid signature")
        if not fields["se"].isdecimal() or float(fields["se"]) + lead <= now:
            raise Refused(_UNAUTHORIZED, "ExpiredToken: the token has expired")
        resource = path_of(fields["sr"])
        if resource and path != resource and not path.startswith(resource + "/"):
            raise Refused(_UNAUTHORIZED, f"InvalidAudience: it is for {resource!r}, not {path!r}")
        return float(fields["se"]) + lead


def said(value: Any) -> str:
    """A field of a request as text; "" for what is none."""
    return value if isinstance(value, str) else ""
