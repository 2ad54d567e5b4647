"""SQS servers of others, as child processes: moto, and ministack.

They come from an environment of their own, `.venv/servers`, because they need another botocore
than the SDK that is tested against them. What each is wrong about is said where a test is skipped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.rays import free_port

BIN = Path(sys.prefix) / "servers" / "bin"
_PATIENCE = 60.0


@contextmanager
def moto() -> Iterator[str]:
    """moto's server; its address."""
    port = free_port()
    with _running(["moto_server", "-H", "127.0.0.1", "-p", str(port)], port) as address:
        yield address


@contextmanager
def ministack() -> Iterator[str]:
    """ministack with SQS alone; its address."""
    port = free_port()
    # Its own default would be to listen to everybody.
    environment = {"BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "SERVICES": "sqs"}
    with _running(["ministack"], port, **environment) as address:
        yield address


@contextmanager
def _running(command: list[str], port: int, **environment: str) -> Iterator[str]:
    program = BIN / command[0]
    if not program.exists():
        raise RuntimeError(f"{program} is missing: `make servers` installs it")
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [program, *command[1:]],
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(process, address)
            yield address
        except BaseException:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-4_000:])
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    """Until it answers."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with {process.returncode}")
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"{process.args!r} did not answer at {address} within {_PATIENCE} s")
