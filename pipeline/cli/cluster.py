"""The one way from the command line to Ray: everything that imports `actors` stands here.

A run writes the address of its Ray to a small file, so that `send`, `status` and `drain` on the
same machine find it; elsewhere they are told with `--address` or `RAY_ADDRESS`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import RuntimeConfig
from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    import argparse

    from actors.attach import Attached
    from actors.runtime import Runtime


def need_ray() -> None:
    """Make sure that Ray is installed.

    Raises:
        ConfigurationError: it is not; the message says what to install.
    """
    if find_spec("ray") is None:
        raise ConfigurationError(
            "Ray is not installed, and running needs it: pip install 'queue-runtime[cluster]'"
        )


def make_runtime(config: RuntimeConfig) -> Runtime:
    """A runtime of the configuration; not started."""
    need_ray()
    # A cluster of our own listens on this machine alone; read when Ray is imported, so set before.
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    from actors.runtime import Runtime

    return Runtime(config)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Give a command its argument for the cluster's address."""
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="the Ray cluster of the run; by default RAY_ADDRESS, or the run on this machine",
    )


def attach(config: RuntimeConfig, address: str | None) -> Attached:
    """Join the cluster of a run that is active.

    Raises:
        ConfigurationError: none of that name is; the message says how to start one.
    """
    need_ray()
    known = address or os.environ.get("RAY_ADDRESS")
    if known is None:
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        known = _read(config.name)
    if known is None:
        raise not_running(config.name)
    from actors.attach import Attached

    return Attached(config, known)


def not_running(name: str) -> ConfigurationError:
    """The error of a command that needs a run where there is none."""
    return ConfigurationError(
        f"no run of {name!r} is active: a memory queue lives in a running job. Start it with "
        "`queue-runtime run FILE`, or name its cluster with --address"
    )


@contextmanager
def announced(runtime: Any, name: str) -> Iterator[None]:
    """Let the other commands on this machine find a run for as long as it lasts."""
    path = _file(name)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(f"{os.getpid()} {runtime.address}\n")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"queue-runtime-{os.getuid()}" / f"{name}.address"


def _read(name: str) -> str | None:
    try:
        process, address = _file(name).read_text().split()
        os.kill(int(process), 0)
    except (OSError, ValueError):  # none, or one that was left by a run that was killed
        return None
    return address
