"""One Ray on this machine for all cluster tests: starting it costs more than most of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator

import pytest
import ray


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray of our own, gone after the session.

    Its directory is made here because Ray puts Unix sockets in it, whose paths may have 107 bytes:
    pytest's own temporary directories are too deep.
    """
    directory = tempfile.mkdtemp(prefix="qr-", dir="/tmp")
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=4,
            object_store_memory=150_000_000,
            log_to_driver=False,
            _temp_dir=directory,
        )
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(directory, ignore_errors=True)
