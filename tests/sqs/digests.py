"""The MD5 sums by which clients check that bodies and attributes arrived whole."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

_TEXT, _BINARY = b"\x01", b"\x02"


def of_body(body: str) -> str:
    """Of a body as UTF-8."""
    return hashlib.md5(body.encode()).hexdigest()


def of_attributes(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """Of message attributes: by name, each part behind its length, the values behind their kind."""
    digest = hashlib.md5()
    for name in sorted(attributes):
        attribute = attributes[name]
        kind = attribute["DataType"]
        digest.update(_measured(name.encode()) + _measured(kind.encode()))
        if kind.startswith("Binary"):
            digest.update(_BINARY + _measured(base64.b64decode(attribute["BinaryValue"])))
        else:
            digest.update(_TEXT + _measured(attribute["StringValue"].encode()))
    return digest.hexdigest()


def _measured(part: bytes) -> bytes:
    return len(part).to_bytes(4, "big") + part
