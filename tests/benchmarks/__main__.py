"""`make bench`: one JSON line a benchmark; ratios matter, not the figures of one machine."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile

import ray

from tests.benchmarks import engine


def main() -> None:
    """Run every benchmark on one Ray."""
    with tempfile.TemporaryDirectory(prefix="qr-", dir="/tmp") as directory:
        ray.init(
            address="local",
            include_dashboard=False,
            num_cpus=4,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=directory,
        )
        try:
            sys.stdout.write(json.dumps(asyncio.run(engine.measure())) + "\n")
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
