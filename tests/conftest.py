"""What every kind of test shares: Ray's settings and how many schedules the property tests try.

It imports nothing of the project, so that coverage sees every import of it.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports Ray. Test clusters live on this machine for one session: no token is
# written to the home directory, and nothing is reported to anyone.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

# A slow machine is no failure, so no deadline. The gate's examples are fixed, so that a change is
# judged by what it changed; `make soak` draws new ones, and prints how to replay a failure.
settings.register_profile("gate", deadline=None, derandomize=True, print_blob=True)
settings.register_profile(
    "soak",
    deadline=None,
    max_examples=5_000,
    stateful_step_count=200,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("soak" if os.environ.get("QR_SOAK") == "1" else "gate")


@pytest.fixture(autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test keeps state in a directory of its own, never in its user's."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
