"""`python -m tests.servicebus.with_server QUEUE COMMAND…`: run a command with our server as Azure.

QUEUE is a name and its words, as for `python -m tests.servicebus --queue`.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "AZURE_SERVICEBUS_CONNECTION_STRING"
_ROOT = Path(__file__).parents[2]
_READY = "ready: "
_PATIENCE = 10.0


@contextmanager
def server(*queues: str) -> Iterator[str]:
    """Our server in a process of its own, ended afterwards; its connection string.

    Args:
        queues: names with their words, like `orders,session,lock=30`.
    """
    key = f"RootManageSharedAccessKey={secrets.token_urlsafe(32)}"
    command = [sys.executable, "-m", "tests.servicebus", "--key", key]
    for queue in queues:
        command += ["--queue", queue]
    # A session of its own: Ctrl-C is for the command, which still needs the server to drain.
    process = subprocess.Popen(
        command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line.startswith(_READY):
            sys.exit("the server of tests.servicebus did not start: it says why above")
        yield line.removeprefix(_READY).strip()
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def main() -> int:
    """Run the command; its exit code."""
    queue, *command = sys.argv[1:]
    with server(queue) as connection_string:
        environment = {VARIABLE: connection_string, "RAY_AUTH_MODE": "disabled"}
        return subprocess.run(command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
