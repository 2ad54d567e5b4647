"""SQS keeps the contract: SQS itself, where `QR_TEST_AWS` names a region to use.

Credentials are those that AWS's own chain finds. Each test makes a queue with a unique name, and
its dead-letter queue, and deletes both:

    export QR_TEST_AWS=eu-central-1 AWS_PROFILE=test
    .venv/bin/python -m pytest tests/contract/aws/test_real.py
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.contract.aws.bench import SqsContract, declare


class _RealSqs(SqsContract):
    soon = 3.0  # what was sent is there soon, not at once
    lock = 15.0

    @pytest.fixture(autouse=True)
    def _at_the_server(self) -> None:
        if not os.environ.get("QR_TEST_AWS"):
            pytest.skip("QR_TEST_AWS names no region of an account to test with")

    def connection(self) -> dict[str, Any]:
        """The way to SQS."""
        return {
            "provider": "aws_sqs",
            "region": os.environ["QR_TEST_AWS"],
            "client": self.client,
        }


class TestSqsFifo(_RealSqs):
    """A FIFO queue."""

    fifo = True
    declared = declare(fifo=True)


class TestSqsStandard(_RealSqs):
    """A standard queue, with the calls made by the SDK."""

    fifo = False
    client = "sdk"
    declared = declare(fifo=False)
