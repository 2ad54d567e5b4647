"""A Ray of our own: inside this process, or a head in a process that no driver of ours owns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from tests.ports import free_port, listens

_RAY = Path(sys.executable).parent / "ray"
_LOOKS, _PAUSE = 450, 0.2


@contextmanager
def own_ray(**options: Any) -> Iterator[None]:
    """Ray in this process, gone afterwards.

    Its directory is made here because Ray puts Unix sockets in it, whose paths may have 107 bytes:
    pytest's own temporary directories are too deep.
    """
    with tempfile.TemporaryDirectory(prefix="qr-", dir="/tmp", ignore_cleanup_errors=True) as short:
        try:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=4,
                log_to_driver=False,
                _temp_dir=short,
                **options,
            )
            yield
        finally:
            ray.shutdown()


@contextmanager
def own_head(env: Mapping[str, str], until: int, *options: str) -> Iterator[Path]:
    """A head in a process of its own, ended afterwards; the folder of its sessions.

    Args:
        env: its environment.
        until: the port that it listens at once it is there.
        options: of `ray start`, beside those that keep it apart from any other Ray here.
    """
    with tempfile.TemporaryDirectory(prefix="qr-", dir="/tmp") as short:
        head = subprocess.Popen(
            [
                *(str(_RAY), "start", "--head", "--block", "--node-ip-address=127.0.0.1"),
                *(f"--temp-dir={short}", f"--ray-client-server-port={free_port()}"),
                # Another Ray on this machine has the agents' default ports.
                f"--dashboard-agent-listen-port={free_port()}",
                f"--dashboard-agent-grpc-port={free_port()}",
                f"--metrics-export-port={free_port()}",
                *options,
            ],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait(head, until)
            yield Path(short)
        finally:
            head.terminate()
            try:
                head.wait(60)
            except subprocess.TimeoutExpired:
                head.kill()
                head.wait()


def _wait(head: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(_LOOKS):
        if listens(port):
            return
        assert head.poll() is None, "ray start has ended"
        time.sleep(_PAUSE)
    raise AssertionError(f"nobody listens at {port}")
