"""How a command finds a run that is active on this machine: a small file that the run keeps.

It lies in a directory that only its user can open, under the run's name, and says where the run's
Ray is, which process drives it, and how its cluster knows its members. It holds no secret.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Address:
    """Where a run is.

    Args:
        address: its cluster's, as `ray.init(address=...)` takes it.
        auth: its cluster's `RAY_AUTH_MODE`; None leaves that to the environment.
        pid: the process that drives it; None when it may be on another machine.
    """

    address: str
    auth: str | None = None
    pid: int | None = None


def write(name: str, address: Address) -> None:
    """Announce a run.

    Raises:
        ConfigurationError: somebody else has taken the directory, or made it readable.
        OSError: it can't be written.
    """
    directory = _directory()
    directory.mkdir(mode=0o700, exist_ok=True)
    _check(directory)
    # Renamed into place, so that no reader sees half of it.
    draft = directory / f"{name}.{os.getpid()}"
    draft.write_text(json.dumps(asdict(address)))
    draft.replace(_file(name))


def remove(name: str) -> None:
    """End the announcement, if it is this process's."""
    try:
        if json.loads(_file(name).read_text())["pid"] == os.getpid():
            _file(name).unlink()
    except (OSError, ValueError, KeyError):
        return


def find(name: str, given: str | None) -> Address:
    """Where a run is: as given, else `RAY_ADDRESS`, else what it announced on this machine.

    Raises:
        ConfigurationError: none is known.
    """
    address = given or os.environ.get("RAY_ADDRESS")
    if address:
        return Address(address)
    found = announced(name)
    if found is None:
        raise ConfigurationError(
            f"no run of {name!r} is active on this machine, and a queue in memory lives in one: "
            "start it with: queue-runtime run CONFIG, or say where it runs with --address or "
            "RAY_ADDRESS"
        )
    return found


def alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def announced(name: str) -> Address | None:
    """Where a run on this machine says that it is; None when none does."""
    try:
        _check(_directory())
        found = Address(**json.loads(_file(name).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    # A run that was killed could not take its file away.
    return found if found.pid is not None and alive(found.pid) else None


def _directory() -> Path:
    return Path(tempfile.gettempdir()) / f"queue-runtime-{os.getuid()}"


def _file(name: str) -> Path:
    return _directory() / f"{name}.address"


def _check(directory: Path) -> None:
    found = directory.lstat()
    private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
    if not private or found.st_uid != os.getuid():
        raise ConfigurationError(
            f"{directory} must be a directory that only its user can open (mode 700): it tells "
            "commands which cluster to join; remove it"
        )
