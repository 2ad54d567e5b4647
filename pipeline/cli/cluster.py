"""The one module of `pipeline` that may import `actors`, and it does so only when it is called."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pipeline.errors import ConfigurationError

if TYPE_CHECKING:
    from actors.attach import Attached
    from actors.runtime import Runtime
    from pipeline.cli.addresses import Address
    from pipeline.config import RuntimeConfig


def runtime(config: RuntimeConfig) -> Runtime:
    """The runtime of a configuration, not started.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    # A cluster of our own listens on this machine alone. Ray reads this when it is imported.
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    try:
        from actors.runtime import Runtime
    except ModuleNotFoundError as error:
        raise _without(error) from error
    return Runtime(config)


def attached(config: RuntimeConfig, address: Address) -> Attached:
    """A run of the configuration that is active somewhere, not joined yet.

    Raises:
        ConfigurationError: Ray is not installed.
    """
    if address.auth is not None:  # before Ray is imported, which may read it
        os.environ["RAY_AUTH_MODE"] = address.auth
    try:
        from actors.attach import Attached
    except ModuleNotFoundError as error:
        raise _without(error) from error
    return Attached(config, address.address)


def _without(error: ModuleNotFoundError) -> Exception:
    if (error.name or "").partition(".")[0] != "ray":
        return error
    return ConfigurationError(
        "this command needs Ray, which is not installed: pip install 'queue-runtime[cluster]'"
    )
