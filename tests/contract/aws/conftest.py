"""Servers that the contract is tried on: one of each kind for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sqs.servers import ministack, moto


@pytest.fixture(scope="session")
def moto_server() -> Iterator[str]:
    """moto."""
    with moto() as address:
        yield address


@pytest.fixture(scope="session")
def ministack_server() -> Iterator[str]:
    """ministack."""
    with ministack() as address:
        yield address
