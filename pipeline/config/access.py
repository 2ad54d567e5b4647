"""What a key of a connection names, where it is used: a secret that fits on a line, a proxy."""

from __future__ import annotations

from pipeline.config.aws import address_of
from pipeline.config.secrets import resolve
from pipeline.errors import ConfigurationError


def secret_of(reference: str | None, path: str) -> str | None:
    """The secret that a reference names, without a control character; None for no reference.

    Args:
        reference: `env:NAME` or `file:/path`.
        path: the key that holds it, for the error.

    Raises:
        ConfigurationError: it names nothing, or something of several lines.
    """
    if reference is None:
        return None
    found = resolve(reference, path)
    if not found.isprintable():
        raise ConfigurationError(
            f"{path}: what {reference} names has a line break or another control character in it"
        )
    return found


def proxy_of(given: str | None, path: str) -> str | None:
    """The address of a proxy, its reference resolved; None for none.

    Args:
        given: the address, or a reference to one with a password.
        path: the key that holds it, for the error.

    Raises:
        ConfigurationError: the reference names nothing, or no address.
    """
    if given is None or not given.startswith(("env:", "file:")):
        return given
    found = secret_of(given, path) or ""
    parts = address_of(found)
    if parts is None or parts.scheme not in ("http", "https") or "@" in str(parts.hostname):
        raise ConfigurationError(
            f"{path}: what {given} names must be an address like http://user:password@host:port; "
            "what is no letter or digit in user and password is written as %XX"
        )
    return found
