"""A key's bytes are in the process's memory while it is open, and nowhere when it is not.

Each test starts a process that searches its own memory. What Python and OpenSSL overwrite is all
that is promised: SECURITY.md says what is not.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/mem").exists(), reason="a process's memory is read at /proc, as Linux has"
)


def moments(how: str) -> dict[str, dict[str, int]]:
    """How many copies there were at each moment."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.contract.crypto.memory_child", how],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=Path(__file__).parents[3],
    )
    assert child.returncode == 0, child.stderr
    found: dict[str, dict[str, int]] = json.loads(child.stdout)
    return found


@pytest.mark.spec("C7")
@pytest.mark.parametrize("how", ["closed", "rotated", "dropped"])
def test_nothing_of_a_key_is_left(how: str) -> None:
    """Closed, replaced by another, or let go of: no copy of it, nor of a key derived from it.

    The control is in the same process: while the key is open, the same search finds it, in its one
    buffer and in no other.
    """
    counts = moments(how)
    assert counts["before"] == {"key": 0, "derived": 0}
    assert counts["made"] == {"key": 1, "derived": 0}
    assert counts["used"]["key"] == 1
    assert counts["used"]["derived"] > 0
    assert counts["ended"] == {"key": 0, "derived": 0}


@pytest.mark.spec("C7")
def test_the_search_finds_what_is_left() -> None:
    """The control: derived keys that somebody kept are found after the key was closed."""
    counts = moments("leaked")
    assert counts["ended"]["key"] == 0
    assert counts["ended"]["derived"] >= 10
