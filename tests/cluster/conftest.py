"""One Ray on this machine for all cluster tests: starting it costs more than most of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.rays import own_ray


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of our own, gone after the session."""
    with own_ray(object_store_memory=150_000_000):
        yield
