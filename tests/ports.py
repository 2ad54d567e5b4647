"""Ports of this machine."""

from __future__ import annotations

import random
import socket

_FIRST, _LAST = 20_000, 32_000
"""Above the ports that Ray gives its workers, and below those the system gives to connections: one
of those may be taken between the choice and the start of the server."""


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    while listens(port := random.randint(_FIRST, _LAST)):
        pass
    return port


def listens(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
