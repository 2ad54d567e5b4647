"""One Ray for these tests, apart from the others: they leave it with dead processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rays import own_ray


@pytest.fixture(scope="session")
def fault_cluster() -> Iterator[None]:
    """A Ray of our own, gone after the session."""
    with own_ray(object_store_memory=300_000_000):
        yield
