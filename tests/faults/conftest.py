"""One Ray for these tests, apart from the others: they leave it with dead processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def fault_cluster() -> Iterator[None]:
    """A Ray of our own, gone after the session."""
    directory = tempfile.mkdtemp(prefix="qr-", dir="/tmp")
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=4,
            object_store_memory=300_000_000,
            log_to_driver=False,
            _temp_dir=directory,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)
