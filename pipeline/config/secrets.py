"""Which key names hold secrets, showing a value without them, and what a reference names.

No configuration key takes a secret in clear. One written there all the same is refused, and neither
the refusal nor anything else prints it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.errors import ConfigurationError, mask_secrets

MASK = "***"
_SHOWN = 80

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_SECRET = re.compile(
    r" (password|passwd|pwd|passphrase|secrets?|token|credentials?|sas|sig|signature"
    r"|connection ?string|(access|account|api|private) ?key|key ?material"
    r"|(encryption|master) ?key(?! id )) "
)
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*|file:/.+")
_KEY = re.compile(r"(?<![\w+/-])[\w+/-]{43}=(?![\w+/=-])", re.ASCII)
"""32 bytes in base64, in either alphabet."""
_USER_INFO = re.compile(r"://[^/@\s]+@")


def looks_secret(key: str) -> bool:
    """Say whether a key's name announces a secret, in any of the usual spellings.

    It judges words, not substrings: `signal` and `design` hold no signature.

    Example:
        >>> looks_secret("SharedAccessKey"), looks_secret("aws_secret_access_key")
        (True, True)
        >>> looks_secret("designer"), looks_secret("max_messages")
        (False, False)
    """
    return _SECRET.search(f" {' '.join(_WORDS.findall(key)).lower()} ") is not None


def hides(key: str, value: str) -> bool:
    """Say whether a value must not be shown: a secret's key with anything but a reference.

    Example:
        >>> hides("secret_access_key", "wJalrXUtn"), hides("secret_access_key", "env:AWS_SECRET")
        (True, False)
    """
    return looks_secret(key) and not _REFERENCE.fullmatch(value)


def resolve(reference: str, path: str) -> str:
    """The secret that a reference names, where it is needed and at no other time (DESIGN law 11).

    Args:
        reference: `env:NAME` or `file:/path`; a file's last line break is not part of the secret.
        path: the key that holds the reference, for the error.

    Raises:
        ConfigurationError: it names nothing; the message names the reference.
    """
    kind, _, name = reference.partition(":")
    if kind == "env":
        found = os.environ.get(name)
        if found:
            return found
        raise ConfigurationError(f"{path}: {reference}: the environment has no {name} here")
    try:
        text = Path(name).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: {reference}: can't be read: {error}") from None
    if not text:
        raise ConfigurationError(f"{path}: {reference}: the file is empty")
    return text


def masked(text: str) -> str:
    """The text without what looks like `key=secret`, and without the user of an address.

    Example:
        >>> masked("amqps://me:pw@host/?sig=abc")
        'amqps://***@host/?sig=***'
    """
    return _USER_INFO.sub(f"://{MASK}@", mask_secrets(text))


def masked_setting(text: str) -> str:
    """The same of a configuration's own text, without encryption keys, wherever they were put.

    Elsewhere as many characters may be the hash that somebody calls a session by.

    Example:
        >>> masked_setting("got '" + 43 * "A" + "='")
        "got '***'"
    """
    return _KEY.sub(MASK, masked(text))


def shown(path: Sequence[object], value: object) -> str:
    """A value of a configuration as an error may show it: masked, on one line, cut.

    Args:
        path: the keys that lead to it; the last one hides the value when it looks like a secret's
            (those before it may be names somebody chose: a queue called `tokens`).
        value: what was given; of a mapping or a list only the kind is told, not what is inside.

    Example:
        >>> shown(("connections", "main", "password"), "hunter2")
        '***'
        >>> shown(("retry", "factor"), True)
        'true'
    """
    if path and hides(str(path[-1]), value if isinstance(value, str) else ""):
        return MASK
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple, set, bytes)):
        return f"a value of type {type(value).__name__}"
    text = masked_setting(repr(value))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
