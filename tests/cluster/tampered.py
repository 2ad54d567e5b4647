"""The flights job on a small file, with one aircraft's messages changed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from tests.unit import test_flights as small


class Job(small.Tampered):
    """What is changed is named in the environment: a configuration's job takes no arguments."""

    def __init__(self) -> None:
        path = Path(tempfile.mkdtemp()) / "flights.csv.zip"
        tamper = getattr(small, os.environ["QR_TEST_TAMPER"])
        super().__init__(small.first_flights(path, small.SMALL), tamper)
