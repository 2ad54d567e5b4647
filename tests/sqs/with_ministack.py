"""`python -m tests.sqs.with_ministack COMMAND…`: run a command with ministack in place of AWS."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.sqs.servers import ministack

with ministack() as address:
    environment = {
        "AWS_ENDPOINT_URL_SQS": address,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "us-east-1",
        "RAY_AUTH_MODE": "disabled",
    }
    done = subprocess.run(sys.argv[1:], env=os.environ | environment, check=False)
sys.exit(done.returncode)
