"""Counterparts of SQS in processes of their own: moto's server, ministack, and our endpoint.

The first two live in an environment apart, because they need another botocore than we do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.ports import free_port, listens

_ROOT = Path(__file__).parents[2]
_SERVERS = _ROOT / ".venv" / "servers" / "bin"
_HOST = "127.0.0.1"
_LOOKS, _PAUSE = 300, 0.1
_PATIENCE = 10.0
_TAIL = 4_000


class ServerError(Exception):
    """A server that isn't there or doesn't start; with what it wrote."""


@contextmanager
def moto() -> Iterator[str]:
    """Moto's server; its URL."""
    port = free_port()
    command = [_executable("moto_server"), "-H", _HOST, "-p", str(port)]
    with _running(command, {}, lambda output: listens(port)):
        yield f"http://{_HOST}:{port}"


@contextmanager
def ministack() -> Iterator[str]:
    """Ministack with SQS alone; its URL.

    Its default is to listen at every address of the machine: the host is always given.
    """
    port = free_port()
    url = f"http://{_HOST}:{port}"
    environment = {"BIND_HOST": _HOST, "GATEWAY_PORT": str(port), "SERVICES": "sqs"}
    with _running(
        [_executable("ministack")], environment, lambda output: _answers(f"{url}/_ministack/health")
    ):
        yield url


@contextmanager
def own(*queues: str, options: Sequence[str] = ()) -> Iterator[str]:
    """Our endpoint in a process of its own; its URL.

    Args:
        queues: made at the start.
        options: of `python -m tests.sqs`, like `--canned 256`.
    """
    port = free_port()
    command = [sys.executable, "-m", "tests.sqs", "--port", str(port), *options]
    for queue in queues:
        command += ["--queue", queue]
    with _running(command, {}, lambda output: b"ready at" in output):
        yield f"http://{_HOST}:{port}"


def _executable(name: str) -> str:
    path = _SERVERS / name
    if not path.exists():
        raise ServerError(f"{path} is missing: `make` installs it")
    return str(path)


@contextmanager
def _running(
    command: Sequence[str], environment: Mapping[str, str], ready: Callable[[bytes], bool]
) -> Iterator[None]:
    """A process that is ready, ended afterwards."""
    # A file and not a pipe: nobody reads while tests run, and a full pipe would stop the server.
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(process, output, ready)
            yield
        finally:
            _end(process)


def _wait(
    process: subprocess.Popen[bytes], output: IO[bytes], ready: Callable[[bytes], bool]
) -> None:
    for _ in range(_LOOKS):
        ended = process.poll() is not None
        if not ended and ready(_written(output)):
            return
        if ended:
            break
        time.sleep(_PAUSE)
    state = "ended" if process.poll() is not None else f"was not ready in {_LOOKS * _PAUSE:g} s"
    text = _written(output)[-_TAIL:].decode(errors="replace")
    raise ServerError(f"{process.args!r} {state}; it wrote:\n{text}")


def _written(output: IO[bytes]) -> bytes:
    """What a process wrote, read without moving its place: it writes at the same one."""
    return os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1.0) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
