"""What a test does without a tool that not every machine has.

It knows no tool: a test tries for its own, and says here what it lacks.
"""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def needed(what: str) -> NoReturn:
    """Skip the test, or the whole module when called while it is imported, for the reason given.

    With QR_REQUIRE_TOOLS=1, which .ci/run sets after it has installed every tool, fail instead.
    """
    if os.environ.get("QR_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what}, and QR_REQUIRE_TOOLS=1 wants every test run", pytrace=False)
    pytest.skip(what, allow_module_level=True)
