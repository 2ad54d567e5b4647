"""What actors do to their own process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_FAULTS = """
import resource
import pyarrow as pa
from actors.process import tune

def bodies():
    made = [bytes(1_000) for _ in range(8_000)]

tune()
bodies()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    bodies()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(pa.default_memory_pool().backend_name)
"""


@pytest.mark.spec("T5")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep it")
def test_an_actor_keeps_the_memory_of_batches_that_are_done() -> None:
    """Ten more batches of 8,000 bodies would take 20,000 new pages; columns come from there too."""
    done = subprocess.run(
        [sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True
    )
    faults, pool = done.stdout.split()
    assert int(faults) < 2_000
    assert pool == "system"
