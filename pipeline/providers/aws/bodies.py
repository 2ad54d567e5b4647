"""Bodies as SQS takes them: text that is legal in XML. Other bytes travel encoded and marked."""

from __future__ import annotations

import base64
import binascii
import re

BASE64 = "base64"
EMPTY = "empty"
"""SQS takes no empty body: a mark stands for it."""

_NOTHING = "-"
_LEGAL = bytes(code for code in range(0x20, 0x7F)) + b"\t\n\r"
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def encode(body: bytes) -> tuple[str, str]:
    r"""The text to send, and how it is encoded ("" when it is the body itself).

    Example:
        >>> encode(b"plain"), encode(b"\x00"), encode(b"")
        (('plain', ''), ('AA==', 'base64'), ('-', 'empty'))
    """
    if not body:
        return _NOTHING, EMPTY
    if body.isascii():
        if not body.translate(None, _LEGAL):
            return body.decode("ascii"), ""
    else:
        try:
            text = body.decode()
        except UnicodeDecodeError:
            pass
        else:
            if _ILLEGAL.search(text) is None:
                return text, ""
    return base64.b64encode(body).decode("ascii"), BASE64


def decode(text: str, encoding: str) -> bytes:
    r"""The body that was sent; text whose mark does not hold is given as it came.

    Example:
        >>> decode("AA==", "base64"), decode("plain", ""), decode("-", "empty")
        (b'\x00', b'plain', b'')
    """
    if encoding == EMPTY and text == _NOTHING:
        return b""
    if encoding != BASE64:
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
